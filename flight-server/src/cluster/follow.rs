//! Joining the cluster, staying in it, and following what the metadata store tells: members, mounts, pins, ticket keys,
//! refreshes.
//!
//! The membership itself is a state machine without I/O ([`jetbridge_catalog::membership`]); here are its clock and its
//! sockets. One task drives it: it takes in what the watch tells, lets time pass, puts the documents that it proposes, and
//! publishes its view. Other tasks keep the lease and follow mounts and keys, so that none waits for another.

use std::sync::Arc;
use std::time::Duration;

use jetbridge_catalog::membership::{
    ALIVE_PREFIX, Document, Event, Listing, MEMBER_PREFIX, Member, Membership, PLACEMENT_KEY, Proposal, Readiness,
    Settings, Standing, View,
};
use jetbridge_catalog::meta::{Entry, Expect, MetaError, WatchEvent};
use jetbridge_catalog::namespace::Namespace;
use jetbridge_catalog::path::NsPath;
use jetbridge_catalog::placement::NodeId;
use tokio_util::task::AbortOnDropHandle;

use super::hot::HOT_PREFIX;
use super::lease::LEASE_TTL;
use super::{Cluster, Role, clock, hot, seals};
use crate::node::Node;
use crate::pins;

/// What the keys of the membership begin with, in the metadata store.
pub(super) const NODES_PREFIX: &str = "nodes/";
/// The key whose value is the path that was last refreshed.
const REFRESH_KEY: &str = "refresh/path";
/// How long a node that joined waits for its seat before it says that it is ready without one.
const SEAT_PATIENCE: Duration = Duration::from_secs(10);
/// How long a node that joined waits for the cluster's time.
const CLOCK_PATIENCE: Duration = Duration::from_secs(3);
/// The longest that the membership is left alone.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// A node that is part of its cluster until this is dropped.
#[derive(Debug)]
pub struct Joined {
    node: Arc<Node>,
    membership: AbortOnDropHandle<anyhow::Error>,
    lease: AbortOnDropHandle<anyhow::Error>,
    _mounts: AbortOnDropHandle<()>,
    _pins: AbortOnDropHandle<()>,
    _keys: AbortOnDropHandle<()>,
    _rotation: AbortOnDropHandle<()>,
    _refreshes: AbortOnDropHandle<()>,
    _heat: AbortOnDropHandle<()>,
    _clock: AbortOnDropHandle<()>,
}

/// What is known before anything was heard.
pub(super) fn nobody(id: &NodeId, generation: u64) -> View {
    Membership::new(id.clone(), generation, Settings::default()).view()
}

/// Joins the cluster: takes the lease, tells who and where this node is, and begins to follow. A worker is given its seat
/// before this returns, as a rule.
///
/// # Errors
/// Another living process of this node's id, a store that refuses.
pub async fn join(node: &Arc<Node>) -> anyhow::Result<Joined> {
    let cluster = &node.cluster;
    cluster.lease.take().await?;
    cluster.tell(Readiness::Serving).await?;
    let joined = Joined {
        membership: spawn(drive(Arc::clone(node))),
        lease: spawn(keep_lease(Arc::clone(node))),
        _mounts: spawn(follow_mounts(Arc::clone(node))),
        _pins: spawn(follow_pins(Arc::clone(node))),
        _keys: spawn(follow_keys(Arc::clone(node))),
        _rotation: spawn(seals::keep_young(Arc::clone(cluster.store()))),
        _refreshes: spawn(follow_refreshes(Arc::clone(node))),
        _heat: spawn(tell_of_heat(Arc::clone(node))),
        _clock: spawn(follow_clock(Arc::clone(node))),
        node: Arc::clone(node),
    };
    if cluster.role == Role::Worker {
        joined
            .seated(|view| {
                view.members
                    .get(&cluster.node_id)
                    .is_some_and(|member| member.slot.is_some())
            })
            .await;
    }
    if tokio::time::timeout(CLOCK_PATIENCE, take_time_over(cluster))
        .await
        .is_err()
    {
        tracing::warn!("nobody tells the cluster's time; this node's own clock dates its tickets for now");
    }
    Ok(joined)
}

/// Takes over the cluster's time, once it is known who is there.
async fn take_time_over(cluster: &Cluster) {
    loop {
        let view = cluster.view();
        let knows_itself = view.members.contains_key(&cluster.node_id);
        if knows_itself && cluster.clock.measure(cluster.id(), &view, &cluster.peers).await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

impl Joined {
    /// Waits until what is known of the cluster is as it should be, but not for long.
    async fn seated(&self, is_done: impl Fn(&View) -> bool) {
        let wait = async {
            while !is_done(&self.node.cluster.view()) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(SEAT_PATIENCE, wait).await.is_err() {
            tracing::warn!("no seat in the placement yet; what is asked for is served all the same");
        }
    }

    /// Waits until so many workers have seats, but not for long.
    pub async fn workers_seated(&self, workers: usize) {
        self.seated(|view| view.placement.seats().len() >= workers).await;
    }

    /// Stays in the cluster for as long as this is polled.
    ///
    /// # Errors
    /// Another process took this node's identity.
    pub async fn stay(self) -> anyhow::Result<()> {
        let ended = tokio::select! {
            ended = self.membership => ended,
            ended = self.lease => ended,
        };
        Err(ended.unwrap_or_else(|panicked| panicked.into()))
    }
}

impl Cluster {
    /// Tells the others of this node.
    pub(super) async fn tell(&self, state: Readiness) -> anyhow::Result<()> {
        let record = self.record(state);
        let key = format!("{NODES_PREFIX}{}", record.key());
        self.store.put(&key, record.encode()?, Expect::Any).await?;
        Ok(())
    }

    /// Has every node look at the storage of a path anew.
    ///
    /// # Errors
    /// The metadata store's; then only this node does.
    pub async fn refresh_everywhere(&self, path: &NsPath) -> Result<(), MetaError> {
        self.store
            .put(REFRESH_KEY, path.to_string().into_bytes(), Expect::Any)
            .await?;
        Ok(())
    }
}

fn spawn<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> AbortOnDropHandle<T> {
    AbortOnDropHandle::new(tokio::spawn(task))
}

async fn keep_lease(node: Arc<Node>) -> anyhow::Error {
    let cluster = &node.cluster;
    loop {
        match cluster.lease.keep().await {
            Ok(()) => {}
            Err(error @ super::lease::LeaseError::Duplicate(_)) => return error.into(),
            Err(error) => {
                tracing::warn!(
                    error = crate::error::chain(&error),
                    "this node is not alive to the others"
                );
                tokio::time::sleep(LONGEST_SLEEP).await;
            }
        }
    }
}

/// Drives the membership until another process takes this node's identity.
async fn drive(node: Arc<Node>) -> anyhow::Error {
    let cluster = &node.cluster;
    let settings = Settings {
        lease: LEASE_TTL,
        ..Settings::default()
    };
    let mut membership = Membership::new(cluster.node_id.clone(), cluster.identity.generation, settings);
    let mut watch = cluster.store.watch(NODES_PREFIX);
    let now = || cluster.sight.started.elapsed();
    let mut told_epoch = 0;
    loop {
        let wake = membership.tick(now()).unwrap_or(Duration::MAX).saturating_sub(now());
        tokio::select! {
            event = watch.next() => {
                hear_of_heat(cluster, &event);
                if let Some(event) = event_of(event) {
                    membership.handle(now(), event);
                }
            }
            () = cluster.sight.unreachable_news.notified() => {
                for id in std::mem::take(&mut *cluster.sight.unreachable.lock()) {
                    membership.reported_unreachable(now(), &id);
                }
            }
            () = tokio::time::sleep(wake.min(LONGEST_SLEEP)) => {}
        }
        if let Standing::Displaced { generation } = membership.standing() {
            return anyhow::anyhow!("another process, of generation {generation}, has taken this node's identity");
        }
        if let Some(proposal) = membership.proposal(now()) {
            propose(cluster, &proposal).await;
        }
        for id in membership.stale() {
            forget(cluster, &id).await;
        }
        let view = membership.view();
        if view.epoch() != told_epoch {
            told_epoch = view.epoch();
            tracing::info!(epoch = told_epoch, workers = view.placement.seats().len(), "placement");
        }
        cluster.sight.is_store_away.send_replace(membership.is_store_away());
        *cluster.sight.view.write() = view;
    }
}

/// Takes in what the watch tells of hot splits.
fn hear_of_heat(cluster: &Cluster, event: &WatchEvent) {
    let id_of = |key: &str| Some(key.strip_prefix(NODES_PREFIX)?.strip_prefix(HOT_PREFIX)?.to_owned());
    let hear = |key: &str, entry: &Entry| {
        if let Some(id) = id_of(key) {
            cluster.hot.hear(&id, &entry.value);
        }
    };
    match event {
        WatchEvent::Put { key, entry } => hear(key, entry),
        WatchEvent::Delete { key, .. } => {
            if let Some(id) = id_of(key) {
                cluster.hot.forget(&id);
            }
        }
        WatchEvent::Reset { entries, .. } => {
            cluster.hot.forget_all();
            entries.iter().for_each(|(key, entry)| hear(key, entry));
        }
        WatchEvent::Away(_) | WatchEvent::Foreign(_) => {}
    }
}

/// Tells the others what is hot here, when that has changed. What is told goes with this node's lease.
async fn tell_of_heat(node: Arc<Node>) {
    let cluster = &node.cluster;
    let key = format!("{NODES_PREFIX}{HOT_PREFIX}{}", cluster.node_id);
    let mut ticks = tokio::time::interval(hot::LOOK_INTERVAL);
    let mut told = None;
    loop {
        ticks.tick().await;
        let now = cluster.hot.to_tell(cluster.sight.started.elapsed());
        if now == told {
            continue;
        }
        let done = match &now {
            Some(hot) => {
                // Without a lease it would stay for ever; there will be one soon.
                let Some(lease) = cluster.lease.held() else { continue };
                let put = cluster.store.put_leased(&key, hot.clone(), Expect::Any, Some(lease));
                put.await.map(|_| ())
            }
            None => cluster.store.delete(&key, Expect::Any).await,
        };
        match done {
            Ok(()) => told = now,
            Err(error) => tracing::debug!(error = crate::error::chain(&error), "what is hot was not told"),
        }
    }
}

async fn follow_clock(node: Arc<Node>) {
    let cluster = &node.cluster;
    let mut ticks = tokio::time::interval(clock::MEASURE_INTERVAL);
    loop {
        ticks.tick().await;
        let view = cluster.view();
        let _is_known = cluster.clock.measure(cluster.id(), &view, &cluster.peers).await;
    }
}

/// Removes the record of a node that was lost long ago, unless it has come back in this moment.
async fn forget(cluster: &Cluster, id: &NodeId) {
    let forgotten = async {
        let key = format!("{NODES_PREFIX}{MEMBER_PREFIX}{id}");
        let Some(entry) = cluster.store.get(&key).await? else {
            return Ok(());
        };
        let is_back = cluster
            .store
            .get(&format!("{NODES_PREFIX}{ALIVE_PREFIX}{id}"))
            .await?
            .is_some();
        if !is_back {
            cluster.store.delete(&key, Expect::Revision(entry.revision)).await?;
        }
        Ok::<(), MetaError>(())
    };
    if let Err(error) = forgotten.await {
        let error = crate::error::chain(&error);
        tracing::debug!(%id, error, "the record of a node that is gone was not removed");
    }
}

/// Puts a placement document, unless somebody whose seat it takes is alive after all.
async fn propose(cluster: &Cluster, proposal: &Proposal) {
    if let Err(error) = try_propose(cluster, proposal).await {
        tracing::debug!(
            error = crate::error::chain(error.as_ref()),
            "the placement was not changed"
        );
        // Whatever the reason, the watch tells what holds now; asking again at once would only make noise.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn try_propose(cluster: &Cluster, proposal: &Proposal) -> anyhow::Result<()> {
    for id in &proposal.gone {
        let key = format!("{NODES_PREFIX}{ALIVE_PREFIX}{id}");
        if cluster.store.get(&key).await?.is_some() {
            anyhow::bail!("{id} is alive");
        }
    }
    let expect = proposal.expect.map_or(Expect::Absent, Expect::Revision);
    let value = proposal.document.encode()?;
    cluster
        .store
        .put(&format!("{NODES_PREFIX}{PLACEMENT_KEY}"), value, expect)
        .await?;
    Ok(())
}

/// What the watch tells, in the membership's words; none for what is not understood.
fn event_of(event: WatchEvent) -> Option<Event> {
    match event {
        WatchEvent::Reset { entries, .. } => Some(Event::Listed(listing(&entries))),
        WatchEvent::Put { key, entry } => put_event(key.strip_prefix(NODES_PREFIX)?, &entry),
        WatchEvent::Delete { key, .. } => {
            let key = key.strip_prefix(NODES_PREFIX)?;
            if let Some(id) = key.strip_prefix(ALIVE_PREFIX) {
                Some(Event::Lapsed(id.parse().ok()?))
            } else if let Some(id) = key.strip_prefix(MEMBER_PREFIX) {
                Some(Event::MemberRemoved(id.parse().ok()?))
            } else {
                (key == PLACEMENT_KEY).then_some(Event::DocumentRemoved)
            }
        }
        WatchEvent::Away(_) => Some(Event::StoreAway),
        WatchEvent::Foreign(error) => {
            tracing::error!(
                error = crate::error::chain(&error),
                "what was known stays; nothing can be changed"
            );
            Some(Event::StoreAway)
        }
    }
}

fn put_event(key: &str, entry: &Entry) -> Option<Event> {
    if let Some(id) = key.strip_prefix(ALIVE_PREFIX) {
        return Some(Event::Alive(id.parse().ok()?, number(entry)?));
    }
    if key.starts_with(MEMBER_PREFIX) {
        return understood(key, Member::decode(&entry.value)).map(Event::Member);
    }
    if key == PLACEMENT_KEY {
        let document = understood(key, Document::decode(&entry.value))?;
        return Some(Event::Document(document, entry.revision));
    }
    None
}

fn listing(entries: &[(String, Entry)]) -> Listing {
    let mut listing = Listing::default();
    for (key, entry) in entries {
        let Some(key) = key.strip_prefix(NODES_PREFIX) else {
            continue;
        };
        match put_event(key, entry) {
            Some(Event::Member(member)) => listing.members.push(member),
            Some(Event::Alive(id, generation)) => listing.alive.push((id, generation)),
            Some(Event::Document(document, revision)) => listing.document = Some((document, revision)),
            _ => {}
        }
    }
    listing
}

fn number(entry: &Entry) -> Option<u64> {
    std::str::from_utf8(&entry.value).ok()?.parse().ok()
}

/// A later version may write what this one cannot read; it does without.
fn understood<T, E: std::error::Error + 'static>(key: &str, read: Result<T, E>) -> Option<T> {
    read.inspect_err(|error| {
        let error = crate::error::chain(error);
        tracing::warn!(key, error, "a record of the cluster cannot be read; it is passed over");
    })
    .ok()
}

async fn follow_mounts(node: Arc<Node>) {
    let mut watch = node.cluster.store().watch(Namespace::WATCHED);
    loop {
        let event = watch.next().await;
        match node.namespace.follow(event).await {
            Ok(changed) if changed.is_empty() => {}
            Ok(changed) => node.mounts_changed(&changed).await,
            Err(error) => {
                tracing::error!(
                    error = crate::error::chain(&error),
                    "a mount cannot be read; it is left out"
                );
            }
        }
    }
}

async fn follow_pins(node: Arc<Node>) {
    let mut watch = node.cluster.store().watch(pins::WATCHED);
    loop {
        if node.pins.follow(watch.next().await) {
            node.pins_changed().await;
        }
    }
}

async fn follow_keys(node: Arc<Node>) {
    let mut watch = node.cluster.store().watch(seals::KEYS_KEY);
    loop {
        let event = watch.next().await;
        if let Err(error) = seals::follow(&node.keys, &event) {
            tracing::error!(
                error = crate::error::chain(&error),
                "the new ticket keys cannot be read; the old ones stay"
            );
        }
    }
}

async fn follow_refreshes(node: Arc<Node>) {
    let mut watch = node.cluster.store().watch(REFRESH_KEY);
    let mut last_seen = None;
    loop {
        match watch.next().await {
            WatchEvent::Put { entry, .. } => {
                last_seen = Some(entry.revision);
                let path = std::str::from_utf8(&entry.value)
                    .ok()
                    .and_then(|path| NsPath::parse(path).ok());
                node.datasets.refresh(&path.unwrap_or_else(NsPath::root));
            }
            WatchEvent::Reset { entries, .. } => {
                let revision = entries.first().map(|(_, entry)| entry.revision);
                // What was missed is not known: all of it.
                if last_seen.is_some() && last_seen != revision {
                    node.datasets.refresh(&NsPath::root());
                }
                last_seen = revision.or(Some(0));
            }
            WatchEvent::Delete { .. } | WatchEvent::Away(_) | WatchEvent::Foreign(_) => {}
        }
    }
}
