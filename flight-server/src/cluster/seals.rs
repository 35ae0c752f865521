//! The keys that tickets are sealed with, shared by all nodes through the metadata store.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jetbridge_catalog::meta::{Entry, Expect, MetaError, MetaStore, WatchEvent};
use serde::{Deserialize, Serialize};

use crate::ticket::{KeyError, KeyRing, SETTLING, TicketKeys};

/// The key of the record in the metadata store.
pub const KEYS_KEY: &str = "tickets/keys";
/// A key is replaced at this age: longer than any ticket lives, since only the key before the current one still opens.
const ROTATE_AFTER: Duration = Duration::from_secs(8 * 24 * 3600);
/// When nodes have heard of a new key, as a rule: a second, and another by which its age may be wrong.
const HEARD: Duration = Duration::from_secs(2);
/// How often the age is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(600);

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The metadata store says so.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The keys cannot be read or made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The record is not one.
    #[error("the record of the ticket keys in the metadata store is damaged")]
    Record(#[source] serde_json::Error),
}

/// The record of the keys.
#[derive(Serialize, Deserialize)]
struct Record {
    /// When the current key was made, in seconds since 1970 UTC. Hours matter here, not clocks that differ by minutes.
    made_unix_s: u64,
    /// The ring's text.
    ring: String,
}

/// Reads the keys, or makes the first ones.
///
/// # Errors
/// A store that fails, a record that is damaged.
pub async fn open(store: &dyn MetaStore) -> Result<TicketKeys, SealError> {
    loop {
        if let Some(entry) = store.get(KEYS_KEY).await? {
            return Ok(TicketKeys::aged(ring_of(&entry)?, age_of(&entry)));
        }
        match put(store, &KeyRing::random()?, Expect::Absent).await {
            Ok(()) | Err(SealError::Meta(MetaError::Conflict { .. })) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Makes a new current key for the whole cluster. Where that lets go of a key that nodes may seal with at this moment, it waits
/// until they do not any more.
///
/// # Errors
/// As [`open`]; a conflict where another node did the same in this moment.
pub async fn rotate(store: &dyn MetaStore) -> Result<(), SealError> {
    let Some(entry) = store.get(KEYS_KEY).await? else {
        return put(store, &KeyRing::random()?, Expect::Absent).await;
    };
    let ring = ring_of(&entry)?;
    tokio::time::sleep(still_seals(&ring, &entry)).await;
    put(store, &ring.rotated()?, Expect::Revision(entry.revision)).await
}

/// Takes over what a watch of [`KEYS_KEY`] tells.
///
/// # Errors
/// A record that is damaged; the keys stay as they were.
pub fn follow(keys: &TicketKeys, event: &WatchEvent) -> Result<(), SealError> {
    let entry = match event {
        WatchEvent::Put { key, entry } if key == KEYS_KEY => Some(entry),
        WatchEvent::Reset { entries, .. } => entries.iter().find(|(key, _)| key == KEYS_KEY).map(|(_, entry)| entry),
        _ => None,
    };
    if let Some(entry) = entry {
        keys.set(ring_of(entry)?);
    }
    Ok(())
}

/// Replaces the key when it is old, for as long as this is polled. Every node does; the first to write decides.
pub async fn keep_young(store: Arc<dyn MetaStore>) {
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    loop {
        ticks.tick().await;
        let rotated = match store.get(KEYS_KEY).await {
            Ok(Some(entry)) if is_old(&entry) => rotate(store.as_ref()).await,
            _ => continue,
        };
        match rotated {
            Ok(()) => tracing::info!("tickets are sealed with a new key"),
            Err(error) => tracing::debug!(error = crate::error::chain(&error), "the ticket key was not replaced"),
        }
    }
}

fn is_old(entry: &Entry) -> bool {
    age_of(entry) > ROTATE_AFTER
}

/// How long nodes may still seal with the key that a rotation lets go of.
fn still_seals(ring: &KeyRing, entry: &Entry) -> Duration {
    match ring.has_previous() {
        true => (SETTLING + HEARD).saturating_sub(age_of(entry)),
        false => Duration::ZERO,
    }
}

/// How old the current key is. A record that cannot be read has none, and a clock that is ahead makes it young.
fn age_of(entry: &Entry) -> Duration {
    let made = serde_json::from_slice::<Record>(&entry.value).map(|record| record.made_unix_s);
    made.map_or(Duration::ZERO, |made| {
        Duration::from_secs(now_unix_s().saturating_sub(made))
    })
}

fn ring_of(entry: &Entry) -> Result<KeyRing, SealError> {
    let record: Record = serde_json::from_slice(&entry.value).map_err(SealError::Record)?;
    Ok(KeyRing::parse(record.ring.as_bytes())?)
}

async fn put(store: &dyn MetaStore, ring: &KeyRing, expect: Expect) -> Result<(), SealError> {
    let record = Record {
        made_unix_s: now_unix_s(),
        ring: ring.to_text(),
    };
    let value = serde_json::to_vec(&record).map_err(SealError::Record)?;
    store.put(KEYS_KEY, value, expect).await?;
    Ok(())
}

fn now_unix_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use jetbridge_catalog::meta::EmbeddedStore;

    use super::*;
    use crate::ticket::Ticket;

    #[tokio::test]
    async fn nodes_share_keys_and_follow_their_rotation() {
        let store = EmbeddedStore::in_memory().unwrap();
        let (one, other) = (open(&store).await.unwrap(), open(&store).await.unwrap());
        let ticket = Ticket {
            expires_unix_ms: u64::MAX,
            ..Ticket::default()
        };
        let old = one.seal(&ticket).unwrap();
        assert!(other.open_ticket(&old, "", 0).is_ok());
        let mut watch = store.watch(KEYS_KEY);
        follow(&other, &watch.next().await).unwrap();
        rotate(&store).await.unwrap();
        follow(&other, &watch.next().await).unwrap();
        let entry = store.get(KEYS_KEY).await.unwrap().unwrap();
        let new = TicketKeys::new(ring_of(&entry).unwrap()).seal(&ticket).unwrap();
        assert!(one.open_ticket(&new, "", 0).is_err());
        assert!(other.open_ticket(&new, "", 0).is_ok());
        assert!(other.open_ticket(&old, "", 0).is_ok());
        // One has not heard of the new key yet, and opens what those seal that have.
        for told in [other, open(&store).await.unwrap()] {
            assert!(one.open_ticket(&told.seal(&ticket).unwrap(), "", 0).is_ok());
        }
    }

    #[tokio::test]
    async fn a_second_rotation_waits_until_nobody_seals_with_the_key_that_goes() {
        let store = EmbeddedStore::in_memory().unwrap();
        open(&store).await.unwrap();
        let waits = async || {
            let entry = store.get(KEYS_KEY).await.unwrap().unwrap();
            still_seals(&ring_of(&entry).unwrap(), &entry)
        };
        assert_eq!(waits().await, Duration::ZERO, "no key goes");
        rotate(&store).await.unwrap();
        assert!(waits().await > SETTLING / 2);
    }

    #[test]
    fn only_old_keys_are_replaced() {
        let entry = |made_unix_s| Entry {
            value: serde_json::to_vec(&Record {
                made_unix_s,
                ring: String::new(),
            })
            .unwrap(),
            revision: 1,
        };
        assert!(is_old(&entry(0)));
        // A clock that is ahead makes no key old.
        assert!(!is_old(&entry(now_unix_s())) && !is_old(&entry(u64::MAX)));
    }
}
