//! Row groups that could not be decoded, remembered for a while.
//!
//! A program that retries what cannot succeed would have the same damaged bytes fetched and decoded over and over. The
//! answer is remembered by generation, so that a file that was written anew is read at once; and for a short time, so that
//! what was wrong here and not in the file is tried again.

use std::time::Duration;

use moka::sync::Cache as MokaCache;
use xxhash_rust::xxh3::xxh3_64;

use crate::decode::SelectedColumn;
use crate::error::ReadError;
use crate::key::{FileId, RowGroup};

/// How long an error is remembered.
const POISON_TTL: Duration = Duration::from_secs(30);
/// Errors that are remembered at once.
const POISON_ENTRIES: u64 = 4096;

/// What was found to be damaged. Only the same columns of a row group are refused again: its other columns may be sound.
#[derive(Debug)]
pub(crate) struct Poison(MokaCache<Key, ReadError>);

type Key = (FileId, RowGroup, u64);

impl Poison {
    pub(crate) fn new() -> Self {
        let builder = MokaCache::builder().max_capacity(POISON_ENTRIES);
        Self(builder.time_to_live(POISON_TTL).build())
    }

    /// The error that reading these columns gave lately.
    pub(crate) fn find(&self, file: FileId, group: RowGroup, columns: &[SelectedColumn]) -> Option<ReadError> {
        let found = self.0.get(&(file, group, hash(columns)))?;
        metrics::counter!("jetbridge_cache_poison_hits_total").increment(1);
        Some(found)
    }

    /// Remembers an error that is the file's own.
    pub(crate) fn learn(&self, file: FileId, group: RowGroup, columns: &[SelectedColumn], error: &ReadError) {
        if matches!(error, ReadError::Corrupt { .. } | ReadError::LimitExceeded { .. }) {
            self.0.insert((file, group, hash(columns)), error.clone());
        }
    }
}

fn hash(columns: &[SelectedColumn]) -> u64 {
    let parts = columns.iter().flat_map(|column| {
        let root = u64::try_from(column.root).unwrap_or(u64::MAX);
        [root, column.leaves_hash()]
    });
    let bytes: Vec<u8> = parts.flat_map(u64::to_le_bytes).collect();
    xxh3_64(&bytes)
}
