//! Nodes with the real membership machine around a model of the store, in virtual time.
//!
//! Each node sees the store's changes in order, some time after they were made; a node cut off sees none, cannot
//! write, and its lease lapses. Clocks of nodes begin anywhere.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use jetbridge_catalog::membership::{
    Attempt, Document, DuplicateNode, Event, JoinStep, Joining, Listing, Member, Membership, Readiness, Role, Settings,
    Standing, View,
};
use jetbridge_catalog::placement::{FileKey, NodeId, SplitLoad};

use crate::random::Random;

/// The step of virtual time.
pub(crate) const STEP: Duration = Duration::from_millis(250);

/// How long a node cut off goes on before it holds the store for away.
const SILENCE: Duration = Duration::from_secs(4);

/// How often leases are renewed.
const RENEWAL: Duration = Duration::from_secs(2);

/// A change of the store.
#[derive(Debug, Clone)]
struct Change {
    at: Duration,
    event: Event,
}

/// The model of the store: what it holds, its leases, and all its changes.
#[derive(Debug, Default)]
pub(crate) struct Store {
    members: BTreeMap<NodeId, Member>,
    /// The generation of each holder and when its lease lapses.
    alive: BTreeMap<NodeId, (u64, Duration)>,
    pub(crate) document: Option<(Document, u64)>,
    revision: u64,
    changes: VecDeque<Change>,
    first: usize,
    /// Every epoch that was ever put, with the time.
    pub(crate) epochs: Vec<(Duration, u64)>,
    /// Writes that came too late.
    pub(crate) conflicts: u64,
    pub(crate) away: bool,
}

impl Store {
    fn change(&mut self, at: Duration, event: Event) {
        self.revision += 1;
        self.changes.push_back(Change { at, event });
    }

    fn end(&self) -> usize {
        self.first + self.changes.len()
    }

    fn expire(&mut self, now: Duration) {
        let late = self.alive.iter().filter(|(_, (_, until))| *until <= now);
        let late: Vec<NodeId> = late.map(|(id, _)| id.clone()).collect();
        for id in late {
            self.alive.remove(&id);
            self.change(now, Event::Lapsed(id));
        }
    }

    fn listing(&self) -> Listing {
        Listing {
            members: self.members.values().cloned().collect(),
            alive: self
                .alive
                .iter()
                .map(|(id, (generation, _))| (id.clone(), *generation))
                .collect(),
            document: self.document.clone(),
        }
    }
}

/// A node: its process, what it has seen, and how far it is from the store.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) record: Member,
    /// The clock of this node is the world's and this.
    clock: Duration,
    delay: Duration,
    pub(crate) running: bool,
    pub(crate) cut_off: bool,
    cut_since: Option<Duration>,
    joining: Option<(Joining, Duration)>,
    pub(crate) refused: Option<DuplicateNode>,
    pub(crate) membership: Membership,
    seen: usize,
    listed: bool,
    renewed: Duration,
    wake: Duration,
    last_epoch: u64,
}

/// All nodes and the store.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) now: Duration,
    pub(crate) store: Store,
    pub(crate) nodes: Vec<Node>,
    pub(crate) settings: Settings,
    random: Random,
    sample: Vec<SplitLoad>,
    /// The owners that each epoch was seen to mean.
    agreed: BTreeMap<u64, Vec<NodeId>>,
}

impl Cluster {
    pub(crate) fn new(random: Random) -> Self {
        let sample = (0..40).map(|index| SplitLoad {
            file: FileKey(77),
            index,
            bytes: 1 << 20,
        });
        Self {
            now: Duration::ZERO,
            store: Store::default(),
            nodes: Vec::new(),
            settings: Settings::default(),
            random,
            sample: sample.collect(),
            agreed: BTreeMap::new(),
        }
    }

    /// Starts a new worker; gives its number.
    pub(crate) fn start(&mut self) -> usize {
        let number = self.nodes.len();
        let id: NodeId = format!("{:08x}-{number}", self.random.next() >> 32).parse().unwrap();
        let record = Member {
            id: id.clone(),
            generation: 0,
            host: String::new(),
            addresses: vec![format!("grpc://{id}:1")],
            weight: 1 << 40,
            role: Role::Worker,
            state: Readiness::Serving,
            grace_ms: None,
        };
        self.nodes.push(Node {
            record,
            clock: Duration::from_millis(self.random.below(1_200_000)),
            delay: Duration::from_millis(self.random.below(800)),
            running: false,
            cut_off: false,
            cut_since: None,
            joining: None,
            refused: None,
            membership: Membership::new(id, 0, self.settings.clone()),
            seen: 0,
            listed: false,
            renewed: Duration::ZERO,
            wake: Duration::ZERO,
            last_epoch: 0,
        });
        self.restart(number);
        number
    }

    /// Starts a node's process anew.
    pub(crate) fn restart(&mut self, number: usize) {
        let settings = self.settings.clone();
        let lease = settings.lease;
        let node = &mut self.nodes[number];
        node.record.generation += 1;
        node.record.state = Readiness::Serving;
        node.running = true;
        node.listed = false;
        node.last_epoch = 0;
        node.membership = Membership::new(node.record.id.clone(), node.record.generation, settings);
        node.joining = Some((
            Joining::new(node.record.id.clone(), node.record.generation, lease),
            Duration::ZERO,
        ));
    }

    /// Kills a node: its lease lapses later.
    pub(crate) fn kill(&mut self, number: usize) {
        self.nodes[number].running = false;
    }

    /// Says what a node says of itself.
    pub(crate) fn say(&mut self, number: usize, state: Readiness) {
        self.nodes[number].record.state = state;
        self.put_record(number);
    }

    /// Gives its lease back and ends.
    pub(crate) fn stop(&mut self, number: usize) {
        let id = self.nodes[number].record.id.clone();
        if self.store.alive.remove(&id).is_some() {
            self.store.change(self.now, Event::Lapsed(id));
        }
        self.kill(number);
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += STEP;
            if !self.store.away {
                self.store.expire(self.now);
            }
            for number in 0..self.nodes.len() {
                self.step(number);
            }
            self.forget_changes();
        }
    }

    pub(crate) fn views(&mut self) -> Vec<View> {
        let running = self.nodes.iter_mut().filter(|node| node.running);
        running.map(|node| node.membership.view()).collect()
    }

    /// After quiet: every node that runs sees the same of every member, but for since when.
    pub(crate) fn assert_all_agree(&mut self) {
        let mut first: Option<(u64, Vec<_>)> = None;
        for view in self.views() {
            let statuses: Vec<_> = view
                .members
                .values()
                .map(|member| (member.id.clone(), member.status, member.slot))
                .collect();
            let this = (view.epoch(), statuses);
            assert!(
                first.as_ref().is_none_or(|first| *first == this),
                "views differ after quiet"
            );
            first.get_or_insert(this);
        }
        assert!(first.is_some());
    }

    fn step(&mut self, number: usize) {
        let node = &self.nodes[number];
        if !node.running {
            return;
        }
        let unreachable = node.cut_off || self.store.away;
        if unreachable {
            self.silent(number);
            return;
        }
        let silent = self.nodes[number].cut_since.take();
        if silent.is_some_and(|since| self.now - since >= SILENCE) {
            self.nodes[number].listed = false;
        }
        if self.joined(number) {
            self.renew(number);
            self.watch(number);
            self.propose(number);
            self.check(number);
        }
    }

    /// A node that cannot reach the store.
    fn silent(&mut self, number: usize) {
        let now = self.now;
        let node = &mut self.nodes[number];
        let since = *node.cut_since.get_or_insert(now);
        if now - since >= SILENCE && node.listed {
            node.listed = false;
            node.membership.handle(now + node.clock, Event::StoreAway);
        }
        node.membership.tick(now + node.clock);
        let clock = now + node.clock;
        assert!(!node.membership.is_store_away() || node.membership.proposal(clock).is_none());
    }

    fn joined(&mut self, number: usize) -> bool {
        let now = self.now;
        let node = &mut self.nodes[number];
        let Some((joining, at)) = &mut node.joining else {
            return true;
        };
        if *at > now + node.clock {
            return false;
        }
        let id = node.record.id.clone();
        let attempt = match self.store.alive.get(&id) {
            Some((generation, _)) => Attempt::Held {
                generation: *generation,
            },
            None => Attempt::Created,
        };
        match joining.after(now + node.clock, attempt) {
            Ok(JoinStep::Joined) => {
                node.joining = None;
                self.put_alive(number);
                self.put_record(number);
            }
            Ok(JoinStep::TryAgain { at: next }) => *at = next,
            Err(error) => {
                node.refused = Some(error);
                node.running = false;
            }
        }
        false
    }

    fn put_alive(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        node.renewed = self.now;
        let (id, generation) = (node.record.id.clone(), node.record.generation);
        self.store
            .alive
            .insert(id.clone(), (generation, self.now + self.settings.lease));
        self.store.change(self.now, Event::Alive(id, generation));
    }

    fn put_record(&mut self, number: usize) {
        let record = self.nodes[number].record.clone();
        assert_eq!(Member::decode(&record.encode().unwrap()).unwrap(), record);
        self.store.members.insert(record.id.clone(), record.clone());
        self.store.change(self.now, Event::Member(record));
    }

    fn renew(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        if self.now - node.renewed < RENEWAL {
            return;
        }
        let generation = node.record.generation;
        match self.store.alive.get_mut(&node.record.id) {
            Some((held, until)) if *held == generation => {
                node.renewed = self.now;
                *until = self.now + self.settings.lease;
            }
            Some(_) => {}
            // The watch tells it too; the lease itself is the first to say so.
            None if node.membership.standing() == Standing::Rejoin => {
                self.put_alive(number);
                self.put_record(number);
            }
            None => {}
        }
    }

    fn watch(&mut self, number: usize) {
        let now = self.now;
        let node = &mut self.nodes[number];
        let clock = now + node.clock;
        if !node.listed {
            node.listed = true;
            node.seen = self.store.end();
            node.membership.handle(clock, Event::Listed(self.store.listing()));
            node.wake = Duration::ZERO;
        }
        while let Some(change) = self.store.changes.get(node.seen - self.store.first) {
            if change.at + node.delay > now {
                break;
            }
            node.membership.handle(clock, change.event.clone());
            node.seen += 1;
            node.wake = Duration::ZERO;
        }
        if node.wake <= clock {
            node.wake = node.membership.tick(clock).unwrap_or(Duration::MAX);
        } else {
            return;
        }
        assert!(
            node.membership.standing()
                != Standing::Displaced {
                    generation: node.record.generation
                }
        );
    }

    fn propose(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        let clock = self.now + node.clock;
        let Some(proposal) = node.membership.proposal(clock) else {
            return;
        };
        let found = self.store.document.as_ref().map(|(_, revision)| *revision);
        let is_back = proposal.gone.iter().any(|id| self.store.alive.contains_key(id));
        if found != proposal.expect || is_back {
            self.store.conflicts += 1;
            return;
        }
        let document = Document::decode(&proposal.document.encode().unwrap()).unwrap();
        self.store.epochs.push((self.now, document.epoch));
        let revision = self.store.revision + 1;
        self.store.document = Some((document.clone(), revision));
        self.store.change(self.now, Event::Document(document, revision));
    }

    /// Epochs only grow, and an epoch means the same owners to all.
    fn check(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        let epoch = node.membership.epoch();
        assert!(epoch >= node.last_epoch, "an epoch went back");
        if epoch == node.last_epoch {
            return;
        }
        node.last_epoch = epoch;
        let placement = node.membership.view().placement;
        let owners = placement.assign(&self.sample, 1);
        let name = |owners: &[u32]| owners.first().map(|slot| placement.seat(*slot).unwrap().id.clone());
        let owners: Vec<NodeId> = owners.iter().filter_map(name).collect();
        let agreed = self.agreed.entry(epoch).or_insert_with(|| owners.clone());
        assert_eq!(*agreed, owners, "nodes differ about epoch {epoch}");
    }

    fn forget_changes(&mut self) {
        let running = self.nodes.iter().filter(|node| node.running && node.listed);
        let seen = running.map(|node| node.seen).min().unwrap_or(self.store.end());
        while self.store.first < seen {
            self.store.changes.pop_front();
            self.store.first += 1;
        }
    }
}
