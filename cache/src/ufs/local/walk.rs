//! Listings of local folders.
//!
//! The walk runs on one blocking thread and hands over batches through a short queue: it waits for its reader, and ends
//! when the reader goes. Names come in byte order of their whole paths, as from an object store. What cannot be
//! addressed in the namespace (names that are no UTF-8, or hold control characters or backslashes) is left out.

use std::fs::{self, DirEntry as FsEntry, Metadata};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt;
use futures::stream::{self, Stream};
use tokio::sync::mpsc;

use super::super::{DirEntry, ObjectInfo, Shared};
use super::folder::{info_of, is_absent};
use super::{LocalFault, LocalFolder};

/// Files in one batch.
const BATCH_FILES: usize = 512;

/// Batches that wait for the reader.
const QUEUE_BATCHES: usize = 4;

/// Folders within folders; what is deeper is left out.
const MAX_DEPTH: usize = 64;

/// Some of the files, in order.
pub(super) struct Batch {
    pub(super) files: Vec<ObjectInfo>,
    /// Whether the walk is over, and why, if it stopped early.
    pub(super) end: Option<Result<(), LocalFault>>,
}

impl Batch {
    /// The end of a walk that got no answer.
    fn silent(shared: &Shared) -> Self {
        Self {
            files: Vec::new(),
            end: Some(Err(LocalFault::silent(shared))),
        }
    }
}

/// Walks a folder. The thread starts with the first poll: a listing that nobody reads costs nothing.
/// It ends with an error where nothing is found for longer than a request may take.
pub(super) fn walk(shared: Arc<Shared>, local: LocalFolder, rel: String) -> impl Stream<Item = Batch> + Send {
    let begin = async move {
        let (sender, receiver) = mpsc::channel(QUEUE_BATCHES);
        let seen = Arc::new(AtomicU64::new(0));
        let walker = Arc::clone(&seen);
        tokio::task::spawn_blocking(move || run(&local, &rel, &sender, &walker));
        stream::unfold(Some((receiver, seen, shared)), |walking| async move {
            let (mut receiver, seen, shared) = walking?;
            loop {
                let before = seen.load(Ordering::Relaxed);
                match tokio::time::timeout(shared.limits.retry_timeout, receiver.recv()).await {
                    Ok(batch) => return batch.map(|batch| (batch, Some((receiver, seen, shared)))),
                    // A large folder takes its time.
                    Err(_) if seen.load(Ordering::Relaxed) > before => {}
                    Err(_) => return Some((Batch::silent(&shared), None)),
                }
            }
        })
    };
    stream::once(begin).flatten()
}

/// The names right below a folder.
pub(super) fn list_dir(local: &LocalFolder, rel: &str) -> Result<Vec<DirEntry>, LocalFault> {
    let Some(real) = folder(local, rel)? else {
        return Ok(Vec::new());
    };
    let entry = |child: Child| match child.kind {
        Kind::File(meta) => DirEntry {
            info: Some(info_of(join(rel, &child.name), &meta)),
            name: child.name,
        },
        Kind::Folder(_) => DirEntry {
            name: child.name,
            info: None,
        },
    };
    let seen = AtomicU64::new(0);
    let mut entries: Vec<_> = children(local, &real, &seen)?.into_iter().map(entry).collect();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

fn run(local: &LocalFolder, rel: &str, sender: &mpsc::Sender<Batch>, seen: &AtomicU64) {
    let mut walker = Walker {
        local,
        sender,
        seen,
        files: Vec::new(),
    };
    let walked = folder(local, rel).map_err(Stop::Fault).and_then(|real| match real {
        Some(real) => walker.descend(&real, rel, 0),
        None => Ok(()),
    });
    let end = match walked {
        Ok(()) => Ok(()),
        Err(Stop::Fault(fault)) => Err(fault),
        Err(Stop::ReaderGone) => return,
    };
    // The reader may have gone by now, and then it does not care.
    let _ = sender.blocking_send(Batch {
        files: walker.files,
        end: Some(end),
    });
}

struct Walker<'a> {
    local: &'a LocalFolder,
    sender: &'a mpsc::Sender<Batch>,
    /// Names that were looked at.
    seen: &'a AtomicU64,
    files: Vec<ObjectInfo>,
}

enum Stop {
    Fault(LocalFault),
    ReaderGone,
}

impl Walker<'_> {
    fn descend(&mut self, real: &Path, rel: &str, depth: usize) -> Result<(), Stop> {
        if depth > MAX_DEPTH {
            tracing::warn!(folder = rel, "left out of the listing: too many folders within folders");
            return Ok(());
        }
        for child in children(self.local, real, self.seen).map_err(Stop::Fault)? {
            let path = join(rel, &child.name);
            match child.kind {
                Kind::File(meta) => self.push(info_of(path, &meta))?,
                Kind::Folder(target) => self.descend(&target, &path, depth + 1)?,
            }
        }
        Ok(())
    }

    fn push(&mut self, file: ObjectInfo) -> Result<(), Stop> {
        self.files.push(file);
        if self.files.len() < BATCH_FILES {
            return Ok(());
        }
        let batch = Batch {
            files: std::mem::take(&mut self.files),
            end: None,
        };
        self.sender.blocking_send(batch).map_err(|_| Stop::ReaderGone)
    }
}

struct Child {
    name: String,
    kind: Kind,
}

enum Kind {
    File(Box<Metadata>),
    /// A folder's real path.
    Folder(PathBuf),
}

/// The real path of a folder; `None` when there is none of that name, or it is a file.
fn folder(local: &LocalFolder, rel: &str) -> Result<Option<PathBuf>, LocalFault> {
    match local.existing(rel) {
        Ok(real) if real.is_dir() => Ok(Some(real)),
        Ok(_) => Ok(None),
        Err(LocalFault::Io(e)) if is_absent(&e) => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// What lies right below a real folder, in the order that whole paths would have. Counts in `seen`.
fn children(local: &LocalFolder, real: &Path, seen: &AtomicU64) -> Result<Vec<Child>, LocalFault> {
    let listing = match fs::read_dir(real) {
        Ok(listing) => listing,
        // The folder went away since its parent was listed.
        Err(e) if is_absent(&e) => return Ok(Vec::new()),
        Err(e) => return Err(e.into()),
    };
    let mut found = Vec::new();
    for entry in listing {
        found.extend(child(local, real, &entry?)?);
        seen.fetch_add(1, Ordering::Relaxed);
    }
    found.sort_by(|a: &Child, b: &Child| a.order().cmp(b.order()));
    Ok(found)
}

impl Child {
    /// A folder sorts as its name with the slash that follows it in every path below.
    fn order(&self) -> impl Iterator<Item = u8> {
        let slash = matches!(self.kind, Kind::Folder(_)).then_some(b'/');
        self.name.bytes().chain(slash)
    }
}

fn child(local: &LocalFolder, parent: &Path, entry: &FsEntry) -> Result<Option<Child>, LocalFault> {
    let Some(name) = addressable(entry) else {
        return Ok(None);
    };
    let kind = match entry.metadata() {
        Ok(meta) if meta.is_symlink() => linked(local, parent, entry)?,
        Ok(meta) if meta.is_dir() => Some(Kind::Folder(parent.join(&name))),
        Ok(meta) if meta.is_file() => Some(Kind::File(Box::new(meta))),
        Ok(_) => None,
        Err(e) if is_absent(&e) => None,
        Err(e) => return Err(e.into()),
    };
    Ok(kind.map(|kind| Child { name, kind }))
}

fn addressable(entry: &FsEntry) -> Option<String> {
    let name = entry
        .file_name()
        .into_string()
        .ok()
        .filter(|n| !n.contains(|c: char| c.is_control() || c == '\\'));
    if name.is_none() {
        tracing::warn!(path = ?entry.path(), "left out of the listing: the namespace has no such names");
    }
    name
}

/// What a link leads to. Broken links, links out of the roots and links to a folder above are left out.
fn linked(local: &LocalFolder, parent: &Path, entry: &FsEntry) -> Result<Option<Kind>, LocalFault> {
    let real = match fs::canonicalize(entry.path()) {
        Ok(real) => real,
        // A loop of links has no error kind of its own in the stable library, and is as broken as a dangling one.
        Err(_) => return Ok(None),
    };
    if !local.allows(&real) {
        tracing::warn!(path = ?entry.path(), "left out of the listing: the link leads out of the file roots");
        return Ok(None);
    }
    match fs::metadata(&real) {
        Ok(meta) if meta.is_file() => Ok(Some(Kind::File(Box::new(meta)))),
        Ok(meta) if meta.is_dir() && !parent.starts_with(&real) => Ok(Some(Kind::Folder(real))),
        Ok(_) => Ok(None),
        Err(e) if is_absent(&e) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn join(rel: &str, name: &str) -> String {
    if rel.is_empty() {
        name.to_owned()
    } else {
        format!("{rel}/{name}")
    }
}
