//! Puts the batches of one row group together, stride by stride.
//!
//! Columns come from decoders and from the chunk tier; where their strides end at different rows (a decoder had to
//! shorten its own), the batches end at each such row. All of this runs on the CPU pool, but for what is light.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use rayon::iter::{IntoParallelRefMutIterator, ParallelIterator};

use super::Taker;
use super::decode_error;
use super::output::{Output, OutputError};
use super::plan::FilePlan;
use crate::chunk::{Chunk, ChunkRuns, RUN_STRIDES};
use crate::decode::{ColumnDecoder, RowGroupBytes, SelectedColumn};
use crate::error::ReadError;
use crate::key::{sum_of, to_u64, to_usize};
use crate::pages::PageLimit;

/// Where one column's arrays come from.
pub(crate) enum Supply {
    /// The chunk tier had it.
    Chunk(Chunk),
    /// The same in longer arrays, of a row group of which all rows are wanted.
    Runs(ChunkRuns),
    /// It was read to find out which rows are wanted, and these are the wanted ones.
    Given(Vec<ArrayRef>),
    /// It is decoded for this reader alone.
    Decode,
}

impl Supply {
    fn held(&self) -> Option<&Chunk> {
        match self {
            Self::Chunk(chunk) => Some(chunk),
            _ => None,
        }
    }
}

/// One row group on its way to batches.
pub(crate) struct Assembler {
    plan: Arc<FilePlan>,
    row_group: usize,
    feeds: Vec<Feed>,
    decoders: Vec<Decoder>,
    /// The rows of the row group that are wanted.
    rows: Vec<Range<usize>>,
    rows_left: usize,
    output: Output,
    page_limit: Option<Arc<PageLimit>>,
}

/// What one step gave.
pub(crate) struct Step {
    pub(crate) batches: Vec<RecordBatch>,
    pub(crate) done: bool,
}

/// The arrays of one column that no batch has yet.
struct Feed {
    arrays: VecDeque<ArrayRef>,
    /// Those after them, where they are put together as they are wanted.
    later: Option<ChunkRuns>,
    /// Rows of the first array that batches have already.
    taken: usize,
}

struct Decoder {
    decoder: ColumnDecoder,
    /// Positions in the plan of the columns it decodes, in its order.
    feeds: Vec<usize>,
}

/// Rows of a batch that reads nothing from the file but has columns.
const UNREAD_ROWS: usize = 64 << 10;

impl Assembler {
    /// Prepares these rows of a row group; `supplies` has one entry for each column of the plan.
    pub(crate) fn new(plan: Arc<FilePlan>, row_group: usize, rows: Vec<Range<usize>>, supplies: Vec<Supply>) -> Self {
        let (supplies, batch_bytes) = in_runs(&plan, row_group, &rows, supplies);
        let feeds = supplies.into_iter().map(|supply| Feed::new(supply, &rows)).collect();
        let output = Output::new(Arc::clone(&plan.shape), batch_bytes);
        Self {
            plan,
            row_group,
            feeds,
            decoders: Vec::new(),
            rows_left: rows.iter().map(Range::len).sum(),
            rows,
            output,
            page_limit: None,
        }
    }

    /// Opens decoders for the columns that are to be decoded, `parts` of them side by side.
    pub(crate) fn open(&mut self, bytes: Arc<RowGroupBytes>, stride: usize, parts: usize) -> Result<(), ReadError> {
        self.page_limit = Some(Arc::clone(&bytes.page_limit));
        let is_partial = bytes.is_partial();
        let to_decode = self
            .feeds
            .iter()
            .enumerate()
            .filter(|(_, feed)| feed.arrays.is_empty())
            .map(|(at, _)| at);
        for mut group in shares(&self.plan, self.row_group, to_decode.collect(), parts) {
            group.sort_by_key(|at| self.plan.columns[*at].root);
            let columns: Vec<SelectedColumn> = group.iter().map(|at| self.plan.columns[*at].clone()).collect();
            let rows = self.rows_of_decoders(is_partial);
            let decoder = ColumnDecoder::open(Arc::clone(&bytes), columns, stride, rows);
            let decoder = decoder.map_err(|e| self.corrupt(&e.to_string()))?;
            self.decoders.push(Decoder { decoder, feeds: group });
        }
        Ok(())
    }

    /// Where the wanted rows have gaps, or others cannot be decoded, which they are. Else decoders begin at the first row and go
    /// as far as is asked.
    fn rows_of_decoders(&self, is_partial: bool) -> Option<&[Range<usize>]> {
        let from_first = matches!(self.rows.as_slice(), [only] if only.start == 0);
        (!from_first || is_partial).then_some(self.rows.as_slice())
    }

    /// Whether a step does no work on values: all columns are held, and are given as they are.
    pub(crate) fn is_light(&self) -> bool {
        let types: Vec<_> = self
            .feeds
            .iter()
            .map(|feed| feed.arrays.front().map(|array| array.data_type()))
            .collect();
        self.decoders.is_empty() && self.plan.shape.filter.is_none() && self.plan.adapter.passes(&types)
    }

    /// Decodes and gives the next stride.
    pub(crate) fn step(&mut self) -> Result<Step, ReadError> {
        self.refill()?;
        let rows = self.rows_ready();
        if rows == 0 && self.rows_left > 0 {
            return Err(self.corrupt("a column has fewer rows than the row group"));
        }
        let arrays: Vec<ArrayRef> = self.feeds.iter_mut().filter_map(|feed| feed.take(rows)).collect();
        let mut batches = Vec::new();
        if rows > 0 {
            let batch = self
                .plan
                .adapter
                .batch(&arrays, rows)
                .map_err(|misfit| ReadError::Mismatch {
                    path: self.plan.split.path.clone(),
                    column: misfit.column,
                    wanted: misfit.wanted,
                    reason: misfit.reason,
                })?;
            batches = self.output.push(batch).map_err(|error| self.output_error(error))?;
        }
        self.rows_left -= rows;
        let done = self.rows_left == 0;
        if done {
            batches.extend(self.output.flush().map_err(|error| self.output_error(error))?);
        }
        Ok(Step { batches, done })
    }

    /// Decodes one stride of each decoder whose columns have been taken.
    fn refill(&mut self) -> Result<(), ReadError> {
        if self.rows_left == 0 {
            return Ok(());
        }
        let feeds = &self.feeds;
        let empty = |decoder: &&mut Decoder| decoder.feeds.iter().any(|at| feeds[*at].arrays.is_empty());
        let mut due: Vec<&mut Decoder> = self.decoders.iter_mut().filter(empty).collect();
        let strides: Vec<_> = match due.as_mut_slice() {
            // Even an empty parallel loop goes to other threads and back.
            [] => Vec::new(),
            [only] => vec![only.next()],
            several => several.par_iter_mut().map(|decoder| decoder.next()).collect(),
        };
        for stride in strides {
            let (columns, arrays) = stride.map_err(|reason| self.corrupt(&reason))?;
            for (at, array) in columns.into_iter().zip(arrays) {
                self.feeds[at].arrays.push_back(array);
            }
        }
        Ok(())
    }

    fn rows_ready(&self) -> usize {
        let ready = self.feeds.iter().map(Feed::ready).min();
        let unread = if self.plan.shape.read.fields().is_empty() {
            self.rows_left
        } else {
            UNREAD_ROWS
        };
        ready.unwrap_or(unread).min(self.rows_left)
    }

    fn corrupt(&self, reason: &str) -> ReadError {
        let row_group = u32::try_from(self.row_group).ok();
        decode_error(&self.plan.split.path, row_group, self.page_limit.as_deref(), reason)
    }

    fn output_error(&self, error: OutputError) -> ReadError {
        match error {
            OutputError::Filter(error) => ReadError::Filter {
                path: self.plan.split.path.clone(),
                reason: error.to_string(),
            },
            OutputError::Batch(error) => ReadError::internal(error.to_string()),
        }
    }
}

impl Feed {
    fn new(supply: Supply, rows: &[Range<usize>]) -> Self {
        let arrays = match supply {
            Supply::Chunk(chunk) => wanted(&chunk.strides, rows),
            Supply::Given(strides) => strides.into(),
            Supply::Decode => VecDeque::new(),
            Supply::Runs(mut runs) => {
                return Self {
                    arrays: runs.next().into_iter().collect(),
                    later: Some(runs),
                    taken: 0,
                };
            }
        };
        Self {
            arrays,
            later: None,
            taken: 0,
        }
    }

    fn ready(&self) -> usize {
        self.arrays.front().map_or(0, |array| array.len() - self.taken)
    }

    /// The next `rows` rows, which must be ready.
    fn take(&mut self, rows: usize) -> Option<ArrayRef> {
        let front = self.arrays.front()?;
        let whole = self.taken == 0 && rows == front.len();
        let part = if whole {
            Arc::clone(front)
        } else {
            front.slice(self.taken, rows)
        };
        self.taken += rows;
        if self.taken == front.len() {
            self.arrays.pop_front();
            self.arrays.extend(self.later.as_mut().and_then(Iterator::next));
            self.taken = 0;
        }
        Some(part)
    }
}

impl Decoder {
    /// Positions and arrays of the next stride.
    fn next(&mut self) -> Result<(Vec<usize>, Vec<ArrayRef>), String> {
        match self.decoder.next() {
            Ok(Some(arrays)) => Ok((self.feeds.clone(), arrays)),
            Ok(None) => Ok((Vec::new(), Vec::new())),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Where a whole row group is held, and is given as it is: as many strides in one array as batches have room for. And bytes of
/// these batches.
fn in_runs(plan: &FilePlan, row_group: usize, rows: &[Range<usize>], supplies: Vec<Supply>) -> (Vec<Supply>, usize) {
    let shape = &plan.shape;
    let batch_bytes = match shape.taker {
        Taker::Sends => shape.batch_bytes,
        Taker::Maps { batch_bytes } => batch_bytes,
        Taker::Computes => return (supplies, shape.batch_bytes),
    };
    let all_rows = plan.group(row_group).and_then(|group| usize::try_from(group.rows).ok());
    let is_whole = matches!(rows, [only] if only.start == 0 && Some(only.end) == all_rows);
    let held: Option<Vec<&Chunk>> = supplies.iter().map(Supply::held).collect();
    let runs = match held {
        Some(held) if is_whole && !shape.as_chunks && shape.filter.is_none() => runs_of(plan, &held, batch_bytes),
        _ => None,
    };
    match runs {
        Some(runs) => (runs.into_iter().map(Supply::Runs).collect(), batch_bytes),
        None => (supplies, shape.batch_bytes),
    }
}

/// Chunks in longer arrays, which all end at the same rows; none where that cannot be had without a copy.
fn runs_of(plan: &FilePlan, chunks: &[&Chunk], batch_bytes: usize) -> Option<Vec<ChunkRuns>> {
    let (first, others) = chunks.split_first()?;
    let lengths = |chunk: &Chunk| chunk.strides.iter().map(|stride| stride.len()).collect::<Vec<_>>();
    let first_lengths = lengths(first);
    let types: Option<Vec<_>> = chunks
        .iter()
        .map(|chunk| Some(chunk.strides.first()?.data_type()))
        .collect();
    if first_lengths.len() < 2 || others.iter().any(|other| lengths(other) != first_lengths) {
        return None;
    }
    if !plan.adapter.makes_little(&types?) {
        return None;
    }
    let bytes = sum_of(chunks.iter().map(|chunk| &chunk.bytes));
    let stride_bytes = bytes.div_ceil(to_u64(first_lengths.len().max(1))).max(1);
    let strides = to_usize(to_u64(batch_bytes) / stride_bytes).min(RUN_STRIDES);
    // A power of two, as runs are, so that no array is cut short in their midst.
    let strides = 1 << strides.checked_ilog2().filter(|power| *power > 0)?;
    chunks.iter().map(|chunk| chunk.in_runs(strides)).collect()
}

/// The wanted rows of a column's strides; whole strides by reference.
fn wanted(strides: &[ArrayRef], rows: &[Range<usize>]) -> VecDeque<ArrayRef> {
    let (mut parts, mut start, mut runs) = (VecDeque::new(), 0, rows.iter().peekable());
    for stride in strides {
        let end = start + stride.len();
        while let Some(run) = runs.peek().filter(|run| run.start < end) {
            let (from, to) = (run.start.max(start), run.end.min(end));
            if to - from == stride.len() {
                parts.push_back(Arc::clone(stride));
            } else if to > from {
                parts.push_back(stride.slice(from - start, to - from));
            }
            if run.end > end {
                break;
            }
            runs.next();
        }
        start = end;
    }
    parts
}

/// Deals columns out to `parts` decoders, the largest first to the one that has least.
fn shares(plan: &FilePlan, row_group: usize, columns: Vec<usize>, parts: usize) -> Vec<Vec<usize>> {
    let parts = parts.clamp(1, columns.len().max(1));
    let mut sized: Vec<(u64, usize)> = columns
        .into_iter()
        .map(|at| (plan.decoded_bytes(row_group, std::iter::once(&plan.columns[at])), at))
        .collect();
    sized.sort_unstable_by(|a, b| b.cmp(a));
    let mut shares: Vec<(u64, Vec<usize>)> = vec![(0, Vec::new()); parts];
    for (bytes, at) in sized {
        if let Some(least) = shares.iter_mut().min_by_key(|(bytes, _)| *bytes) {
            least.0 += bytes.max(1);
            least.1.push(at);
        }
    }
    shares
        .into_iter()
        .map(|(_, share)| share)
        .filter(|share| !share.is_empty())
        .collect()
}
