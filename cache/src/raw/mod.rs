//! Row groups as they are stored, for readers that decode for themselves: each a small Parquet file of its own.
//!
//! ```text
//!   Cache::raw    splits -> footers -> an excerpt a file, or the reason why stored bytes cannot say the answer
//!   RawScan::read page tier -> column chunks -> one small file, its bytes charged until they are dropped
//! ```
//! Decoded Arrow is four to six times the bytes of Parquet, so that over a slow link whoever has cores to spare is served
//! better by the stored bytes. They go through the page tier as for any scan: kept, counted, pinned to a generation.
//!
//! What stored bytes cannot say: a filter or a limit; no column at all; a nested column whose inside differs from the
//! dataset's. A column that a file lacks, or has in a narrower type, is for the reader to fill or to cast.
//!
//! Memory: twice the size of the small file is reserved before a row group is read, and its size until the reader drops it.
//! What one scan holds at once is bounded as for any scan. A row group that the budget does not have that much for is not
//! given in this form.

mod excerpt;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use parquet::errors::ParquetError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::excerpt::Excerpt;
use crate::budget::{Purpose, Reservation};
use crate::decode::SelectedColumn;
use crate::error::ReadError;
use crate::footer::Footer;
use crate::key::{RowGroup, Source, to_u64, to_usize};
use crate::scan::{Engine, ScanRequest, Split, permits};

/// A request in terms of stored bytes.
#[derive(Debug)]
pub enum Raw {
    /// The answer is these files, read one after the other.
    Files(RawScan),
    /// Stored bytes cannot say the answer; why, in words.
    Unsaid(&'static str),
}

/// The row groups of an answer.
pub struct RawScan {
    engine: Arc<Engine>,
    groups: Vec<RawGroup>,
    /// What the small files of this scan may take at once, all together.
    room: Arc<Semaphore>,
}

/// One row group of an answer, not read yet.
#[derive(Debug, Clone)]
pub struct RawGroup {
    part: Arc<Part>,
    /// Its position in the file.
    pub row_group: RowGroup,
    /// Its rows; never 0.
    pub rows: u64,
    /// Bytes of the small file that it becomes.
    pub bytes: u64,
}

/// A row group that was read.
#[derive(Debug, Clone)]
pub struct RawFile {
    /// A whole Parquet file; the budget is charged for it until the last reference is dropped.
    pub bytes: Bytes,
    /// The slowest tier that it came from.
    pub source: Source,
}

/// What the row groups of one file share.
#[derive(Debug)]
struct Part {
    split: Split,
    excerpt: Excerpt,
}

/// Files whose footers are read at once.
const FOOTERS_AHEAD: usize = 16;
/// While a small file is put together, its bytes are there twice.
const COPIES: u64 = 2;

impl RawGroup {
    /// Namespace path of the file.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.part.split.path
    }

    /// Columns that have one value for the whole file, as arrays of length one; the small file does not have them.
    #[must_use]
    pub fn constants(&self) -> &[(String, ArrayRef)] {
        &self.part.split.constants
    }
}

impl std::fmt::Debug for RawScan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawScan")
            .field("groups", &self.groups)
            .finish_non_exhaustive()
    }
}

impl RawScan {
    /// The row groups of the answer, in order; those without rows are left out.
    #[must_use]
    pub fn groups(&self) -> &[RawGroup] {
        &self.groups
    }

    /// Reads one row group. It waits while what was read before and is still held fills the scan's room, so read one at a
    /// time and in order.
    ///
    /// # Errors
    /// Where storage fails, the file has changed, or the memory budget does not become free in time.
    pub async fn read(&self, group: &RawGroup) -> Result<RawFile, ReadError> {
        let part = Arc::clone(&group.part);
        let failed = |error: ParquetError| part.corrupt(Some(group.row_group), &error);
        let share = permits(group.bytes.min(self.engine.read_ahead_bytes));
        let share = Arc::clone(&self.room).acquire_many_owned(share).await;
        let share = share.map_err(|_| ReadError::internal("a scan's room was closed"))?;
        let wanted_bytes = group.bytes.saturating_mul(COPIES);
        let memory = self.engine.budget.reserve(wanted_bytes, Purpose::Scans).await;
        let mut memory = memory.map_err(|source| ReadError::Budget {
            path: group.path().to_owned(),
            row_group: Some(group.row_group.0),
            source,
        })?;
        let chunks = part.excerpt.chunks(group.row_group).map_err(failed)?;
        let spans: Vec<_> = chunks.into_iter().map(|(_, range)| range).collect();
        let needed_bytes = spans.iter().map(|span| span.end - span.start).sum();
        let (bytes, source) = self.engine.pages.read(&part.split.file, &spans).await?;
        self.engine.needed_bytes.fetch_add(needed_bytes, Ordering::Relaxed);
        let (row_group, whole) = (group.row_group, Arc::clone(&part));
        // The first touch of so much memory takes milliseconds.
        let file = self
            .engine
            .pool
            .run(move || whole.excerpt.assemble(row_group, &bytes))
            .await;
        let file = file
            .map_err(|panic| ReadError::internal(panic.to_string()))?
            .map_err(failed)?;
        memory.shrink_to(to_u64(file.len()));
        let held = Held {
            file,
            _memory: memory,
            _share: share,
        };
        Ok(RawFile {
            bytes: Bytes::from_owner(held),
            source,
        })
    }
}

/// A small file and what is charged for it.
struct Held {
    file: Vec<u8>,
    _memory: Reservation,
    _share: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.file
    }
}

/// A schema as text that goes where only text may: the IPC message with its length before it, in base64.
#[must_use]
pub fn schema_text(schema: &Schema) -> String {
    parquet::arrow::encode_arrow_schema(schema)
}

/// Finds out whether small files of at most `most_bytes` can answer a request, and which; reads footers and nothing else.
pub(crate) async fn plan(engine: &Arc<Engine>, request: &ScanRequest, most_bytes: u64) -> Result<Raw, ReadError> {
    if request.filter.is_some() {
        return Ok(Raw::Unsaid("the scan has a filter"));
    }
    if request.limit.is_some() {
        return Ok(Raw::Unsaid("the scan has a limit"));
    }
    let most_held_bytes = engine.budget.capacity_bytes() / COPIES;
    let parts = stream::iter(request.splits.clone())
        .map(|split| open(Arc::clone(engine), split, Arc::clone(&request.output)))
        .buffered(FOOTERS_AHEAD);
    let mut parts = std::pin::pin!(parts);
    let mut groups = Vec::new();
    while let Some(part) = parts.try_next().await? {
        let more = match part {
            Ok(more) => more,
            Err(reason) => return Ok(Raw::Unsaid(reason)),
        };
        let largest_bytes = more.iter().map(|group| group.bytes).max().unwrap_or(0);
        if largest_bytes > most_bytes {
            return Ok(Raw::Unsaid("a row group is larger than one message may be"));
        }
        if largest_bytes > most_held_bytes {
            return Ok(Raw::Unsaid("a row group is larger than the memory budget has room for"));
        }
        groups.extend(more);
    }
    Ok(Raw::Files(RawScan {
        engine: Arc::clone(engine),
        groups,
        room: Arc::new(Semaphore::new(to_usize(u64::from(permits(engine.read_ahead_bytes))))),
    }))
}

/// The row groups of one split, or why they cannot be given.
type Opened = Result<Vec<RawGroup>, &'static str>;

async fn open(engine: Arc<Engine>, split: Split, output: SchemaRef) -> Result<Opened, ReadError> {
    let footer = engine.footer(&split.file).await?;
    let path = split.path.clone();
    let opened = engine.pool.run(move || groups_of(split, footer, &output)).await;
    opened.unwrap_or_else(|panic| {
        Err(ReadError::corrupt(
            &path,
            None,
            format!("its footer cannot be cut: {panic}"),
        ))
    })
}

fn groups_of(split: Split, footer: Arc<Footer>, output: &Schema) -> Result<Opened, ReadError> {
    let columns = match chosen(&split, &footer, output) {
        Ok(columns) => columns,
        Err(reason) => return Ok(Err(reason)),
    };
    let cut =
        Excerpt::new(footer, &columns).map_err(|error| ReadError::corrupt(&split.path, None, error.to_string()))?;
    let part = Arc::new(Part { split, excerpt: cut });
    let mut groups = Vec::with_capacity(part.split.row_groups.len());
    for &row_group in &part.split.row_groups {
        let rows = part.excerpt.rows(row_group).unwrap_or(0);
        let bytes = part.excerpt.file_bytes(row_group);
        let bytes = bytes.map_err(|error| part.corrupt(Some(row_group), &error))?;
        if rows > 0 {
            groups.push(RawGroup {
                part: Arc::clone(&part),
                row_group,
                rows,
                bytes,
            });
        }
    }
    Ok(Ok(groups))
}

/// The columns of a file that the answer takes, each with the type it is wanted in.
fn chosen(split: &Split, footer: &Footer, output: &Schema) -> Result<Vec<(SelectedColumn, DataType)>, &'static str> {
    let mut columns = Vec::with_capacity(output.fields().len());
    for field in output.fields() {
        if split.constants.iter().any(|(name, _)| name == field.name()) {
            continue;
        }
        let Some(root) = footer.position(field.name()) else {
            continue;
        };
        let have = footer.schema.field(root).data_type();
        let nested = have.is_nested() || field.data_type().is_nested();
        if nested && !fits(have, field.data_type()) {
            return Err("a nested column differs from file to file");
        }
        let selected = SelectedColumn::new(footer, root, field.data_type());
        columns.push((selected, field.data_type().clone()));
    }
    if columns.is_empty() {
        return Err("a file has none of the columns");
    }
    Ok(columns)
}

/// Whether a nested type needs no more than leaving parts out to be the one that is wanted.
fn fits(have: &DataType, wanted: &DataType) -> bool {
    match (have, wanted) {
        (DataType::Struct(fields), DataType::Struct(parts)) => {
            let mut last = None;
            parts.iter().all(|part| {
                let found = fields
                    .find(part.name())
                    .filter(|(at, _)| last.is_none_or(|last| *at > last));
                found.is_some_and(|(at, field)| {
                    last = Some(at);
                    field_fits(field, part)
                })
            })
        }
        (DataType::Map(have, sorted), DataType::Map(wanted, as_sorted)) => {
            sorted == as_sorted && field_fits(have, wanted)
        }
        (DataType::List(have), DataType::List(wanted))
        | (DataType::LargeList(have), DataType::LargeList(wanted))
        | (DataType::ListView(have), DataType::ListView(wanted))
        | (DataType::LargeListView(have), DataType::LargeListView(wanted)) => field_fits(have, wanted),
        (DataType::FixedSizeList(have, size), DataType::FixedSizeList(wanted, as_size)) => {
            size == as_size && field_fits(have, wanted)
        }
        _ => have == wanted,
    }
}

fn field_fits(have: &Field, wanted: &Field) -> bool {
    have.is_nullable() == wanted.is_nullable() && fits(have.data_type(), wanted.data_type())
}

impl Part {
    fn corrupt(&self, row_group: Option<RowGroup>, error: &ParquetError) -> ReadError {
        ReadError::corrupt(&self.split.path, row_group.map(|group| group.0), error.to_string())
    }
}
