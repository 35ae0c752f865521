//! Pins: what stays in the caches whatever else is read, as the cluster has agreed on it.
//!
//! ```text
//! cache.pin --does it fit?--> metadata store: pins/PATH --watch--> every node --Cache::set_pins--> its tiers
//! ```
//! A pin is of a namespace path, and the caches know storage: what a node tells its cache are the URIs of the mounts at and
//! below the path, anew whenever pins or mounts change.
//!
//! A pin outlives its mount. What was mounted there by mistake, or for a moment, is mounted again; and a pin that is listed
//! is easier to remove than one that went silently is to notice.
//!
//! News of a watch may be older than what this node has just done itself, so each record is known with its revision, and
//! older ones are passed over, as with mounts ([`jetbridge_catalog::namespace`]).
//!
//! Why pins that are made at the same time on two nodes may both be refused, and are never both let in: each looks again
//! once its record is there, and takes it back where the two together do not fit.

mod room;

use std::collections::BTreeMap;

use jetbridge_cache::Cache;
use jetbridge_cache::retention::Pin;
use jetbridge_catalog::meta::{Entry, Expect, MetaError, MetaStore, WatchEvent};
use jetbridge_catalog::mount::MountTable;
use jetbridge_catalog::path::NsPath;
use jetbridge_catalog::uri::UfsUri;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use self::room::Demand;
use crate::error::ServiceError;
use crate::jobs::spec::Tier;
use crate::node::Node;

/// What the keys of pins begin with, in the metadata store; a namespace path follows.
pub const WATCHED: &str = "pins/";
/// The same without the slash that every namespace path begins with.
const KEY_PREFIX: &str = "pins";
/// Most pins: each file's URI is compared with all of them.
const MAX_PINS: usize = 1_000;

/// A pin, with what its data came to when it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinRecord {
    /// The path that is pinned, with all that is below it.
    pub path: NsPath,
    /// What of it is kept.
    pub tier: Tier,
    /// Stored bytes of its files' columns, one copy of them; 0 where pages are not pinned.
    pub bytes: u64,
    /// What they take decoded, one copy of them; 0 where decoded columns are not pinned.
    pub decoded_bytes: u64,
}

/// The pins of the cluster, as this node knows them.
#[derive(Debug, Default)]
pub struct Pins {
    known: Mutex<BTreeMap<NsPath, Known>>,
}

/// What is known of the pin of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    revision: u64,
    /// None where it was removed here, and the watch has not told of that yet.
    record: Option<PinRecord>,
}

impl Pins {
    /// The pins that a store has.
    ///
    /// # Errors
    /// The store's.
    pub async fn open(store: &dyn MetaStore) -> Result<Self, MetaError> {
        let pins = Self::default();
        for (key, entry) in store.list(WATCHED).await? {
            pins.hear(&key, &entry);
        }
        Ok(pins)
    }

    /// All pins, by path.
    pub fn list(&self) -> Vec<PinRecord> {
        let known = self.known.lock();
        known.values().filter_map(|known| known.record.clone()).collect()
    }

    /// Takes over what a watch of [`WATCHED`] tells. Gives whether that changed anything.
    pub fn follow(&self, event: WatchEvent) -> bool {
        let before = self.list();
        match event {
            WatchEvent::Put { key, entry } => self.hear(&key, &entry),
            WatchEvent::Delete { key, revision } => {
                let path = path_of(&key);
                let is_older = |known: &Known| known.revision < revision;
                self.known
                    .lock()
                    .retain(|known, of| path.as_ref() != Some(known) || !is_older(of));
            }
            WatchEvent::Reset { entries, revision } => {
                let listed: Vec<_> = entries.iter().filter_map(|(key, _)| path_of(key)).collect();
                self.known
                    .lock()
                    .retain(|path, of| of.revision > revision || listed.contains(path));
                entries.iter().for_each(|(key, entry)| self.hear(key, entry));
            }
            WatchEvent::Away(_) | WatchEvent::Foreign(_) => {}
        }
        before != self.list()
    }

    fn hear(&self, key: &str, entry: &Entry) {
        if let Some(record) = read(key, entry) {
            self.know(record.path.clone(), entry.revision, Some(record));
        }
    }

    fn know(&self, path: NsPath, revision: u64, record: Option<PinRecord>) {
        let mut known = self.known.lock();
        if known.get(&path).is_none_or(|known| known.revision < revision) {
            known.insert(path, Known { revision, record });
        }
    }

    /// The pin of a path was removed by this node, as it was at this revision.
    fn removed(&self, path: &NsPath, revision: u64) {
        let mut known = self.known.lock();
        if let Some(known) = known.get_mut(path).filter(|known| known.revision <= revision) {
            *known = Known { revision, record: None };
        }
    }
}

/// Tells the cache what is pinned now.
pub async fn apply(cache: &Cache, table: &MountTable, pins: &Pins) {
    let pins = pins.list().into_iter().flat_map(|pin| {
        uris(table, &pin.path).into_iter().map(move |uri| Pin {
            uri: uri.to_string(),
            raw: pin.tier.has_raw(),
            decoded: pin.tier.has_decoded(),
        })
    });
    cache.set_pins(pins.collect()).await;
}

/// Pins a path, in place of its pin so far.
///
/// # Errors
/// NOT_FOUND for a path that is nothing; RESOURCE_EXHAUSTED, with figures, where the workers could not hold it beside what is
/// pinned already; the storage's, the store's.
pub async fn pin(node: &Node, path: NsPath, tier: Tier) -> Result<PinRecord, ServiceError> {
    let store = node.cluster.store().as_ref();
    let others = listed(store).await?;
    if others.len() >= MAX_PINS && others.iter().all(|(_, pin)| pin.path != path) {
        return Err(ServiceError::Full {
            what: format!("there are {MAX_PINS} pins; pin a folder above several of them instead"),
        });
    }
    let demand = Demand::of(node, &path, tier).await?;
    demand.check(node, &others).await?;
    let record = PinRecord {
        bytes: demand.raw_bytes,
        decoded_bytes: demand.decoded_bytes,
        path,
        tier,
    };
    let key = key_of(&record.path);
    let value = serde_json::to_vec(&record).map_err(|error| ServiceError::Internal {
        what: error.to_string(),
    })?;
    let replaced = others.iter().find(|(_, pin)| pin.path == record.path);
    let expect = replaced.map_or(Expect::Absent, |(revision, _)| Expect::Revision(*revision));
    let revision = store
        .put(&key, value, expect)
        .await
        .map_err(|error| changed(&record.path, error))?;
    let now = listed(store).await?;
    let is_news = |(revision, pin): &(u64, PinRecord)| {
        pin.path != record.path && !others.iter().any(|(known, _)| known == revision)
    };
    if now.iter().any(is_news)
        && let Err(refused) = demand.check(node, &now).await
    {
        take_back(store, &key, revision, replaced.map(|(_, pin)| pin)).await;
        node.pins_changed().await;
        return Err(refused);
    }
    tracing::info!(path = %record.path, "pinned");
    node.pins.know(record.path.clone(), revision, Some(record.clone()));
    node.pins_changed().await;
    Ok(record)
}

/// Removes the pin of a path, and gives it back. What it kept stays until other data is worth more.
///
/// # Errors
/// NOT_FOUND for a path that is not pinned itself; the store's.
pub async fn unpin(node: &Node, path: &NsPath) -> Result<PinRecord, ServiceError> {
    let (store, key) = (node.cluster.store(), key_of(path));
    let found = store.get(&key).await.map_err(meta)?;
    let unknown = || ServiceError::NoSuchPin { path: path.clone() };
    let entry = found.ok_or_else(unknown)?;
    let record = read(&key, &entry).ok_or_else(unknown)?;
    let deleted = store.delete(&key, Expect::Revision(entry.revision)).await;
    deleted.map_err(|error| changed(path, error))?;
    tracing::info!(%path, "unpinned");
    node.pins.removed(path, entry.revision);
    node.pins_changed().await;
    Ok(record)
}

/// Puts back what there was before a pin that does not fit after all. Should somebody have pinned the path anew meanwhile, that
/// stays.
async fn take_back(store: &dyn MetaStore, key: &str, revision: u64, before: Option<&PinRecord>) {
    let expect = Expect::Revision(revision);
    let before = before.and_then(|pin| serde_json::to_vec(pin).ok());
    let done = match before {
        Some(value) => store.put(key, value, expect).await.map(|_| ()),
        None => store.delete(key, expect).await,
    };
    if let Err(error) = done {
        let error = crate::error::chain(&error);
        tracing::warn!(key, error, "a pin that does not fit was not taken back");
    }
}

/// Refuses to let go of what is pinned, in part or all of it.
///
/// The store is asked, not what its watch has told so far: who unpinned a path at one node a moment ago may free it at all of
/// them, and who pinned it finds it kept. While the store is away what is known counts.
///
/// # Errors
/// FAILED_PRECONDITION that names the pin.
pub async fn check_free(node: &Node, path: &NsPath) -> Result<(), ServiceError> {
    let pins = match listed(node.cluster.store().as_ref()).await {
        Ok(pins) => pins.into_iter().map(|(_, pin)| pin).collect(),
        Err(error) => {
            tracing::debug!(%error, "the metadata store does not say what is pinned");
            node.pins.list()
        }
    };
    let table = node.namespace.table();
    let freed = uris(&table, path);
    let touches = |pin: &PinRecord| {
        let pinned = uris(&table, &pin.path);
        freed.iter().any(|uri| pinned.iter().any(|pin| overlap(uri, pin)))
    };
    match pins.into_iter().find(touches) {
        None => Ok(()),
        Some(pin) => Err(ServiceError::Pinned {
            path: path.clone(),
            pin: pin.path,
        }),
    }
}

/// What the storage calls the files at and below a path.
fn uris(table: &MountTable, path: &NsPath) -> Vec<UfsUri> {
    let own = table
        .resolve(path)
        .and_then(|resolved| match resolved.relative.as_str() {
            "" => Some(resolved.mount.uri.clone()),
            relative => resolved.mount.uri.join(relative).ok(),
        });
    let below = table.below(path).into_iter().map(|mount| mount.uri.clone());
    own.into_iter().chain(below).collect()
}

fn overlap(one: &UfsUri, other: &UfsUri) -> bool {
    one.strip_prefix(other).is_some() || other.strip_prefix(one).is_some()
}

fn key_of(path: &NsPath) -> String {
    format!("{KEY_PREFIX}{path}")
}

fn path_of(key: &str) -> Option<NsPath> {
    NsPath::parse(key.strip_prefix(KEY_PREFIX)?).ok()
}

/// The pins in the store, with their revisions.
async fn listed(store: &dyn MetaStore) -> Result<Vec<(u64, PinRecord)>, ServiceError> {
    let entries = store.list(WATCHED).await.map_err(meta)?;
    let records = entries
        .iter()
        .filter_map(|(key, entry)| Some((entry.revision, read(key, entry)?)));
    Ok(records.collect())
}

/// A later version may write what this one cannot read; it does without.
fn read(key: &str, entry: &Entry) -> Option<PinRecord> {
    let record: Result<PinRecord, _> = serde_json::from_slice(&entry.value);
    let record = record.inspect_err(|error| tracing::warn!(key, %error, "a pin cannot be read; it is passed over"));
    record.ok().filter(|record| key_of(&record.path) == key)
}

/// What a change of a pin failed with.
fn changed(path: &NsPath, error: MetaError) -> ServiceError {
    match error {
        MetaError::Conflict { .. } => ServiceError::Busy {
            what: format!("the pin of {path} is being changed"),
        },
        error => meta(error),
    }
}

fn meta(error: MetaError) -> ServiceError {
    ServiceError::Catalog(error.into())
}

#[cfg(test)]
mod tests {
    use jetbridge_catalog::mount::Mount;

    use super::*;
    use crate::testing::{Lake, numbers};

    fn path(text: &str) -> NsPath {
        NsPath::parse(text).unwrap()
    }

    fn record(at: &str, tier: Tier) -> PinRecord {
        PinRecord {
            path: path(at),
            tier,
            bytes: 10,
            decoded_bytes: 0,
        }
    }

    fn entry(record: &PinRecord, revision: u64) -> (String, Entry) {
        let value = serde_json::to_vec(record).unwrap();
        (key_of(&record.path), Entry { value, revision })
    }

    fn put(record: &PinRecord, revision: u64) -> WatchEvent {
        let (key, entry) = entry(record, revision);
        WatchEvent::Put { key, entry }
    }

    fn deleted(at: &str, revision: u64) -> WatchEvent {
        WatchEvent::Delete {
            key: key_of(&path(at)),
            revision,
        }
    }

    fn table(mounts: &[(&str, &str)]) -> MountTable {
        let add = |table: MountTable, (at, uri): &(&str, &str)| {
            let mount: Mount = serde_json::from_value(serde_json::json!({ "path": at, "uri": uri })).unwrap();
            table.with(mount).unwrap()
        };
        mounts.iter().fold(MountTable::default(), add)
    }

    #[test]
    fn pins_come_and_go_as_the_watch_tells() {
        let pins = Pins::default();
        let (a, root) = (record("/a", Tier::Raw), record("/", Tier::Both));
        assert!(pins.follow(put(&a, 3)));
        assert!(!pins.follow(put(&a, 3)), "heard twice, known once");
        assert!(pins.follow(put(&root, 4)));
        assert_eq!(pins.list(), [root.clone(), a.clone()]);
        assert!(!pins.follow(deleted("/a", 2)), "of an earlier pin of the path");
        assert!(pins.follow(deleted("/a", 5)));
        let entries = vec![entry(&a, 7)];
        assert!(pins.follow(WatchEvent::Reset { entries, revision: 9 }));
        assert_eq!(pins.list(), [a]);
    }

    #[test]
    fn what_this_node_did_last_counts_though_the_watch_lags() {
        let pins = Pins::default();
        let (old, new) = (record("/a", Tier::Raw), record("/a", Tier::Both));
        pins.follow(put(&old, 3));
        pins.removed(&path("/a"), 3);
        assert_eq!(pins.list(), []);
        let entries = vec![entry(&old, 3)];
        assert!(!pins.follow(WatchEvent::Reset { entries, revision: 3 }), "told late");
        pins.know(path("/a"), 5, Some(new.clone()));
        assert!(!pins.follow(deleted("/a", 4)), "of the one before");
        let entries = Vec::new();
        assert!(
            !pins.follow(WatchEvent::Reset { entries, revision: 4 }),
            "from before it was pinned"
        );
        assert_eq!(pins.list(), [new]);
    }

    #[test]
    fn what_cannot_be_read_is_passed_over() {
        let pins = Pins::default();
        let strange = |key: &str, value: &str| WatchEvent::Put {
            key: key.to_owned(),
            entry: Entry {
                value: value.as_bytes().to_vec(),
                revision: 1,
            },
        };
        assert!(!pins.follow(strange("pins/a", "{}")));
        let of_another = serde_json::to_string(&record("/b", Tier::Raw)).unwrap();
        assert!(!pins.follow(strange("pins/a", &of_another)));
    }

    #[tokio::test]
    async fn what_may_be_freed_is_what_the_store_says_though_the_watch_lags() {
        let lake = Lake::of(&[("lake/a.parquet", numbers(3))]).await;
        let (node, at) = (&lake.node, path("/lake"));
        let pinned = record("/lake", Tier::Raw);
        node.pins.know(at.clone(), 1, Some(pinned.clone()));
        check_free(node, &at).await.expect("unpinned at another node");
        node.pins.removed(&at, 1);
        let (key, entry) = entry(&pinned, 0);
        let store = node.cluster.store();
        store.put(&key, entry.value, Expect::Absent).await.unwrap();
        let refused = check_free(node, &at).await.expect_err("pinned at another node");
        assert!(matches!(refused, ServiceError::Pinned { .. }), "{refused}");
    }

    #[test]
    fn a_pin_is_of_the_storage_at_and_below_its_path() {
        let table = table(&[
            ("/lake", "s3://b/x"),
            ("/lake/sub", "file:///data"),
            ("/other", "s3://c"),
        ]);
        let of = |at| {
            uris(&table, &path(at))
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(of("/lake"), ["s3://b/x", "file:///data"]);
        assert_eq!(of("/lake/t/year=2024"), ["s3://b/x/t/year=2024"]);
        assert_eq!(of("/lake/sub/a.parquet"), ["file:///data/a.parquet"]);
        assert_eq!(of("/").len(), 3);
        assert_eq!(of("/nowhere"), [""; 0]);
    }

    #[test]
    fn paths_overlap_above_and_below_and_not_beside() {
        let uri = |text: &str| UfsUri::parse(text).unwrap();
        let pin = uri("s3://b/x/t");
        for touched in ["s3://b/x/t", "s3://b/x/t/a.parquet", "s3://b/x", "s3://b"] {
            assert!(overlap(&uri(touched), &pin), "{touched}");
        }
        for beside in ["s3://b/x/tt", "s3://b/y", "s3://c", "file:///x/t"] {
            assert!(!overlap(&uri(beside), &pin), "{beside}");
        }
    }
}
