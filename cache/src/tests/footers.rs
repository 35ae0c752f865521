//! Footers that other nodes give, and footers given to them.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::{ArrayRef, Int32Array};
use arrow::datatypes::{DataType, Field, Schema};
use bytes::Bytes;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use tokio::runtime::Runtime;

use super::{cache, kept, mount, open, write};
use crate::counters::testing::Counters;
use crate::key::{FileKey, RowGroup, to_u64};
use crate::page::{Errand, OpenFile, Peers};
use crate::scan::Residency;
use crate::ufs::testing::TestStore;
use crate::{Cache, CacheConfig, ReadError, first_footer_bytes};

const ROWS: i32 = 1_000;
/// Whoever does not come by then hangs.
const SOON: Duration = Duration::from_secs(30);

/// Gives a footer and no pages, and counts how often it was asked.
#[derive(Debug)]
struct Giver {
    footer: Option<Bytes>,
    asked: AtomicUsize,
}

#[async_trait::async_trait]
impl Peers for Giver {
    async fn fetch(&self, _: &FileKey, _: Range<u64>) -> Option<Bytes> {
        None
    }

    async fn footer(&self, _: &FileKey) -> Option<Bytes> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.footer.clone()
    }
}

/// A small file in a store that counts.
struct Rig {
    store: Arc<TestStore>,
    file: OpenFile,
}

impl Rig {
    async fn new() -> Self {
        Self::of(300).await
    }

    /// The same with row groups of so many rows.
    async fn of(group_rows: usize) -> Self {
        let (store, folder) = (TestStore::new(Arc::new(InMemory::new())), tempfile::tempdir().unwrap());
        let path = folder.path().join("file");
        let numbers: ArrayRef = Arc::new(Int32Array::from_iter_values(0..ROWS));
        write(&path, &[("n", numbers)], group_rows);
        let bytes = std::fs::read(path).unwrap();
        store.put(&Path::from("a"), bytes.into()).await.unwrap();
        let file = open(&store.mounted(), "a").await;
        Self { store, file }
    }

    /// The footer as the file's owner gives it.
    async fn given(&self) -> Bytes {
        cache().stored_footer(&self.file, u64::MAX).await.unwrap()
    }

    /// The file, opened for one who may ask a peer that gives this.
    fn with_peer(&self, footer: Option<Bytes>) -> (OpenFile, Arc<Giver>) {
        let asked = AtomicUsize::new(0);
        let giver = Arc::new(Giver { footer, asked });
        let peers: Arc<dyn Peers> = giver.clone();
        let file = OpenFile {
            peers: Some(peers),
            ..self.file.clone()
        };
        (file, giver)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_footer_is_given_with_one_read_and_kept_where_it_was_read() {
    let rig = Rig::new().await;
    let owner = cache();
    let given = owner.stored_footer(&rig.file, u64::MAX).await.unwrap();
    assert!(given.ends_with(b"PAR1") && to_u64(given.len()) < rig.file.key.size);
    // A small file came whole, and its footer was parsed.
    kept(&owner).await;
    assert!(owner.pages().holds(&rig.file, &(0..rig.file.key.size)));
    assert!(owner.engine.footers.held(&rig.file).await.is_some());
    assert_eq!(owner.stored_footer(&rig.file, u64::MAX).await.unwrap(), given);
    assert_eq!(rig.store.reads().len(), 1);
    let refused = owner.stored_footer(&rig.file, 10).await.unwrap_err();
    assert!(
        matches!(refused, ReadError::LimitExceeded { limit: 10, .. }),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_footer_that_a_peer_gives_needs_no_pages() {
    let rig = Rig::new().await;
    let (file, giver) = rig.with_peer(Some(rig.given().await));
    let (planner, reads) = (cache(), rig.store.reads().len());
    for _ in 0..2 {
        let footer = planner.footer(&file).await.unwrap();
        assert_eq!((footer.rows, footer.row_groups.len()), (1_000, 4));
    }
    assert_eq!(giver.asked.load(Ordering::Relaxed), 1);
    assert_eq!(rig.store.reads().len(), reads);
    assert_eq!(planner.usage().raw_bytes, 0);
}

/// Where there is no room for it parsed, and when whoever gave it is away.
#[tokio::test(flavor = "multi_thread")]
async fn a_footer_that_a_peer_gave_is_kept_as_it_is_stored() {
    let rig = Rig::new().await;
    let (file, giver) = rig.with_peer(Some(rig.given().await));
    let config = CacheConfig {
        footer_bytes: 0,
        ..CacheConfig::default()
    };
    let (planner, reads) = (Cache::open(config).unwrap(), rig.store.reads().len());
    for asked in [&file, &file, &rig.file] {
        assert_eq!(planner.footer(asked).await.unwrap().rows, 1_000);
        assert!(planner.engine.footers.held(asked).await.is_none());
    }
    assert_eq!(giver.asked.load(Ordering::Relaxed), 1);
    assert_eq!(rig.store.reads().len(), reads);
}

/// What of pages was looked up during some work, by the names of the counters.
fn counted(rig: &Rig, runtime: &Runtime, work: impl Future<Output = ()>) -> [u64; 3] {
    let counters = Counters::default();
    metrics::with_local_recorder(&counters, || runtime.block_on(work));
    let mount = rig.file.ufs.mount_id();
    let of_mount = |name: &str| {
        counters.get(&format!(
            "jetbridge_cache_{name}_bytes_total{{tier=page}}{{mount={mount}}}"
        ))
    };
    let from_peers = counters.get("jetbridge_cache_read_bytes_total{tier=page}{source=peer}");
    [of_mount("hit"), of_mount("miss"), from_peers]
}

/// What a peer is given is no lookup of the owner's, and what one gives is a miss of whoever asked. A footer of pages that are held
/// is looked up at once.
#[test]
fn a_footer_is_looked_up_once_and_by_whoever_wants_it() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let rig = runtime.block_on(Rig::of(8));
    let (size, owner, reader) = (rig.file.key.size, cache(), cache());
    let whole = 0..size;
    for holder in [&owner, &reader] {
        runtime.block_on(async {
            let read = holder.pages().read(&rig.file, std::slice::from_ref(&whole));
            read.await.unwrap();
            kept(holder).await;
        });
    }
    let mut given = Bytes::new();
    let of_owner = counted(&rig, &runtime, async {
        given = owner.stored_footer(&rig.file, u64::MAX).await.unwrap();
    });
    assert_eq!(of_owner, [0, 0, 0]);
    let length = to_u64(given.len());
    // It is longer than what an owner reads first, and not longer than what others do.
    assert!(length > 8 << 10 && size < 64 << 10, "{length} of {size}");
    let of_reader = counted(&rig, &runtime, async {
        assert_eq!(reader.footer(&rig.file).await.unwrap().rows, 1_000);
    });
    assert_eq!(of_reader, [size, 0, 0]);
    let (file, _) = rig.with_peer(Some(given));
    let of_planner = counted(&rig, &runtime, async {
        assert_eq!(cache().footer(&file).await.unwrap().rows, 1_000);
    });
    assert_eq!(of_planner, [0, length, length]);
    assert_eq!(rig.store.reads().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_footer_of_the_file_is_not_taken() {
    let rig = Rig::new().await;
    let given = rig.given().await;
    let mut longer = vec![0];
    longer.extend_from_slice(&given);
    for wrong in [
        None,
        Some(Bytes::new()),
        Some(Bytes::from_static(b"PAR1")),
        Some(given.slice(1..)),
        Some(given.slice(..given.len() - 1)),
        Some(longer.into()),
    ] {
        let (file, giver) = rig.with_peer(wrong);
        let reads = rig.store.reads().len();
        assert_eq!(cache().footer(&file).await.unwrap().rows, 1_000);
        assert_eq!(giver.asked.load(Ordering::Relaxed), 1);
        assert_eq!(rig.store.reads().len(), reads + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_footer_whose_pages_are_held_is_asked_of_nobody() {
    let rig = Rig::new().await;
    let (planner, whole) = (cache(), 0..rig.file.key.size);
    let read = planner.pages().read(&rig.file, std::slice::from_ref(&whole));
    read.await.unwrap();
    kept(&planner).await;
    let (file, giver) = rig.with_peer(None);
    assert_eq!(planner.footer(&file).await.unwrap().rows, 1_000);
    assert_eq!(giver.asked.load(Ordering::Relaxed), 0);
    assert_eq!(rig.store.reads().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_footer_that_is_held_is_given_without_a_read_and_no_other() {
    let rig = Rig::new().await;
    let owner = cache();
    assert_eq!(owner.held_footer(&rig.file, u64::MAX).await.unwrap(), None);
    assert_eq!(rig.store.reads(), []);
    let given = owner.stored_footer(&rig.file, u64::MAX).await.unwrap();
    kept(&owner).await;
    assert_eq!(owner.held_footer(&rig.file, u64::MAX).await.unwrap(), Some(given));
    assert_eq!(rig.store.reads().len(), 1);
}

/// Those of an errand: the first at once, the second when the first is paid off. Who reads that one waits for no pace, and both have
/// it of one load.
#[tokio::test(flavor = "multi_thread")]
async fn footers_come_at_the_pace_of_their_errand_and_readers_wait_for_none() {
    let rig = Rig::new().await;
    let small = rig.store.get(&Path::from("a")).await.unwrap().bytes().await.unwrap();
    rig.store.put(&Path::from("b"), small.into()).await.unwrap();
    let (first, second) = (rig.file.clone(), open(&rig.file.ufs, "b").await);
    let (planner, errand, before) = (cache(), Errand::looking(), rig.store.reads().len());
    errand.set_rate(Some(1));
    let for_errand = |file: &OpenFile| OpenFile {
        errand: Some(Arc::clone(&errand)),
        ..file.clone()
    };
    let (paced_first, paced_second) = (for_errand(&first), for_errand(&second));
    assert_eq!(planner.footer(&paced_first).await.unwrap().rows, 1_000);
    // A small file came whole, and is charged for as a whole.
    assert_eq!(first_footer_bytes(first.key.size), first.key.size);
    assert_eq!(errand.fetched_bytes(), first.key.size);
    let mut paced = Box::pin(planner.footer(&paced_second));
    let moment = Duration::from_millis(100);
    assert!(
        tokio::time::timeout(moment, &mut paced).await.is_err(),
        "it is hours too early"
    );
    assert_eq!(rig.store.reads().len(), before + 1);
    let read = tokio::time::timeout(SOON, planner.footer(&second)).await.unwrap();
    assert_eq!(read.unwrap().rows, 1_000);
    let read = tokio::time::timeout(SOON, paced).await.unwrap();
    assert_eq!(read.unwrap().rows, 1_000);
    assert_eq!(rig.store.reads().len(), before + 2);
    // What an errand looks at is kept as what a reader does.
    kept(&planner).await;
    for file in [&first, &second] {
        assert!(planner.pages().holds(file, &(0..file.key.size)));
    }
}

/// As whoever reads for itself: one that is stopped reads nothing more, and takes nobody along.
#[tokio::test(flavor = "multi_thread")]
async fn a_footer_of_a_stopped_errand_is_read_by_whoever_wants_it() {
    let rig = Rig::new().await;
    let (planner, errand) = (cache(), Errand::looking());
    errand.set_rate(Some(1));
    errand.turn(1_000_000).await.unwrap().spend();
    let paced = OpenFile {
        errand: Some(Arc::clone(&errand)),
        ..rig.file.clone()
    };
    let mut waits = Box::pin(planner.footer(&paced));
    assert!(futures::poll!(&mut waits).is_pending());
    errand.stop();
    let stopped = tokio::time::timeout(SOON, waits).await.unwrap().unwrap_err();
    assert!(stopped.is_stopped(), "{stopped}");
    assert!(errand.turn(1).await.is_none());
    assert_eq!(rig.store.reads(), []);
    assert_eq!(planner.footer(&rig.file).await.unwrap().rows, 1_000);
}

/// Of ten thousand files of a dataset, each would take as much memory for its schema as for all else.
#[tokio::test(flavor = "multi_thread")]
async fn footers_of_one_schema_share_it() {
    let folder = tempfile::tempdir().unwrap();
    let numbers: ArrayRef = Arc::new(Int32Array::from_iter_values(0..ROWS));
    for (file, columns) in [("a", ["n", "m"]), ("b", ["n", "m"]), ("c", ["n", "o"])] {
        let columns = columns.map(|name| (name, Arc::clone(&numbers)));
        write(&folder.path().join(file), &columns, if file == "a" { 300 } else { 70 });
    }
    let (cache, mounted) = (cache(), mount(folder.path()));
    let mut footers = Vec::new();
    for file in ["a", "b", "c"] {
        footers.push(cache.footer(&open(&mounted, file).await).await.unwrap());
    }
    let schema = |at: usize| footers[at].metadata.file_metadata().schema_descr_ptr();
    assert!(Arc::ptr_eq(&footers[0].dialect, &footers[1].dialect));
    assert!(Arc::ptr_eq(&schema(0), &schema(1)));
    assert!(!Arc::ptr_eq(&footers[0].dialect, &footers[2].dialect));
    assert_eq!(footers[2].schema.field(1).name(), "o");
    // What they have of their own is their own.
    assert_eq!(footers[1].row_groups.len(), 15);
    let file = open(&mounted, "b").await;
    let batch = super::read_all(&cache, &file).await.unwrap();
    assert_eq!((batch.num_rows(), batch.column(1)), (1_000, &numbers));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_besides_others_are_those_that_are_held_and_not_among_them() {
    let folder = tempfile::tempdir().unwrap();
    let numbers: ArrayRef = Arc::new(Int32Array::from_iter_values(0..ROWS));
    let (cache, mounted) = (cache(), mount(folder.path()));
    let mut keys = Vec::new();
    for file in ["a", "b", "c"] {
        write(&folder.path().join(file), &[("n", Arc::clone(&numbers))], 300);
        let file = open(&mounted, file).await;
        super::read_all(&cache, &file).await.unwrap();
        keys.push(file.key);
    }
    kept(&cache).await;
    let besides = |keys: &[FileKey]| keys.iter().map(FileKey::id).collect();
    assert_eq!(cache.other_files(&besides(&keys)), []);
    assert_eq!(cache.other_files(&besides(&keys[..2])), keys[2..]);
    assert_eq!(cache.other_files(&besides(&[])).len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_no_column_is_at_hand() {
    let (rig, cache) = (Rig::new().await, cache());
    cache.footer(&rig.file).await.unwrap();
    kept(&cache).await;
    cache.remove_file(rig.file.key.id()).await;
    let files = [(&rig.file, vec![RowGroup(0)])];
    let other = Schema::new(vec![Field::new("other", DataType::Int32, true)]);
    for (read, expected) in [
        (Schema::empty(), Residency::Decoded),
        (other, Residency::Decoded),
        (
            cache.footer(&rig.file).await.unwrap().schema.as_ref().clone(),
            Residency::None,
        ),
    ] {
        assert_eq!(cache.residency(&files, &read).await, expected, "{read:?}");
    }
}
