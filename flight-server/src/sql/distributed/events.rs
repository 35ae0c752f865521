//! What datafusion-distributed asks while it cuts a plan into stages and sends their tasks: how many tasks a scan is
//! worth, what each of them reads, and who runs them.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use datafusion_distributed::{
    DesiredTaskCountEvent, DesiredTaskCountEventResponse, DesiredTaskCountHandler, DistributedLeafExec,
    NetworkBoundaryExt, RouteTasksEvent, RouteTasksEventResponse, RouteTasksHandler, ScaleUpLeafNodeEvent,
    ScaleUpLeafNodeEventResponse, ScaleUpLeafNodeHandler,
};

use super::crew::Crew;
use super::tasks::{self, Load};
use crate::sql::scan::{DatasetScanExec, ScanPartition, ScanPiece};

/// How many tasks a scan is worth.
pub(super) struct Wanted(pub(super) Arc<Crew>);

#[async_trait]
impl DesiredTaskCountHandler for Wanted {
    async fn handle(&self, event: DesiredTaskCountEvent<'_>) -> Option<Result<DesiredTaskCountEventResponse>> {
        let scan = event.plan.downcast_ref::<DatasetScanExec>()?;
        // What stands above the only partition of a scan may take it for all rows: an aggregate, a sort, a limit, the held
        // side of a join.
        let is_whole = event.plan.output_partitioning().partition_count() == 1;
        Some(Ok(if is_whole {
            DesiredTaskCountEventResponse::maximum(1)
        } else {
            DesiredTaskCountEventResponse::desired(tasks::wanted(&self.0, pieces(scan).map(load)))
        }))
    }
}

/// What each task of a scan reads.
pub(super) struct Share(pub(super) Arc<Crew>);

impl ScaleUpLeafNodeHandler for Share {
    fn handle(&self, event: ScaleUpLeafNodeEvent<'_>) -> Option<Result<ScaleUpLeafNodeEventResponse>> {
        let scan = event.plan.downcast_ref::<DatasetScanExec>()?;
        // One task reads all of it, as it is.
        if event.task_count < 2 {
            return None;
        }
        let most = event.session_config.target_partitions();
        let shared = self.shared(scan, event.task_count, most);
        let leaf = shared.and_then(|shared| DistributedLeafExec::try_new(Arc::clone(event.plan), shared));
        Some(leaf.map(|leaf| ScaleUpLeafNodeEventResponse::new(Arc::new(leaf))))
    }
}

impl Share {
    /// The scan of each task; all have the same number of partitions, at most `most`.
    fn shared(&self, scan: &DatasetScanExec, count: usize, most: usize) -> Result<Vec<Arc<dyn ExecutionPlan>>> {
        let pieces: Vec<&ScanPiece> = pieces(scan).collect();
        let loads: Vec<Load<'_>> = pieces.iter().copied().map(load).collect();
        let shares = tasks::shares(&self.0, &loads, count);
        let longest = shares.iter().map(Vec::len).max().unwrap_or(0);
        let partitions = longest.min(most).max(1);
        let scan_of = |share: &Vec<usize>| -> Result<Arc<dyn ExecutionPlan>> {
            let bytes: Vec<u64> = share.iter().map(|&piece| pieces[piece].bytes).collect();
            let parts = tasks::partitions(&bytes, partitions)
                .into_iter()
                .map(|part| ScanPartition {
                    pieces: part.into_iter().map(|at| pieces[share[at]].clone()).collect(),
                });
            Ok(Arc::new(scan.with_partitions(parts.collect())?))
        };
        shares.iter().map(scan_of).collect()
    }
}

/// Who runs the tasks of a stage.
pub(super) struct Route(pub(super) Arc<Crew>);

impl RouteTasksHandler for Route {
    fn handle(&self, event: RouteTasksEvent<'_>) -> Option<Result<RouteTasksEventResponse>> {
        let crew = &self.0;
        let chosen = match homes(crew, event.plan, event.task_count) {
            Ok(Some(homes)) => homes.into_iter().filter_map(|home| crew.workers().get(home)).collect(),
            // A task alone that reads nothing goes beside what it takes its rows from.
            Ok(None) if event.task_count == 1 => return None,
            Ok(None) => return Some(Ok(RouteTasksEventResponse::new(crew.in_turn(event.task_count)))),
            Err(error) => return Some(Err(error)),
        };
        let chosen: Vec<_> = chosen;
        let urls = chosen.into_iter().map(|worker| worker.url.clone()).collect();
        Some(Ok(RouteTasksEventResponse::new(urls)))
    }
}

/// The position in the crew of the worker of each task of a stage; none for a stage that reads no dataset.
pub(super) fn homes(crew: &Crew, stage: &Arc<dyn ExecutionPlan>, count: usize) -> Result<Option<Vec<usize>>> {
    let mut read: Vec<Vec<ScanPiece>> = vec![Vec::new(); count];
    let mut reads = false;
    stage.apply(|node| {
        if node.is_network_boundary() {
            return Ok(TreeNodeRecursion::Jump);
        }
        if let Some(leaf) = node.downcast_ref::<DistributedLeafExec>() {
            for (task, variant) in leaf.variants().iter().enumerate().take(count) {
                if let Some(scan) = variant.downcast_ref::<DatasetScanExec>() {
                    reads = true;
                    read[task].extend(pieces(scan).cloned());
                }
            }
        } else if let (Some(scan), Some(first)) = (node.downcast_ref::<DatasetScanExec>(), read.first_mut()) {
            reads = true;
            first.extend(pieces(scan).cloned());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    let loads: Vec<Vec<Load<'_>>> = read.iter().map(|pieces| pieces.iter().map(load).collect()).collect();
    Ok(reads.then(|| tasks::homes(crew, &loads)))
}

/// The pieces of a scan, one partition after another.
pub(super) fn pieces(scan: &DatasetScanExec) -> impl Iterator<Item = &ScanPiece> {
    scan.partitions().iter().flat_map(|partition| &partition.pieces)
}

fn load(piece: &ScanPiece) -> Load<'_> {
    (&piece.owners, piece.bytes)
}
