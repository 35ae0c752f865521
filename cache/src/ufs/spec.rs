//! What a mount's storage is, as plain data, and what its opening needs from outside.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// One mount's storage: where it is and how to reach it. Nothing is read until it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreSpec {
    /// The namespace path of the mount, for error messages.
    pub mount: String,
    /// `file`, `s3`, `gs`, `az`, `http`, `https` or `memory`.
    pub scheme: String,
    /// The bucket, container, host or (for `memory`) name. Empty for `file`.
    pub authority: String,
    /// The prefix below the authority: raw text, not percent-encoded, no slash at either end. For `file` the absolute
    /// path without its first slash.
    pub key: String,
    /// The mount's options. Secrets are references (`env:NAME`, `file:PATH`), never values.
    pub options: BTreeMap<String, String>,
}

/// Turns a secret's reference into the secret; the error says why it cannot (and never the secret).
pub type ResolveSecret = Arc<dyn Fn(&str) -> Result<String, String> + Send + Sync>;

/// What opening a mount needs besides its [`StoreSpec`].
#[derive(Clone)]
pub struct UfsContext {
    /// The folders below which `file` mounts may lie, and their files too after symbolic links are followed. None
    /// means that no `file` mount can be opened.
    pub file_roots: Vec<PathBuf>,
    /// How secrets are looked up.
    pub resolve_secret: ResolveSecret,
    /// Limits for every mount; the options `concurrency` and `timeout` change a mount's own. Twice a mount's `timeout` is
    /// the least that its requests have with all their retries.
    pub limits: UfsLimits,
}

impl fmt::Debug for UfsContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UfsContext")
            .field("file_roots", &self.file_roots)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Limits on requests to one mount's storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UfsLimits {
    /// Reads and heads at once, per mount. Default 64. A listing makes one request at a time and is not counted.
    pub concurrency: usize,
    /// For one connection to be made. Default 3 s.
    pub connect_timeout: Duration,
    /// For one request with its answer, and for each wait for the next piece of a body. Default 10 s. Where
    /// `retry_timeout` is shorter, that is how long the beginning of an answer is waited for.
    pub request_timeout: Duration,
    /// For a request with all its retries, counted from the last byte that arrived. Default 30 s.
    pub retry_timeout: Duration,
    /// Retries of one request. Default 10.
    pub max_retries: u32,
}

impl Default for UfsLimits {
    fn default() -> Self {
        Self {
            concurrency: 64,
            connect_timeout: Duration::from_secs(3),
            request_timeout: Duration::from_secs(10),
            retry_timeout: Duration::from_secs(30),
            max_retries: 10,
        }
    }
}
