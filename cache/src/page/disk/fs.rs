//! What the store asks of a file system: the operations that change or read files, and nothing else.
//!
//! Why a trait: the order of these calls is the store's promise about crashes. A test records them and replays every
//! prefix of the record into an empty folder; another makes any one of them fail.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::FallocateFlags;

/// The operations. Every one may be called from any thread.
pub(super) trait FileSystem: Send + Sync {
    /// Makes a folder; one that is there is as good.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes an empty file, also of one that is there, and leaves it open to read and to write.
    fn create(&self, path: &Path) -> io::Result<File>;
    /// Moves a file to a name in the same folder, in place of one that is there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file; one that is not there is as good.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// The first bytes of a file, at most so many.
    fn read(&self, path: &Path, max_bytes: u64) -> io::Result<Vec<u8>>;
    /// Opens a file to read and to write.
    fn open(&self, path: &Path) -> io::Result<File>;
    /// Reads a part of a file into a buffer of zeros. What lies after the file's end stays zeros.
    fn read_at(&self, file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Writes all of the bytes.
    fn write_at(&self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Waits until a file or a folder is on the medium.
    fn sync(&self, path: &Path) -> io::Result<()>;
    /// Gives a part of a file back to the file system; it reads as zeros from then on.
    fn punch(&self, file: &File, part: Range<u64>) -> io::Result<()>;
}

/// The file system that the process runs on.
#[derive(Debug, Clone, Copy)]
pub(super) struct LocalFs;

impl FileSystem for LocalFs {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        match std::fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        }
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        let mut how = OpenOptions::new();
        how.read(true).write(true).create(true).truncate(true);
        how.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    fn read(&self, path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(max_bytes).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(path)
    }

    fn read_at(&self, file: &File, mut offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            match file.read_at(buffer, offset) {
                Ok(0) => return Ok(()),
                Ok(read) => {
                    buffer = buffer.get_mut(read..).unwrap_or_default();
                    offset += crate::key::to_u64(read);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn write_at(&self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn punch(&self, file: &File, part: Range<u64>) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(file, flags, part.start, part.end - part.start)?;
        Ok(())
    }
}
