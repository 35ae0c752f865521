//! One row group of a scan: fetched, decoded, and handed on as fast as its reader takes it.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::assemble::{Assembler, Step, Supply};
use super::plan::{FilePlan, chunk_stride, request_stride};
use super::{Engine, ScanBatch, chunk_key, leaf_ranges};
use crate::decode::{RowGroupBytes, SelectedColumn};
use crate::error::ReadError;
use crate::key::{RowGroup, Source};
use crate::pages::PageLimit;

/// A batch, with its share of the unit's window, which is given back when the batch is taken.
pub(crate) type Delivery = Result<(ScanBatch, OwnedSemaphorePermit), ReadError>;

/// One row group to read.
pub(crate) struct Unit {
    pub(crate) engine: Arc<Engine>,
    pub(crate) plan: Arc<FilePlan>,
    pub(crate) row_group: RowGroup,
    /// Rows to read from its start.
    pub(crate) rows: usize,
    /// How many decoders to run side by side.
    pub(crate) parts: usize,
}

/// Bytes of batches that one unit may have ready.
pub(crate) const UNIT_WINDOW_BYTES: u64 = 32 << 20;
/// Batches that one unit may have ready, whatever their size.
pub(crate) const UNIT_WINDOW_BATCHES: usize = 1 << 10;
/// Bytes of one permit of a budget: semaphores count with 32 bits.
const PERMIT_BYTES: u64 = 1 << 10;

/// How many permits stand for this many bytes.
pub(crate) fn permits(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX)
}

impl Unit {
    /// Reads the row group into `out`; an error is the last thing sent.
    pub(crate) async fn run(self, out: mpsc::Sender<Delivery>) {
        if let Err(error) = self.read(&out).await {
            // The reader has gone where this fails, and nobody is left to be told.
            let _ = out.send(Err(error)).await;
        }
    }

    /// Bytes that this unit holds at most: its raw column chunks and its window.
    pub(crate) fn cost_bytes(&self) -> u64 {
        let decoded = self
            .plan
            .decoded_bytes(self.row_group_index(), self.plan.columns.iter());
        let raw: u64 = self
            .ranges(self.plan.columns.iter())
            .iter()
            .map(|(_, range)| range.end - range.start)
            .sum();
        raw.saturating_add(decoded.min(UNIT_WINDOW_BYTES))
    }

    async fn read(&self, out: &mpsc::Sender<Delivery>) -> Result<(), ReadError> {
        let (mut assembler, source) = self.open().await?;
        let window = Arc::new(Semaphore::new(
            usize::try_from(permits(UNIT_WINDOW_BYTES)).unwrap_or(usize::MAX),
        ));
        loop {
            let (next, step) = self.step(assembler).await?;
            assembler = next;
            for batch in step.batches {
                let bytes = u64::try_from(batch.get_array_memory_size()).unwrap_or(u64::MAX);
                let share = permits(bytes.min(UNIT_WINDOW_BYTES));
                let held = Arc::clone(&window).acquire_many_owned(share).await;
                let held = held.map_err(|_| ReadError::internal("a unit's window was closed"))?;
                if out.send(Ok((ScanBatch { batch, source }, held))).await.is_err() {
                    return Ok(());
                }
            }
            if step.done {
                break;
            }
        }
        for (key, chunk) in assembler.into_chunks() {
            self.engine.chunks.put(key, chunk);
        }
        Ok(())
    }

    async fn step(&self, mut assembler: Assembler) -> Result<(Assembler, Step), ReadError> {
        let step = self
            .engine
            .pool
            .run(move || assembler.step().map(|step| (assembler, step)))
            .await;
        step.unwrap_or_else(|panic| Err(self.corrupt(&format!("its data breaks the decoder, which {panic}"))))
    }

    /// Asks the chunk tier, reads what it does not have, and prepares the decoders.
    async fn open(&self) -> Result<(Assembler, Source), ReadError> {
        let (supplies, stride) = self.supplies();
        let missing = self
            .plan
            .columns
            .iter()
            .zip(&supplies)
            .filter(|(_, s)| matches!(s, Supply::Decode(_)));
        let ranges = self.ranges(missing.map(|(column, _)| column));
        let plan = Arc::clone(&self.plan);
        let mut assembler = Assembler::new(plan, self.row_group_index(), self.rows, supplies);
        if ranges.is_empty() || self.rows == 0 {
            return Ok((assembler, Source::Memory));
        }
        let wanted: Vec<_> = ranges.iter().map(|(_, range)| range.clone()).collect();
        let (bytes, source) = self.engine.pages.read(&self.plan.split.file, &wanted).await?;
        let chunks: HashMap<_, _> = ranges.iter().map(|(leaf, _)| *leaf).zip(bytes).collect();
        let bytes = RowGroupBytes {
            footer: Arc::clone(&self.plan.footer),
            row_group: self.row_group_index(),
            chunks,
            page_limit: Arc::new(PageLimit::new(self.engine.page_bytes_limit)),
        };
        let parts = self.parts;
        let open = move || assembler.open(Arc::new(bytes), stride, parts).map(|()| assembler);
        let opened = self.engine.pool.run(open).await;
        let assembler =
            opened.unwrap_or_else(|panic| Err(self.corrupt(&format!("its data breaks the decoder, which {panic}"))))?;
        Ok((assembler, source))
    }

    /// Where each column comes from, and the stride of those that are decoded.
    fn supplies(&self) -> (Vec<Supply>, usize) {
        let Some(group) = self.plan.group(self.row_group_index()) else {
            return (Vec::new(), 1);
        };
        let mut chunked = false;
        let supplies = self.plan.columns.iter().map(|column| {
            let supply = self.supply(column);
            chunked |= !matches!(supply, Supply::Decode(None));
            supply
        });
        let supplies = supplies.collect();
        let asked = self
            .plan
            .decoded_bytes(self.row_group_index(), self.plan.columns.iter());
        // Chunks must fit those of other projections; where none is concerned, the stride suits this request alone.
        let stride = if chunked {
            chunk_stride(group)
        } else {
            request_stride(group, asked, self.plan.shape.batch_bytes)
        };
        (supplies, stride)
    }

    fn supply(&self, column: &SelectedColumn) -> Supply {
        let key = chunk_key(self.plan.split.file.key.id(), self.row_group, column);
        let chunk = self.engine.chunks.get(&key);
        metrics::counter!(
            "jetbridge_cache_requests_total", "tier" => "chunk", "result" => if chunk.is_some() { "hit" } else { "miss" }
        )
        .increment(1);
        if let Some(chunk) = chunk {
            return Supply::Chunk(chunk);
        }
        let bytes = self.plan.decoded_bytes(self.row_group_index(), std::iter::once(column));
        Supply::Decode(self.engine.chunks.admits(&key, bytes).then_some(key))
    }

    /// The leaf columns of `columns` and where their bytes are in the file, in file order.
    fn ranges<'a>(&self, columns: impl Iterator<Item = &'a SelectedColumn>) -> Vec<(usize, std::ops::Range<u64>)> {
        leaf_ranges(&self.plan.footer, self.row_group, columns)
    }

    fn row_group_index(&self) -> usize {
        usize::try_from(self.row_group.0).unwrap_or(usize::MAX)
    }

    fn corrupt(&self, reason: &str) -> ReadError {
        ReadError::corrupt(&self.plan.split.path, Some(self.row_group.0), reason)
    }
}
