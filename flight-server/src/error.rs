//! What can go wrong with a request, and the one place that turns it into a gRPC status.
//!
//! What the client is told and what the log says are two things: the client gets the whole chain of causes in one line,
//! without backtraces and without secrets (no error type of ours holds one); the log gets the kind and the request.

use std::sync::Arc;

use jetbridge_cache::ReadError;
use jetbridge_cache::schema::{MergeError, UnknownColumn};
use jetbridge_cache::ufs::{UfsError, UfsErrorKind};
use jetbridge_catalog::dataset::LayoutError;
use jetbridge_catalog::error::{CatalogError, Kind, Sentence};
use jetbridge_catalog::mount::MountError;
use jetbridge_catalog::path::NsPath;
use tonic::{Code, Status};

use crate::cluster::seals::SealError;
use crate::filter::FilterError;
use crate::request::RequestError;
use crate::sql::SqlError;
use crate::ticket::TicketError;

/// Longest message sent to a client: an HTTP/2 header list must hold it, and drivers give that 8 KiB.
const MAX_STATUS_MESSAGE_BYTES: usize = 4096;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// A name, a mount or the metadata store.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The keys of tickets.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The storage behind a mount.
    #[error(transparent)]
    Ufs(#[from] UfsError),
    /// A file that could not be read as Parquet, or changed while it was read.
    #[error(transparent)]
    Read(Arc<ReadError>),
    /// A malformed request.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A filter that does not parse or does not fit.
    #[error("the filter is wrong")]
    Filter(#[from] FilterError),
    /// A statement that does not parse, does not fit the tables, or meets values that it cannot compute with.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// No dataset has this name.
    #[error("there is no table {name}{hint}")]
    NoSuchTable {
        /// The name, as it was written.
        name: String,
        /// What may have been meant.
        hint: String,
    },
    /// It took longer than it may.
    #[error("{what} took longer than {}, which is all it may take", humantime::format_duration(*limit))]
    Timeout {
        /// What took so long.
        what: String,
        /// How long it may take.
        limit: std::time::Duration,
    },
    /// Whoever asked for it, or somebody on their behalf, ended it.
    #[error("{what} was cancelled")]
    Cancelled {
        /// What was cancelled.
        what: String,
    },
    /// An error that several parts of one request met.
    #[error(transparent)]
    Shared(Arc<ServiceError>),
    /// A column that the dataset does not have.
    #[error(transparent)]
    Column(#[from] UnknownColumn),
    /// A ticket that is not ours, was altered, or is too old.
    #[error(transparent)]
    Ticket(#[from] TicketError),
    /// Files that are not one table.
    #[error("the files under {path} are not one table")]
    Merge {
        /// The dataset.
        path: NsPath,
        /// The file and column.
        source: MergeError,
    },
    /// Folders that are not a partitioned table.
    #[error("the folders under {path} are not one partitioned table")]
    Layout {
        /// The dataset.
        path: NsPath,
        /// The path that is wrong.
        source: LayoutError,
    },
    /// Nothing is there.
    #[error("{path}: no such file, folder or mount")]
    NoSuchPath {
        /// What was asked for.
        path: NsPath,
    },
    /// Something may be there, but no Parquet file.
    #[error(
        "{path}: no Parquet file is there (data files end in .parquet, .parq or .pq; names that begin with '_' or '.' are ignored)"
    )]
    NoDataset {
        /// What was asked for.
        path: NsPath,
    },
    /// A scan names a file that its dataset does not have.
    #[error("{path} has no data file {file:?}; `dataset.units` lists those that it has")]
    NoSuchFile {
        /// The dataset.
        path: NsPath,
        /// The file's path relative to it.
        file: String,
    },
    /// A dataset is of another version than the reader knows.
    #[error("STALE: {path} is of the version {found} now, and {asked} was asked for")]
    OtherSnapshot {
        /// The dataset.
        path: NsPath,
        /// The fingerprint that was asked for.
        asked: String,
        /// The fingerprint that it has.
        found: String,
    },
    /// The namespace changed between plan and read.
    #[error("STALE: other storage is mounted at {path} than when the ticket was issued; ask for a new one")]
    Remounted {
        /// The dataset.
        path: NsPath,
    },
    /// A poll goes on with another plan than it began with.
    #[error("STALE: {path} has other data or other owners than when the poll began; poll for it anew")]
    Replanned {
        /// The dataset.
        path: NsPath,
    },
    /// A tree too large to plan.
    #[error("{path}: more than {limit} files; ask for a smaller folder")]
    TooManyFiles {
        /// What was listed.
        path: NsPath,
        /// The limit.
        limit: usize,
    },
    /// A request that is well formed and makes no sense.
    #[error("{what}")]
    Invalid {
        /// What is wrong and what to do.
        what: String,
    },
    /// Not built.
    #[error("{what} is not implemented")]
    Unimplemented {
        /// The feature.
        what: String,
    },
    /// Too much is asked for at once; the same may succeed soon.
    #[error("{what}; try again")]
    Busy {
        /// What there is too much of.
        what: String,
    },
    /// There is no room for what is asked for, and waiting does not help.
    #[error("{what}")]
    Full {
        /// What does not fit, with figures.
        what: String,
    },
    /// No job has this id.
    #[error("there is no job {id}; `jobs ls` lists those that there are")]
    NoSuchJob {
        /// What was asked for.
        id: String,
    },
    /// What is to be let go of is pinned.
    #[error("{path} is not let go of, since {pin} is pinned; unpin it first")]
    Pinned {
        /// What was to be let go of.
        path: NsPath,
        /// The pin.
        pin: NsPath,
    },
    /// No pin is of this path.
    #[error("{path} is not pinned; `pin --list` lists what is")]
    NoSuchPin {
        /// What was to be unpinned.
        path: NsPath,
    },
    /// A prepared statement is not there any more.
    #[error("the prepared statement was closed; prepare it again")]
    StatementClosed,
    /// A query gives other columns than when its flight was planned.
    #[error("STALE: the query gives other columns than when it was planned; ask for its flight again")]
    AnswerChanged,
    /// What another node said, whose part of a query failed.
    #[error("{message}")]
    Elsewhere {
        /// Its code.
        code: Code,
        /// Its words.
        message: String,
    },
    /// A defect of ours.
    #[error("internal error: {what}")]
    Internal {
        /// Where.
        what: String,
    },
}

impl ServiceError {
    /// NOT_FOUND for `path`.
    #[must_use]
    pub fn no_such_path(path: &NsPath) -> Self {
        Self::NoSuchPath { path: path.clone() }
    }

    /// INVALID_ARGUMENT in words.
    pub fn invalid(what: impl Into<String>) -> Self {
        Self::Invalid { what: what.into() }
    }

    /// Whether the data changed since it was planned, so that what is known of it is to be dropped.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.code() == Code::Aborted
    }

    /// The gRPC code, as the contract lists them.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Catalog(error) => catalog_code(error.kind()),
            Self::Seal(SealError::Meta(error)) => catalog_code(error.kind()),
            Self::Seal(_) => Code::Internal,
            Self::Ufs(error) => ufs_code(error.kind()),
            Self::Read(error) => read_code(error),
            Self::Request(_) | Self::Filter(_) | Self::Column(_) | Self::Sql(_) | Self::Invalid { .. } => {
                Code::InvalidArgument
            }
            Self::Shared(error) => error.code(),
            Self::Elsewhere { code, .. } => *code,
            Self::Timeout { .. } => Code::DeadlineExceeded,
            Self::Cancelled { .. } => Code::Cancelled,
            Self::Ticket(error) => ticket_code(error),
            Self::Merge { .. } | Self::Layout { .. } | Self::Pinned { .. } => Code::FailedPrecondition,
            Self::NoSuchPath { .. }
            | Self::NoDataset { .. }
            | Self::NoSuchTable { .. }
            | Self::NoSuchFile { .. }
            | Self::NoSuchJob { .. }
            | Self::NoSuchPin { .. }
            | Self::StatementClosed => Code::NotFound,
            Self::TooManyFiles { .. } | Self::Full { .. } => Code::ResourceExhausted,
            Self::Remounted { .. } | Self::Replanned { .. } | Self::OtherSnapshot { .. } | Self::AnswerChanged => {
                Code::Aborted
            }
            Self::Unimplemented { .. } => Code::Unimplemented,
            Self::Busy { .. } => Code::Unavailable,
            Self::Internal { .. } => Code::Internal,
        }
    }
}

impl From<ReadError> for ServiceError {
    fn from(error: ReadError) -> Self {
        Self::Read(Arc::new(error))
    }
}

impl From<MountError> for ServiceError {
    fn from(error: MountError) -> Self {
        Self::Catalog(error.into())
    }
}

impl From<ServiceError> for Status {
    fn from(error: ServiceError) -> Self {
        let code = error.code();
        let message = chain(&error);
        if matches!(code, Code::Internal | Code::Unknown | Code::DataLoss) {
            tracing::error!(?code, %message, "request failed");
        } else {
            tracing::debug!(?code, %message, "request refused");
        }
        Self::new(code, message)
    }
}

/// An error and its causes in one line; no Display of ours repeats its source, so nothing is said twice.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    truncated(Sentence::of(error).to_string())
}

fn truncated(mut message: String) -> String {
    if message.len() > MAX_STATUS_MESSAGE_BYTES {
        let end = (0..=MAX_STATUS_MESSAGE_BYTES)
            .rev()
            .find(|&end| message.is_char_boundary(end))
            .unwrap_or(0);
        message.truncate(end);
        message.push_str(" …");
    }
    message
}

fn catalog_code(kind: Kind) -> Code {
    match kind {
        Kind::NotFound => Code::NotFound,
        Kind::AlreadyExists => Code::AlreadyExists,
        Kind::InvalidArgument => Code::InvalidArgument,
        Kind::FailedPrecondition => Code::FailedPrecondition,
        Kind::Unavailable => Code::Unavailable,
        Kind::Internal => Code::Internal,
    }
}

fn ufs_code(kind: UfsErrorKind) -> Code {
    match kind {
        UfsErrorKind::NotFound => Code::NotFound,
        UfsErrorKind::PermissionDenied | UfsErrorKind::Unauthenticated | UfsErrorKind::OutsideRoots => {
            Code::PermissionDenied
        }
        UfsErrorKind::Stale => Code::Aborted,
        UfsErrorKind::Timeout | UfsErrorKind::Unavailable => Code::Unavailable,
        UfsErrorKind::InvalidOption => Code::InvalidArgument,
        UfsErrorKind::Stopped => Code::Cancelled,
        // The storage's state is in the way, not a defect of ours.
        UfsErrorKind::Other => Code::FailedPrecondition,
    }
}

fn read_code(error: &ReadError) -> Code {
    match error {
        ReadError::Ufs(error) => ufs_code(error.kind()),
        ReadError::Stale(_) => Code::Aborted,
        ReadError::Corrupt { .. } => Code::DataLoss,
        ReadError::LimitExceeded { .. } | ReadError::Budget { .. } => Code::ResourceExhausted,
        ReadError::Filter { .. } => Code::InvalidArgument,
        ReadError::Mismatch { .. } => Code::FailedPrecondition,
        ReadError::Internal { .. } => Code::Internal,
    }
}

fn ticket_code(error: &TicketError) -> Code {
    match error {
        TicketError::NotOurs | TicketError::Forged | TicketError::Expired { .. } | TicketError::OtherAudience => {
            Code::Unauthenticated
        }
        TicketError::TooLarge { .. } => Code::ResourceExhausted,
        TicketError::Unreadable { .. } => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let message = truncated("é".repeat(MAX_STATUS_MESSAGE_BYTES));
        assert!(message.len() <= MAX_STATUS_MESSAGE_BYTES + 8);
        assert!(message.ends_with('…'));
    }
}
