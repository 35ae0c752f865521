//! The namespace as a tree of files: every mount's storage under its path, nested mounts hiding what lies beneath them.

use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{StreamExt, future, stream};
use jetbridge_cache::ufs::{ObjectInfo, Ufs};
use jetbridge_catalog::dataset::{is_hidden, is_parquet};
use jetbridge_catalog::mount::{Freshness, Mount, MountTable};
use jetbridge_catalog::namespace::Namespace;
use jetbridge_catalog::path::NsPath;

use crate::error::ServiceError;
use crate::stores::Stores;

/// Most files that one listing may return; a larger tree is refused, since a plan holds them all in memory.
pub(crate) const MAX_LISTED_FILES: usize = 2_000_000;

/// Mounts whose listings run at once; one listing is already a stream of requests of its own.
const LISTED_MOUNTS_AT_ONCE: usize = 8;

/// A file as the namespace shows it.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its namespace path.
    pub path: NsPath,
    /// The storage that has it.
    pub ufs: Ufs,
    /// What the storage says of it; its path is relative to the mount.
    pub info: ObjectInfo,
}

/// What a namespace path is.
#[derive(Debug)]
pub enum Place {
    /// An object.
    File(Listed),
    /// A folder, or a prefix with something below it, or a path above a mount.
    Folder,
}

/// One entry of a folder.
#[derive(Debug)]
pub struct Entry {
    /// The last segment of its path.
    pub name: String,
    /// File, folder or mount point.
    pub kind: EntryKind,
}

/// What an entry of a folder is.
#[derive(Debug)]
pub enum EntryKind {
    /// A folder of a mount's storage, or one above a mount point.
    Folder,
    /// A mount point.
    Mount,
    /// A file.
    File(ObjectInfo),
}

/// Reads the namespace's tree.
#[derive(Debug, Clone)]
pub struct Tree {
    namespace: Arc<Namespace>,
    stores: Arc<Stores>,
}

impl Tree {
    /// The tree of `namespace`, its storage opened through `stores`.
    #[must_use]
    pub fn new(namespace: Arc<Namespace>, stores: Arc<Stores>) -> Self {
        Self { namespace, stores }
    }

    /// The mounts as they are now.
    #[must_use]
    pub fn table(&self) -> Arc<MountTable> {
        self.namespace.table()
    }

    /// The strictest freshness of the mounts that `path` reads from.
    ///
    /// # Errors
    /// NOT_FOUND where no mount covers `path` and none lies below it.
    pub fn freshness(&self, path: &NsPath) -> Result<Freshness, ServiceError> {
        let mut strictest = None;
        for (mount, _) in self.sources(path)? {
            strictest = Some(stricter(strictest, mount.freshness()?));
        }
        strictest.ok_or_else(|| ServiceError::no_such_path(path))
    }

    /// What the storage URIs of the files at `path` or below begin with, one for each mount that it reads from.
    ///
    /// # Errors
    /// NOT_FOUND where no mount covers `path` and none lies below it; a storage that cannot be opened.
    pub fn uris(&self, path: &NsPath) -> Result<Vec<String>, ServiceError> {
        let sources = self.sources(path)?.into_iter();
        let uris = sources.map(|(mount, relative)| {
            let ufs = self.stores.get(&mount)?;
            Ok::<_, ServiceError>(ufs.uri_of(&relative))
        });
        uris.collect()
    }

    /// The file at `path`, if that is what it is.
    ///
    /// # Errors
    /// The storage's.
    pub async fn file(&self, path: &NsPath) -> Result<Option<Listed>, ServiceError> {
        let table = self.namespace.table();
        let Some(resolved) = table.resolve(path) else {
            return Ok(None);
        };
        if resolved.relative.is_empty() {
            return Ok(None);
        }
        let ufs = self.stores.get(&resolved.mount)?;
        let found = ufs.head(&resolved.relative).await?;
        Ok(found.map(|info| Listed {
            path: path.clone(),
            ufs,
            info,
        }))
    }

    /// Every file under the folder `path`, at any depth, in no particular order.
    ///
    /// # Errors
    /// The storage's; `LimitExceeded` past [`MAX_LISTED_FILES`].
    pub async fn files(&self, path: &NsPath) -> Result<Vec<Listed>, ServiceError> {
        let mut files = Vec::new();
        let mut listed = self.list(path)?;
        while let Some(file) = listed.next().await {
            files.push(file?);
            if files.len() > MAX_LISTED_FILES {
                return Err(ServiceError::TooManyFiles {
                    path: path.clone(),
                    limit: MAX_LISTED_FILES,
                });
            }
        }
        Ok(files)
    }

    /// The same as they are listed; ends after its first error.
    ///
    /// # Errors
    /// NOT_FOUND where no mount covers `path`; a storage that cannot be opened.
    pub fn list(&self, path: &NsPath) -> Result<BoxStream<'static, Result<Listed, ServiceError>>, ServiceError> {
        let table = self.namespace.table();
        let mut lists = Vec::new();
        for (mount, relative) in self.sources(path)? {
            lists.push(self.list_mount(&table, &mount, &relative)?);
        }
        Ok(stream::iter(lists).flatten_unordered(LISTED_MOUNTS_AT_ONCE).boxed())
    }

    /// The Parquet files below the folder `path`, hidden ones left out, by path.
    ///
    /// # Errors
    /// As [`Tree::files`].
    pub async fn data_files(&self, path: &NsPath) -> Result<Vec<NsPath>, ServiceError> {
        let files = self.files(path).await?.into_iter().map(|file| file.path);
        let is_data = |file: &NsPath| {
            file.strip_prefix(path)
                .is_some_and(|relative| !is_hidden(relative) && is_parquet(relative))
        };
        let mut files: Vec<NsPath> = files.filter(is_data).collect();
        files.sort();
        Ok(files)
    }

    /// What `path` is, or an error if it is nothing.
    ///
    /// # Errors
    /// NOT_FOUND where there is neither a file nor a folder; the storage's.
    pub async fn place(&self, path: &NsPath) -> Result<Place, ServiceError> {
        let table = self.namespace.table();
        if path.is_root() || table.get(path).is_some() || !table.below(path).is_empty() {
            return Ok(Place::Folder);
        }
        if let Some(file) = self.file(path).await? {
            return Ok(Place::File(file));
        }
        let Some(resolved) = table.resolve(path) else {
            return Err(ServiceError::no_such_path(path));
        };
        let ufs = self.stores.get(&resolved.mount)?;
        match ufs.list_dir(&resolved.relative).await?.is_empty() {
            true => Err(ServiceError::no_such_path(path)),
            false => Ok(Place::Folder),
        }
    }

    /// What lies directly in the folder `path`, by name.
    ///
    /// # Errors
    /// NOT_FOUND for a path that is nothing; the storage's.
    pub async fn entries(&self, path: &NsPath) -> Result<Vec<Entry>, ServiceError> {
        let table = self.namespace.table();
        let mut entries = std::collections::BTreeMap::new();
        if let Some(resolved) = table.resolve(path) {
            let ufs = self.stores.get(&resolved.mount)?;
            for found in ufs.list_dir(&resolved.relative).await? {
                let kind = found.info.map_or(EntryKind::Folder, EntryKind::File);
                entries.insert(found.name, kind);
            }
        }
        for name in table.children(path) {
            let is_mount = path.join(&name).is_ok_and(|child| table.get(&child).is_some());
            let kind = if is_mount { EntryKind::Mount } else { EntryKind::Folder };
            entries.insert(name, kind);
        }
        if entries.is_empty() && !path.is_root() && table.get(path).is_none() {
            return Err(ServiceError::no_such_path(path));
        }
        Ok(entries.into_iter().map(|(name, kind)| Entry { name, kind }).collect())
    }

    /// The mounts that `path` reads from: the one that covers it and those below, each with the relative path to list.
    fn sources(&self, path: &NsPath) -> Result<Vec<(Arc<Mount>, String)>, ServiceError> {
        let table = self.namespace.table();
        let covering = table.resolve(path).map(|resolved| (resolved.mount, resolved.relative));
        let below = table.below(path).into_iter().map(|mount| (mount, String::new()));
        let sources: Vec<_> = covering.into_iter().chain(below).collect();
        if sources.is_empty() {
            Err(ServiceError::no_such_path(path))
        } else {
            Ok(sources)
        }
    }

    fn list_mount(
        &self,
        table: &Arc<MountTable>,
        mount: &Arc<Mount>,
        relative: &str,
    ) -> Result<BoxStream<'static, Result<Listed, ServiceError>>, ServiceError> {
        let ufs = self.stores.get(mount)?;
        let may_be_shadowed = !table.below(&mount.path).is_empty();
        let (table, mount) = (Arc::clone(table), Arc::clone(mount));
        let listed = ufs.list(relative).filter_map(move |info| {
            let listed = info.map_err(ServiceError::from).map(|info| {
                let Ok(path) = mount.path.join(&info.path) else {
                    tracing::debug!(mount = %mount.path, object = %info.path, "this name is no namespace path; left out");
                    return None;
                };
                let shadowed =
                    may_be_shadowed && table.resolve(&path).is_none_or(|owner| owner.mount.path != mount.path);
                let ufs = ufs.clone();
                (!shadowed).then_some(Listed { path, ufs, info })
            });
            future::ready(listed.transpose())
        });
        Ok(listed.boxed())
    }
}

/// `Always` before the shortest age before `Immutable`.
fn stricter(known: Option<Freshness>, other: Freshness) -> Freshness {
    match (known, other) {
        (None | Some(Freshness::Immutable), other) => other,
        (Some(Freshness::Always), _) | (_, Freshness::Always) => Freshness::Always,
        (Some(Freshness::MaxAge(known)), Freshness::MaxAge(other)) => Freshness::MaxAge(known.min(other)),
        (Some(known), Freshness::Immutable) => known,
    }
}
