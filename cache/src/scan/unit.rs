//! One row group of a scan: fetched, decoded, and handed on as fast as its reader takes it.
//!
//! Where only the first rows of a large row group are wanted, only the beginnings of its column chunks are fetched. How
//! far those rows reach is a guess from the sizes; where it was too short, the whole is fetched after all.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::{ArrayRef, RecordBatch};
use futures::future;
use tokio::sync::{Semaphore, mpsc};

use super::assemble::{Assembler, Step, Supply};
use super::charge::Memory;
use super::loads::{self, Claim};
use super::output::batch_bytes;
use super::paged::{Layouts, Parts};
use super::plan::{FilePlan, chunk_stride, request_stride};
use super::sieve::Sifted;
use super::turn::Turn;
use super::{Charge, Engine, Progress, ScanBatch, chunk_key, leaf_ranges};
use crate::budget::Purpose;
use crate::decode::SelectedColumn;
use crate::error::ReadError;
use crate::key::{RowGroup, Source};
use crate::pages::ChunkBytes;
use crate::pool::guarded;

/// A batch, charged with its share of the unit's window.
pub(crate) type Delivery = Result<ScanBatch, ReadError>;

/// One row group to read.
pub(crate) struct Unit {
    pub(crate) engine: Arc<Engine>,
    pub(crate) plan: Arc<FilePlan>,
    pub(crate) row_group: RowGroup,
    /// Rows to read from its start.
    pub(crate) rows: usize,
    /// How many decoders to run side by side.
    pub(crate) parts: usize,
    /// Bytes that it may hold decoded.
    pub(crate) window_bytes: u64,
    /// Bytes of batches that it may have ready, or on their way to the client; the window at most.
    pub(crate) ready_bytes: u64,
    /// When it may decode.
    pub(crate) turn: Turn,
}

/// What is there of a row group before it is opened: columns that were read to sift it, and where its pages are.
#[derive(Default)]
pub(crate) struct Given {
    /// Strides of columns, by their position in the plan; of the rows in `runs`.
    pub(crate) columns: HashMap<usize, Vec<ArrayRef>>,
    /// The rows to read; all where none.
    pub(crate) runs: Option<Vec<Range<usize>>>,
    /// Where the pages of columns lie, if those of `runs` are to be read alone.
    pub(crate) layouts: Option<Arc<Layouts>>,
    /// The slowest tier that they came from.
    pub(crate) source: Option<Source>,
}

/// How much of the column chunks is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    Head,
    Whole,
}

/// Whether anybody still reads.
pub(super) enum Reader {
    There,
    Gone,
}

/// The beginning of a row group is fetched alone where no more than one row in this many is wanted.
const HEAD_SHARE: u64 = 4;
/// Bytes of the beginning of a column chunk at least: its dictionary and a page of the usual size.
const HEAD_BYTES: u64 = 2 << 20;

/// Bytes of batches that one unit may have ready, at most, where the scan may hold twice as much.
pub(crate) const UNIT_WINDOW_BYTES: u64 = 32 << 20;
/// Batches that one unit may have ready, whatever their size.
pub(crate) const UNIT_WINDOW_BATCHES: usize = 1 << 10;
/// Strides are whole words of a validity bitmap.
pub(crate) const STRIDE_ALIGN_ROWS: usize = 64;
/// Bytes of one permit of a budget: semaphores count with 32 bits.
const PERMIT_BYTES: u64 = 1 << 10;

/// Bytes that a batch shows.
pub(super) fn bytes_of(batch: &RecordBatch) -> u64 {
    u64::try_from(batch_bytes(batch)).unwrap_or(u64::MAX)
}

pub(super) fn bytes_in(ranges: &[(usize, Range<u64>)]) -> u64 {
    ranges.iter().map(|(_, range)| range.end - range.start).sum()
}

/// How many permits stand for this many bytes.
pub(crate) fn permits(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX)
}

impl Unit {
    /// Reads the row group into `out`; an error is the last thing sent.
    pub(crate) async fn run(self, memory: Arc<Memory>, out: mpsc::Sender<Delivery>) {
        if let Err(error) = self.attempt(&memory, &out).await {
            // The reader has gone where this fails, and nobody is left to be told.
            let _ = out.send(Err(error)).await;
        }
    }

    /// Whether all that it gives is held as columns, which it only has to put together.
    pub(crate) fn is_at_hand(&self) -> bool {
        let shape = &self.plan.shape;
        shape.filter.is_none() && shape.sieve.is_none() && self.absent_and_held().0.is_empty()
    }

    /// Bytes of the budget that this unit needs at most: the raw column chunks and the window of what it is to decode. What
    /// the chunk tier holds now is handed out as it is, and is paid for there.
    pub(crate) fn cost_bytes(&self) -> u64 {
        let (absent, _) = self.absent_and_held();
        self.cost_of(&absent)
    }

    /// Bytes that this unit may keep from others, chunks included that cannot be freed while it has them.
    pub(crate) fn footprint_bytes(&self) -> u64 {
        let (absent, held) = self.absent_and_held();
        let pinned = self.plan.decoded_bytes(self.row_group_index(), held.into_iter());
        self.cost_of(&absent).saturating_add(pinned)
    }

    pub(crate) fn absent_and_held(&self) -> (Vec<&SelectedColumn>, Vec<&SelectedColumn>) {
        let file = self.plan.split.file.key.id();
        let is_absent = |column: &&SelectedColumn| {
            let key = chunk_key(file, self.row_group, column);
            !self.engine.chunks.contains(&key)
        };
        self.plan.columns.iter().partition(is_absent)
    }

    /// What it takes to decode these columns: a row at least, however large it is.
    fn cost_of(&self, columns: &[&SelectedColumn]) -> u64 {
        let group = self.row_group_index();
        let decoded = self.plan.decoded_bytes(group, columns.iter().copied());
        let row = decoded.div_ceil(self.plan.group(group).map_or(1, |group| group.rows.max(1)));
        let raw = bytes_in(&self.ranges(columns.iter().copied()));
        raw.saturating_add(decoded.min(self.window_bytes.max(row)))
    }

    /// Makes the unit's part of the budget `bytes`: gives back what is more, takes what is missing.
    async fn resize(&self, memory: &Memory, bytes: u64) -> Result<(), ReadError> {
        let missing = memory.shrink_to(bytes);
        if missing > 0 {
            let more = self.engine.budget.reserve(missing, Purpose::Scans).await;
            let more = more.map_err(|source| ReadError::Budget {
                path: self.plan.split.path.clone(),
                row_group: Some(self.row_group.0),
                source,
            })?;
            memory.absorb(more);
        }
        Ok(())
    }

    /// Reads, unless that failed lately because of the file.
    async fn attempt(&self, memory: &Arc<Memory>, out: &mpsc::Sender<Delivery>) -> Result<(), ReadError> {
        let (file, columns) = (self.plan.split.file.key.id(), &self.plan.columns);
        if let Some(error) = self.engine.poison.find(file, self.row_group, columns) {
            return Err(error);
        }
        let outcome = self.read(memory, out).await;
        if let Err(error) = &outcome {
            self.engine.poison.learn(file, self.row_group, columns, error);
        }
        outcome
    }

    async fn read(&self, memory: &Arc<Memory>, out: &mpsc::Sender<Delivery>) -> Result<(), ReadError> {
        let window = usize::try_from(permits(self.ready_bytes)).unwrap_or(usize::MAX);
        let window = Arc::new(Semaphore::new(window));
        if self.wants_head()
            && let Some((batches, source)) = self.read_head(memory).await?
        {
            self.count_needed(Extent::Head);
            return self.deliver(batches, source, (&window, memory), out).await.map(|_| ());
        }
        if self.read_pages((&window, memory), out).await? {
            return Ok(());
        }
        let given = match self.sift(memory, Given::default()).await? {
            Sifted::Nothing => {
                self.count_needed(Extent::Whole);
                return Ok(());
            }
            Sifted::Not => Given::default(),
            Sifted::Some(given) => given,
        };
        let (assembler, source) = self.open(Extent::Whole, memory, given).await?;
        self.count_needed(Extent::Whole);
        let mut running = Some(assembler);
        while let Some(assembler) = running.take() {
            let (assembler, step) = self.step(assembler).await?;
            if step.done {
                // The raw bytes go; what was decoded and is not taken yet fits the window.
                drop(assembler);
                memory.shrink_to(self.window_bytes);
            } else {
                running = Some(assembler);
            }
            if let Reader::Gone = self.deliver(step.batches, source, (&window, memory), out).await? {
                break;
            }
        }
        Ok(())
    }

    /// Counts the bytes that a read was about, once they are there: storage was spared nothing of what could not be read.
    fn count_needed(&self, extent: Extent) {
        let ranges = self.ranges(self.plan.columns.iter());
        let parts = ranges.iter().map(|(_, range)| self.part(range, extent));
        let needed_bytes = parts.map(|part| part.end - part.start).sum();
        self.engine.needed_bytes.fetch_add(needed_bytes, Ordering::Relaxed);
    }

    /// The wanted rows out of the beginnings of the column chunks, or none where those turn out too short. Nothing is sent
    /// before all rows are there: what is missing shows as damage, which only the whole can tell from real damage.
    async fn read_head(&self, memory: &Memory) -> Result<Option<(Vec<RecordBatch>, Source)>, ReadError> {
        let (mut assembler, source) = match self.open(Extent::Head, memory, Given::default()).await {
            Err(ReadError::Corrupt { .. }) => return Ok(None),
            opened => opened?,
        };
        let (mut batches, mut bytes) = (Vec::new(), 0u64);
        loop {
            let step = match self.step(assembler).await {
                Err(ReadError::Corrupt { .. }) => return Ok(None),
                step => step?,
            };
            assembler = step.0;
            bytes += step.1.batches.iter().map(bytes_of).sum::<u64>();
            batches.extend(step.1.batches);
            if bytes > self.window_bytes {
                // Too much to hold back; the whole is sent as it is decoded.
                return Ok(None);
            }
            if step.1.done {
                return Ok(Some((batches, source)));
            }
        }
    }

    /// Hands batches to the reader, as its window allows.
    pub(super) async fn deliver(
        &self,
        batches: Vec<RecordBatch>,
        source: Source,
        (window, memory): (&Arc<Semaphore>, &Arc<Memory>),
        out: &mpsc::Sender<Delivery>,
    ) -> Result<Reader, ReadError> {
        for batch in batches {
            let bytes = bytes_of(&batch);
            let share = permits(bytes.min(self.ready_bytes));
            let held = Arc::clone(window).acquire_many_owned(share).await;
            let held = held.map_err(|_| ReadError::internal("a unit's window was closed"))?;
            let given = ScanBatch {
                batch,
                source,
                charge: Charge::new(bytes, memory, held),
                progress: Progress::default(),
            };
            if out.send(Ok(given)).await.is_err() {
                return Ok(Reader::Gone);
            }
        }
        Ok(Reader::There)
    }

    fn held_or_alone(&self, column: &SelectedColumn) -> Claim {
        let key = chunk_key(self.plan.split.file.key.id(), self.row_group, column);
        self.engine.chunks.get(&key).map_or(Claim::Alone, Claim::Held)
    }

    pub(crate) async fn step(&self, mut assembler: Assembler) -> Result<(Assembler, Step), ReadError> {
        self.turn.come().await;
        let here = assembler.is_light() || self.decodes_here();
        let work = move || assembler.step().map(|step| (assembler, step));
        // Handing over to another thread and back takes longer than putting references together.
        let step = if here {
            guarded(work)
        } else {
            self.engine.pool.run(work).await
        };
        step.unwrap_or_else(|panic| Err(self.corrupt(&format!("its data breaks the decoder, which {panic}"))))
    }

    /// Whether to decode on the reader's threads. Decoders that run side by side need the pool's.
    fn decodes_here(&self) -> bool {
        self.turn.is_near() && self.parts == 1
    }

    /// Waits for the columns that are on their way, reads the bytes of the others, and prepares the decoders.
    pub(crate) async fn open(
        &self,
        extent: Extent,
        memory: &Memory,
        mut given: Given,
    ) -> Result<(Assembler, Source), ReadError> {
        let of_given = given.columns.keys().filter_map(|at| self.plan.columns.get(*at));
        let given_bytes = self.plan.decoded_bytes(self.row_group_index(), of_given);
        let parts = given.parts();
        let claims = match (extent, &parts) {
            (Extent::Whole, None) => loads::claim(&self.engine, &self.plan, self.row_group, &mut given.columns),
            // Neither beginnings nor single pages are kept.
            _ => {
                let columns = self.plan.columns.iter().enumerate();
                let claim = |(at, column)| match given.columns.remove(&at) {
                    Some(strides) => Claim::Given(strides),
                    None => self.held_or_alone(column),
                };
                columns.map(claim).collect()
            }
        };
        let alone: Vec<bool> = claims.iter().map(|claim| matches!(claim, Claim::Alone)).collect();
        let of_those = |wanted: &[bool]| {
            let columns = self.plan.columns.iter().zip(wanted);
            let columns = columns.filter(|(_, wanted)| **wanted);
            columns.map(|(column, _)| column).collect::<Vec<_>>()
        };
        let own_bytes = match &parts {
            None => self.cost_of(&of_those(&alone)).saturating_add(given_bytes),
            Some(parts) => parts.cost_bytes(self, &of_those(&alone)).saturating_add(given_bytes),
        };
        if extent == Extent::Whole {
            // What others bring, they pay for; what was held when this unit was counted, and is no more, it pays for itself.
            self.resize(memory, own_bytes).await?;
        }
        let (supplies, (mut chunks, read_from)) = future::try_join(
            awaited(claims, || self.lost()),
            self.raw(of_those(&alone), extent, parts.as_ref()),
        )
        .await?;
        // What was awaited and turned out too large to be kept is decoded here after all.
        let late = supplies.iter().zip(&alone);
        let late: Vec<bool> = late
            .map(|((supply, _), alone)| matches!(supply, Supply::Decode) && !alone)
            .collect();
        let late = of_those(&late);
        if !late.is_empty() {
            self.resize(memory, own_bytes.saturating_add(self.cost_of(&late)))
                .await?;
        }
        let (late, late_from) = self.raw(late, extent, None).await?;
        chunks.extend(late);
        let source = supplies
            .iter()
            .fold(read_from.max(late_from), |worst, (_, source)| worst.max(*source));
        let source = given.source.map_or(source, |sifted| sifted.max(source));
        let supplies: Vec<Supply> = supplies.into_iter().map(|(supply, _)| supply).collect();
        let stride = self.stride(&supplies);
        let plan = Arc::clone(&self.plan);
        let rows = given.runs.unwrap_or_else(|| vec![0..self.rows]);
        let mut assembler = Assembler::new(plan, self.row_group_index(), rows, supplies);
        if chunks.is_empty() {
            return Ok((assembler, source));
        }
        let bytes = self
            .engine
            .row_group_parts(&self.plan.footer, self.row_group, chunks.into_iter());
        let parts = self.parts;
        let open = move || assembler.open(Arc::new(bytes), stride, parts).map(|()| assembler);
        let opened = match self.decodes_here() {
            true => guarded(open),
            false => self.engine.pool.run(open).await,
        };
        let assembler =
            opened.unwrap_or_else(|panic| Err(self.corrupt(&format!("its data breaks the decoder, which {panic}"))))?;
        Ok((assembler, source))
    }

    /// Bytes of leaf columns, and where they came from: of all rows, or of `parts` alone.
    async fn raw(
        &self,
        columns: Vec<&SelectedColumn>,
        extent: Extent,
        parts: Option<&Parts>,
    ) -> Result<(Vec<(usize, ChunkBytes)>, Source), ReadError> {
        let ranges = self.ranges(columns.into_iter());
        if ranges.is_empty() || self.rows == 0 {
            return Ok((Vec::new(), Source::Memory));
        }
        if let Some(parts) = parts {
            return parts.read(self, ranges).await;
        }
        let spans: Vec<_> = ranges.iter().map(|(_, range)| self.part(range, extent)).collect();
        let (bytes, source) = self.engine.pages.read(&self.plan.split.file, &spans).await?;
        let leaves = ranges.into_iter().map(|(leaf, _)| leaf);
        Ok((leaves.zip(bytes.into_iter().map(ChunkBytes::Whole)).collect(), source))
    }

    /// Rows of the strides of columns that are decoded.
    fn stride(&self, supplies: &[Supply]) -> usize {
        let Some(group) = self.plan.group(self.row_group_index()) else {
            return 1;
        };
        let asked = self
            .plan
            .decoded_bytes(self.row_group_index(), self.plan.columns.iter());
        // What is decoded must fit chunks beside it; where there is none, the stride suits this request alone.
        let beside = |supply: &Supply| matches!(supply, Supply::Chunk(_) | Supply::Given(_));
        let stride = if self.plan.shape.as_chunks || supplies.iter().any(beside) {
            chunk_stride(group)
        } else {
            request_stride(group, asked, self.plan.shape.batch_bytes)
        };
        // No stride is longer than the rows that are wanted, but for whole words of a bitmap.
        stride.min(self.rows.next_multiple_of(STRIDE_ALIGN_ROWS))
    }

    /// Whether the beginnings of the column chunks are likely to have all the rows that are wanted, and much is saved.
    fn wants_head(&self) -> bool {
        let rows = u64::try_from(self.rows).unwrap_or(u64::MAX);
        let few = self
            .plan
            .group(self.row_group_index())
            .is_some_and(|group| rows <= group.rows / HEAD_SHARE);
        let long = |(_, range): &(usize, Range<u64>)| range.end - range.start > HEAD_BYTES * HEAD_SHARE;
        let (absent, _) = self.absent_and_held();
        few && self.ranges(absent.into_iter()).iter().any(long)
    }

    /// The part of a column chunk that is fetched.
    fn part(&self, range: &Range<u64>, extent: Extent) -> Range<u64> {
        let rows = self
            .plan
            .group(self.row_group_index())
            .map_or(1, |group| group.rows.max(1));
        match extent {
            Extent::Whole => range.clone(),
            Extent::Head => {
                let wanted = u64::try_from(self.rows).unwrap_or(u64::MAX);
                let share = u128::from(range.end - range.start) * u128::from(wanted) / u128::from(rows);
                let length = u64::try_from(share)
                    .unwrap_or(u64::MAX)
                    .saturating_mul(2)
                    .saturating_add(HEAD_BYTES);
                range.start..range.start.saturating_add(length).min(range.end)
            }
        }
    }

    /// The leaf columns of `columns` and where their bytes are in the file, in file order.
    pub(super) fn ranges<'a>(&self, columns: impl Iterator<Item = &'a SelectedColumn>) -> Vec<(usize, Range<u64>)> {
        leaf_ranges(&self.plan.footer, self.row_group, columns)
    }

    pub(crate) fn row_group_index(&self) -> usize {
        usize::try_from(self.row_group.0).unwrap_or(usize::MAX)
    }

    fn corrupt(&self, reason: &str) -> ReadError {
        ReadError::corrupt(&self.plan.split.path, Some(self.row_group.0), reason)
    }

    fn lost(&self) -> ReadError {
        let (path, group) = (&self.plan.split.path, self.row_group.0);
        ReadError::internal(format!("{path}, row group {group}: the load of its columns died"))
    }
}

/// What each column is read from, once those that are on their way have landed.
async fn awaited(claims: Vec<Claim>, lost: impl Fn() -> ReadError) -> Result<Vec<(Supply, Source)>, ReadError> {
    let mut supplies = Vec::with_capacity(claims.len());
    for claim in claims {
        supplies.push(match claim {
            Claim::Held(chunk) => (Supply::Chunk(chunk), Source::Memory),
            Claim::Given(strides) => (Supply::Given(strides), Source::Memory),
            Claim::Alone => (Supply::Decode, Source::Memory),
            Claim::Awaited(key, flight) => {
                let brought = flight.landed().await.unwrap_or_else(|| Err(lost()))?;
                match brought.chunks.get(&key) {
                    Some(chunk) => (Supply::Chunk(chunk.clone()), brought.source),
                    None => (Supply::Decode, brought.source),
                }
            }
        });
    }
    Ok(supplies)
}
