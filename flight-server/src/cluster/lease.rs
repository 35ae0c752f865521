//! The lease that says that this node is alive, and the key that is bound to it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jetbridge_catalog::membership::{ALIVE_PREFIX, Attempt, DuplicateNode, JoinStep, Joining};
use jetbridge_catalog::meta::{Expect, LeaseId, MetaError, MetaStore};
use jetbridge_catalog::placement::NodeId;
use parking_lot::Mutex;

use super::Identity;
use super::follow::NODES_PREFIX;

/// How long a lease lasts that is not kept alive. A loss is noticed within it.
pub(super) const LEASE_TTL: Duration = Duration::from_secs(6);
/// How often it is kept alive.
pub(super) const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);

/// This node's lease; taken again when it was lost.
#[derive(Debug)]
pub(super) struct Lease {
    store: Arc<dyn MetaStore>,
    id: NodeId,
    generation: u64,
    /// The generations whose key is this node's to take over, since their processes are known to be dead.
    predecessors: Vec<u64>,
    held: Mutex<Option<LeaseId>>,
}

/// Why a node is not alive to the others.
#[derive(Debug, thiserror::Error)]
pub(super) enum LeaseError {
    #[error(transparent)]
    Duplicate(#[from] DuplicateNode),
    #[error("the metadata store refuses this node's lease")]
    Store(#[source] MetaError),
}

impl Lease {
    pub(super) fn new(store: Arc<dyn MetaStore>, id: NodeId, identity: &Identity) -> Self {
        Self {
            store,
            id,
            generation: identity.generation,
            predecessors: identity.predecessors.clone(),
            held: Mutex::new(None),
        }
    }

    /// Takes the lease; waits for that of a predecessor to lapse, and while the store is away.
    ///
    /// # Errors
    /// Another living process of this id; a store that answers and refuses.
    pub(super) async fn take(&self) -> Result<(), LeaseError> {
        let started = Instant::now();
        let mut joining = Joining::new(self.id.clone(), self.generation, LEASE_TTL);
        loop {
            let attempt = match self.attempt().await {
                Ok(attempt) => attempt,
                Err(MetaError::Unavailable { .. }) => Attempt::NoAnswer,
                Err(error) => return Err(LeaseError::Store(error)),
            };
            match joining.after(started.elapsed(), attempt)? {
                JoinStep::Joined => return Ok(()),
                JoinStep::TryAgain { at } => tokio::time::sleep(at.saturating_sub(started.elapsed())).await,
            }
        }
    }

    /// Keeps it alive, for as long as this is polled; takes it again when it has lapsed.
    ///
    /// # Errors
    /// As [`Lease::take`].
    pub(super) async fn keep(&self) -> Result<(), LeaseError> {
        let mut ticks = tokio::time::interval(KEEP_ALIVE_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let held = *self.held.lock();
            let kept = match held {
                Some(lease) => self.store.keep_alive(lease).await,
                None => Ok(()),
            };
            match kept {
                Ok(()) => {}
                Err(MetaError::Lease { .. }) => {
                    tracing::warn!("this node's lease has lapsed; it joins again");
                    self.take().await?;
                }
                // The store is away, or is not ours for now: it may come back, and until then nobody misses us.
                Err(error) => tracing::debug!(error = crate::error::chain(&error), "the lease was not kept alive"),
            }
        }
    }

    /// The lease, while this node has one.
    pub(super) fn held(&self) -> Option<LeaseId> {
        *self.held.lock()
    }

    /// Ends it.
    pub(super) async fn end(&self) -> Result<(), MetaError> {
        let held = self.held.lock().take();
        match held {
            Some(lease) => self.store.revoke(lease).await,
            None => Ok(()),
        }
    }

    async fn attempt(&self) -> Result<Attempt, MetaError> {
        let key = format!("{NODES_PREFIX}{ALIVE_PREFIX}{}", self.id);
        let lease = self.store.grant(LEASE_TTL).await?;
        let value = self.generation.to_string().into_bytes();
        match self
            .store
            .put_leased(&key, value.clone(), Expect::Absent, Some(lease))
            .await
        {
            Ok(_) => {
                *self.held.lock() = Some(lease);
                Ok(Attempt::Created)
            }
            Err(MetaError::Conflict { .. }) => {
                let attempt = self.whose(&key, &value, lease).await;
                if !matches!(attempt, Ok(Attempt::Created)) {
                    // Nothing is bound to it; if this fails, it lapses.
                    let _ = self.store.revoke(lease).await;
                }
                attempt
            }
            Err(error) => Err(error),
        }
    }

    /// Whose key it is. That of this process, whose lease it no longer knows, and that of its dead predecessor are bound to the
    /// new lease.
    async fn whose(&self, key: &str, value: &[u8], lease: LeaseId) -> Result<Attempt, MetaError> {
        let Some(entry) = self.store.get(key).await? else {
            return Ok(Attempt::NoAnswer);
        };
        let generation = std::str::from_utf8(&entry.value)
            .ok()
            .and_then(|text| text.parse().ok());
        let is_of_the_dead = generation.is_some_and(|generation| self.predecessors.contains(&generation));
        if entry.value != value && !is_of_the_dead {
            return Ok(Attempt::Held {
                generation: generation.unwrap_or_default(),
            });
        }
        let expect = Expect::Revision(entry.revision);
        self.store.put_leased(key, value.to_vec(), expect, Some(lease)).await?;
        *self.held.lock() = Some(lease);
        Ok(Attempt::Created)
    }
}
