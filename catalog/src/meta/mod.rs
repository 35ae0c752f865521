//! The metadata store: what all nodes must agree on, as values under keys with compare-and-set.
//!
//! | file | what is in it |
//! |---|---|
//! | `meta/mod.rs` | the contract |
//! | `meta/error.rs` | what can go wrong |
//! | `meta/watch.rs` | watching: what is told of changes, and the loop that tells it |
//! | `meta/embedded/` | a store in one file of this machine, for one process |
//! | `meta/etcd.rs` | a store in etcd |
//! | `meta/conformance/` | the contract as checks that every store must pass |
//!
//! Correctness of reads never rests on it: while it is away, what was learned from it before keeps serving.
//!
//! A node of a cluster works on a handle that is [bound](MetaStore::bound) to that cluster. A store that came back
//! empty, or that belongs to others, then takes none of its changes and makes it forget nothing.
//!
//! Why values are bytes: a store must hand out exactly what was put, whatever later versions put.
//!
//! Why a binding is a handle and not a state of the store: the node that hands its store to others over the network
//! serves each of them by the cluster that it asks for.

pub mod conformance;
mod embedded;
mod error;
mod etcd;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub use embedded::EmbeddedStore;
pub use error::MetaError;
pub use etcd::{EtcdSettings, EtcdStore};
pub use watch::{Watch, WatchDropped, WatchEvent, WatchFeed};

/// The key under which a cluster keeps its id: what a [bound](MetaStore::bound) handle compares.
pub const CLUSTER_ID_KEY: &str = "cluster/id";

/// How long an operation may take where nothing else is set.
pub const DEFAULT_TIME_LIMIT: Duration = Duration::from_secs(5);

/// The longest time of a lease.
pub const MAX_LEASE_TTL: Duration = Duration::from_secs(24 * 60 * 60);

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

/// The name of a lease: something that ends unless it is kept alive, and the keys that are bound to it with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(u64);

impl LeaseId {
    /// The lease that a store calls by this number. For implementations of [`MetaStore`], and for a holder that
    /// wrote its lease down.
    #[must_use]
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// The number by which its store calls it.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// A small, consistent map from keys to values.
///
/// * Operations take effect one after the other, each wholly or not at all.
/// * A change that was answered survives a crash, where the store outlives its process at all.
/// * Each put gets a revision greater than that of every change before it, of whichever key. None is used twice,
///   not even after a delete or a restart.
/// * A change whose future is dropped, or that fails with [`MetaError::Unavailable`] or [`MetaError::Store`], may
///   have been made or not.
/// * No operation takes longer than the store's limit of time ([`DEFAULT_TIME_LIMIT`] where nothing else is set); then
///   it fails with [`MetaError::Unavailable`].
/// * Keys are 1 to [`MAX_KEY_BYTES`] bytes without control characters, values at most [`MAX_VALUE_BYTES`].
///
/// Every operation of a handle that is [bound](Self::bound) to a cluster may also fail with
/// [`MetaError::Foreign`], and then nothing was changed.
///
/// Needs a Tokio runtime around it.
#[async_trait]
pub trait MetaStore: Send + Sync + fmt::Debug {
    /// The value of a key; `None` when there is no such key.
    ///
    /// # Errors
    /// [`MetaError::Key`], [`MetaError::Unavailable`], [`MetaError::Store`].
    async fn get(&self, key: &str) -> Result<Option<Entry>, MetaError>;

    /// All keys that begin with `prefix`, in byte order, as they are at one moment. The empty prefix is all.
    ///
    /// # Errors
    /// [`MetaError::Unavailable`], [`MetaError::Store`].
    async fn list(&self, prefix: &str) -> Result<Vec<(String, Entry)>, MetaError>;

    /// Sets the value of a key, if what is expected holds. Gives the new revision. The key is bound to no lease
    /// from then on.
    ///
    /// # Errors
    /// As [`Self::put_leased`].
    async fn put(&self, key: &str, value: Vec<u8>, expect: Expect) -> Result<u64, MetaError> {
        self.put_leased(key, value, expect, None).await
    }

    /// As [`Self::put`], and binds the key to a lease, in place of the one that it was bound to: when that lease
    /// ends, the key is removed.
    ///
    /// # Errors
    /// [`MetaError::Conflict`], [`MetaError::Lease`], and then nothing was changed; [`MetaError::Key`],
    /// [`MetaError::ValueTooLong`], [`MetaError::Unavailable`], [`MetaError::Store`].
    async fn put_leased(
        &self,
        key: &str,
        value: Vec<u8>,
        expect: Expect,
        lease: Option<LeaseId>,
    ) -> Result<u64, MetaError>;

    /// Removes a key, if what is expected holds. Removing what is not there is no error, unless a revision was
    /// expected of it.
    ///
    /// # Errors
    /// [`MetaError::Conflict`], and then nothing was changed; [`MetaError::Key`], [`MetaError::Unavailable`],
    /// [`MetaError::Store`].
    async fn delete(&self, key: &str, expect: Expect) -> Result<(), MetaError>;

    /// Makes a lease that ends when it was not kept alive for `ttl`: never sooner, and not much later. A store
    /// may lengthen it, to whole seconds or to the shortest time that it can keep. It outlives a restart of the store,
    /// which gives it its whole time again.
    ///
    /// # Errors
    /// [`MetaError::LeaseTtl`] when `ttl` is nothing or longer than [`MAX_LEASE_TTL`]; [`MetaError::Unavailable`],
    /// [`MetaError::Store`].
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, MetaError>;

    /// Gives a lease its whole time again.
    ///
    /// # Errors
    /// [`MetaError::Lease`] when it has ended; [`MetaError::Unavailable`], [`MetaError::Store`].
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), MetaError>;

    /// Ends a lease at once, and removes the keys that are bound to it.
    ///
    /// # Errors
    /// [`MetaError::Lease`] when it has ended; [`MetaError::Unavailable`], [`MetaError::Store`].
    async fn revoke(&self, lease: LeaseId) -> Result<(), MetaError>;

    /// Watches all keys that begin with `prefix`, from now on. What goes wrong comes as an event.
    fn watch(&self, prefix: &str) -> Watch;

    /// Another handle on this store, for a node of the cluster with this id: whatever it does, it does only while
    /// [`CLUSTER_ID_KEY`] holds that id. What a change compares, it compares in the same moment.
    fn bound(&self, cluster: &str) -> Arc<dyn MetaStore>;
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

/// Refuses times of leases that no store takes. For implementations of [`MetaStore`].
///
/// # Errors
/// [`MetaError::LeaseTtl`].
pub fn check_ttl(ttl: Duration) -> Result<(), MetaError> {
    if ttl.is_zero() || ttl > MAX_LEASE_TTL {
        Err(MetaError::LeaseTtl { ttl })
    } else {
        Ok(())
    }
}

/// Compares the cluster that a handle is bound to with what [`CLUSTER_ID_KEY`] holds. For implementations of
/// [`MetaStore`].
///
/// # Errors
/// [`MetaError::Foreign`] when they differ.
pub fn check_cluster(bound_to: Option<&str>, found: Option<&[u8]>) -> Result<(), MetaError> {
    match bound_to {
        Some(cluster) if found != Some(cluster.as_bytes()) => Err(MetaError::Foreign {
            cluster: cluster.to_owned(),
            found: found.map(|found| String::from_utf8_lossy(found).into_owned()),
        }),
        _ => Ok(()),
    }
}
