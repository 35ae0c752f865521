//! How far jobs are: sums over their tasks, of what the workers say that they hold.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use super::{Board, Standing, Task, to_u64};
use crate::jobs::record::{Failure, FailureKind, MAX_LISTED_FAILURES, Progress, VerifiedCount, WorkerShare};
use crate::jobs::task::Counts;

/// How far back the rate looks.
const RATE_WINDOW: Duration = Duration::from_secs(10);

impl<P> Board<P> {
    /// How far a job is. `state_of` says how a worker stands.
    pub fn progress(&mut self, now: Duration, job: &str, state_of: impl Fn(&str) -> &'static str) -> Progress {
        let Some(turn) = self.jobs.get(job) else {
            return Progress::default();
        };
        let mut progress = Progress {
            listing: turn.listing,
            files: u64::from(turn.files),
            retries: turn.retries,
            ..Progress::default()
        };
        let tasks = turn.tasks.iter().filter_map(|id| self.tasks.get(id));
        let sums = Sums::of(tasks, turn.terms.decodes, &mut progress);
        let found = &turn.terms.found;
        let before = found.failures.iter().chain(&turn.unplanned).cloned();
        let failures: Vec<Failure> = before.chain(sums.failures).collect();
        progress.failures_total = to_u64(failures.len());
        let files_of = |is_meant: fn(&Failure) -> bool| {
            let meant = failures.iter().filter(|failure| is_meant(failure));
            let files: HashSet<&str> = meant.map(|failure| failure.path.as_str()).collect();
            to_u64(files.len())
        };
        progress.verified = turn.terms.verifies.then(|| VerifiedCount {
            changed: files_of(|failure| failure.kind == FailureKind::Changed),
            damaged: sums.verified.damaged + found.damaged,
            ..sums.verified
        });
        let failed = files_of(Failure::is_of_file);
        progress.files_done = progress
            .files
            .saturating_sub(to_u64(sums.unfinished.len()).saturating_add(failed));
        progress.failures = failures.into_iter().take(MAX_LISTED_FAILURES).collect();
        let mut spent = turn.terms.spent;
        for (first, last) in turn.spent.values() {
            spent.fetched_bytes += last.fetched_bytes.saturating_sub(first.fetched_bytes);
            spent.peer_bytes += last.peer_bytes.saturating_sub(first.peer_bytes);
        }
        (progress.fetched_bytes, progress.peer_bytes) = (spent.fetched_bytes, spent.peer_bytes);
        progress.waiting = waiting(&sums.waiting, &state_of);
        for mut share in sums.workers.into_values() {
            state_of(&share.id).clone_into(&mut share.state);
            if is_away(&share.state) {
                // What it had in hand it has no more.
                share.tasks_running = 0;
            }
            progress.workers.push(share);
        }
        self.time(now, job, &mut progress);
        progress
    }

    /// Fills in the rate and the time that is left.
    fn time(&mut self, now: Duration, job: &str, progress: &mut Progress) {
        let Some(turn) = self.jobs.get_mut(job) else { return };
        // What is done becomes less where a worker began anew, and a rate is never negative.
        if turn
            .samples
            .back()
            .is_some_and(|(_, bytes)| *bytes > progress.bytes_done)
        {
            turn.samples.clear();
        }
        turn.samples.push_back((now, progress.bytes_done));
        while turn.samples.len() > 2 && turn.samples[1].0 + RATE_WINDOW < now {
            turn.samples.pop_front();
        }
        let (Some((since, before)), left) = (turn.samples.front(), progress.bytes.saturating_sub(progress.bytes_done))
        else {
            return;
        };
        let seconds = now.saturating_sub(*since).as_secs_f64();
        if seconds > 0.0 {
            progress.rate_bytes_per_s = jetbridge_cache::gauge(progress.bytes_done - before) / seconds;
        }
        if progress.rate_bytes_per_s > 0.0 && !progress.listing {
            progress.eta_s = Some(jetbridge_cache::gauge(left) / progress.rate_bytes_per_s);
        }
    }
}

/// What all tasks of a round come to.
#[derive(Default)]
struct Sums {
    workers: BTreeMap<String, WorkerShare>,
    failures: Vec<Failure>,
    verified: VerifiedCount,
    /// Numbers of files of which something is still to be done.
    unfinished: HashSet<u32>,
    /// Tasks that wait for each worker.
    waiting: BTreeMap<String, u64>,
}

impl Sums {
    fn of<'a, P: 'a>(tasks: impl Iterator<Item = &'a Task<P>>, decodes: bool, progress: &mut Progress) -> Self {
        let mut sums = Self::default();
        // By file: in how many tasks it is, and in how many of these it was left alone.
        let mut skips: HashMap<u32, (u32, u32)> = HashMap::new();
        for task in tasks {
            sums.add(task, decodes, progress);
            let first = task.copies.first().and_then(Option::as_ref);
            for (at, file) in (0u32..).zip(&task.plan.files) {
                let skip = skips.entry(*file).or_default();
                skip.0 += 1;
                skip.1 += u32::from(first.is_some_and(|report| report.skipped_files.contains(&at)));
            }
        }
        progress.files_skipped = to_u64(skips.values().filter(|(tasks, skipped)| tasks == skipped).count());
        sums
    }

    fn add<P>(&mut self, task: &Task<P>, decodes: bool, progress: &mut Progress) {
        if task.standing != Standing::Done {
            self.unfinished.extend(&task.plan.files);
        }
        for (copy, worker) in task.plan.workers.iter().enumerate() {
            let done = task.copies.get(copy).and_then(Option::as_ref);
            let report = done.or_else(|| (copy == task.at).then_some(&task.report));
            let counts = report.map(|report| report.counts).unwrap_or_default();
            let share = self
                .workers
                .entry(worker.clone())
                .or_insert_with(|| WorkerShare::of(worker));
            // What was planned is an estimate; what a task found when it was done is not.
            let (row_groups, bytes, decoded_bytes) = match done {
                Some(_) => (
                    counts.row_groups.max(task.plan.row_groups),
                    if counts.row_groups < task.plan.row_groups {
                        task.plan.bytes
                    } else {
                        counts.bytes
                    },
                    if counts.row_groups < task.plan.row_groups {
                        task.plan.decoded_bytes
                    } else {
                        counts.decoded_bytes
                    },
                ),
                None => (task.plan.row_groups, task.plan.bytes, task.plan.decoded_bytes),
            };
            progress.row_groups += row_groups;
            progress.row_groups_done += counts.row_groups_done;
            progress.bytes += bytes;
            progress.bytes_done += counts.bytes_done.min(bytes);
            if decodes {
                progress.decoded_bytes += decoded_bytes;
                progress.decoded_bytes_done += counts.decoded_bytes_done;
            }
            share.row_groups += row_groups;
            share.row_groups_done += counts.row_groups_done;
            share.bytes += bytes;
            share.bytes_done += counts.bytes_done.min(bytes);
            share.verified_row_groups += counts.verified_row_groups;
            share.verified_bytes += counts.verified_bytes;
            share.damaged += counts.damaged;
            share.tasks_done += u64::from(done.is_some());
            if done.is_none() && copy == task.at {
                share.tasks_running += u64::from(task.standing == Standing::InHand);
                if matches!(task.standing, Standing::Queued | Standing::InHand) {
                    *self.waiting.entry(worker.clone()).or_default() += 1;
                }
            }
            self.verify(&counts);
        }
        self.failures.extend(task.failures().cloned());
    }

    fn verify(&mut self, counts: &Counts) {
        self.verified.row_groups += counts.verified_row_groups;
        self.verified.bytes += counts.verified_bytes;
        self.verified.damaged += counts.damaged;
    }
}

impl WorkerShare {
    fn of(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            state: String::new(),
            row_groups: 0,
            row_groups_done: 0,
            bytes: 0,
            bytes_done: 0,
            verified_row_groups: 0,
            verified_bytes: 0,
            damaged: 0,
            tasks_running: 0,
            tasks_done: 0,
        }
    }
}

/// In words, what cannot go on.
fn waiting(tasks: &BTreeMap<String, u64>, state_of: impl Fn(&str) -> &'static str) -> Option<String> {
    let away = tasks.iter().filter(|(worker, _)| is_away(state_of(worker)));
    let words: Vec<String> = away
        .map(|(worker, tasks)| format!("{tasks} tasks for the worker {worker}, which is {}", state_of(worker)))
        .collect();
    (!words.is_empty()).then(|| words.join("; "))
}

/// Whether a worker that stands so takes no tasks.
fn is_away(state: &str) -> bool {
    !matches!(state, "serving" | "suspect")
}
