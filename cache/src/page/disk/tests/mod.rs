//! The store as a whole: what the format promises, restarts, damage, crashes, faults, and a model.

mod bench;
mod calls;
mod crash;
mod damage;
mod faults;
mod format;
mod model;
mod process;
mod restart;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tempfile::TempDir;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::fs::{FileSystem, LocalFs};
use super::{DiskConfig, DiskError, DiskPages, FolderConfig, Outside};
use crate::counters::testing::Counters;
use crate::key::{FileId, FileKey, Generation, PageIndex, to_u64, to_usize};

/// The page size of most tests: the smallest.
const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;

/// A file version of some length.
fn key(name: &str, size: u64) -> FileKey {
    FileKey {
        uri: format!("s3://bucket/{name}").into(),
        generation: Generation::from_parts(None, Some(&format!("etag-of-{name}")), 0, size),
        size,
    }
}

/// The bytes of a file: no two words of any two files are alike, but by chance.
fn content(key: &FileKey, range: Range<u64>) -> Bytes {
    let seed = u64::try_from(key.id().as_u128() & u128::from(u64::MAX)).unwrap();
    let words = range.start / 8..range.end.div_ceil(8);
    let bytes: Vec<u8> = words
        .flat_map(|word| xxh3_64_with_seed(&word.to_le_bytes(), seed).to_le_bytes())
        .collect();
    let skip = to_usize(range.start % 8);
    Bytes::from(bytes).slice(skip..skip + to_usize(range.end - range.start))
}

fn page_content(key: &FileKey, page: u64, page_size: u64) -> Bytes {
    content(key, page * page_size..((page + 1) * page_size).min(key.size))
}

fn put_pages(store: &DiskPages, key: &FileKey, pages: Range<u64>) {
    let end = (pages.end * store.page_size).min(key.size);
    let range = (pages.start * store.page_size).min(end)..end;
    store.put(key, PageIndex(pages.start), &content(key, range));
}

/// Reads pages one by one: each, or none where it is not served.
fn got(store: &DiskPages, file: FileId, asked: &[PageIndex]) -> Vec<Option<Bytes>> {
    let runs = store.get(file, asked);
    let page = |page: &PageIndex| {
        runs.iter().find_map(|(first, bytes)| {
            let at = to_usize(page.0.checked_sub(first.0)?.checked_mul(store.page_size)?);
            (at < bytes.len()).then(|| bytes.slice(at..(at + to_usize(store.page_size)).min(bytes.len())))
        })
    };
    asked.iter().map(page).collect()
}

/// Reads pages, and returns those that were served. Wrong bytes are a failed test.
fn served(store: &DiskPages, key: &FileKey, pages: Range<u64>) -> BTreeSet<u64> {
    let asked: Vec<_> = pages.clone().map(PageIndex).collect();
    let got = got(store, key.id(), &asked);
    assert_eq!(got.len(), asked.len());
    let hits = pages.zip(got).filter_map(|(page, bytes)| Some((page, bytes?)));
    hits.map(|(page, bytes)| {
        assert!(
            bytes == page_content(key, page, store.page_size),
            "wrong bytes for page {page} of {}",
            key.uri
        );
        page
    })
    .collect()
}

fn checksum_failures(store: &DiskPages) -> u64 {
    store.folders().iter().map(|folder| folder.checksum_failures).sum()
}

/// A folder of its own for a test, with settings for it.
struct Rig {
    dir: TempDir,
    config: DiskConfig,
}

impl Rig {
    fn new(capacity_bytes: u64) -> Self {
        Self::with_folders(&[capacity_bytes])
    }

    fn with_folders(capacities: &[u64]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = |(number, capacity_bytes): (usize, &u64)| FolderConfig {
            path: dir.path().join(format!("folder-{number}")),
            capacity_bytes: *capacity_bytes,
        };
        let config = DiskConfig {
            folders: capacities.iter().enumerate().map(folder).collect(),
            page_size_bytes: PAGE,
        };
        Self { dir, config }
    }

    fn folder(&self) -> &Path {
        &self.config.folders[0].path
    }

    fn open(&self) -> DiskPages {
        DiskPages::open(&self.config).unwrap()
    }

    fn error(&self) -> DiskError {
        match DiskPages::open(&self.config) {
            Ok(_) => panic!("it opened"),
            Err(error) => error,
        }
    }

    fn open_on(&self, fs: Watched, clock: &Clock) -> DiskPages {
        let clock = clock.clone();
        let outside = Outside {
            fs: Arc::new(fs),
            clock: Arc::new(move || clock.now()),
            max_open_files: 4,
        };
        DiskPages::open_with(&self.config, outside).unwrap()
    }
}

/// A clock that a test turns.
#[derive(Clone)]
struct Clock(Arc<Mutex<Instant>>);

impl Clock {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    fn now(&self) -> Instant {
        *self.0.lock()
    }

    fn turn(&self, seconds: u64) {
        *self.0.lock() += Duration::from_secs(seconds);
    }
}

/// A call of the file system.
#[derive(Debug)]
enum Call<'a> {
    CreateDir(&'a Path),
    Create(&'a Path),
    Rename(&'a Path, &'a Path),
    Remove(&'a Path),
    Read,
    Open,
    ReadAt,
    WriteAt(&'a File, u64, &'a [u8]),
    Punch(&'a File, Range<u64>),
    Sync,
}

type Hook = Box<dyn Fn(&Call<'_>) -> io::Result<()> + Send + Sync>;

/// The file system, with a hook that sees each call first and may make it fail.
struct Watched(Hook);

impl Watched {
    fn new(hook: impl Fn(&Call<'_>) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self(Box::new(hook))
    }
}

impl FileSystem for Watched {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        (self.0)(&Call::CreateDir(path))?;
        LocalFs.create_dir(path)
    }
    fn create(&self, path: &Path) -> io::Result<File> {
        (self.0)(&Call::Create(path))?;
        LocalFs.create(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        (self.0)(&Call::Rename(from, to))?;
        LocalFs.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        (self.0)(&Call::Remove(path))?;
        LocalFs.remove(path)
    }
    fn read(&self, path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
        (self.0)(&Call::Read)?;
        LocalFs.read(path, max_bytes)
    }
    fn open(&self, path: &Path) -> io::Result<File> {
        (self.0)(&Call::Open)?;
        LocalFs.open(path)
    }
    fn read_at(&self, file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        (self.0)(&Call::ReadAt)?;
        LocalFs.read_at(file, offset, buffer)
    }
    fn write_at(&self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        (self.0)(&Call::WriteAt(file, offset, bytes))?;
        LocalFs.write_at(file, offset, bytes)
    }
    fn sync(&self, path: &Path) -> io::Result<()> {
        (self.0)(&Call::Sync)?;
        LocalFs.sync(path)
    }
    fn punch(&self, file: &File, part: Range<u64>) -> io::Result<()> {
        (self.0)(&Call::Punch(file, part.clone()))?;
        LocalFs.punch(file, part)
    }
}

/// What holds whenever nobody is within a call: the account is that of the files, and within the capacity.
fn check_account(store: &DiskPages) {
    let files: Vec<_> = store.index.read().values().cloned().collect();
    for (number, folder) in store.folders.iter().enumerate() {
        let mut expected = 0;
        for file in files.iter().filter(|file| file.folder == number) {
            let presence = file.presence.read().clone();
            assert!(!presence.is_empty(), "a file without pages is in the index");
            expected += presence.iter().map(|page| file.shape.allocated(page)).sum::<u64>();
            expected += file.writer.lock().charged();
        }
        let account = folder.account.lock();
        assert_eq!(account.held_bytes(), expected, "the account of folder {number}");
        assert!(
            account.held_bytes() <= account.capacity_bytes(),
            "folder {number} is over its capacity"
        );
    }
}

/// That what is held is what the disk says. A file system may need a block more for where the parts of a file lie.
fn check_disk(folder: &Path, held_bytes: u64) {
    let (found, files) = (disk_bytes(folder), to_u64(files_in(folder).len()));
    let expected = held_bytes..=held_bytes + files * 4096;
    assert!(
        expected.contains(&found),
        "{found} bytes on disk, {held_bytes} held in {files} files"
    );
}

/// What the files of file versions take on disk, in bytes.
fn disk_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    files_in(folder)
        .iter()
        .map(|path| std::fs::metadata(path).unwrap().blocks() * 512)
        .sum()
}

/// The files of a folder's folders, sorted.
fn files_in(folder: &Path) -> Vec<PathBuf> {
    let shards = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let shards = shards.filter(|path| path.is_dir());
    let files = shards.flat_map(|shard| std::fs::read_dir(shard).unwrap().map(|entry| entry.unwrap().path()));
    let mut files: Vec<_> = files.collect();
    files.sort();
    files
}

/// Where a folder has the file of a file version.
fn path_of(folder: &Path, key: &FileKey) -> PathBuf {
    let id = key.id().to_string();
    folder.join(&id[..2]).join(format!("{id}.pages"))
}

/// Where the pages begin in the file of a file version.
fn data_offset(key: &FileKey) -> u64 {
    4096 + (key.size.div_ceil(PAGE) * 16).next_multiple_of(4096)
}

fn pages(range: Range<u64>) -> Vec<PageIndex> {
    range.map(PageIndex).collect()
}

fn errno(errno: rustix::io::Errno) -> io::Error {
    errno.into()
}

/// Numbers that look random, from a seed that a failed test can be repeated with.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        xxh3_64_with_seed(&self.0.to_le_bytes(), 7) % below
    }
}

/// A seed, printed, or the one that the environment asks for.
fn seed(test: &str) -> u64 {
    let wanted = std::env::var("JETBRIDGE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = wanted.unwrap_or_else(|| {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    });
    println!("{test}: JETBRIDGE_SEED={seed}");
    seed
}

#[test]
fn what_was_put_is_read_back_and_only_that() {
    let rig = Rig::new(64 * MIB);
    let store = rig.open();
    let (a, b) = (key("a", 40 * PAGE + 100), key("b", 10));
    put_pages(&store, &a, 3..20);
    put_pages(&store, &b, 0..1);
    assert_eq!(served(&store, &a, 0..50), (3..20).collect());
    put_pages(&store, &a, 38..41);
    assert_eq!(served(&store, &a, 30..50), (38..41).collect());
    assert_eq!(served(&store, &b, 0..2), BTreeSet::from([0]));
    assert!(store.contains(a.id(), PageIndex(40)) && !store.contains(a.id(), PageIndex(41)));
    assert_eq!(
        store.held(a.id()),
        super::Held {
            pages: 20,
            bytes: 19 * PAGE + 100
        }
    );
    assert_eq!(store.held(FileId::from_u128(1)), super::Held::default());
    assert_eq!(store.get(FileId::from_u128(1), &pages(0..2)), []);
    check_account(&store);
}

#[test]
fn only_whole_pages_are_kept() {
    let rig = Rig::new(64 * MIB);
    let store = rig.open();
    let file = key("a", 3 * PAGE + 5);
    store.put(&file, PageIndex(0), &content(&file, 0..2 * PAGE - 1));
    assert_eq!(served(&store, &file, 0..4), BTreeSet::from([0]));
    store.put(&file, PageIndex(3), &content(&file, 3 * PAGE..3 * PAGE + 4));
    assert_eq!(served(&store, &file, 0..4), BTreeSet::from([0]));
    // More bytes than the file has, and pages that it does not have.
    let mut long = content(&file, 2 * PAGE..3 * PAGE + 5).to_vec();
    long.extend([9; 9000]);
    store.put(&file, PageIndex(2), &long.into());
    store.put(&file, PageIndex(4), &Bytes::from_static(&[9; 9000]));
    store.put(&file, PageIndex(u64::MAX), &Bytes::from_static(&[9; 9000]));
    assert_eq!(served(&store, &file, 0..9), BTreeSet::from([0, 2, 3]));
    assert_eq!(store.get(file.id(), &[PageIndex(u64::MAX)]), []);
    let empty = key("empty", 0);
    store.put(&empty, PageIndex(0), &Bytes::new());
    assert_eq!(store.files().len(), 1);
    check_account(&store);
}

/// FORMAT: "A file version whose generation does not fit is not cached, nor is one whose last page would end at 2^63 or
/// beyond."
#[test]
fn files_that_cannot_be_are_not_kept() {
    let rig = Rig::new(64 * MIB);
    let store = rig.open();
    // The most pages of a file that ends before 2^63 with a header of 4096 bytes and a slot of 16 for each.
    let most = ((1u64 << 63) - 2 * 4096) / (PAGE + 16);
    for size in [u64::MAX, u64::MAX >> 1, (most + 2) * PAGE, most * PAGE] {
        let vast = key("vast", size);
        store.put(&vast, PageIndex(0), &content(&vast, 0..PAGE));
        store.remove_file(vast.id());
        // The last page lies where no file system has files: not kept, and no sign of a broken disk.
        for _ in 0..10 {
            store.put(&vast, PageIndex(size / PAGE - 1), &Bytes::from(vec![1; to_usize(PAGE)]));
        }
    }
    let mut long = key("long", PAGE);
    long.generation = Generation::from_parts(Some(&"v".repeat(5000)), None, 0, 0);
    store.put(&long, PageIndex(0), &content(&long, 0..PAGE));
    assert_eq!(store.files(), []);
    assert_eq!(store.bytes(), 0);
    assert_eq!(store.folders()[0].health, super::FolderHealth::Healthy);
}

#[test]
fn capacity_is_kept_and_is_what_the_disk_says() {
    let rig = Rig::new(3 * MIB);
    let store = rig.open();
    let files: Vec<_> = (0..40)
        .map(|n| key(&format!("f{n}"), (n % 7) * 50 * PAGE + 77))
        .collect();
    for (n, file) in files.iter().enumerate() {
        put_pages(&store, file, to_u64(n) % 3..300);
        assert!(store.bytes() <= 3 * MIB);
        check_account(&store);
    }
    assert!(store.bytes() > 2 * MIB, "only {} bytes are held", store.bytes());
    check_disk(rig.folder(), store.bytes());
    let hits: usize = files.iter().map(|file| served(&store, file, 0..300).len()).sum();
    assert_eq!(
        to_u64(hits),
        store.files().iter().map(|file| file.held.pages).sum::<u64>()
    );
    assert_eq!(checksum_failures(&store), 0);
    store.set_capacity(0, MIB);
    assert!(store.bytes() <= MIB && store.bytes() > 0);
    check_disk(rig.folder(), store.bytes());
    store.set_capacity(0, 0);
    store.set_capacity(7, 0);
    assert_eq!((store.bytes(), files_in(rig.folder()).len()), (0, 0));
    put_pages(&store, &files[1], 0..9);
    assert_eq!((store.bytes(), files_in(rig.folder()).len()), (0, 0));
}

#[test]
fn removals_say_what_they_freed_and_free_it() {
    let rig = Rig::new(64 * MIB);
    let store = rig.open();
    let file = key("a", 600 * PAGE + 9);
    put_pages(&store, &file, 0..601);
    let full = store.bytes();
    assert_eq!(store.remove_pages(file.id(), PageIndex(10)..PageIndex(20)), 10 * PAGE);
    assert_eq!(store.remove_pages(file.id(), PageIndex(10)..PageIndex(20)), 0);
    assert_eq!(store.remove_pages(file.id(), PageIndex(600)..PageIndex(9000)), 9);
    assert_eq!(store.bytes(), full - 11 * PAGE);
    assert_eq!(served(&store, &file, 0..700), (0..10).chain(20..600).collect());
    check_account(&store);
    check_disk(rig.folder(), store.bytes());
    // All pages of a block of slots: the block is given back as well.
    assert_eq!(
        store.remove_pages(file.id(), PageIndex(256)..PageIndex(512)),
        256 * PAGE
    );
    assert_eq!(store.bytes(), full - (11 + 256 + 1) * PAGE);
    check_disk(rig.folder(), store.bytes());
    check_account(&store);
    assert_eq!(store.remove_file(file.id()), (10 + 236 + 88) * PAGE);
    assert_eq!(store.remove_file(file.id()), 0);
    assert_eq!((store.bytes(), files_in(rig.folder()).len()), (0, 0));
    put_pages(&store, &file, 0..3);
    assert_eq!(
        store.remove_pages(file.id(), PageIndex(0)..PageIndex(u64::MAX)),
        3 * PAGE
    );
    assert_eq!(
        (store.bytes(), files_in(rig.folder()).len(), store.files().len()),
        (0, 0, 0)
    );
}

#[test]
fn few_files_are_open_at_a_time() {
    let rig = Rig::new(64 * MIB);
    let store = rig.open_on(Watched::new(|_| Ok(())), &Clock::new());
    let files: Vec<_> = (0..20).map(|n| key(&format!("f{n}"), 9 * PAGE)).collect();
    for file in &files {
        put_pages(&store, file, 0..9);
        assert!(store.handles.len() <= 4);
    }
    for file in files.iter().chain(files.iter().rev()) {
        assert_eq!(served(&store, file, 0..9).len(), 9);
        assert!(store.handles.len() <= 4);
    }
    for file in &files {
        store.remove_file(file.id());
    }
    assert_eq!(store.handles.len(), 0);
}

#[test]
fn new_files_go_to_folders_by_capacity_and_each_lives_in_one() {
    let rig = Rig::with_folders(&[30 * MIB, 60 * MIB, 0]);
    let store = rig.open();
    let files: Vec<_> = (0..300).map(|n| key(&format!("f{n}"), 4 * PAGE)).collect();
    for file in &files {
        put_pages(&store, file, 0..2);
        put_pages(&store, file, 2..4);
    }
    let in_folder = |n: usize| files_in(&rig.config.folders[n].path).len();
    assert_eq!(in_folder(0) + in_folder(1), 300);
    assert!(
        (70..130).contains(&in_folder(0)) && in_folder(2) == 0,
        "{}",
        in_folder(0)
    );
    assert!(files.iter().all(|file| served(&store, file, 0..4).len() == 4));
    let status = store.folders();
    check_disk(&rig.config.folders[0].path, status[0].held_bytes);
    assert_eq!(
        store.bytes(),
        status.iter().map(|folder| folder.held_bytes).sum::<u64>()
    );
    check_account(&store);
}
