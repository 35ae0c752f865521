//! From a mount's options to an open client, one file a scheme.

mod azure;
mod gcs;
mod http;
mod s3;

use std::sync::Arc;
use std::time::Duration;

use object_store::{BackoffConfig, ClientOptions, HeaderValue, RetryConfig};

use super::error::{Operation, Subject, UfsError, UfsErrorKind};
use super::memory;
use super::options::Options;
use super::remote::Remote;
use super::spec::{StoreSpec, UfsLimits};

/// The longest pause between two tries of one request.
const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// Opens the client for the mount's scheme.
pub(super) fn connect(spec: &StoreSpec, options: &Options<'_>, limits: &UfsLimits) -> Result<Remote, UfsError> {
    match spec.scheme.as_str() {
        "s3" => s3::connect(spec, options, limits),
        "gs" => gcs::connect(spec, options, limits),
        "az" => azure::connect(spec, options, limits),
        "http" | "https" => http::connect(spec, options, limits),
        "memory" => Ok(Remote::unquoted(memory::store(&spec.authority))),
        scheme => {
            let mount = spec.mount.as_str().into();
            let subject = Subject {
                mount,
                object: String::new(),
                operation: Operation::Open,
            };
            Err(UfsError::new(
                UfsErrorKind::InvalidOption,
                subject,
                format!("there is no storage scheme {scheme}://"),
            ))
        }
    }
}

/// What all HTTP clients have in common.
fn client(limits: &UfsLimits, allow_http: bool) -> ClientOptions {
    ClientOptions::new()
        .with_user_agent(HeaderValue::from_static(concat!(
            "jetbridge/",
            env!("CARGO_PKG_VERSION")
        )))
        .with_allow_http(allow_http)
        .with_connect_timeout(limits.connect_timeout)
        .with_timeout(limits.request_timeout)
        .with_pool_max_idle_per_host(limits.concurrency)
}

/// Retries within one request. A try is begun only while it can still end by the deadline; where one may take nearly all
/// the time there is, or more, tries are begun in the first half of it all the same: else a single 503 would be the end.
fn retry(limits: &UfsLimits) -> RetryConfig {
    let unhurried = limits.retry_timeout.saturating_sub(limits.request_timeout);
    RetryConfig {
        backoff: BackoffConfig {
            max_backoff: MAX_BACKOFF,
            ..BackoffConfig::default()
        },
        max_retries: usize::try_from(limits.max_retries).unwrap_or(usize::MAX),
        retry_timeout: unhurried.max(limits.retry_timeout / 2),
    }
}

/// Refuses an `http://` endpoint that nobody allowed: keys and data would go over the wire in clear.
fn check_endpoint(options: &Options<'_>, endpoint: Option<&str>, allow_http: bool) -> Result<(), UfsError> {
    let Some(endpoint) = endpoint else { return Ok(()) };
    let url = url::Url::parse(endpoint).map_err(|e| options.invalid("endpoint", &format!("is not a URL: {e}")))?;
    match url.scheme() {
        "https" => Ok(()),
        "http" if allow_http => Ok(()),
        "http" => Err(options.invalid("endpoint", "is http://, which needs allow_http=true")),
        _ => Err(options.invalid("endpoint", "must begin with https:// or http://")),
    }
}

/// Credentials and `anonymous` exclude each other: which of them is meant cannot be guessed.
fn anonymous(options: &Options<'_>, credentials: &[&str]) -> Result<bool, UfsError> {
    let anonymous = options.flag("anonymous")?.unwrap_or(false);
    if anonymous && options.any(credentials) {
        return Err(options.invalid("anonymous", "is set and so are credentials"));
    }
    Ok(anonymous)
}

/// One client for reads and listings.
fn one(store: impl object_store::ObjectStore) -> Remote {
    let store: Arc<dyn object_store::ObjectStore> = Arc::new(store);
    Remote::http(Arc::clone(&store), store)
}
