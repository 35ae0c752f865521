//! Why a batch could not be made.

use jetbridge_client::Error;

use crate::error;

/// Why reading an epoch failed.
#[derive(Debug, Clone, thiserror::Error)]
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
    /// Nobody is to read any further.
    #[error("the epoch was closed")]
    Closed,
    /// A defect of ours.
    #[error("internal error: {0}")]
    Defect(String),
}

impl Failure {
    pub(super) fn defect(what: impl Into<String>) -> Self {
        Self::Defect(what.into())
    }
}

impl From<Failure> for error::Failure {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Client(error) => error.into(),
            Failure::Changed(words) => Self::new("STALE", words),
            Failure::Value(words) => Self::new("INVALID_ARGUMENT", words),
            Failure::Closed => Self::closed(&failure.to_string()),
            Failure::Defect(_) => Self::new("INTERNAL", failure.to_string()),
        }
    }
}
