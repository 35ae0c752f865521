//! The data folder and the lock that keeps it to one process.
//!
//! The lock is the operating system's, on an open file: it goes with the process, however that ends, so there is no
//! stale lock to clean up. The process id inside is for the message only.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

const LOCK_FILE: &str = "jetbridge.lock";

/// A data folder that belongs to this process until the value is dropped.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    _lock: File,
}

/// Why a folder cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DataFolderError {
    /// It cannot be created or written.
    #[error("cannot use the data folder {}", path.display())]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process holds it.
    #[error(
        "the data folder {} is in use by {}; stop that server or give this one another --data-dir",
        path.display(),
        owner.as_deref().map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    InUse {
        /// The folder.
        path: PathBuf,
        /// The other process' id, if it could be read.
        owner: Option<String>,
    },
}

impl DataFolder {
    /// Creates the folder if it is missing, and takes its lock.
    ///
    /// # Errors
    /// When it cannot be created or written, or another process has it.
    pub fn claim(path: &Path) -> Result<Self, DataFolderError> {
        let unusable = |source| DataFolderError::Unusable {
            path: path.to_owned(),
            source,
        };
        create_private(path).map_err(unusable)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut lock = options.open(path.join(LOCK_FILE)).map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(DataFolderError::InUse {
                    path: path.to_owned(),
                    owner: read_owner(&mut lock),
                });
            }
            Err(TryLockError::Error(source)) => return Err(unusable(source)),
        }
        write_owner(&mut lock).map_err(unusable)?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Creates the folder for its owner alone: it will hold keys.
fn create_private(path: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

fn read_owner(lock: &mut File) -> Option<String> {
    let mut text = String::new();
    lock.take(32).read_to_string(&mut text).ok()?;
    let pid = text.trim();
    (!pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit())).then(|| pid.to_owned())
}

fn write_owner(lock: &mut File) -> std::io::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    writeln!(lock, "{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_claim_is_refused_and_names_the_owner_until_the_first_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        let first = DataFolder::claim(&path).unwrap();
        let error = DataFolder::claim(&path).unwrap_err().to_string();
        assert!(
            error.contains(&format!("in use by process {}", std::process::id())),
            "{error}"
        );
        assert!(error.contains("--data-dir"), "{error}");
        drop(first);
        assert_eq!(DataFolder::claim(&path).unwrap().path(), path);
    }

    #[test]
    fn a_file_in_the_way_is_an_error_that_names_the_folder() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = DataFolder::claim(file.path()).unwrap_err();
        assert!(matches!(error, DataFolderError::Unusable { .. }));
        assert!(error.to_string().contains(file.path().to_str().unwrap()));
    }
}
