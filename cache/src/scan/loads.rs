//! Chunks on their way: decoded whole, moved to the chunk tier, given to all who wait.
//!
//! A column of a row group that is worth keeping is not decoded stride by stride for the reader that asked first, but as
//! one load that any number of readers wait for and that outlives them. One load brings all such columns of a row group
//! that were missing together, so that their bytes are fetched together.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayData, ArrayRef};
use futures::future;
use tokio_util::sync::CancellationToken;

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

/// Where a load decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    /// In turn with all else that is decoded.
    Decoding,
    /// Behind all else.
    Behind,
}

/// What a load brings.
pub(crate) type Landed = Result<Arc<Brought>, ReadError>;

/// Chunks that one load brought.
#[derive(Debug)]
pub(crate) struct Brought {
    /// Without those that turned out too large to be kept, or could not be decoded.
    pub(crate) chunks: HashMap<ChunkKey, Chunk>,
    /// Why columns could not be decoded.
    pub(crate) failed: HashMap<ChunkKey, ReadError>,
    /// The slowest tier that their bytes came from.
    pub(crate) source: Source,
}

/// How a reader gets one column.
pub(crate) enum Claim {
    /// It is held.
    Held(Chunk),
    /// It is on its way.
    Awaited(ChunkKey, Flight<Landed>),
    /// It was read already, for this reader.
    Given(Vec<ArrayRef>),
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

/// Says for each column of the plan where it comes from, and begins to load those that are worth keeping. Of those `given`,
/// by their position, nothing is asked.
pub(crate) fn claim(
    engine: &Arc<Engine>,
    plan: &Arc<FilePlan>,
    row_group: RowGroup,
    given: &mut HashMap<usize, Vec<ArrayRef>>,
) -> Vec<Claim> {
    engine.loads.board(|boarding| {
        let mut wanted = Vec::new();
        let mut may_displace = false;
        let mut lookups = Lookups::default();
        let mut claims: Vec<Claim> = Vec::with_capacity(plan.columns.len());
        for (at, column) in plan.columns.iter().enumerate() {
            let key = chunk_key(plan.split.file.key.id(), row_group, column);
            let bytes = plan.decoded_bytes(index(row_group), std::iter::once(column));
            claims.push(if let Some(strides) = given.remove(&at) {
                Claim::Given(strides)
            } else if let Some(chunk) = engine.chunks.get(&key) {
                lookups.hits.add(chunk.bytes);
                Claim::Held(chunk)
            } else if let Some(flight) = boarding.bound_for(&key).filter(|_| !engine.later.is_at(&key)) {
                lookups.misses.add(bytes);
                lookups.coalesced.add(bytes);
                Claim::Awaited(key, flight)
            } else {
                lookups.misses.add(bytes);
                if let Some((place, displaces)) = place(engine, plan, &key, bytes) {
                    may_displace |= displaces;
                    wanted.push((column.clone(), place));
                }
                Claim::Alone
            });
        }
        lookups.count(Tier::Chunk, plan.split.file.ufs.mount_id());
        let Some(load) = Load::new(engine, plan, row_group, (wanted, may_displace)) else {
            return claims;
        };
        let keys: Vec<ChunkKey> = load.wanted.iter().map(|(_, place)| place.key()).collect();
        let flight = boarding.begin_kept(keys.clone(), CancellationToken::new(), load.run());
        let mut wanted = keys.into_iter().peekable();
        for (claim, column) in claims.iter_mut().zip(&plan.columns) {
            let key = chunk_key(plan.split.file.key.id(), row_group, column);
            // Both are in the order of the columns.
            if let Some(key) = wanted.next_if_eq(&key) {
                *claim = Claim::Awaited(key, flight.clone());
            }
        }
        claims
    })
}

/// Room for a column, where it is worth keeping, and whether others may go for it.
fn place(engine: &Engine, plan: &FilePlan, key: &ChunkKey, bytes: u64) -> Option<(Place, bool)> {
    let file = &plan.split.file.key;
    match engine.chunks.place(key, file, bytes, plan.shape.reread) {
        Some(place) => Some((place, true)),
        None if plan.shape.taker.maps() => Some((engine.chunks.place_in_free_room(key, file, bytes)?, false)),
        None => None,
    }
}

impl Load {
    /// None where there is nothing to load, or no memory for it: the places are given back then.
    fn new(
        engine: &Arc<Engine>,
        plan: &Arc<FilePlan>,
        row_group: RowGroup,
        (wanted, may_displace): (Vec<(SelectedColumn, Place)>, bool),
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
            // Where chunks and pages share the memory, they leave nothing free for long.
            _raw: match may_displace {
                true => engine.budget.take(raw_bytes, Purpose::Scans)?,
                false => engine.budget.take_free(raw_bytes, Purpose::Scans)?,
            },
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
        let (chunks, failed) = fill(&self.engine, &self.plan, self.wanted, bytes, Threads::Decoding).await;
        Ok(Arc::new(Brought { chunks, failed, source }))
    }
}

/// Stored bytes of columns that are to be decoded.
pub(crate) struct Stored {
    pub(crate) bytes: Arc<RowGroupBytes>,
    /// The slowest tier that they came from.
    pub(crate) source: Source,
    /// What is reserved for them.
    pub(crate) memory: Reservation,
    pub(crate) threads: Threads,
}

/// Begins to decode columns of which the bytes are there, so that readers who come meanwhile wait for it as for any load.
/// `place` gives each column that is neither held nor on its way a place. Those to wait for, with the loads that will bring
/// them.
pub(crate) fn claim_brought(
    engine: &Arc<Engine>,
    plan: &Arc<FilePlan>,
    columns: &[SelectedColumn],
    stored: Stored,
    mut place: impl FnMut(&SelectedColumn, &ChunkKey) -> Option<Place>,
) -> Vec<(ChunkKey, Flight<Landed>)> {
    let row_group = RowGroup(u32::try_from(stored.bytes.row_group).unwrap_or(u32::MAX));
    engine.loads.board(|boarding| {
        let (mut claims, mut wanted) = (Vec::new(), Vec::new());
        for column in columns {
            let key = chunk_key(plan.split.file.key.id(), row_group, column);
            if engine.chunks.contains(&key) {
                continue;
            }
            match boarding.bound_for(&key) {
                Some(flight) => claims.push((key, flight)),
                None => wanted.extend(place(column, &key).map(|place| (column.clone(), place))),
            }
        }
        if wanted.is_empty() {
            return claims;
        }
        let keys: Vec<ChunkKey> = wanted.iter().map(|(_, place)| place.key()).collect();
        let (engine, plan) = (Arc::clone(engine), Arc::clone(plan));
        let load = async move {
            let Stored {
                bytes,
                source,
                memory,
                threads,
            } = stored;
            let (chunks, failed) = fill(&engine, &plan, wanted, bytes, threads).await;
            drop(memory);
            Ok(Arc::new(Brought { chunks, failed, source }))
        };
        let flight = boarding.begin_kept(keys.clone(), CancellationToken::new(), load);
        claims.extend(keys.into_iter().map(|key| (key, flight.clone())));
        claims
    })
}

/// The columns on their way that a load will bring.
pub(crate) fn on_their_way(engine: &Engine, keys: &[ChunkKey]) -> Vec<Flight<Landed>> {
    engine
        .loads
        .board(|boarding| keys.iter().filter_map(|key| boarding.bound_for(key)).collect())
}

/// Decodes columns into their places: the chunks, and why others could not be decoded.
async fn fill(
    engine: &Arc<Engine>,
    plan: &Arc<FilePlan>,
    wanted: Vec<(SelectedColumn, Place)>,
    bytes: Arc<RowGroupBytes>,
    threads: Threads,
) -> (HashMap<ChunkKey, Chunk>, HashMap<ChunkKey, ReadError>) {
    let row_group = u32::try_from(bytes.row_group).ok();
    let decoded = wanted.into_iter().map(|(column, place)| {
        let (plan, bytes) = (Arc::clone(plan), Arc::clone(&bytes));
        async move {
            let key = place.key();
            let path = plan.split.path.clone();
            let most_bytes = place.bytes().saturating_mul(2).saturating_add(MOST_SURPLUS_BYTES);
            let decoded = engine.threads(threads).run(move || {
                let strides = decode(&plan, bytes, column, most_bytes)?;
                Ok::<_, ReadError>(strides.map(|strides| place.fill(strides)))
            });
            let blame = |panic| {
                let reason = format!("its data breaks the decoder, which {panic}");
                ReadError::corrupt(&path, row_group, reason)
            };
            let decoded = decoded.await.map_err(blame).and_then(|decoded| decoded);
            (key, decoded)
        }
    });
    let (mut chunks, mut failed) = (HashMap::new(), HashMap::new());
    for (key, decoded) in future::join_all(decoded).await {
        match decoded {
            Ok(chunk) => chunks.extend(chunk.map(|chunk| (key, chunk))),
            // A column that cannot be decoded is nobody's business but its readers', who find out for themselves.
            Err(error) => {
                tracing::debug!(%error, "a column was not kept");
                failed.insert(key, error);
            }
        }
    }
    (chunks, failed)
}

/// Whether a chunk is what its column's bytes decode to.
pub(crate) fn is_same(
    plan: &FilePlan,
    bytes: Arc<RowGroupBytes>,
    column: SelectedColumn,
    chunk: &Chunk,
) -> Result<bool, ReadError> {
    let mut held = chunk.strides.iter().map(Arc::clone).filter(|array| !array.is_empty());
    let mut rest: Option<ArrayRef> = held.next();
    let mut same = true;
    decode_each(plan, bytes, column, |array| {
        let mut at = 0;
        while same && at < array.len() {
            let Some(front) = rest.take() else {
                same = false;
                break;
            };
            let rows = front.len().min(array.len() - at);
            same = front.slice(0, rows).as_ref() == array.slice(at, rows).as_ref();
            at += rows;
            rest = match front.len() - rows {
                0 => held.next(),
                left => Some(front.slice(rows, left)),
            };
        }
        same
    })?;
    Ok(same && rest.is_none())
}

/// All of a column, in the strides that chunks have; none where it turns out to take more than `most_bytes`.
fn decode(
    plan: &FilePlan,
    bytes: Arc<RowGroupBytes>,
    column: SelectedColumn,
    most_bytes: u64,
) -> Result<Option<Vec<ArrayRef>>, ReadError> {
    let (mut strides, mut held) = (Vec::new(), HeldBytes::default());
    let complete = decode_each(plan, bytes, column, |array| {
        held.add(&array.to_data());
        strides.push(array);
        held.bytes <= most_bytes
    })?;
    Ok(complete.then_some(strides))
}

/// Decodes a column in the strides that chunks have, as long as `take` wants more of them; whether it took all.
fn decode_each(
    plan: &FilePlan,
    bytes: Arc<RowGroupBytes>,
    column: SelectedColumn,
    mut take: impl FnMut(ArrayRef) -> bool,
) -> Result<bool, ReadError> {
    let (row_group, limit) = (bytes.row_group, Arc::clone(&bytes.page_limit));
    let failed = |error: arrow::error::ArrowError| {
        let group = u32::try_from(row_group).ok();
        decode_error(&plan.split.path, group, Some(&limit), &error.to_string())
    };
    let stride = plan.group(row_group).map_or(1, chunk_stride);
    let mut decoder = ColumnDecoder::open(bytes, vec![column], stride, None).map_err(failed)?;
    while let Some(arrays) = decoder.next().map_err(failed)? {
        for array in arrays {
            if !take(array) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Bytes that arrays hold together: dictionaries and texts that several strides share count once. All of the arrays must
/// live for as long as this does.
#[derive(Default)]
pub(super) struct HeldBytes {
    seen: HashSet<(usize, usize)>,
    pub(super) bytes: u64,
}

impl HeldBytes {
    pub(super) fn add(&mut self, data: &ArrayData) {
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
