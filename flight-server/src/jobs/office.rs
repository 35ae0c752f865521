//! Who schedules: one coordinator at a time, for as long as it keeps its lease.
//!
//! The holder's term is the revision at which it took the key. A job that a later term has written is not written by an
//! earlier one any more, so a scheduler that was cut off and comes back changes nothing, even before it learns that it was
//! replaced.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jetbridge_catalog::meta::{Expect, LeaseId, MetaError, MetaStore, WatchEvent};
use serde::{Deserialize, Serialize};

use crate::node::Node;

/// The key that the scheduler holds.
pub const SCHEDULER_KEY: &str = "jobs/scheduler";
/// How long the office stays with a scheduler that is not heard of.
const TTL: Duration = Duration::from_secs(5);
/// How often it is heard of.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_millis(1500);

/// Who schedules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// The node.
    pub node: String,
    /// Its generation.
    pub generation: u64,
}

/// The office, held.
#[derive(Debug)]
pub struct Office {
    /// A later one has a higher term.
    pub term: u64,
    store: Arc<dyn MetaStore>,
    lease: LeaseId,
}

impl Office {
    /// Takes the office, if nobody has it, or a process of this node that is dead.
    ///
    /// # Errors
    /// The store's.
    pub async fn take(node: &Node) -> Result<Option<Self>, MetaError> {
        let store = node.cluster.store();
        let seat = Seat {
            node: node.cluster.id().to_owned(),
            generation: node.cluster.generation(),
        };
        let expect = match store.get(SCHEDULER_KEY).await? {
            None => Expect::Absent,
            // Two processes of one data folder cannot live at once, so what an earlier one holds is free.
            Some(entry) if is_of_the_dead(node, &entry.value) => Expect::Revision(entry.revision),
            Some(_) => return Ok(None),
        };
        let lease = store.grant(TTL).await?;
        let value = serde_json::to_vec(&seat).unwrap_or_default();
        match store.put_leased(SCHEDULER_KEY, value, expect, Some(lease)).await {
            Ok(term) => Ok(Some(Self {
                term,
                store: Arc::clone(store),
                lease,
            })),
            Err(MetaError::Conflict { .. }) => {
                // Nothing is bound to it, and it lapses by itself where this fails.
                let _ = store.revoke(lease).await;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Keeps the office, until it is lost.
    pub async fn keep(&self) {
        let mut heard = Instant::now();
        while heard.elapsed() < TTL {
            tokio::time::sleep(KEEP_ALIVE_INTERVAL).await;
            let asked = Instant::now();
            match self.store.keep_alive(self.lease).await {
                Ok(()) => heard = asked,
                Err(MetaError::Lease { .. }) => return,
                Err(error) => tracing::debug!(
                    error = crate::error::chain(&error),
                    "the office of the scheduler was not kept"
                ),
            }
        }
    }

    /// Leaves the office to others.
    pub async fn leave(&self) {
        // Where the store does not answer, the lease lapses by itself.
        let _ = self.store.revoke(self.lease).await;
    }
}

/// Whether the holder that a value names is an earlier process of this node.
fn is_of_the_dead(node: &Node, value: &[u8]) -> bool {
    serde_json::from_slice::<Seat>(value)
        .is_ok_and(|held| held.node == node.cluster.id() && node.cluster.is_predecessor(held.generation))
}

/// Follows who schedules.
pub async fn follow(node: Arc<Node>) {
    let mut watch = node.cluster.store().watch(SCHEDULER_KEY);
    let seat_of = |value: &[u8]| serde_json::from_slice::<Seat>(value).ok();
    loop {
        let seat = match watch.next().await {
            WatchEvent::Reset { entries, .. } => entries.first().and_then(|(_, entry)| seat_of(&entry.value)),
            WatchEvent::Put { entry, .. } => seat_of(&entry.value),
            WatchEvent::Delete { .. } => None,
            // Whoever it was may still be reached, whatever the store does.
            WatchEvent::Away(_) | WatchEvent::Foreign(_) => continue,
        };
        node.jobs.seat.send_replace(seat);
    }
}
