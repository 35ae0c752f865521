//! The under file system: one mount's storage, read only, through one door.
//!
//! A [`Ufs`] lists, looks up and reads objects by their path relative to the mount. Paths are raw text at this door:
//! what stands in a name stands in the storage (`%2F`, `+`, spaces, any unicode), and nothing is decoded.
//!
//! ```text
//! Ufs ── local    file://      our own: pinned reads, roots, no name refused
//!     └─ remote   s3 gs az http(s) memory     object_store behind retries, limits, generations (list, get)
//! ```
//!
//! Rules that hold for every scheme:
//! - A ranged read names the generation that it wants. The answer is from that one, or it is a stale error: never a
//!   mixture, also when a body breaks off and is resumed.
//! - A request ends: bounded connects, waits, retries and credential look-ups.
//! - Requests of one mount are limited in number; its errors name mount, object, tries and time, and no secret.
//!
//! Why a strong `ETag` goes before a version id here: listings give ETags and never version ids, so the same object
//! would have one identity when listed and another when looked up, and every cache would hold it twice.
//!
//! Why not `object_store::local`: it cannot pin a generation, follows links out of its root, and refuses `a#1`.

mod check;
mod credentials;
mod distance;
mod error;
mod get;
mod list;
mod local;
pub mod memory;
mod metrics;
mod options;
mod remote;
mod schemes;
mod spec;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::ObjectStore;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use self::check::CheckReport;
pub use self::error::{UfsError, UfsErrorKind};
pub use self::metrics::mount_id;
pub use self::spec::{ResolveSecret, StoreSpec, UfsContext, UfsLimits};

use self::distance::Distance;
pub(crate) use self::error::{Operation, Subject};
use self::local::LocalFolder;
use self::options::Options;
use self::remote::Remote;
use crate::counters;
use crate::key::{FileKey, Generation};

/// One mount's storage. Cheap to clone; clones share connections and limits.
#[derive(Clone)]
pub struct Ufs(Arc<Shared>);

/// One object, as it was when it was listed or looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Path relative to the mount, raw text, no slash at either end.
    pub path: String,
    /// Length in bytes.
    pub size: u64,
    /// Which version it is.
    pub generation: Generation,
    /// Time of the last change, in ns since 1970; 0 where the store does not say.
    pub modified_ns: i64,
}

/// One name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The last segment of the path.
    pub name: String,
    /// The object of that name; `None` for a folder. A store may have both under one name: two entries.
    pub info: Option<ObjectInfo>,
}

impl Ufs {
    /// Opens a mount's storage. Nothing is asked of the network; a `file` mount's folder (or single file) must exist.
    ///
    /// # Errors
    /// `InvalidOption` names an option that this scheme does not have or a value that does not fit; `OutsideRoots` and
    /// `NotFound` are for `file` mounts.
    pub fn open(spec: StoreSpec, context: &UfsContext) -> Result<Self, UfsError> {
        Self::open_in(spec, context, &|name| std::env::var(name).ok())
    }

    /// As [`Ufs::open`], with the process environment passed in.
    pub(crate) fn open_in(
        spec: StoreSpec,
        context: &UfsContext,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, UfsError> {
        let options = Options::new(&spec, context, environment)?;
        let mut limits = options.limits(&context.limits)?;
        if spec.scheme == "file" && options.text("timeout").is_some() {
            // What a file system does not answer is not asked again: its one try has all the time there is.
            limits.retry_timeout = limits.request_timeout;
        }
        let backend = match spec.scheme.as_str() {
            "file" => Backend::Local(LocalFolder::open(&spec, &context.file_roots)?),
            _ => Backend::Remote(schemes::connect(&spec, &options, &limits)?),
        };
        Ok(Self(Arc::new(Shared::new(spec, limits, backend))))
    }

    /// A mount on a store that is already open, with default limits; for tests, with their own stores.
    #[must_use]
    pub fn from_store(spec: StoreSpec, store: Arc<dyn ObjectStore>) -> Self {
        Self::from_store_with(spec, store, UfsLimits::default())
    }

    /// As [`Ufs::from_store`], with limits.
    #[must_use]
    pub fn from_store_with(spec: StoreSpec, store: Arc<dyn ObjectStore>, limits: UfsLimits) -> Self {
        Self(Arc::new(Shared::new(
            spec,
            limits,
            Backend::Remote(Remote::unquoted(store)),
        )))
    }

    /// The namespace path of the mount.
    #[must_use]
    pub fn mount(&self) -> &str {
        &self.0.mount
    }

    /// What metrics call the mount: eight hexadecimal digits, made of its path.
    #[must_use]
    pub fn mount_id(&self) -> &Arc<str> {
        &self.0.mount_id
    }

    /// The canonical URI of a path relative to the mount; of the mount itself for `""`.
    #[must_use]
    pub fn uri_of(&self, rel: &str) -> String {
        let spec = &self.0.spec;
        format!("{}://{}/{}", spec.scheme, spec.authority, self.0.key_of(rel))
    }

    /// The key of an object that was listed or looked up.
    #[must_use]
    pub fn key_of(&self, info: &ObjectInfo) -> FileKey {
        FileKey {
            uri: self.uri_of(&info.path).into(),
            generation: info.generation.clone(),
            size: info.size,
        }
    }

    /// Every object below a folder (`""` is the mount), at any depth, in no promised order. A folder that does not
    /// exist is empty; a bucket that does not exist is an error. Folder markers (`dir/`, of size 0) are left out.
    ///
    /// The stream ends after its first error. Dropping it stops the listing.
    #[must_use]
    pub fn list(&self, rel: &str) -> BoxStream<'static, Result<ObjectInfo, UfsError>> {
        match &self.0.backend {
            Backend::Local(_) => local::list(Arc::clone(&self.0), rel.to_owned()),
            Backend::Remote(_) => list::list(Arc::clone(&self.0), rel),
        }
    }

    /// The names right below a folder, sorted.
    ///
    /// # Errors
    /// As for [`Ufs::list`].
    pub async fn list_dir(&self, rel: &str) -> Result<Vec<DirEntry>, UfsError> {
        match &self.0.backend {
            Backend::Local(_) => local::list_dir(&self.0, rel).await,
            Backend::Remote(remote) => list::list_dir(&self.0, remote, rel).await,
        }
    }

    /// Looks one object up; `None` when there is none, and for a folder.
    ///
    /// # Errors
    /// The store's failures; a `file` path that leaves the roots is `OutsideRoots`.
    pub async fn head(&self, rel: &str) -> Result<Option<ObjectInfo>, UfsError> {
        match &self.0.backend {
            Backend::Local(_) => local::head(&self.0, rel).await,
            Backend::Remote(remote) => get::head(&self.0, remote, rel).await,
        }
    }

    /// Reads bytes of exactly the version that `key` names. The range must lie within `key.size`; an empty one reads
    /// nothing. For a weak generation it must be the whole file: only one answer to one request is of one version.
    ///
    /// # Errors
    /// `Stale` when the object is another version by now, `NotFound` when it is gone; else the store's failures, after
    /// retries.
    pub async fn get_range(&self, rel: &str, key: &FileKey, range: Range<u64>) -> Result<Bytes, UfsError> {
        self.0.check_range(rel, key, &range)?;
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        match &self.0.backend {
            Backend::Local(_) => local::read(&self.0, rel, key, range).await,
            Backend::Remote(remote) => get::read(&self.0, remote, rel, (key, range)).await,
        }
    }

    /// Whether the storage is so far that readers wait for the way there, however idle all machines are; not so where little was
    /// read of it yet, and never of local folders.
    pub(crate) fn is_far(&self) -> bool {
        self.0.distance.is_far()
    }

    /// Tries what reads need: credentials, a listing, a ranged read, a strong generation.
    ///
    /// # Errors
    /// The first of them that fails.
    pub async fn check(&self) -> Result<CheckReport, UfsError> {
        check::check(self).await
    }
}

impl fmt::Debug for Ufs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ufs")
            .field("mount", &self.0.mount)
            .field("uri", &self.uri_of(""))
            .finish_non_exhaustive()
    }
}

/// What every clone of a [`Ufs`] shares.
struct Shared {
    mount: Arc<str>,
    mount_id: Arc<str>,
    spec: StoreSpec,
    scheme: &'static str,
    limits: UfsLimits,
    permits: Arc<Semaphore>,
    distance: Distance,
    backend: Backend,
}

enum Backend {
    Local(LocalFolder),
    Remote(Remote),
}

impl Shared {
    fn new(spec: StoreSpec, limits: UfsLimits, backend: Backend) -> Self {
        let mount_id = mount_id(&spec.mount).into();
        counters::begin(&mount_id);
        Self {
            mount: spec.mount.as_str().into(),
            mount_id,
            scheme: metrics::label(&spec.scheme),
            permits: Arc::new(Semaphore::new(limits.concurrency.clamp(1, Semaphore::MAX_PERMITS))),
            spec,
            limits,
            distance: Distance::default(),
            backend,
        }
    }

    fn subject(&self, operation: Operation, rel: &str) -> Subject {
        Subject {
            mount: Arc::clone(&self.mount),
            object: rel.to_owned(),
            operation,
        }
    }

    /// The key in the store of a path relative to the mount.
    fn key_of(&self, rel: &str) -> String {
        match (self.spec.key.as_str(), rel) {
            (key, "") => key.to_owned(),
            ("", rel) => rel.to_owned(),
            (key, rel) => format!("{key}/{rel}"),
        }
    }

    /// A place among this mount's requests; waits for one. `None` cannot happen while the mount is open, and would
    /// only mean that there is no limit.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }

    fn check_range(&self, rel: &str, key: &FileKey, range: &Range<u64>) -> Result<(), UfsError> {
        let refuse = |reason: String| {
            Err(UfsError::new(
                UfsErrorKind::Other,
                self.subject(Operation::Get, rel),
                reason,
            ))
        };
        if range.start > range.end || range.end > key.size {
            return refuse(format!("bytes {range:?} are not within its {} bytes", key.size));
        }
        if !key.generation.is_strong() && !range.is_empty() && *range != (0..key.size) {
            return refuse(format!(
                "bytes {range:?} of a file without a strong generation, which must be read whole"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
