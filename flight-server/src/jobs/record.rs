//! A job as the metadata store keeps it and as clients are shown it: one JSON object.
//!
//! States: PENDING (waits for its turn, or for its next run), RUNNING, and the four in which it stays: SUCCEEDED, PARTIAL,
//! FAILED, CANCELLED. Only the scheduler changes a job once it was submitted, and always against the revision that it
//! knows, so that a scheduler which was replaced cannot.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::spec::{JobSpec, Kind};

/// What the keys of jobs begin with, in the metadata store.
pub const JOB_PREFIX: &str = "jobs/job/";
/// What the keys begin with that ask for a job's end.
pub const CANCEL_PREFIX: &str = "jobs/cancel/";
/// What the keys begin with that name the unfinished job of a kind of work.
pub const OPEN_PREFIX: &str = "jobs/open/";

/// Most failures that are listed.
pub const MAX_LISTED_FAILURES: usize = 100;

/// How a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum State {
    /// It waits.
    Pending,
    /// It is being done.
    Running,
    /// All that was asked for is held.
    Succeeded,
    /// It is over, and something could not be done, or was found to be wrong.
    Partial,
    /// It is over, and nothing could be done, or too much failed.
    Failed,
    /// It was ended by request.
    Cancelled,
}

impl State {
    /// Whether it stays as it is.
    #[must_use]
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Pending | Self::Running)
    }

    /// Its name, as users read it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Running => "RUNNING",
            Self::Succeeded => "SUCCEEDED",
            Self::Partial => "PARTIAL",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
        }
    }
}

/// Why something failed, which also says whether it is worth another try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The storage does not have it any more.
    NotFound,
    /// The storage does not let it be read.
    Denied,
    /// It changed while it was loaded.
    Changed,
    /// It is no Parquet file that can be read.
    Corrupt,
    /// What was held was not what the storage has.
    Damaged,
    /// It was loaded and is not held.
    NotKept,
    /// The storage failed it.
    Storage,
    /// There is no room for it.
    Capacity,
    /// A defect of ours.
    Internal,
}

impl FailureKind {
    /// Whether another try may end otherwise.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        self == Self::Storage
    }
}

/// Something that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The file, or the folder, in the namespace.
    pub path: String,
    /// The row group; none where all of the file failed.
    pub row_group: Option<u32>,
    /// Why.
    pub kind: FailureKind,
    /// Why, in words.
    pub error: String,
    /// How often it was tried; 0 for what nobody tried, since there was no room or no worker for it.
    pub tries: u32,
}

impl Failure {
    /// Whether a file failed. What is left out of a job, as much of it as there is, is no failure of files.
    #[must_use]
    pub fn is_of_file(&self) -> bool {
        self.tries > 0
    }
}

/// What was compared with the storage, on all workers together: each copy counts. [`WorkerShare`] has it by worker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedCount {
    /// Row groups of which something was held and compared, times workers that held it.
    pub row_groups: u64,
    /// Bytes of storage that were compared with, once for each copy.
    pub bytes: u64,
    /// Pages and chunks that were not what they should be; they are held no more, or were loaded anew.
    pub damaged: u64,
    /// Files that the storage has another version of.
    pub changed: u64,
}

/// What one worker has to do with a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerShare {
    /// Its id.
    pub id: String,
    /// How it stands in the cluster.
    pub state: String,
    /// Row groups that it is to hold.
    pub row_groups: u64,
    /// Of these, those done.
    pub row_groups_done: u64,
    /// Stored bytes that it is to hold.
    pub bytes: u64,
    /// Of these, those done.
    pub bytes_done: u64,
    /// Of what it held, row groups of which something was compared with the storage.
    #[serde(default)]
    pub verified_row_groups: u64,
    /// Bytes of storage that were compared with.
    #[serde(default)]
    pub verified_bytes: u64,
    /// Pages and chunks of it that were not what they should be.
    #[serde(default)]
    pub damaged: u64,
    /// Tasks that it has in hand.
    pub tasks_running: u64,
    /// Tasks that it has done.
    pub tasks_done: u64,
}

/// How far a job is. All counts are of what the workers say that they hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Whether files are still being listed, so that the totals grow.
    pub listing: bool,
    /// Files.
    pub files: u64,
    /// Files of which all is held that was asked for.
    pub files_done: u64,
    /// Files that were held already, and left alone.
    pub files_skipped: u64,
    /// Row groups, times copies.
    pub row_groups: u64,
    /// Row groups done, times copies.
    pub row_groups_done: u64,
    /// Stored bytes of the columns, times copies.
    pub bytes: u64,
    /// Of these, those held in the tiers asked for.
    pub bytes_done: u64,
    /// What they take decoded, as estimated until it is known, times copies; 0 where nothing is to be decoded.
    pub decoded_bytes: u64,
    /// Of these, those held.
    pub decoded_bytes_done: u64,
    /// Bytes that storage was asked for.
    pub fetched_bytes: u64,
    /// Bytes that came from other nodes.
    pub peer_bytes: u64,
    /// Bytes done a second: of late, or on average once it is over.
    pub rate_bytes_per_s: f64,
    /// Seconds that it will still take, at that rate; none where that is not known.
    pub eta_s: Option<f64>,
    /// Tries beyond the first.
    pub retries: u64,
    /// What failed, the first of it.
    pub failures: Vec<Failure>,
    /// How much failed.
    pub failures_total: u64,
    /// What was compared with the storage; none where nothing was to be.
    pub verified: Option<VerifiedCount>,
    /// The workers' parts.
    pub workers: Vec<WorkerShare>,
    /// What it waits for, in words.
    pub waiting: Option<String>,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its id.
    pub id: String,
    /// What kind of work it is.
    pub kind: Kind,
    /// How it stands.
    pub state: State,
    /// The first of its paths.
    pub path: String,
    /// Its paths, canonical.
    pub paths: Vec<String>,
    /// Its options, every one.
    pub options: JobSpec,
    /// What is the same for jobs that do the same.
    pub key: String,
    /// When it was submitted, in milliseconds since 1970 UTC.
    pub submitted_unix_ms: u64,
    /// When its run began.
    pub started_unix_ms: Option<u64>,
    /// When it ended.
    pub finished_unix_ms: Option<u64>,
    /// How long the run has taken until now, or took.
    pub elapsed_s: f64,
    /// The node that schedules it.
    pub scheduler: Option<String>,
    /// The term of the scheduler that wrote this.
    pub term: u64,
    /// How often it was planned.
    pub round: u32,
    /// Runs that are over.
    pub runs: u64,
    /// What the last of them came to.
    pub last_run: Option<State>,
    /// When the next run begins.
    pub next_run_unix_ms: Option<u64>,
    /// Why it failed, in words.
    pub error: Option<String>,
    /// How far it is.
    #[serde(flatten)]
    pub progress: Progress,
}

impl Job {
    /// A job that nobody has looked at yet.
    #[must_use]
    pub fn new(kind: Kind, paths: Vec<String>, options: JobSpec, key: String) -> Self {
        Self {
            id: uuid::Uuid::now_v7().to_string(),
            kind,
            state: State::Pending,
            path: paths.first().cloned().unwrap_or_default(),
            paths,
            options,
            key,
            submitted_unix_ms: unix_ms_now(),
            started_unix_ms: None,
            finished_unix_ms: None,
            elapsed_s: 0.0,
            scheduler: None,
            term: 0,
            round: 0,
            runs: 0,
            last_run: None,
            next_run_unix_ms: None,
            error: None,
            progress: Progress::default(),
        }
    }

    /// Where the metadata store has it.
    #[must_use]
    pub fn store_key(&self) -> String {
        format!("{JOB_PREFIX}{}", self.id)
    }

    /// The key that names it while it is unfinished.
    #[must_use]
    pub fn open_key(&self) -> String {
        format!("{OPEN_PREFIX}{}", self.key)
    }

    /// Brings the times up to now.
    pub fn age(&mut self) {
        if let Some(started) = self.started_unix_ms {
            let until = self.finished_unix_ms.unwrap_or_else(unix_ms_now);
            self.elapsed_s = Duration::from_millis(until.saturating_sub(started)).as_secs_f64();
        }
    }
}

/// Now, in milliseconds since 1970 UTC.
#[must_use]
pub fn unix_ms_now() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}
