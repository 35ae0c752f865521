//! Membership: who is there, who has a seat, and when that changes. A state machine without I/O, clock or chance.
//!
//! | file | what is in it |
//! |---|---|
//! | `membership/mod.rs` | the machine: what it is told, what it knows |
//! | `membership/record.rs` | what nodes write about themselves, and under which keys |
//! | `membership/document.rs` | the placement document: the seats of an epoch and of a few before it |
//! | `membership/node.rs` | one node: its status, its seat's beginning and end |
//! | `membership/propose.rs` | when the document is to change, and to what |
//! | `membership/view.rs` | what a node knows at one moment, and whom it names for a split |
//! | `membership/join.rs` | one process under an identity at a time |
//!
//! All nodes watch one store. There is no leader: whoever sees that the document should change proposes it by
//! compare-and-set, those who came late see the change and find nothing left to do.
//!
//! States of a node: unknown, serving, suspect, draining, lost. A seat outlives all of them by a grace period, so
//! that a restart moves nothing; it is given up at once when its node says that it leaves. How long the period is
//! stands in the node's own record: were it each watcher's own, the shortest would decide for all.
//!
//! Architecture invariant: times are those of this node's own monotonic clock. No time of another node is stored,
//! sent or compared, so clocks may differ by any amount.
//!
//! Architecture invariant: silence of the store proves nothing. While it is away the last view stays, and when it
//! is back, leases have time to be renewed before a missing one counts.

mod document;
mod join;
mod node;
mod propose;
mod record;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

pub use document::{Document, MAX_PREVIOUS_EPOCHS};
pub use join::{Attempt, DuplicateNode, JoinStep, Joining};
pub use propose::Proposal;
pub use record::{
    ALIVE_PREFIX, MAX_ADDRESSES, MAX_MEMBERS, MAX_RECORD_BYTES, MEMBER_PREFIX, Member, PLACEMENT_KEY, Readiness,
    RecordError, Role,
};
pub use view::{EarlierOwners, MemberView, Status, View};

use crate::placement::{NodeId, Placement};
use node::Node;

/// A time on a node's own monotonic clock, since any fixed start.
type Time = Duration;

/// How long things take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How long a lease lasts that is not renewed; default 6 s. A loss is noticed within it.
    pub lease: Duration,
    /// How long a node counts as suspect after a failed read; default 10 s.
    pub suspicion: Duration,
    /// How long a lost or draining node keeps its seat whose record says nothing of it; default 5 min.
    pub grace: Duration,
    /// How long a node must be steady before it gets a seat; default 1 s. Doubles with each flap after the first.
    pub settling: Duration,
    /// The longest that the settling time grows; default 5 min.
    pub max_settling: Duration,
    /// How long one flap is remembered; default 10 min.
    pub flap_memory: Duration,
    /// How long newcomers that have settled wait for others to do so, to join in one epoch; default 2 s.
    pub gathering: Duration,
    /// How long a lost node without a seat is remembered; default 1 h.
    pub forget: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(6),
            suspicion: Duration::from_secs(10),
            grace: Duration::from_secs(300),
            settling: Duration::from_secs(1),
            max_settling: Duration::from_secs(300),
            flap_memory: Duration::from_secs(600),
            gathering: Duration::from_secs(2),
            forget: Duration::from_secs(3600),
        }
    }
}

/// All that the store holds, as it is at one moment.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// The members' records.
    pub members: Vec<Member>,
    /// Who holds a lease, with the generation that it names.
    pub alive: Vec<(NodeId, u64)>,
    /// The placement document with its revision in the store.
    pub document: Option<(Document, u64)>,
}

/// What the store tells.
#[derive(Debug, Clone)]
pub enum Event {
    /// It was read whole: at the start, and whenever a watch had to begin anew. Ends [`Event::StoreAway`].
    Listed(Listing),
    /// A member's record was put.
    Member(Member),
    /// A member's record was removed.
    MemberRemoved(NodeId),
    /// A key `alive/<id>` was put, with this generation.
    Alive(NodeId, u64),
    /// A key `alive/<id>` is gone.
    Lapsed(NodeId),
    /// The placement document was put, at this revision.
    Document(Document, u64),
    /// The placement document was removed.
    DocumentRemoved,
    /// The store cannot be reached, or its watch has been silent for longer than it may be.
    StoreAway,
}

/// How this node itself stands with the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its lease is there.
    Member,
    /// Its lease is not there: put `alive/<id>` and the record again.
    Rejoin,
    /// Another process took its identity meanwhile, and this one must end.
    Displaced {
        /// The other's generation.
        generation: u64,
    },
}

/// What one node knows of the cluster.
#[derive(Debug)]
pub struct Membership {
    id: NodeId,
    generation: u64,
    settings: Settings,
    now: Time,
    nodes: BTreeMap<NodeId, Node>,
    /// Members that were one too many.
    ignored: u64,
    document: Document,
    placement: Placement,
    earlier: Arc<[Placement]>,
    /// The document's revision in the store, and the epoch that it has there.
    stored: Option<(u64, u64)>,
    away: bool,
    /// Until when a missing lease means nothing.
    quiet_until: Time,
    /// Since when there is something to propose.
    wanted_since: Option<Time>,
    /// What was last told, until something changes.
    view: Option<View>,
}

impl Membership {
    /// A process of this generation, before it has heard from the store.
    #[must_use]
    pub fn new(id: NodeId, generation: u64, settings: Settings) -> Self {
        let placement = Placement::new(0, crate::placement::Seats::default());
        let earlier: Arc<[Placement]> = Arc::new([]);
        Self {
            id,
            generation,
            settings,
            now: Time::ZERO,
            nodes: BTreeMap::new(),
            ignored: 0,
            document: Document::default(),
            placement,
            earlier,
            stored: None,
            away: true,
            quiet_until: Time::ZERO,
            wanted_since: None,
            view: None,
        }
    }

    /// Takes in what the store tells.
    pub fn handle(&mut self, now: Duration, event: Event) {
        self.pass(now);
        let now = self.now;
        match event {
            Event::Listed(listing) => self.listed(listing),
            Event::Member(member) => self.put(member),
            Event::MemberRemoved(id) => {
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.remove_record(now);
                }
            }
            Event::Alive(id, generation) => self.appeared(id, generation),
            Event::Lapsed(id) => self.lapsed(&id),
            Event::Document(document, revision) => self.adopt(document, revision),
            Event::DocumentRemoved => self.stored = None,
            Event::StoreAway => self.away = true,
        }
        self.view = None;
    }

    /// Takes in that a read from a node failed. The node is a suspect for a while, for this node alone.
    pub fn reported_unreachable(&mut self, now: Duration, id: &NodeId) {
        self.pass(now);
        if let Some(node) = self.nodes.get_mut(id) {
            node.suspect(self.now, &self.settings);
            self.view = None;
        }
    }

    /// Lets time pass. Says when to look again at the latest, if nothing happens before.
    pub fn tick(&mut self, now: Duration) -> Option<Duration> {
        self.pass(now);
        let now = self.now;
        for node in self.nodes.values_mut() {
            node.relieve(now);
        }
        let seated: BTreeSet<&NodeId> = self.document.placement.taken().map(|(_, seat)| &seat.id).collect();
        // Whoever removes stale records has had as long again for it.
        let forget = self.settings.forget.saturating_mul(2);
        self.nodes
            .retain(|id, node| seated.contains(id) || !node.is_stale(now, forget));
        self.view = None;
        let nodes = self.nodes.values().flat_map(|node| node.wakes(now, &self.settings));
        let proposal = self.wakes_to_propose();
        nodes.chain(proposal).min()
    }

    /// What is known at the last time that was told.
    #[must_use]
    pub fn view(&mut self) -> View {
        let view = self.view.take().unwrap_or_else(|| self.look());
        self.view = Some(view.clone());
        view
    }

    /// The number of the present epoch; 0 before the first.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.document.epoch
    }

    /// How this node itself stands. Unchanged while the store is away.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match self.nodes.get(&self.id).and_then(|node| node.alive) {
            Some(generation) if generation == self.generation => Standing::Member,
            Some(generation) => Standing::Displaced { generation },
            None => Standing::Rejoin,
        }
    }

    /// Whether the store is away.
    #[must_use]
    pub fn is_store_away(&self) -> bool {
        self.away
    }

    /// How many records were ignored because there are [`MAX_MEMBERS`] members already.
    #[must_use]
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    /// Members without a seat that have been lost for so long that their records should be removed.
    #[must_use]
    pub fn stale(&self) -> Vec<NodeId> {
        if self.away {
            return Vec::new();
        }
        let stale = |node: &Node| node.record.is_some() && node.is_stale(self.now, self.settings.forget);
        let seats = &self.document.placement;
        let found = self
            .nodes
            .iter()
            .filter(|(id, node)| stale(node) && seats.slot_of(id).is_none());
        found.map(|(id, _)| id.clone()).collect()
    }

    /// Time does not go back, whatever is told.
    fn pass(&mut self, now: Time) {
        self.now = self.now.max(now);
    }

    fn listed(&mut self, listing: Listing) {
        if self.away && !self.nodes.is_empty() {
            self.quiet_until = self.now + self.settings.lease;
        }
        self.away = false;
        let records: BTreeSet<NodeId> = listing.members.iter().map(|member| member.id.clone()).collect();
        let alive: BTreeSet<NodeId> = listing.alive.iter().map(|(id, _)| id.clone()).collect();
        for member in listing.members {
            self.put(member);
        }
        for (id, generation) in listing.alive {
            self.appeared(id, generation);
        }
        let known: Vec<NodeId> = self.nodes.keys().cloned().collect();
        for id in known {
            if !alive.contains(&id) {
                self.lapsed(&id);
            }
            // A store that lost its data gets the records again, as it gets the leases.
            if !records.contains(&id)
                && self.now >= self.quiet_until
                && let Some(node) = self.nodes.get_mut(&id)
                && node.record.is_some()
            {
                node.remove_record(self.now);
            }
        }
        match listing.document {
            Some((document, revision)) => self.adopt(document, revision),
            None => self.stored = None,
        }
    }

    fn put(&mut self, member: Member) {
        let now = self.now;
        let id = member.id.clone();
        let settings = self.settings.clone();
        if let Some(node) = self.node(id) {
            node.put(now, member, &settings);
        }
    }

    fn appeared(&mut self, id: NodeId, generation: u64) {
        let now = self.now;
        let settings = self.settings.clone();
        if let Some(node) = self.node(id) {
            node.appear(now, generation, &settings);
        }
    }

    fn lapsed(&mut self, id: &NodeId) {
        let from = self.now.max(self.quiet_until);
        if let Some(node) = self.nodes.get_mut(id) {
            node.lapse(self.now, from, &self.settings);
        }
    }

    fn node(&mut self, id: NodeId) -> Option<&mut Node> {
        let now = self.now;
        if self.nodes.len() >= MAX_MEMBERS && !self.nodes.contains_key(&id) {
            self.ignored += 1;
            return None;
        }
        Some(self.nodes.entry(id).or_insert_with(|| Node::new(now)))
    }

    /// Takes a document for the present one, if it is no older than what is known.
    fn adopt(&mut self, document: Document, revision: u64) {
        self.stored = Some((revision, document.epoch));
        if document.epoch > self.document.epoch || self.document.epoch == 0 || self.is_other(&document) {
            self.placement = Placement::new(document.epoch, document.placement.clone());
            self.earlier = document.earlier().into();
            self.document = document;
            self.wanted_since = None;
        }
        let seats = self.document.placement.clone();
        for (_, seat) in seats.taken() {
            // Who has a seat and never was heard of is away from now on.
            self.node(seat.id.clone());
        }
    }

    /// A store that lost its data may hold another document of the same epoch: what it holds is what others see.
    fn is_other(&self, document: &Document) -> bool {
        document.epoch == self.document.epoch && document.placement != self.document.placement
    }

    fn look(&self) -> View {
        let now = self.now;
        let slots: BTreeMap<&NodeId, u32> = self
            .document
            .placement
            .taken()
            .map(|(slot, seat)| (&seat.id, slot))
            .collect();
        let seen = |(id, node): (&NodeId, &Node)| {
            let view = MemberView {
                id: id.clone(),
                status: node.status(now),
                since: node.since(now),
                slot: slots.get(id).copied(),
                record: node.record.clone(),
            };
            (id.clone(), view)
        };
        let members = Arc::new(self.nodes.iter().map(seen).collect());
        View {
            placement: self.placement.clone(),
            earlier: self.earlier.clone(),
            members,
        }
    }
}

#[cfg(test)]
mod tests;
