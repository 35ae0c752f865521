//! A worker's side of jobs: it pulls tasks, makes them, and says how far it is.
//!
//! One task here talks with the scheduler; each task in hand has one of its own, and their row groups share a number of
//! slots. What a job asks of storage goes through its [`Errand`], which has the job's pace and its end.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::{StreamExt, stream};
use jetbridge_cache::ReadError;
use jetbridge_cache::key::RowGroup;
use jetbridge_cache::page::Errand;
use jetbridge_cache::preload::{Brought, Want};
use jetbridge_cache::scan::{ScanRequest, Split};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::planner::failure;
use super::record::{Failure, FailureKind};
use super::task::{Counts, Order, Orders, Pull, Report, Spent, TaskId, Work};
use super::turns::{Turn, Turns};
use crate::error::ServiceError;
use crate::node::Node;
use crate::redeem;

/// Tasks that a worker has in hand at once: some to be busy with, the others so that it never waits for the scheduler.
const TASKS_IN_HAND: usize = 12;
/// Row groups that are loaded at once, of all tasks.
const ROW_GROUPS_AT_ONCE: usize = 32;
/// What a row group counts when turns are given.
const TURN_BYTES: u64 = 1 << 20;
/// How often the scheduler hears of a worker that has something in hand.
const PULL_INTERVAL: Duration = Duration::from_millis(200);
/// The shortest time between two pulls, however fast tasks are done.
const LEAST_INTERVAL: Duration = Duration::from_millis(20);
/// How long a worker waits before it looks for the scheduler again.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Works for as long as it is polled.
pub async fn work(node: Arc<Node>) {
    let mut hands = Hands::new(Arc::clone(&node));
    loop {
        let pull = hands.tell();
        match node.jobs.pull(&node, &pull).await {
            Ok(orders) => {
                hands.heard(&pull);
                hands.take(orders);
            }
            Err(reason) => {
                tracing::debug!(reason, "the scheduler of jobs was not reached");
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        }
        if !hands.tasks.is_empty() {
            tokio::time::sleep(LEAST_INTERVAL).await;
            let _ = tokio::time::timeout(PULL_INTERVAL, hands.done.notified()).await;
        }
    }
}

/// What a worker has in hand.
struct Hands {
    node: Arc<Node>,
    tasks: BTreeMap<TaskId, InHand>,
    /// By job: how its loads differ from a reader's.
    errands: BTreeMap<String, Arc<Errand>>,
    turns: Turns,
    /// Told when a task is over.
    done: Arc<Notify>,
    term: u64,
}

struct InHand {
    job: String,
    report: Arc<Mutex<Report>>,
    _task: AbortOnDropHandle<()>,
}

impl Hands {
    fn new(node: Arc<Node>) -> Self {
        Self {
            node,
            tasks: BTreeMap::new(),
            errands: BTreeMap::new(),
            turns: Turns::new(ROW_GROUPS_AT_ONCE),
            done: Arc::default(),
            term: 0,
        }
    }

    fn tell(&self) -> Pull {
        let spent = |errand: &Arc<Errand>| Spent {
            fetched_bytes: errand.fetched_bytes(),
            peer_bytes: errand.peer_bytes(),
        };
        let reports: Vec<Report> = self.tasks.values().map(|task| task.report.lock().clone()).collect();
        let busy = reports.iter().filter(|report| !report.done).count();
        Pull {
            worker: self.node.cluster.id().to_owned(),
            generation: self.node.cluster.generation(),
            room: TASKS_IN_HAND.saturating_sub(busy),
            reports,
            spent: self
                .errands
                .iter()
                .map(|(job, errand)| (job.clone(), spent(errand)))
                .collect(),
        }
    }

    /// What was told as done was heard.
    fn heard(&mut self, pull: &Pull) {
        for report in pull.reports.iter().filter(|report| report.done) {
            self.tasks.remove(&report.id);
        }
    }

    fn take(&mut self, orders: Orders) {
        // Another scheduler numbers its tasks anew. What was in hand for the one before is asked for again, if it is still
        // wanted, and costs nothing then.
        if self.term != orders.term {
            self.tasks.clear();
            self.term = orders.term;
        }
        self.tasks.retain(|_, task| orders.jobs.contains_key(&task.job));
        self.errands.retain(|job, errand| {
            let goes_on = orders.jobs.contains_key(job);
            if !goes_on {
                errand.stop();
            }
            goes_on
        });
        // Rates come first: a task begins to ask at once, and it is not to do so without one.
        for order in &orders.tasks {
            let new = || Errand::new(order.work.raw || order.work.footers_only);
            self.errands.entry(order.job.clone()).or_insert_with(new);
        }
        for (job, rate) in &orders.jobs {
            if let Some(errand) = self.errands.get(job) {
                errand.set_rate(*rate);
            }
        }
        for order in orders.tasks {
            self.begin(order);
        }
        metrics::gauge!("jetbridge_job_tasks_running").set(jetbridge_cache::gauge(to_u64(self.tasks.len())));
    }

    fn begin(&mut self, order: Order) {
        let Some(errand) = self.errands.get(&order.job) else {
            return;
        };
        let report = Arc::new(Mutex::new(Report {
            id: order.id,
            ..Report::default()
        }));
        let (id, job) = (order.id, order.job.clone());
        let span = tracing::info_span!("job", id = %job, task = id);
        let doing = Doing {
            node: Arc::clone(&self.node),
            work: order.work,
            errand: Arc::clone(errand),
            turns: self.turns.clone(),
            job: order.job.clone(),
            weight: order.weight,
            report: Arc::clone(&report),
            failed: Mutex::default(),
        };
        let done = Arc::clone(&self.done);
        let task = async move {
            doing.run(&order).await;
            doing.report.lock().done = true;
            doing.count();
            done.notify_one();
        };
        let _task = AbortOnDropHandle::new(tokio::spawn(task.instrument(span)));
        self.tasks.insert(id, InHand { job, report, _task });
    }
}

/// A task that is being made.
struct Doing {
    node: Arc<Node>,
    work: Work,
    errand: Arc<Errand>,
    turns: Turns,
    job: String,
    weight: u64,
    report: Arc<Mutex<Report>>,
    /// Positions of files that failed as a whole, so that nothing more of them is tried.
    failed: Mutex<HashSet<usize>>,
}

impl Doing {
    async fn run(&self, order: &Order) {
        match self.request(&order.ticket) {
            Ok(request) => {
                tokio::select! {
                    () = self.all(&request) => {}
                    path = self.unmounted(&request) => self.drop_all(&request, &path),
                }
            }
            Err(error) => self.report.lock().failures.push(failure(&order.path, &error)),
        }
    }

    fn request(&self, ticket: &str) -> Result<ScanRequest, ServiceError> {
        let bytes = BASE64
            .decode(ticket)
            .map_err(|error| ServiceError::invalid(format!("a task's ticket: {error}")))?;
        let mut request = redeem::redeem(&self.node, &bytes)?.request;
        for split in &mut request.splits {
            split.file.errand = Some(Arc::clone(&self.errand));
        }
        Ok(request)
    }

    async fn all(&self, request: &ScanRequest) {
        match self.work.footers_only {
            true => self.footers(request).await,
            false => self.row_groups(request).await,
        }
    }

    /// Completes when storage of the task is mounted no more where it was, with a path of it. A reader who began may end;
    /// what nobody waits for has no reason to go on.
    async fn unmounted(&self, request: &ScanRequest) -> String {
        let is_there = |split: &&Split| {
            let path = self.node.locate(&split.path).ok();
            let found = path.and_then(|path| self.node.resolve(&path).ok());
            found.is_some_and(|(ufs, relative)| ufs.uri_of(&relative) == *split.file.key.uri)
        };
        let mut table = self.node.namespace.table();
        loop {
            tokio::time::sleep(PULL_INTERVAL).await;
            let now = self.node.namespace.table();
            if Arc::ptr_eq(&table, &now) {
                continue;
            }
            table = now;
            if let Some(gone) = request.splits.iter().find(|split| !is_there(split)) {
                return gone.path.clone();
            }
        }
    }

    /// Gives up what is left of a task whose storage is not mounted any more.
    fn drop_all(&self, request: &ScanRequest, gone: &str) {
        let mut report = self.report.lock();
        for split in &request.splits {
            report.failures.push(Failure {
                path: split.path.clone(),
                row_group: None,
                kind: FailureKind::NotFound,
                error: format!("the storage of {gone} is not mounted any more"),
                tries: 1,
            });
        }
    }

    async fn footers(&self, request: &ScanRequest) {
        let files = stream::iter(0..request.splits.len());
        files
            .for_each_concurrent(ROW_GROUPS_AT_ONCE, |at| self.footer(at, request))
            .await;
    }

    async fn footer(&self, at: usize, request: &ScanRequest) {
        let split = &request.splits[at];
        let _turn = self.turn().await;
        let row_groups = to_u64(split.row_groups.len());
        match self.node.cache.preload_footer(&split.file).await {
            Ok(()) => self.report.lock().counts.add(&Counts {
                row_groups,
                row_groups_done: row_groups,
                ..Counts::default()
            }),
            Err(error) => self.fail(at, split, None, error),
        }
    }

    async fn row_groups(&self, request: &ScanRequest) {
        let skipped = Mutex::new(vec![true; request.splits.len()]);
        let mut units = Vec::new();
        for (at, split) in request.splits.iter().enumerate() {
            units.extend(split.row_groups.iter().map(|row_group| (at, *row_group)));
        }
        let load = |(at, row_group)| {
            let skipped = &skipped;
            async move {
                let was_left_alone = self.row_group(at, row_group, request).await;
                skipped.lock()[at] &= was_left_alone;
            }
        };
        stream::iter(units).for_each_concurrent(ROW_GROUPS_AT_ONCE, load).await;
        let skipped = (0u32..).zip(skipped.into_inner());
        self.report.lock().skipped_files = skipped.filter_map(|(at, skipped)| skipped.then_some(at)).collect();
    }

    /// Waits for this job's turn.
    async fn turn(&self) -> Turn {
        self.turns.take(&self.job, self.weight, TURN_BYTES).await
    }

    /// Brings or compares one row group; whether it was left alone.
    async fn row_group(&self, at: usize, row_group: RowGroup, request: &ScanRequest) -> bool {
        let split = &request.splits[at];
        if self.failed.lock().contains(&at) {
            return false;
        }
        let _turn = self.turn().await;
        let want = Want {
            raw: self.work.raw,
            decoded: self.work.decoded,
            skip_held: self.work.skip_held,
            verify: self.work.verify,
        };
        let brought = match self.work.raw || self.work.decoded {
            true => self.node.cache.preload(split, row_group, &request.read, want).await,
            false => self.node.cache.verify(split, row_group, &request.read).await,
        };
        match brought {
            Ok(brought) => self.count_in(split, row_group, &brought),
            Err(error) => {
                self.fail(at, split, Some(row_group), error);
                false
            }
        }
    }

    fn count_in(&self, split: &Split, row_group: RowGroup, brought: &Brought) -> bool {
        let verified = brought.verified.unwrap_or_default();
        let damaged = verified.damaged_pages + verified.damaged_chunks;
        // A verification is done with whatever it found; nothing was to be brought.
        let brings = self.work.raw || self.work.decoded;
        let is_held = !brings || brought.unkept.is_none();
        let held_bytes = if brings {
            brought.stored_held_bytes
        } else {
            brought.stored_bytes
        };
        let mut report = self.report.lock();
        report.counts.add(&Counts {
            row_groups: 1,
            row_groups_done: u64::from(is_held),
            bytes: brought.stored_bytes,
            bytes_done: held_bytes,
            decoded_bytes: brought.decoded_bytes,
            decoded_bytes_done: brought.decoded_held_bytes,
            verified_row_groups: u64::from(verified.bytes > 0),
            verified_bytes: verified.bytes,
            damaged,
        });
        let failure = |kind, error: String| Failure {
            path: split.path.clone(),
            row_group: Some(row_group.0),
            kind,
            error,
            tries: 1,
        };
        if damaged > 0 {
            let words = format!(
                "{} pages and {} decoded columns that {} held were not what the storage has, and are held no more as they were",
                verified.damaged_pages,
                verified.damaged_chunks,
                self.node.cluster.id()
            );
            report.failures.push(failure(FailureKind::Damaged, words));
        }
        if let Some(unkept) = brought.unkept.as_ref().filter(|_| brings) {
            report.failures.push(failure(FailureKind::NotKept, unkept.to_string()));
        }
        brought.skipped
    }

    fn fail(&self, at: usize, split: &Split, row_group: Option<RowGroup>, error: ReadError) {
        // Whoever stopped the job knows that it did.
        if self.errand.is_stopped() {
            return;
        }
        let error = match self.node.locate(&split.path) {
            Ok(path) => redeem::failed(&self.node, &path, error),
            Err(error) => error,
        };
        let mut failure = failure(&split.path, &error);
        let is_whole = matches!(
            failure.kind,
            FailureKind::NotFound | FailureKind::Denied | FailureKind::Changed
        );
        if is_whole && !self.failed.lock().insert(at) {
            return;
        }
        failure.row_group = row_group.map(|row_group| row_group.0).filter(|_| !is_whole);
        tracing::debug!(path = split.path, error = failure.error, "a part of a job failed");
        self.report.lock().failures.push(failure);
    }

    fn count(&self) {
        let report = self.report.lock();
        let outcome = if report.failures.is_empty() { "done" } else { "failed" };
        metrics::counter!("jetbridge_job_tasks_total", "outcome" => outcome).increment(1);
        metrics::counter!("jetbridge_job_row_groups_total").increment(report.counts.row_groups_done);
        metrics::counter!("jetbridge_job_held_bytes_total").increment(report.counts.bytes_done);
    }
}

fn to_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
