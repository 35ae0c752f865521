//! Chunks on their way: decoded whole, moved to the chunk tier, given to all who wait.
//!
//! A column of a row group that is worth keeping is not decoded stride by stride for the reader that asked first, but as
//! one load that any number of readers wait for and that outlives them. One load brings all such columns of a row group
//! that were missing together, so that their bytes are fetched together.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::ArrayRef;
use futures::future;

use super::plan::{FilePlan, chunk_stride};
use super::{Engine, chunk_key, decode_error, leaf_ranges};
use crate::budget::{Purpose, Reservation};
use crate::chunk::{Chunk, ChunkKey, Place};
use crate::counters::{Lookups, Tier};
use crate::decode::{ColumnDecoder, RowGroupBytes, SelectedColumn};
use crate::error::ReadError;
use crate::flights::Flight;
use crate::key::{RowGroup, Source};
use crate::pages::PageLimit;

/// What a load brings.
pub(crate) type Landed = Result<Arc<Brought>, ReadError>;

/// Chunks that one load brought.
#[derive(Debug)]
pub(crate) struct Brought {
    pub(crate) chunks: HashMap<ChunkKey, Chunk>,
    /// The slowest tier that their bytes came from.
    pub(crate) source: Source,
}

/// How a reader gets one column.
pub(crate) enum Claim {
    /// It is held.
    Held(Chunk),
    /// It is on its way.
    Awaited(ChunkKey, Flight<Landed>),
    /// It is not kept; the reader decodes it for itself.
    Alone,
}

/// Columns of one row group that are to be loaded.
struct Load {
    engine: Arc<Engine>,
    plan: Arc<FilePlan>,
    row_group: RowGroup,
    wanted: Vec<(SelectedColumn, Place)>,
    /// For the raw bytes, while they are held.
    _raw: Reservation,
}

/// Says for each column of the plan where it comes from, and begins to load those that are worth keeping.
pub(crate) fn claim(engine: &Arc<Engine>, plan: &Arc<FilePlan>, row_group: RowGroup) -> Vec<Claim> {
    engine.loads.board(|boarding| {
        let mut wanted = Vec::new();
        let mut lookups = Lookups::default();
        let mut claims: Vec<Claim> = Vec::with_capacity(plan.columns.len());
        for column in &plan.columns {
            let key = chunk_key(plan.split.file.key.id(), row_group, column);
            claims.push(if let Some(chunk) = engine.chunks.get(&key) {
                lookups.hits += 1;
                Claim::Held(chunk)
            } else if let Some(flight) = boarding.bound_for(&key) {
                lookups.misses += 1;
                lookups.coalesced += 1;
                Claim::Awaited(key, flight)
            } else {
                lookups.misses += 1;
                let bytes = plan.decoded_bytes(index(row_group), std::iter::once(column));
                wanted.extend(
                    engine
                        .chunks
                        .place(&key, &plan.split.file.key, bytes)
                        .map(|place| (column.clone(), place)),
                );
                Claim::Alone
            });
        }
        lookups.count(Tier::Chunk);
        let Some(load) = Load::new(engine, plan, row_group, wanted) else {
            return claims;
        };
        let keys: Vec<ChunkKey> = load.wanted.iter().map(|(_, place)| place.key()).collect();
        let flight = boarding.begin(keys.clone(), load.run(), |_| future::ready(()));
        for (claim, column) in claims.iter_mut().zip(&plan.columns) {
            let key = chunk_key(plan.split.file.key.id(), row_group, column);
            if keys.contains(&key) {
                *claim = Claim::Awaited(key, flight.clone());
            }
        }
        claims
    })
}

impl Load {
    /// None where there is nothing to load, or no memory for it: the places are given back then.
    fn new(
        engine: &Arc<Engine>,
        plan: &Arc<FilePlan>,
        row_group: RowGroup,
        wanted: Vec<(SelectedColumn, Place)>,
    ) -> Option<Self> {
        if wanted.is_empty() {
            return None;
        }
        let ranges = leaf_ranges(&plan.footer, row_group, wanted.iter().map(|(column, _)| column));
        let raw_bytes = ranges.iter().map(|(_, range)| range.end - range.start).sum();
        Some(Self {
            engine: Arc::clone(engine),
            plan: Arc::clone(plan),
            row_group,
            wanted,
            _raw: engine.budget.take_free(raw_bytes, Purpose::Scans)?,
        })
    }

    async fn run(self) -> Landed {
        let ranges = leaf_ranges(
            &self.plan.footer,
            self.row_group,
            self.wanted.iter().map(|(column, _)| column),
        );
        let spans: Vec<_> = ranges.iter().map(|(_, range)| range.clone()).collect();
        let (bytes, source) = self.engine.pages.read(&self.plan.split.file, &spans).await?;
        let bytes = Arc::new(RowGroupBytes {
            footer: Arc::clone(&self.plan.footer),
            row_group: index(self.row_group),
            chunks: ranges.iter().map(|(leaf, _)| *leaf).zip(bytes).collect(),
            page_limit: Arc::new(PageLimit::new(self.engine.page_bytes_limit)),
        });
        let Self {
            engine,
            plan,
            row_group,
            wanted,
            _raw,
        } = self;
        let decoded = wanted.into_iter().map(|(column, place)| {
            let (plan, bytes) = (Arc::clone(&plan), Arc::clone(&bytes));
            let engine = &engine;
            async move {
                let key = place.key();
                let path = plan.split.path.clone();
                let decoded = engine
                    .pool
                    .run(move || decode(&plan, bytes, column).map(|strides| place.fill(strides)));
                let blame = |panic| {
                    let reason = format!("its data breaks the decoder, which {panic}");
                    ReadError::corrupt(&path, Some(row_group.0), reason)
                };
                decoded.await.map_err(blame)?.map(|chunk| (key, chunk))
            }
        });
        let chunks = future::try_join_all(decoded).await?.into_iter().collect();
        Ok(Arc::new(Brought { chunks, source }))
    }
}

/// All of a column, in the strides that chunks have.
fn decode(plan: &FilePlan, bytes: Arc<RowGroupBytes>, column: SelectedColumn) -> Result<Vec<ArrayRef>, ReadError> {
    let (row_group, limit) = (bytes.row_group, Arc::clone(&bytes.page_limit));
    let failed = |error: arrow::error::ArrowError| {
        let group = u32::try_from(row_group).ok();
        decode_error(&plan.split.path, group, Some(&limit), &error.to_string())
    };
    let stride = plan.group(row_group).map_or(1, chunk_stride);
    let mut decoder = ColumnDecoder::open(bytes, vec![column], stride).map_err(failed)?;
    let mut strides = Vec::new();
    while let Some(arrays) = decoder.next().map_err(failed)? {
        strides.extend(arrays);
    }
    Ok(strides)
}

fn index(row_group: RowGroup) -> usize {
    usize::try_from(row_group.0).unwrap_or(usize::MAX)
}
