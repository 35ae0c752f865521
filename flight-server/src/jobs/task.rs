//! What the scheduler and the workers tell each other: a worker pulls, and says with each pull what it has in hand and
//! how far it is. Nothing rests on a message that arrived once: a pull tells all there is, and so does its answer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::record::Failure;

/// Name of the action by which workers pull.
pub const PULL_ACTION: &str = "peer.tasks";

/// The number of a task; never used twice by one scheduler.
pub type TaskId = u64;

/// What a worker says and asks.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pull {
    /// The worker.
    pub worker: String,
    /// Its generation: a higher one is another process, whose memory is empty.
    pub generation: u64,
    /// How many tasks more it takes.
    pub room: usize,
    /// The tasks that it has in hand, and those it has done since it was last heard.
    pub reports: Vec<Report>,
    /// What it has asked of others for each job, since the process began.
    pub spent: BTreeMap<String, Spent>,
}

impl Pull {
    /// Whether the worker may be kept waiting for its answer while nothing is new: it has nothing in hand, and asks storage
    /// for no job but those that go on. One that does must hear at once that the job is over.
    #[must_use]
    pub fn may_wait(&self, going_on: &BTreeMap<String, Option<u64>>) -> bool {
        self.reports.is_empty() && self.spent.keys().all(|job| going_on.contains_key(job))
    }
}

/// What was asked of others for a job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// Bytes of storage.
    pub fetched_bytes: u64,
    /// Bytes of other nodes.
    pub peer_bytes: u64,
}

/// The answer to a pull.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Orders {
    /// Which scheduler this is: a later one has a higher term.
    pub term: u64,
    /// Tasks to do.
    pub tasks: Vec<Order>,
    /// The jobs that go on, with the bytes a second that this worker may ask of storage for each; what is in hand for
    /// any other job is to be dropped at once.
    pub jobs: BTreeMap<String, Option<u64>>,
}

/// A task to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    /// Its number.
    pub id: TaskId,
    /// Its job.
    pub job: String,
    /// The dataset, for what is said of it.
    pub path: String,
    /// What it is about: a sealed ticket, in base64.
    pub ticket: String,
    /// What to do with that.
    pub work: Work,
    /// The job's share beside others.
    pub weight: u64,
}

/// What to do with row groups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Hold their pages.
    pub raw: bool,
    /// Hold their decoded chunks.
    pub decoded: bool,
    /// Leave alone what is held.
    pub skip_held: bool,
    /// Compare what is held with the storage.
    pub verify: bool,
    /// Bring the footers, and no row group.
    pub footers_only: bool,
}

/// How far a task is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The task.
    pub id: TaskId,
    /// Whether it is over.
    pub done: bool,
    /// What it found and brought until now.
    pub counts: Counts,
    /// Positions, among the files of the task, of those that were held already and left alone.
    pub skipped_files: Vec<u32>,
    /// What failed until now.
    pub failures: Vec<Failure>,
}

/// What was found and brought. Of row groups that were looked at; those that were not yet are in none of the sums.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Row groups that were looked at.
    pub row_groups: u64,
    /// Of these, those that are held as asked.
    pub row_groups_done: u64,
    /// Their stored bytes, of the columns asked for.
    pub bytes: u64,
    /// Of these, those of row groups held as asked.
    pub bytes_done: u64,
    /// Their decoded bytes, where they are to be decoded.
    pub decoded_bytes: u64,
    /// Of these, those held.
    pub decoded_bytes_done: u64,
    /// Row groups that were compared with the storage.
    pub verified_row_groups: u64,
    /// Bytes that were compared with.
    pub verified_bytes: u64,
    /// Pages and chunks that were found to be wrong.
    pub damaged: u64,
}

impl Counts {
    /// Adds what another count says.
    pub fn add(&mut self, other: &Self) {
        self.row_groups += other.row_groups;
        self.row_groups_done += other.row_groups_done;
        self.bytes += other.bytes;
        self.bytes_done += other.bytes_done;
        self.decoded_bytes += other.decoded_bytes;
        self.decoded_bytes_done += other.decoded_bytes_done;
        self.verified_row_groups += other.verified_row_groups;
        self.verified_bytes += other.verified_bytes;
        self.damaged += other.damaged;
    }
}
