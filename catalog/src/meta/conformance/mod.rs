//! The contract of [`MetaStore`] as checks. Every implementation's tests run [`suite`], and [`two_handles`] where it
//! has several. They are a part of the library: behind a feature for the tests of other crates, everything that stands on
//! this one would be compiled twice.
//!
//! | file | what is checked |
//! |---|---|
//! | `mod.rs` | values, revisions, what is expected of them, races |
//! | `leases.rs` | what ends with a lease, and when |
//! | `watching.rs` | that a watch sees each change once and in order |
//! | `clusters.rs` | that a handle of one cluster leaves others alone |
//!
//! Why checks give a [`Violation`] and do not panic: this is library code, and the workspace's lints hold for it.

mod clusters;
mod leases;
mod watching;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use super::{Entry, Expect, MAX_KEY_BYTES, MAX_VALUE_BYTES, MetaError, MetaStore, Watch, WatchEvent};

/// Everything that the suite writes stands below this prefix, which must be empty before; but for the id of the
/// cluster, which is as it was before when the suite ends.
pub const PREFIX: &str = "conformance/";

/// How many tasks race in the checks of concurrency.
const RACERS: u64 = 8;

/// How many times each of them counts.
const COUNTS_EACH: u64 = 5;

/// How long a check waits for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

/// A promise that a store did not keep.
#[derive(Debug, thiserror::Error)]
pub enum Violation {
    /// An answer was another than it should have been.
    #[error("a metadata store broke its contract: {promise}")]
    Broken {
        /// The promise, as a sentence.
        promise: &'static str,
    },
    /// A call failed that should have succeeded, or a task of the suite did not end.
    #[error("a metadata store failed while its contract was checked")]
    Failed(#[source] Box<dyn Error + Send + Sync>),
}

impl From<MetaError> for Violation {
    fn from(error: MetaError) -> Self {
        Self::Failed(error.into())
    }
}

type Checked = Result<(), Violation>;

/// Runs every check against a store, and leaves nothing in it.
///
/// # Errors
/// The first [`Violation`].
pub async fn suite(store: Arc<dyn MetaStore>) -> Checked {
    let plain = store.as_ref();
    values_come_back(plain).await?;
    revisions_grow(plain).await?;
    expectations_are_kept(plain).await?;
    a_conflict_tells_what_was_found(plain).await?;
    deletes_are_idempotent(plain).await?;
    lists_are_exact(plain).await?;
    limits_hold(plain).await?;
    one_of_many_wins(&store).await?;
    no_count_is_lost(&store).await?;
    leases::check(plain).await?;
    watching::check(&store).await?;
    clusters::check(plain).await?;
    clear(plain).await
}

/// Checks that two handles on one store, each with a connection of its own, see the same.
///
/// # Errors
/// The first [`Violation`].
pub async fn two_handles(one: Arc<dyn MetaStore>, other: Arc<dyn MetaStore>) -> Checked {
    let name = key("shared");
    let mut watch = other.watch(PREFIX);
    ensure(
        matches!(next(&mut watch).await?, WatchEvent::Reset { entries, .. } if entries.is_empty()),
        "a watch begins with all there is",
    )?;
    let lease = one.grant(Duration::from_secs(60)).await?;
    let revision = one.put_leased(&name, vec![1], Expect::Absent, Some(lease)).await?;
    let entry = Entry {
        value: vec![1],
        revision,
    };
    ensure(
        other.get(&name).await?.as_ref() == Some(&entry),
        "what one handle put, another finds",
    )?;
    ensure(
        matches!(next(&mut watch).await?, WatchEvent::Put { key, entry: seen } if key == name && seen == entry),
        "what one handle put, the watch of another sees",
    )?;
    let refused = one.put(&name, vec![2], Expect::Absent).await;
    ensure(
        matches!(refused, Err(MetaError::Conflict { .. })),
        "what one handle expects is compared with what another did",
    )?;
    other.keep_alive(lease).await?;
    other.revoke(lease).await?;
    ensure(
        one.get(&name).await?.is_none(),
        "a lease that one handle granted, another may end",
    )?;
    clear(one.as_ref()).await
}

/// The next event of a watch; a watch that falls silent breaks the contract.
async fn next(watch: &mut Watch) -> Result<WatchEvent, Violation> {
    let silent = |_| Violation::Broken {
        promise: "a watch tells of each change",
    };
    tokio::time::timeout(PATIENCE, watch.next()).await.map_err(silent)
}

fn ensure(holds: bool, promise: &'static str) -> Checked {
    if holds {
        Ok(())
    } else {
        Err(Violation::Broken { promise })
    }
}

fn key(name: &str) -> String {
    format!("{PREFIX}{name}")
}

async fn clear(store: &dyn MetaStore) -> Checked {
    for (key, _) in store.list(PREFIX).await? {
        store.delete(&key, Expect::Any).await?;
    }
    ensure(store.list(PREFIX).await?.is_empty(), "what was deleted is not listed")
}

async fn values_come_back(store: &dyn MetaStore) -> Checked {
    ensure(
        store.list(PREFIX).await?.is_empty(),
        "the suite begins with an empty prefix",
    )?;
    let key = key("value ä/日本");
    ensure(
        store.get(&key).await?.is_none(),
        "a key that was never put is not there",
    )?;
    for value in [Vec::new(), (0..=u8::MAX).collect(), vec![0xff; MAX_VALUE_BYTES]] {
        let revision = store.put(&key, value.clone(), Expect::Any).await?;
        let found = store.get(&key).await?;
        ensure(
            found == Some(Entry { value, revision }),
            "a value comes back as it was put, with its revision",
        )?;
    }
    clear(store).await
}

async fn revisions_grow(store: &dyn MetaStore) -> Checked {
    let mut last = 0;
    for name in ["a", "b", "a", "a", "b"] {
        let revision = store.put(&key(name), vec![1], Expect::Any).await?;
        ensure(
            revision > last,
            "a revision is greater than all before it, of whichever key",
        )?;
        last = revision;
    }
    store.delete(&key("b"), Expect::Revision(last)).await?;
    let revision = store.put(&key("b"), vec![1], Expect::Absent).await?;
    ensure(revision > last, "a revision is not used twice, not even after a delete")?;
    clear(store).await
}

async fn expectations_are_kept(store: &dyn MetaStore) -> Checked {
    let key = key("expected");
    let refused = |result: Result<u64, MetaError>| matches!(result, Err(MetaError::Conflict { .. }));
    ensure(
        refused(store.put(&key, vec![0], Expect::Revision(1)).await),
        "a key that is absent has no revision",
    )?;
    let first = store.put(&key, vec![1], Expect::Absent).await?;
    ensure(
        refused(store.put(&key, vec![2], Expect::Absent).await),
        "a key that is there is not absent",
    )?;
    let second = store.put(&key, vec![3], Expect::Revision(first)).await?;
    ensure(
        refused(store.put(&key, vec![4], Expect::Revision(first)).await),
        "an old revision is a conflict",
    )?;
    ensure(
        refused(store.put(&key, vec![4], Expect::Revision(second + 1)).await),
        "a coming revision is a conflict",
    )?;
    let entry = Entry {
        value: vec![3],
        revision: second,
    };
    ensure(store.get(&key).await? == Some(entry), "a refused put changes nothing")?;
    store.put(&key, vec![5], Expect::Any).await?;
    clear(store).await
}

async fn a_conflict_tells_what_was_found(store: &dyn MetaStore) -> Checked {
    let name = key("conflict");
    let revision = store.put(&name, vec![1], Expect::Any).await?;
    let told = |error, wanted: Option<u64>| match error {
        MetaError::Conflict { key, found, .. } => key == name && found == wanted,
        _ => false,
    };
    let put = store.put(&name, vec![2], Expect::Absent).await;
    ensure(
        put.is_err_and(|error| told(error, Some(revision))),
        "a conflict names the key and the revision found",
    )?;
    store.delete(&name, Expect::Any).await?;
    let delete = store.delete(&name, Expect::Revision(revision)).await;
    ensure(
        delete.is_err_and(|error| told(error, None)),
        "a conflict tells that a key is gone",
    )
}

async fn deletes_are_idempotent(store: &dyn MetaStore) -> Checked {
    let key = key("deleted");
    let revision = store.put(&key, vec![1], Expect::Any).await?;
    let refused = |result: Result<(), MetaError>| matches!(result, Err(MetaError::Conflict { .. }));
    ensure(
        refused(store.delete(&key, Expect::Absent).await),
        "what is expected holds for deletes",
    )?;
    ensure(
        refused(store.delete(&key, Expect::Revision(revision + 1)).await),
        "what is expected holds for deletes",
    )?;
    ensure(store.get(&key).await?.is_some(), "a refused delete changes nothing")?;
    store.delete(&key, Expect::Revision(revision)).await?;
    ensure(store.get(&key).await?.is_none(), "a deleted key is gone")?;
    store.delete(&key, Expect::Any).await?;
    store.delete(&key, Expect::Absent).await?;
    let again = store.delete(&key, Expect::Revision(revision)).await;
    ensure(refused(again), "a revision cannot be deleted twice")
}

async fn lists_are_exact(store: &dyn MetaStore) -> Checked {
    for name in ["l/é", "l/b", "l", "l/", "l0", "l/a/c", "l-"] {
        store.put(&key(name), name.into(), Expect::Absent).await?;
    }
    let listed = store.list(&key("l/")).await?;
    let names: Vec<_> = listed.iter().map(|(name, _)| name.trim_start_matches(PREFIX)).collect();
    ensure(
        names == ["l/", "l/a/c", "l/b", "l/é"],
        "a list holds the keys with the prefix, in byte order",
    )?;
    for (name, entry) in &listed {
        ensure(
            store.get(name).await?.as_ref() == Some(entry),
            "a list gives what get gives",
        )?;
    }
    ensure(
        store.list(&key("none")).await?.is_empty(),
        "a prefix of no key lists nothing",
    )?;
    let all = store.list("").await?;
    ensure(
        listed.iter().all(|item| all.contains(item)),
        "the empty prefix lists all",
    )?;
    clear(store).await
}

async fn limits_hold(store: &dyn MetaStore) -> Checked {
    let longest = format!("{PREFIX}{}", "k".repeat(MAX_KEY_BYTES - PREFIX.len()));
    store.put(&longest, vec![1], Expect::Any).await?;
    ensure(store.get(&longest).await?.is_some(), "the longest key is taken")?;
    for bad in [String::new(), format!("{longest}k"), key("a\0b"), key("a\n")] {
        let get = matches!(store.get(&bad).await, Err(MetaError::Key));
        let put = matches!(store.put(&bad, vec![1], Expect::Any).await, Err(MetaError::Key));
        let delete = matches!(store.delete(&bad, Expect::Any).await, Err(MetaError::Key));
        ensure(get && put && delete, "a key that breaks the limits is refused")?;
    }
    let put = store.put(&key("big"), vec![0; MAX_VALUE_BYTES + 1], Expect::Any).await;
    ensure(
        matches!(put, Err(MetaError::ValueTooLong { .. })),
        "a value that breaks the limit is refused",
    )?;
    ensure(store.get(&key("big")).await?.is_none(), "a refused value is not there")?;
    clear(store).await
}

async fn one_of_many_wins(store: &Arc<dyn MetaStore>) -> Checked {
    let race = |racer: u64| {
        let store = Arc::clone(store);
        tokio::spawn(async move {
            store
                .put(&key("race"), racer.to_be_bytes().into(), Expect::Absent)
                .await
        })
    };
    let racers: Vec<_> = (0..RACERS).map(race).collect();
    let mut won = Vec::new();
    for (racer, put) in (0..RACERS).zip(racers) {
        match put.await.map_err(|error| Violation::Failed(error.into()))? {
            Ok(revision) => won.push(Entry {
                value: racer.to_be_bytes().into(),
                revision,
            }),
            Err(MetaError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    ensure(won.len() == 1, "of many that expect a key to be absent, one wins")?;
    ensure(
        store.get(&key("race")).await? == won.pop(),
        "the one that won is the one that is stored",
    )?;
    clear(store.as_ref()).await
}

async fn no_count_is_lost(store: &Arc<dyn MetaStore>) -> Checked {
    store
        .put(&key("count"), 0_u64.to_be_bytes().into(), Expect::Absent)
        .await?;
    let count = |_| {
        let store = Arc::clone(store);
        tokio::spawn(async move {
            for _ in 0..COUNTS_EACH {
                count_one(store.as_ref()).await?;
            }
            Ok::<_, Violation>(())
        })
    };
    let counters: Vec<_> = (0..RACERS).map(count).collect();
    for counter in counters {
        counter.await.map_err(|error| Violation::Failed(error.into()))??;
    }
    let (counted, _) = read_count(store.as_ref()).await?;
    ensure(
        counted == RACERS * COUNTS_EACH,
        "of many that change a value by its revision, no change is lost",
    )?;
    clear(store.as_ref()).await
}

/// Each failed try means that another succeeded, so this many tries are enough for everybody.
async fn count_one(store: &dyn MetaStore) -> Checked {
    for _ in 0..=RACERS * COUNTS_EACH {
        let (count, revision) = read_count(store).await?;
        let next = (count + 1).to_be_bytes().into();
        match store.put(&key("count"), next, Expect::Revision(revision)).await {
            Ok(_) => return Ok(()),
            Err(MetaError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    ensure(false, "a conflict means that another put was made")
}

async fn read_count(store: &dyn MetaStore) -> Result<(u64, u64), Violation> {
    let missing = Violation::Broken {
        promise: "a value comes back as it was put, with its revision",
    };
    let found = store.get(&key("count")).await?;
    let read = found.and_then(|entry| Some((u64::from_be_bytes(entry.value.try_into().ok()?), entry.revision)));
    read.ok_or(missing)
}

#[cfg(test)]
mod tests;
