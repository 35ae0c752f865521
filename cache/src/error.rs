//! Why a read did not end well, in the few kinds that a caller acts upon.
//!
//! The flight server turns each kind into one gRPC status: [`ReadError::Stale`] asks the client to plan again,
//! [`ReadError::Corrupt`] and [`ReadError::LimitExceeded`] blame the file, [`ReadError::Ufs`] the storage,
//! [`ReadError::Filter`] the request. Errors are cheap to clone because a load that many readers wait for fails for all
//! of them at once.

use std::fmt;
use std::sync::Arc;

use crate::budget::BudgetError;
use crate::ufs::{UfsError, UfsErrorKind};

/// Why a footer or a scan could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// Storage failed; the error names mount, object and operation.
    #[error(transparent)]
    Ufs(Arc<UfsError>),
    /// The file is no longer the generation that was asked for. Planning the read again helps; trying again does not.
    #[error(transparent)]
    Stale(Arc<UfsError>),
    /// The file's bytes are not the Parquet that they claim to be.
    #[error("{path}{}: {reason}", Place(*.row_group))]
    Corrupt {
        /// Namespace path of the file.
        path: String,
        /// The row group that could not be read; none where the footer is at fault.
        row_group: Option<u32>,
        /// What is wrong with it.
        reason: String,
    },
    /// The file asks for more than the limits allow, and was not decoded.
    #[error("{path}{}: {what} is {value}, over the limit of {limit}", Place(*.row_group))]
    LimitExceeded {
        /// Namespace path of the file.
        path: String,
        /// The row group concerned; none where the footer is.
        row_group: Option<u32>,
        /// Which limit, in words, with its unit.
        what: &'static str,
        /// What the file asks for.
        value: u64,
        /// What is allowed.
        limit: u64,
    },
    /// The filter could not be evaluated on rows of this file.
    #[error("{path}: the filter cannot be evaluated: {reason}")]
    Filter {
        /// Namespace path of the file.
        path: String,
        /// What the expression said.
        reason: String,
    },
    /// A column of this file cannot be given as the type that the dataset has it in.
    #[error("{path}: column {column:?} cannot be read as {wanted}: {reason}")]
    Mismatch {
        /// Namespace path of the file.
        path: String,
        /// The column's name.
        column: String,
        /// The dataset's type.
        wanted: String,
        /// Why not.
        reason: String,
    },
    /// There was no memory for it.
    #[error("{path}{}: {source}", Place(*.row_group))]
    Budget {
        /// Namespace path of the file.
        path: String,
        /// The row group concerned.
        row_group: Option<u32>,
        /// How much was wanted, of how much.
        source: BudgetError,
    },
    /// A fault of this program.
    #[error("internal error: {reason}")]
    Internal {
        /// What was found to be impossible.
        reason: String,
    },
}

impl ReadError {
    /// The file's metadata or data is not what it claims to be.
    pub(crate) fn corrupt(path: &str, row_group: Option<u32>, reason: impl Into<String>) -> Self {
        let reason: String = reason.into();
        Self::Corrupt {
            path: path.to_owned(),
            row_group,
            reason: plain(&reason).to_owned(),
        }
    }

    /// Whether it was read for an errand that was stopped.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        matches!(self, Self::Ufs(error) if error.kind() == UfsErrorKind::Stopped)
    }

    /// A fault of this program, told apart from faults of files.
    pub(crate) fn internal(reason: impl Into<String>) -> Self {
        Self::Internal { reason: reason.into() }
    }
}

/// The reason without the names of the libraries that passed it on.
fn plain(mut reason: &str) -> &str {
    const PASSED_ON: [&str; 3] = ["Parquet argument error: ", "Parquet error: ", "EOF: "];
    while let Some(rest) = PASSED_ON.iter().find_map(|prefix| reason.strip_prefix(prefix)) {
        reason = rest;
    }
    reason
}

impl From<UfsError> for ReadError {
    fn from(error: UfsError) -> Self {
        match error.kind() {
            UfsErrorKind::Stale => Self::Stale(Arc::new(error)),
            _ => Self::Ufs(Arc::new(error)),
        }
    }
}

/// Prints ", row group 3" where there is one.
struct Place(Option<u32>);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(row_group) => write!(f, ", row group {row_group}"),
            None => Ok(()),
        }
    }
}
