//! The promises of `FORMAT.md`, one by one.

use super::super::superblock::Superblock;
use super::super::table::{Header, Slot};
use super::*;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

fn only(folder: &Path) -> Vec<u8> {
    let files = files_in(folder);
    assert_eq!(files.len(), 1);
    std::fs::read(&files[0]).unwrap()
}

/// FORMAT: "A folder holds `superblock`, `lock`, and folders of two hexadecimal digits with a file for each file version"
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
    let path = rig.folder().join(&id[..2]).join(format!("{id}.pages"));
    assert_eq!(files_in(rig.folder()), [path]);
    let superblock = std::fs::read(rig.folder().join("superblock")).unwrap();
    assert_eq!(Superblock::decode(&superblock).unwrap().page_size, PAGE);
    assert_eq!(std::fs::read(rig.folder().join("lock")).unwrap(), b"");
}

/// FORMAT: "Pages that are not held are holes, as are blocks of slots of which none is in use."
#[test]
fn pages_lie_at_their_offsets_in_a_sparse_file() {
    let rig = Rig::new(64 * MIB);
    let store = rig.open();
    let file = key("a", 600 * PAGE + 5);
    put_pages(&store, &file, 560..562);
    put_pages(&store, &file, 600..601);
    let raw = only(rig.folder());
    // 601 slots end at 13,712.
    let data_offset = 4 * 4096;
    assert_eq!(to_u64(raw.len()), data_offset + file.size);
    let slots = &raw[4096..to_usize(data_offset)];
    let is_written = |page: usize| slots[page * 16..][..16] != [0; 16];
    let written: Vec<_> = (0..slots.len() / 16).filter(|page| is_written(*page)).collect();
    assert_eq!(written, [560, 561, 600]);
    let expected = [
        vec![0; to_usize(560 * PAGE)],
        content(&file, 560 * PAGE..562 * PAGE).to_vec(),
        vec![0; to_usize(38 * PAGE)],
        content(&file, 600 * PAGE..file.size).to_vec(),
    ];
    assert!(raw[to_usize(data_offset)..] == expected.concat());
    // A header, a block of slots and three pages.
    check_disk(rig.folder(), 4096 + 4096 + 3 * PAGE);
}

/// FORMAT: "The data offset is the end of the last page's slot, rounded up to a multiple of 4096."
#[test]
fn pages_begin_where_the_slots_end() {
    for (pages, data_offset) in [(1, 8192), (255, 8192), (256, 8192), (257, 12_288)] {
        let rig = Rig::new(64 * MIB);
        let file = key("a", (pages - 1) * PAGE + 7);
        put_pages(&rig.open(), &file, 0..pages);
        let raw = only(rig.folder());
        assert!(raw[data_offset..] == content(&file, 0..file.size), "{pages} pages");
        assert_eq!(to_u64(data_offset), super::data_offset(&file));
    }
}

/// FORMAT: "What is missing, or a hole, is absent", and "What lies between the last page's slot and the data offset, or after
/// the last page, is not looked at."
#[test]
fn what_lies_between_the_slots_and_the_pages_is_not_looked_at() {
    let rig = Rig::new(64 * MIB);
    let file = key("a", 9 * PAGE);
    put_pages(&rig.open(), &file, 0..5);
    let path = path_of(rig.folder(), &file);
    let mut raw = only(rig.folder());
    // It ends with its last page that is held.
    assert_eq!(to_u64(raw.len()), 8192 + 5 * PAGE);
    raw[4096 + 9 * 16..8192].fill(0xA5);
    std::fs::write(&path, &raw).unwrap();
    assert_eq!(served(&rig.open(), &file, 0..9), (0..5).collect());
    raw.resize(to_usize(8192 + 12 * PAGE), 0xA5);
    std::fs::write(&path, &raw).unwrap();
    let store = rig.open();
    assert_eq!(served(&store, &file, 0..9), (0..5).collect());
    assert_eq!(checksum_failures(&store), 0);
}

/// FORMAT: the header, byte by byte.
#[test]
fn the_bytes_of_a_header() {
    let rig = Rig::new(64 * MIB);
    let file = key("a", 90 * PAGE + 5);
    put_pages(&rig.open(), &file, 0..1);
    let mut expected = b"JBTABLE\0\x02\0\0\0\0\0\0\0".to_vec();
    expected.extend(PAGE.to_le_bytes());
    expected.extend(file.id().as_u128().to_be_bytes());
    expected.extend((90 * PAGE + 5).to_le_bytes());
    expected.extend(xxh3_128(b"s3://bucket/a").to_be_bytes());
    expected.extend([13, 0, 0, 0, 14, 0, 0, 0]);
    expected.extend(b"s3://bucket/aetag:etag-of-a");
    expected.resize(4088, 0);
    expected.extend(xxh3_64(&expected.clone()).to_le_bytes());
    assert!(only(rig.folder())[..4096] == expected);
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
    let expected = [vec![0; 16], slot(1), slot(2), vec![0; 4048]].concat();
    assert!(only(rig.folder())[4096..8192] == expected);
}

/// FORMAT: "So the checksum is bound to the id and the page's index: bytes or slots from elsewhere do not pass."
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

/// FORMAT: "A header that does not check, or is of another file, page size or version, drops its file at the next start. So
/// does one whose URI, generation and length are not those of the id."
#[test]
fn a_header_of_anything_else_is_none() {
    let file = key("a", 9 * PAGE);
    let header = Header::of(&file, PAGE).unwrap();
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
    for (at, byte) in [(8, 1), (40, 1), (64, 255), (68, 255), (68, 1), (72, b'S'), (75, 0xFF)] {
        let mut lie = bytes.clone();
        lie[at] = byte;
        assert_eq!(Header::decode(&resum(lie), PAGE, file.id()), None, "byte {at}");
    }
}

/// FORMAT: "A folder of another version or page size, or with a damaged superblock, begins empty"
#[test]
fn a_superblock_that_does_not_fit_begins_an_empty_folder() {
    let damage: [fn(&mut Vec<u8>); 6] = [
        |block| block[8] = 3,
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

/// FORMAT: "A folder of another version or page size, or with a damaged superblock, begins empty: its files are removed, and
/// then a new superblock is written." "What version 1 had is named as ours, too: `ab/ab…(32 digits).table` and
/// `ab/ab…(32 digits).table.tmp`."
#[test]
fn a_folder_of_version_1_begins_empty() {
    let rig = Rig::new(64 * MIB);
    let file = key("a", 9 * PAGE);
    let path = path_of(rig.folder(), &file);
    let notes = path.with_file_name("notes.table");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&notes, "mine").unwrap();
    for kind in ["pages", "table", "table.tmp"] {
        std::fs::write(path.with_extension(kind), [1_u8; 9000]).unwrap();
    }
    let uuid = [7; 16];
    let mut superblock = Superblock { page_size: PAGE, uuid }.encode();
    superblock[8] = 1;
    let sum = xxh3_64(&superblock[..56]);
    superblock[56..].copy_from_slice(&sum.to_le_bytes());
    std::fs::write(rig.folder().join("superblock"), superblock).unwrap();
    let store = rig.open();
    assert_eq!((store.bytes(), files_in(rig.folder())), (0, vec![notes]));
    let superblock = std::fs::read(rig.folder().join("superblock")).unwrap();
    let written = Superblock::decode(&superblock).unwrap();
    assert!(written.page_size == PAGE && written.uuid != uuid);
    put_pages(&store, &file, 0..9);
    assert_eq!(served(&store, &file, 0..9).len(), 9);
}

/// FORMAT: "Files without a header that checks are removed, as are files of which no page is held, and what version 1 had."
#[test]
fn files_that_cannot_be_used_are_removed_at_a_start() {
    let rig = Rig::new(64 * MIB);
    let file = key("a", 9 * PAGE);
    put_pages(&rig.open(), &file, 0..9);
    let path = path_of(rig.folder(), &file);
    let whole = std::fs::read(&path).unwrap();
    // All pages and slots, with a header of which the first bytes alone were written, or none.
    let torn = |written: usize| {
        let mut bytes = whole.clone();
        bytes[written..4096].fill(0);
        bytes
    };
    let mut without_pages = whole.clone();
    without_pages[4096..].fill(0);
    let unfit = [
        vec![],
        whole[..2000].to_vec(),
        whole[..4096].to_vec(),
        torn(0),
        torn(60),
        torn(2000),
        torn(4089),
        without_pages,
    ];
    for (n, bytes) in unfit.iter().enumerate() {
        std::fs::write(&path, bytes).unwrap();
        for kind in ["table", "table.tmp"] {
            std::fs::write(path.with_extension(kind), &whole).unwrap();
        }
        let store = rig.open();
        assert_eq!((store.bytes(), files_in(rig.folder()).len()), (0, 0), "unfit {n}");
        put_pages(&store, &file, 0..9);
        assert_eq!(served(&store, &file, 0..9).len(), 9);
    }
    assert_eq!(served(&rig.open(), &file, 0..9).len(), 9);
}

/// FORMAT: "A file version begins as an empty file under its name, whatever was there."
#[test]
fn what_is_left_under_a_name_goes_when_the_file_version_is_put() {
    let rig = Rig::new(64 * MIB);
    let mut store = rig.open();
    let file = key("a", 300 * PAGE);
    put_pages(&store, &file, 0..300);
    let path = path_of(rig.folder(), &file);
    let whole = std::fs::read(&path).unwrap();
    let mut without_header = whole.clone();
    without_header[..4096].fill(0);
    // As removals that failed leave it, writes that were cut off, and somebody else.
    for left in [whole, without_header, vec![0xA5; 1 << 20]] {
        store.remove_file(file.id());
        std::fs::write(&path, left).unwrap();
        put_pages(&store, &file, 280..290);
        assert_eq!(served(&store, &file, 0..300), (280..290).collect());
        check_disk(rig.folder(), store.bytes());
        drop(store);
        store = rig.open();
        assert_eq!(served(&store, &file, 0..300), (280..290).collect());
        assert_eq!(checksum_failures(&store), 0);
    }
}

/// FORMAT: "Bytes that no slot vouches for are given back: holes are punched."
#[test]
fn bytes_without_slots_are_freed_at_a_start() {
    use std::os::unix::fs::FileExt;
    let rig = Rig::new(64 * MIB);
    let file = key("a", 600 * PAGE);
    put_pages(&rig.open(), &file, 560..570);
    let path = path_of(rig.folder(), &file);
    let on_disk = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    // Two blocks of slots of which none is in use, and pages before, between and after those that are.
    on_disk.write_all_at(&[0; 8192], 4096).unwrap();
    for page in [0, 5, 555, 599] {
        let at = data_offset(&file) + page * PAGE;
        on_disk.write_all_at(&[7; 4096], at).unwrap();
    }
    let store = rig.open();
    assert_eq!(store.bytes(), 4096 + 4096 + 10 * PAGE);
    check_disk(rig.folder(), store.bytes());
    assert_eq!(served(&store, &file, 0..600), (560..570).collect());
}

/// FORMAT: "Pages as the file system allocates them, rounded up to 4096 bytes; 4096 bytes for each file's header; and 4096
/// for each 256 slots of which one is in use."
#[test]
fn what_counts_as_held() {
    let rig = Rig::new(64 * MIB);
    let store = rig.open();
    let file = key("a", 600 * PAGE + 9);
    for (page, blocks) in [(0, 3), (255, 4), (256, 6), (600, 8)] {
        put_pages(&store, &file, page..page + 1);
        assert_eq!(store.bytes(), blocks * 4096, "with page {page}");
        check_disk(rig.folder(), store.bytes());
    }
}
