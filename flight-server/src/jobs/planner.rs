//! From a job's paths to tasks: the same plan as a read's, gathered by owner.
//!
//! Small files of one owner go together into one task, and a large file is as many tasks as it has splits, or fewer.
//! A file that cannot be planned fails for itself. A preload's tasks are for the workers that are to hold the data, and a
//! verification's for all that hold some of it ([`super::holders`]).

use std::collections::HashMap;
use std::sync::Arc;

use futures::StreamExt;
use tokio::sync::mpsc;
use xxhash_rust::xxh3::Xxh3Default;

use super::board::NewTask;
use super::holders::Holders;
use super::pace::Pace;
use super::record::{Failure, FailureKind};
use super::room::{Demand, Room};
use super::spec::{JobSpec, Kind};
use super::task::Work;
use crate::cluster::Role;
use crate::dataset::{DataFile, Dataset, Fingerprint};
use crate::error::ServiceError;
use crate::node::Node;
use crate::plan::{self, MAX_RUN_FILES, Plan, Run};
use crate::request::ScanSpec;

/// Stored bytes of one task, about; a single row group may be larger.
pub(super) const TASK_BYTES: u64 = 32 << 20;
/// Files of one task: many small ones cost one order.
const TASK_FILES: usize = 64;
/// Decoded bytes of the runs that tasks are gathered from.
const RUN_BYTES: u64 = 64 << 20;

const _: () = assert!(TASK_FILES <= MAX_RUN_FILES);

/// A planned scan, and what was asked.
#[derive(Debug)]
pub struct Planned {
    /// The plan.
    pub plan: Plan,
    /// The scan.
    pub scan: ScanSpec,
}

/// What it takes to order a task.
#[derive(Debug)]
pub struct Payload {
    /// What it is a part of.
    pub planned: Arc<Planned>,
    /// The part.
    pub run: Run,
    /// What to do with it.
    pub work: Work,
    /// The job's share beside others.
    pub weight: u64,
}

/// Tasks of a job, and what could not become one.
#[derive(Debug, Default)]
pub struct Batch {
    /// The tasks.
    pub tasks: Vec<NewTask<Arc<Payload>>>,
    /// Files, those that failed among them.
    pub files: u32,
    /// What failed.
    pub failures: Vec<Failure>,
}

/// Plans a job.
#[derive(Debug)]
pub struct Planner<'a> {
    /// Whose view and storage it is.
    pub node: &'a Node,
    /// What kind of work it is.
    pub kind: Kind,
    /// How it is to be done.
    pub spec: &'a JobSpec,
    /// What the tasks are to do.
    pub work: Work,
    /// What planning asks of storage.
    pub pace: Pace,
}

impl Planner<'_> {
    /// The dataset of a path, its footers read at the job's pace.
    ///
    /// # Errors
    /// As [`Node::plan`].
    pub(super) async fn dataset(&self, path: &str) -> Result<Arc<Dataset>, ServiceError> {
        let path = self.node.locate(path)?;
        match self.pace.errand() {
            Some(pace) => self.node.datasets.get_at_pace(&path, pace).await,
            None => self.node.datasets.get(&path).await,
        }
    }

    /// Who may hold something of the paths.
    pub(super) async fn holders(&self, paths: &[String]) -> Holders {
        match self.kind {
            Kind::Verify => Holders::of(self.node, paths).await,
            Kind::Preload => Holders::default(),
        }
    }

    /// Plans a dataset as its files are listed, and gives their tasks.
    ///
    /// # Errors
    /// As [`Node::plan`].
    pub(super) async fn in_parts(
        &self,
        path: &str,
        holders: &Holders,
        room: &mut Room,
        out: &mpsc::Sender<Batch>,
    ) -> Result<(), ServiceError> {
        let mut parts = self.node.datasets.parts(&self.node.locate(path)?, self.pace.errand());
        let mut some = false;
        while let Some(dataset) = parts.next().await {
            let task_bytes = room.task_bytes(TASK_BYTES);
            let batch = self.of(path, Arc::new(dataset?), holders, task_bytes).await?;
            some = true;
            if out.send(room.fit(batch)).await.is_err() {
                return Ok(());
            }
        }
        match some {
            true => Ok(()),
            false => Err(ServiceError::NoDataset {
                path: self.node.locate(path)?,
            }),
        }
    }

    /// The tasks of a dataset, of about so many stored bytes.
    ///
    /// # Errors
    /// As [`Node::plan`].
    pub(super) async fn of(
        &self,
        path: &str,
        dataset: Arc<Dataset>,
        holders: &Holders,
        task_bytes: u64,
    ) -> Result<Batch, ServiceError> {
        let (dataset, failures) = readable(dataset);
        let dataset = self.paced(dataset);
        let scan = self.spec.scan(path);
        let lineage = match self.spec.replicas {
            Some(copies) => self.node.lineage_of(&dataset, usize::try_from(copies).unwrap_or(1)),
            None => self.node.lineage(&dataset)?,
        };
        let mut plan = plan::plan(&self.node.cache, dataset, &scan, &lineage, RUN_BYTES.min(task_bytes)).await?;
        let runs = std::mem::take(&mut plan.runs);
        let planned = Arc::new(Planned { plan, scan });
        let mut gather = Gather {
            planned: &planned,
            node: self.node,
            holders,
            work: self.work,
            weight: self.spec.priority.weight(),
            task_bytes,
            open: HashMap::new(),
            tasks: Vec::new(),
        };
        runs.into_iter().for_each(|run| gather.take(run));
        let mut tasks = gather.finish()?;
        let files = number_files(&mut tasks) + u32::try_from(failures.len()).unwrap_or(u32::MAX);
        Ok(Batch { tasks, files, failures })
    }

    /// The dataset, opened so that footers which a predicate needs and the cache has let go of are read at the job's pace too.
    fn paced(&self, dataset: Arc<Dataset>) -> Arc<Dataset> {
        let Some(pace) = self.pace.errand().filter(|_| self.spec.filter.is_some()) else {
            return dataset;
        };
        let peers = self.node.cluster.footers.at_pace(Vec::new(), pace);
        let mut files = dataset.files.clone();
        for file in &mut files {
            file.open.errand = Some(Arc::clone(pace));
            file.open.peers = Some(Arc::clone(&peers));
        }
        Arc::new(with_files(&dataset, files))
    }

    /// What the workers have room for, where no more than that is to be loaded.
    pub(super) async fn room(&self) -> Room {
        let room = match self.kind == Kind::Preload && self.spec.partial {
            true => Room::of(self.node, self.demand()).await,
            false => Room::unbounded(),
        };
        room.for_copies(self.spec.replicas)
    }

    /// Which tiers the job fills.
    #[must_use]
    pub fn demand(&self) -> Demand {
        Demand {
            raw: self.work.raw,
            decoded: self.work.decoded,
        }
    }
}

/// The dataset without the files whose footers cannot be read, and those.
fn readable(dataset: Arc<Dataset>) -> (Arc<Dataset>, Vec<Failure>) {
    let broken: Vec<Failure> = dataset
        .files
        .iter()
        .filter_map(|file| {
            let error = ServiceError::Read(Arc::clone(file.summary.as_ref().err()?));
            Some(failure(file.path.as_ref(), &error))
        })
        .collect();
    if broken.is_empty() {
        return (dataset, broken);
    }
    let files = dataset
        .files
        .iter()
        .filter(|file| file.summary.is_ok())
        .cloned()
        .collect();
    (Arc::new(with_files(&dataset, files)), broken)
}

/// The dataset with other files.
fn with_files(dataset: &Dataset, files: Vec<DataFile>) -> Dataset {
    Dataset {
        path: dataset.path.clone(),
        schema: Arc::clone(&dataset.schema),
        partitions: dataset.partitions.clone(),
        files,
        fingerprint: Fingerprint::default(),
    }
}

/// Why something failed, by what the error says of it.
#[must_use]
pub fn kind_of(error: &ServiceError) -> FailureKind {
    use tonic::Code;
    match error.code() {
        Code::NotFound => FailureKind::NotFound,
        Code::PermissionDenied | Code::Unauthenticated => FailureKind::Denied,
        Code::Aborted => FailureKind::Changed,
        Code::DataLoss | Code::InvalidArgument | Code::FailedPrecondition => FailureKind::Corrupt,
        Code::Unavailable => FailureKind::Storage,
        Code::ResourceExhausted => FailureKind::Capacity,
        _ => FailureKind::Internal,
    }
}

/// A failure of a whole file or folder.
#[must_use]
pub fn failure(path: &str, error: &ServiceError) -> Failure {
    Failure {
        path: path.to_owned(),
        row_group: None,
        kind: kind_of(error),
        error: crate::error::chain(error),
        tries: 1,
    }
}

/// Gathers runs of one list of owners into tasks.
struct Gather<'a> {
    planned: &'a Arc<Planned>,
    node: &'a Node,
    /// Those that may hold something besides the owners, and have the task too then.
    holders: &'a Holders,
    work: Work,
    weight: u64,
    task_bytes: u64,
    open: HashMap<Vec<String>, NewTask<Run>>,
    tasks: Vec<NewTask<Arc<Payload>>>,
}

impl Gather<'_> {
    fn take(&mut self, run: Run) {
        if run.files.is_empty() {
            return;
        }
        let view = &self.planned.plan.view;
        let seats = run.owners.iter().filter_map(|slot| view.placement.seat(*slot));
        let mut workers: Vec<String> = seats.map(|seat| seat.id.to_string()).collect();
        if workers.is_empty() && self.node.cluster.role() != Role::Coordinator {
            // A node that is alone needs no placement to be the one that reads.
            workers.push(self.node.cluster.id().to_owned());
        }
        for holder in self.holders.of_run(&self.planned.plan.dataset, &run) {
            if !workers.iter().any(|known| known == holder) {
                workers.push(holder.to_owned());
            }
        }
        let bytes = stored_bytes(&self.planned.plan, &run);
        let is_full = |open: &NewTask<Run>| {
            open.bytes + bytes > self.task_bytes || open.payload.files.len() + run.files.len() > TASK_FILES
        };
        if self.open.get(&workers).is_some_and(is_full)
            && let Some(full) = self.open.remove(&workers)
        {
            self.close(full);
        }
        let open = self.open.entry(workers).or_insert_with_key(|workers| NewTask {
            identity: 0,
            workers: workers.clone(),
            files: Vec::new(),
            row_groups: 0,
            bytes: 0,
            decoded_bytes: 0,
            mount: String::new(),
            payload: Run {
                owners: Arc::clone(&run.owners),
                split: run.split,
                ..Run::default()
            },
        });
        // What is not to be loaded counts in row groups alone.
        open.bytes += if self.work.footers_only { 0 } else { bytes };
        open.decoded_bytes += if self.work.decoded { run.bytes } else { 0 };
        for file in &run.files {
            open.row_groups += u64::try_from(file.row_groups.len()).unwrap_or(u64::MAX);
        }
        open.payload.absorb(run);
    }

    fn close(&mut self, open: NewTask<Run>) {
        let dataset = &self.planned.plan.dataset;
        let run = open.payload;
        let table = self.node.namespace.table();
        let mount = run
            .files
            .first()
            .and_then(|file| table.resolve(&dataset.files[file.file].path));
        self.tasks.push(NewTask {
            identity: identity(&self.planned.plan, &run, &open.workers),
            workers: open.workers,
            files: run
                .files
                .iter()
                .filter_map(|file| u32::try_from(file.file).ok())
                .collect(),
            row_groups: open.row_groups,
            bytes: open.bytes,
            decoded_bytes: open.decoded_bytes,
            mount: mount
                .map(|resolved| resolved.mount.path.to_string())
                .unwrap_or_default(),
            payload: Arc::new(Payload {
                planned: Arc::clone(self.planned),
                run,
                work: self.work,
                weight: self.weight,
            }),
        });
    }

    fn finish(mut self) -> Result<Vec<NewTask<Arc<Payload>>>, ServiceError> {
        for (_, open) in std::mem::take(&mut self.open) {
            self.close(open);
        }
        // In reading order, so that whoever reads along finds the beginning first.
        self.tasks.sort_by_key(|task| task.files.first().copied());
        match self.tasks.iter().any(|task| task.workers.is_empty()) {
            true => Err(ServiceError::Busy {
                what: "no worker has a place in the cluster yet".to_owned(),
            }),
            false => Ok(self.tasks),
        }
    }
}

/// Numbers the files of tasks from 0 on, without those that no task reads; how many there are.
fn number_files<P>(tasks: &mut [NewTask<P>]) -> u32 {
    let mut numbers: HashMap<u32, u32> = HashMap::new();
    for file in tasks.iter_mut().flat_map(|task| &mut task.files) {
        let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
        *file = *numbers.entry(*file).or_insert(next);
    }
    u32::try_from(numbers.len()).unwrap_or(u32::MAX)
}

/// The same for runs that read the same on the same workers.
fn identity(plan: &Plan, run: &Run, workers: &[String]) -> u128 {
    let mut hash = Xxh3Default::new();
    for worker in workers {
        hash.update(worker.as_bytes());
        hash.update(b" ");
    }
    for file in &run.files {
        let key = &plan.dataset.files[file.file].open.key;
        hash.update(key.uri.as_bytes());
        hash.update(key.generation.to_string().as_bytes());
        file.row_groups
            .iter()
            .for_each(|group| hash.update(&group.to_le_bytes()));
    }
    hash.digest128()
}

/// Stored bytes of the columns that a run reads.
fn stored_bytes(plan: &Plan, run: &Run) -> u64 {
    let of_file = |file: &plan::RunFile| {
        let data = &plan.dataset.files[file.file];
        let columns = plan::read_columns(data, &plan.read);
        let Ok(summary) = &data.summary else { return 0 };
        let groups = file
            .row_groups
            .iter()
            .filter_map(|group| summary.row_groups.get(usize::try_from(*group).ok()?));
        groups
            .flat_map(|group| columns.iter().filter_map(|column| group.stored_bytes.get(*column)))
            .sum::<u64>()
    };
    run.files.iter().map(of_file).sum()
}
