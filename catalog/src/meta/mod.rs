//! The metadata store: what all nodes must agree on, as values under keys with compare-and-set.
//!
//! | file | what is in it |
//! |---|---|
//! | `meta/mod.rs` | the contract |
//! | `meta/embedded.rs` | a store in one file of this machine, for one process |
//! | `meta/conformance.rs` | the contract as checks that every store must pass |
//!
//! Correctness of reads never rests on it: while it is away, what was learned from it before keeps serving.
//!
//! Why values are bytes: a store must hand out exactly what was put, whatever later versions put.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod embedded;

use std::error::Error;
use std::fmt;
use std::path::PathBuf;

use async_trait::async_trait;

pub use embedded::EmbeddedStore;

/// The longest key, in bytes: room for a namespace path and what stands before it.
pub const MAX_KEY_BYTES: usize = 8 * 1024;

/// The longest value, in bytes: what etcd takes in one request by default is 1.5 MiB.
pub const MAX_VALUE_BYTES: usize = 1024 * 1024;

/// A value and the revision at which it was put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The bytes as they were put.
    pub value: Vec<u8>,
    /// The revision of the last put.
    pub revision: u64,
}

/// What must hold of a key for a change of it to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Any,
    /// That there is no such key.
    Absent,
    /// That its value is still the one that was put at this revision.
    Revision(u64),
}

impl Expect {
    /// Compares what is expected with the revision that was found, `None` being no such key. For
    /// implementations of [`MetaStore`].
    ///
    /// # Errors
    /// [`MetaError::Conflict`] when they differ.
    pub fn check(self, key: &str, found: Option<u64>) -> Result<(), MetaError> {
        let holds = match self {
            Self::Any => true,
            Self::Absent => found.is_none(),
            Self::Revision(revision) => found == Some(revision),
        };
        if holds {
            Ok(())
        } else {
            Err(MetaError::Conflict {
                key: key.to_owned(),
                expected: self,
                found,
            })
        }
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("anything"),
            Self::Absent => f.write_str("no such key"),
            Self::Revision(revision) => write!(f, "revision {revision}"),
        }
    }
}

/// A small, consistent map from keys to values.
///
/// * Operations take effect one after the other, each wholly or not at all.
/// * A change that was answered survives a crash, where the store outlives its process at all.
/// * Each put gets a revision greater than that of every put before it, of whichever key. None is used twice,
///   not even after a delete or a restart.
/// * A change whose future is dropped, or that fails with [`MetaError::Store`], may have been made or not.
/// * Keys are 1 to [`MAX_KEY_BYTES`] bytes without control characters, values at most [`MAX_VALUE_BYTES`].
///
/// Needs a Tokio runtime around it.
#[async_trait]
pub trait MetaStore: Send + Sync + fmt::Debug {
    /// The value of a key; `None` when there is no such key.
    ///
    /// # Errors
    /// [`MetaError::Key`], [`MetaError::Store`].
    async fn get(&self, key: &str) -> Result<Option<Entry>, MetaError>;

    /// All keys that begin with `prefix`, in byte order, as they are at one moment. The empty prefix is all.
    ///
    /// # Errors
    /// [`MetaError::Store`].
    async fn list(&self, prefix: &str) -> Result<Vec<(String, Entry)>, MetaError>;

    /// Sets the value of a key, if what is expected holds. Gives the new revision.
    ///
    /// # Errors
    /// [`MetaError::Conflict`], and then nothing was changed; [`MetaError::Key`], [`MetaError::ValueTooLong`],
    /// [`MetaError::Store`].
    async fn put(&self, key: &str, value: Vec<u8>, expect: Expect) -> Result<u64, MetaError>;

    /// Removes a key, if what is expected holds. Removing what is not there is no error, unless a revision was
    /// expected of it.
    ///
    /// # Errors
    /// [`MetaError::Conflict`], and then nothing was changed; [`MetaError::Key`], [`MetaError::Store`].
    async fn delete(&self, key: &str, expect: Expect) -> Result<(), MetaError>;
}

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
    /// The store cannot be reached, or its disk fails. A later try may succeed.
    #[error("the metadata store failed to {operation}")]
    Store {
        /// What was to be done: "get", "list", "put", "delete".
        operation: &'static str,
        /// What went wrong.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

/// Refuses keys that no store takes. For implementations of [`MetaStore`].
///
/// # Errors
/// [`MetaError::Key`].
pub fn check_key(key: &str) -> Result<(), MetaError> {
    let valid = !key.is_empty() && key.len() <= MAX_KEY_BYTES && !key.contains(char::is_control);
    if valid { Ok(()) } else { Err(MetaError::Key) }
}

/// Refuses values that no store takes. For implementations of [`MetaStore`].
///
/// # Errors
/// [`MetaError::ValueTooLong`].
pub fn check_value(value: &[u8]) -> Result<(), MetaError> {
    let bytes = value.len();
    if bytes > MAX_VALUE_BYTES {
        Err(MetaError::ValueTooLong { bytes })
    } else {
        Ok(())
    }
}

fn revision(found: Option<u64>) -> String {
    found.map_or_else(|| "no such key".to_owned(), |revision| format!("revision {revision}"))
}
