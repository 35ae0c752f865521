//! The paths of a job: planned beside each other, and when the tasks of each begin.
//!
//! The tasks of a preload begin when all paths are planned and fit, or, where nothing is to be decoded, as soon as it is sure that
//! they will: each worker has room for what is planned by then, and for every byte of the files of the other paths.
//!
//! Where not all need fit (`partial`), and of verifications, tasks are made path by path in the order in which they were given,
//! while the datasets of the next ones are looked up. With `partial_listing` one path is listed after the other.
//!
//! Whoever looks a dataset up keeps others waiting who want the same. So nothing that holds such a look-up waits here for anything
//! else: what is found is put aside, and handed on by another future.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::future::{BoxFuture, OptionFuture};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use tokio::sync::mpsc;

use super::holders::Holders;
use super::planner::{Batch, Planner, TASK_BYTES, failure};
use super::room::{self, Room};
use super::spec::Kind;
use crate::capacity::{self, Told};
use crate::dataset::Dataset;
use crate::error::ServiceError;

/// Paths that are planned at once; what that asks of storage has the bounds of reading footers and of the mounts.
const PATHS_AT_ONCE: usize = 16;

/// What it takes to know whether paths that are not planned yet will fit.
struct Outlook {
    /// Bytes of all their files.
    bytes: u64,
    /// What each worker can hold.
    capacities: Vec<(String, Told)>,
}

impl Planner<'_> {
    /// Plans all paths, and gives their tasks as they may begin. A path that is nothing is a failure, unless it is the only one.
    ///
    /// # Errors
    /// As [`Node::plan`](crate::node::Node::plan); RESOURCE_EXHAUSTED for what does not fit.
    pub async fn run(&self, paths: &[String], out: &mpsc::Sender<Batch>) -> Result<(), ServiceError> {
        let (holders, mut room) = (self.holders(paths).await, self.room().await);
        if self.spec.partial_listing {
            for path in paths {
                if let Err(error) = self.in_parts(path, &holders, &mut room, out).await {
                    give(out, or_failure(Err(error), path, paths)?).await;
                }
            }
        } else if self.kind == Kind::Preload && !self.spec.partial {
            let (tell, mut told) = mpsc::unbounded_channel();
            let hand_on = async {
                while let Some(batch) = told.recv().await {
                    give(out, batch).await;
                }
            };
            let (planned, ()) = tokio::join!(self.all_that_fit(paths, &holders, &mut room, tell), hand_on);
            planned?;
        } else {
            let (tell, told) = mpsc::unbounded_channel();
            let (planned, ()) = tokio::join!(
                self.in_order(paths, (&holders, &mut room), told, out),
                self.look_up(paths, tell)
            );
            planned?;
        }
        let failures = room.refused(paths.first().map_or("/", String::as_str));
        let left_out = Batch {
            failures,
            ..Batch::default()
        };
        give(out, left_out).await;
        Ok(())
    }

    /// All tasks of all paths at once, and what they leave out.
    ///
    /// # Errors
    /// As [`Node::plan`](crate::node::Node::plan).
    pub async fn all(&self, paths: &[String]) -> Result<Vec<Batch>, ServiceError> {
        let holders = self.holders(paths).await;
        let plans = self.plans(paths, &holders).buffered(PATHS_AT_ONCE);
        plans.map(|(_, batch)| batch).try_collect().await
    }

    /// Plans all paths, and tells of them when all fit, in their order; or sooner, as they are planned, where that is sure.
    async fn all_that_fit(
        &self,
        paths: &[String],
        holders: &Holders,
        room: &mut Room,
        tell: mpsc::UnboundedSender<Batch>,
    ) -> Result<(), ServiceError> {
        let mut plans = self.plans(paths, holders).buffer_unordered(PATHS_AT_ONCE);
        let mut held: BTreeMap<usize, Batch> = BTreeMap::new();
        let mut to_come: BTreeSet<usize> = (0..paths.len()).collect();
        // Footers alone take no room.
        let mut is_sure = !self.work.raw && !self.work.decoded;
        let may_be_sure = !self.work.decoded;
        let mut outlook: OptionFuture<BoxFuture<'_, Option<Outlook>>> = None.into();
        loop {
            tokio::select! {
                next = plans.next() => {
                    let Some((at, batch)) = next else { break };
                    to_come.remove(&at);
                    held.insert(at, room.fit(or_failure(batch, &paths[at], paths)?));
                    let is_first = to_come.len() + 1 == paths.len();
                    if is_first && may_be_sure && !is_sure && !to_come.is_empty() {
                        let others = to_come.iter().map(|at| paths[*at].clone()).collect();
                        outlook = Some(self.outlook(others).boxed()).into();
                    }
                }
                Some(seen) = &mut outlook => {
                    outlook = None.into();
                    let tasks = held.values().flat_map(|batch| &batch.tasks);
                    is_sure = seen.is_some_and(|seen| room::is_sure_to_fit(tasks, seen.bytes, &seen.capacities));
                }
            }
            if is_sure {
                // Whoever listened has gone where this fails.
                std::mem::take(&mut held)
                    .into_values()
                    .for_each(|batch| drop(tell.send(batch)));
            }
        }
        if !is_sure {
            let needs = room::needs(self.node, held.values().flat_map(|batch| &batch.tasks)).await;
            room::check(&needs, self.demand())?;
        }
        held.into_values().for_each(|batch| drop(tell.send(batch)));
        Ok(())
    }

    /// Makes the tasks of datasets that were looked up, path by path: where there is not room for all, the first ones have it.
    async fn in_order(
        &self,
        paths: &[String],
        (holders, room): (&Holders, &mut Room),
        mut datasets: mpsc::UnboundedReceiver<Result<Arc<Dataset>, ServiceError>>,
        out: &mpsc::Sender<Batch>,
    ) -> Result<(), ServiceError> {
        for path in paths {
            let Some(dataset) = datasets.recv().await else { break };
            let batch = match dataset {
                Ok(dataset) => self.of(path, dataset, holders, room.task_bytes(TASK_BYTES)).await,
                Err(error) => Err(error),
            };
            give(out, room.fit(or_failure(batch, path, paths)?)).await;
        }
        Ok(())
    }

    /// Looks the datasets of all paths up, and tells of them in the order of these.
    async fn look_up(&self, paths: &[String], tell: mpsc::UnboundedSender<Result<Arc<Dataset>, ServiceError>>) {
        let mut datasets = self.look_ups(paths).buffered(PATHS_AT_ONCE);
        while let Some(dataset) = datasets.next().await {
            if tell.send(dataset).is_err() {
                return;
            }
        }
    }

    /// What looks each dataset up; nothing is begun yet.
    fn look_ups<'s>(&'s self, paths: &'s [String]) -> BoxStream<'s, BoxFuture<'s, Result<Arc<Dataset>, ServiceError>>> {
        stream::iter(paths).map(|path| self.dataset(path).boxed()).boxed()
    }

    /// What plans each path, and its place among them; nothing is begun yet.
    fn plans<'s>(
        &'s self,
        paths: &'s [String],
        holders: &'s Holders,
    ) -> BoxStream<'s, BoxFuture<'s, (usize, Result<Batch, ServiceError>)>> {
        let plan = move |(at, path): (usize, &'s String)| {
            let planned = async move {
                let dataset = self.dataset(path).await?;
                self.of(path, dataset, holders, TASK_BYTES).await
            };
            planned.map(move |planned| (at, planned)).boxed()
        };
        stream::iter(paths.iter().enumerate()).map(plan).boxed()
    }

    /// What is to come of these paths, as storage lists them now, and what there is to hold it; none where not all is known.
    async fn outlook(&self, paths: Vec<String>) -> Option<Outlook> {
        let mut bytes = 0u64;
        for path in paths {
            let path = self.node.locate(&path).ok()?;
            bytes = bytes.saturating_add(self.node.datasets.listed_bytes(&path).await.ok()?);
        }
        let capacities = capacity::capacities(self.node).await;
        let workers = self.node.cluster.view().placement.seats().taken().count().max(1);
        (capacities.len() == workers).then_some(Outlook { bytes, capacities })
    }
}

/// Whoever listened has gone where this fails.
async fn give(out: &mpsc::Sender<Batch>, batch: Batch) {
    let _ = out.send(batch).await;
}

/// What was planned of one of the paths. What could not be is a failure, unless it is the only path.
fn or_failure(planned: Result<Batch, ServiceError>, path: &str, paths: &[String]) -> Result<Batch, ServiceError> {
    match planned {
        Err(error) if paths.len() == 1 => Err(error),
        // It may have been a folder; what is known is that one thing failed.
        Err(error) => Ok(Batch {
            files: 1,
            failures: vec![failure(path, &error)],
            ..Batch::default()
        }),
        planned => planned,
    }
}
