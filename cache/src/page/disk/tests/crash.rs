//! A process that ends at any moment, and a machine that loses power.
//!
//! A workload's file-system calls are recorded, and every prefix of the record is replayed into an empty folder, with
//! the last call whole, or torn in several places. A store opened on that serves right bytes or nothing.

use super::*;

/// A call that changed files, with paths below the folder.
#[derive(Debug, Clone)]
enum Change {
    CreateDir(PathBuf),
    Create(PathBuf),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    Write(PathBuf, u64, Vec<u8>),
    Punch(PathBuf, Range<u64>),
}

impl Change {
    fn of(call: &Call<'_>, folder: &Path) -> Option<Self> {
        let below = |path: &Path| path.strip_prefix(folder).unwrap().to_owned();
        Some(match call {
            Call::CreateDir(path) => Self::CreateDir(below(path)),
            Call::Create(path) if path.parent().is_some_and(Path::is_dir) => Self::Create(below(path)),
            Call::Rename(from, to) => Self::Rename(below(from), below(to)),
            Call::Remove(path) => Self::Remove(below(path)),
            Call::WriteAt(file, offset, bytes) => Self::Write(below(&path_of(file)?), *offset, bytes.to_vec()),
            Call::Punch(file, part) => Self::Punch(below(&path_of(file)?), part.clone()),
            // Without its folder, nothing is made.
            Call::Create(_) | Call::Read | Call::Open | Call::ReadAt | Call::Sync => return None,
        })
    }

    fn apply(&self, folder: &Path) {
        let open = |path: &PathBuf| LocalFs.open(&folder.join(path));
        match self {
            Self::CreateDir(path) => LocalFs.create_dir(&folder.join(path)).unwrap(),
            Self::Create(path) => drop(LocalFs.create(&folder.join(path)).unwrap()),
            Self::Rename(from, to) => LocalFs.rename(&folder.join(from), &folder.join(to)).unwrap(),
            Self::Remove(path) => LocalFs.remove(&folder.join(path)).unwrap(),
            Self::Write(path, offset, bytes) => LocalFs.write_at(&open(path).unwrap(), *offset, bytes).unwrap(),
            Self::Punch(path, part) => LocalFs.punch(&open(path).unwrap(), part.clone()).unwrap(),
        }
    }

    /// As [`Change::apply`], where earlier changes may be lost and this one may have nothing to change.
    fn try_apply(&self, folder: &Path) {
        let exists = |path: &PathBuf| folder.join(path).exists();
        let possible = match self {
            Self::CreateDir(_) | Self::Remove(_) => true,
            Self::Create(path) => folder.join(path).parent().unwrap().exists(),
            Self::Rename(path, _) | Self::Write(path, ..) | Self::Punch(path, _) => exists(path),
        };
        if possible {
            self.apply(folder);
        }
    }

    /// What is left of it when it is cut off. Names, emptied files and unlinks are whole or not at all.
    fn torn(&self) -> Vec<Self> {
        let cuts = |length: usize| {
            // Within a slot and between two, within a header, and within the slots that are written with it.
            let mut cuts: Vec<_> = [1, 8, 15, 16, 17, 4096, 4104, 4112, 4113].into();
            cuts.extend([length / 2, length.saturating_sub(1)]);
            cuts.retain(|cut| *cut < length);
            cuts.sort_unstable();
            cuts.dedup();
            cuts
        };
        match self {
            Self::Write(path, offset, bytes) => {
                let torn = |cut: usize| Self::Write(path.clone(), *offset, bytes[..cut].to_vec());
                cuts(bytes.len()).into_iter().map(torn).collect()
            }
            Self::Punch(path, part) if part.end - part.start > PAGE => {
                vec![Self::Punch(path.clone(), part.start..part.end - PAGE)]
            }
            Self::CreateDir(_) | Self::Create(_) | Self::Rename(..) | Self::Remove(_) | Self::Punch(..) => Vec::new(),
        }
    }
}

/// The path of an open file; `None` once it is unlinked.
fn path_of(file: &File) -> Option<PathBuf> {
    use std::os::fd::AsRawFd;
    let path = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    path.exists().then_some(path)
}

/// What a workload did, and what was held after so many of its changes.
struct Record {
    changes: Vec<Change>,
    held: Vec<(usize, Vec<BTreeSet<u64>>)>,
}

fn files() -> Vec<FileKey> {
    [40 * PAGE + 100, 300 * PAGE, 10, 30 * PAGE, 2 * PAGE]
        .iter()
        .enumerate()
        .map(|(n, size)| key(&format!("f{n}"), *size))
        .collect()
}

const PAGES: u64 = 300;

fn held_pages(store: &DiskPages) -> Vec<BTreeSet<u64>> {
    let held = |file: &FileKey| {
        (0..PAGES)
            .filter(|page| store.contains(file.id(), PageIndex(*page)))
            .collect()
    };
    files().iter().map(held).collect()
}

/// Puts, evictions, removals of pages and of files, and files put again, within a small capacity.
fn record(seed: u64, steps: u64) -> Record {
    let rig = Rig::new(2 * MIB);
    let changes = Arc::new(Mutex::new(Vec::new()));
    let (log, folder) = (
        Arc::clone(&changes),
        rig.dir.path().canonicalize().unwrap().join("folder-0"),
    );
    let watch = Watched::new(move |call| {
        log.lock().extend(Change::of(call, &folder));
        Ok(())
    });
    let store = rig.open_on(watch, &Clock::new());
    let files = files();
    let mut random = Random(seed);
    let mut held = vec![(changes.lock().len(), held_pages(&store))];
    for _ in 0..steps {
        let file = &files[to_usize(random.next(to_u64(files.len())))];
        let first = random.next(file.size.div_ceil(PAGE));
        match random.next(10) {
            0 => drop(store.remove_file(file.id())),
            1 | 2 => drop(store.remove_pages(file.id(), PageIndex(first)..PageIndex(first + random.next(20)))),
            _ => put_pages(&store, file, first..first + 1 + random.next(24)),
        }
        held.push((changes.lock().len(), held_pages(&store)));
    }
    check_account(&store);
    drop(store);
    let changes = std::mem::take(&mut *changes.lock());
    Record { changes, held }
}

/// Opens what a crash left: right bytes or none, in good order, and fit for use.
fn check_crashed(folder: &Path, scratch: &Path) -> Vec<BTreeSet<u64>> {
    copy(folder, scratch);
    let config = DiskConfig {
        folders: vec![FolderConfig {
            path: scratch.to_owned(),
            capacity_bytes: 2 * MIB,
        }],
        page_size_bytes: PAGE,
    };
    let store = DiskPages::open(&config).unwrap();
    check_account(&store);
    let held = held_pages(&store);
    for (file, held) in files().iter().zip(&held) {
        assert_eq!(served(&store, file, 0..PAGES), *held, "held by memory, but not served");
    }
    // Within a process's order, no slot is without its bytes.
    assert_eq!(checksum_failures(&store), 0);
    let file = &files()[3];
    put_pages(&store, file, 3..9);
    assert_eq!(served(&store, file, 3..9).len(), 6);
    drop(store);
    std::fs::remove_dir_all(scratch).unwrap();
    held
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(from, to).unwrap();
        }
    }
}

/// FORMAT: "A process that dies at any moment leaves a folder that is right", by every prefix of what it did: "A write that
/// is cut off has written what comes first."
#[test]
fn every_prefix_of_the_writes_is_right_or_a_miss() {
    let record = record(seed("crash"), 90);
    let dir = tempfile::tempdir().unwrap();
    let (folder, scratch) = (dir.path().join("replayed"), dir.path().join("scratch"));
    std::fs::create_dir(&folder).unwrap();
    let mut images = 0;
    for (n, change) in record.changes.iter().enumerate() {
        let held = check_crashed(&folder, &scratch);
        // Between two operations of the store, nothing that it held is lost.
        if let Some((_, expected)) = record.held.iter().rev().find(|(at, _)| *at == n) {
            assert_eq!(held, *expected, "after {n} changes");
        }
        for torn in change.torn() {
            let image = dir.path().join("torn");
            copy(&folder, &image);
            torn.apply(&image);
            check_crashed(&image, &scratch);
            std::fs::remove_dir_all(&image).unwrap();
            images += 1;
        }
        change.apply(&folder);
        images += 1;
    }
    assert_eq!(check_crashed(&folder, &scratch), record.held.last().unwrap().1);
    assert!(record.changes.len() > 90, "only {} changes", record.changes.len());
    println!("{} changes, {images} images", record.changes.len());
}

/// FORMAT: "After a power loss, what was not written does not check, and is a miss when it is read." Writes are lost at
/// random, or written late.
#[test]
fn any_part_of_the_writes_is_right_or_a_miss() {
    let seed = seed("power");
    let record = record(seed, 120);
    let mut random = Random(seed ^ 1);
    // The superblock is synced.
    let is_shard = |change: &Change| matches!(change, Change::CreateDir(_));
    let synced = record.changes.iter().position(is_shard).unwrap();
    let mut failures = 0;
    for _ in 0..150 {
        let rig = Rig::new(2 * MIB);
        std::fs::create_dir(rig.folder()).unwrap();
        let upto = synced + to_usize(random.next(to_u64(record.changes.len() - synced)));
        let lost = 1 + random.next(60);
        let mut late = Vec::new();
        for (n, change) in record.changes[..upto].iter().enumerate() {
            match random.next(100) {
                roll if n < synced || roll >= lost => change.try_apply(rig.folder()),
                roll if roll % 2 == 0 => late.push(change),
                _ => {}
            }
        }
        late.iter().for_each(|change| change.try_apply(rig.folder()));
        let store = rig.open();
        check_account(&store);
        for file in files() {
            served(&store, &file, 0..PAGES);
            put_pages(&store, &file, 0..5);
            served(&store, &file, 0..PAGES);
        }
        check_account(&store);
        failures += checksum_failures(&store);
    }
    assert!(failures > 0, "nothing was torn, so nothing was tested");
    println!("{failures} pages did not check");
}
