//! Why a batch could not be made.

use jetbridge_client::Error;

/// Why reading an epoch failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The server, or the way to it.
    #[error(transparent)]
    Client(#[from] Error),
    /// The data is not what was planned.
    #[error("{0}")]
    Changed(String),
    /// A column that cannot be a tensor, or what was asked for makes no sense.
    #[error("{0}")]
    Value(String),
    /// A defect of ours.
    #[error("internal error: {0}")]
    Defect(&'static str),
}

impl Failure {
    pub(super) fn defect(what: &'static str) -> Self {
        Self::Defect(what)
    }
}
