//! Queries that run on this node, those that were cancelled, prepared statements that were closed: what a node knows of
//! statements besides what their tickets and handles say.
//!
//! ```text
//! (ticket handed out) -> running -> over
//!          '--- cancelled ---'         a cancelled one does not begin any more, here
//! ```
//! Statements are their sealed tickets and handles, so a node keeps nothing for one that does not run. What ended by word
//! is remembered, the latest [`REMEMBERED`] of each sort, on the nodes that heard it: a query's cancellation is told to all
//! nodes, the closing of a prepared statement to none. So a closed handle is refused where it was closed, and elsewhere works
//! until it expires; it holds nothing there.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::error::ServiceError;
use crate::ticket::StatementId;

/// Name of the action by which nodes tell each other that queries are cancelled.
pub const CANCEL_QUERIES_ACTION: &str = "peer.cancel_queries";

/// How many cancelled queries, and how many closed statements, a node remembers.
const REMEMBERED: usize = 16 * 1024;

/// What a node knows of statements.
#[derive(Debug, Default)]
pub struct Statements {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// A ticket may be redeemed more than once, so a query may run more than once.
    running: HashMap<StatementId, (CancellationToken, usize)>,
    cancelled: Remembered,
    closed: Remembered,
}

impl Statements {
    /// A query begins; it runs until what this gives is dropped.
    ///
    /// # Errors
    /// CANCELLED where it was cancelled before.
    pub fn begin(self: &Arc<Self>, id: StatementId) -> Result<Running, ServiceError> {
        let mut known = self.known.lock();
        if known.cancelled.contains(id) {
            return Err(ServiceError::Cancelled {
                what: "the query".to_owned(),
            });
        }
        let (token, count) = known.running.entry(id).or_default();
        *count += 1;
        Ok(Running {
            statements: Arc::clone(self),
            token: token.clone(),
            id,
        })
    }

    /// Ends the runs of a query, and lets none begin; says whether it ran here.
    pub fn cancel(&self, id: StatementId) -> bool {
        let mut known = self.known.lock();
        known.cancelled.add(id);
        let running = known.running.get(&id);
        running.map(|(token, _)| token.cancel()).is_some()
    }

    /// How many queries run.
    pub fn running(&self) -> usize {
        self.known.lock().running.values().map(|(_, count)| count).sum()
    }

    /// A prepared statement is not used any more.
    pub fn close(&self, id: StatementId) {
        self.known.lock().closed.add(id);
    }

    /// Whether a prepared statement was closed here.
    pub fn is_closed(&self, id: StatementId) -> bool {
        self.known.lock().closed.contains(id)
    }
}

/// A query that runs.
#[derive(Debug)]
pub struct Running {
    statements: Arc<Statements>,
    token: CancellationToken,
    id: StatementId,
}

impl Running {
    /// Cancelled when the query is.
    #[must_use]
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut known = self.statements.known.lock();
        if let Some((_, count)) = known.running.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                known.running.remove(&self.id);
            }
        }
    }
}

/// The latest ids of a sort.
#[derive(Debug, Default)]
struct Remembered {
    ids: HashSet<StatementId>,
    order: VecDeque<StatementId>,
}

impl Remembered {
    fn add(&mut self, id: StatementId) {
        if !self.ids.insert(id) {
            return;
        }
        self.order.push_back(id);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }

    fn contains(&self, id: StatementId) -> bool {
        self.ids.contains(&id)
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn a_cancelled_query_ends_and_does_not_begin_again() {
        let (statements, id) = (Arc::<Statements>::default(), StatementId::new());
        let (first, second) = (statements.begin(id).unwrap(), statements.begin(id).unwrap());
        let other = statements.begin(StatementId::new()).unwrap();
        assert_eq!(statements.running(), 3);
        assert!(statements.cancel(id));
        assert!(first.token.is_cancelled() && second.token.is_cancelled());
        assert!(!other.token.is_cancelled());
        assert_eq!(statements.begin(id).unwrap_err().code(), Code::Cancelled);
        drop((first, second));
        assert_eq!(statements.running(), 1);
        assert!(!statements.cancel(id), "it runs no more");
    }

    #[test]
    fn one_run_of_two_that_ends_leaves_the_other_to_be_cancelled() {
        let (statements, id) = (Arc::<Statements>::default(), StatementId::new());
        let first = statements.begin(id).unwrap();
        drop(statements.begin(id).unwrap());
        assert!(statements.cancel(id) && first.token.is_cancelled());
    }

    #[test]
    fn no_more_than_so_many_are_remembered_and_the_oldest_are_forgotten() {
        let statements = Statements::default();
        let ids: Vec<_> = (0..REMEMBERED + 2).map(|_| StatementId::new()).collect();
        ids.iter().for_each(|&id| statements.close(id));
        statements.close(ids[5]);
        assert!(!statements.is_closed(ids[0]) && !statements.is_closed(ids[1]));
        assert!(statements.is_closed(ids[2]) && statements.is_closed(ids[REMEMBERED + 1]));
    }
}
