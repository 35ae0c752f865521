//! This node among others: who it is, whom it knows, whom it names, whom it asks.
//!
//! ```text
//! metadata store --watch--> follow --events--> catalog::membership --View--> Cluster --> FlightInfo, tickets, peers
//!        ^------- lease, record, proposals ------|
//! ```
//!
//! | file | what is in it |
//! |---|---|
//! | `cluster/mod.rs` | what a node knows of its cluster, as its other parts ask for it |
//! | `cluster/identity.rs` | the node's id and generation, in the data folder |
//! | `cluster/host.rs` | which machine this is |
//! | `cluster/pass.rs` | what nodes of one cluster know each other by |
//! | `cluster/store.rs` | which metadata store a node has, and whether it is the right one |
//! | `cluster/remote.rs` | the store of another node, over Flight |
//! | `cluster/follow.rs` | joining, staying, and following what the store tells |
//! | `cluster/lease.rs` | the lease that says that this node is alive |
//! | `cluster/seals.rs` | the keys of tickets, shared |
//! | `cluster/peers.rs` | bytes from other nodes |
//! | `cluster/footers.rs` | footers from other nodes, for plans |
//! | `cluster/batches.rs` | many questions to a node in few calls |
//! | `cluster/pace.rs` | which nodes keep plans waiting |
//! | `cluster/hot.rs` | splits that more nodes serve than own |
//! | `cluster/clock.rs` | the time that tickets are dated by |
//!
//! Architecture invariant: a read never waits for the metadata store; it goes by the last view.

mod batches;
pub mod clock;
pub mod follow;
pub mod footers;
pub mod host;
mod hot;
mod identity;
mod lease;
mod pace;
pub mod pass;
pub mod peers;
pub mod remote;
pub mod seals;
pub mod store;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use jetbridge_catalog::membership::{
    Member, MemberView, Readiness, Role as MemberRole, Settings as MembershipSettings, Status, View,
};
use jetbridge_catalog::meta::MetaStore;
use jetbridge_catalog::placement::{NodeId, SplitKey};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use self::clock::{Clock, ClockAnswer};
use self::footers::FooterHolders;
use self::hot::Hot;
pub use self::identity::{Identity, IdentityError};
use self::lease::Lease;
use self::pass::Pass;
use self::peers::{Directory, PeerPool};
use self::store::OpenStore;
use crate::plan::Run;
use crate::ticket::MAX_TICKET_HOLDERS;

/// Nodes that may stand in for an owner and are asked for its bytes as well.
const STAND_INS: usize = 2;
/// How long other nodes are given to stop naming a node before it takes no more connections.
const DRAIN_NOTICE: Duration = Duration::from_millis(500);

/// What a process is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// All there is: it owns data and has the metadata.
    All,
    /// It plans and answers, and owns nothing.
    Coordinator,
    /// It owns data.
    Worker,
}

/// Where a node can be reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// Over the network, `grpc://host:port`; none where the node does not know a name that reaches it.
    pub network: Option<String>,
    /// Over the unix socket of Flight, `grpc+unix:///path`; none where there is none.
    pub unix: Option<String>,
    /// The socket of shared memory, `unix:///path`; none where there is none.
    pub memory: Option<String>,
    /// The machine, as [`host::name_of_this`] names it.
    pub host: String,
}

/// A node that an endpoint names.
#[derive(Debug, Clone)]
pub struct Named {
    /// Its id.
    pub id: String,
    /// Where it is reached.
    pub places: Arc<Places>,
    /// Whether it is on this machine.
    pub is_here: bool,
}

/// This node among others.
#[derive(Debug)]
pub struct Cluster {
    identity: Identity,
    node_id: NodeId,
    role: Role,
    places: Arc<Places>,
    weight_bytes: u64,
    grace: Duration,
    cluster_id: String,
    store: Arc<dyn MetaStore>,
    served: Option<Arc<dyn MetaStore>>,
    lease: Lease,
    sight: Arc<Sight>,
    hot: Hot,
    clock: Clock,
    /// Ends when this node is about to stop: what is open for other nodes without an end, ends then.
    ending: CancellationToken,
    /// Connections to the others.
    pub peers: Arc<PeerPool>,
    /// Whom this node asks for footers.
    pub footers: Arc<FooterHolders>,
    /// What nodes of this cluster know each other by.
    pub pass: Pass,
}

/// The last view, shared with those who only need to find others.
#[derive(Debug)]
struct Sight {
    view: RwLock<View>,
    started: Instant,
    /// Nodes that reads failed on, for the membership to hear of.
    unreachable: Mutex<BTreeSet<NodeId>>,
    /// Told when there are some.
    unreachable_news: Notify,
    is_store_away: watch::Sender<bool>,
}

/// What a node is made of, to be part of a cluster.
#[derive(Debug)]
pub struct Parts {
    /// Who it is.
    pub identity: Identity,
    /// What it is for.
    pub role: Role,
    /// Where it is reached.
    pub places: Places,
    /// What it counts for in placement.
    pub weight_bytes: u64,
    /// How long it keeps its seat once it is lost.
    pub grace: Duration,
    /// Its metadata store.
    pub store: OpenStore,
    /// Its cluster's pass.
    pub pass: Pass,
}

impl Cluster {
    /// A node that has not joined yet: it knows nobody, and serves alone.
    ///
    /// # Errors
    /// An identity that is none.
    pub fn new(parts: Parts) -> Result<Self, jetbridge_catalog::placement::SeatsError> {
        let node_id: NodeId = parts.identity.id.parse()?;
        let sight = Arc::new(Sight {
            view: RwLock::new(follow::nobody(&node_id, parts.identity.generation)),
            started: Instant::now(),
            unreachable: Mutex::default(),
            unreachable_news: Notify::new(),
            is_store_away: watch::Sender::new(false),
        });
        let directory: Arc<dyn Directory> = Arc::clone(&sight) as _;
        let peers = Arc::new(PeerPool::new(parts.identity.id.clone(), parts.pass.clone(), directory));
        Ok(Self {
            footers: Arc::new(FooterHolders::new(&peers, &sight)),
            peers,
            lease: Lease::new(Arc::clone(&parts.store.store), node_id.clone(), &parts.identity),
            node_id,
            identity: parts.identity,
            role: parts.role,
            places: Arc::new(parts.places),
            weight_bytes: parts.weight_bytes,
            grace: parts.grace,
            cluster_id: parts.store.cluster_id,
            store: parts.store.store,
            served: parts.store.served,
            sight,
            hot: Hot::default(),
            clock: Clock::default(),
            ending: CancellationToken::new(),
            pass: parts.pass,
        })
    }

    /// The id of this node.
    pub fn id(&self) -> &str {
        &self.identity.id
    }

    /// Which of the node's lives this is.
    pub fn generation(&self) -> u64 {
        self.identity.generation
    }

    /// Whether this generation of the node is known to be dead.
    pub fn is_predecessor(&self, generation: u64) -> bool {
        self.identity.predecessors.contains(&generation)
    }

    /// What this node is for.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The id of the cluster: tickets of another one are refused.
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// What is known of the cluster now. A request takes one view and uses it to its end.
    pub fn view(&self) -> View {
        self.sight.view.read().clone()
    }

    /// The metadata store, bound to the cluster.
    pub fn store(&self) -> &Arc<dyn MetaStore> {
        &self.store
    }

    /// Where the other nodes are, and who is to hear that one of them does not answer.
    pub fn directory(&self) -> Arc<dyn Directory> {
        Arc::clone(&self.sight) as _
    }

    /// The store that this node has for others; none where its own is elsewhere.
    pub fn served_store(&self) -> Option<&Arc<dyn MetaStore>> {
        self.served.as_ref()
    }

    /// Whether the metadata store cannot be reached now.
    pub fn is_store_away(&self) -> bool {
        *self.sight.is_store_away.borrow()
    }

    /// How long ago something was, by the clock of a view.
    pub fn elapsed_since(&self, time: Duration) -> Duration {
        self.sight.started.elapsed().saturating_sub(time)
    }

    /// The time that tickets are dated by.
    pub fn now(&self) -> SystemTime {
        self.clock.now()
    }

    /// The same, for other nodes.
    pub fn told_time(&self) -> ClockAnswer {
        self.clock.told()
    }

    /// Counts a read of splits that this node serves.
    pub fn count_read(&self, splits: &[u64]) {
        let now = self.sight.started.elapsed();
        splits.iter().for_each(|&split| self.hot.read(now, SplitKey(split)));
    }

    /// The nodes to name for a run, the best first: those that own it and serve, else whoever stands in for them. This node
    /// alone where there is nobody. Of a run that many read, one of several that serve it, each in its turn, and then the others.
    pub fn named(&self, view: &View, run: &Run) -> Vec<Named> {
        let Some(split) = run.split else {
            return vec![self.named_self()];
        };
        let extra = run.splits.iter().map(|split| self.hot.extra(*split)).max().unwrap_or(0);
        let mut owners = run.owners.to_vec();
        if let (Some(&owner), 1..) = (owners.first(), extra) {
            let copies = owners.len() - 1 + usize::try_from(extra).unwrap_or(0);
            owners.truncate(1);
            owners.extend(view.placement.replicas(owner, split, copies));
        }
        let members = view.locations(&owners, split);
        let mut named: Vec<Named> = members.into_iter().map(|member| self.name(member)).collect();
        if extra > 0 {
            let first = self.hot.turn(named.len());
            named.rotate_left(first);
        }
        if named.is_empty() {
            vec![self.named_self()]
        } else {
            named
        }
    }

    /// Ids of the nodes that may hold a run, the likeliest first: owner, replicas, owners before, stand-ins.
    pub fn holders(&self, view: &View, run: &Run) -> Vec<String> {
        let mut holders: Vec<String> = Vec::new();
        let mut add = |id: &str| {
            if holders.len() < MAX_TICKET_HOLDERS && !holders.iter().any(|known| known == id) {
                holders.push(id.to_owned());
            }
        };
        let placement = &view.placement;
        let seated = |slot: &u32| placement.seat(*slot);
        run.owners
            .iter()
            .filter_map(seated)
            .for_each(|seat| add(seat.id.as_str()));
        run.former.iter().for_each(|id| add(id));
        if let (Some(&owner), Some(split)) = (run.owners.first(), run.split) {
            let stand_ins = placement.replicas(owner, split, run.owners.len() - 1 + STAND_INS);
            stand_ins
                .iter()
                .filter_map(seated)
                .for_each(|seat| add(seat.id.as_str()));
        }
        holders
    }

    /// Tells the others that this node takes nothing new, and gives them a moment to hear of it. Takes no longer than that,
    /// whatever the store does.
    pub async fn drain(&self) {
        let is_alone = self
            .view()
            .members
            .values()
            .filter(|member| member.status == Status::Serving)
            .count()
            < 2;
        let told = tokio::time::timeout(DRAIN_NOTICE, self.tell(Readiness::Draining)).await;
        if let Ok(Err(error)) = &told {
            tracing::warn!(
                error = crate::error::chain(error.as_ref()),
                "the other nodes were not told that this one stops"
            );
        }
        if !is_alone {
            tokio::time::sleep(DRAIN_NOTICE).await;
        }
        self.ending.cancel();
    }

    /// Completes when this node is about to stop, and what it has open for other nodes must end.
    pub fn ending(&self) -> WaitForCancellationFutureOwned {
        self.ending.clone().cancelled_owned()
    }

    /// Ends this node's lease, so that the others need not wait for it to lapse.
    pub async fn leave(&self) {
        // Where the store does not answer, the lease lapses by itself.
        let _ = tokio::time::timeout(DRAIN_NOTICE, self.lease.end()).await;
    }

    fn record(&self, state: Readiness) -> Member {
        let places = [&self.places.network, &self.places.unix, &self.places.memory];
        Member {
            id: self.node_id.clone(),
            generation: self.identity.generation,
            addresses: places.into_iter().flatten().cloned().collect(),
            host: self.places.host.clone(),
            weight: self.weight_bytes,
            role: match self.role {
                Role::All | Role::Worker => MemberRole::Worker,
                Role::Coordinator => MemberRole::Coordinator,
            },
            state,
            grace_ms: self.own_grace_ms(),
        }
    }

    /// How long this node's seat is kept, where that is not as long as is usual: nodes of earlier versions do not know the word.
    fn own_grace_ms(&self) -> Option<u64> {
        let is_usual = self.grace == MembershipSettings::default().grace;
        (!is_usual).then(|| u64::try_from(self.grace.as_millis()).unwrap_or(u64::MAX))
    }

    fn name(&self, member: &MemberView) -> Named {
        if member.id == self.node_id {
            return self.named_self();
        }
        let places = places_of(member);
        Named {
            id: member.id.as_str().to_owned(),
            is_here: !places.host.is_empty() && places.host == self.places.host,
            places: Arc::new(places),
        }
    }

    fn named_self(&self) -> Named {
        Named {
            id: self.identity.id.clone(),
            places: Arc::clone(&self.places),
            is_here: true,
        }
    }
}

impl Directory for Sight {
    fn address_of(&self, id: &str) -> Option<String> {
        let id: NodeId = id.parse().ok()?;
        let view = self.view.read();
        let member = view.members.get(&id)?;
        let is_there = matches!(member.status, Status::Serving | Status::Suspect | Status::Draining);
        is_there.then(|| places_of(member).network).flatten()
    }

    fn is_unreachable(&self, id: &str) {
        if let Ok(id) = id.parse() {
            self.unreachable.lock().insert(id);
            self.unreachable_news.notify_one();
        }
    }
}

/// Where a member says that it is.
pub fn places_of(member: &MemberView) -> Places {
    let found = |scheme: &str| member.addresses().iter().find(|uri| uri.starts_with(scheme)).cloned();
    Places {
        network: found("grpc://"),
        unix: found("grpc+unix://"),
        memory: found("unix://"),
        host: member
            .record
            .as_ref()
            .map(|record| record.host.clone())
            .unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;
