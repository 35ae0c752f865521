//! Why a store of pages does not open. Once open, it fails towards nobody.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

/// What is wrong with the settings of a disk store, or with a folder that they name. Each names its folder.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A store needs a folder.
    #[error("the disk cache has no folder; name at least one, or keep pages in memory")]
    NoFolder,
    /// Pages are freed by punching holes, which go by blocks of the file system.
    #[error("a page of {bytes} bytes cannot be kept on disk: it must be a multiple of 4096, and at most 1 GiB")]
    PageSize {
        /// The page size that was asked for, in bytes.
        bytes: u64,
    },
    /// Two of the configured folders are one, or one lies in the other.
    #[error("the cache folders {} and {} are one, or one lies within the other", first.display(), second.display())]
    Overlap {
        /// The one named first.
        first: PathBuf,
        /// The one named later.
        second: PathBuf,
    },
    /// The folder holds something that no cache of ours wrote, and is left as it is.
    #[error(
        "{} is no cache folder and is not empty (it holds {entry:?}); give the cache a folder of its own",
        path.display()
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// The name of something in it.
        entry: String,
    },
    /// Another process, or another store of this one, keeps its pages in the folder.
    #[error("the cache folder {} is in use by another process", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The folder cannot be written, or its file system cannot free parts of a file. A cache that cannot drop what it
    /// holds would serve less and less, and never within its capacity, so a read-only folder is no cache folder.
    #[error("the cache folder {} cannot be used: a trial file could not be written, freed and read back", path.display())]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The folder, or a file of the cache itself in it, cannot be reached.
    #[error("cannot {doing} in the cache folder {}", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
}

impl DiskError {
    /// Whether this looks like a broken disk and not like a wrong setting. A store then opens without the folder.
    pub(super) fn is_broken_disk(&self) -> bool {
        let (Self::Unusable { source, .. } | Self::Io { source, .. }) = self else {
            return false;
        };
        let broken = [Errno::IO, Errno::NXIO, Errno::NODEV, Errno::STALE, Errno::TIMEDOUT];
        Errno::from_io_error(source).is_some_and(|errno| broken.contains(&errno))
    }
}

/// What kind of failure an operation of a folder ended with, by what is to be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// No space is left, or the quota is used up: keep no more than is held.
    Full,
    /// The file system has no files that large: the pages are not kept.
    TooLarge,
    /// The process has no more open files or memory to spare, which says nothing about the disk.
    Starved,
    /// A file or folder that was there is not.
    Missing,
    /// The disk fails.
    Failing,
}

impl Trouble {
    pub(super) fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            io::ErrorKind::FileTooLarge => Self::TooLarge,
            io::ErrorKind::NotFound => Self::Missing,
            io::ErrorKind::OutOfMemory => Self::Starved,
            _ if Errno::from_io_error(error).is_some_and(|errno| [Errno::MFILE, Errno::NFILE].contains(&errno)) => {
                Self::Starved
            }
            _ => Self::Failing,
        }
    }
}
