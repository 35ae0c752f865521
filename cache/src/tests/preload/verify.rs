//! What is held is compared with storage, and what is pinned stays.

use std::os::unix::fs::FileExt;

use super::*;

/// Flips a bit in the middle of the largest data file of a cache folder.
fn flip_a_bit(folder: &std::path::Path) {
    let mut data = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == "pages") {
                data.push((std::fs::metadata(&path).unwrap().len(), path));
            }
        }
    }
    let (length, path) = data.into_iter().max().unwrap();
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, length / 2).unwrap();
    file.write_all_at(&[byte[0] ^ 1], length / 2).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn verifying_finds_damage_on_disk_and_decoded_and_drops_it() {
    let columns = two_columns(100_000);
    let (rig, folder) = Rig::on_disk(256 * MIB, 256 * MIB).await;
    let file = rig.file("a", &columns, 50_000).await;
    let errand = Errand::new(true);
    let split = file.split(&errand);
    rig.preload(&split, &file.schema, RAW).await;
    let sound = rig.verify(&split, &file.schema).await;
    assert_eq!((sound.damaged_pages, sound.damaged_chunks), (0, 0));
    assert!(sound.bytes >= file.stored_bytes(), "{sound:?}");
    flip_a_bit(folder.path());
    let found = rig.verify(&split, &file.schema).await;
    assert_eq!((found.damaged_pages, found.damaged_chunks), (1, 0));
    // It loads nothing; a preload that verifies does.
    let after = rig.cache.verify(&split, RowGroup(0), &file.schema).await.unwrap();
    let other = rig.cache.verify(&split, RowGroup(1), &file.schema).await.unwrap();
    assert!(
        after.stored_held_bytes.min(other.stored_held_bytes) == 0,
        "nothing is held decoded"
    );
    let want = Want { verify: true, ..BOTH };
    flip_a_bit(folder.path());
    let brought = rig.preload(&split, &file.schema, want).await;
    assert!(brought.iter().all(is_whole), "{brought:?}");
    let sound = rig.verify(&split, &file.schema).await;
    assert_eq!((sound.damaged_pages, sound.damaged_chunks), (0, 0));
    // Rows of another row group in the place of the second's.
    let plan_of = |group| {
        let column = crate::decode::SelectedColumn {
            root: 0,
            leaves: vec![0],
        };
        crate::scan::chunk_key(file.file.key.id(), RowGroup(group), &column)
    };
    let chunks = &rig.cache.engine.chunks;
    let wrong = chunks.peek(&plan_of(0)).unwrap();
    chunks.remove(&plan_of(1));
    let room = rig
        .cache
        .engine
        .budget
        .take(wrong.bytes, crate::budget::Purpose::Chunks)
        .unwrap();
    let place = chunks
        .place_demanded(&plan_of(1), &file.file.key, room, errand.id())
        .unwrap();
    let _wrong = place.fill(wrong.strides.to_vec());
    let found = rig.verify(&split, &file.schema).await;
    assert_eq!((found.damaged_pages, found.damaged_chunks), (0, 1));
    assert!(!chunks.contains(&plan_of(1)));
    let brought = rig.preload(&split, &file.schema, want).await;
    assert!(brought.iter().all(is_whole), "{brought:?}");
    rig.scan(&file, &columns).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn verifying_a_file_that_changed_is_stale() {
    let columns = two_columns(10_000);
    let rig = Rig::in_memory().await;
    let file = rig.file("a", &columns, 10_000).await;
    let split = file.split(&Errand::new(true));
    rig.preload(&split, &file.schema, BOTH).await;
    let before = rig.store.reads().len();
    rig.verify(&split, &file.schema).await;
    let asked = rig.store.reads().split_off(before);
    assert!(asked.iter().all(|read| read.if_match.is_some()), "{asked:?}");
    let bytes = rig.store.get(&Path::from("a")).await.unwrap().bytes().await.unwrap();
    rig.store.put(&Path::from("a"), bytes.into()).await.unwrap();
    let stale = rig.cache.verify(&split, RowGroup(0), &file.schema).await.unwrap_err();
    assert!(matches!(stale, ReadError::Stale(_)), "{stale}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pinned_stays_under_pressure() {
    let (rig, _folder) = Rig::on_disk(64 * MIB, 8 * MIB).await;
    let columns = [("n", numbers(0..300_000))];
    let file = rig.file("pinned", &columns, 50_000).await;
    let pin = Pin {
        uri: file.file.key.uri.to_string(),
        raw: true,
        decoded: true,
    };
    let errand = Errand::new(true);
    rig.preload(&file.split(&errand), &file.schema, BOTH).await;
    assert_eq!(rig.cache.capacity().pinned_raw_bytes, 0);
    rig.cache.set_pins(vec![pin]).await;
    let capacity = rig.cache.capacity();
    assert!(capacity.pinned_raw_bytes >= file.stored_bytes(), "{capacity:?}");
    assert_eq!(capacity.pinned_decoded_bytes, 2_400_000);
    // Others are preloaded, read over and over, and scans take the memory.
    let filler = [("n", numbers(0..6_000_000))];
    let full = rig.file("full", &filler, 500_000).await;
    let skip = Want {
        skip_held: true,
        ..BOTH
    };
    for _ in 0..3 {
        rig.preload(&full.split(&Errand::new(true)), &full.schema, BOTH).await;
        rig.scan(&full, &filler).await;
    }
    let budget = &rig.cache.engine.budget;
    let most = budget.capacity_bytes() - 3_000_000;
    drop(
        budget
            .take(most, crate::budget::Purpose::Scans)
            .expect("all but what is pinned gives way"),
    );
    let held = rig.preload(&file.split(&errand), &file.schema, skip).await;
    assert!(held.iter().all(|group| group.skipped), "{held:?}");
    // Its time is over with its pin, and nothing of the others is still to come.
    kept(&rig.cache).await;
    let short = Retention {
        uri: "memory://m".to_owned(),
        ttl: Some(Duration::ZERO),
        ..Retention::default()
    };
    rig.cache.set_retention(vec![short.clone()]).await;
    let held = rig.preload(&file.split(&errand), &file.schema, skip).await;
    assert!(held.iter().all(|group| group.skipped), "{held:?}");
    rig.cache.set_pins(Vec::new()).await;
    assert_eq!(rig.cache.capacity().pinned_decoded_bytes, 0);
    rig.cache.expire().await;
    assert_eq!(rig.cache.held_files(), []);
}

/// A quota is set on what a pin holds; without the pin it has no more than any other under that quota.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_pin_alone_held_goes_with_it() {
    let (on_disk, _folder) = Rig::on_disk(64 * MIB, 64 * MIB).await;
    for rig in [on_disk, Rig::in_memory().await] {
        goes_with_its_pin(&rig).await;
    }
}

async fn goes_with_its_pin(rig: &Rig) {
    const QUOTA_BYTES: u64 = MIB;
    let columns = [("n", numbers(0..300_000))];
    let file = rig.file("pinned", &columns, 50_000).await;
    let uri = file.file.key.uri.to_string();
    let pin = Pin {
        uri: uri.clone(),
        raw: true,
        decoded: true,
    };
    rig.cache.set_pins(vec![pin]).await;
    rig.preload(&file.split(&Errand::new(true)), &file.schema, BOTH).await;
    kept(&rig.cache).await;
    let quota = Retention {
        uri,
        quota_bytes: Some(QUOTA_BYTES),
        ..Retention::default()
    };
    rig.cache.set_retention(vec![quota]).await;
    let held = || {
        let files = rig.cache.held_files();
        let raw: u64 = files.iter().map(|file| file.raw_bytes).sum();
        (raw, files.iter().map(|file| file.decoded_bytes).sum::<u64>())
    };
    let (raw, decoded) = held();
    assert!(raw >= file.stored_bytes() && raw > QUOTA_BYTES, "{raw} raw bytes");
    assert_eq!(decoded, 2_400_000);
    rig.cache.set_pins(Vec::new()).await;
    let (raw, decoded) = held();
    assert!((1..=QUOTA_BYTES).contains(&raw), "{raw} raw bytes");
    assert!((1..=QUOTA_BYTES).contains(&decoded), "{decoded} decoded bytes");
    assert_eq!(rig.cache.usage().decoded_bytes, decoded);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pinned_comes_in_at_its_first_read() {
    let (rig, _folder) = Rig::on_disk(64 * MIB, 8 * MIB).await;
    let filler = [("n", numbers(0..6_000_000))];
    let full = rig.file("full", &filler, 500_000).await;
    for _ in 0..3 {
        rig.scan(&full, &filler).await;
    }
    let columns = [("n", numbers(0..100_000))];
    let file = rig.file("pinned", &columns, 50_000).await;
    let pin = Pin {
        uri: "memory://m/pinned".to_owned(),
        raw: true,
        decoded: true,
    };
    rig.cache.set_pins(vec![pin]).await;
    rig.scan(&file, &columns).await;
    kept(&rig.cache).await;
    let skip = Want {
        skip_held: true,
        ..BOTH
    };
    let held = rig.preload(&file.split(&Errand::new(true)), &file.schema, skip).await;
    assert!(held.iter().all(|group| group.skipped), "{held:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_something_is_held_is_told() {
    let columns = two_columns(100_000);
    let rig = Rig::in_memory().await;
    let file = rig.file("a", &columns, 25_000).await;
    let groups = &file.footer.row_groups;
    assert_eq!(groups.len(), 4);
    assert!(groups.windows(2).all(|pair| pair[0].span.end <= pair[1].span.start));
    let nothing = Some(Vec::new());
    assert_eq!(rig.cache.held_parts("", 0), nothing);
    let (demands, looks) = (file.split(&Errand::new(true)), file.split(&Errand::new(false)));
    let decoded = rig.cache.preload(&looks, RowGroup(0), &file.schema, DECODED).await;
    assert!(is_whole(&decoded.unwrap()));
    let raw = rig.cache.preload(&demands, RowGroup(1), &file.schema, RAW).await;
    assert!(is_whole(&raw.unwrap()));
    kept(&rig.cache).await;
    let held = rig.cache.held_parts("memory://m/a", usize::MAX).unwrap();
    assert_eq!(held.len(), 1);
    assert_eq!(held[0].file, file.file.key.id());
    assert_eq!(held[0].row_groups.iter().copied().collect::<Vec<_>>(), [RowGroup(0)]);
    // A page at each end may be there for what lies beside it; the last row group lies in the footer's pages too.
    let is_in = |group: usize| {
        let span = groups[group].span.start + 4_096..groups[group].span.end - 4_096;
        let ranges = &held[0].ranges;
        ranges
            .iter()
            .any(|range| range.start < span.end && span.start < range.end)
    };
    assert_eq!([0, 1, 2, 3].map(is_in), [false, true, false, true]);
    assert_eq!(rig.cache.held_parts("memory://n", 0), nothing);
    let parts = held[0].ranges.len() + held[0].row_groups.len();
    assert_eq!(rig.cache.held_parts("", parts), Some(held.clone()));
    assert_eq!(rig.cache.held_parts("", parts - 1), None);
    // Whoever holds nothing of a file has nothing to compare, and reads no footer to find that out.
    let (other, before) = (Cache::open(CacheConfig::default()).unwrap(), rig.store.reads().len());
    let compared = other.verify(&looks, RowGroup(0), &file.schema).await.unwrap();
    assert_eq!(compared.verified, Some(Verified::default()));
    assert_eq!(rig.store.reads().len(), before);
}
