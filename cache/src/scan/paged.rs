//! Few rows of a row group, read by the file's page index.
//!
//! ```text
//!   bounds of pages --sieve--> runs of rows that may be wanted --few?--> the pages of those rows, of each column
//!                                                               '-----> as any row group
//! ```
//! The index is asked where a sieve has bounds to look at and many bytes are not held decoded, before any of them is read.
//! Where it leaves a small part of the rows, only the pages of those rows are fetched and decoded, and columns that are held are
//! taken from the chunk tier as ever. A row group of which it leaves nothing is passed over, although its own bounds let it
//! through: values that lie between those of two pages are in neither.
//!
//! Nothing that is read in this way is kept decoded. A chunk is all rows of a column, and whoever looks for single rows
//! would have to fetch all of it to have it kept. The bytes stay in the page tier, so that the same rows again ask storage for
//! nothing and cost the decoding of a page of each column.
//!
//! Why not for every filter: the index itself has to be fetched, one request more for each row group of a large file; and
//! what is read for many rows is better kept. Why not for nested columns: a page says how many values it has and not how
//! many rows, so that nobody would see an index that is wrong. Columns without an index are read whole.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::{Array, ArrayRef, UInt32Array, UInt64Array, new_null_array};
use arrow::compute::take;
use arrow::datatypes::DataType;
use bytes::Bytes;
use parquet::file::metadata::ColumnChunkMetaData;
use tokio::sync::{Semaphore, mpsc};

use super::charge::Memory;
use super::plan::FilePlan;
use super::sieve::{RunBounds, Sieve, Sifted};
use super::unit::{Delivery, Extent, Given, Reader, Unit, bytes_in, bytes_of};
use crate::decode::SelectedColumn;
use crate::error::ReadError;
use crate::footer::{ColumnStatistics, chunk_range};
use crate::key::{Source, to_u64};
use crate::pages::{ChunkBytes, ChunkPart, PageBounds, PageLayout};
use crate::pool::guarded;

/// The index is asked where columns of so many bytes in the file are not held decoded: to fetch less takes hardly longer.
const LEAST_SPARED_BYTES: u64 = 4 << 20;
/// Longest index that is fetched, of all columns of a row group together.
const MAX_INDEX_BYTES: u64 = 4 << 20;
/// Pages are read alone where no more than one row in this many is left: to decode these again each time costs about what
/// it does to look at all values of a column that is held.
const FEW_ROWS: usize = 16;
/// Runs that lie nearer to each other are read as one.
const LEAST_GAP_ROWS: usize = 1 << 10;
/// Most runs whose bounds are looked at.
const MAX_RUNS: usize = 1 << 16;

/// Where the data pages of columns lie, by leaf column.
pub(crate) type Layouts = HashMap<usize, PageLayout>;

/// What the index leaves of a row group.
struct Left {
    runs: Vec<Range<usize>>,
    layouts: Arc<Layouts>,
    /// Where the index came from.
    source: Source,
}

impl Left {
    fn given(&self) -> Given {
        Given {
            columns: HashMap::new(),
            runs: Some(self.runs.clone()),
            layouts: Some(Arc::clone(&self.layouts)),
            source: Some(self.source),
        }
    }
}

impl Unit {
    /// Reads the pages that the index leaves into `out`, where these are few; whether it did. Before anything was sent, pages that
    /// are not where the index has them are no damage: the row group is then to be read whole.
    pub(crate) async fn read_pages(
        &self,
        (window, memory): (&Arc<Semaphore>, &Arc<Memory>),
        out: &mpsc::Sender<Delivery>,
    ) -> Result<bool, ReadError> {
        let Some(left) = self.left().await? else {
            return Ok(false);
        };
        if left.runs.is_empty() {
            return Ok(true);
        }
        let given = match self.sift(memory, left.given()).await {
            Ok(Sifted::Nothing) => return Ok(true),
            Ok(Sifted::Not) => left.given(),
            Ok(Sifted::Some(given)) => given,
            Err(ReadError::Corrupt { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        let (mut assembler, source) = match self.open(Extent::Whole, memory, given).await {
            Err(ReadError::Corrupt { .. }) => return Ok(false),
            opened => opened?,
        };
        let (mut is_sent, mut ready, mut ready_bytes) = (false, Vec::new(), 0u64);
        loop {
            let (next, step) = match self.step(assembler).await {
                Err(ReadError::Corrupt { .. }) if !is_sent => return Ok(false),
                step => step?,
            };
            ready_bytes += step.batches.iter().map(bytes_of).sum::<u64>();
            ready.extend(step.batches);
            // Held back as long as there is room, so that little is sent before all is known to be sound.
            if step.done || ready_bytes > self.window_bytes {
                is_sent = true;
                ready_bytes = 0;
                let batches = std::mem::take(&mut ready);
                let reader = self.deliver(batches, source, (window, memory), out).await?;
                if step.done || matches!(reader, Reader::Gone) {
                    return Ok(true);
                }
            }
            assembler = next;
        }
    }

    /// What the index leaves, where it is worth asking, and leaves few rows.
    async fn left(&self) -> Result<Option<Left>, ReadError> {
        let Some((sieve, index)) = self.index() else {
            return Ok(None);
        };
        let spans = index.spans();
        let (bytes, source) = self.engine.pages.read(&self.plan.split.file, &spans).await?;
        let (plan, rows) = (Arc::clone(&self.plan), self.rows);
        let judged = self
            .engine
            .pool
            .run(move || index.judged(&plan, rows, (&bytes, sieve.as_ref())));
        // An index that breaks its reader is none.
        let Ok(Some((runs, layouts))) = judged.await else {
            return Ok(None);
        };
        let few = runs.iter().map(Range::len).sum::<usize>() <= self.rows / FEW_ROWS;
        Ok(few.then(|| Left {
            runs,
            layouts: Arc::new(layouts),
            source,
        }))
    }

    /// The index of the columns that are to be read and of those whose bounds the sieve looks at; none where it is not worth
    /// its bytes.
    fn index(&self) -> Option<(Arc<dyn Sieve>, Index)> {
        let sieve = self.plan.shape.sieve.clone()?;
        let group = self.plan.footer.metadata.row_groups().get(self.row_group_index())?;
        let is_whole = group.num_rows() == i64::try_from(self.rows).ok()?;
        let (absent, _) = self.absent_and_held();
        let absent = absent.into_iter().filter(|column| is_flat(&self.plan, column.root));
        let ranges = self.ranges(absent);
        if bytes_in(&ranges) < LEAST_SPARED_BYTES || !is_whole {
            return None;
        }
        let roots = sieve.bounded().iter().filter_map(|name| {
            let root = self.plan.footer.position(name)?;
            is_flat(&self.plan, root).then_some((name.clone(), root))
        });
        let bounded = roots.filter_map(|(name, root)| {
            let leaf = self.plan.footer.first_leaf(root);
            let column = group.columns().get(leaf)?;
            Some(Bounded {
                name,
                root,
                leaf,
                at: span(column.column_index_offset(), column.column_index_length())?,
            })
        });
        let bounded: Vec<Bounded> = bounded.collect();
        let mut leaves: Vec<usize> = ranges.iter().map(|(leaf, _)| *leaf).collect();
        leaves.extend(bounded.iter().map(|column| column.leaf));
        leaves.sort_unstable();
        leaves.dedup();
        let located = leaves
            .into_iter()
            .filter_map(|leaf| Located::of(leaf, group.columns().get(leaf)?));
        let index = Index {
            bounded,
            located: located.collect(),
        };
        let (bytes, end) = index.spans().iter().fold((0u64, 0), |(bytes, end), span| {
            (bytes.saturating_add(span.end - span.start), span.end.max(end))
        });
        let fits = bytes <= MAX_INDEX_BYTES && end <= self.plan.split.file.key.size && !index.bounded.is_empty();
        fits.then_some((sieve, index))
    }
}

fn is_flat(plan: &FilePlan, root: usize) -> bool {
    !plan.footer.schema.field(root).data_type().is_nested()
}

/// The bytes of the file at an offset; none where there are none.
fn span(offset: Option<i64>, length: Option<i32>) -> Option<Range<u64>> {
    let start = u64::try_from(offset?).ok()?;
    let length = u64::try_from(length?).ok().filter(|length| *length > 0)?;
    Some(start..start.checked_add(length)?)
}

/// The parts of the page index that are read.
struct Index {
    bounded: Vec<Bounded>,
    located: Vec<Located>,
}

/// A column whose bounds are looked at.
struct Bounded {
    name: String,
    root: usize,
    leaf: usize,
    /// Where its column index lies.
    at: Range<u64>,
}

/// A leaf column whose pages are to be found.
struct Located {
    leaf: usize,
    /// Its bytes in the file.
    chunk: Range<u64>,
    /// Where its offset index lies.
    at: Range<u64>,
}

impl Located {
    fn of(leaf: usize, column: &ColumnChunkMetaData) -> Option<Self> {
        let (start, length) = chunk_range(column)?;
        Some(Self {
            leaf,
            chunk: start..start.checked_add(length)?,
            at: span(column.offset_index_offset(), column.offset_index_length())?,
        })
    }
}

impl Index {
    fn spans(&self) -> Vec<Range<u64>> {
        let bounded = self.bounded.iter().map(|column| column.at.clone());
        bounded.chain(self.located.iter().map(|leaf| leaf.at.clone())).collect()
    }

    /// The runs of rows that may be wanted, and where pages lie; none where nothing is known of a column that is bounded. `bytes`
    /// are those of the spans.
    fn judged(
        &self,
        plan: &FilePlan,
        rows: usize,
        (bytes, sieve): (&[Bytes], &dyn Sieve),
    ) -> Option<(Vec<Range<usize>>, Layouts)> {
        let (of_bounds, of_layouts) = bytes.split_at_checked(self.bounded.len())?;
        let located = self.located.iter().zip(of_layouts);
        let layouts: Layouts = located
            .filter_map(|(at, bytes)| Some((at.leaf, PageLayout::parse(bytes, &at.chunk, rows)?)))
            .collect();
        let bounds = self.bounded.iter().zip(of_bounds).filter_map(|(column, bytes)| {
            let layout = layouts.get(&column.leaf)?;
            let bounds = PageBounds::parse(bytes, layout)?;
            Some((column.name.as_str(), (column.root, layout, bounds)))
        });
        let bounds: HashMap<&str, _> = bounds.collect();
        if bounds.is_empty() {
            return None;
        }
        let runs = cut(bounds.values().map(|(_, layout, _)| *layout), rows);
        if runs.len() > MAX_RUNS {
            return None;
        }
        let known = Known { plan, runs, bounds };
        let wanted = guarded(|| sieve.wants_runs(&known)).ok()?;
        let is_told = wanted.len() == known.runs.len();
        let wanted = known.runs.iter().zip(wanted).filter(|(_, wanted)| *wanted);
        is_told.then(|| (joined(wanted.map(|(run, _)| run.clone())), layouts))
    }
}

/// Runs of rows in each of which every layout has one page.
fn cut<'a>(layouts: impl Iterator<Item = &'a PageLayout>, rows: usize) -> Vec<Range<usize>> {
    let mut starts: Vec<usize> = layouts
        .flat_map(|layout| layout.pages.iter().map(|page| page.rows.start))
        .collect();
    starts.sort_unstable();
    starts.dedup();
    let ends = starts.iter().skip(1).copied().chain([rows]);
    starts
        .iter()
        .copied()
        .zip(ends)
        .map(|(start, end)| start..end)
        .collect()
}

/// The same runs, those that nearly touch as one.
fn joined(runs: impl Iterator<Item = Range<usize>>) -> Vec<Range<usize>> {
    let mut joined: Vec<Range<usize>> = Vec::new();
    for run in runs {
        match joined.last_mut().filter(|last| run.start - last.end < LEAST_GAP_ROWS) {
            Some(last) => last.end = run.end,
            None => joined.push(run),
        }
    }
    joined
}

/// What the index knows of runs.
struct Known<'a> {
    plan: &'a FilePlan,
    runs: Vec<Range<usize>>,
    /// Position in the schema, pages and their bounds, by column.
    bounds: HashMap<&'a str, (usize, &'a PageLayout, PageBounds)>,
}

impl RunBounds for Known<'_> {
    fn rows(&self) -> UInt64Array {
        self.runs.iter().map(|run| Some(to_u64(run.len()))).collect()
    }

    fn bounds(&self, column: &str, as_type: &DataType) -> Option<ColumnStatistics> {
        let mut constants = self.plan.split.constants.iter();
        if let Some((_, value)) = constants.find(|(name, _)| name == column) {
            return self.of_one(value);
        }
        if let Some((root, layout, bounds)) = self.bounds.get(column) {
            let of_pages = bounds.statistics(layout, (&self.plan.footer, *root), as_type)?;
            let page = |run: &Range<usize>| layout.pages.partition_point(|page| page.rows.end <= run.start);
            let pages = self.runs.iter().map(|run| u32::try_from(page(run)).ok()).collect();
            return self.taken(&of_pages, &pages, layout);
        }
        // A column that the file lacks is null in every row.
        let is_missing = self.plan.footer.position(column).is_none();
        is_missing.then(|| self.of_one(&new_null_array(as_type, 1))).flatten()
    }
}

impl Known<'_> {
    /// The bounds of a column that has one value in all rows.
    fn of_one(&self, value: &ArrayRef) -> Option<ColumnStatistics> {
        let values = take(value, &UInt32Array::from(vec![0; self.runs.len()]), None).ok()?;
        let nulls = |run: &Range<usize>| if value.is_null(0) { to_u64(run.len()) } else { 0 };
        Some(ColumnStatistics {
            min: Arc::clone(&values),
            max: values,
            null_count: self.runs.iter().map(|run| Some(nulls(run))).collect(),
        })
    }

    /// Bounds of the runs, each of which lies in the page of this number: those of the page. How many of a page's nulls lie in
    /// a part of it is known of none and of all alone.
    fn taken(&self, of_pages: &ColumnStatistics, pages: &UInt32Array, layout: &PageLayout) -> Option<ColumnStatistics> {
        let of = |values: &dyn Array| take(values, pages, None).ok();
        let nulls = self.runs.iter().zip(pages).map(|(run, page)| {
            let page = usize::try_from(page?).ok()?;
            let all = to_u64(layout.pages.get(page)?.rows.len());
            let of_page = of_pages
                .null_count
                .is_valid(page)
                .then(|| of_pages.null_count.value(page))?;
            match of_page {
                0 => Some(0),
                nulls if nulls == all => Some(to_u64(run.len())),
                _ => None,
            }
        });
        Some(ColumnStatistics {
            null_count: nulls.collect(),
            min: of(of_pages.min.as_ref())?,
            max: of(of_pages.max.as_ref())?,
        })
    }
}

impl Given {
    /// What of the column chunks is to be read, if that is not all.
    pub(super) fn parts(&self) -> Option<Parts> {
        Some(Parts {
            layouts: Arc::clone(self.layouts.as_ref()?),
            runs: self.runs.clone()?,
        })
    }
}

/// The pages of some rows.
pub(super) struct Parts {
    layouts: Arc<Layouts>,
    runs: Vec<Range<usize>>,
}

/// A part of a column chunk, by its place in the file.
enum Place {
    Before(Range<u64>),
    Page(Range<u64>, usize),
    Absent(usize),
}

impl Parts {
    /// Bytes of the budget that it takes to read and decode these columns.
    pub(super) fn cost_bytes(&self, unit: &Unit, columns: &[&SelectedColumn]) -> u64 {
        let decoded = unit.plan.decoded_bytes(unit.row_group_index(), columns.iter().copied());
        let raw: u64 = unit
            .ranges(columns.iter().copied())
            .iter()
            .map(|(leaf, range)| match self.places(*leaf) {
                Some(places) => places.iter().filter_map(Place::bytes).map(|b| b.end - b.start).sum(),
                None => range.end - range.start,
            })
            .sum();
        raw.saturating_add(decoded.min(unit.window_bytes))
    }

    /// The bytes of these leaf columns, and where they came from.
    ///
    /// # Errors
    /// Those of the page tier.
    pub(super) async fn read(
        &self,
        unit: &Unit,
        ranges: Vec<(usize, Range<u64>)>,
    ) -> Result<(Vec<(usize, ChunkBytes)>, Source), ReadError> {
        let wanted: Vec<_> = ranges
            .into_iter()
            .map(|(leaf, range)| (leaf, range, self.places(leaf)))
            .collect();
        let spans = wanted.iter().flat_map(|(_, range, places)| match places {
            Some(places) => places.iter().filter_map(Place::bytes).cloned().collect(),
            None => vec![range.clone()],
        });
        let spans: Vec<Range<u64>> = spans.collect();
        let needed_bytes = spans.iter().map(|span| span.end - span.start).sum();
        let (bytes, source) = unit.engine.pages.read(&unit.plan.split.file, &spans).await?;
        unit.engine.needed_bytes.fetch_add(needed_bytes, Ordering::Relaxed);
        let mut bytes = bytes.into_iter();
        let chunks = wanted.into_iter().map(|(leaf, _, places)| {
            let chunk = match places {
                Some(places) => {
                    let parts = places.into_iter().map(|place| place.filled(&mut bytes));
                    ChunkBytes::Parts(parts.collect::<Option<_>>()?)
                }
                None => ChunkBytes::Whole(bytes.next()?),
            };
            Some((leaf, chunk))
        });
        let chunks = chunks.collect::<Option<Vec<_>>>();
        let chunks = chunks.ok_or_else(|| ReadError::internal("the page tier gave less than was asked for"))?;
        Ok((chunks, source))
    }

    /// The parts of a leaf column's chunk; none where its pages are not known.
    fn places(&self, leaf: usize) -> Option<Vec<Place>> {
        let layout = self.layouts.get(&leaf)?;
        let mut places = Vec::new();
        if !layout.before.is_empty() {
            places.push(Place::Before(layout.before.clone()));
        }
        for page in &layout.pages {
            let rows = page.rows.len();
            let next = self.runs.partition_point(|run| run.end <= page.rows.start);
            let is_wanted = self.runs.get(next).is_some_and(|run| run.start < page.rows.end);
            match places.last_mut() {
                _ if is_wanted => places.push(Place::Page(page.bytes.clone(), rows)),
                Some(Place::Absent(before)) => *before += rows,
                _ => places.push(Place::Absent(rows)),
            }
        }
        Some(places)
    }
}

impl Place {
    fn bytes(&self) -> Option<&Range<u64>> {
        match self {
            Self::Before(bytes) | Self::Page(bytes, _) => Some(bytes),
            Self::Absent(_) => None,
        }
    }

    /// The part with its bytes, which are the next of those that were read; none where there are no more.
    fn filled(self, read: &mut impl Iterator<Item = Bytes>) -> Option<ChunkPart> {
        Some(match self {
            Self::Before(_) => ChunkPart::Before(read.next()?),
            Self::Page(_, rows) => ChunkPart::Page(read.next()?, rows),
            Self::Absent(rows) => ChunkPart::Absent(rows),
        })
    }
}
