//! Where a local mount is, and which of its paths may be opened.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

use super::super::ObjectInfo;
use super::super::error::{Operation, Subject, UfsError, UfsErrorKind};
use super::super::spec::StoreSpec;
use super::LocalFault;
use crate::key::Generation;

/// What is told of a path outside the roots; not whether it exists.
pub(super) const OUTSIDE: &str = "this path is outside the folders that may be served (file roots)";

/// A local mount: a folder, or a single file. Both paths are real ones, without links.
#[derive(Debug, Clone)]
pub(in super::super) struct LocalFolder {
    root: PathBuf,
    allowed: Vec<PathBuf>,
}

impl LocalFolder {
    /// Opens the folder (or file) of a mount. It must exist, and lie below one of the roots, also by its real path.
    pub(in super::super) fn open(spec: &StoreSpec, roots: &[PathBuf]) -> Result<Self, UfsError> {
        let fail = |kind, reason: &str| {
            let subject = Subject {
                mount: spec.mount.as_str().into(),
                object: String::new(),
                operation: Operation::Open,
            };
            UfsError::new(kind, subject, reason)
        };
        if !["", "localhost"].contains(&spec.authority.as_str()) {
            return Err(fail(
                UfsErrorKind::InvalidOption,
                "a file:// URI has no host; write file:///folder",
            ));
        }
        let path = Path::new("/").join(&spec.key);
        let allowed: Vec<_> = roots.iter().filter_map(|root| fs::canonicalize(root).ok()).collect();
        // Before the disk is asked anything: outside the roots, what exists is not ours to tell.
        let plain = !spec.key.split('/').any(|segment| matches!(segment, "." | ".."));
        if !plain || !roots.iter().chain(&allowed).any(|root| path.starts_with(root)) {
            return Err(fail(UfsErrorKind::OutsideRoots, OUTSIDE));
        }
        let root = fs::canonicalize(&path).map_err(|e| {
            let kind = match e.kind() {
                std::io::ErrorKind::PermissionDenied => UfsErrorKind::PermissionDenied,
                _ => UfsErrorKind::NotFound,
            };
            fail(kind, &format!("{}: {e}", path.display()))
        })?;
        let folder = Self { root, allowed };
        if folder.allows(&folder.root) {
            Ok(folder)
        } else {
            Err(fail(UfsErrorKind::OutsideRoots, OUTSIDE))
        }
    }

    /// Whether a real path lies below one of the roots.
    pub(super) fn allows(&self, real: &Path) -> bool {
        self.allowed.iter().any(|root| real.starts_with(root))
    }

    /// The real path of something that exists; `NotFound` for names that no file can have.
    pub(super) fn existing(&self, rel: &str) -> Result<PathBuf, LocalFault> {
        let real = fs::canonicalize(self.join(rel)?)?;
        if self.allows(&real) {
            Ok(real)
        } else {
            Err(LocalFault::Outside)
        }
    }

    /// Opens something that exists, for reading.
    ///
    /// The kernel goes the way to it once and stops at a link. Without one the way is the real path, which lies below the mount's
    /// folder: nothing else has to be asked. In all other cases the real path is found out first, at a call for each folder in it.
    pub(super) fn opened(&self, rel: &str) -> Result<File, LocalFault> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        match openat2(CWD, self.join(rel)?, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
            Ok(file) => Ok(file.into()),
            Err(_) => Ok(File::open(self.existing(rel)?)?),
        }
    }

    /// Looks a file up; `None` when there is none, and for folders, sockets and devices.
    pub(super) fn head(&self, rel: &str) -> Result<Option<ObjectInfo>, LocalFault> {
        match self.existing(rel).and_then(|real| Ok(fs::metadata(real)?)) {
            Ok(meta) if meta.is_file() => Ok(Some(info_of(rel.to_owned(), &meta))),
            Ok(_) => Ok(None),
            Err(LocalFault::Io(e)) if is_absent(&e) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    fn join(&self, rel: &str) -> Result<PathBuf, LocalFault> {
        if rel.is_empty() {
            return Ok(self.root.clone());
        }
        let bad = |segment: &str| matches!(segment, "" | "." | "..") || segment.contains('\0');
        if rel.split('/').any(bad) {
            return Err(LocalFault::Io(std::io::ErrorKind::NotFound.into()));
        }
        Ok(self.root.join(rel))
    }
}

/// Whether the error means that there is nothing of that name.
pub(super) fn is_absent(error: &std::io::Error) -> bool {
    use std::io::ErrorKind as K;
    matches!(error.kind(), K::NotFound | K::NotADirectory | K::InvalidFilename)
}

/// What a file's metadata says of it.
pub(super) fn info_of(path: String, meta: &Metadata) -> ObjectInfo {
    ObjectInfo {
        path,
        size: meta.len(),
        generation: generation_of(meta),
        modified_ns: modified_ns(meta),
    }
}

/// The identity of the file's present content.
pub(super) fn generation_of(meta: &Metadata) -> Generation {
    let tag = format!(
        "{:x}-{:x}-{:x}-{:x}",
        meta.ino(),
        modified_ns(meta),
        changed_ns(meta),
        meta.len()
    );
    Generation::from_parts(None, Some(&tag), modified_ns(meta), meta.len())
}

/// When content, name or mode changed last, in ns since 1970. No tool can set it.
pub(super) fn changed_ns(meta: &Metadata) -> i64 {
    nanoseconds(meta.ctime(), meta.ctime_nsec())
}

fn modified_ns(meta: &Metadata) -> i64 {
    nanoseconds(meta.mtime(), meta.mtime_nsec())
}

fn nanoseconds(seconds: i64, rest: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}
