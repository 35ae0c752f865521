//! Scans: from a list of row groups to a stream of batches.
//!
//! ```text
//!   driver    splits in order -> footer -> plan -> one unit a row group, while the read-ahead budget lasts
//!   turn      when a unit may decode: as far ahead of the reader as it wants
//!   unit      chunk tier, else page tier -> decoder, one stride at a time on the CPU pool, into the unit's channel
//!   sieve     which row groups and strides are not worth reading
//!   paged     which pages of a row group are not, by the file's page index
//!   loads     columns worth keeping: decoded whole, once for all who wait, into the chunk tier
//!   later     columns that a reader who takes stored bytes will read again: decoded meanwhile, into the chunk tier
//!   stream    drains the units in order, cuts at the limit
//!   pause     lets go of all that while nobody reads, and begins again where it was
//!   warmth    how much of an answer is decoded, for readers that take stored bytes as well
//! ```
//!
//! Row groups are decoded side by side and given in order. Two budgets bound what is held ahead of the reader: the
//! scan's, taken by each unit in order before it begins, so that the unit at the head always has its share and no later
//! one can starve it; and the unit's window, which stops the decoding of a huge row group until the reader has taken
//! what is ready. Dropping the stream aborts all of it.
//!
//! A panic while decoding, evaluating a filter or putting together a batch becomes an error of this scan.

mod assemble;
mod charge;
mod driver;
mod later;
mod loads;
mod output;
mod paged;
mod pause;
mod plan;
mod poison;
mod residency;
mod sieve;
mod turn;
mod unit;
mod warmth;
mod work;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use bytes::Bytes;

pub use self::charge::Charge;
pub(crate) use self::driver::{OpenScan, scan};
pub(crate) use self::later::{Later, LaterItem};
pub(crate) use self::loads::{Landed, Stored, Threads, claim_brought, is_same, on_their_way};
pub use self::output::tidy;
pub(crate) use self::output::{batch_bytes, pieces};
pub(crate) use self::pause::Pausable;
use self::pause::Progress;
pub use self::pause::{PausableScan, Pause};
pub(crate) use self::plan::{FilePlan, Shape, request_stride, taken};
pub(crate) use self::poison::Poison;
pub use self::residency::Residency;
pub use self::sieve::{RunBounds, Sieve};
pub use self::turn::Ahead;
pub(crate) use self::unit::{STRIDE_ALIGN_ROWS, permits};
pub use self::warmth::Warmth;
use crate::budget::Budget;
use crate::chunk::{ChunkKey, ChunkTier};
use crate::decode::{RowGroupBytes, SelectedColumn};
use crate::error::ReadError;
use crate::flights::Flights;
use crate::footer::{Footer, FooterCache, chunk_range};
use crate::key::{FileId, RowGroup, Source};
use crate::page::{OpenFile, PageTier};
use crate::pages::{ChunkBytes, PageLimit};
use crate::pool::CpuPool;
use crate::retention::{Reread, Retentions};

/// Decides which rows of a batch are kept.
pub trait RowFilter: Send + Sync {
    /// One value a row, true for those to keep; null drops the row.
    ///
    /// # Errors
    /// Where the expression cannot be evaluated; the scan then fails with [`ReadError::Filter`].
    fn evaluate(&self, batch: &RecordBatch) -> Result<BooleanArray, ArrowError>;
}

/// Some row groups of one file.
#[derive(Debug, Clone)]
pub struct Split {
    /// The file, in the generation to read.
    pub file: OpenFile,
    /// Its path in the namespace, for errors.
    pub path: String,
    /// Which row groups to read, in this order.
    pub row_groups: Vec<RowGroup>,
    /// Columns that have one value for the whole file, as arrays of length one; they go before columns of the file of
    /// the same name.
    pub constants: Vec<(String, ArrayRef)>,
}

/// What to read.
#[derive(Clone)]
pub struct ScanRequest {
    /// Where from; read in this order.
    pub splits: Vec<Split>,
    /// The columns that are read, as the dataset types them, those of the filter included.
    pub read: SchemaRef,
    /// The columns that are given, by name among those read.
    pub output: SchemaRef,
    /// Which rows to give; all where none.
    pub filter: Option<Arc<dyn RowFilter>>,
    /// What need not be read, of rows that whoever reads would throw away; nothing where none.
    pub sieve: Option<Arc<dyn Sieve>>,
    /// Most rows to give; all where none.
    pub limit: Option<u64>,
    /// Rows of the answer to leave out at its beginning. All are of the first row group.
    pub skip: u64,
    /// Bytes that a batch shall have, about.
    pub batch_bytes: usize,
    /// What becomes of the batches.
    pub taker: Taker,
    /// Whether the same will be read again.
    pub reread: Reread,
    /// How far decoding goes ahead of the reader.
    pub ahead: Ahead,
}

/// What becomes of the batches of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taker {
    /// They are sent.
    Sends,
    /// The memory that columns are kept in is mapped. So they are kept at their first read, as long as nothing else has to go for
    /// them: what is kept is handed over by reference, and what is not is copied.
    Maps {
        /// Bytes that a batch of columns that are all kept may have.
        batch_bytes: usize,
    },
    /// They are computed with, in pieces of the taker's own. What an array is a piece of counts as its own there, so that none
    /// is longer than it was decoded.
    Computes,
}

impl Taker {
    pub(crate) fn maps(self) -> bool {
        matches!(self, Self::Maps { .. })
    }
}

/// A piece of the answer.
#[derive(Debug, Clone)]
pub struct ScanBatch {
    /// The rows, of the request's output schema; never empty.
    pub batch: RecordBatch,
    /// The slowest tier that the rows came from.
    pub source: Source,
    /// What its bytes are charged to: keep it as long as them.
    pub charge: Charge,
    /// Where the scan goes on after it.
    progress: Progress,
}

/// The tiers that a scan reads through.
pub(crate) struct Engine {
    pub(crate) pages: PageTier,
    pub(crate) footers: FooterCache,
    pub(crate) chunks: ChunkTier,
    /// Chunks on their way.
    pub(crate) loads: Flights<ChunkKey, Landed>,
    pub(crate) poison: Poison,
    pub(crate) budget: Budget,
    pub(crate) retentions: Retentions,
    /// Bytes of storage that reads were about so far, wherever they came from.
    pub(crate) needed_bytes: AtomicU64,
    pub(crate) pool: CpuPool,
    /// One thread that decodes what nobody waits for.
    pub(crate) behind: CpuPool,
    /// What that has to do.
    pub(crate) later: Later,
    /// Largest page after decompression, in bytes.
    pub(crate) page_bytes_limit: u64,
    /// Bytes that one scan may hold ahead of its reader, at most.
    pub(crate) read_ahead_bytes: u64,
    /// Scans that are being read, of batches and of stored bytes.
    pub(crate) open_scans: AtomicUsize,
}

/// Size of the batches that clients are sent, in bytes: large enough for the wire, small enough for a CPU cache.
pub const BATCH_BYTES: usize = 2 << 20;
/// The first of the open scans may hold one part in this many of the budget.
const OPEN_SCANS_SHARE: u64 = 8;
/// A scan may hold so much ahead, whatever else is open: two batches.
const LEAST_AHEAD_BYTES: u64 = 4 << 20;

impl Engine {
    fn threads(&self, threads: Threads) -> &CpuPool {
        match threads {
            Threads::Decoding => &self.pool,
            Threads::Behind => &self.behind,
        }
    }

    /// Bytes that a scan which begins now may hold ahead of its reader. A scan keeps what it began with, however slowly it is
    /// read, so the n-th of those open may have an eighth of the budget divided by n: a hundred that all stall have 0.65 of
    /// it, and a thousand 0.94, as long as that is more than the least that any may have.
    pub(crate) fn ahead_bytes(&self) -> u64 {
        let open = u64::try_from(self.open_scans.load(Ordering::Relaxed)).unwrap_or(u64::MAX);
        let share = self.budget.capacity_bytes() / OPEN_SCANS_SHARE / open.max(1);
        self.read_ahead_bytes.min(share.max(LEAST_AHEAD_BYTES))
    }

    /// What decoders of a row group share, once its bytes are there: those of each leaf column's chunk.
    pub(crate) fn row_group_bytes(
        &self,
        footer: &Arc<Footer>,
        row_group: RowGroup,
        chunks: impl Iterator<Item = (usize, Bytes)>,
    ) -> RowGroupBytes {
        let whole = chunks.map(|(leaf, bytes)| (leaf, ChunkBytes::Whole(bytes)));
        self.row_group_parts(footer, row_group, whole)
    }

    /// The same of chunks of which there may be a part alone.
    pub(crate) fn row_group_parts(
        &self,
        footer: &Arc<Footer>,
        row_group: RowGroup,
        chunks: impl Iterator<Item = (usize, ChunkBytes)>,
    ) -> RowGroupBytes {
        RowGroupBytes {
            footer: Arc::clone(footer),
            row_group: usize::try_from(row_group.0).unwrap_or(usize::MAX),
            chunks: chunks.collect(),
            page_limit: Arc::new(PageLimit::new(self.page_bytes_limit, self.budget.clone())),
        }
    }

    pub(crate) async fn footer(&self, file: &OpenFile) -> Result<Arc<Footer>, ReadError> {
        self.footers.get(file, &self.pages, &self.pool).await
    }

    /// A footer that is parsed already.
    pub(crate) async fn footer_at_hand(&self, file: &OpenFile) -> Option<Arc<Footer>> {
        self.footers.at_hand(file.key.id()).await
    }

    pub(crate) async fn stored_footer(&self, file: &OpenFile, most_bytes: u64) -> Result<Bytes, ReadError> {
        self.footers.stored(file, (&self.pages, &self.pool), most_bytes).await
    }
}

/// Why data could not be decoded: the limit that refused it, else what the decoder said.
fn decode_error(path: &str, row_group: Option<u32>, limit: Option<&PageLimit>, reason: &str) -> ReadError {
    if let Some(source) = limit.and_then(PageLimit::shortage) {
        return ReadError::Budget {
            path: path.to_owned(),
            row_group,
            source,
        };
    }
    match limit.and_then(|limit| Some((limit.exceeded()?, limit.bytes))) {
        Some((value, limit)) => ReadError::LimitExceeded {
            path: path.to_owned(),
            row_group,
            what: "size of a page in bytes",
            value,
            limit,
        },
        None => ReadError::corrupt(path, row_group, reason),
    }
}

/// What the chunk of a column is called.
pub(crate) fn chunk_key(file: FileId, row_group: RowGroup, column: &SelectedColumn) -> ChunkKey {
    let position = u32::try_from(column.root).unwrap_or(u32::MAX);
    ChunkKey {
        file,
        row_group,
        column: position,
        leaves: column.leaves_hash(),
    }
}

/// The leaf columns of `columns` and where their bytes of a row group are in the file, in file order.
pub(crate) fn leaf_ranges<'a>(
    footer: &Footer,
    row_group: RowGroup,
    columns: impl Iterator<Item = &'a SelectedColumn>,
) -> Vec<(usize, Range<u64>)> {
    let index = usize::try_from(row_group.0).unwrap_or(usize::MAX);
    let Some(group) = footer.metadata.row_groups().get(index) else {
        return Vec::new();
    };
    let ranges = columns.flat_map(|column| &column.leaves).filter_map(|leaf| {
        let (start, length) = chunk_range(group.columns().get(*leaf)?)?;
        Some((*leaf, start..start.saturating_add(length)))
    });
    let mut ranges: Vec<_> = ranges.collect();
    ranges.sort_by_key(|(_, range)| range.start);
    ranges
}
