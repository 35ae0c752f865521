//! When a row group of a scan is decoded: not long before its reader comes to it.
//!
//! A reader across a network is waited for, so decoding goes ahead of it as far as the scan's memory does. One that computes on
//! the same cores is not waited for: what is decoded long before it is taken has left their caches by then, and lies in memory
//! that the kernel had to clear, where little would do that is used again and again. (Query 1 of TPC-H, the first of a new
//! server: of its CPU, two fifths went into clearing 415 MB.) It is decoded on that reader's own threads, of which each core has
//! one: others would take turns with them; only where there are fewer row groups than cores, the pool decodes columns side by
//! side. What is fetched goes ahead for both: storage is waited for.

use tokio::sync::watch;

/// How far decoding goes ahead of a scan's reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ahead {
    /// As far as the scan's memory does.
    Far,
    /// No further than keeps a reader busy that computes on the same cores, and on the threads that the scan is read on.
    Near,
}

/// Row groups that are decoded for a near reader: the one that it takes, and the next.
const NEAR_UNITS: usize = 2;
/// Bytes of batches that a row group has ready for a near reader.
const NEAR_READY_BYTES: u64 = 4 << 20;

impl Ahead {
    /// Bytes of batches that a row group may have ready, where memory allows so many.
    pub(crate) fn ready_bytes(self, most_bytes: u64) -> u64 {
        match self {
            Self::Far => most_bytes,
            Self::Near => most_bytes.min(NEAR_READY_BYTES),
        }
    }

    fn units(self) -> usize {
        match self {
            Self::Far => usize::MAX,
            Self::Near => NEAR_UNITS,
        }
    }
}

/// Where the reader of a scan is: at the unit of this number, in the order in which they are begun.
pub(crate) type ReaderAt = watch::Sender<usize>;

/// The turn of one unit to decode.
#[derive(Debug, Clone)]
pub(crate) struct Turn {
    unit: usize,
    ahead: Ahead,
    reader_at: watch::Receiver<usize>,
}

impl Turn {
    pub(crate) fn new(unit: usize, ahead: Ahead, reader_at: watch::Receiver<usize>) -> Self {
        Self { unit, ahead, reader_at }
    }

    /// Whether the reader computes on the same cores.
    pub(crate) fn is_near(&self) -> bool {
        self.ahead == Ahead::Near
    }

    /// Waits until the reader is near enough. The unit that it is at never waits.
    pub(crate) async fn come(&self) {
        let is_near = |at: &usize| self.unit < at.saturating_add(self.ahead.units());
        if !is_near(&self.reader_at.borrow()) {
            // An error means that the reader has gone, and the unit with it.
            let _ = self.reader_at.clone().wait_for(is_near).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_near_reader_has_its_row_group_and_the_next_decoded() {
        let (reader_at, _) = watch::channel(0);
        let may = |unit, ahead| {
            Turn::new(unit, ahead, reader_at.subscribe())
                .come()
                .now_or_never()
                .is_some()
        };
        let decoded = |ahead| (0..6).map(|unit| may(unit, ahead)).collect::<Vec<_>>();
        assert_eq!(decoded(Ahead::Near), [true, true, false, false, false, false]);
        assert_eq!(decoded(Ahead::Far), [true; 6]);
        reader_at.send_replace(3);
        assert_eq!(decoded(Ahead::Near), [true, true, true, true, true, false]);
    }
}
