//! Joining: one process under an identity at a time.
//!
//! A process joins by putting `alive/<id>`, expecting that there is no such key. A key that is there belongs to a
//! predecessor. If that is dead, its lease lapses within a lease's time and the key goes; if the key is still there
//! after that, the other lives, and the newcomer is refused.

use std::time::Duration;

use crate::placement::NodeId;

/// How a try to put `alive/<id>` ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// The key was put.
    Created,
    /// The key is there, with this generation.
    Held {
        /// The generation of the process that put it.
        generation: u64,
    },
    /// The store did not answer.
    NoAnswer,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinStep {
    /// Go on as a member.
    Joined,
    /// Try again at this time.
    TryAgain {
        /// On the node's own clock.
        at: Duration,
    },
}

/// Another process lives under this node's identity. Give this one another data folder, or end the other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("another process, of generation {generation}, is running as node {id}")]
pub struct DuplicateNode {
    /// The identity of both.
    pub id: NodeId,
    /// The other's generation.
    pub generation: u64,
}

/// A process that is joining.
#[derive(Debug, Clone)]
pub struct Joining {
    id: NodeId,
    generation: u64,
    /// How long a dead predecessor's key can stay: its lease, and a second for the store to notice.
    patience: Duration,
    retry: Duration,
    held_since: Option<Duration>,
}

impl Joining {
    /// A process of this generation, whose cluster's leases last `lease`.
    #[must_use]
    pub fn new(id: NodeId, generation: u64, lease: Duration) -> Self {
        let patience = lease + Duration::from_secs(1);
        Self {
            id,
            generation,
            patience,
            retry: lease / 12,
            held_since: None,
        }
    }

    /// Says what follows from a try that ended now.
    ///
    /// # Errors
    /// [`DuplicateNode`]: the key outlived its lease, so somebody keeps it alive.
    pub fn after(&mut self, now: Duration, attempt: Attempt) -> Result<JoinStep, DuplicateNode> {
        match attempt {
            Attempt::Created => Ok(JoinStep::Joined),
            // An answer was lost: the key is this process's own.
            Attempt::Held { generation } if generation == self.generation => Ok(JoinStep::Joined),
            Attempt::Held { generation } => {
                let since = *self.held_since.get_or_insert(now);
                if now >= since + self.patience {
                    return Err(DuplicateNode {
                        id: self.id.clone(),
                        generation,
                    });
                }
                Ok(JoinStep::TryAgain { at: now + self.retry })
            }
            Attempt::NoAnswer => {
                // What a store does with leases while it is away is not known: count anew.
                self.held_since = None;
                Ok(JoinStep::TryAgain { at: now + self.retry })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(6);

    fn joining() -> Joining {
        Joining::new("a".parse().unwrap(), 7, LEASE)
    }

    #[test]
    fn a_dead_predecessor_is_waited_for() {
        let (mut joining, mut now) = (joining(), Duration::ZERO);
        while now < LEASE {
            let step = joining.after(now, Attempt::Held { generation: 6 }).unwrap();
            let JoinStep::TryAgain { at } = step else {
                panic!("{step:?}")
            };
            assert!(at > now);
            now = at;
        }
        assert_eq!(joining.after(now, Attempt::Created), Ok(JoinStep::Joined));
    }

    #[test]
    fn a_living_one_is_a_duplicate() {
        let mut joining = joining();
        assert!(joining.after(Duration::ZERO, Attempt::Held { generation: 6 }).is_ok());
        assert!(joining.after(Duration::from_secs(3), Attempt::NoAnswer).is_ok());
        assert!(
            joining
                .after(Duration::from_secs(8), Attempt::Held { generation: 6 })
                .is_ok()
        );
        let refused = joining
            .after(Duration::from_secs(15), Attempt::Held { generation: 6 })
            .unwrap_err();
        assert_eq!(refused.generation, 6);
    }

    #[test]
    fn its_own_key_is_no_other() {
        let step = joining().after(Duration::ZERO, Attempt::Held { generation: 7 });
        assert_eq!(step, Ok(JoinStep::Joined));
    }
}
