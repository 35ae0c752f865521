//! Figures, printed and not judged: `cargo test --release -- --ignored --nocapture figures`.

use super::super::shape::slot_offset;
use super::super::table::{Header, Slot};
use super::*;

const BIG_PAGE: u64 = 64 << 10;

/// The tables of a terabyte of 64 KiB pages, which are holes: how long a start takes.
#[test]
#[ignore = "prints figures; writes 270 MB"]
fn figures_of_a_start_with_a_terabyte() {
    let mut rig = Rig::new(1 << 42);
    rig.config.page_size_bytes = BIG_PAGE;
    drop(rig.open());
    let pages_each = (1 << 30) / BIG_PAGE;
    let zeros = vec![0; to_usize(BIG_PAGE)];
    for n in 0..1024 {
        let file = key(&format!("tb{n}"), 1 << 30);
        let mut table = Header::of(&file, BIG_PAGE).unwrap().encode(BIG_PAGE);
        // The sums need not be right for a start, and 4 KiB of zeros are quicker to sum.
        (0..pages_each).for_each(|page| Slot::write(&mut table, file.id(), page, &zeros[..64]));
        let fixed = relabel(table, &file, pages_each);
        let path = path_of(rig.folder(), &file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &fixed).unwrap();
        // The slots fill whole blocks, so the pages begin where they end.
        let on_disk = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        on_disk.set_len(to_u64(fixed.len()) + file.size).unwrap();
    }
    let start = Instant::now();
    let store = rig.open();
    println!(
        "open: {:?} for {} files, {} bytes",
        start.elapsed(),
        store.files().len(),
        store.bytes()
    );
    assert_eq!(store.files().iter().map(|file| file.held.pages).sum::<u64>(), 1 << 24);
    println!("resident set: {}", resident());
}

/// Slots of whole pages, without summing whole pages: only their check has to be right.
fn relabel(mut table: Vec<u8>, file: &FileKey, pages: u64) -> Vec<u8> {
    for page in 0..pages {
        let at = to_usize(slot_offset(page));
        let mut place = file.id().as_u128().to_be_bytes().to_vec();
        place.extend(page.to_le_bytes());
        let seed = xxhash_rust::xxh3::xxh3_64(&place);
        let state = (0x8000_0000 | u32::try_from(BIG_PAGE).unwrap()).to_le_bytes();
        let check = xxh3_64_with_seed(&[&state[..], &table[at + 8..at + 16]].concat(), seed).to_le_bytes();
        table[at..at + 4].copy_from_slice(&state);
        table[at + 4..at + 8].copy_from_slice(&check[..4]);
    }
    table
}

fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap_or_default()
        .to_owned()
}

/// Puts and reads of pages that the page cache holds.
#[test]
#[ignore = "prints figures; writes 1 GiB"]
fn figures_of_puts_and_reads() {
    let mut rig = Rig::new(4 << 30);
    rig.config.page_size_bytes = BIG_PAGE;
    let store = rig.open();
    let file = key("big", 1 << 30);
    let run = content(&file, 0..16 * MIB);
    let rate = |what: &str, start: Instant| {
        println!(
            "{what}: {:.2} GB/s",
            (1u64 << 30) as f64 / 1e9 / start.elapsed().as_secs_f64()
        );
    };
    let start = Instant::now();
    (0..64).for_each(|n| store.put(&file, PageIndex(n * 256), &run));
    rate("put, runs of 16 MiB", start);
    for (what, each) in [
        ("get, 256 pages a time", 256),
        ("get, 16 pages a time", 16),
        ("get, 1 page a time", 1),
    ] {
        let start = Instant::now();
        for first in (0..16384).step_by(each) {
            let got = store.get(file.id(), &pages(first..first + to_u64(each)));
            assert_eq!(
                got.iter().map(|(_, bytes)| bytes.len()).sum::<usize>(),
                each * to_usize(BIG_PAGE)
            );
        }
        rate(what, start);
    }
    let start = Instant::now();
    let held = (0..10_000_000)
        .filter(|page| store.contains(file.id(), PageIndex(page % 20_000)))
        .count();
    println!("contains: {:?} each, {held} held", start.elapsed() / 10_000_000);
}
