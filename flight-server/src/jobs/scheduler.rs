//! The scheduler: takes jobs in, plans them in rounds, gives their tasks to the workers that pull, writes down how far
//! they are, and ends them.
//!
//! A job's round is one plan of it, under one placement. When the placement changes, or files have changed, another round
//! begins; what was in hand goes on meanwhile. A job that an earlier scheduler left RUNNING begins a round as soon as it is
//! read, before any worker is answered, so that no worker lets go of what it has in hand for it.
//!
//! Locks: the board's, never held across an await. All else belongs to the one task of [`Scheduler::run`].

mod ends;
mod live;
mod lives;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::FutureExt;
use jetbridge_catalog::membership::Status;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

pub use self::live::work_of;
use self::lives::Lives;
use super::board::Board;
use super::planner::{self, Payload};
use super::record::{CANCEL_PREFIX, JOB_PREFIX};
use super::task::{Order, Orders, Pull, TaskId};
use crate::node::Node;
use crate::redeem;

/// How often the scheduler looks at its jobs, when nothing calls it.
const TICK: Duration = Duration::from_millis(200);
/// How long a worker that has nothing to do is kept waiting for something.
const HOLD: Duration = Duration::from_secs(5);
/// Bytes of tickets after which an answer to a worker has enough of them, which ask for the rest when they come again. A ticket
/// of many files is as long as a ticket may be, and an answer is one message.
const ORDERED_BYTES: usize = 2 << 20;
/// How long the ticket of a task is valid. It is sealed when the task is given, and opened at once.
const TICKET_TTL: Duration = Duration::from_secs(3600);

/// The scheduler, while it holds the office.
#[derive(Debug)]
pub struct Scheduler {
    node: Arc<Node>,
    term: u64,
    began: Instant,
    board: Mutex<Option<Board<Arc<Payload>>>>,
    /// Told when there may be something for a worker that waits.
    news: Notify,
    /// Told when a worker reported that something is over.
    reported: Notify,
}

impl Scheduler {
    /// A scheduler that knows of no job yet.
    pub fn new(node: Arc<Node>, term: u64) -> Self {
        Self {
            node,
            term,
            began: Instant::now(),
            board: Mutex::new(None),
            news: Notify::new(),
            reported: Notify::new(),
        }
    }

    /// Answers a worker; none while the jobs are not known yet. One that has nothing in hand is kept waiting for a while.
    pub async fn answer(&self, pull: &Pull) -> Option<Orders> {
        let news = self.news.notified();
        let (given, jobs) = self.board.lock().as_mut()?.pull(self.began.elapsed(), pull);
        if pull.reports.iter().any(|report| report.done) {
            self.reported.notify_one();
            // A copy that was waited for may be another worker's to make now.
            self.news.notify_waiters();
        }
        if !given.is_empty() || !pull.may_wait(&jobs) {
            return Some(self.orders(given, jobs));
        }
        // Until there is something, or it is time to hear that the worker is still there. A node that stops keeps nobody waiting:
        // it would stop that much later, and the leases that it keeps for others would lapse.
        tokio::select! {
            _ = tokio::time::timeout(HOLD, news) => {}
            () = self.node.cluster.ending() => return None,
        }
        let (given, jobs) = self.board.lock().as_mut()?.pull(self.began.elapsed(), pull);
        Some(self.orders(given, jobs))
    }

    fn orders(&self, given: Vec<TaskId>, jobs: BTreeMap<String, Option<u64>>) -> Orders {
        let (mut tasks, mut bytes) = (Vec::new(), 0);
        let mut given = given.into_iter();
        while bytes < ORDERED_BYTES
            && let Some(id) = given.next()
        {
            let Some(order) = self.order(id) else { continue };
            bytes += order.ticket.len();
            tasks.push(order);
        }
        self.with_board(|board, _| board.take_back(given.as_slice()));
        Orders {
            term: self.term,
            tasks,
            jobs,
        }
    }

    fn order(&self, id: TaskId) -> Option<Order> {
        let (job, payload) = {
            let board = self.board.lock();
            let (job, payload) = board.as_ref()?.payload(id)?;
            (job.to_owned(), Arc::clone(payload))
        };
        let planned = &payload.planned;
        let expires = self.node.cluster.now() + TICKET_TTL;
        let sealer = redeem::Sealer::new(&self.node, &planned.plan, &planned.scan, expires);
        let holders = self.node.cluster.holders(&planned.plan.view, &payload.run);
        match sealer.seal(&payload.run, holders) {
            Ok(ticket) => Some(Order {
                id,
                job,
                path: planned.scan.path.clone(),
                ticket: BASE64.encode(ticket),
                work: payload.work,
                weight: payload.weight,
            }),
            Err(error) => {
                let failure = planner::failure(&planned.scan.path, &error);
                self.board.lock().as_mut()?.refuse(self.began.elapsed(), id, failure);
                None
            }
        }
    }

    /// Schedules until another scheduler has taken over.
    pub async fn run(self: &Arc<Self>) {
        let store = self.node.cluster.store();
        let mut jobs = store.watch(JOB_PREFIX);
        let mut cancels = store.watch(CANCEL_PREFIX);
        let (planned, mut plans) = mpsc::channel(16);
        let mut live = Lives::new(Arc::clone(self), planned);
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = jobs.next() => {
                    live.hear_of_jobs(event);
                    // All that has come by now is heard before anything is done about it.
                    while let Some(event) = jobs.next().now_or_never() {
                        live.hear_of_jobs(event);
                    }
                }
                event = cancels.next() => live.hear_of_cancels(event),
                Some(planned) = plans.recv() => live.hear_of_plan(planned),
                () = self.reported.notified() => {}
                _ = ticks.tick() => {}
            }
            if live.look().await.is_err() {
                tracing::warn!(term = self.term, "another scheduler has taken over");
                return;
            }
        }
    }

    fn with_board<T>(&self, act: impl FnOnce(&mut Board<Arc<Payload>>, Duration) -> T) -> Option<T> {
        Some(act(self.board.lock().as_mut()?, self.began.elapsed()))
    }

    fn state_of(&self, worker: &str) -> &'static str {
        let view = self.node.cluster.view();
        let status = worker
            .parse()
            .ok()
            .and_then(|id| view.members.get(&id).map(|member| member.status));
        match status {
            Some(Status::Serving) => "serving",
            Some(Status::Suspect) => "suspect",
            Some(Status::Draining) => "draining",
            Some(Status::Lost) => "lost",
            Some(Status::Unknown) | None => "unknown",
        }
    }
}
