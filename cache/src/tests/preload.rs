//! Row groups that are brought in before they are read, compared with storage, and pinned.

mod verify;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int64Array, NullArray, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use futures::{FutureExt, StreamExt};
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use tempfile::TempDir;

use super::{kept, open, request, split, write};
use crate::key::{RowGroup, Source};
use crate::page::{Errand, OpenFile};
use crate::preload::{Brought, Unkept, Verified, Want};
use crate::retention::{Keep, Pin, Retention, Rule};
use crate::scan::Split;
use crate::schema::project;
use crate::ufs::Ufs;
use crate::ufs::testing::{Fault, TestStore};
use crate::{Cache, CacheConfig, CacheFolder, Footer, ReadError};

const MIB: u64 = 1 << 20;
const SOON: Duration = Duration::from_secs(30);

const RAW: Want = Want {
    raw: true,
    decoded: false,
    skip_held: false,
    verify: false,
};
const DECODED: Want = Want {
    raw: false,
    decoded: true,
    ..RAW
};
const BOTH: Want = Want { decoded: true, ..RAW };

/// Numbers that do not compress, so that a column's bytes are those of its values.
fn numbers(rows: Range<i64>) -> ArrayRef {
    let mixed = |row: i64| row.wrapping_mul(0x9e37_79b9_7f4a_7c15_u64.cast_signed());
    Arc::new(Int64Array::from_iter_values(rows.map(mixed)))
}

fn texts(rows: Range<i64>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(rows.map(|row| format!("row {row}"))))
}

/// Files in a store that counts, and a cache before it.
struct Rig {
    cache: Cache,
    store: Arc<TestStore>,
    ufs: Ufs,
    folder: TempDir,
}

impl Rig {
    async fn new(config: CacheConfig) -> Self {
        let store = TestStore::new(Arc::new(InMemory::new()));
        Self {
            cache: Cache::open(config).unwrap(),
            ufs: store.mounted(),
            store,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    async fn in_memory() -> Self {
        Self::new(CacheConfig::default()).await
    }

    /// A cache with a folder for its pages.
    async fn on_disk(memory_bytes: u64, capacity_bytes: u64) -> (Self, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let config = CacheConfig {
            memory_bytes,
            folders: vec![CacheFolder {
                path: folder.path().join("pages"),
                capacity_bytes: Some(capacity_bytes),
            }],
            ..CacheConfig::default()
        };
        (Self::new(config).await, folder)
    }

    /// A file of these columns, stored and opened.
    async fn file(&self, name: &str, columns: &[(&str, ArrayRef)], group_rows: usize) -> File {
        let path = self.folder.path().join("file");
        write(&path, columns, group_rows);
        let bytes = std::fs::read(path).unwrap();
        self.store.put(&Path::from(name), bytes.into()).await.unwrap();
        let file = open(&self.ufs, name).await;
        let footer = self.cache.footer(&file).await.unwrap();
        // The first read for a footer brings some of the data along.
        kept(&self.cache).await;
        self.cache.pages().remove_file(file.key.id()).await;
        let schema = Arc::clone(&footer.schema);
        File { file, footer, schema }
    }

    async fn preload(&self, split: &Split, read: &Schema, want: Want) -> Vec<Brought> {
        let mut brought = Vec::new();
        for row_group in &split.row_groups {
            let preload = self.cache.preload(split, *row_group, read, want);
            brought.push(tokio::time::timeout(SOON, preload).await.unwrap().unwrap());
        }
        brought
    }

    async fn verify(&self, split: &Split, read: &Schema) -> Verified {
        let mut all = Verified::default();
        for row_group in &split.row_groups {
            let verified = self
                .cache
                .verify(split, *row_group, read)
                .await
                .unwrap()
                .verified
                .unwrap();
            all.bytes += verified.bytes;
            all.damaged_pages += verified.damaged_pages;
            all.damaged_chunks += verified.damaged_chunks;
        }
        all
    }

    /// Reads a file, which must be what was written; where from.
    async fn scan(&self, file: &File, columns: &[(&str, ArrayRef)]) -> Source {
        let mut given = self
            .cache
            .scan(request(vec![split(&file.file, &file.footer)], &file.schema));
        let (mut worst, mut row) = (Source::Memory, 0);
        // Each batch is let go of before the next: a scan waits for readers who hold more than the memory allows.
        while let Some(batch) = given.next().await {
            let batch = batch.unwrap();
            worst = worst.max(batch.source);
            for (at, (_, column)) in columns.iter().enumerate() {
                let expected = column.slice(row, batch.batch.num_rows());
                assert_eq!(batch.batch.column(at).as_ref(), expected.as_ref());
            }
            row += batch.batch.num_rows();
        }
        assert_eq!(u64::try_from(row).unwrap(), file.footer.rows);
        worst
    }
}

struct File {
    file: OpenFile,
    footer: Arc<Footer>,
    schema: SchemaRef,
}

impl File {
    fn split(&self, errand: &Arc<Errand>) -> Split {
        let mut split = split(&self.file, &self.footer);
        split.file.errand = Some(Arc::clone(errand));
        split
    }

    /// Bytes of all columns in the file.
    fn stored_bytes(&self) -> u64 {
        self.footer
            .row_groups
            .iter()
            .flat_map(|group| &group.stored_bytes)
            .sum()
    }
}

fn two_columns(rows: i64) -> [(&'static str, ArrayRef); 2] {
    [("n", numbers(0..rows)), ("s", texts(0..rows))]
}

fn is_whole(brought: &Brought) -> bool {
    brought.unkept.is_none()
        && brought.stored_held_bytes == brought.stored_bytes
        && brought.decoded_held_bytes == brought.decoded_bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_preloaded_is_read_without_a_request() {
    let columns = two_columns(50_000);
    for on_disk in [false, true] {
        for want in [RAW, DECODED, BOTH] {
            let (rig, _folder) = match on_disk {
                true => Rig::on_disk(256 * MIB, 256 * MIB).await,
                false => (Rig::in_memory().await, tempfile::tempdir().unwrap()),
            };
            let file = rig.file("a", &columns, 20_000).await;
            let errand = Errand::new(want.raw);
            let brought = rig.preload(&file.split(&errand), &file.schema, want).await;
            assert!(brought.iter().all(is_whole), "{brought:?}");
            let stored: u64 = brought.iter().map(|group| group.stored_bytes).sum();
            assert_eq!(stored, file.stored_bytes());
            let fetched = errand.fetched_bytes();
            assert!(
                (stored..stored + 64 * 4_096).contains(&fetched),
                "{want:?}: {fetched} for {stored}"
            );
            let usage = rig.cache.usage();
            assert_eq!(usage.decoded_bytes > 0, want.decoded);
            assert_eq!(usage.raw_bytes >= stored, want.raw, "{want:?}: {usage:?}");
            let before = rig.store.reads().len();
            let expected = match (want.decoded, on_disk) {
                (true, _) | (false, false) => Source::Memory,
                (false, true) => Source::Disk,
            };
            assert_eq!(rig.scan(&file, &columns).await, expected);
            assert_eq!(rig.store.reads().len(), before, "{want:?}");
            // Again, it is there already.
            let again = rig.preload(&file.split(&errand), &file.schema, want).await;
            assert_eq!(again, brought);
            let skip = Want {
                skip_held: true,
                ..want
            };
            let skipped = rig.preload(&file.split(&errand), &file.schema, skip).await;
            assert!(skipped.iter().all(|group| group.skipped && is_whole(group)));
            assert_eq!(rig.store.reads().len(), before);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn decoded_alone_holds_no_pages() {
    let columns = two_columns(50_000);
    let rig = Rig::in_memory().await;
    let file = rig.file("a", &columns, 20_000).await;
    rig.cache.pages().remove_file(file.file.key.id()).await;
    rig.preload(&file.split(&Errand::new(false)), &file.schema, DECODED)
        .await;
    assert_eq!(rig.cache.usage().raw_bytes, 0);
    // Pages that were held are used, and stay.
    let other = rig.file("b", &columns, 20_000).await;
    rig.preload(&other.split(&Errand::new(true)), &other.schema, RAW).await;
    let (held, asked) = (rig.cache.usage().raw_bytes, rig.store.reads().len());
    rig.preload(&other.split(&Errand::new(false)), &other.schema, DECODED)
        .await;
    assert_eq!((rig.cache.usage().raw_bytes, rig.store.reads().len()), (held, asked));
}

#[tokio::test(flavor = "multi_thread")]
async fn some_columns_and_none_and_constants() {
    let columns = two_columns(20_000);
    let rig = Rig::in_memory().await;
    let file = rig.file("a", &columns, 20_000).await;
    let errand = Errand::new(true);
    let only_n = project(&file.schema, &["n".to_owned()]).unwrap();
    let mut fields = only_n.fields().to_vec();
    fields.push(Arc::new(Field::new("part", DataType::Utf8, true)));
    fields.push(Arc::new(Field::new("absent", DataType::Int64, true)));
    let mut split = file.split(&errand);
    split.constants = vec![("part".to_owned(), Arc::new(StringArray::from(vec!["x"])))];
    let brought = rig.preload(&split, &Schema::new(fields), BOTH).await;
    assert!(brought.iter().all(is_whole), "{brought:?}");
    assert_eq!(brought[0].stored_bytes, file.footer.row_groups[0].stored_bytes[0]);
    assert_eq!(brought[0].decoded_bytes, 160_000);
    let nothing = rig.preload(&split, &Schema::empty(), BOTH).await;
    assert_eq!((nothing[0].stored_bytes, nothing[0].unkept), (0, None));
    let beyond = rig.cache.preload(&split, RowGroup(9), &only_n, RAW).await.unwrap_err();
    assert!(
        matches!(beyond, ReadError::Corrupt { row_group: Some(9), .. }),
        "{beyond}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_of_nulls_are_held_too() {
    let columns: [(&str, ArrayRef); 2] = [("n", numbers(0..100)), ("none", Arc::new(NullArray::new(100)))];
    let rig = Rig::in_memory().await;
    let file = rig.file("a", &columns, 100).await;
    let brought = rig.preload(&file.split(&Errand::new(true)), &file.schema, BOTH).await;
    assert!(is_whole(&brought[0]), "{brought:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn footers_are_preloaded_alone() {
    let columns = two_columns(1_000);
    let rig = Rig::in_memory().await;
    let file = rig.file("a", &columns, 1_000).await;
    let before = rig.store.reads().len();
    let errand = Errand::new(true);
    rig.cache.preload_footer(&file.split(&errand).file).await.unwrap();
    assert!(rig.cache.pages().holds(&file.file, &file.footer.tail));
    assert_eq!(rig.store.reads().len(), before + 1);
    rig.cache.preload_footer(&file.split(&errand).file).await.unwrap();
    assert_eq!(rig.store.reads().len(), before + 1);
    errand.stop();
    let stopped = rig.cache.preload_footer(&file.split(&errand).file).await.unwrap_err();
    assert!(stopped.is_stopped(), "{stopped}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preload_into_full_tiers_is_wholly_there() {
    let (rig, _folder) = Rig::on_disk(64 * MIB, 8 * MIB).await;
    // Another file fills both tiers, and is read again and again.
    let filler = [("n", numbers(0..6_000_000))];
    let full = rig.file("full", &filler, 500_000).await;
    for _ in 0..4 {
        rig.scan(&full, &filler).await;
    }
    kept(&rig.cache).await;
    let usage = rig.cache.usage();
    assert!(usage.raw_bytes > 6 * MIB && usage.decoded_bytes > 24 * MIB, "{usage:?}");
    let capacity = rig.cache.capacity();
    assert!(
        capacity.raw_bytes > 7 * MIB && capacity.decoded_bytes > 24 * MIB,
        "{capacity:?}"
    );
    let columns = [("n", numbers(0..700_000))];
    let file = rig.file("a", &columns, 50_000).await;
    assert!(
        (6 * MIB..capacity.raw_bytes).contains(&file.stored_bytes()),
        "{}",
        file.stored_bytes()
    );
    let errand = Errand::new(true);
    let brought = rig.preload(&file.split(&errand), &file.schema, BOTH).await;
    assert!(brought.iter().all(is_whole), "{brought:?}");
    // As a whole, and not only each at its time.
    let skip = Want {
        skip_held: true,
        ..BOTH
    };
    let after = rig.preload(&file.split(&errand), &file.schema, skip).await;
    assert!(after.iter().all(|group| group.skipped), "{after:?}");
    // What comes by chance does not drive it out.
    let before = rig.store.reads().len();
    let stranger = rig.file("stranger", &[("n", numbers(0..300_000))], 50_000).await;
    rig.scan(&stranger, &[]).await;
    let asked = rig.store.reads().len();
    assert!(asked > before);
    assert_eq!(rig.scan(&file, &columns).await, Source::Memory);
    assert_eq!(rig.store.reads().len(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn as_much_as_the_capacity_says_fits() {
    let config = CacheConfig {
        memory_bytes: 64 * MIB,
        ..CacheConfig::default()
    };
    let (on_disk, _folder) = Rig::on_disk(64 * MIB, 16 * MIB).await;
    for rig in [Rig::new(config).await, on_disk] {
        let capacity = rig.cache.capacity();
        assert!(
            capacity.decoded_bytes > 20 * MIB && capacity.raw_bytes > 14 * MIB,
            "{capacity:?}"
        );
        // A tenth of a MiB is for the ends of pages and footers.
        let decoded = i64::try_from(capacity.decoded_bytes - MIB / 10).unwrap() / 8;
        let file = rig.file("d", &[("n", numbers(0..decoded))], 100_000).await;
        let errand = Errand::new(false);
        rig.preload(&file.split(&errand), &file.schema, DECODED).await;
        let raw = i64::try_from(capacity.raw_bytes - MIB).unwrap() / 10;
        let other = rig.file("r", &[("n", numbers(0..raw))], 100_000).await;
        rig.preload(&other.split(&Errand::new(true)), &other.schema, RAW).await;
        for (file, want) in [(&file, DECODED), (&other, RAW)] {
            let skip = Want {
                skip_held: true,
                ..want
            };
            let held = rig.preload(&file.split(&errand), &file.schema, skip).await;
            let skipped = held.iter().filter(|group| group.skipped).count();
            assert_eq!(skipped, held.len(), "{want:?} {capacity:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_larger_than_the_tiers_is_told_and_its_first_part_stays() {
    let (rig, _folder) = Rig::on_disk(256 * MIB, 8 * MIB).await;
    let file = rig.file("a", &[("n", numbers(0..2_000_000))], 100_000).await;
    let errand = Errand::new(true);
    let brought = rig.preload(&file.split(&errand), &file.schema, RAW).await;
    let whole = brought.iter().filter(|group| is_whole(group)).count();
    assert!((5..12).contains(&whole), "{whole}");
    let reason = brought.last().unwrap().unkept.unwrap();
    assert!(matches!(reason, Unkept::Full { .. }), "{reason}");
    let skip = Want { skip_held: true, ..RAW };
    let again = file.split(&errand);
    let first = rig
        .cache
        .preload(&again, RowGroup(0), &file.schema, skip)
        .await
        .unwrap();
    assert!(first.skipped, "{first:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_bounds_what_is_demanded() {
    let rig = Rig::in_memory().await;
    let file = rig.file("a", &[("n", numbers(0..1_000_000))], 100_000).await;
    let quota = |bytes| Retention {
        uri: "memory://m".to_owned(),
        quota_bytes: Some(bytes),
        ..Retention::default()
    };
    rig.cache.set_retention(vec![quota(3 * MIB)]).await;
    for want in [RAW, DECODED] {
        let brought = rig
            .preload(&file.split(&Errand::new(want.raw)), &file.schema, want)
            .await;
        let whole = brought.iter().filter(|group| is_whole(group)).count();
        assert!((2..4).contains(&whole), "{whole}: {brought:?}");
        let reason = brought.last().unwrap().unkept;
        assert_eq!(reason, Some(Unkept::Quota { quota_bytes: 3 * MIB }));
        // Another errand's demand takes the place of the first's.
        let other = rig
            .preload(&file.split(&Errand::new(want.raw)), &file.schema, want)
            .await;
        assert!(is_whole(&other[0]), "{other:?}");
    }
    let never = Retention {
        rules: vec![Rule::new("*", Keep::Never).unwrap()],
        ..quota(MIB)
    };
    rig.cache.set_retention(vec![never]).await;
    let before = rig.store.reads().len();
    let brought = rig.preload(&file.split(&Errand::new(true)), &file.schema, BOTH).await;
    assert_eq!(
        (brought[0].unkept, brought[0].stored_held_bytes),
        (Some(Unkept::Rule), 0)
    );
    assert_eq!(rig.store.reads().len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_is_too_large_is_told() {
    let config = CacheConfig {
        memory_bytes: 32 * MIB,
        ..CacheConfig::default()
    };
    let rig = Rig::new(config).await;
    let largest = rig.cache.capacity().largest_chunk_bytes;
    let columns = [("n", numbers(0..700_000)), ("s", numbers(0..700_000))];
    let file = rig.file("a", &columns, 700_000).await;
    let brought = rig
        .preload(&file.split(&Errand::new(false)), &file.schema, DECODED)
        .await;
    let expected = Unkept::TooLarge {
        bytes: 5_600_000,
        largest_bytes: largest,
    };
    assert_eq!(brought[0].unkept, Some(expected), "{}", expected);
    assert_eq!((brought[0].stored_held_bytes, brought[0].decoded_held_bytes), (0, 0));
    assert_eq!(rig.store.reads().len(), 1, "only its footer was read");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_preload_ends_at_once_and_readers_get_their_rows() {
    let columns = two_columns(50_000);
    for want in [RAW, DECODED, BOTH] {
        let rig = Rig::in_memory().await;
        let file = rig.file("a", &columns, 50_000).await;
        let errand = Errand::new(want.raw);
        let split = file.split(&errand);
        let before = rig.store.reads().len();
        rig.store.hold();
        let preload = tokio::spawn({
            let (cache, schema) = (rig.cache.clone(), Arc::clone(&file.schema));
            async move { cache.preload(&split, RowGroup(0), &schema, want).await }
        });
        rig.store.wait_for_reads(before + 1).await;
        // A reader joins, and another comes later.
        let scan = rig.scan(&file, &columns);
        let mut scan = std::pin::pin!(scan);
        assert!(futures::poll!(scan.as_mut()).is_pending());
        tokio::time::sleep(Duration::from_millis(20)).await;
        let stopped_at = Instant::now();
        errand.stop();
        let stopped = preload.await.unwrap().unwrap_err();
        println!("{want:?} stopped within {:?}", stopped_at.elapsed());
        assert!(stopped.is_stopped() && stopped_at.elapsed() < SOON);
        rig.store.wait_for_dropped(1).await;
        rig.store.release();
        tokio::time::timeout(SOON, scan).await.unwrap();
        rig.scan(&file, &columns).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_do_not_wait_for_the_pace_of_a_preload() {
    let columns = [("n", numbers(0..100_000))];
    for want in [RAW, DECODED, BOTH] {
        let rig = Rig::in_memory().await;
        let file = rig.file("a", &columns, 50_000).await;
        let errand = Errand::new(want.raw);
        errand.set_rate(Some(1));
        let split = file.split(&errand);
        let before = rig.store.reads().len();
        let preload = rig.cache.preload(&split, RowGroup(0), &file.schema, want);
        let mut preload = std::pin::pin!(preload);
        assert!(futures::poll!(preload.as_mut()).is_pending());
        while rig.store.reads().len() == before {
            assert!(preload.as_mut().now_or_never().is_none());
            tokio::task::yield_now().await;
        }
        tokio::time::timeout(SOON, rig.scan(&file, &columns)).await.unwrap();
        errand.set_rate(None);
        assert!(is_whole(&tokio::time::timeout(SOON, preload).await.unwrap().unwrap()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_and_preloads_of_one_row_group_share_their_loads() {
    let columns = two_columns(60_000);
    for _ in 0..10 {
        let rig = Rig::in_memory().await;
        let file = rig.file("a", &columns, 20_000).await;
        let errand = Errand::new(true);
        let split = file.split(&errand);
        let reads = futures::future::join(rig.scan(&file, &columns), rig.scan(&file, &columns));
        let (brought, _) = futures::future::join(rig.preload(&split, &file.schema, BOTH), reads).await;
        assert!(brought.iter().all(is_whole), "{brought:?}");
        let ranges = rig.store.reads().into_iter().skip(1).filter_map(|read| read.range);
        let asked: u64 = ranges.map(|range| range.end - range.start).sum();
        assert!(
            asked <= file.stored_bytes() + 80_000,
            "{asked} of {}",
            file.stored_bytes()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changed_is_stale_and_a_damaged_one_names_its_row_group() {
    let columns = two_columns(10_000);
    let rig = Rig::in_memory().await;
    let file = rig.file("a", &columns, 5_000).await;
    let mut bytes = rig
        .store
        .get(&Path::from("a"))
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap()
        .to_vec();
    rig.store.fail_next(Fault::Replaced(bytes.clone().into()));
    let split_of_old = file.split(&Errand::new(true));
    let stale = rig.cache.preload(&split_of_old, RowGroup(1), &file.schema, RAW);
    let stale = stale.await.unwrap_err();
    assert!(matches!(stale, ReadError::Stale(_)), "{stale}");
    // The middle of the second row group is overwritten.
    let groups = file.footer.metadata.row_groups();
    let at = usize::try_from(groups[1].columns()[0].data_page_offset()).unwrap();
    bytes[at..at + 100].fill(0xff);
    rig.store.put(&Path::from("damaged"), bytes.into()).await.unwrap();
    let damaged = open(&rig.ufs, "damaged").await;
    let footer = rig.cache.footer(&damaged).await.unwrap();
    let split = split(&damaged, &footer);
    let sound = rig
        .cache
        .preload(&split, RowGroup(0), &footer.schema, BOTH)
        .await
        .unwrap();
    assert!(is_whole(&sound));
    let error = rig
        .cache
        .preload(&split, RowGroup(1), &footer.schema, BOTH)
        .await
        .unwrap_err();
    assert!(
        matches!(error, ReadError::Corrupt { row_group: Some(1), .. }),
        "{error}"
    );
    // Its bytes are what storage has, so they can be held raw.
    let raw = rig
        .cache
        .preload(&split, RowGroup(1), &footer.schema, RAW)
        .await
        .unwrap();
    assert!(is_whole(&raw));
}
