//! How much of an answer is decoded already, or would be kept by whoever reads it now.
//!
//! A reader that takes stored bytes as well as columns is best given columns where these are at hand, or will be for the next
//! one; what would be decoded for its answer alone it can decode itself. What decides is bytes as they are stored, since
//! these are what it would be sent instead: where half of them or more are of such columns, the answer is warm. What is
//! to be decoded behind all else ([`later`](super::later)) is not, as long as it waits.
//!
//! To ask is no touch. A reader that then takes stored bytes must say so ([`Warmth::pass`]): that is the touch which a scan
//! would have been, so that what is read again is found wanted, and is kept as it is from scans.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use futures::stream::{self, StreamExt, TryStreamExt};

use super::plan::taken;
use super::{Engine, ScanRequest, Split, chunk_key};
use crate::chunk::Sought;
use crate::decode::SelectedColumn;
use crate::error::ReadError;
use crate::footer::Footer;
use crate::key::{FileId, RowGroup, sum_of, to_usize};
use crate::retention::Terms;

/// Files whose footers are read at once.
const FOOTERS_AHEAD: usize = 16;

/// What is known of the columns of an answer.
pub struct Warmth {
    engine: Arc<Engine>,
    sought: Vec<Sought>,
    is_warm: bool,
}

impl fmt::Debug for Warmth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Warmth")
            .field("chunks", &self.sought.len())
            .field("is_warm", &self.is_warm)
            .finish_non_exhaustive()
    }
}

impl Warmth {
    /// Looks at all row groups of a request.
    pub(crate) async fn of(engine: &Arc<Engine>, request: &ScanRequest) -> Result<Self, ReadError> {
        let parts = stream::iter(request.splits.clone())
            .map(|split| sought_in(Arc::clone(engine), split, Arc::clone(&request.read)))
            .buffered(FOOTERS_AHEAD);
        let mut parts = std::pin::pin!(parts);
        let mut sought = Vec::new();
        while let Some(more) = parts.try_next().await? {
            sought.extend(more);
        }
        let stored_bytes = sum_of(sought.iter().map(|sought| &sought.stored_bytes));
        let warm_bytes = engine.chunks.warm_bytes(&sought);
        Ok(Self {
            engine: Arc::clone(engine),
            sought,
            is_warm: warm_bytes >= stored_bytes.div_ceil(2),
        })
    }

    /// Whether half of the stored bytes or more are of columns that are held decoded, are on their way, or would be kept by a
    /// scan; also where there are none to read.
    #[must_use]
    pub fn is_warm(&self) -> bool {
        self.is_warm
    }

    /// Counts the answer as read by a reader that decodes for itself.
    pub fn pass(&self) {
        self.engine.chunks.pass(&self.sought);
    }
}

/// The columns of one split's row groups.
async fn sought_in(engine: Arc<Engine>, split: Split, read: SchemaRef) -> Result<Vec<Sought>, ReadError> {
    let footer = match engine.footer_at_hand(&split.file).await {
        Some(footer) => footer,
        None => engine.footer(&split.file).await?,
    };
    let file = split.file.key.id();
    let terms = engine.retentions.of(&split.file.key.uri);
    let (columns, _) = taken(&footer, &split.constants, &read);
    let mut all = Vec::with_capacity(split.row_groups.len().saturating_mul(columns.len()));
    for &row_group in &split.row_groups {
        let of_group = columns.iter();
        let comes_later = engine.later.awaits(file, row_group);
        all.extend(of_group.filter_map(|column| {
            let found = sought(&footer, (file, terms), row_group, column)?;
            Some(Sought { comes_later, ..found })
        }));
    }
    Ok(all)
}

/// A column of a row group; none where the file does not have it, or it has no rows.
fn sought(
    footer: &Footer,
    (file, terms): (FileId, Terms),
    row_group: RowGroup,
    column: &SelectedColumn,
) -> Option<Sought> {
    let at = to_usize(u64::from(row_group.0));
    let described = footer.row_groups.get(at).filter(|group| group.rows > 0)?;
    let stored = footer.metadata.row_groups().get(at)?;
    let decoded = column.leaves.iter().filter_map(|leaf| described.leaf_bytes.get(*leaf));
    let chunks = column.leaves.iter().filter_map(|leaf| stored.columns().get(*leaf));
    let lengths = chunks.map(|chunk| u64::try_from(chunk.compressed_size()).unwrap_or(0));
    Some(Sought {
        key: chunk_key(file, row_group, column),
        terms,
        decoded_bytes: sum_of(decoded),
        stored_bytes: lengths.fold(0, u64::saturating_add),
        comes_later: false,
    })
}
