//! Footers that other nodes give, and footers given to them.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{ArrayRef, Int32Array};
use bytes::Bytes;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;

use super::{cache, kept, open, write};
use crate::ReadError;
use crate::key::{FileKey, to_u64};
use crate::page::{OpenFile, Peers};
use crate::ufs::testing::TestStore;

const ROWS: i32 = 1_000;

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
        let (store, folder) = (TestStore::new(Arc::new(InMemory::new())), tempfile::tempdir().unwrap());
        let path = folder.path().join("file");
        let numbers: ArrayRef = Arc::new(Int32Array::from_iter_values(0..ROWS));
        write(&path, &[("n", numbers)], 300);
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
