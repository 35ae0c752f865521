//! A dataset's units of order: its row groups, as a reader lists them that decides on the order of reading itself.
//!
//! Units depend on the data alone, not on who owns what: a trainer that permutes them by a seed reads the same order from any
//! cluster. Their numbers are positions in the dataset's order; a scan's `"parts"` names those to read.
//!
//! Why the rows that pass a filter are counted here and not by the reader: a scan's batches do not say of which row group they
//! are, and the columns of the filter need not travel for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use crate::dataset::{DataFile, Dataset};
use crate::error::ServiceError;
use crate::node::Node;
use crate::plan::{self, Plan};
use crate::redeem;
use crate::request::{Part, ScanSpec};

/// Most units of one page.
const MAX_PAGE_UNITS: usize = 10_000;
/// A page ends when its paths and generations have this many bytes, so that it stays below what a message may have.
const PAGE_TEXT_BYTES: usize = 1 << 20;
/// A page whose rows are counted ends when this much time was spent on it; it has one unit at least.
const COUNT_FOR: Duration = Duration::from_secs(2);
/// Units that are counted at once.
const COUNTED_AT_ONCE: usize = 4;

/// What is asked for.
#[derive(Debug)]
pub struct Asked {
    /// The dataset, the columns whose bytes are told, the filter that units without any row to give are left out by, and the
    /// version, where an earlier page named it.
    pub scan: ScanSpec,
    /// Whether to count the rows that pass the filter.
    pub count: bool,
    /// How many units earlier pages gave.
    pub after: usize,
    /// Units to give, at most.
    pub limit: usize,
}

/// Some of a dataset's units.
#[derive(Debug, Serialize)]
pub struct Page {
    /// What this version of the dataset is called.
    pub snapshot: String,
    /// The units, in the dataset's order.
    pub units: Vec<Unit>,
    /// How many units there are up to the end of this page; none where it is the last one.
    pub next: Option<usize>,
}

/// One row group.
#[derive(Debug, Serialize)]
pub struct Unit {
    /// The file's path relative to the dataset; empty where the dataset is the file itself.
    pub path: String,
    /// The file's version.
    pub generation: String,
    /// Which one of the file's row groups it is.
    pub row_group: u32,
    /// Rows of the row group, whether they pass the filter or not.
    pub rows: u64,
    /// Decoded bytes of the columns, as estimated from the footer.
    pub bytes: u64,
    /// Rows that pass the filter, where they were counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passing: Option<u64>,
}

/// The units after the first `after`.
///
/// # Errors
/// As [`Node::plan`].
pub async fn page(node: &Arc<Node>, asked: &Asked) -> Result<Page, ServiceError> {
    match page_once(node, asked).await {
        Err(error) if error.is_stale() => {
            node.datasets.refresh(&node.locate(&asked.scan.path)?);
            page_once(node, asked).await
        }
        page => page,
    }
}

async fn page_once(node: &Arc<Node>, asked: &Asked) -> Result<Page, ServiceError> {
    let dataset = node.dataset(&asked.scan.path).await?;
    let found = plan::row_groups(&node.cache, &dataset, &asked.scan).await?;
    let (mut text_bytes, mut units) = (0, Vec::new());
    for found in found.iter().skip(asked.after).take(asked.limit.min(MAX_PAGE_UNITS)) {
        let unit = unit(&dataset, found);
        text_bytes += unit.path.len() + unit.generation.len();
        units.push(unit);
        if text_bytes > PAGE_TEXT_BYTES {
            break;
        }
    }
    if asked.count && asked.scan.filter.is_some() {
        count(node, &dataset, &asked.scan, &mut units).await?;
    }
    let end = asked.after.saturating_add(units.len());
    Ok(Page {
        snapshot: dataset.fingerprint().to_owned(),
        next: (end < found.len()).then_some(end),
        units,
    })
}

fn unit(dataset: &Dataset, found: &plan::RowGroupFound) -> Unit {
    let DataFile { path, open, .. } = &dataset.files[found.file];
    Unit {
        path: path.strip_prefix(&dataset.path).unwrap_or_default().to_owned(),
        generation: open.key.generation.to_string(),
        row_group: found.row_group,
        rows: found.rows,
        bytes: found.bytes,
        passing: None,
    }
}

/// Counts the rows of the first of `units`, as many as there is time for, and drops the others.
async fn count(
    node: &Arc<Node>,
    dataset: &Arc<Dataset>,
    scan: &ScanSpec,
    units: &mut Vec<Unit>,
) -> Result<(), ServiceError> {
    let spec = ScanSpec {
        columns: Some(Vec::new()),
        parts: Some(
            units
                .iter()
                .map(|unit| Part(unit.path.clone(), vec![unit.row_group]))
                .collect(),
        ),
        ..scan.clone()
    };
    let lineage = node.lineage(dataset)?;
    let plan = plan::plan(&node.cache, Arc::clone(dataset), &spec, &lineage, 0).await?;
    let began = Instant::now();
    let tickets = tickets(node, &plan, &spec)?;
    let owner = Arc::clone(node);
    let mut counts = stream::iter(tickets)
        .map(move |ticket| passing(Arc::clone(&owner), ticket))
        .buffered(COUNTED_AT_ONCE)
        .boxed();
    let mut counted = 0;
    while let Some(passing) = counts.try_next().await? {
        if let Some(unit) = units.get_mut(counted) {
            unit.passing = Some(passing);
        }
        counted += 1;
        if began.elapsed() > COUNT_FOR {
            break;
        }
    }
    units.truncate(counted);
    Ok(())
}

/// A ticket for each run that reads anything.
fn tickets(node: &Node, plan: &Plan, spec: &ScanSpec) -> Result<Vec<Bytes>, ServiceError> {
    let sealer = redeem::Sealer::new(node, plan, spec, node.cluster.now() + node.ticket_ttl);
    let runs = plan.runs.iter().filter(|run| !run.files.is_empty());
    runs.map(|run| sealer.seal(run, node.cluster.holders(&plan.view, run)))
        .collect()
}

/// The rows of a ticket.
async fn passing(node: Arc<Node>, ticket: Bytes) -> Result<u64, ServiceError> {
    let mut batches = redeem::redeem(&node, &ticket)?.rows().batches;
    let mut rows = 0;
    while let Some(batch) = batches.try_next().await? {
        rows += u64::try_from(batch.batch.num_rows()).unwrap_or(u64::MAX);
    }
    Ok(rows)
}
