//! Who does what next: the scheduler without clock, sockets or store.
//!
//! ```text
//! rounds of tasks --add--> queues by job and worker --pull--> in hand --report--> copy done --> next copy, or done
//!                              ^-- lost, or failed and worth another try --'
//! ```
//! A task is made by each worker in its list in turn: the owner first, then the copies, which so find the owner's bytes
//! when they come. It stays with its workers: one that is away is waited for, until the placement changes and the job is
//! planned anew. Of the jobs that have work for a worker, the one goes next that had least of it, by its weight.
//!
//! What a worker says that it holds is all that counts as done. A process that began anew has lost its memory, so what
//! its predecessor had done is asked of it again; what is on its disk costs it nothing.
//!
//! Why tasks are in hand until their worker tells otherwise, and no time limit: an order of minutes on a slow storage is
//! no failure. A worker that is gone stops pulling, and its tasks are given to its next process.

mod parts;
mod progress;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

pub use self::parts::{Found, JobTerms, NewTask};
use self::parts::{JobTurn, Standing, Task, WorkerTurn};
use super::record::Failure;
use super::task::{Pull, Report, Spent, TaskId};

/// How often a task is tried whose failure may have been a passing one.
const MAX_TRIES: u32 = 5;
/// How long the second try waits; each further one twice as long.
const FIRST_RETRY_DELAY: Duration = Duration::from_millis(500);
/// Tasks of one mount that are in hand at once, on all workers.
const MAX_TASKS_PER_MOUNT: usize = 512;
/// What a task counts at least when turns are given: small ones cost too.
const LEAST_TURN_BYTES: u64 = 1 << 20;

/// All jobs that are being done.
#[derive(Debug)]
pub struct Board<P> {
    jobs: BTreeMap<String, JobTurn>,
    tasks: BTreeMap<TaskId, Task<P>>,
    workers: BTreeMap<String, WorkerTurn>,
    in_hand_of_mount: HashMap<String, usize>,
    next_id: TaskId,
}

impl<P> Default for Board<P> {
    fn default() -> Self {
        Self {
            jobs: BTreeMap::new(),
            tasks: BTreeMap::new(),
            workers: BTreeMap::new(),
            in_hand_of_mount: HashMap::new(),
            next_id: 1,
        }
    }
}

impl<P> Board<P> {
    /// Takes a job in, or begins another round of it. What the round before had of the same tasks is kept; the rest of it is
    /// forgotten when the new round has all its tasks.
    pub fn begin(&mut self, job: &str, terms: JobTerms) {
        let mut turn = JobTurn::new(terms);
        if let Some(before) = self.jobs.remove(job) {
            (turn.spent, turn.retries, turn.samples) = (before.spent, before.retries, before.samples);
            let tasks = before
                .tasks
                .into_iter()
                .filter_map(|id| Some((self.tasks.get(&id)?.plan.identity, id)));
            turn.former = before.former.into_iter().chain(tasks).collect();
            turn.terms.found = before.terms.found;
        }
        self.jobs.insert(job.to_owned(), turn);
    }

    /// Adds tasks to the round that has begun; `files` is how many files it has by now.
    pub fn add(&mut self, job: &str, tasks: Vec<NewTask<P>>, files: u32, failures: Vec<Failure>) {
        let Some(turn) = self.jobs.get_mut(job) else { return };
        turn.files = files;
        turn.unplanned.extend(failures);
        for plan in tasks {
            let known = turn.former.remove(&plan.identity);
            if let Some((id, task)) = known.and_then(|id| Some((id, self.tasks.get_mut(&id)?)))
                && task.failures().all(|failure| turn.terms.is_finding(failure))
            {
                task.plan = plan;
                turn.tasks.insert(id);
                continue;
            }
            known.into_iter().for_each(|id| turn.keep_findings(&self.tasks, id));
            let id = self.next_id;
            self.next_id += 1;
            turn.tasks.insert(id);
            self.tasks.insert(id, Task::new(job, plan));
            enqueue(&mut self.workers, &self.tasks, id);
        }
    }

    /// Says that the round has all its tasks.
    pub fn listed(&mut self, job: &str) {
        let Some(turn) = self.jobs.get_mut(job) else { return };
        turn.listing = false;
        let mut former = std::mem::take(&mut turn.former);
        if turn.terms.verifies {
            // What is being compared is compared to its end, wherever it belongs now: its findings are not found again.
            let in_hand = |id: &TaskId| self.tasks.get(id).is_some_and(|task| task.standing == Standing::InHand);
            turn.tasks.extend(former.values().copied().filter(in_hand));
            former.retain(|_, id| !turn.tasks.contains(id));
        }
        former.values().for_each(|id| turn.keep_findings(&self.tasks, *id));
        let gone = former.into_values().collect();
        self.drop_tasks(&gone);
    }

    /// How many files a job's round has by now.
    pub fn files(&self, job: &str) -> u32 {
        self.jobs.get(job).map_or(0, |turn| turn.files)
    }

    /// Forgets a job; its workers are told to drop what they have in hand when they pull next.
    pub fn end(&mut self, job: &str) {
        if let Some(turn) = self.jobs.remove(job) {
            let gone = turn.tasks.into_iter().chain(turn.former.into_values()).collect();
            self.drop_tasks(&gone);
        }
        for worker in self.workers.values_mut() {
            worker.had.remove(job);
        }
    }

    /// Whether nothing of a job's round is left to do.
    pub fn is_round_over(&self, job: &str) -> bool {
        self.jobs.get(job).is_some_and(|turn| {
            let done = |id: &TaskId| self.tasks.get(id).is_some_and(|task| task.standing == Standing::Done);
            !turn.listing && turn.tasks.iter().all(done)
        })
    }

    /// Takes in what a worker says, and gives it what to do: the numbers of its new tasks, and the jobs that go on, with
    /// their rates.
    pub fn pull(&mut self, now: Duration, pull: &Pull) -> (Vec<TaskId>, BTreeMap<String, Option<u64>>) {
        self.meet(&pull.worker, pull.generation);
        self.hear(now, pull);
        self.wake(now);
        let mut given = Vec::new();
        while given.len() < pull.room
            && let Some(id) = self.next_for(&pull.worker)
        {
            self.hand_out(&pull.worker, id);
            given.push(id);
        }
        for id in self.firsts_for(&pull.worker) {
            self.hand_out(&pull.worker, id);
            given.push(id);
        }
        let rate = |job: &String| self.rate_of(job);
        let jobs = self.jobs.keys().map(|job| (job.clone(), rate(job))).collect();
        (given, jobs)
    }

    /// Takes back tasks that a pull was given and that it was not told of: they are the first in their queues, in their
    /// order, and were not tried.
    pub fn take_back(&mut self, given: &[TaskId]) {
        for &id in given.iter().rev() {
            if self.tasks.get(&id).is_none_or(|task| task.standing != Standing::InHand) {
                continue;
            }
            self.release(id);
            if let Some(task) = self.tasks.get_mut(&id) {
                task.standing = Standing::Queued;
                queue_of(&mut self.workers, task).push_front(id);
            }
        }
    }

    /// What it takes to give an order, and its job.
    pub fn payload(&self, id: TaskId) -> Option<(&str, &P)> {
        let task = self.tasks.get(&id)?;
        Some((&task.job, &task.plan.payload))
    }

    /// Gives a task up that cannot be ordered.
    pub fn refuse(&mut self, now: Duration, id: TaskId, failure: Failure) {
        let report = Report {
            id,
            done: true,
            failures: vec![failure],
            ..Report::default()
        };
        self.take(now, &report);
    }

    /// The files that failed, each once.
    pub fn failed_files(&self, job: &str) -> u64 {
        let Some(turn) = self.jobs.get(job) else { return 0 };
        let tasks = turn.tasks.iter().filter_map(|id| self.tasks.get(id));
        let failures = tasks.flat_map(Task::failures);
        let files: HashSet<&str> = failures
            .chain(&turn.terms.found.failures)
            .chain(&turn.unplanned)
            .filter(|failure| failure.is_of_file())
            .map(|failure| failure.path.as_str())
            .collect();
        to_u64(files.len())
    }

    /// Knows a worker, and whether it began anew.
    fn meet(&mut self, worker: &str, generation: u64) {
        let known = self.workers.entry(worker.to_owned()).or_default();
        if known.generation == generation {
            return;
        }
        let is_new = std::mem::replace(&mut known.generation, generation) == 0;
        if is_new {
            return;
        }
        let lost: Vec<TaskId> = self
            .tasks
            .iter()
            .filter(|(_, task)| task.is_of(worker))
            .map(|(id, _)| *id)
            .collect();
        for id in lost {
            self.lose(worker, id);
        }
    }

    /// What the worker had of a task is to be made again.
    fn lose(&mut self, worker: &str, id: TaskId) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        if task.standing == Standing::InHand && task.worker() == worker {
            self.put_back(id);
            return;
        }
        let Some(copy) = task.plan.workers.iter().position(|of| of == worker) else {
            return;
        };
        let was_done = task.copies.get_mut(copy).and_then(Option::take).is_some();
        if was_done && task.standing == Standing::Done {
            task.begin_copy(copy);
            enqueue(&mut self.workers, &self.tasks, id);
        }
    }

    /// Takes in the reports of a worker, and finds what it has lost.
    fn hear(&mut self, now: Duration, pull: &Pull) {
        for (job, spent) in &pull.spent {
            if let Some(turn) = self.jobs.get_mut(job) {
                let resumed = turn.terms.spent != Spent::default();
                let of_process = (pull.worker.clone(), pull.generation);
                let first = if resumed { *spent } else { Spent::default() };
                turn.spent.entry(of_process).or_insert((first, *spent)).1 = *spent;
            }
        }
        let told: HashSet<TaskId> = pull.reports.iter().map(|report| report.id).collect();
        for report in &pull.reports {
            let in_hand = self
                .workers
                .get(&pull.worker)
                .is_some_and(|worker| worker.in_hand.contains(&report.id));
            if in_hand {
                self.take(now, report);
            }
        }
        // An order that it does not know never reached it.
        let in_hand = self.workers.get(&pull.worker).map(|worker| &worker.in_hand);
        let lost: Vec<TaskId> = in_hand
            .into_iter()
            .flatten()
            .filter(|id| !told.contains(id))
            .copied()
            .collect();
        for id in lost {
            self.put_back(id);
        }
    }

    /// Takes in how far a task is.
    fn take(&mut self, now: Duration, report: &Report) {
        let Some(task) = self.tasks.get_mut(&report.id) else {
            self.forget_orphan(report);
            return;
        };
        task.report = report.clone();
        if !report.done {
            return;
        }
        self.release(report.id);
        let Some(task) = self.tasks.get_mut(&report.id) else {
            return;
        };
        task.tries += 1;
        for failure in &mut task.report.failures {
            failure.tries = task.tries;
        }
        let may_pass = task.report.failures.iter().any(|failure| failure.kind.is_retryable());
        if may_pass && task.tries < MAX_TRIES {
            let delay = FIRST_RETRY_DELAY * 2u32.pow(task.tries - 1);
            task.standing = Standing::Delayed(now + delay);
            if let Some(turn) = self.jobs.get_mut(&task.job) {
                turn.retries += 1;
            }
            return;
        }
        let at = task.at;
        task.copies[at] = Some(std::mem::take(&mut task.report));
        match task.copies.iter().position(Option::is_none) {
            Some(copy) => {
                task.begin_copy(copy);
                enqueue(&mut self.workers, &self.tasks, report.id);
            }
            None => task.standing = Standing::Done,
        }
    }

    /// A task of an earlier round is over.
    fn forget_orphan(&mut self, report: &Report) {
        if report.done {
            for worker in self.workers.values_mut() {
                worker.in_hand.remove(&report.id);
            }
        }
    }

    /// A task is in nobody's hand any more.
    fn release(&mut self, id: TaskId) {
        let Some(task) = self.tasks.get(&id) else { return };
        if task.standing != Standing::InHand {
            return;
        }
        if let Some(worker) = self.workers.get_mut(task.worker()) {
            worker.in_hand.remove(&id);
        }
        let mount = task.plan.mount.clone();
        self.leave_mount(&mount);
    }

    /// Puts a task that was in hand back to the front of its queue.
    fn put_back(&mut self, id: TaskId) {
        self.release(id);
        let Some(task) = self.tasks.get_mut(&id) else {
            self.workers.values_mut().for_each(|worker| {
                worker.in_hand.remove(&id);
            });
            return;
        };
        task.begin_copy(task.at);
        let queue = queue_of(&mut self.workers, task);
        queue.push_front(id);
    }

    /// Puts the tasks whose delay is over into their queues; whether there were any.
    pub fn wake(&mut self, now: Duration) -> bool {
        let is_due = |task: &Task<P>| matches!(task.standing, Standing::Delayed(until) if until <= now);
        let due: Vec<TaskId> = self
            .tasks
            .iter()
            .filter(|(_, task)| is_due(task))
            .map(|(id, _)| *id)
            .collect();
        for id in &due {
            if let Some(task) = self.tasks.get_mut(id) {
                task.standing = Standing::Queued;
                enqueue(&mut self.workers, &self.tasks, *id);
            }
        }
        !due.is_empty()
    }

    /// A task of each job of which a worker has none in hand, however full its hands are of others: a job that comes later
    /// does not wait for what was given before.
    fn firsts_for(&mut self, worker: &str) -> Vec<TaskId> {
        let Some(turn) = self.workers.get_mut(worker) else {
            return Vec::new();
        };
        let tasks = &self.tasks;
        let job_of = |id: &TaskId| tasks.get(id).map(|task| task.job.clone());
        let busy: HashSet<String> = turn.in_hand.iter().filter_map(job_of).collect();
        let idle = turn.queues.iter_mut().filter(|(job, _)| !busy.contains(*job));
        let firsts = idle.filter_map(|(_, queue)| queue.pop_front()).collect();
        turn.queues.retain(|_, queue| !queue.is_empty());
        firsts
    }

    /// The next task for a worker: of the job that had least of it.
    fn next_for(&mut self, worker: &str) -> Option<TaskId> {
        let turn = self.workers.get(worker)?;
        let may_go = |id: &TaskId| {
            let mount = self.tasks.get(id).map(|task| &task.plan.mount);
            let in_hand = mount.and_then(|mount| self.in_hand_of_mount.get(mount));
            in_hand.is_none_or(|count| *count < MAX_TASKS_PER_MOUNT)
        };
        let ready = turn
            .queues
            .iter()
            .filter_map(|(job, queue)| Some((job, *queue.front()?)));
        let (_, job, id) = ready
            .filter(|(_, id)| may_go(id))
            .map(|(job, id)| (turn.had(job), job, id))
            .min_by_key(|(had, ..)| *had)?;
        let job = job.clone();
        let turn = self.workers.get_mut(worker)?;
        let queue = turn.queues.get_mut(&job)?;
        queue.pop_front();
        if queue.is_empty() {
            turn.queues.remove(&job);
        }
        Some(id)
    }

    fn hand_out(&mut self, worker: &str, id: TaskId) {
        let (Some(task), Some(turn)) = (self.tasks.get_mut(&id), self.workers.get_mut(worker)) else {
            return;
        };
        task.standing = Standing::InHand;
        turn.in_hand.insert(id);
        *self.in_hand_of_mount.entry(task.plan.mount.clone()).or_default() += 1;
        let weight = self.jobs.get(&task.job).map_or(1, |job| job.terms.priority.weight());
        let had = turn.had(&task.job);
        turn.floor = had;
        let cost = task.plan.bytes.max(LEAST_TURN_BYTES) / weight;
        turn.had.insert(task.job.clone(), had.saturating_add(cost));
    }

    /// What each worker that has something to do for a job may ask of storage; and so may whoever plans it, while it is planned.
    pub fn rate_of(&self, job: &str) -> Option<u64> {
        let turn = self.jobs.get(job)?;
        let bandwidth = turn.terms.bandwidth?;
        // What is in hand of an earlier round goes on while the next one is planned.
        let is_of_job = |id: &TaskId| self.tasks.get(id).is_some_and(|task| task.job == job);
        let is_at_work = |worker: &&WorkerTurn| worker.in_hand.iter().any(is_of_job);
        let at_work = self.workers.values().filter(is_at_work).count() + usize::from(turn.listing);
        Some((bandwidth / to_u64(at_work).max(1)).max(1))
    }

    /// Forgets tasks; what is in hand of them goes on and counts no more.
    fn drop_tasks(&mut self, gone: &BTreeSet<TaskId>) {
        for id in gone {
            let in_hand = self.tasks.get(id).filter(|task| task.standing == Standing::InHand);
            if let Some(mount) = in_hand.map(|task| task.plan.mount.clone()) {
                self.leave_mount(&mount);
            }
            self.tasks.remove(id);
        }
        for worker in self.workers.values_mut() {
            worker
                .queues
                .values_mut()
                .for_each(|queue| queue.retain(|id| !gone.contains(id)));
            worker.queues.retain(|_, queue| !queue.is_empty());
        }
    }

    fn leave_mount(&mut self, mount: &str) {
        if let Some(count) = self.in_hand_of_mount.get_mut(mount) {
            *count -= 1;
            if *count == 0 {
                self.in_hand_of_mount.remove(mount);
            }
        }
    }
}

fn queue_of<'a, P>(workers: &'a mut BTreeMap<String, WorkerTurn>, task: &Task<P>) -> &'a mut VecDeque<TaskId> {
    let worker = workers.entry(task.worker().to_owned()).or_default();
    worker.queues.entry(task.job.clone()).or_default()
}

fn enqueue<P>(workers: &mut BTreeMap<String, WorkerTurn>, tasks: &BTreeMap<TaskId, Task<P>>, id: TaskId) {
    if let Some(task) = tasks.get(&id) {
        queue_of(workers, task).push_back(id);
    }
}

fn to_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
