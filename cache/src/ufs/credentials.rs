//! Credentials that are fetched over the network, in bounded time.
//!
//! Without keys the clients ask the machine's metadata service. Where there is none, each request would wait for its
//! connects and retries, and the requests behind it would queue for the same look-up one by one: minutes, for a user who
//! has only forgotten a key. So a look-up gets few tries and a few seconds, and its failure says what to set.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use object_store::{BackoffConfig, CredentialProvider, RetryConfig};

/// A look-up of credentials takes no longer than this.
const CREDENTIAL_TIMEOUT: Duration = Duration::from_secs(8);

/// Tries of one look-up after the first.
const CREDENTIAL_RETRIES: usize = 1;

/// A provider that gives up in time and says what is missing.
pub(super) struct Bounded<C> {
    inner: Arc<dyn CredentialProvider<Credential = C>>,
    hint: &'static str,
}

impl<C> Bounded<C> {
    /// `hint` is the whole message of a failed look-up.
    pub(super) fn new(inner: Arc<dyn CredentialProvider<Credential = C>>, hint: &'static str) -> Arc<Self> {
        Arc::new(Self { inner, hint })
    }
}

impl<C> fmt::Debug for Bounded<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bounded").finish_non_exhaustive()
    }
}

#[async_trait]
impl<C: Send + Sync> CredentialProvider for Bounded<C> {
    type Credential = C;

    async fn get_credential(&self) -> object_store::Result<Arc<C>> {
        match tokio::time::timeout(CREDENTIAL_TIMEOUT, self.inner.get_credential()).await {
            Ok(Ok(credential)) => Ok(credential),
            Ok(Err(_)) | Err(_) => Err(object_store::Error::Unauthenticated {
                path: String::new(),
                source: self.hint.into(),
            }),
        }
    }
}

/// Retries of the look-up's own requests.
pub(super) fn lookup_retry() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            max_backoff: Duration::from_millis(500),
            ..BackoffConfig::default()
        },
        max_retries: CREDENTIAL_RETRIES,
        retry_timeout: CREDENTIAL_TIMEOUT / 2,
    }
}
