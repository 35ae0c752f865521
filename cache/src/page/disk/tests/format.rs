//! The promises of `FORMAT.md`, one by one.

use super::super::superblock::Superblock;
use super::super::table::{Header, Slot};
use super::*;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

fn only(folder: &Path, extension: &str) -> Vec<u8> {
    let files = with_extension(folder, extension);
    assert_eq!(files.len(), 1);
    std::fs::read(&files[0]).unwrap()
}

/// FORMAT: "A folder holds `superblock`, `lock`, and folders of two hexadecimal digits with two files a file version."
#[test]
fn the_layout_of_a_folder() {
    let rig = Rig::new(64 * MIB);
    let store = rig.open();
    let file = key("secret-name", 3 * PAGE);
    put_pages(&store, &file, 0..3);
    let id = file.id().to_string();
    let mut names: Vec<_> = std::fs::read_dir(rig.folder())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    let mut expected = ["lock", "superblock", &id[..2]];
    expected.sort_unstable();
    assert_eq!(names, expected);
    let shard = rig.folder().join(&id[..2]);
    assert_eq!(
        files_in(rig.folder()),
        [shard.join(format!("{id}.pages")), shard.join(format!("{id}.table"))]
    );
    let superblock = std::fs::read(rig.folder().join("superblock")).unwrap();
    assert_eq!(Superblock::decode(&superblock).unwrap().page_size, PAGE);
    assert_eq!(std::fs::read(rig.folder().join("lock")).unwrap(), b"");
}

/// FORMAT: "Page i lies at i times the page size; pages that are not held are holes."
#[test]
fn pages_lie_at_their_offsets_in_a_sparse_file() {
    let rig = Rig::new(64 * MIB);
    let store = rig.open();
    let file = key("a", 90 * PAGE + 5);
    put_pages(&store, &file, 40..42);
    put_pages(&store, &file, 90..91);
    let data = only(rig.folder(), "pages");
    assert_eq!(to_u64(data.len()), file.size);
    let expected = [
        vec![0; to_usize(40 * PAGE)],
        content(&file, 40 * PAGE..42 * PAGE).to_vec(),
        vec![0; to_usize(48 * PAGE)],
        content(&file, 90 * PAGE..file.size).to_vec(),
    ];
    assert!(data == expected.concat());
    check_disk(rig.folder(), 3 * PAGE + 8192);
}

/// FORMAT: the table's header, byte by byte.
#[test]
fn the_bytes_of_a_table_header() {
    let rig = Rig::new(64 * MIB);
    let file = key("a", 90 * PAGE + 5);
    put_pages(&rig.open(), &file, 0..1);
    let mut expected = b"JBTABLE\0\x01\0\0\0\0\0\0\0".to_vec();
    expected.extend(PAGE.to_le_bytes());
    expected.extend(file.id().as_u128().to_be_bytes());
    expected.extend((90 * PAGE + 5).to_le_bytes());
    expected.extend(xxh3_128(b"s3://bucket/a").to_be_bytes());
    expected.extend([13, 0, 0, 0, 14, 0, 0, 0]);
    expected.extend(b"s3://bucket/aetag:etag-of-a");
    expected.resize(4088, 0);
    expected.extend(xxh3_64(&expected.clone()).to_le_bytes());
    assert!(only(rig.folder(), "table")[..4096] == expected);
}

/// FORMAT: the slots, byte by byte.
#[test]
fn the_bytes_of_slots() {
    let rig = Rig::new(64 * MIB);
    let file = key("a", 2 * PAGE + 5);
    put_pages(&rig.open(), &file, 1..3);
    let slot = |page: u64| {
        let mut place = file.id().as_u128().to_be_bytes().to_vec();
        place.extend(page.to_le_bytes());
        let seed = xxh3_64(&place);
        let bytes = page_content(&file, page, PAGE);
        let sum = xxh3_64_with_seed(&bytes, seed).to_le_bytes();
        let state = (0x8000_0000 | u32::try_from(bytes.len()).unwrap()).to_le_bytes();
        let check = &xxh3_64_with_seed(&[&state[..], &sum].concat(), seed).to_le_bytes()[..4];
        [&state[..], check, &sum].concat()
    };
    let expected = [vec![0; 16], slot(1), slot(2)].concat();
    assert_eq!(only(rig.folder(), "table")[4096..], expected);
}

/// FORMAT: "The checksum is bound to the file's id and the page's index", and the slot's own check too.
#[test]
fn a_slot_and_a_page_from_elsewhere_do_not_pass() {
    let (a, b) = (key("a", 9 * PAGE).id(), key("b", 9 * PAGE).id());
    let bytes = [5; 4096];
    let mut raw = Vec::new();
    Slot::write(&mut raw, a, 3, &bytes);
    assert!(Slot::read(&raw, a, 3).vouches_for(a, 3, &bytes));
    assert_eq!(Slot::read(&raw, a, 4), Slot::Damaged);
    assert_eq!(Slot::read(&raw, b, 3), Slot::Damaged);
    let slot = Slot::read(&raw, a, 3);
    assert!(!slot.vouches_for(a, 4, &bytes) && !slot.vouches_for(b, 3, &bytes));
    assert!(!slot.vouches_for(a, 3, &bytes[1..]));
    for bit in 0..128 {
        let mut flipped = raw.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(Slot::read(&flipped, a, 3), Slot::Damaged, "bit {bit}");
    }
    assert_eq!(Slot::read(&[0; 16], a, 3), Slot::Absent);
    assert!(!Slot::Absent.vouches_for(a, 3, &[]));
}

/// FORMAT: "A URI that does not fit is not kept, only its hash."
#[test]
fn a_long_uri_is_kept_as_its_hash() {
    let rig = Rig::new(64 * MIB);
    let store = rig.open();
    let fits = 4088 - 72 - "etag:e".len();
    let long = |length: usize| FileKey {
        uri: "u".repeat(length).into(),
        generation: Generation::from_parts(None, Some("e"), 0, 0),
        size: PAGE,
    };
    let (kept, hashed) = (long(fits), long(fits + 1));
    for file in [&kept, &hashed] {
        put_pages(&store, file, 0..1);
    }
    drop(store);
    let store = rig.open();
    for (file, uri) in [(&kept, Some(Arc::clone(&kept.uri))), (&hashed, None)] {
        assert_eq!(served(&store, file, 0..1).len(), 1);
        let held = store.files().into_iter().find(|held| held.id == file.id()).unwrap();
        assert_eq!((held.uri, held.generation.as_ref()), (uri, "etag:e"));
        assert_eq!(held.uri_hash, xxh3_128(file.uri.as_bytes()));
    }
}

/// FORMAT: "A header that does not check, or is of another file, page size or version, drops its file."
#[test]
fn a_header_of_anything_else_is_none() {
    let file = key("a", 9 * PAGE);
    let header = Header::of(&file).unwrap();
    let bytes = header.encode(PAGE);
    assert_eq!(bytes.len(), 4096);
    assert_eq!(Header::decode(&bytes, PAGE, file.id()), Some(header));
    assert_eq!(Header::decode(&bytes, 8192, file.id()), None);
    assert_eq!(Header::decode(&bytes, PAGE, key("b", 9 * PAGE).id()), None);
    assert_eq!(Header::decode(&bytes[..4095], PAGE, file.id()), None);
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(Header::decode(&flipped, PAGE, file.id()), None, "bit {bit}");
    }
    // A header that checks and lies: of another version, or with texts that are not the id's.
    let resum = |mut bytes: Vec<u8>| {
        let sum = xxh3_64(&bytes[..4088]);
        bytes[4088..].copy_from_slice(&sum.to_le_bytes());
        bytes
    };
    for (at, byte) in [(8, 2), (40, 1), (64, 255), (68, 255), (68, 1), (72, b'S'), (75, 0xFF)] {
        let mut lie = bytes.clone();
        lie[at] = byte;
        assert_eq!(Header::decode(&resum(lie), PAGE, file.id()), None, "byte {at}");
    }
}

/// FORMAT: "A folder of another version or page size, or with a damaged superblock, begins empty."
#[test]
fn a_superblock_that_does_not_fit_begins_an_empty_folder() {
    let damage: [fn(&mut Vec<u8>); 6] = [
        |block| block[8] = 2,
        |block| block[0] ^= 1,
        |block| block[20] ^= 1,
        |block| block.truncate(63),
        Vec::clear,
        |block| block.push(0),
    ];
    for (n, damage) in damage.iter().enumerate() {
        let rig = Rig::new(64 * MIB);
        put_pages(&rig.open(), &key("a", 9 * PAGE), 0..9);
        let path = rig.folder().join("superblock");
        let mut superblock = std::fs::read(&path).unwrap();
        damage(&mut superblock);
        std::fs::write(&path, &superblock).unwrap();
        let store = rig.open();
        assert_eq!((store.bytes(), files_in(rig.folder()).len()), (0, 0), "damage {n}");
        put_pages(&store, &key("a", 9 * PAGE), 0..9);
        assert_eq!(served(&store, &key("a", 9 * PAGE), 0..9).len(), 9);
    }
}

/// FORMAT: "A folder with anything in it that is not ours, and no superblock of ours, is refused and left as it is."
#[test]
fn a_folder_of_somebody_else_is_refused() {
    for name in ["thesis.tex", "ab", ".hidden"] {
        let rig = Rig::new(64 * MIB);
        std::fs::create_dir(rig.folder()).unwrap();
        std::fs::write(rig.folder().join(name), "years of work").unwrap();
        let error = rig.error();
        let text = error.to_string();
        assert!(matches!(error, DiskError::Foreign { .. }), "{error}");
        assert!(
            text.contains(name) && text.contains(rig.folder().to_str().unwrap()),
            "{text}"
        );
        let names: Vec<_> = std::fs::read_dir(rig.folder())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, [name], "it was touched");
    }
    // What a file system leaves in an empty folder, and what a start that was cut off does, are no content.
    let rig = Rig::new(64 * MIB);
    std::fs::create_dir_all(rig.folder().join("lost+found")).unwrap();
    std::fs::write(rig.folder().join("superblock.tmp"), "JB").unwrap();
    std::fs::write(rig.folder().join("probe"), "x").unwrap();
    drop(rig.open());
    // A superblock of somebody else's making does not make it ours either.
    let rig = Rig::new(64 * MIB);
    std::fs::create_dir(rig.folder()).unwrap();
    std::fs::write(rig.folder().join("superblock"), "ext2").unwrap();
    std::fs::write(rig.folder().join("notes"), "mine").unwrap();
    assert!(matches!(rig.error(), DiskError::Foreign { .. }));
}

/// FORMAT: "What is not named as ours is never removed", also when a folder begins empty.
#[test]
fn names_that_are_not_ours_stay() {
    let mut rig = Rig::new(64 * MIB);
    put_pages(&rig.open(), &key("a", 9 * PAGE), 0..9);
    let shard = files_in(rig.folder())[0].parent().unwrap().to_owned();
    let foreign = [
        rig.folder().join("notes"),
        shard.join("notes.pages"),
        shard.join("x.table"),
    ];
    for path in &foreign {
        std::fs::write(path, "mine").unwrap();
    }
    drop(rig.open());
    rig.config.page_size_bytes = 8192;
    drop(rig.open());
    assert!(foreign.iter().all(|path| std::fs::read(path).unwrap() == b"mine"));
    assert_eq!(files_in(rig.folder()).len(), 2);
}

/// FORMAT: "Data without a table, a table without data, and a table under its temporary name are removed at a start."
#[test]
fn half_files_are_removed_at_a_start() {
    for remove in ["pages", "table"] {
        let rig = Rig::new(64 * MIB);
        put_pages(&rig.open(), &key("a", 9 * PAGE), 0..9);
        let table = &with_extension(rig.folder(), "table")[0];
        std::fs::copy(table, table.with_extension("table.tmp")).unwrap();
        std::fs::remove_file(&with_extension(rig.folder(), remove)[0]).unwrap();
        let store = rig.open();
        assert_eq!(
            (store.bytes(), files_in(rig.folder()).len()),
            (0, 0),
            "without {remove}"
        );
    }
}

/// FORMAT: "Bytes that no slot vouches for are given back at a start."
#[test]
fn bytes_without_slots_are_freed_at_a_start() {
    use std::os::unix::fs::FileExt;
    let rig = Rig::new(64 * MIB);
    let file = key("a", 90 * PAGE);
    put_pages(&rig.open(), &file, 10..20);
    let data = std::fs::OpenOptions::new()
        .write(true)
        .open(&with_extension(rig.folder(), "pages")[0])
        .unwrap();
    for at in [0, 5 * PAGE, 30 * PAGE, 89 * PAGE] {
        data.write_all_at(&[7; 4096], at).unwrap();
    }
    let store = rig.open();
    check_disk(rig.folder(), store.bytes());
    assert_eq!(served(&store, &file, 0..90), (10..20).collect());
}
