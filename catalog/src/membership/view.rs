//! What a node knows of the others at one moment: a value, cheap to share, that answers while it is read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::record::{Member, Role};
use crate::placement::{Assignment, NodeId, Placement, SplitKey, SplitLoad};

/// How a member stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Alive, and it takes reads.
    Serving,
    /// As serving, but this node could not reach it a moment ago.
    Suspect,
    /// Alive, and it takes nothing new.
    Draining,
    /// Its lease has lapsed.
    Lost,
    /// It has a seat or a lease, and no record that says where it is.
    Unknown,
}

/// A member as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberView {
    /// The node.
    pub id: NodeId,
    /// How it stands.
    pub status: Status,
    /// Since when it stands so, on this node's own clock.
    pub since: Duration,
    /// Its slot, when it has a seat.
    pub slot: Option<u32>,
    /// Its record; `None` only when it is [`Status::Unknown`] or was removed.
    pub record: Option<Arc<Member>>,
}

impl MemberView {
    /// Where it is reached, best first.
    #[must_use]
    pub fn addresses(&self) -> &[String] {
        self.record.as_ref().map_or(&[], |record| &record.addresses)
    }

    /// Whether it is a worker.
    #[must_use]
    pub fn is_worker(&self) -> bool {
        self.record.as_ref().is_some_and(|record| record.role == Role::Worker)
    }
}

/// All that a node knows of the cluster. Clones are cheap.
#[derive(Debug, Clone)]
pub struct View {
    /// Who owns what. Without seats before the first epoch; a node then serves what it is asked for itself.
    pub placement: Placement,
    /// The placements of the epochs before, the latest first.
    pub earlier: Arc<[Placement]>,
    /// All members, by id.
    pub members: Arc<BTreeMap<NodeId, MemberView>>,
}

impl View {
    /// The number of the epoch; 0 before the first.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.placement.epoch()
    }

    /// The member in a slot.
    #[must_use]
    pub fn at(&self, slot: u32) -> Option<&MemberView> {
        self.members.get(&self.placement.seat(slot)?.id)
    }

    /// Whom to name for a split, best first, given its owner and replicas: those that serve, in their order, then
    /// the suspects. Who is lost, draining or unknown is left out. Where none of them serves, the next in rank
    /// that does is put first. Empty only when nobody in the placement can be reached.
    #[must_use]
    pub fn locations(&self, owners: &[u32], key: SplitKey) -> Vec<&MemberView> {
        let standing = |status: Status| {
            let members = owners.iter().filter_map(|slot| self.at(*slot));
            members.filter(move |member| member.status == status)
        };
        let mut named: Vec<&MemberView> = standing(Status::Serving).collect();
        if named.is_empty() {
            named.extend(self.next_serving(owners, key));
        }
        named.extend(standing(Status::Suspect));
        if named.is_empty() {
            // Nobody takes new reads: those that are going are better than none.
            named.extend(standing(Status::Draining));
        }
        named
    }

    /// Who owned splits under earlier epochs and may still hold them. `splits` is the whole list of a dataset.
    #[must_use]
    pub fn earlier_owners(&self, splits: &[SplitLoad]) -> EarlierOwners {
        let of = |placement: &Placement| (placement.clone(), placement.assign(splits, 1));
        EarlierOwners {
            epochs: self.earlier.iter().map(of).collect(),
        }
    }

    fn next_serving(&self, owners: &[u32], key: SplitKey) -> Option<&MemberView> {
        let owner = *owners.first()?;
        let others = self.placement.replicas(owner, key, usize::MAX);
        let mut others = others.iter().filter_map(|slot| self.at(*slot));
        others.find(|member| member.status == Status::Serving)
    }
}

/// Who owned the splits of a dataset under earlier epochs.
#[derive(Debug)]
pub struct EarlierOwners {
    epochs: Vec<(Placement, Assignment)>,
}

impl EarlierOwners {
    /// The nodes that owned a split, by its place in the list, the latest first, each once.
    #[must_use]
    pub fn of(&self, split: usize) -> Vec<&NodeId> {
        let mut found: Vec<&NodeId> = Vec::new();
        for (placement, owners) in &self.epochs {
            let seat = owners.owner(split).and_then(|slot| placement.seat(slot));
            if let Some(seat) = seat
                && !found.contains(&&seat.id)
            {
                found.push(&seat.id);
            }
        }
        found
    }
}
