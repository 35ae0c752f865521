//! A disk that hangs.

use super::*;

/// A store on a disk that does not answer until it is told to.
#[derive(Default)]
pub(super) struct Stuck {
    pub(super) gate: Mutex<()>,
    pub(super) kept: Mutex<u64>,
}

impl PageStore for Stuck {
    fn get(&self, _: FileId, _: &[PageIndex]) -> Vec<(PageIndex, Bytes)> {
        Vec::new()
    }

    fn contains(&self, _: FileId, _: PageIndex) -> bool {
        false
    }

    fn put(&self, _: &FileKey, _: PageIndex, run: &Bytes, _: Option<u64>) -> Result<(), Unkept> {
        let _open = self.gate.lock();
        *self.kept.lock() += to_u64(run.len());
        Ok(())
    }

    fn protect(&self, _: FileId, _: &[PageIndex], _: u64) {}

    fn check(&self, file: FileId, pages: &[PageIndex]) -> (Vec<(PageIndex, Bytes)>, u64) {
        (self.get(file, pages), 0)
    }

    fn remove_pages(&self, _: FileId, _: Range<PageIndex>) -> u64 {
        0
    }

    fn set_pins(&self) {}

    fn pinned_bytes(&self) -> u64 {
        0
    }

    fn capacity_bytes(&self) -> u64 {
        0
    }

    fn remove_file(&self, _: FileId) -> u64 {
        0
    }

    fn held_bytes(&self, _: FileId) -> u64 {
        0
    }

    fn held_since(&self, _: FileId) -> Option<SystemTime> {
        None
    }

    fn rescope(&self) {}

    fn files(&self, _: &HashSet<FileId>) -> Vec<FileKey> {
        Vec::new()
    }

    fn bytes(&self) -> u64 {
        *self.kept.lock()
    }

    fn source(&self) -> Source {
        Source::Disk
    }

    fn blocks(&self) -> bool {
        true
    }
}

#[expect(clippy::await_holding_lock, reason = "the lock is what a disk that hangs is here")]
#[tokio::test]
async fn a_disk_that_hangs_slows_no_read() {
    let stuck = Arc::new(Stuck::default());
    let closed = stuck.gate.lock();
    let narrow = PageConfig {
        max_inflight_bytes: 2 << 10,
        max_unwritten_bytes: 2 << 10,
        ..config()
    };
    let f = fixture(10_000, Arc::clone(&stuck) as Arc<dyn PageStore>, narrow).await;
    // Ten runs, of which two may wait for the disk.
    assert_eq!(f.read(&[0..10_000]).await, Source::Store);
    drop(closed);
    while stuck.bytes() < 2_000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(f.fetched().len(), 10);
}
