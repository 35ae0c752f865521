//! What the board is made of: jobs, tasks and workers, as they stand.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use crate::jobs::record::{Failure, FailureKind};
use crate::jobs::spec::Priority;
use crate::jobs::task::{Report, Spent, TaskId};

/// What a job is to the board.
#[derive(Debug, Clone)]
pub struct JobTerms {
    /// Its share beside others.
    pub priority: Priority,
    /// Bytes a second, of all workers together.
    pub bandwidth: Option<u64>,
    /// Whether what is held is compared with the storage.
    pub verifies: bool,
    /// Whether chunks are to be decoded.
    pub decodes: bool,
    /// Whether nothing is loaded, so that what has changed is a finding and no reason to begin anew.
    pub only_verifies: bool,
    /// What was asked of others by earlier schedulers.
    pub spent: Spent,
    /// What was found by earlier schedulers.
    pub found: Found,
}

/// What was found to be wrong. It belongs to the job and not to a round: what was damaged is gone once it was found, and
/// no later round finds it again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Each finding.
    pub failures: Vec<Failure>,
    /// Pages and chunks that were damaged.
    pub damaged: u64,
}

/// A task as it is planned.
#[derive(Debug)]
pub struct NewTask<P> {
    /// The same for tasks that do the same on the same workers.
    pub identity: u128,
    /// The workers that are to hold it, the owner first; never empty.
    pub workers: Vec<String>,
    /// Numbers of its files within the job, in the order of its ticket.
    pub files: Vec<u32>,
    /// Row groups.
    pub row_groups: u64,
    /// Stored bytes.
    pub bytes: u64,
    /// Decoded bytes, as estimated.
    pub decoded_bytes: u64,
    /// Whose storage it asks.
    pub mount: String,
    /// What it takes to give the order.
    pub payload: P,
}

#[derive(Debug)]
pub(super) struct JobTurn {
    pub(super) terms: JobTerms,
    pub(super) tasks: BTreeSet<TaskId>,
    /// Those of the round before, by their identity, while this one is being planned.
    pub(super) former: HashMap<u128, TaskId>,
    /// Whether more tasks are to come.
    pub(super) listing: bool,
    /// Names of files, by their numbers.
    pub(super) files: u32,
    /// Failures that no task had: of files that could not be planned.
    pub(super) unplanned: Vec<Failure>,
    /// By worker and generation: what it said first, where an earlier scheduler may have counted that, and last.
    pub(super) spent: HashMap<(String, u64), (Spent, Spent)>,
    pub(super) samples: VecDeque<(Duration, u64)>,
    pub(super) retries: u64,
}

#[derive(Debug)]
pub(super) struct Task<P> {
    pub(super) job: String,
    pub(super) plan: NewTask<P>,
    pub(super) standing: Standing,
    /// How often its present copy was tried.
    pub(super) tries: u32,
    /// What each copy came to; none for one that is not made.
    pub(super) copies: Vec<Option<Report>>,
    /// The copy that is being made.
    pub(super) at: usize,
    /// How far that one is.
    pub(super) report: Report,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Queued,
    Delayed(Duration),
    InHand,
    Done,
}

#[derive(Debug, Default)]
pub(super) struct WorkerTurn {
    pub(super) generation: u64,
    pub(super) in_hand: BTreeSet<TaskId>,
    pub(super) queues: BTreeMap<String, VecDeque<TaskId>>,
    /// How much of this worker each job has had, by its weight.
    pub(super) had: HashMap<String, u64>,
    /// What the job had that went last: where newcomers begin.
    pub(super) floor: u64,
}

impl JobTurn {
    pub(super) fn new(terms: JobTerms) -> Self {
        Self {
            terms,
            tasks: BTreeSet::new(),
            former: HashMap::new(),
            listing: true,
            files: 0,
            unplanned: Vec::new(),
            spent: HashMap::new(),
            samples: VecDeque::new(),
            retries: 0,
        }
    }
}

impl JobTerms {
    /// Whether a failure is something that was looked for.
    pub(super) fn is_finding(&self, failure: &Failure) -> bool {
        failure.kind == FailureKind::Damaged || self.only_verifies && failure.kind == FailureKind::Changed
    }
}

impl JobTurn {
    /// Keeps what a task found that is about to be forgotten.
    pub(super) fn keep_findings<P>(&mut self, tasks: &BTreeMap<TaskId, Task<P>>, id: TaskId) {
        let Some(task) = tasks.get(&id) else { return };
        let found: Vec<Failure> = task
            .failures()
            .filter(|failure| self.terms.is_finding(failure))
            .cloned()
            .collect();
        self.terms.found.failures.extend(found);
        let reports = task.copies.iter().flatten();
        self.terms.found.damaged += reports.map(|report| report.counts.damaged).sum::<u64>();
    }
}

impl<P> Task<P> {
    pub(super) fn new(job: &str, plan: NewTask<P>) -> Self {
        Self {
            job: job.to_owned(),
            standing: Standing::Queued,
            tries: 0,
            copies: plan.workers.iter().map(|_| None).collect(),
            at: 0,
            report: Report::default(),
            plan,
        }
    }

    /// The worker that makes the present copy.
    pub(super) fn worker(&self) -> &str {
        self.plan.workers.get(self.at).map_or("", String::as_str)
    }

    pub(super) fn is_of(&self, worker: &str) -> bool {
        self.plan.workers.iter().any(|of| of == worker)
    }

    pub(super) fn begin_copy(&mut self, copy: usize) {
        self.at = copy;
        self.tries = 0;
        self.report = Report::default();
        self.standing = Standing::Queued;
    }

    /// What finally failed.
    pub(super) fn failures(&self) -> impl Iterator<Item = &Failure> {
        self.copies.iter().flatten().flat_map(|report| &report.failures)
    }
}

impl WorkerTurn {
    /// How much of this worker a job has had; a newcomer as much as whoever went last.
    pub(super) fn had(&self, job: &str) -> u64 {
        self.had.get(job).copied().unwrap_or(0).max(self.floor)
    }
}
