//! One cache folder: its place, its account, its health, and the lock that keeps other processes out.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use rustix::fs::FlockOperation;

use super::account::Account;
use super::error::{DiskError, Trouble};
use super::fs::FileSystem;
use super::health::{FolderHealth, Health};
use super::recover;
use super::superblock::{SUPERBLOCK_BYTES, Superblock, is_ours};
use crate::key::to_u64;

/// So many reads at a time are tried of an unstable folder.
const MAX_UNSTABLE_READS: usize = 10;

const SUPERBLOCK: &str = "superblock";
const NEW_SUPERBLOCK: &str = "superblock.tmp";
const LOCK: &str = "lock";
const PROBE: &str = "probe";
/// What file systems themselves leave in an empty one.
const LOST_AND_FOUND: &str = "lost+found";

/// A cache folder.
#[derive(Debug)]
pub(super) struct Folder {
    /// Without symbolic links.
    pub(super) path: PathBuf,
    /// What metrics call it: its number, since a path is nobody else's business.
    pub(super) label: String,
    pub(super) account: Mutex<Account>,
    pub(super) health: Mutex<Health>,
    /// `None` while the folder could not be opened.
    pub(super) identity: Mutex<Option<Identity>>,
    pub(super) last_error: Mutex<Option<String>>,
    pub(super) checksum_failures: AtomicU64,
    busy: AtomicUsize,
}

/// What makes a folder the one that was opened.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) uuid: [u8; 16],
    /// The device that it is on.
    device: u64,
    /// Holds the lock for as long as it is open.
    lock: Option<Lock>,
}

/// The lock of a folder. It is given back and not only closed: a child process that was forked in this moment has the
/// file open as well, until it runs its own program.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // It goes with the process at the latest.
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

/// An operation that is going on in a folder.
#[derive(Debug)]
pub(super) struct Operation<'a>(&'a Folder);

impl Drop for Operation<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Folder {
    /// `opened` is `Err` for a folder on a broken disk.
    pub(super) fn new(
        number: usize,
        path: PathBuf,
        capacity_bytes: u64,
        opened: Result<Identity, String>,
        now: Instant,
    ) -> Self {
        let state = if opened.is_ok() {
            FolderHealth::Healthy
        } else {
            FolderHealth::Out
        };
        let last_error = opened.as_ref().err().cloned();
        Self {
            path,
            label: number.to_string(),
            account: Mutex::new(Account::new(capacity_bytes)),
            health: Mutex::new(Health::new(state, now)),
            identity: Mutex::new(opened.ok()),
            last_error: Mutex::new(last_error),
            checksum_failures: AtomicU64::new(0),
            busy: AtomicUsize::new(0),
        }
    }

    pub(super) fn state(&self) -> FolderHealth {
        self.health.lock().state()
    }

    /// Begins a read, if the folder is to be read.
    pub(super) fn begin_read(&self) -> Option<Operation<'_>> {
        let (operation, busy) = self.begin();
        match self.state() {
            FolderHealth::Healthy => Some(operation),
            FolderHealth::Unstable => (busy <= MAX_UNSTABLE_READS).then_some(operation),
            FolderHealth::Out => None,
        }
    }

    /// Begins a write, if the folder is to be written.
    pub(super) fn begin_write(&self) -> Option<Operation<'_>> {
        let (operation, _) = self.begin();
        (self.state() == FolderHealth::Healthy).then_some(operation)
    }

    /// Begins to remove what is there, which is due however the folder is.
    pub(super) fn begin_removal(&self) -> Operation<'_> {
        let (operation, _) = self.begin();
        operation
    }

    /// Whether an operation is going on. Once the folder is out and this is false, none begins on what it had.
    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::SeqCst) > 0
    }

    /// Whether the folder is still there. A disk that was unmounted leaves an empty folder of the same name.
    pub(super) fn is_gone(&self, fs: &dyn FileSystem) -> bool {
        let read = fs.read(&self.path.join(SUPERBLOCK), 1);
        read.is_err_and(|error| matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory))
    }

    /// Whether what is at the folder's place may be taken for it again: a cache folder, or an empty one on the device
    /// that it was on. An empty one elsewhere is likely the mount point of a disk that is not mounted.
    pub(super) fn may_return(&self, fs: &dyn FileSystem) -> bool {
        let superblock = fs.read(&self.path.join(SUPERBLOCK), to_u64(SUPERBLOCK_BYTES) + 1);
        if superblock.is_ok_and(|bytes| Superblock::decode(&bytes).is_some()) {
            return true;
        }
        let device = self.identity.lock().as_ref().map(|identity| identity.device);
        let is_same = std::fs::metadata(&self.path).is_ok_and(|found| Some(found.dev()) == device);
        is_same && entries(&self.path).is_ok_and(|names| names.is_empty())
    }

    /// Lets other processes, and this one anew, have the folder.
    pub(super) fn unlock(&self) {
        if let Some(identity) = self.identity.lock().as_mut() {
            identity.lock = None;
        }
    }

    fn begin(&self) -> (Operation<'_>, usize) {
        // Counted before the state is looked at, and the state is set before the count is: one of the two is seen.
        let before = self.busy.fetch_add(1, Ordering::SeqCst);
        (Operation(self), before + 1)
    }
}

/// Makes a folder ours to use: refuses what is not ours, locks it, and empties it where it is of another form.
pub(super) fn occupy(path: &Path, page_size: u64, fs: &dyn FileSystem) -> Result<Identity, DiskError> {
    let failed = |doing| {
        move |source| DiskError::Io {
            path: path.to_owned(),
            doing,
            source,
        }
    };
    refuse_foreign(path, fs)?;
    let lock = lock(path)?;
    let device = std::fs::metadata(path).map_err(failed("look at what is"))?.dev();
    let held = read_superblock(path, fs).map_err(failed("read the superblock"))?;
    let held = Superblock::decode(&held).filter(|held| held.page_size == page_size);
    let superblock = match held {
        Some(superblock) => superblock,
        None => begin_anew(path, page_size, fs).map_err(failed("begin an empty cache"))?,
    };
    match probe(path, fs) {
        // The cache itself may have filled the disk. It goes on with what it holds.
        Err(error) if Trouble::of(&error) == Trouble::Full => {}
        probed => probed.map_err(|source| DiskError::Unusable {
            path: path.to_owned(),
            source,
        })?,
    }
    Ok(Identity {
        uuid: superblock.uuid,
        device,
        lock: Some(lock),
    })
}

/// Writes a small file, frees half of it, reads it back and removes it.
pub(super) fn probe(path: &Path, fs: &dyn FileSystem) -> io::Result<()> {
    let path = path.join(PROBE);
    let probed = write_and_free(&path, fs);
    probed.and(fs.remove(&path))
}

fn write_and_free(path: &Path, fs: &dyn FileSystem) -> io::Result<()> {
    let file = fs.create(path)?;
    fs.write_at(&file, 0, &[0xA5; 8192])?;
    fs.punch(&file, 0..4096)?;
    let mut read = vec![0; 8192];
    fs.read_at(&file, 0, &mut read)?;
    let (freed, kept) = read.split_at(4096);
    if freed.iter().any(|byte| *byte != 0) || kept.iter().any(|byte| *byte != 0xA5) {
        return Err(io::Error::other(
            "a trial file read back as other bytes than were written",
        ));
    }
    Ok(())
}

/// A folder with anything in it must have our superblock. A damaged one passes where all else is ours, too.
fn refuse_foreign(path: &Path, fs: &dyn FileSystem) -> Result<(), DiskError> {
    let failed = |source| DiskError::Io {
        path: path.to_owned(),
        doing: "list what is",
        source,
    };
    let superblock = read_superblock(path, fs).map_err(failed)?;
    if is_ours(&superblock) {
        return Ok(());
    }
    let names = entries(path).map_err(failed)?;
    let has_superblock = names.iter().any(|name| name == SUPERBLOCK);
    let own = [SUPERBLOCK, NEW_SUPERBLOCK, LOCK, PROBE, LOST_AND_FOUND];
    let foreign = names
        .into_iter()
        .find(|name| !(own.contains(&name.as_str()) || has_superblock && recover::is_shard(name)));
    match foreign {
        None => Ok(()),
        Some(entry) => Err(DiskError::Foreign {
            path: path.to_owned(),
            entry,
        }),
    }
}

fn lock(path: &Path) -> Result<Lock, DiskError> {
    let open = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path.join(LOCK));
    let lock = open.map_err(|source| DiskError::Unusable {
        path: path.to_owned(),
        source,
    })?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Lock(lock)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(DiskError::Locked { path: path.to_owned() }),
        Err(errno) => Err(DiskError::Io {
            path: path.to_owned(),
            doing: "take the lock",
            source: errno.into(),
        }),
    }
}

/// Removes all that a cache left, and only then says of which form the folder is from now on.
fn begin_anew(path: &Path, page_size: u64, fs: &dyn FileSystem) -> io::Result<Superblock> {
    let removed = recover::wipe(path, fs)?;
    if removed > 0 {
        tracing::warn!(folder = %path.display(), files = removed, "the cache folder is of another form; it begins empty");
    }
    let mut uuid = [0; 16];
    getrandom::fill(&mut uuid).map_err(io::Error::other)?;
    let superblock = Superblock { page_size, uuid };
    let new = path.join(NEW_SUPERBLOCK);
    let file = fs.create(&new)?;
    fs.write_at(&file, 0, &superblock.encode())?;
    fs.sync(&new)?;
    fs.rename(&new, &path.join(SUPERBLOCK))?;
    // The one thing that is synced, once in a folder's life: without a superblock, its files would be taken for
    // somebody else's after a power loss.
    fs.sync(path)?;
    Ok(superblock)
}

/// The superblock's bytes, and one more if it is too long; none where there is none.
fn read_superblock(path: &Path, fs: &dyn FileSystem) -> io::Result<Vec<u8>> {
    match fs.read(&path.join(SUPERBLOCK), to_u64(SUPERBLOCK_BYTES) + 1) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    }
}

fn entries(path: &Path) -> io::Result<Vec<String>> {
    let names = std::fs::read_dir(path)?;
    names
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}
