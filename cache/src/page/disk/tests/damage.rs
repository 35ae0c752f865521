//! Files that somebody or something changed: right bytes or a miss, never wrong ones, and never a panic.

use super::*;
use std::os::unix::fs::FileExt;

fn rig_of_files() -> (Rig, Vec<FileKey>) {
    let rig = Rig::new(64 * MIB);
    let files = vec![
        key("a", 20 * PAGE + 100),
        key("b", 300 * PAGE),
        key("c", 10),
        key("d", 20 * PAGE + 100),
    ];
    let store = rig.open();
    put_pages(&store, &files[0], 0..21);
    put_pages(&store, &files[1], 7..30);
    put_pages(&store, &files[1], 280..300);
    put_pages(&store, &files[2], 0..1);
    put_pages(&store, &files[3], 0..21);
    (rig, files)
}

fn check(store: &DiskPages, files: &[FileKey]) -> usize {
    let hits = files.iter().map(|file| served(store, file, 0..300).len()).sum();
    check_account(store);
    hits
}

const ALL: usize = 21 + 23 + 20 + 1 + 21;

/// One change to one file.
fn damage(path: &Path, random: &mut Random) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let length = file.metadata().unwrap().len();
    let at = random.next(length.max(1));
    // Most of a header is padding; what matters of a table lies at its two ends.
    let at = if random.next(2) == 0 {
        at
    } else {
        [at % 100, 4096 + at % 400][to_usize(at % 2)]
    };
    match random.next(8) {
        0 => file.set_len(at).unwrap(),
        1 => file.set_len(length + 1 + random.next(9000)).unwrap(),
        2 => file
            .write_all_at(&vec![0; to_usize(1 + random.next(5000))], at)
            .unwrap(),
        3 => {
            let bytes: Vec<_> = (0..=random.next(100))
                .map(|_| u8::try_from(random.next(256)).unwrap())
                .collect();
            file.write_all_at(&bytes, at).unwrap();
        }
        4 => {
            // A part of the file moves to another place.
            let mut part = vec![0; to_usize([16, PAGE][to_usize(random.next(2))])];
            let unit = to_u64(part.len());
            let (from, to) = (
                random.next(length / unit + 1) * unit,
                random.next(length / unit + 1) * unit,
            );
            LocalFs.read_at(&file, from, &mut part).unwrap();
            file.write_all_at(&part, to).unwrap();
        }
        _ => {
            let mut byte = [0];
            file.read_at(&mut byte, at).unwrap();
            byte[0] ^= 1 << random.next(8);
            file.write_all_at(&byte, at).unwrap();
        }
    }
}

#[test]
fn damage_under_a_live_store_is_a_miss() {
    let mut random = Random(seed("live damage"));
    let mut lost = 0;
    for _ in 0..150 {
        let (rig, files) = rig_of_files();
        let store = rig.open();
        let paths = files_in(rig.folder());
        for _ in 0..1 + random.next(4) {
            let before = check(&store, &files);
            damage(&paths[to_usize(random.next(to_u64(paths.len())))], &mut random);
            lost += before - check(&store, &files);
            files.iter().for_each(|file| put_pages(&store, file, 0..21));
        }
        let before = check(&store, &files);
        drop(store);
        // What the live store was content with may be a damaged header, which only a start looks at.
        assert!(check(&rig.open(), &files) <= before);
    }
    assert!(lost > 100, "only {lost} pages were lost, so little was tested");
}

#[test]
fn damage_between_two_processes_is_a_miss() {
    let mut random = Random(seed("damage at rest"));
    let mut lost = 0;
    for _ in 0..300 {
        let (rig, files) = rig_of_files();
        let mut paths = files_in(rig.folder());
        paths.push(rig.folder().join("lock"));
        for _ in 0..1 + random.next(3) {
            damage(&paths[to_usize(random.next(to_u64(paths.len())))], &mut random);
        }
        let store = rig.open();
        lost += ALL - check(&store, &files);
        files.iter().for_each(|file| put_pages(&store, file, 0..21));
        check(&store, &files);
        assert_eq!(
            files
                .iter()
                .map(|file| served(&store, file, 0..21).len())
                .sum::<usize>(),
            21 + 21 + 1 + 21
        );
    }
    assert!(lost > 300, "only {lost} pages were lost, so little was tested");
}

/// Every bit of every file of a small cache, one at a time.
#[test]
fn no_single_bit_gives_wrong_bytes() {
    let rig = Rig::new(64 * MIB);
    let file = key("a", PAGE + 9);
    put_pages(&rig.open(), &file, 0..2);
    let whole: Vec<_> = ["superblock".into(), "lock".into()]
        .into_iter()
        .map(|name: PathBuf| rig.folder().join(name))
        .chain(files_in(rig.folder()))
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    let mut checked = 0;
    for (path, bytes) in &whole {
        // A bit of each byte: the header, the slots, the pages, the superblock. What lies after the slots is not read.
        let is_padding = |at: &usize| bytes.len() > 64 && (4096 + 32..8192).contains(at);
        for at in (0..bytes.len()).filter(|at| !is_padding(at)) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            std::fs::write(path, &flipped).unwrap();
            let store = rig.open();
            let hits = served(&store, &file, 0..2);
            assert!(
                hits.len() < 2,
                "bit {} of byte {at} of {} was not noticed",
                at % 8,
                path.display()
            );
            drop(store);
            for (path, bytes) in &whole {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, bytes).unwrap();
            }
            checked += 1;
        }
    }
    assert_eq!(checked, 64 + 4096 + 32 + 4096 + 9);
    assert_eq!(served(&rig.open(), &file, 0..2).len(), 2);
}

/// FORMAT: "A slot of zeros is an absent page. One that does not check, or whose length is not that of its page, is as absent."
#[test]
fn files_of_another_version_cut_short_or_of_anything_are_dropped() {
    // Where the slots of 20 pages begin, and the pages.
    const SLOTS: usize = 4096;
    const DATA: usize = 8192;
    let random: Vec<u8> = content(&key("random", 1 << 20), 0..6000).to_vec();
    let with = |file: &[u8], at: usize, bytes: &[u8]| [&file[..at], bytes, &file[at + bytes.len()..]].concat();
    type Damage<'a> = (&'a str, Box<dyn Fn(&[u8]) -> Vec<u8> + 'a>, usize);
    let damage: Vec<Damage<'_>> = vec![
        ("empty", Box::new(|_: &[u8]| vec![]), 0),
        ("zeros", Box::new(|file: &[u8]| vec![0; file.len()]), 0),
        ("random", Box::new(|_: &[u8]| random.clone()), 0),
        ("half a header", Box::new(|file: &[u8]| file[..2000].to_vec()), 0),
        ("a torn header", Box::new(|file: &[u8]| with(file, 2000, &[0; 2096])), 0),
        ("no slots", Box::new(|file: &[u8]| file[..4096].to_vec()), 0),
        ("no pages", Box::new(|file: &[u8]| file[..DATA].to_vec()), 0),
        (
            "slots of zeros",
            Box::new(|file: &[u8]| with(file, SLOTS, &[0; 320])),
            0,
        ),
        (
            "random slots",
            Box::new(|file: &[u8]| with(file, SLOTS, &random[..320])),
            0,
        ),
        (
            "five slots and a half",
            Box::new(|file: &[u8]| with(file, SLOTS + 88, &[0; 320 - 88])),
            5,
        ),
        (
            "five pages and a half",
            Box::new(|file: &[u8]| file[..DATA + 11 * 2048].to_vec()),
            5,
        ),
        ("too long", Box::new(|file: &[u8]| [file, &random].concat()), 20),
        (
            "another version",
            Box::new(|file: &[u8]| {
                let mut file = file.to_vec();
                file[8] = 1;
                let sum = xxhash_rust::xxh3::xxh3_64(&file[..4088]);
                file[4088..4096].copy_from_slice(&sum.to_le_bytes());
                file
            }),
            0,
        ),
    ];
    for (name, damage, expected) in damage {
        let rig = Rig::new(64 * MIB);
        let file = key("a", 20 * PAGE);
        put_pages(&rig.open(), &file, 0..20);
        let path = path_of(rig.folder(), &file);
        std::fs::write(&path, damage(&std::fs::read(&path).unwrap())).unwrap();
        let store = rig.open();
        assert_eq!(served(&store, &file, 0..20).len(), expected, "{name}");
        assert_eq!(files_in(rig.folder()).is_empty(), expected == 0, "{name}");
        put_pages(&store, &file, 0..20);
        assert_eq!(served(&store, &file, 0..20).len(), 20, "{name}");
        assert_eq!(checksum_failures(&store), 0, "{name}");
    }
}

#[test]
fn pages_beyond_the_end_of_a_file_that_was_cut_are_absent_at_a_start() {
    let (rig, files) = rig_of_files();
    std::fs::OpenOptions::new()
        .write(true)
        .open(path_of(rig.folder(), &files[1]))
        .unwrap()
        .set_len(data_offset(&files[1]) + 29 * PAGE + 1)
        .unwrap();
    let store = rig.open();
    assert_eq!(store.held(files[1].id()).pages, 22);
    assert_eq!(served(&store, &files[1], 0..300), (7..29).collect());
    assert_eq!(checksum_failures(&store), 0);
}

/// FORMAT: "Every read checks the bytes against their slot. A page that does not check is dropped, counted, and a miss."
#[test]
fn a_damaged_page_is_counted_once_dropped_and_written_anew() {
    let (rig, files) = rig_of_files();
    let store = rig.open();
    std::fs::OpenOptions::new()
        .write(true)
        .open(path_of(rig.folder(), &files[0]))
        .unwrap()
        .write_all_at(b"rot", data_offset(&files[0]) + 3 * PAGE + 77)
        .unwrap();
    let recorder = Counters::default();
    metrics::with_local_recorder(&recorder, || {
        assert_eq!(served(&store, &files[0], 0..21).len(), 20);
        assert_eq!(served(&store, &files[0], 0..21).len(), 20);
    });
    assert_eq!(checksum_failures(&store), 1);
    assert_eq!(recorder.get("jetbridge_cache_checksum_failures_total"), 1);
    assert!(!store.contains(files[0].id(), PageIndex(3)));
    put_pages(&store, &files[0], 0..21);
    assert_eq!(check(&store, &files), ALL);
    drop(store);
    assert_eq!(check(&rig.open(), &files), ALL);
}

#[test]
fn pages_and_files_in_each_others_place_are_misses() {
    let (rig, files) = rig_of_files();
    let (first, last) = (path_of(rig.folder(), &files[0]), path_of(rig.folder(), &files[3]));
    let hits_of = |store: &DiskPages, n: usize| served(store, &files[n], 0..300).len();
    // Two files of one shape swap their pages.
    swap_pages(&first, &last, to_usize(data_offset(&files[0])));
    let store = rig.open();
    assert_eq!((hits_of(&store, 0), hits_of(&store, 3)), (0, 0));
    assert_eq!(checksum_failures(&store), 42);
    // They swap their names, between two processes.
    [0, 3].into_iter().for_each(|n| put_pages(&store, &files[n], 0..21));
    assert_eq!((hits_of(&store, 0), hits_of(&store, 3)), (21, 21));
    drop(store);
    swap(&first, &last);
    let store = rig.open();
    assert_eq!((hits_of(&store, 0), hits_of(&store, 3), hits_of(&store, 1)), (0, 0, 43));
    assert_eq!(checksum_failures(&store), 0);
}

fn swap(a: &Path, b: &Path) {
    let aside = a.with_extension("aside");
    std::fs::rename(a, &aside).unwrap();
    std::fs::rename(b, a).unwrap();
    std::fs::rename(aside, b).unwrap();
}

/// Swaps what two files have from an offset on.
fn swap_pages(a: &Path, b: &Path, from: usize) {
    let (of_a, of_b) = (std::fs::read(a).unwrap(), std::fs::read(b).unwrap());
    std::fs::write(a, [&of_a[..from], &of_b[from..]].concat()).unwrap();
    std::fs::write(b, [&of_b[..from], &of_a[from..]].concat()).unwrap();
}
