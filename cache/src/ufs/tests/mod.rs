//! What a mount promises, shown over stores in memory, local folders, and servers on loopback ports.

mod http;
mod local;
mod options;
mod s3;
mod server;
mod store;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;

use super::*;

/// Names that a store must take as they are.
const NAMES: [&str; 9] = [
    "a b.parquet",
    "a%2Fb",
    "a+b",
    "50%",
    "über/数据.parquet",
    "a#1",
    "k=v/x&y=z",
    "~tilde'quote",
    "a;b,c@d!e$f(g)*",
];

fn spec(scheme: &str, authority: &str, key: &str, options: &[(&str, &str)]) -> StoreSpec {
    StoreSpec {
        mount: "/lake".to_owned(),
        scheme: scheme.to_owned(),
        authority: authority.to_owned(),
        key: key.to_owned(),
        options: options
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect::<BTreeMap<_, _>>(),
    }
}

/// A context whose secrets are `env:NAME` -> `secret of NAME`. What fails is tried again a few times, which takes a
/// second; a server that answers may be as slow as a busy machine is.
fn context() -> UfsContext {
    UfsContext {
        file_roots: Vec::new(),
        resolve_secret: Arc::new(|reference| match reference.strip_prefix("env:") {
            Some(name) => Ok(format!("secret of {name}")),
            None => Err("no such file".to_owned()),
        }),
        limits: UfsLimits {
            connect_timeout: Duration::from_millis(300),
            request_timeout: Duration::from_secs(10),
            retry_timeout: Duration::from_secs(20),
            max_retries: 4,
            ..UfsLimits::default()
        },
    }
}

/// The same, where a server that says nothing is given up within a second.
fn hasty() -> UfsContext {
    let limits = UfsLimits {
        request_timeout: Duration::from_millis(300),
        retry_timeout: Duration::from_secs(1),
        ..context().limits
    };
    UfsContext { limits, ..context() }
}

fn open(spec: StoreSpec) -> Result<Ufs, UfsError> {
    Ufs::open_in(spec, &context(), &|_| None)
}

async fn paths(ufs: &Ufs, rel: &str) -> Vec<String> {
    let mut paths: Vec<_> = ufs.list(rel).map_ok(|info| info.path).try_collect().await.unwrap();
    paths.sort();
    paths
}

async fn names(ufs: &Ufs, rel: &str) -> Vec<(String, bool)> {
    ufs.list_dir(rel)
        .await
        .unwrap()
        .into_iter()
        .map(|entry| (entry.name, entry.info.is_some()))
        .collect()
}

/// Looks an object up, reads it whole, and checks that listing and look-up agree on it.
async fn read_whole(ufs: &Ufs, rel: &str) -> Bytes {
    let info = ufs.head(rel).await.unwrap().unwrap();
    let listed: Vec<_> = ufs.list("").try_collect().await.unwrap();
    assert_eq!(listed.iter().find(|o| o.path == rel), Some(&info), "{rel}");
    ufs.get_range(rel, &ufs.key_of(&info), 0..info.size).await.unwrap()
}

fn kind<T: fmt::Debug>(outcome: Result<T, UfsError>) -> UfsErrorKind {
    outcome.unwrap_err().kind()
}
