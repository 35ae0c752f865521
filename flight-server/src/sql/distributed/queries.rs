//! The queries that have tasks on this node: what each may hold, and whether it still goes on.
//!
//! ```text
//! call of a query -> entered -> (more calls, tasks) -> the last that lasts ends -> stopped -> the last call ends -> forgotten
//! ```
//! The call that brings a task stays open until its query is over, so there is one at least for as long as a query has
//! tasks here, and at its end they are stopped. Calls that take rows are not waited for: two nodes that take rows of each other
//! would wait for one another, each until an operator of the other's comes up for air. What a task holds may be there for longer,
//! see [`super::door`]: so tasks are counted until they are gone.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use datafusion::execution::runtime_env::RuntimeEnv;
use parking_lot::Mutex;

use crate::sql::stop::{Stop, StopOnDrop};

/// Longest id of a query; a longer one is none.
const MAX_ID_BYTES: usize = 64;
/// Tasks that are on this node now.
const TASKS: &str = "jetbridge_sql_tasks";

/// The queries of a node, by id, and their tasks. Clones are one.
#[derive(Clone, Default)]
pub(super) struct Queries {
    known: Arc<Mutex<HashMap<String, Known>>>,
    tasks: Arc<AtomicUsize>,
}

struct Known {
    calls: usize,
    /// Of these, how many last for as long as the query.
    lasting: usize,
    budget: Weak<RuntimeEnv>,
    stop: Stop,
    /// Stops what still runs when it is dropped, with the query at the latest.
    ends: StopOnDrop,
}

/// How long a call of a query lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lasts {
    /// For as long as the query: its head, and what brings a task.
    Query,
    /// For as long as somebody takes rows.
    Rows,
}

impl Known {
    fn new() -> Self {
        let stop = Stop::default();
        Self {
            calls: 0,
            lasting: 0,
            budget: Weak::new(),
            ends: stop.on_drop(),
            stop,
        }
    }

    /// Stops what runs. A query that begins anew, without a node that was lost, does so under the same id: what comes from
    /// now on is not stopped.
    fn end(&mut self) {
        self.stop = Stop::default();
        self.ends = self.stop.on_drop();
    }
}

impl Queries {
    /// A call of a query, which is known from its first one to the end of its last. None for what is no id.
    pub(super) fn enter(&self, id: &str, lasts: Lasts) -> Option<Entered> {
        if id.is_empty() || id.len() > MAX_ID_BYTES {
            return None;
        }
        let mut queries = self.known.lock();
        let known = queries.entry(id.to_owned()).or_insert_with(Known::new);
        known.calls += 1;
        known.lasting += usize::from(lasts == Lasts::Query);
        Some(Entered {
            queries: self.clone(),
            id: id.to_owned(),
            lasts,
        })
    }

    /// The budget and the end of a query; of one that has no call open, some of its own.
    pub(super) fn of(&self, id: &str, budget: impl FnOnce() -> Arc<RuntimeEnv>) -> (Arc<RuntimeEnv>, Stop) {
        // Held to the end: tasks of one query come at once, and are to find one budget.
        let mut queries = self.known.lock();
        let Some(known) = queries.get_mut(id) else {
            return (budget(), Stop::default());
        };
        let budget = known.budget.upgrade().unwrap_or_else(budget);
        known.budget = Arc::downgrade(&budget);
        (budget, known.stop.clone())
    }

    /// One more task, until what is given is dropped.
    pub(super) fn count_task(&self) -> Counted {
        metrics::counter!("jetbridge_sql_tasks_total").increment(1);
        metrics::gauge!(TASKS).increment(1.0);
        self.tasks.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(&self.tasks))
    }

    /// Tasks of which anything is left here.
    pub(super) fn tasks(&self) -> usize {
        self.tasks.load(Ordering::Relaxed)
    }
}

/// A task that is there.
pub(super) struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::gauge!(TASKS).decrement(1.0);
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An open call of a query.
pub(super) struct Entered {
    queries: Queries,
    id: String,
    lasts: Lasts,
}

impl Entered {
    /// Has the query's tasks on this node share a budget that it has here already. Its end is told.
    pub(super) fn with_budget(&self, budget: &Arc<RuntimeEnv>) -> Stop {
        self.queries.of(&self.id, || Arc::clone(budget)).1
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut queries = self.queries.known.lock();
        if let Some(known) = queries.get_mut(&self.id) {
            known.calls -= 1;
            if self.lasts == Lasts::Query {
                known.lasting -= 1;
                if known.lasting == 0 {
                    known.end();
                }
            }
            if known.calls == 0 {
                queries.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_of_one_query_share_a_budget_and_end_with_its_last_call() {
        let queries = Queries::default();
        let enter = || queries.enter("q", Lasts::Query).unwrap();
        let (one, two) = (enter(), enter());
        let (first, stop) = queries.of("q", Arc::default);
        let (second, _) = queries.of("q", Arc::default);
        let (other, _) = queries.of("another", Arc::default);
        assert!(Arc::ptr_eq(&first, &second));
        assert!(!Arc::ptr_eq(&first, &other));
        drop(one);
        assert!(!stop.is_stopped());
        drop(two);
        assert!(stop.is_stopped());
        assert!(queries.known.lock().is_empty());
    }

    #[test]
    fn a_query_that_is_over_is_stopped_though_rows_are_still_taken() {
        let queries = Queries::default();
        let brings = queries.enter("q", Lasts::Query).unwrap();
        let takes = queries.enter("q", Lasts::Rows).unwrap();
        let (_, stop) = queries.of("q", Arc::default);
        drop(brings);
        assert!(stop.is_stopped());
        // It begins anew while a call of before is still there.
        let again = queries.enter("q", Lasts::Query).unwrap();
        let (_, anew) = queries.of("q", Arc::default);
        assert!(!anew.is_stopped());
        drop(takes);
        assert!(!anew.is_stopped());
        drop(again);
        assert!(anew.is_stopped());
        assert!(queries.known.lock().is_empty());
    }

    #[test]
    fn a_task_counts_for_as_long_as_it_is_there() {
        let queries = Queries::default();
        let (one, two) = (queries.count_task(), queries.clone().count_task());
        assert_eq!(queries.tasks(), 2);
        drop((one, two));
        assert_eq!(queries.tasks(), 0);
    }

    #[test]
    fn what_is_no_id_is_not_kept() {
        let queries = Queries::default();
        assert!(
            ["", &"x".repeat(65)]
                .into_iter()
                .all(|id| queries.enter(id, Lasts::Rows).is_none())
        );
        assert!(queries.known.lock().is_empty());
    }
}
