//! How few calls of the file system reads, writes and removals are, and in which order.

use super::*;

/// The calls of the file system since they were last taken.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Vec<String>>>);

impl Calls {
    /// A store whose calls are listed, but for those of its opening.
    fn of(rig: &Rig) -> (DiskPages, Self) {
        let calls = Self::default();
        let log = Arc::clone(&calls.0);
        let watch = Watched::new(move |call| {
            log.lock().push(told(call));
            Ok(())
        });
        let store = rig.open_on(watch, &Clock::new());
        calls.take();
        (store, calls)
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock())
    }
}

fn told(call: &Call<'_>) -> String {
    match call {
        Call::CreateDir(_) => "create dir".to_owned(),
        Call::Create(_) => "create".to_owned(),
        Call::Rename(..) => "rename".to_owned(),
        Call::Remove(_) => "remove".to_owned(),
        Call::Read => "read".to_owned(),
        Call::Open => "open".to_owned(),
        Call::ReadAt => "read at".to_owned(),
        Call::WriteAt(_, at, bytes) => write(*at, to_u64(bytes.len())),
        Call::Punch(_, part) => format!("punch {} from {}", part.end - part.start, part.start),
        Call::Sync => "sync".to_owned(),
    }
}

fn write(at: u64, bytes: u64) -> String {
    format!("write {bytes} at {at}")
}

fn create() -> String {
    "create".to_owned()
}

/// The write of the slots of pages.
fn slots(page: u64, pages: u64) -> String {
    write(4096 + 16 * page, 16 * pages)
}

/// Files of three pages that lie in one folder of two digits.
fn neighbours(count: usize) -> Vec<FileKey> {
    let files = (0..100_000).map(|n| key(&format!("f{n}"), 3 * PAGE));
    let files: Vec<_> = files
        .filter(|file| file.id().to_string().starts_with("7e"))
        .take(count)
        .collect();
    assert_eq!(files.len(), count);
    files
}

/// FORMAT: "A file version begins as an empty file under its name, whatever was there. Then come the bytes of its first
/// pages, then the header, then their slots." "The header is one write with the slots if they begin in the block of slots
/// next to it." "A file version ends with its file unlinked."
#[test]
fn a_small_new_file_is_one_create_and_two_writes_and_its_end_is_one_unlink() {
    let rig = Rig::new(64 * MIB);
    let (store, calls) = Calls::of(&rig);
    let files = neighbours(3);
    let made = vec![create(), write(8192, 3 * PAGE), write(0, 4096 + 3 * 16)];
    // The first of its folder finds that it is not there yet.
    let mut made_with_its_folder = vec![create(), "create dir".to_owned()];
    made_with_its_folder.extend(made.clone());
    put_pages(&store, &files[0], 0..3);
    assert_eq!(calls.take(), made_with_its_folder);
    put_pages(&store, &files[1], 0..3);
    assert_eq!(calls.take(), made);
    // Not from its first page on, and bit by bit.
    put_pages(&store, &files[2], 1..2);
    put_pages(&store, &files[2], 0..3);
    let expected = [
        create(),
        write(8192 + PAGE, PAGE),
        write(0, 4096 + 2 * 16),
        write(8192, PAGE),
        slots(0, 1),
        write(8192 + 2 * PAGE, PAGE),
        slots(2, 1),
    ];
    assert_eq!(calls.take(), expected);
    for file in &files {
        assert_eq!(served(&store, file, 0..3).len(), 3);
        assert_eq!(calls.take(), ["read at", "read at"]);
        store.remove_file(file.id());
        assert_eq!(calls.take(), ["remove"]);
    }
}

/// FORMAT: "Then come the bytes of its first pages, then the header, then their slots.", where they are far from it.
#[test]
fn the_end_of_a_large_new_file_is_one_write_more() {
    let rig = Rig::new(64 * MIB);
    let (store, calls) = Calls::of(&rig);
    let file = key("a", 600 * PAGE);
    let at = data_offset(&file);
    put_pages(&store, &file, 590..600);
    let expected = [
        create(),
        "create dir".to_owned(),
        create(),
        write(at + 590 * PAGE, 10 * PAGE),
        write(0, 4096),
        slots(590, 10),
    ];
    assert_eq!(calls.take(), expected);
    put_pages(&store, &file, 0..5);
    assert_eq!(calls.take(), [write(at, 5 * PAGE), slots(0, 5)]);
    assert_eq!(served(&store, &file, 0..600), (0..5).chain(590..600).collect());
    drop(store);
    assert_eq!(served(&rig.open(), &file, 0..600), (0..5).chain(590..600).collect());
}

/// FORMAT: "A page's bytes are written before its slot." "A page's slot is cleared before its bytes are freed (a hole is
/// punched)." "A header is written once."
#[test]
fn bytes_come_before_their_slot_and_go_after_it() {
    let rig = Rig::new(64 * MIB);
    let (store, calls) = Calls::of(&rig);
    let file = key("a", 100 * PAGE);
    let at = |page: u64| 8192 + page * PAGE;
    put_pages(&store, &file, 4..40);
    calls.take();
    put_pages(&store, &file, 40..50);
    assert_eq!(calls.take(), [write(at(40), 10 * PAGE), slots(40, 10)]);
    store.remove_pages(file.id(), PageIndex(10)..PageIndex(12));
    assert_eq!(
        calls.take(),
        [slots(10, 2), format!("punch {} from {}", 2 * PAGE, at(10))]
    );
}

#[test]
fn pages_in_a_row_are_one_read_and_one_buffer() {
    let rig = Rig::new(64 * MIB);
    let (store, calls) = Calls::of(&rig);
    let file = key("a", 100 * PAGE);
    put_pages(&store, &file, 0..60);
    calls.take();
    let got = store.get(file.id(), &pages(5..50));
    // One read of slots, one of bytes.
    assert_eq!(calls.take(), ["read at", "read at"]);
    assert_eq!(got.len(), 1);
    assert_eq!(to_u64(got[0].1.len()), 45 * PAGE);
}

#[test]
fn contiguous_pages_are_one_write_of_bytes_and_one_of_slots_and_held_ones_are_not_written_again() {
    let rig = Rig::new(64 * MIB);
    let (store, calls) = Calls::of(&rig);
    let file = key("a", 100 * PAGE);
    let bytes = |page: u64, pages: u64| write(8192 + page * PAGE, pages * PAGE);
    put_pages(&store, &file, 4..40);
    assert_eq!(calls.take()[3..], [bytes(4, 36), write(0, 4096 + 16 * 40)]);
    put_pages(&store, &file, 0..50);
    assert_eq!(calls.take(), [bytes(0, 4), slots(0, 4), bytes(40, 10), slots(40, 10)]);
    put_pages(&store, &file, 0..50);
    assert_eq!(calls.take(), [] as [String; 0]);
}
