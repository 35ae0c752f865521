//! The open storage of each mount.
//!
//! A mount is a line in the metadata store; reading needs an open [`Ufs`] with its credentials, limits and connection
//! pool. This keeps one per mount, opened at first use, so that a storage that is down does not stop a start, and opened
//! anew when the mount's definition changed.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use jetbridge_cache::ufs::{StoreSpec, Ufs, UfsContext, UfsError};
use jetbridge_catalog::mount::Mount;
use jetbridge_catalog::path::NsPath;
use parking_lot::{Mutex, RwLock};

/// Opens and keeps the storage of mounts. Lock order: `open` before `context`; neither is held across an await.
#[derive(Debug)]
pub struct Stores {
    context: RwLock<UfsContext>,
    open: Mutex<HashMap<NsPath, (Arc<Mount>, Ufs)>>,
}

impl Stores {
    /// Storage opened with `context`: allowed folders, secrets, limits.
    #[must_use]
    pub fn new(context: UfsContext) -> Self {
        Self {
            context: RwLock::new(context),
            open: Mutex::default(),
        }
    }

    /// The storage of `mount`, opened now if it is not yet.
    ///
    /// # Errors
    /// What [`Ufs::open`] refuses: unknown options, secrets that do not resolve, folders outside the roots.
    pub fn get(&self, mount: &Arc<Mount>) -> Result<Ufs, UfsError> {
        let mut open = self.open.lock();
        if let Some((known, ufs)) = open.get(&mount.path)
            && known == mount
        {
            return Ok(ufs.clone());
        }
        let ufs = Ufs::open(spec(mount), &self.context.read())?;
        open.insert(mount.path.clone(), (Arc::clone(mount), ufs.clone()));
        Ok(ufs)
    }

    /// Opens the storage of a mount that is not in the namespace yet, to try it before it is kept.
    ///
    /// # Errors
    /// As [`Stores::get`].
    pub fn probe(&self, mount: &Mount) -> Result<Ufs, UfsError> {
        Ufs::open(spec(mount), &self.context.read())
    }

    /// Lets mounts lie in one more folder, since another node of the cluster let one in.
    pub fn admit(&self, folder: PathBuf) {
        let mut context = self.context.write();
        if !context.file_roots.contains(&folder) {
            context.file_roots.push(folder);
        }
    }

    /// Forgets the storage of a removed mount; reads under way keep theirs until they end.
    pub fn forget(&self, path: &NsPath) {
        self.open.lock().remove(path);
    }
}

fn spec(mount: &Mount) -> StoreSpec {
    StoreSpec {
        mount: mount.path.to_string(),
        scheme: mount.uri.scheme().as_str().to_owned(),
        authority: mount.uri.authority().to_owned(),
        key: mount.uri.key().to_owned(),
        options: mount
            .store_options()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
    }
}
