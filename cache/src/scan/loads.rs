//! Chunks on their way: decoded whole, moved to the chunk tier, given to all who wait.
//!
//! A column of a row group that is worth keeping is not decoded stride by stride for the reader that asked first, but as
//! one load that any number of readers wait for and that outlives them. One load brings all such columns of a row group
//! that were missing together, so that their bytes are fetched together.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayData, ArrayRef};
use futures::future;

use super::plan::{FilePlan, chunk_stride};
use super::{Engine, chunk_key, decode_error, leaf_ranges};
use crate::budget::{Purpose, Reservation};
use crate::chunk::{Chunk, ChunkKey, Place};
use crate::counters::{Lookups, Tier};
use crate::decode::{ColumnDecoder, RowGroupBytes, SelectedColumn};
use crate::error::ReadError;
use crate::flights::Flight;
use crate::key::{RowGroup, Source, to_u64};

/// A column that is more than twice as large as its footer says, and this, is not kept.
const MOST_SURPLUS_BYTES: u64 = 64 << 20;

/// What a load brings.
pub(crate) type Landed = Result<Arc<Brought>, ReadError>;

/// Chunks that one load brought.
#[derive(Debug)]
pub(crate) struct Brought {
    /// Without those that turned out too large to be kept, or could not be decoded.
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
            let bytes = plan.decoded_bytes(index(row_group), std::iter::once(column));
            claims.push(if let Some(chunk) = engine.chunks.get(&key) {
                lookups.hits.add(chunk.bytes);
                Claim::Held(chunk)
            } else if let Some(flight) = boarding.bound_for(&key) {
                lookups.misses.add(bytes);
                lookups.coalesced.add(bytes);
                Claim::Awaited(key, flight)
            } else {
                lookups.misses.add(bytes);
                wanted.extend(
                    engine
                        .chunks
                        .place(&key, &plan.split.file.key, bytes)
                        .map(|place| (column.clone(), place)),
                );
                Claim::Alone
            });
        }
        lookups.count(Tier::Chunk, plan.split.file.ufs.mount_id());
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
        let chunks = ranges.iter().map(|(leaf, _)| *leaf).zip(bytes);
        let bytes = Arc::new(self.engine.row_group_bytes(&self.plan.footer, self.row_group, chunks));
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
                let most_bytes = place.bytes().saturating_mul(2).saturating_add(MOST_SURPLUS_BYTES);
                let decoded = engine.pool.run(move || {
                    let strides = decode(&plan, bytes, column, most_bytes)?;
                    Ok::<_, ReadError>(strides.map(|strides| place.fill(strides)))
                });
                let blame = |panic| {
                    let reason = format!("its data breaks the decoder, which {panic}");
                    ReadError::corrupt(&path, Some(row_group.0), reason)
                };
                // A column that cannot be decoded is nobody's business but its readers', who find out for themselves.
                let decoded = decoded.await.map_err(blame).and_then(|decoded| decoded);
                let failed = |error: &ReadError| tracing::debug!(%error, "a column was not kept");
                decoded.inspect_err(failed).ok().flatten().map(|chunk| (key, chunk))
            }
        });
        let chunks = future::join_all(decoded).await.into_iter().flatten().collect();
        Ok(Arc::new(Brought { chunks, source }))
    }
}

/// All of a column, in the strides that chunks have; none where it turns out to take more than `most_bytes`.
fn decode(
    plan: &FilePlan,
    bytes: Arc<RowGroupBytes>,
    column: SelectedColumn,
    most_bytes: u64,
) -> Result<Option<Vec<ArrayRef>>, ReadError> {
    let (row_group, limit) = (bytes.row_group, Arc::clone(&bytes.page_limit));
    let failed = |error: arrow::error::ArrowError| {
        let group = u32::try_from(row_group).ok();
        decode_error(&plan.split.path, group, Some(&limit), &error.to_string())
    };
    let stride = plan.group(row_group).map_or(1, chunk_stride);
    let mut decoder = ColumnDecoder::open(bytes, vec![column], stride).map_err(failed)?;
    let (mut strides, mut held) = (Vec::new(), HeldBytes::default());
    while let Some(arrays) = decoder.next().map_err(failed)? {
        arrays.iter().for_each(|array| held.add(&array.to_data()));
        if held.bytes > most_bytes {
            return Ok(None);
        }
        strides.extend(arrays);
    }
    Ok(Some(strides))
}

/// Bytes that arrays hold together: dictionaries and texts that several strides share count once. All of the arrays must
/// live for as long as this does.
#[derive(Default)]
struct HeldBytes {
    seen: HashSet<(usize, usize)>,
    bytes: u64,
}

impl HeldBytes {
    fn add(&mut self, data: &ArrayData) {
        let nulls = data.nulls().map(|nulls| nulls.buffer());
        for buffer in data.buffers().iter().chain(nulls) {
            if self.seen.insert((buffer.as_ptr() as usize, buffer.len())) {
                self.bytes += to_u64(buffer.len());
            }
        }
        data.child_data().iter().for_each(|child| self.add(child));
    }
}

fn index(row_group: RowGroup) -> usize {
    usize::try_from(row_group.0).unwrap_or(usize::MAX)
}
