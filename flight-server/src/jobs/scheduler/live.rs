//! One job that is not over.

use std::sync::Arc;
use std::time::Instant;

use jetbridge_cache::page::Errand;
use tokio_util::task::AbortOnDropHandle;

use crate::error::ServiceError;
use crate::jobs::board::{Found, JobTerms};
use crate::jobs::planner::Batch;
use crate::jobs::record::{FailureKind, Job, Progress, State, unix_ms_now};
use crate::jobs::spec::Kind;
use crate::jobs::task::{Spent, Work};

/// How often a plan is tried that storage failed.
const MAX_FAILED_PLANS: u32 = 5;
/// The epoch of a job that could not be planned yet: none that there is.
pub(super) const NOT_PLANNED: u64 = u64::MAX;

/// A job that is not over.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) job: Job,
    pub(super) revision: u64,
    pub(super) is_cancelled: bool,
    pub(super) planning: Option<AbortOnDropHandle<()>>,
    /// What the last planning asks of storage, where the job has a bound on that.
    pub(super) pace: Option<Arc<Errand>>,
    /// The placement that the round was planned under.
    pub(super) epoch: u64,
    pub(super) stale_rounds: u32,
    /// Plans that failed since one did not.
    pub(super) failed_plans: u32,
    pub(super) planned: Instant,
    pub(super) written: Instant,
    pub(super) is_dirty: bool,
}

/// What a round's planning tells.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) job: String,
    pub(super) round: u32,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    Batch(Batch),
    Done(Result<(), ServiceError>),
}

/// Another scheduler has written a job: this one is none any more.
#[derive(Debug)]
pub(super) struct Deposed;

impl Live {
    pub(super) fn begin_run(&mut self, scheduler: &str) {
        let job = &mut self.job;
        job.state = State::Running;
        job.scheduler = Some(scheduler.to_owned());
        job.started_unix_ms = Some(unix_ms_now());
        job.finished_unix_ms = None;
        job.next_run_unix_ms = None;
        job.error = None;
        job.progress = Progress::default();
        self.failed_plans = 0;
        self.stale_rounds = 0;
        self.is_dirty = true;
    }

    /// Whether a plan that failed may do better soon: where nobody owns anything yet, or the storage is away for now.
    pub(super) fn may_plan_again(&mut self, error: &ServiceError) -> bool {
        if matches!(error, ServiceError::Busy { .. }) {
            return true;
        }
        self.failed_plans += 1;
        error.code() == tonic::Code::Unavailable && self.failed_plans < MAX_FAILED_PLANS
    }

    /// What an earlier scheduler wrote down as found, as far as it was listed.
    fn found_before(&self) -> Found {
        let progress = &self.job.progress;
        let is_finding = |kind| match kind {
            FailureKind::Damaged => true,
            FailureKind::Changed => self.job.kind == Kind::Verify,
            _ => false,
        };
        let findings = progress.failures.iter().filter(|failure| is_finding(failure.kind));
        Found {
            failures: findings.cloned().collect(),
            damaged: progress.verified.map_or(0, |verified| verified.damaged),
        }
    }

    pub(super) fn terms(&self) -> JobTerms {
        let (options, progress) = (&self.job.options, &self.job.progress);
        JobTerms {
            priority: options.priority,
            bandwidth: options.bandwidth,
            verifies: options.verify,
            decodes: self.job.kind == Kind::Preload && options.tier.has_decoded() && !options.metadata_only,
            spent: Spent {
                fetched_bytes: progress.fetched_bytes,
                peer_bytes: progress.peer_bytes,
            },
            only_verifies: self.job.kind == Kind::Verify,
            found: self.found_before(),
        }
    }
}

impl Job {
    pub(super) fn finish(&mut self, state: State, term: u64) {
        self.state = state;
        self.term = term;
        self.finished_unix_ms = Some(unix_ms_now());
        self.next_run_unix_ms = None;
        self.age();
        let progress = &mut self.progress;
        progress.listing = false;
        progress.waiting = None;
        progress.eta_s = None;
        if self.elapsed_s > 0.0 {
            progress.rate_bytes_per_s = jetbridge_cache::gauge(progress.bytes_done) / self.elapsed_s;
        }
        for worker in &mut progress.workers {
            worker.tasks_running = 0;
        }
        self.last_run = Some(state);
        self.runs += 1;
    }
}

/// What the tasks of a job are to do.
pub fn work_of(job: &Job) -> Work {
    let options = &job.options;
    let loads = job.kind == Kind::Preload && !options.metadata_only;
    // Later runs are about what is new or changed, unless each is to look at what is held.
    let repeats = options.every.is_some() && job.runs > 0 && !options.verify;
    Work {
        raw: loads && options.tier.has_raw(),
        decoded: loads && options.tier.has_decoded(),
        skip_held: options.skip_if_cached || repeats,
        verify: loads && options.verify,
        footers_only: job.kind == Kind::Preload && options.metadata_only,
    }
}
