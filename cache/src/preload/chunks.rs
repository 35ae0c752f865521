//! Decoded columns of a row group, brought because somebody said so.

use std::sync::Arc;

use super::Group;
use crate::budget::{Purpose, Reservation};
use crate::chunk::Chunk;
use crate::decode::SelectedColumn;
use crate::error::ReadError;
use crate::scan::{Stored, Threads, claim_brought, leaf_ranges, on_their_way};
use crate::unkept::Unkept;

/// Raw bytes of the columns that are fetched and decoded together, at most, but for a single column that has more.
const BATCH_RAW_BYTES: u64 = 32 << 20;
/// The same of decoded bytes.
const BATCH_DECODED_BYTES: u64 = 128 << 20;
/// How often a column is loaded that others dropped again at once, or whose load by a reader failed.
const TRIES: usize = 3;

impl Group<'_> {
    /// Sees to it that the columns are held decoded, and says why one is not in the end.
    pub(super) async fn bring_chunks(&self) -> Result<Option<Unkept>, ReadError> {
        let (file, columns) = (self.plan.split.file.key.id(), &self.plan.columns);
        if let Some(error) = self.engine.poison.find(file, self.row_group, columns) {
            return Err(error);
        }
        let brought = self.bring_allowed().await;
        if let Err(error) = &brought {
            self.engine.poison.learn(file, self.row_group, columns, error);
        }
        brought
    }

    async fn bring_allowed(&self) -> Result<Option<Unkept>, ReadError> {
        let (mut unkept, mut batch) = (None, Batch::default());
        for column in &self.plan.columns {
            let (raw, decoded) = (self.stored_bytes(column), self.decoded_bytes(column));
            if let Err(reason) = self.engine.chunks.allows(&self.plan.split.file.key, decoded) {
                unkept = unkept.or(Some(reason));
                continue;
            }
            if self.engine.chunks.protect(&self.key(column), self.errand.id()) {
                continue;
            }
            if batch.is_full(raw, decoded) {
                unkept = unkept.or(self.bring_batch(std::mem::take(&mut batch).columns).await?);
            }
            batch.add(column, raw, decoded);
        }
        Ok(unkept.or(self.bring_batch(batch.columns).await?))
    }

    /// Brings columns that are small enough together.
    async fn bring_batch(&self, mut columns: Vec<SelectedColumn>) -> Result<Option<Unkept>, ReadError> {
        let mut unkept = None;
        for _ in 0..TRIES {
            self.wait_for_others(&columns).await;
            columns.retain(|column| !self.engine.chunks.protect(&self.key(column), self.errand.id()));
            if columns.is_empty() {
                return Ok(None);
            }
            unkept = self.load(&columns).await?;
            if unkept.is_some_and(|reason| reason != Unkept::Memory) {
                break;
            }
        }
        let is_held = |column| self.engine.chunks.protect(&self.key(column), self.errand.id());
        let all_held = columns.iter().all(is_held);
        Ok((!all_held).then(|| unkept.unwrap_or(Unkept::Memory)))
    }

    /// Waits for the loads that readers began, before anything is fetched that they bring.
    async fn wait_for_others(&self, columns: &[SelectedColumn]) {
        let keys: Vec<_> = columns.iter().map(|column| self.key(column)).collect();
        for flight in on_their_way(self.engine, &keys) {
            // Why it failed is its readers' business; the column is loaded again.
            let _ = flight.landed().await;
        }
    }

    /// Fetches and decodes columns.
    async fn load(&self, columns: &[SelectedColumn]) -> Result<Option<Unkept>, ReadError> {
        let ranges = leaf_ranges(&self.plan.footer, self.row_group, columns.iter());
        let spans: Vec<_> = ranges.iter().map(|(_, range)| range.clone()).collect();
        let raw_bytes = spans.iter().map(|span| span.end - span.start).sum();
        let memory = self.reserve(raw_bytes, Purpose::Scans).await?;
        let (bytes, source) = self.engine.pages.read(&self.plan.split.file, &spans).await?;
        let chunks = ranges.iter().map(|(leaf, _)| *leaf).zip(bytes);
        let bytes = Arc::new(self.engine.row_group_bytes(&self.plan.footer, self.row_group, chunks));
        let decoded_bytes = columns.iter().map(|column| self.decoded_bytes(column)).sum();
        let mut room = self.reserve(decoded_bytes, Purpose::Chunks).await?;
        let mut unkept = None;
        let stored = Stored {
            bytes,
            source,
            memory,
            threads: Threads::Decoding,
        };
        let claims = claim_brought(self.engine, &self.plan, columns, stored, |column, key| {
            let room: Reservation = room.split(self.decoded_bytes(column));
            let (file, by) = (&self.plan.split.file.key, self.errand.id());
            let placed = self.engine.chunks.place_demanded(key, file, room, by);
            placed.inspect_err(|reason| unkept = unkept.or(Some(*reason))).ok()
        });
        drop(room);
        for (key, flight) in claims {
            // A load that a reader began may have failed for want of what this one has.
            let Some(Ok(brought)) = flight.landed().await else {
                continue;
            };
            if let Some(error) = brought.failed.get(&key) {
                return Err(error.clone());
            }
            if !self.engine.chunks.protect(&key, self.errand.id()) {
                unkept = unkept.or(Some(self.why_not(brought.chunks.get(&key))));
            }
        }
        Ok(unkept)
    }

    /// Why a column is not held that was decoded.
    fn why_not(&self, chunk: Option<&Chunk>) -> Unkept {
        let largest_bytes = self.engine.chunks.largest_bytes();
        match chunk {
            Some(chunk) if chunk.bytes <= largest_bytes => Unkept::Memory,
            // One that was given up on the way was larger than any footer says.
            chunk => Unkept::TooLarge {
                bytes: chunk.map_or(largest_bytes.saturating_add(1), |chunk| chunk.bytes),
                largest_bytes,
            },
        }
    }
}

/// Columns that are brought together.
#[derive(Default)]
struct Batch {
    columns: Vec<SelectedColumn>,
    raw_bytes: u64,
    decoded_bytes: u64,
}

impl Batch {
    /// Whether another column is to be brought with later ones.
    fn is_full(&self, raw: u64, decoded: u64) -> bool {
        let is_over = self.raw_bytes.saturating_add(raw) > BATCH_RAW_BYTES
            || self.decoded_bytes.saturating_add(decoded) > BATCH_DECODED_BYTES;
        is_over && !self.columns.is_empty()
    }

    fn add(&mut self, column: &SelectedColumn, raw: u64, decoded: u64) {
        self.columns.push(column.clone());
        self.raw_bytes = self.raw_bytes.saturating_add(raw);
        self.decoded_bytes = self.decoded_bytes.saturating_add(decoded);
    }
}
