//! Another process on the same folders, with the same settings or others.

use std::time::SystemTime;

use super::super::FolderHealth;
use super::*;

#[test]
fn a_restart_finds_what_was_held() {
    let rig = Rig::new(64 * MIB);
    let store = rig.open();
    let (a, b) = (key("a", 700 * PAGE + 100), key("b", 10));
    put_pages(&store, &a, 3..20);
    put_pages(&store, &a, 690..701);
    put_pages(&store, &b, 0..1);
    store.remove_pages(a.id(), PageIndex(5)..PageIndex(7));
    let mut before = (store.files(), store.bytes());
    drop(store);
    let store = rig.open();
    let mut after = (store.files(), store.bytes());
    before.0.sort_by_key(|file| file.id);
    after.0.sort_by_key(|file| file.id);
    assert_eq!(before, after);
    let of_a = after.0.iter().find(|file| file.id == a.id()).unwrap();
    assert_eq!(of_a.uri, Some(Arc::clone(&a.uri)));
    assert_eq!(of_a.generation.as_ref(), "etag:etag-of-a");
    assert_eq!((of_a.size, of_a.held), (a.size, store.held(a.id())));
    assert_eq!(
        served(&store, &a, 0..701),
        (3..5).chain(7..20).chain(690..701).collect()
    );
    assert_eq!(served(&store, &b, 0..1).len(), 1);
    check_account(&store);
}

/// FORMAT: "A file version is as old as its file: the time that its file system says it was made, else that of its last
/// change."
#[test]
fn a_restart_makes_nothing_younger() {
    let rig = Rig::new(64 * MIB);
    let (store, file) = (rig.open(), key("a", 100 * PAGE));
    put_pages(&store, &file, 0..3);
    let made = store.held_since(file.id()).unwrap();
    drop(store);
    // File systems may tell times to a second only.
    std::thread::sleep(Duration::from_millis(1_100));
    let restarted = SystemTime::now();
    let store = rig.open();
    put_pages(&store, &file, 3..6);
    let found = store.held_since(file.id()).unwrap();
    assert!(
        found < restarted && found > made - Duration::from_secs(2),
        "{found:?}, {made:?}"
    );
    assert_eq!(store.held_since(key("b", 1).id()), None);
}

/// FORMAT: "A file without such bytes is not changed." What changed last is told by it.
#[test]
fn a_start_changes_no_file_that_is_in_order() {
    let rig = Rig::new(64 * MIB);
    let (store, file) = (rig.open(), key("a", 100 * PAGE));
    // In so many parts that the file system has a block for where they lie, which is more than slots vouch for.
    (0..100)
        .step_by(2)
        .for_each(|page| put_pages(&store, &file, page..page + 1));
    drop(store);
    let of_file = std::fs::OpenOptions::new()
        .write(true)
        .open(path_of(rig.folder(), &file))
        .unwrap();
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    of_file.set_modified(long_ago).unwrap();
    let store = rig.open();
    assert_eq!(of_file.metadata().unwrap().modified().unwrap(), long_ago);
    assert_eq!(served(&store, &file, 0..100), (0..100).step_by(2).collect());
}

#[test]
fn another_capacity_evicts_down() {
    let mut rig = Rig::new(64 * MIB);
    let store = rig.open();
    let files: Vec<_> = (0..8).map(|n| key(&format!("f{n}"), 100 * PAGE)).collect();
    for file in &files {
        put_pages(&store, file, 0..100);
    }
    drop(store);
    rig.config.folders[0].capacity_bytes = MIB;
    let store = rig.open();
    assert!(store.bytes() <= MIB && store.bytes() > MIB / 2, "{}", store.bytes());
    check_disk(rig.folder(), store.bytes());
    check_account(&store);
    let hits: usize = files.iter().map(|file| served(&store, file, 0..100).len()).sum();
    assert!(hits > 100, "{hits} pages");
    drop(store);
    rig.config.folders[0].capacity_bytes = 0;
    assert_eq!(rig.open().bytes(), 0);
    assert_eq!(files_in(rig.folder()), [] as [PathBuf; 0]);
}

#[test]
fn another_page_size_begins_empty() {
    let mut rig = Rig::new(64 * MIB);
    let store = rig.open();
    let file = key("a", 100 * PAGE);
    put_pages(&store, &file, 0..100);
    drop(store);
    rig.config.page_size_bytes = 8192;
    let store = rig.open();
    assert_eq!((store.files(), store.bytes()), (vec![], 0));
    assert_eq!(files_in(rig.folder()), [] as [PathBuf; 0]);
    put_pages(&store, &file, 0..50);
    assert_eq!(served(&store, &file, 0..50).len(), 50);
}

#[test]
fn files_are_read_where_they_lie_whatever_folders_are_listed() {
    let mut rig = Rig::with_folders(&[64 * MIB, 64 * MIB]);
    let store = rig.open();
    let files: Vec<_> = (0..60).map(|n| key(&format!("f{n}"), 2 * PAGE)).collect();
    files.iter().for_each(|file| put_pages(&store, file, 0..2));
    drop(store);
    // In another order, with one more, all are found.
    rig.config.folders.reverse();
    let third = FolderConfig {
        path: rig.dir.path().join("third"),
        capacity_bytes: 64 * MIB,
    };
    rig.config.folders.push(third);
    let store = rig.open();
    assert!(files.iter().all(|file| served(&store, file, 0..2).len() == 2));
    drop(store);
    // With one less, its files are misses, and are put elsewhere.
    let first = rig.config.folders.remove(0);
    let store = rig.open();
    let held = files
        .iter()
        .filter(|file| store.contains(file.id(), PageIndex(0)))
        .count();
    assert!((10..50).contains(&held), "{held}");
    files.iter().for_each(|file| put_pages(&store, file, 0..2));
    assert!(files.iter().all(|file| served(&store, file, 0..2).len() == 2));
    drop(store);
    // Then both have them: each is kept in one place.
    rig.config.folders.push(first);
    let store = rig.open();
    assert!(files.iter().all(|file| served(&store, file, 0..2).len() == 2));
    let data: usize = rig
        .config
        .folders
        .iter()
        .map(|folder| files_in(&folder.path).len())
        .sum();
    assert_eq!(data, 60);
    check_account(&store);
}

#[test]
fn a_folder_that_is_named_twice_or_lies_in_another_is_an_error() {
    let mut rig = Rig::new(MIB);
    drop(rig.open());
    let link = rig.dir.path().join("link");
    std::os::unix::fs::symlink(rig.folder(), &link).unwrap();
    let folder = |path: PathBuf| FolderConfig {
        path,
        capacity_bytes: MIB,
    };
    rig.config.folders.push(folder(link.clone()));
    let error = rig.error();
    assert!(matches!(error, DiskError::Overlap { .. }), "{error}");
    rig.config.folders[1] = folder(rig.folder().join("within"));
    let error = rig.error();
    assert!(matches!(error, DiskError::Overlap { .. }), "{error}");
    // One symbolic link alone is as good as the folder.
    rig.config.folders = vec![folder(link)];
    assert_eq!(rig.open().folders()[0].path.file_name().unwrap(), "folder-0");
}

#[test]
fn settings_that_cannot_be_are_errors() {
    let mut rig = Rig::new(MIB);
    for bytes in [0, 1, 4095, 6000, (1 << 30) + 4096] {
        rig.config.page_size_bytes = bytes;
        assert!(matches!(rig.error(), DiskError::PageSize { .. }));
    }
    rig.config.page_size_bytes = 4096;
    let file = rig.dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    rig.config.folders[0].path = file.clone();
    let error = rig.error();
    assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
    rig.config.folders.clear();
    assert!(matches!(rig.error(), DiskError::NoFolder));
}

#[test]
fn a_folder_on_a_broken_disk_is_left_out_and_tried_again() {
    let rig = Rig::with_folders(&[64 * MIB, 64 * MIB]);
    let broken = Arc::new(Mutex::new(true));
    let is_broken = Arc::clone(&broken);
    let watch = Watched::new(move |call| match call {
        Call::Create(path) if *is_broken.lock() && path.to_string_lossy().contains("folder-0") => {
            Err(errno(rustix::io::Errno::IO))
        }
        _ => Ok(()),
    });
    let clock = Clock::new();
    let store = rig.open_on(watch, &clock);
    let health = || store.folders().iter().map(|folder| folder.health).collect::<Vec<_>>();
    assert_eq!(health(), [FolderHealth::Out, FolderHealth::Healthy]);
    assert!(store.folders()[0].error.as_ref().unwrap().contains("os error 5"));
    let file = key("a", 10 * PAGE);
    put_pages(&store, &file, 0..10);
    assert_eq!(served(&store, &file, 0..10).len(), 10);
    clock.turn(31);
    store.maintain();
    assert_eq!(health(), [FolderHealth::Out, FolderHealth::Healthy]);
    *broken.lock() = false;
    clock.turn(31);
    store.maintain();
    // It never had a superblock, and nobody knows the device that it was on.
    assert_eq!(health(), [FolderHealth::Out, FolderHealth::Healthy]);
    drop(store);
    let store = rig.open();
    assert!(
        store
            .folders()
            .iter()
            .all(|folder| folder.health == FolderHealth::Healthy)
    );
}
