//! How rounds, runs and jobs end, and how they are written down.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jetbridge_catalog::meta::{Expect, MetaError};

use super::live::{Deposed, NOT_PLANNED};
use super::lives::Lives;
use crate::jobs::record::{CANCEL_PREFIX, FailureKind, JOB_PREFIX, Job, State, unix_ms_now};
use crate::jobs::spec::Kind;
use crate::jobs::submit::{decode, encode};

/// How often a running job is written down.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);
/// How often a job is planned anew because files changed under it.
const MAX_STALE_ROUNDS: u32 = 3;
/// Most jobs that are kept though they are over.
const MAX_FINISHED: usize = 10_000;

impl Lives {
    /// All tasks are done: another round, or the end.
    pub(super) async fn finish_round(&mut self, id: &str) -> Result<(), Deposed> {
        self.count(id);
        let scheduler = Arc::clone(&self.scheduler);
        let Some(live) = self.jobs.get_mut(id) else {
            return Ok(());
        };
        let progress = &live.job.progress;
        let is_stale = progress
            .failures
            .iter()
            .any(|failure| failure.kind == FailureKind::Changed);
        if is_stale && live.job.kind == Kind::Preload && live.stale_rounds < MAX_STALE_ROUNDS {
            live.stale_rounds += 1;
            for path in live
                .job
                .paths
                .iter()
                .filter_map(|path| scheduler.node.locate(path).ok())
            {
                scheduler.node.datasets.refresh(&path);
            }
            self.begin_round(id);
            return Ok(());
        }
        let state = match progress.failures.first() {
            None => State::Succeeded,
            Some(first) if progress.row_groups_done == 0 && live.job.kind == Kind::Preload => {
                live.job.error = Some(format!("{}: {}", first.path, first.error));
                State::Failed
            }
            Some(_) => State::Partial,
        };
        self.conclude(id, state).await
    }

    /// A run is over: the job too, unless it repeats.
    pub(super) async fn conclude(&mut self, id: &str, state: State) -> Result<(), Deposed> {
        let interval = self.jobs.get(id).and_then(|live| live.job.options.interval());
        match interval {
            Some(interval) => {
                self.rest(id, state, interval);
                self.checkpoint(id).await
            }
            None => self.end(id, state).await,
        }
    }

    /// The run of a job that repeats is over; the next one comes in its time.
    fn rest(&mut self, id: &str, state: State, interval: Duration) {
        self.count(id);
        self.scheduler.with_board(|board, _| board.end(id));
        self.scheduler.news.notify_waiters();
        let Some(live) = self.jobs.get_mut(id) else { return };
        let now = unix_ms_now();
        let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        let job = &mut live.job;
        tracing::info!(job = %id, run = job.runs, state = state.as_str(), "a run of a job is over");
        job.state = State::Pending;
        job.runs += 1;
        job.last_run = Some(state);
        job.finished_unix_ms = Some(now);
        let next = job.started_unix_ms.unwrap_or(now).saturating_add(interval_ms).max(now);
        job.next_run_unix_ms = Some(next);
        live.is_dirty = true;
    }

    /// Ends a job for good.
    pub(super) async fn end(&mut self, id: &str, state: State) -> Result<(), Deposed> {
        self.count(id);
        self.scheduler.with_board(|board, _| board.end(id));
        self.scheduler.news.notify_waiters();
        let Some(live) = self.jobs.get_mut(id) else {
            return Ok(());
        };
        live.planning = None;
        live.job.finish(state, self.scheduler.term);
        self.settle(id).await
    }

    /// Writes down a job that has ended, and lets go of it. What could not be written stays to be written.
    pub(super) async fn settle(&mut self, id: &str) -> Result<(), Deposed> {
        if !self.write(id).await? {
            return Ok(());
        }
        let Some(live) = self.jobs.remove(id) else {
            return Ok(());
        };
        let job = live.job;
        let state = job.state;
        tracing::info!(job = %id, state = state.as_str(), bytes = job.progress.bytes_done, seconds = job.elapsed_s, "job over");
        metrics::counter!("jetbridge_jobs_finished_total", "state" => state.as_str()).increment(1);
        self.finished.insert(job.id.clone(), job.finished_unix_ms.unwrap_or(0));
        self.release(&job).await;
        Ok(())
    }

    /// Lets the same work be submitted again, and forgets that its end was asked for.
    async fn release(&self, job: &Job) {
        let store = self.scheduler.node.cluster.store();
        let key = job.open_key();
        // A key that stays only costs a look at a job that is over.
        if let Ok(Some(open)) = store.get(&key).await
            && open.value == job.id.as_bytes()
        {
            let _ = store.delete(&key, Expect::Revision(open.revision)).await;
        }
        self.forget_cancel(&job.id).await;
    }

    pub(super) async fn forget_cancel(&self, id: &str) {
        let store = self.scheduler.node.cluster.store();
        let _ = store.delete(&format!("{CANCEL_PREFIX}{id}"), Expect::Any).await;
    }

    /// Writes a job down, if that is due.
    pub(super) async fn checkpoint(&mut self, id: &str) -> Result<(), Deposed> {
        let Some(live) = self.jobs.get(id) else { return Ok(()) };
        let is_due = live.job.state == State::Running && live.written.elapsed() >= CHECKPOINT_INTERVAL;
        if is_due || live.is_dirty {
            self.count(id);
            self.write(id).await?;
        }
        Ok(())
    }

    /// Brings a job's progress up to date.
    fn count(&mut self, id: &str) {
        let scheduler = &self.scheduler;
        let Some(live) = self.jobs.get_mut(id) else { return };
        if live.job.state != State::Running {
            return;
        }
        let waiting = live.job.progress.waiting.take().filter(|_| live.epoch == NOT_PLANNED);
        let progress = scheduler.with_board(|board, now| board.progress(now, id, |worker| scheduler.state_of(worker)));
        if let Some(mut progress) = progress {
            progress.waiting = progress.waiting.or(waiting);
            live.job.progress = progress;
        }
    }

    /// Writes a job down; whether that could be done.
    async fn write(&mut self, id: &str) -> Result<bool, Deposed> {
        let term = self.scheduler.term;
        let store = Arc::clone(self.scheduler.node.cluster.store());
        let Some(live) = self.jobs.get_mut(id) else {
            return Ok(true);
        };
        live.job.age();
        live.job.term = term;
        let (key, Ok(value)) = (live.job.store_key(), encode(&live.job)) else {
            return Ok(true);
        };
        live.written = Instant::now();
        match store.put(&key, value, Expect::Revision(live.revision)).await {
            Ok(revision) => {
                live.revision = revision;
                live.is_dirty = false;
                Ok(true)
            }
            Err(MetaError::Conflict { .. }) => match store.get(&key).await {
                // A write of ours that was not answered was made all the same.
                Ok(Some(entry)) if decode(&entry).is_ok_and(|job| job.term <= term) => {
                    live.revision = entry.revision;
                    live.is_dirty = true;
                    Ok(false)
                }
                Ok(_) => Err(Deposed),
                Err(_) => Ok(false),
            },
            Err(error) => {
                tracing::warn!(
                    job = id,
                    error = crate::error::chain(&error),
                    "how far a job is was not written down"
                );
                live.is_dirty = true;
                Ok(false)
            }
        }
    }

    /// Removes jobs that are over for longer than they are kept, and the oldest where there are too many.
    pub(super) async fn sweep(&mut self) {
        let node = &self.scheduler.node;
        let history_ms = u64::try_from(node.jobs.history.as_millis()).unwrap_or(u64::MAX);
        let before = unix_ms_now().saturating_sub(history_ms);
        let mut by_end: Vec<(u64, String)> = self.finished.iter().map(|(id, end)| (*end, id.clone())).collect();
        by_end.sort();
        let surplus = by_end.len().saturating_sub(MAX_FINISHED);
        for (at, (end, id)) in by_end.into_iter().enumerate() {
            if end >= before && at >= surplus {
                break;
            }
            let key = format!("{JOB_PREFIX}{id}");
            if let Err(error) = node.cluster.store().delete(&key, Expect::Any).await {
                tracing::debug!(
                    error = crate::error::chain(&error),
                    "a job that is over was not removed"
                );
                break;
            }
            self.finished.remove(&id);
        }
    }
}
