//! What can go wrong with a metadata store.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use super::{Expect, LeaseId, MAX_KEY_BYTES, MAX_LEASE_TTL, MAX_VALUE_BYTES};

/// What can go wrong with a metadata store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetaError {
    /// Somebody else changed the key first. Read it again and decide anew.
    #[error("the metadata key {key:?} was changed by another: expected {expected}, found {}", revision(*found))]
    Conflict {
        /// The key.
        key: String,
        /// What was expected of it.
        expected: Expect,
        /// Its revision; `None` when there is no such key.
        found: Option<u64>,
    },
    /// The key is empty, too long, or holds control characters.
    #[error("a metadata key must be 1 to {MAX_KEY_BYTES} bytes without control characters")]
    Key,
    /// The value is longer than [`MAX_VALUE_BYTES`].
    #[error("a metadata value of {bytes} bytes is too long: the limit is {MAX_VALUE_BYTES} bytes")]
    ValueTooLong {
        /// Its length.
        bytes: usize,
    },
    /// Another process, or another handle of this one, holds the file. Use another data folder, or end that
    /// process.
    #[error("the metadata store {} is in use by another process", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file was written by a version of this program that this one does not know.
    #[error("the metadata store {} has format {found}, and this version reads format {known}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The format that is written in it.
        found: u64,
        /// The format that this version reads.
        known: u64,
    },
    /// The file cannot be opened: it is missing its folder, it is not ours, or it is damaged.
    #[error("the metadata store {} cannot be opened", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The settings of a store are not valid.
    #[error("the settings of the metadata store are not valid")]
    Settings {
        /// What is wrong with them.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The lease has ended: it was not kept alive, or it was revoked. Or this store never granted it. Ask for a
    /// new one, and put again what was bound to it.
    #[error("the metadata store has no lease {lease}: it ran out or was revoked")]
    Lease {
        /// The lease.
        lease: LeaseId,
    },
    /// A lease cannot last for this time.
    #[error("a lease of {ttl:?} cannot be had: it must last for some time, and for {MAX_LEASE_TTL:?} at most")]
    LeaseTtl {
        /// The time that was asked for.
        ttl: Duration,
    },
    /// The store is not that of the cluster that the handle is bound to. Nothing was changed, and nothing that it
    /// holds may be believed. Somebody must look at it.
    #[error(
        "the metadata store does not hold the cluster {cluster}, but {}: was it restarted empty, or is it that of another cluster?",
        cluster_found(found.as_deref())
    )]
    Foreign {
        /// The cluster's id.
        cluster: String,
        /// The id that the store holds; `None` when it holds none.
        found: Option<String>,
    },
    /// The store cannot be reached right now, or did not answer in time. A later try may succeed.
    #[error("the metadata store cannot be reached to {operation}")]
    Unavailable {
        /// What was to be done: "get", "list", "put", "delete", "grant a lease" and so on.
        operation: &'static str,
        /// What went wrong.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The store answered that it failed: its disk fails, or it refuses the operation. A later try may succeed.
    #[error("the metadata store failed to {operation}")]
    Store {
        /// What was to be done, as in [`Self::Unavailable`].
        operation: &'static str,
        /// What went wrong.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

impl MetaError {
    /// An operation that took longer than it may. For implementations of [`MetaStore`](super::MetaStore).
    #[must_use]
    pub fn slow(operation: &'static str, limit: Duration) -> Self {
        Self::Unavailable {
            operation,
            source: Slow { limit }.into(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("it took longer than {limit:?}; a change may yet be carried out")]
struct Slow {
    limit: Duration,
}

fn revision(found: Option<u64>) -> String {
    found.map_or_else(|| "no such key".to_owned(), |revision| format!("revision {revision}"))
}

fn cluster_found(found: Option<&str>) -> String {
    found.map_or_else(
        || "no cluster at all".to_owned(),
        |found| format!("the cluster {found}"),
    )
}
