//! The jobs that are not over: what is heard of them, and what is due.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jetbridge_catalog::meta::WatchEvent;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::Scheduler;
use super::live::{Deposed, Live, NOT_PLANNED, Planned, What, work_of};
use crate::error::ServiceError;
use crate::jobs::board::Board;
use crate::jobs::pace::Pace;
use crate::jobs::planner::{Batch, Payload, Planner};
use crate::jobs::record::{CANCEL_PREFIX, JOB_PREFIX, Job, State, unix_ms_now};
use crate::jobs::submit::decode;
use crate::node::Node;

/// Jobs that are done at once; the others wait.
const MAX_RUNNING: usize = 16;
/// The shortest time between two rounds of a job.
const ROUND_INTERVAL: Duration = Duration::from_secs(1);
/// How often it is looked for jobs that are over for long.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);

/// The jobs that are not over, and what is done about them.
pub(super) struct Lives {
    pub(super) scheduler: Arc<Scheduler>,
    pub(super) planned: mpsc::Sender<Planned>,
    pub(super) jobs: BTreeMap<String, Live>,
    /// Asked to end, before or after the job itself was heard of.
    pub(super) cancels: BTreeSet<String>,
    /// Over, with the time of the end: to be swept.
    pub(super) finished: BTreeMap<String, u64>,
    pub(super) swept: Instant,
}

impl Lives {
    pub(super) fn new(scheduler: Arc<Scheduler>, planned: mpsc::Sender<Planned>) -> Self {
        Self {
            scheduler,
            planned,
            jobs: BTreeMap::new(),
            cancels: BTreeSet::new(),
            finished: BTreeMap::new(),
            swept: Instant::now(),
        }
    }

    pub(super) fn hear_of_jobs(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Reset { entries, .. } => {
                self.scheduler.board.lock().get_or_insert_default();
                for (_, entry) in &entries {
                    self.know(decode(entry), entry.revision);
                }
            }
            WatchEvent::Put { entry, .. } => self.know(decode(&entry), entry.revision),
            WatchEvent::Delete { key, .. } => {
                if let Some(id) = key.strip_prefix(JOB_PREFIX) {
                    self.finished.remove(id);
                }
            }
            WatchEvent::Away(_) | WatchEvent::Foreign(_) => {}
        }
    }

    pub(super) fn hear_of_cancels(&mut self, event: WatchEvent) {
        let mut hear = |key: &str| {
            self.cancels.extend(key.strip_prefix(CANCEL_PREFIX).map(str::to_owned));
        };
        match event {
            WatchEvent::Reset { entries, .. } => entries.iter().for_each(|(key, _)| hear(key)),
            WatchEvent::Put { key, .. } => hear(&key),
            WatchEvent::Delete { .. } | WatchEvent::Away(_) | WatchEvent::Foreign(_) => {}
        }
    }

    /// Takes in what the store has of a job. What this scheduler wrote itself is no news.
    fn know(&mut self, job: Result<Job, ServiceError>, revision: u64) {
        let job = match job {
            Ok(job) => job,
            Err(error) => return tracing::error!(error = crate::error::chain(&error), "a job is left alone"),
        };
        if job.state.is_final() {
            self.finished.insert(job.id, job.finished_unix_ms.unwrap_or(0));
            return;
        }
        // What this scheduler wrote is told to it as well, and later: also of a job that has ended meanwhile.
        if self.finished.contains_key(&job.id) {
            return;
        }
        // A later scheduler has it. This one finds that out at its next write, which is not to be made over that one's.
        if job.term > self.scheduler.term {
            return;
        }
        if let Some(known) = self.jobs.get_mut(&job.id) {
            known.revision = known.revision.max(revision);
            return;
        }
        let id = job.id.clone();
        let was_running = job.state == State::Running;
        let now = Instant::now();
        let live = Live {
            job,
            revision,
            is_cancelled: false,
            planning: None,
            pace: None,
            epoch: 0,
            stale_rounds: 0,
            failed_plans: 0,
            planned: now,
            written: now,
            is_dirty: false,
        };
        self.jobs.insert(id.clone(), live);
        if was_running {
            tracing::info!(job = %id, "job taken over");
            self.begin_round(&id);
        }
    }

    pub(super) fn hear_of_plan(&mut self, planned: Planned) {
        let Some(live) = self.jobs.get_mut(&planned.job) else {
            return;
        };
        if live.job.round != planned.round || live.job.state.is_final() {
            return;
        }
        let id = planned.job;
        match planned.what {
            What::Batch(batch) => {
                self.scheduler.with_board(|board, _| add(board, &id, batch));
            }
            What::Done(Ok(())) => {
                live.planning = None;
                live.failed_plans = 0;
                self.scheduler.with_board(|board, _| board.listed(&id));
            }
            // Nobody owns anything yet, or the storage is away: the same may be planned soon.
            What::Done(Err(error)) if live.may_plan_again(&error) => {
                live.planning = None;
                live.epoch = NOT_PLANNED;
                live.job.progress.waiting = Some(crate::error::chain(&error));
            }
            What::Done(Err(error)) => {
                live.planning = None;
                live.job.error = Some(crate::error::chain(&error));
            }
        }
        self.scheduler.news.notify_waiters();
    }

    /// Does what is due.
    pub(super) async fn look(&mut self) -> Result<(), Deposed> {
        let cancels = std::mem::take(&mut self.cancels);
        for id in cancels {
            match self.jobs.get_mut(&id) {
                Some(live) => live.is_cancelled = true,
                // Of one that is over already, or is about to be heard of.
                None if self.finished.contains_key(&id) => self.forget_cancel(&id).await,
                None => {
                    self.cancels.insert(id);
                }
            }
        }
        if self.scheduler.with_board(|board, now| board.wake(now)).unwrap_or(false) {
            self.scheduler.news.notify_waiters();
        }
        self.begin_some();
        let ids: Vec<String> = self.jobs.keys().cloned().collect();
        for id in ids {
            self.look_at(&id).await?;
        }
        if self.swept.elapsed() >= SWEEP_INTERVAL {
            self.swept = Instant::now();
            self.sweep().await;
        }
        metrics::gauge!("jetbridge_jobs", "state" => "unfinished").set(count(self.jobs.len()));
        metrics::gauge!("jetbridge_jobs", "state" => "running").set(count(self.running()));
        Ok(())
    }

    fn running(&self) -> usize {
        self.jobs
            .values()
            .filter(|live| live.job.state == State::Running)
            .count()
    }

    /// Begins jobs that wait, the most urgent first, as many as may be done at once.
    fn begin_some(&mut self) {
        let free = MAX_RUNNING.saturating_sub(self.running());
        let now = unix_ms_now();
        let is_due = |live: &&Live| {
            live.job.state == State::Pending
                && !live.is_cancelled
                && live.job.next_run_unix_ms.is_none_or(|next| next <= now)
        };
        let mut waiting: Vec<&Live> = self.jobs.values().filter(is_due).collect();
        waiting.sort_by_key(|live| {
            (
                std::cmp::Reverse(live.job.options.priority.weight()),
                live.job.id.clone(),
            )
        });
        let begun: Vec<String> = waiting.iter().take(free).map(|live| live.job.id.clone()).collect();
        for id in begun {
            if let Some(live) = self.jobs.get_mut(&id) {
                live.begin_run(self.scheduler.node.cluster.id());
                self.begin_round(&id);
            }
        }
    }

    /// Plans a job anew, beside everything else.
    pub(super) fn begin_round(&mut self, id: &str) {
        let scheduler = &self.scheduler;
        let Some(live) = self.jobs.get_mut(id) else { return };
        live.job.round += 1;
        live.job.scheduler = Some(scheduler.node.cluster.id().to_owned());
        live.job.term = scheduler.term;
        live.is_dirty = true;
        live.planned = Instant::now();
        live.epoch = scheduler.node.cluster.view().epoch();
        let (terms, pace) = (live.terms(), Pace::of(&live.job.options));
        scheduler.with_board(|board, _| board.begin(id, terms));
        live.pace = pace.errand().cloned();
        let (round, job) = (live.job.round, live.job.clone());
        let (node, planned) = (Arc::clone(&scheduler.node), self.planned.clone());
        let span = tracing::info_span!("job", id = %id, round);
        let plan = async move { plan(&node, &job, pace, &planned).await };
        live.planning = Some(AbortOnDropHandle::new(tokio::spawn(plan.instrument(span))));
        self.share_pace(id);
    }

    /// Leaves a plan of the job's bandwidth what the workers leave of it.
    fn share_pace(&self, id: &str) {
        let pace = self.jobs.get(id).and_then(|live| live.pace.as_ref());
        let rate = self.scheduler.with_board(|board, _| board.rate_of(id)).flatten();
        if let (Some(pace), Some(rate)) = (pace, rate) {
            pace.set_rate(Some(rate));
        }
    }

    async fn look_at(&mut self, id: &str) -> Result<(), Deposed> {
        let Some(live) = self.jobs.get(id) else { return Ok(()) };
        if live.job.state.is_final() {
            return self.settle(id).await;
        }
        if live.is_cancelled {
            return self.end(id, State::Cancelled).await;
        }
        if live.job.state == State::Running {
            if live.job.error.is_some() {
                return self.conclude(id, State::Failed).await;
            }
            self.share_pace(id);
            self.look_at_round(id).await?;
        }
        self.checkpoint(id).await
    }

    async fn look_at_round(&mut self, id: &str) -> Result<(), Deposed> {
        let Some(live) = self.jobs.get(id) else { return Ok(()) };
        let (failed, is_over) = self
            .scheduler
            .with_board(|board, _| (board.failed_files(id), board.is_round_over(id)))
            .unwrap_or_default();
        if let Some(most) = live.job.options.max_failures
            && failed > most
        {
            let error = format!("{failed} files failed, and {most} may");
            return self.fail(id, error).await;
        }
        let is_moved = live.epoch != self.scheduler.node.cluster.view().epoch();
        let may_plan = live.planning.is_none() && live.planned.elapsed() >= ROUND_INTERVAL;
        if is_moved && may_plan {
            self.begin_round(id);
        } else if is_over && !is_moved {
            self.finish_round(id).await?;
        }
        Ok(())
    }

    async fn fail(&mut self, id: &str, error: String) -> Result<(), Deposed> {
        if let Some(live) = self.jobs.get_mut(id) {
            live.job.error = Some(error);
        }
        self.conclude(id, State::Failed).await
    }
}

/// Plans a round, batch by batch.
async fn plan(node: &Node, job: &Job, pace: Pace, out: &mpsc::Sender<Planned>) {
    let tell = |what| {
        out.send(Planned {
            job: job.id.clone(),
            round: job.round,
            what,
        })
    };
    if job.options.every.is_some() && job.runs > 0 {
        for path in job.paths.iter().filter_map(|path| node.locate(path).ok()) {
            node.datasets.refresh(&path);
        }
    }
    let planner = Planner {
        node,
        kind: job.kind,
        spec: &job.options,
        work: work_of(job),
        pace,
    };
    let (batches, mut planned) = mpsc::channel(4);
    let (outcome, ()) = tokio::join!(
        async {
            let outcome = planner.run(&job.paths, &batches).await;
            drop(batches);
            outcome
        },
        async {
            while let Some(batch) = planned.recv().await {
                // Nobody is left to be told where this fails.
                let _ = tell(What::Batch(batch)).await;
            }
        }
    );
    let _ = tell(What::Done(outcome)).await;
}

/// Puts the tasks of a batch on the board, its files numbered after those that are there.
fn add(board: &mut Board<Arc<Payload>>, id: &str, mut batch: Batch) {
    let base = board.files(id);
    for task in &mut batch.tasks {
        task.files.iter_mut().for_each(|file| *file += base);
    }
    board.add(id, batch.tasks, base + batch.files, batch.failures);
}

fn count(jobs: usize) -> f64 {
    jetbridge_cache::gauge(u64::try_from(jobs).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use jetbridge_catalog::meta::{Expect, MetaStore};

    use super::*;
    use crate::cluster::{Places, Role};
    use crate::config::{self, ConfigFlags, Machine};
    use crate::jobs::spec::{JobSpec, Kind, Priority, Tier};
    use crate::jobs::submit::encode;

    /// The term of the scheduler that is looked at.
    const TERM: u64 = 7;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        flags: ConfigFlags,
    }

    /// A scheduler that knows of one job.
    struct Office {
        store: Arc<dyn MetaStore>,
        lives: Lives,
        job: Job,
        _folder: tempfile::TempDir,
    }

    impl Office {
        async fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let words = ["test", "--memory", "64MiB", "--cache-dir", "none", "--data-dir"];
            let words = words.into_iter().chain([folder.path().to_str().unwrap()]);
            let machine = Machine {
                memory_bytes: None,
                cores: 2,
            };
            let flags = Flags::try_parse_from(words).unwrap().flags;
            let settings = config::load(&flags, [], &machine).unwrap().settings;
            let node = Node::open(&settings, Role::All, Places::default()).await.unwrap();
            let store = Arc::clone(node.cluster.store());
            let (planned, _) = mpsc::channel(1);
            let mut lives = Lives::new(Arc::new(Scheduler::new(Arc::new(node), TERM)), planned);
            let job = Job::new(Kind::Preload, vec!["/a".to_owned()], spec(), "same".to_owned());
            let open = job.id.clone().into_bytes();
            store.put(&job.open_key(), open, Expect::Absent).await.unwrap();
            let revision = put(&store, &job).await;
            lives.know(Ok(job.clone()), revision);
            Self {
                store,
                lives,
                job,
                _folder: folder,
            }
        }

        async fn written(&self) -> Job {
            let entry = self.store.get(&self.job.store_key()).await.unwrap().unwrap();
            decode(&entry).unwrap()
        }
    }

    fn spec() -> JobSpec {
        JobSpec {
            columns: None,
            filter: None,
            tier: Tier::default(),
            replicas: None,
            bandwidth: None,
            verify: false,
            metadata_only: false,
            skip_if_cached: false,
            partial_listing: false,
            partial: false,
            priority: Priority::default(),
            max_failures: None,
            every: None,
        }
    }

    async fn put(store: &Arc<dyn MetaStore>, job: &Job) -> u64 {
        let value = encode(job).unwrap();
        store.put(&job.store_key(), value, Expect::Any).await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_job_whose_end_was_not_written_at_once_is_let_go_of_when_it_is() {
        for state in [State::Cancelled, State::Failed] {
            let mut office = Office::new().await;
            let id = office.job.id.clone();
            office.lives.jobs.get_mut(&id).unwrap().is_cancelled = state == State::Cancelled;
            // An earlier write of its own, of which it has not heard: the next one conflicts.
            put(&office.store, &office.job).await;
            office.lives.end(&id, state).await.unwrap();
            assert!(
                office.lives.jobs.contains_key(&id),
                "what was not written was let go of"
            );
            office.lives.look_at(&id).await.unwrap();
            assert!(office.lives.jobs.is_empty(), "{state:?}");
            assert!(office.lives.finished.contains_key(&id));
            let written = office.written().await;
            assert_eq!((written.state, written.runs), (state, 1));
            let open = office.store.get(&office.job.open_key()).await.unwrap();
            assert!(open.is_none(), "the same work cannot be submitted again");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_later_scheduler_wrote_is_not_written_over() {
        let mut office = Office::new().await;
        let id = office.job.id.clone();
        let later = Job {
            term: TERM + 2,
            round: 5,
            ..office.job.clone()
        };
        let revision = put(&office.store, &later).await;
        office.lives.know(Ok(later), revision);
        office.lives.jobs.get_mut(&id).unwrap().is_dirty = true;
        assert!(office.lives.look_at(&id).await.is_err(), "it was not deposed");
        assert_eq!(office.written().await.round, 5);
    }

    #[test]
    fn a_preload_that_verifies_does_so_in_each_run() {
        let skips = |verify, skip_if_cached, runs| {
            let spec = JobSpec {
                verify,
                skip_if_cached,
                every: Some(60.0),
                ..spec()
            };
            let mut job = Job::new(Kind::Preload, vec!["/a".to_owned()], spec, String::new());
            job.runs = runs;
            let work = work_of(&job);
            assert_eq!(work.verify, verify);
            work.skip_held
        };
        assert_eq!([0, 1, 2].map(|runs| skips(true, false, runs)), [false; 3]);
        assert_eq!([0, 1, 2].map(|runs| skips(false, false, runs)), [false, true, true]);
        assert!(skips(true, true, 1), "what is to be skipped by word is skipped");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_job_of_a_later_scheduler_is_not_taken_over() {
        let mut office = Office::new().await;
        let mut later = Job::new(Kind::Preload, vec!["/b".to_owned()], spec(), "other".to_owned());
        (later.term, later.state) = (TERM + 2, State::Running);
        let revision = put(&office.store, &later).await;
        office.lives.know(Ok(later.clone()), revision);
        assert!(!office.lives.jobs.contains_key(&later.id));
    }
}
