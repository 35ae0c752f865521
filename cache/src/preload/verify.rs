//! What is held against what storage has.
//!
//! Pages are read back, which checks them against their checksums, and compared with the same bytes of the same generation
//! from storage. Decoded columns have no checksum: their bytes are fetched and decoded again. Columns of which nothing is
//! held decoded are compared in pieces of a few MiB, the others one at a time.

use std::sync::Arc;

use super::{Group, Verified};
use crate::budget::Purpose;
use crate::chunk::Chunk;
use crate::decode::SelectedColumn;
use crate::error::ReadError;
use crate::scan::{is_same, leaf_ranges};

impl Group<'_> {
    /// Compares what is held, and drops what differs.
    pub(super) async fn verify(&self) -> Result<Verified, ReadError> {
        let mut verified = Verified::default();
        let mut raw = Vec::new();
        for column in &self.plan.columns {
            match self.engine.chunks.peek(&self.key(column)) {
                Some(chunk) => verified.add(self.verify_decoded(column, chunk).await?),
                None => raw.push(column.clone()),
            }
        }
        let mut spans = self.spans(&raw);
        if self
            .plan
            .split
            .row_groups
            .first()
            .is_some_and(|first| *first != self.row_group)
        {
            // The footer is the last of them, and compared with the first row group.
            spans.pop();
        }
        let file = &self.plan.split.file;
        let checked = self.engine.pages.check(self.errand, file, &spans, false).await?;
        verified.add(Verified {
            bytes: checked.bytes,
            damaged_pages: checked.damaged_pages,
            damaged_chunks: 0,
        });
        Ok(verified)
    }

    /// Compares a column that is held decoded, and its pages as far as they are held.
    async fn verify_decoded(&self, column: &SelectedColumn, chunk: Chunk) -> Result<Verified, ReadError> {
        let ranges = leaf_ranges(&self.plan.footer, self.row_group, std::iter::once(column));
        let spans: Vec<_> = ranges.iter().map(|(_, range)| range.clone()).collect();
        let bytes = self.stored_bytes(column);
        let reserved = self.reserve(bytes, Purpose::Scans).await?;
        let file = &self.plan.split.file;
        let checked = self.engine.pages.check(self.errand, file, &spans, true).await?;
        let leaves = ranges.iter().map(|(leaf, _)| *leaf).zip(checked.ranges);
        let stored = self.engine.row_group_bytes(&self.plan.footer, self.row_group, leaves);
        let (plan, of_column) = (Arc::clone(&self.plan), column.clone());
        let compare = move || is_same(&plan, Arc::new(stored), of_column, &chunk);
        let same = self.engine.pool.run(compare).await;
        drop(reserved);
        let blame = |panic| Err(self.corrupt(&format!("its data breaks the decoder, which {panic}")));
        let same = same.unwrap_or_else(blame)?;
        if !same {
            tracing::warn!(
                path = self.plan.split.path,
                row_group = self.row_group.0,
                column = column.root,
                "a decoded column is not what storage has; it is dropped"
            );
            self.engine.chunks.remove(&self.key(column));
        }
        Ok(Verified {
            bytes,
            damaged_pages: checked.damaged_pages,
            damaged_chunks: u64::from(!same),
        })
    }
}

impl Verified {
    fn add(&mut self, more: Self) {
        self.bytes += more.bytes;
        self.damaged_pages += more.damaged_pages;
        self.damaged_chunks += more.damaged_chunks;
    }
}
