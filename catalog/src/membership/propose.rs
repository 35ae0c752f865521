//! When the placement document is to change, and to what.
//!
//! Every node comes to the same answer once it has seen the same facts. So that they do not all write at once, each
//! waits its turn: an order of the living drawn from their ids and the epoch, a tenth of a second for each place, so
//! that somebody else writes when the first is slow to.

use std::time::Duration;

use super::node::Node;
use super::view::Status;
use super::{Document, Membership, Time};
use crate::placement::{FileKey, NodeId, Seat, Seats};

/// How long each node waits for the one before it in the order.
const TURN: Duration = Duration::from_millis(100);

/// The longest that a node waits for those before it.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// A document to be put by compare-and-set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// What to put.
    pub document: Document,
    /// The revision that the store's document must have; `None` when there must be none.
    pub expect: Option<u64>,
    /// Nodes that lose their seats because their leases are gone. Whoever puts the document must read their
    /// `alive/<id>` right before, and not put it when one of them is there: a watch may be late.
    pub gone: Vec<NodeId>,
}

/// What the seats should be.
struct Wanted {
    seats: Seats,
    gone: Vec<NodeId>,
}

impl Membership {
    /// The document that should be put now, if any. The answer stays the same until an event changes it, so a
    /// driver asks after each event and tick, and again only when the put has been answered.
    pub fn proposal(&mut self, now: Duration) -> Option<Proposal> {
        self.pass(now);
        if self.away || self.now < self.quiet_until {
            return None;
        }
        if !self.is_wanted() {
            self.wanted_since = None;
            return None;
        }
        let since = *self.wanted_since.get_or_insert(self.now);
        if self.now < since + self.turn() {
            return None;
        }
        let wanted = self.wanted()?;
        let document = self.document.next(wanted.seats);
        Some(Proposal {
            document,
            expect: self.stored.map(|(revision, _)| revision),
            gone: wanted.gone,
        })
    }

    /// When a proposal may be due, if nothing happens before.
    pub(super) fn wakes_to_propose(&self) -> Option<Time> {
        if self.away {
            return None;
        }
        let turn = self.wanted_since.map(|since| since + self.turn());
        let times = [turn, Some(self.quiet_until), self.gathered()];
        times.into_iter().flatten().filter(|time| *time > self.now).min()
    }

    /// Whether anything is to change. Cheap: it is asked far more often than the answer is yes.
    fn is_wanted(&self) -> bool {
        let changes = |seat: &Seat| {
            let node = self.nodes.get(&seat.id);
            node.is_some_and(|node| self.has_ended(node) || self.reweighed(seat, node).is_some())
        };
        self.is_behind()
            || self.document.placement.taken().any(|(_, seat)| changes(seat))
            || self.gathered().is_some_and(|time| time <= self.now)
    }

    /// Whether the store knows less than this node: it lost its data, and is told again.
    fn is_behind(&self) -> bool {
        self.document.epoch > self.stored.map_or(0, |(_, epoch)| epoch)
    }

    fn has_ended(&self, node: &Node) -> bool {
        node.seat_ends(&self.settings).is_some_and(|end| end <= self.now)
    }

    fn wanted(&self) -> Option<Wanted> {
        let mut wanted = Wanted {
            seats: self.document.placement.clone(),
            gone: Vec::new(),
        };
        let before = wanted.seats.clone();
        let mut weights = Vec::new();
        for (_, seat) in before.taken() {
            let Some(node) = self.nodes.get(&seat.id) else { continue };
            if self.has_ended(node) {
                wanted.seats.leave(&seat.id);
                if node.alive.is_none() {
                    wanted.gone.push(seat.id.clone());
                }
            } else {
                weights.extend(self.reweighed(seat, node));
            }
        }
        let joining = self.joining();
        for seat in weights.into_iter().chain(joining) {
            // Beyond the limit a worker goes without a seat; it still serves what it is asked for.
            let _ = wanted.seats.join(seat);
        }
        (self.is_behind() || wanted.seats != before).then_some(wanted)
    }

    /// The seat with its node's new weight, once that is steady.
    fn reweighed(&self, seat: &Seat, node: &Node) -> Option<Seat> {
        let weight = node.record.as_ref()?.weight;
        let steady = node.seat_begins(&self.settings)? <= self.now && (seat.id != self.id || self.is_alone());
        (steady && weight != seat.weight).then(|| Seat {
            id: seat.id.clone(),
            weight,
        })
    }

    /// The newcomers, if it is time for them: once the first of them has settled and no other is about to, or the
    /// first has waited long enough.
    fn joining(&self) -> Vec<Seat> {
        if self.gathered().is_none_or(|time| time > self.now) {
            return Vec::new();
        }
        let settled = self.newcomers().filter(|(_, _, begins)| *begins <= self.now);
        // A process that was just started knows nothing of how its node has flapped; the others do, once there are any seats.
        let may_seat_itself = self.is_alone() || self.document.placement.is_empty();
        let settled = settled.filter(|(id, _, _)| **id != self.id || may_seat_itself);
        let seat = |(id, node, _): (&NodeId, &Node, Time)| {
            let weight = node.record.as_ref()?.weight;
            Some(Seat { id: id.clone(), weight })
        };
        settled.filter_map(seat).collect()
    }

    /// Whether no other node is alive.
    fn is_alone(&self) -> bool {
        !self
            .nodes
            .iter()
            .any(|(id, node)| *id != self.id && node.alive.is_some())
    }

    /// When the newcomers of now get their seats.
    fn gathered(&self) -> Option<Time> {
        let first = self.newcomers().map(|(_, _, begins)| begins).min()?;
        let limit = first + self.settings.gathering;
        let steady = self.newcomers().filter(|(_, node, _)| !node.is_flapping());
        let last = steady.map(|(_, _, begins)| begins).max().unwrap_or(first);
        Some(last.max(first).min(limit))
    }

    /// Workers that serve and have no seat, with the time at which they have settled.
    fn newcomers(&self) -> impl Iterator<Item = (&NodeId, &Node, Time)> {
        let seats: std::collections::HashSet<&NodeId> =
            self.document.placement.taken().map(|(_, seat)| &seat.id).collect();
        let without = self.nodes.iter().filter(move |(id, _)| !seats.contains(id));
        without.filter_map(|(id, node)| Some((id, node, node.seat_begins(&self.settings)?)))
    }

    /// How long this node leaves it to others to propose.
    fn turn(&self) -> Duration {
        let epoch = u32::try_from(self.document.epoch & u64::from(u32::MAX)).unwrap_or(0);
        let draw = |id: &NodeId| FileKey::of_text(id.as_str()).split(epoch);
        let mine = draw(&self.id);
        let alive = self.nodes.iter().filter(|(_, node)| {
            node.alive.is_some() && matches!(node.status(self.now), Status::Serving | Status::Suspect)
        });
        let before = alive.filter(|(id, _)| draw(id) < mine).count();
        TURN.saturating_mul(u32::try_from(before).unwrap_or(u32::MAX))
            .min(MAX_WAIT)
    }
}
