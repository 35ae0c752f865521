//! Jobs: preload and verify work that outlives whoever asked for it.
//!
//! ```text
//! preload.submit --> metadata store: jobs/job/ID --watch--> scheduler (one coordinator)
//!                          ^-- progress, each second --------- | rounds: planner -> board
//!                                                              v
//!                                         workers: pull tasks, load row groups, report what they hold
//! ```
//! | file | what is in it |
//! |---|---|
//! | `jobs/spec.rs` | what a job is asked to do |
//! | `jobs/record.rs` | a job as it is kept and shown |
//! | `jobs/submit.rs` | submitting, listing, cancelling, watching: from any node |
//! | `jobs/office.rs` | who schedules |
//! | `jobs/scheduler.rs` | the scheduler: rounds, checkpoints, ends |
//! | `jobs/paths.rs`, `jobs/planner.rs`, `jobs/room.rs` | which path is planned when; datasets to tasks; whether they fit |
//! | `jobs/pace.rs`, `jobs/holders.rs` | how fast plans ask storage; who holds what, for verifications |
//! | `jobs/board.rs` | who does what next, without clock or sockets |
//! | `jobs/task.rs` | what scheduler and workers tell each other |
//! | `jobs/work.rs`, `jobs/turns.rs` | a worker's side; whose turn it is there |
//!
//! What users and other nodes see is in `JOBS.md` beside this file.
//!
//! The cache is the checkpoint. A job is planned anew after its scheduler died, after the placement changed, and after
//! files changed under it; what its workers hold already is found there and costs no request, and nothing is counted as
//! done because somebody meant to do it.
//!
//! Why not a list of done splits in the store: it would be true only of a cache that never evicts and of workers that
//! never restart.

pub mod board;
pub mod holders;
pub mod office;
pub mod pace;
mod paths;
pub mod planner;
pub mod record;
pub mod room;
pub mod scheduler;
pub mod spec;
pub mod submit;
pub mod task;
mod turns;
pub mod work;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use self::office::{Office, Seat};
use self::scheduler::Scheduler;
use self::task::{Orders, PULL_ACTION, Pull};
use crate::cluster::Role;
use crate::node::Node;

/// How often a coordinator looks whether the office of the scheduler is free.
const STAND_INTERVAL: Duration = Duration::from_millis(500);

/// What a node knows of jobs.
#[derive(Debug)]
pub struct Jobs {
    /// Who schedules.
    seat: watch::Sender<Option<Seat>>,
    /// The scheduler, where it is this node.
    own: Mutex<Option<Arc<Scheduler>>>,
    /// How long jobs are kept that are over.
    history: Duration,
}

impl Jobs {
    /// A node that knows of no scheduler; jobs that are over are kept for `history`.
    #[must_use]
    pub fn new(history: Duration) -> Self {
        Self {
            seat: watch::Sender::new(None),
            own: Mutex::default(),
            history,
        }
    }

    /// Tells the scheduler what a worker has in hand, and hears what to do.
    ///
    /// # Errors
    /// In words, why it was not reached.
    async fn pull(&self, node: &Node, pull: &Pull) -> Result<Orders, String> {
        let seat = self.seat.borrow().clone().ok_or("nobody schedules now")?;
        if seat.node == node.cluster.id() {
            return self
                .schedule(pull)
                .await
                .ok_or_else(|| "this node is about to schedule".to_owned());
        }
        let body = serde_json::to_value(pull).map_err(|error| error.to_string())?;
        let orders = node.cluster.peers.call(&seat.node, PULL_ACTION, &body).await?;
        serde_json::from_value(orders).map_err(|error| error.to_string())
    }

    /// What the scheduler answers to a worker; none where this node does not schedule, or not yet.
    pub async fn schedule(&self, pull: &Pull) -> Option<Orders> {
        let own = self.own.lock().clone()?;
        own.answer(pull).await
    }
}

/// Takes part in jobs for as long as what it gives is kept: a worker works, a coordinator schedules if nobody else does.
#[must_use]
pub fn start(node: &Arc<Node>) -> Vec<AbortOnDropHandle<()>> {
    let mut tasks = vec![AbortOnDropHandle::new(tokio::spawn(office::follow(Arc::clone(node))))];
    if node.cluster.role() != Role::Coordinator {
        tasks.push(AbortOnDropHandle::new(tokio::spawn(work::work(Arc::clone(node)))));
    }
    if node.cluster.role() != Role::Worker {
        tasks.push(AbortOnDropHandle::new(tokio::spawn(stand(Arc::clone(node)))));
    }
    tasks
}

/// Schedules whenever nobody else does, until this node stops.
async fn stand(node: Arc<Node>) {
    loop {
        match Office::take(&node).await {
            Ok(Some(office)) => {
                tracing::info!(term = office.term, "this node schedules jobs");
                hold(&node, &office).await;
                tracing::info!(term = office.term, "this node does not schedule jobs any more");
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(error = crate::error::chain(&error), "who schedules is not known"),
        }
        tokio::select! {
            () = tokio::time::sleep(STAND_INTERVAL) => {}
            () = node.cluster.ending() => return,
        }
    }
}

async fn hold(node: &Arc<Node>, office: &Office) {
    let scheduler = Arc::new(Scheduler::new(Arc::clone(node), office.term));
    *node.jobs.own.lock() = Some(Arc::clone(&scheduler));
    tokio::select! {
        () = office.keep() => {}
        () = scheduler.run() => {}
        () = node.cluster.ending() => {}
    }
    *node.jobs.own.lock() = None;
    office.leave().await;
}
