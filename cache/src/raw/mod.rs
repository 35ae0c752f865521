//! Row groups as they are stored, for readers that decode for themselves: each a small Parquet file of its own.
//!
//! ```text
//!   Cache::raw    splits -> footers -> row groups and their sizes, or the reason why stored bytes cannot say the answer
//!   RawScan::read footer -> excerpt -> page tier -> column chunks -> one small file, charged until it is dropped
//!   RawFiles      the same for one row group after the other, one ahead of the reader, as long as the reader goes on
//!   RawRows       a small file -> its rows as a scan gives them, wherever it was sent
//! ```
//! Decoded Arrow is four to six times the bytes of Parquet, so that over a slow link whoever has cores to spare is served
//! better by the stored bytes. They go through the page tier as for any scan: kept, counted, pinned to a generation.
//!
//! What stored bytes cannot say: a filter or a limit; no column at all; a nested column whose inside differs from the
//! dataset's. A column that a file lacks, or has in a narrower type, is for the reader to fill or to cast.
//!
//! Memory: twice the size of the small file is reserved before a row group is read, and its size until the reader drops it.
//! What one scan holds at once is bounded as for any scan, and it counts as one among those that are open. A row group that
//! the budget does not have that much for is not given in this form. Footers are in no budget but their cache's, so what was
//! planned keeps none: a file's is taken from there again when its row groups are read.

mod excerpt;
mod files;
mod rows;
#[cfg(test)]
mod tests;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use parquet::errors::ParquetError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::excerpt::Excerpt;
pub use self::files::RawFiles;
pub use self::rows::RawRows;
use crate::budget::{Purpose, Reservation};
use crate::decode::SelectedColumn;
use crate::error::ReadError;
use crate::footer::Footer;
use crate::key::{RowGroup, Source, to_u64, to_usize};
use crate::pool::Panicked;
use crate::retention::Reread;
use crate::scan::{Engine, LaterItem, OpenScan, Pause, ScanRequest, Split, permits};

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
    reread: Reread,
    /// Bytes that the small files of this scan may take at once, all together; `room` has them as permits.
    ahead_bytes: u64,
    room: Arc<Semaphore>,
    _open: OpenScan,
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
    /// What its large pages can take unpacked, all together.
    large_pages_bytes: u64,
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
    split: Arc<Split>,
    /// The columns of the answer.
    output: SchemaRef,
    /// How they are cut out of the file, which takes its footer: there while somebody reads one of them.
    excerpt: Mutex<Weak<Excerpt>>,
}

/// A row group's part of its scan's room.
type Share = OwnedSemaphorePermit;

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

    /// The small files in their order, as a stream, and a way to let go of what that reads ahead. Must be polled on a tokio
    /// runtime.
    #[must_use]
    pub fn files(self) -> (RawFiles, Pause) {
        RawFiles::new(self)
    }

    /// Reads one row group by itself. It waits while what was read before and is still held fills the scan's room, so read one
    /// at a time and in order.
    ///
    /// # Errors
    /// Where storage fails, the file has changed, or the memory budget does not become free in time.
    pub async fn read(&self, group: &RawGroup) -> Result<RawFile, ReadError> {
        self.cut_out(group, None).await.map(|(file, _)| file)
    }

    /// The same, for a reader that takes columns where they are there: what it will read again is decoded for it later.
    #[must_use]
    pub fn for_reader(self, reread: Reread) -> Self {
        Self { reread, ..self }
    }

    /// Says that the reader took a row group, of which it decodes the columns itself. Where it will come again, they are decoded
    /// here too, when there is time.
    fn took(&self, group: &RawGroup) {
        if self.reread == Reread::Foretold {
            self.engine.decode_later(LaterItem {
                split: Arc::clone(&group.part.split),
                read: Arc::clone(&group.part.output),
                row_group: group.row_group,
            });
        }
    }

    /// A row group's share of the scan's room, if there is room for it now.
    fn try_share(&self, group: &RawGroup) -> Option<Share> {
        let share = permits(group.bytes.min(self.ahead_bytes));
        Arc::clone(&self.room).try_acquire_many_owned(share).ok()
    }

    /// The same, with its share where it has that, and how it was cut out: whoever keeps that spares the next one of the same file
    /// the work.
    async fn cut_out(&self, group: &RawGroup, share: Option<Share>) -> Result<(RawFile, Arc<Excerpt>), ReadError> {
        let part = &group.part;
        let failed = |error: ParquetError| part.corrupt(Some(group.row_group), &error);
        let share = match share {
            Some(share) => share,
            None => {
                let share = permits(group.bytes.min(self.ahead_bytes));
                let share = Arc::clone(&self.room).acquire_many_owned(share).await;
                share.map_err(|_| ReadError::internal("a scan's room was closed"))?
            }
        };
        let excerpt = self.excerpt(part).await?;
        let mut memory = self.memory(group).await?;
        let chunks = excerpt.chunks(group.row_group).map_err(failed)?;
        let spans: Vec<_> = chunks.into_iter().map(|(_, range)| range).collect();
        let needed_bytes = spans.iter().map(|span| span.end - span.start).sum();
        let (bytes, source) = self.engine.pages.read(&part.split.file, &spans).await?;
        self.engine.needed_bytes.fetch_add(needed_bytes, Ordering::Relaxed);
        let (row_group, cut) = (group.row_group, Arc::clone(&excerpt));
        // The first touch of so much memory takes milliseconds.
        let file = self.engine.pool.run(move || cut.assemble(row_group, &bytes)).await;
        let file = file
            .map_err(|panic| ReadError::internal(panic.to_string()))?
            .map_err(failed)?;
        memory.shrink_to(to_u64(file.len()));
        let held = Held {
            file,
            _memory: memory,
            _share: share,
        };
        let file = RawFile {
            bytes: Bytes::from_owner(held),
            source,
        };
        Ok((file, excerpt))
    }

    /// How row groups of a file are cut out of it: as for the one that is being read, else found out anew.
    async fn excerpt(&self, part: &Arc<Part>) -> Result<Arc<Excerpt>, ReadError> {
        let at_hand = part.excerpt.lock().upgrade();
        if let Some(excerpt) = at_hand {
            return Ok(excerpt);
        }
        let footer = self.engine.footer(&part.split.file).await?;
        let whole = Arc::clone(part);
        let made = self
            .engine
            .pool
            .run(move || cut(&whole.split, footer, &whole.output))
            .await;
        let made = made.unwrap_or_else(|panic| Err(uncut(&part.split.path, &panic)))?;
        // It is the same footer that was looked at when this was planned.
        let made = made.map_err(|reason| ReadError::internal(format!("a file is not what was planned: {reason}")))?;
        let mut known = part.excerpt.lock();
        // Several may have found none at once: the first one's is everybody's.
        if let Some(excerpt) = known.upgrade() {
            return Ok(excerpt);
        }
        let made = Arc::new(made);
        *known = Arc::downgrade(&made);
        Ok(made)
    }

    /// What reading a row group takes of the budget.
    async fn memory(&self, group: &RawGroup) -> Result<Reservation, ReadError> {
        let wanted_bytes = group.bytes.saturating_mul(COPIES);
        let memory = self.engine.budget.reserve(wanted_bytes, Purpose::Scans).await;
        memory.map_err(|source| ReadError::Budget {
            path: group.path().to_owned(),
            row_group: Some(group.row_group.0),
            source,
        })
    }
}

/// A small file and what is charged for it.
struct Held {
    file: Vec<u8>,
    _memory: Reservation,
    _share: Share,
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

/// Why stored bytes cannot say the answer, whatever the files are; none where that takes their footers to know.
#[must_use]
pub fn refusal(request: &ScanRequest) -> Option<&'static str> {
    if request.filter.is_some() {
        return Some("the scan has a filter");
    }
    request.limit.is_some().then_some("the scan has a limit")
}

/// What a client that takes files of so many bytes has for large pages of one, unpacked: our own has twice as much for all of a
/// read, and this at the least.
fn most_pages_bytes(most_bytes: u64) -> u64 {
    const LEAST_BYTES: u64 = 64 << 20;
    most_bytes.saturating_mul(2).max(LEAST_BYTES)
}

/// Finds out whether small files of at most `most_bytes` can answer a request, and which; reads footers and nothing else.
pub(crate) async fn plan(engine: &Arc<Engine>, request: &ScanRequest, most_bytes: u64) -> Result<Raw, ReadError> {
    if let Some(reason) = refusal(request) {
        return Ok(Raw::Unsaid(reason));
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
            return Ok(Raw::Unsaid(
                "a row group is larger than the client takes in one message",
            ));
        }
        let pages_bytes = more.iter().map(|group| group.large_pages_bytes).max().unwrap_or(0);
        if pages_bytes > most_pages_bytes(most_bytes) {
            return Ok(Raw::Unsaid("a row group has larger pages than the client can unpack"));
        }
        if largest_bytes > most_held_bytes {
            return Ok(Raw::Unsaid("a row group is larger than the memory budget has room for"));
        }
        groups.extend(more);
    }
    let open = OpenScan::count(engine);
    let ahead_bytes = engine.ahead_bytes();
    Ok(Raw::Files(RawScan {
        engine: Arc::clone(engine),
        groups,
        reread: Reread::Unknown,
        ahead_bytes,
        room: Arc::new(Semaphore::new(to_usize(u64::from(permits(ahead_bytes))))),
        _open: open,
    }))
}

/// The row groups of one split, or why they cannot be given.
type Opened = Result<Vec<RawGroup>, &'static str>;

async fn open(engine: Arc<Engine>, split: Split, output: SchemaRef) -> Result<Opened, ReadError> {
    let footer = engine.footer(&split.file).await?;
    let path = split.path.clone();
    let opened = engine.pool.run(move || groups_of(split, footer, output)).await;
    opened.unwrap_or_else(|panic| Err(uncut(&path, &panic)))
}

fn uncut(path: &str, panic: &Panicked) -> ReadError {
    ReadError::corrupt(path, None, format!("its footer cannot be cut: {panic}"))
}

/// How row groups are cut out of a file, or why that cannot be.
fn cut(split: &Split, footer: Arc<Footer>, output: &Schema) -> Result<Result<Excerpt, &'static str>, ReadError> {
    let columns = match chosen(split, &footer, output) {
        Ok(columns) => columns,
        Err(reason) => return Ok(Err(reason)),
    };
    let excerpt = Excerpt::new(footer, &columns);
    let excerpt = excerpt.map_err(|error| ReadError::corrupt(&split.path, None, error.to_string()))?;
    Ok(Ok(excerpt))
}

fn groups_of(split: Split, footer: Arc<Footer>, output: SchemaRef) -> Result<Opened, ReadError> {
    let excerpt = match cut(&split, footer, &output)? {
        Ok(excerpt) => excerpt,
        Err(reason) => return Ok(Err(reason)),
    };
    let part = Arc::new(Part {
        split: Arc::new(split),
        output,
        excerpt: Mutex::default(),
    });
    let mut groups = Vec::with_capacity(part.split.row_groups.len());
    for &row_group in &part.split.row_groups {
        let rows = excerpt.rows(row_group).unwrap_or(0);
        let bytes = excerpt.file_bytes(row_group);
        let bytes = bytes.map_err(|error| part.corrupt(Some(row_group), &error))?;
        let large_pages_bytes = excerpt.large_pages_bytes(row_group);
        let large_pages_bytes = large_pages_bytes.map_err(|error| part.corrupt(Some(row_group), &error))?;
        if rows > 0 {
            groups.push(RawGroup {
                part: Arc::clone(&part),
                row_group,
                rows,
                bytes,
                large_pages_bytes,
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
