//! Whose turn it is among jobs that load at once on one worker.
//!
//! A number of slots, and for each job a queue of those that wait for one. A slot that becomes free goes to the job that has
//! had least, by its weight; within a job, first come, first served. So an urgent job that comes late does not wait behind
//! all that a leisurely one has asked for.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// The slots. Clones are the same ones.
#[derive(Debug, Clone)]
pub(super) struct Turns(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    free: usize,
    jobs: BTreeMap<String, Queue>,
    /// What the job had that was given a slot last: where newcomers begin.
    floor: u64,
}

#[derive(Debug)]
struct Queue {
    weight: u64,
    /// What it has had, by its weight.
    had: u64,
    waiting: VecDeque<(u64, oneshot::Sender<Turn>)>,
    /// Slots that it has now.
    taken: usize,
}

/// A slot, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Turns,
    job: String,
}

impl Turns {
    /// So many slots.
    pub(super) fn new(slots: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            free: slots,
            jobs: BTreeMap::new(),
            floor: 0,
        })))
    }

    /// Waits for a slot, for something that costs so many bytes.
    pub(super) async fn take(&self, job: &str, weight: u64, bytes: u64) -> Turn {
        let (give, given) = oneshot::channel();
        {
            let mut state = self.0.lock();
            let floor = state.floor;
            let queue = state.jobs.entry(job.to_owned()).or_insert_with(|| Queue {
                weight: weight.max(1),
                had: floor,
                waiting: VecDeque::new(),
                taken: 0,
            });
            queue.waiting.push_back((bytes, give));
        }
        self.give();
        match given.await {
            Ok(turn) => turn,
            // Its sender is dropped with the queue, and the queue only when nobody waits in it.
            Err(_) => std::future::pending().await,
        }
    }

    /// Gives free slots to those whose turn it is.
    fn give(&self) {
        while let Some((turn, to)) = self.next() {
            // One that is not wanted any more frees its slot when it is dropped here.
            drop(to.send(turn));
        }
    }

    fn next(&self) -> Option<(Turn, oneshot::Sender<Turn>)> {
        let mut state = self.0.lock();
        if state.free == 0 {
            return None;
        }
        let waiting = state.jobs.iter_mut().filter(|(_, queue)| !queue.waiting.is_empty());
        let (job, queue) = waiting.min_by_key(|(_, queue)| queue.had)?;
        let (bytes, to) = queue.waiting.pop_front()?;
        let (job, had) = (job.clone(), queue.had);
        queue.had = had.saturating_add(bytes.max(1) / queue.weight);
        queue.taken += 1;
        state.floor = state.floor.max(had);
        state.free -= 1;
        let turns = self.clone();
        Some((Turn { turns, job }, to))
    }

    fn release(&self, job: &str) {
        let mut state = self.0.lock();
        state.free += 1;
        let Some(queue) = state.jobs.get_mut(job) else { return };
        queue.taken -= 1;
        queue.waiting.retain(|(_, to)| !to.is_closed());
        if queue.taken == 0 && queue.waiting.is_empty() {
            state.jobs.remove(job);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.release(&self.job);
        self.turns.give();
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;

    use super::*;

    #[tokio::test]
    async fn an_urgent_job_does_not_wait_behind_a_leisurely_one() {
        let turns = Turns::new(2);
        let order = Arc::new(Mutex::new(Vec::new()));
        let wait = |job: &'static str, weight| {
            let (turns, order) = (turns.clone(), Arc::clone(&order));
            tokio::spawn(async move {
                let _turn = turns.take(job, weight, 1 << 20).await;
                order.lock().push(job);
                tokio::task::yield_now().await;
            })
        };
        let mut all: Vec<_> = (0..100).map(|_| wait("low", 1)).collect();
        tokio::task::yield_now().await;
        all.extend((0..100).map(|_| wait("high", 16)));
        for done in join_all(all).await {
            done.unwrap();
        }
        let order = order.lock();
        let late = order.iter().rposition(|job| *job == "high").unwrap();
        assert!(late < 130, "the last urgent one was number {late} of 200");
        let state = turns.0.lock();
        assert_eq!((state.free, state.jobs.len()), (2, 0));
    }

    #[tokio::test]
    async fn one_that_gives_up_takes_no_slot() {
        let turns = Turns::new(1);
        let first = turns.take("a", 1, 1).await;
        let waits = tokio::spawn({
            let turns = turns.clone();
            async move { turns.take("a", 1, 1).await }
        });
        tokio::task::yield_now().await;
        waits.abort();
        let _ = waits.await;
        drop(first);
        let again = turns.take("b", 1, 1).await;
        drop(again);
        assert_eq!(turns.0.lock().free, 1);
    }
}
