//! Jobs from any node: submitted to the metadata store, where the scheduler finds them, and read from there.

use std::time::{Duration, SystemTime};

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use jetbridge_catalog::meta::{Entry, Expect, MetaError, MetaStore, WatchEvent};
use serde::Serialize;

use super::pace::Pace;
use super::planner::Planner;
use super::record::{CANCEL_PREFIX, JOB_PREFIX, Job, OPEN_PREFIX, State};
use super::room::{self, Need};
use super::scheduler::work_of;
use super::spec::{JobSpec, Kind, Submission, key_of};
use crate::error::ServiceError;
use crate::node::Node;

/// Most jobs that are unfinished at once.
const MAX_UNFINISHED: usize = 10_000;
/// Jobs that a list gives where nothing else is asked: so many are 1 MiB or two.
pub const LISTED_JOBS: usize = 1_000;
/// How long a submission waits for its plan, which tells whoever submits it what is wrong with it.
const PLAN_PATIENCE: Duration = Duration::from_secs(3);
/// How long a submission of the same work that is under way is waited for.
const TWIN_PATIENCE: Duration = Duration::from_secs(2);
/// How often it is looked for.
const TWIN_INTERVAL: Duration = Duration::from_millis(50);

/// What a dry run tells.
#[derive(Debug, Serialize)]
pub struct DryRun {
    dry_run: bool,
    path: String,
    paths: Vec<String>,
    options: JobSpec,
    files: u64,
    row_groups: u64,
    bytes: u64,
    decoded_bytes: u64,
    fits: bool,
    workers: Vec<Need>,
}

/// What a submission comes to.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Submitted {
    /// A job, new or already there.
    Job(Box<Job>),
    /// What a job would do.
    DryRun(Box<DryRun>),
}

/// Submits a job, or finds the unfinished one that does the same.
///
/// # Errors
/// Paths, columns and predicates that are wrong; RESOURCE_EXHAUSTED for what does not fit; UNAVAILABLE where too many jobs
/// wait.
pub async fn submit(node: &Node, submission: Submission) -> Result<Submitted, ServiceError> {
    let Submission {
        kind,
        paths,
        spec,
        dry_run,
    } = submission;
    let mut canonical = Vec::with_capacity(paths.len());
    for path in &paths {
        canonical.push(node.locate(path)?.to_string());
    }
    let job = Job::new(kind, canonical, spec, String::new());
    let copies = room::check_copies(node, &job.options);
    let has_copies = copies.is_ok();
    if !dry_run && !job.options.partial {
        copies?;
    }
    if job.options.partial_listing {
        // It is planned as it goes, but not for a path that is nothing.
        for path in &job.paths {
            node.datasets.tree().place(&node.locate(path)?).await?;
        }
        return queued(node, job).await;
    }
    let patience = if dry_run { Duration::MAX } else { PLAN_PATIENCE };
    let (planned, demand) = {
        let planner = Planner {
            node,
            kind,
            spec: &job.options,
            work: work_of(&job),
            pace: Pace::of(&job.options),
        };
        let planned = tokio::time::timeout(patience, planner.all(&job.paths)).await;
        (planned, planner.demand())
    };
    let batches = match planned {
        // It can wait for a worker, and for a storage that is slow: then the job says what is wrong with it.
        Ok(Err(ServiceError::Busy { .. })) if !dry_run => return queued(node, job).await,
        Err(_elapsed) => return queued(node, job).await,
        Ok(batches) => batches?,
    };
    let tasks = || batches.iter().flat_map(|batch| &batch.tasks);
    let needs = room::needs(node, tasks()).await;
    if dry_run {
        return Ok(Submitted::DryRun(Box::new(DryRun {
            dry_run: true,
            path: job.path.clone(),
            files: batches.iter().map(|batch| u64::from(batch.files)).sum(),
            row_groups: tasks().map(|task| task.row_groups).sum(),
            bytes: tasks().map(|task| task.bytes).sum(),
            decoded_bytes: tasks().map(|task| task.decoded_bytes).sum(),
            fits: has_copies && room::fits(&needs, demand),
            workers: needs,
            paths: job.paths,
            options: job.options,
        })));
    }
    if kind == Kind::Preload && !job.options.partial {
        room::check(&needs, demand)?;
    }
    queued(node, job).await
}

async fn queued(node: &Node, job: Job) -> Result<Submitted, ServiceError> {
    Ok(Submitted::Job(Box::new(put(node, job).await?)))
}

async fn put(node: &Node, mut job: Job) -> Result<Job, ServiceError> {
    job.key = key_of(job.kind, &job.paths, &job.options);
    let store = node.cluster.store().as_ref();
    if store.list(OPEN_PREFIX).await.map_err(meta)?.len() >= MAX_UNFINISHED {
        return Err(ServiceError::Busy {
            what: format!("{MAX_UNFINISHED} jobs are unfinished"),
        });
    }
    if let Some(twin) = claim(store, &job).await? {
        return Ok(twin);
    }
    let value = encode(&job)?;
    store.put(&job.store_key(), value, Expect::Absent).await.map_err(meta)?;
    tracing::info!(job = %job.id, path = %job.path, "job submitted");
    metrics::counter!("jetbridge_jobs_submitted_total").increment(1);
    Ok(job)
}

/// Makes this the unfinished job of its key, or gives the one that is.
async fn claim(store: &dyn MetaStore, job: &Job) -> Result<Option<Job>, ServiceError> {
    let key = job.open_key();
    let value = || job.id.clone().into_bytes();
    let since = SystemTime::now();
    loop {
        let Some(open) = store.get(&key).await.map_err(meta)? else {
            match store.put(&key, value(), Expect::Absent).await {
                Ok(_) => return Ok(None),
                Err(MetaError::Conflict { .. }) => continue,
                Err(error) => return Err(meta(error)),
            }
        };
        match get(store, &String::from_utf8_lossy(&open.value)).await {
            Ok(twin) if !twin.state.is_final() => return Ok(Some(twin)),
            // Its submitter is about to put it, unless it has died.
            Err(ServiceError::NoSuchJob { .. }) if since.elapsed().unwrap_or_default() < TWIN_PATIENCE => {
                tokio::time::sleep(TWIN_INTERVAL).await;
            }
            Ok(_) | Err(ServiceError::NoSuchJob { .. }) => {
                match store.put(&key, value(), Expect::Revision(open.revision)).await {
                    Ok(_) => return Ok(None),
                    Err(MetaError::Conflict { .. }) => {}
                    Err(error) => return Err(meta(error)),
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// A job, as it was last written.
///
/// # Errors
/// NOT_FOUND for an id that is none.
pub async fn get(store: &dyn MetaStore, id: &str) -> Result<Job, ServiceError> {
    let unknown = || ServiceError::NoSuchJob { id: id.to_owned() };
    if uuid::Uuid::parse_str(id).is_err() {
        return Err(unknown());
    }
    let entry = store.get(&format!("{JOB_PREFIX}{id}")).await.map_err(meta)?;
    decode(&entry.ok_or_else(unknown)?)
}

/// The jobs that are kept, the latest first, of one state where one is given, and at most so many ([`LISTED_JOBS`] where
/// none is given). Their workers' parts are left out: a list of jobs is no place for what may be thousands of lines each.
///
/// # Errors
/// The store's.
pub async fn list(store: &dyn MetaStore, state: Option<State>, limit: Option<usize>) -> Result<Vec<Job>, ServiceError> {
    let entries = store.list(JOB_PREFIX).await.map_err(meta)?;
    let jobs: Result<Vec<Job>, ServiceError> = entries.iter().map(|(_, entry)| decode(entry)).collect();
    let mut jobs = jobs?;
    jobs.retain(|job| state.is_none_or(|state| job.state == state));
    jobs.sort_by(|a, b| (b.submitted_unix_ms, &b.id).cmp(&(a.submitted_unix_ms, &a.id)));
    jobs.truncate(limit.unwrap_or(LISTED_JOBS));
    for job in &mut jobs {
        job.progress.workers.clear();
        job.progress.failures.truncate(1);
    }
    Ok(jobs)
}

/// Asks for a job's end. One that is over stays as it is.
///
/// # Errors
/// NOT_FOUND for an id that is none.
pub async fn cancel(store: &dyn MetaStore, id: &str) -> Result<Job, ServiceError> {
    let job = get(store, id).await?;
    if !job.state.is_final() {
        let key = format!("{CANCEL_PREFIX}{id}");
        store.put(&key, Vec::new(), Expect::Any).await.map_err(meta)?;
    }
    Ok(job)
}

/// A job each time that it is written, until it is over.
///
/// # Errors
/// As [`get`].
pub async fn watch(node: &Node, id: &str) -> Result<BoxStream<'static, Result<Job, ServiceError>>, ServiceError> {
    let store = node.cluster.store();
    let known = get(store.as_ref(), id).await?;
    let watch = store.watch(&known.store_key());
    let id = id.to_owned();
    let told = stream::unfold((watch, false), move |(mut watch, is_over)| {
        let id = id.clone();
        async move {
            if is_over {
                return None;
            }
            loop {
                let job = match watch.next().await {
                    WatchEvent::Reset { entries, .. } => entries.first().map(|(_, entry)| decode(entry)),
                    WatchEvent::Put { entry, .. } => Some(decode(&entry)),
                    WatchEvent::Delete { .. } => None,
                    // It goes on by itself when the store is back.
                    WatchEvent::Away(_) | WatchEvent::Foreign(_) => continue,
                };
                let job = job.unwrap_or_else(|| Err(ServiceError::NoSuchJob { id: id.clone() }));
                let is_over = job.as_ref().map_or(true, |job| job.state.is_final());
                return Some((job, (watch, is_over)));
            }
        }
    });
    Ok(told.take_until(node.cluster.ending()).boxed())
}

/// A job as the store keeps it.
///
/// # Errors
/// None that happens.
pub fn encode(job: &Job) -> Result<Vec<u8>, ServiceError> {
    serde_json::to_vec(job).map_err(|error| ServiceError::Internal {
        what: error.to_string(),
    })
}

/// The job that a value is.
///
/// # Errors
/// A value of a version that this one does not read.
pub fn decode(entry: &Entry) -> Result<Job, ServiceError> {
    let job: Result<Job, _> = serde_json::from_slice(&entry.value);
    let mut job = job.map_err(|error| ServiceError::Internal {
        what: format!("a job in the metadata store cannot be read: {error}"),
    })?;
    job.age();
    Ok(job)
}

fn meta(error: MetaError) -> ServiceError {
    ServiceError::Catalog(error.into())
}
