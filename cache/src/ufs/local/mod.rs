//! `file://`: folders of this machine, below configured roots.
//!
//! A file's generation is made of inode, modification and change time (both in ns) and size: the change time is there
//! because tools set the modification time back (`cp -p`, `rsync -t`). Reads check it before and after (`read`).
//!
//! Symbolic links are followed as long as what they lead to lies below a root; in a listing others are left out with a
//! warning, and opening one is an error. Who can rename folders within a root while they are read is trusted with it.
//!
//! All of it blocks, and so runs on the runtime's blocking threads. A file system may never answer (NFS whose server is gone):
//! then whoever waits is told after [`retry_timeout`](super::UfsLimits::retry_timeout), while the thread stays and counts
//! among the requests of its mount, so that no mount takes all threads.

mod folder;
mod read;
mod walk;

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};

pub(super) use self::folder::LocalFolder;
use super::error::{Operation, UfsError, UfsErrorKind};
use super::{Backend, DirEntry, ObjectInfo, Shared, metrics};
use crate::key::{FileKey, Generation, to_u64};

/// Why something local failed, before it is put into words for a mount.
pub(super) enum LocalFault {
    /// The path leads out of the roots.
    Outside,
    /// The file is another version now.
    Stale { expected: Generation, found: Generation },
    /// The system refused.
    Io(std::io::Error),
}

impl LocalFault {
    /// The file system did not answer.
    fn silent(shared: &Shared) -> Self {
        let waited_s = shared.limits.retry_timeout.as_secs_f32();
        let words = format!("the file system gave no answer within {waited_s} s");
        Self::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, words))
    }
}

impl From<std::io::Error> for LocalFault {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// Every file below a folder.
pub(super) fn list(shared: Arc<Shared>, rel: String) -> BoxStream<'static, Result<ObjectInfo, UfsError>> {
    let Backend::Local(local) = &shared.backend else {
        return stream::empty().boxed();
    };
    let started = Instant::now();
    let batches = walk::walk(Arc::clone(&shared), local.clone(), rel.clone());
    let objects = batches.flat_map(move |batch| {
        let failed = match batch.end {
            None => None,
            Some(end) => {
                let end = end.map_err(|fault| fault_error(&shared, Operation::List, &rel, fault));
                metrics::request(
                    &shared,
                    Operation::List,
                    started,
                    end.as_ref().map(|()| 0).map_err(UfsError::kind),
                );
                end.err()
            }
        };
        stream::iter(batch.files.into_iter().map(Ok).chain(failed.map(Err)))
    });
    objects.boxed()
}

/// The names right below a folder.
pub(super) async fn list_dir(shared: &Arc<Shared>, rel: &str) -> Result<Vec<DirEntry>, UfsError> {
    let folder = rel.to_owned();
    blocking(shared, Operation::List, rel, move |local| {
        walk::list_dir(local, &folder)
    })
    .await
}

/// Looks one file up.
pub(super) async fn head(shared: &Arc<Shared>, rel: &str) -> Result<Option<ObjectInfo>, UfsError> {
    let path = rel.to_owned();
    blocking(shared, Operation::Head, rel, move |local| local.head(&path)).await
}

/// Reads bytes of one generation.
pub(super) async fn read(shared: &Arc<Shared>, rel: &str, key: &FileKey, range: Range<u64>) -> Result<Bytes, UfsError> {
    let (path, expected) = (rel.to_owned(), key.generation.clone());
    let work = move |local: &LocalFolder| read::pinned(&local.opened(&path)?, &expected, range);
    blocking(shared, Operation::Get, rel, work).await
}

/// Runs one request on a blocking thread, counted and limited as any other, for as long as it is waited for.
async fn blocking<T, F>(shared: &Arc<Shared>, operation: Operation, rel: &str, work: F) -> Result<T, UfsError>
where
    T: Measured + Send + 'static,
    F: FnOnce(&LocalFolder) -> Result<T, LocalFault> + Send + 'static,
{
    let mut started = Instant::now();
    let owned = Arc::clone(shared);
    let answer = async {
        let permit = shared.permit().await;
        started = Instant::now();
        let task = tokio::task::spawn_blocking(move || {
            // Held until the thread is free, whoever has given up by then.
            let _permit = permit;
            match &owned.backend {
                Backend::Local(folder) => work(folder),
                Backend::Remote(_) => Err(LocalFault::Io(std::io::Error::other("not a local mount"))),
            }
        });
        task.await
    };
    let outcome = match tokio::time::timeout(shared.limits.retry_timeout, answer).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(join)) => Err(LocalFault::Io(std::io::Error::other(join))),
        Err(_) => Err(LocalFault::silent(shared)),
    };
    let outcome = outcome.map_err(|fault| fault_error(shared, operation, rel, fault));
    let counted = outcome.as_ref().map(Measured::bytes).map_err(UfsError::kind);
    metrics::request(shared, operation, started, counted);
    outcome
}

/// How many bytes of file content an answer holds.
trait Measured {
    fn bytes(&self) -> u64 {
        0
    }
}

impl Measured for Bytes {
    fn bytes(&self) -> u64 {
        to_u64(self.len())
    }
}

impl Measured for Vec<DirEntry> {}

impl Measured for Option<ObjectInfo> {}

fn fault_error(shared: &Shared, operation: Operation, rel: &str, fault: LocalFault) -> UfsError {
    let subject = shared.subject(operation, rel);
    match fault {
        LocalFault::Outside => UfsError::new(UfsErrorKind::OutsideRoots, subject, folder::OUTSIDE),
        LocalFault::Stale { expected, found } => UfsError::stale(subject, &expected, Some(found)),
        LocalFault::Io(error) => {
            let kind = match error.kind() {
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => UfsErrorKind::NotFound,
                std::io::ErrorKind::PermissionDenied => UfsErrorKind::PermissionDenied,
                std::io::ErrorKind::TimedOut => UfsErrorKind::Timeout,
                _ => UfsErrorKind::Other,
            };
            UfsError::new(kind, subject, error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{StoreSpec, Ufs, UfsContext, UfsLimits};
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_system_that_does_not_answer_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let options = [("timeout", "50ms"), ("concurrency", "1")];
        let spec = StoreSpec {
            mount: "/lake".to_owned(),
            scheme: "file".to_owned(),
            authority: String::new(),
            key: folder.path().to_str().unwrap().trim_start_matches('/').to_owned(),
            options: options.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        };
        let context = UfsContext {
            file_roots: vec![folder.path().to_owned()],
            resolve_secret: Arc::new(|_| Err("there are no secrets".to_owned())),
            limits: UfsLimits::default(),
        };
        let shared = Arc::clone(&Ufs::open(spec, &context).unwrap().0);
        let (go, going) = std::sync::mpsc::channel::<()>();
        let stuck = blocking(&shared, Operation::Head, "a", move |_| {
            let _ = going.recv();
            Ok(None::<ObjectInfo>)
        });
        let error = stuck.await.unwrap_err();
        assert_eq!(error.kind(), UfsErrorKind::Timeout);
        assert!(error.to_string().contains("no answer within 0.05 s"), "{error}");
        // Its thread counts until it is free; who comes next is told in the same time.
        let next = || blocking(&shared, Operation::Head, "b", |_| Ok(None::<ObjectInfo>));
        assert_eq!(next().await.unwrap_err().kind(), UfsErrorKind::Timeout);
        drop(go);
        while next().await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
