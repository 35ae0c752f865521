//! A plan in words: where each scan task runs, and what of it is cached there.
//!
//! A scan's line ends with `worker=ID, cached=100 % (decoded 75 %, raw 25 %)`, by bytes. A worker that does not say at
//! once what it has counts for one that has nothing.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties, displayable,
};
use datafusion_distributed::{DistributedExec, DistributedLeafExec, NetworkBoundaryExt, Stage, display_plan_ascii};
use futures::{StreamExt, stream};
use tokio::time::{Instant, timeout_at};

use super::crew::Crew;
use super::events::{homes, pieces};
use crate::cluster::peers::residency_calls;
use crate::node::Node;
use crate::sql::scan::{DatasetScanExec, ScanPiece};

/// How long all workers together may take to say what they have.
const TIME_LIMIT: Duration = Duration::from_millis(500);
/// Workers that are asked at once.
const CALLS_AT_ONCE: usize = 64;

/// The lines of a plan that was placed, or that stays here.
///
/// # Errors
/// What the plan itself cannot be walked for.
pub(super) async fn lines(node: &Arc<Node>, crew: &Crew, plan: &Arc<dyn ExecutionPlan>) -> Result<String> {
    let mut tasks = Vec::new();
    collect(node, crew, plan, &mut tasks)?;
    ask(node, &mut tasks).await;
    let annotated = annotated(plan, &tasks)?;
    Ok(if annotated.is::<DistributedExec>() {
        display_plan_ascii(annotated.as_ref(), false)
    } else {
        displayable(annotated.as_ref()).indent(false).to_string()
    })
}

/// A scan, or the part of one that a task reads.
struct ScanTask {
    /// The address of its scan in the plan, and the number of its task where the scan has several.
    at: (usize, Option<usize>),
    scan: Arc<dyn ExecutionPlan>,
    worker: String,
    pieces: Vec<ScanPiece>,
    /// Bytes of it that are held as columns, and as they are in storage.
    decoded: u64,
    raw: u64,
}

impl ScanTask {
    fn new(at: (usize, Option<usize>), scan: &Arc<dyn ExecutionPlan>, worker: String) -> Self {
        let read = scan.downcast_ref::<DatasetScanExec>();
        Self {
            at,
            scan: Arc::clone(scan),
            worker,
            pieces: read.map(|scan| pieces(scan).cloned().collect()).unwrap_or_default(),
            decoded: 0,
            raw: 0,
        }
    }

    fn count(&mut self, piece: usize, told: &str) {
        let bytes = weight(&self.pieces[piece]);
        match told {
            "decoded" => self.decoded += bytes,
            "raw" => self.raw += bytes,
            _ => {}
        }
    }

    fn note(&self) -> String {
        let whole: u64 = self.pieces.iter().map(weight).sum();
        let percent = |bytes: u64| bytes.saturating_mul(100).checked_div(whole).unwrap_or(100);
        let (decoded, raw) = (percent(self.decoded), percent(self.raw));
        let cached = percent(self.decoded + self.raw);
        format!(
            "worker={}, cached={cached} % (decoded {decoded} %, raw {raw} %)",
            self.worker
        )
    }
}

/// A piece's part of the whole; one without bytes has rows all the same.
fn weight(piece: &ScanPiece) -> u64 {
    piece.bytes.max(1)
}

fn address(plan: &Arc<dyn ExecutionPlan>) -> usize {
    Arc::as_ptr(plan).cast::<()>().addr()
}

/// The scans of a plan and of the stages below it, with the workers that they run on.
fn collect(node: &Arc<Node>, crew: &Crew, plan: &Arc<dyn ExecutionPlan>, found: &mut Vec<ScanTask>) -> Result<()> {
    let here = node.cluster.id().to_owned();
    let mut stages = vec![(Arc::clone(plan), vec![here])];
    while let Some((stage, workers)) = stages.pop() {
        stage.apply(|part| {
            if let Some(boundary) = part.as_network_boundary() {
                if let Stage::Local(below) = boundary.input_stage() {
                    let homes = homes(crew, &below.plan, below.tasks)?.unwrap_or_default();
                    let names = homes.iter().filter_map(|&home| crew.workers().get(home));
                    stages.push((Arc::clone(&below.plan), names.map(|worker| worker.id.clone()).collect()));
                }
                return Ok(TreeNodeRecursion::Jump);
            }
            if let Some(leaf) = part.downcast_ref::<DistributedLeafExec>() {
                let tasks = leaf.variants().iter().enumerate().zip(&workers);
                found
                    .extend(tasks.map(|((task, scan), worker)| {
                        ScanTask::new((address(part), Some(task)), scan, worker.clone())
                    }));
            } else if part.is::<DatasetScanExec>() {
                let worker = workers.first().cloned().unwrap_or_default();
                found.push(ScanTask::new((address(part), None), part, worker));
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
    }
    Ok(())
}

/// Asks the workers of the tasks what they hold.
async fn ask(node: &Arc<Node>, tasks: &mut [ScanTask]) {
    let mut elsewhere: BTreeMap<String, Vec<(usize, usize, Bytes)>> = BTreeMap::new();
    for (at, task) in tasks.iter_mut().enumerate() {
        let Some(read) = task
            .scan
            .downcast_ref::<DatasetScanExec>()
            .map(|scan| Arc::clone(scan.read_schema()))
        else {
            continue;
        };
        for piece in 0..task.pieces.len() {
            if task.worker == node.cluster.id() {
                let held = task.pieces[piece].residency(node, &read).await;
                task.count(piece, held.as_str());
            } else if let Ok(ticket) = task.pieces[piece].seal(node) {
                let asked = elsewhere.entry(task.worker.clone()).or_default();
                asked.push((at, piece, ticket));
            }
        }
    }
    let mut calls = Vec::new();
    for (worker, asked) in elsewhere {
        let calls_to_it = residency_calls(asked, |(_, _, ticket)| ticket.len());
        calls.extend(calls_to_it.into_iter().map(|asked| (worker.clone(), asked)));
    }
    let peers = Arc::clone(&node.cluster.peers);
    let calls = stream::iter(calls).map(move |(worker, asked)| {
        let peers = Arc::clone(&peers);
        let tickets: Vec<Bytes> = asked.iter().map(|(_, _, ticket)| ticket.clone()).collect();
        async move { (asked, peers.residency(&worker, &tickets).await) }
    });
    let mut told = calls.buffer_unordered(CALLS_AT_ONCE);
    let until = Instant::now() + TIME_LIMIT;
    while let Ok(Some((asked, told))) = timeout_at(until, told.next()).await {
        for ((at, piece, _), told) in asked.into_iter().zip(told.into_iter().flatten()) {
            tasks[at].count(piece, &told);
        }
    }
}

/// The plan with a note at each scan.
fn annotated(plan: &Arc<dyn ExecutionPlan>, tasks: &[ScanTask]) -> Result<Arc<dyn ExecutionPlan>> {
    let noted: HashMap<(usize, Option<usize>), Arc<dyn ExecutionPlan>> = tasks
        .iter()
        .map(|task| {
            let noted: Arc<dyn ExecutionPlan> = Arc::new(Noted {
                scan: Arc::clone(&task.scan),
                note: task.note(),
            });
            (task.at, noted)
        })
        .collect();
    let rewritten = Arc::clone(plan).transform_up(|part| {
        let at = address(&part);
        if let Some(leaf) = part.downcast_ref::<DistributedLeafExec>() {
            let variants = leaf.variants().iter().enumerate();
            let variants: Vec<_> = variants
                .map(|(task, scan)| noted.get(&(at, Some(task))).unwrap_or(scan))
                .map(Arc::clone)
                .collect();
            let leaf = DistributedLeafExec::try_new(Arc::clone(leaf.original()), variants)?;
            return Ok(Transformed::yes(Arc::new(leaf) as Arc<dyn ExecutionPlan>));
        }
        Ok(match noted.get(&(at, None)) {
            Some(noted) => Transformed::yes(Arc::clone(noted)),
            None => Transformed::no(part),
        })
    })?;
    Ok(rewritten.data)
}

/// A scan with something said of it. It is printed and never runs.
#[derive(Debug)]
struct Noted {
    scan: Arc<dyn ExecutionPlan>,
    note: String,
}

impl DisplayAs for Noted {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.scan.fmt_as(format, f)?;
        write!(f, ", {}", self.note)
    }
}

impl ExecutionPlan for Noted {
    fn name(&self) -> &str {
        self.scan.name()
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.scan.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.scan.apply_expressions(visit)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        internal_err!("a plan that was only to be explained was run")
    }
}
