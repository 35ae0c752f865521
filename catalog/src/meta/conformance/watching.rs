//! That a watch sees each change once and in order, whenever it began.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Checked, PREFIX, Violation, clear, ensure, key, next};
use crate::meta::{Entry, Expect, MAX_VALUE_BYTES, MetaStore, Watch, WatchEvent};

/// How many tasks change keys while watches begin.
const WRITERS: u64 = 4;

/// How many changes each of them makes.
const CHANGES_EACH: u64 = 40;

/// How many watches begin while they do.
const WATCHES: usize = 8;

/// How many values of the greatest length a watch lets wait: more bytes than a store should keep for it.
const UNREAD_VALUES: u8 = 24;

pub(super) async fn check(store: &Arc<dyn MetaStore>) -> Checked {
    a_prefix_is_watched_and_nothing_else(store.as_ref()).await?;
    each_change_is_seen_once_from_any_moment(store).await?;
    who_reads_late_still_learns_what_is(store.as_ref()).await
}

async fn a_prefix_is_watched_and_nothing_else(store: &dyn MetaStore) -> Checked {
    let before = store.put(&key("w/before"), vec![0], Expect::Absent).await?;
    store.put(&key("w"), vec![0], Expect::Absent).await?;
    let mut watch = store.watch(&key("w/"));
    let WatchEvent::Reset { entries, revision } = next(&mut watch).await? else {
        return ensure(false, "a watch begins with all there is");
    };
    ensure(
        entries.len() == 1 && entries[0].0 == key("w/before") && entries[0].1.revision == before,
        "a reset holds the keys with the prefix",
    )?;
    ensure(revision >= before, "a reset tells the revision of its moment")?;
    store.put(&key("w"), vec![1], Expect::Any).await?;
    store.put(&key("w0"), vec![1], Expect::Any).await?;
    let big = Entry {
        value: vec![7; MAX_VALUE_BYTES],
        revision: store.put(&key("w/b"), vec![7; MAX_VALUE_BYTES], Expect::Any).await?,
    };
    store.delete(&key("w/none"), Expect::Any).await?;
    store.delete(&key("w/before"), Expect::Any).await?;
    let last = store.put(&key("w/b"), Vec::new(), Expect::Any).await?;
    ensure(
        matches!(next(&mut watch).await?, WatchEvent::Put { key: name, entry } if name == key("w/b") && entry == big),
        "a watch tells of a put as it was, and of none without the prefix",
    )?;
    let deleted = next(&mut watch).await?;
    ensure(
        matches!(&deleted, WatchEvent::Delete { key: name, revision }
            if *name == key("w/before") && *revision > big.revision && *revision < last),
        "a watch tells of a delete, with a revision of its own; of what was not there it tells none",
    )?;
    ensure(
        matches!(next(&mut watch).await?, WatchEvent::Put { entry, .. } if entry.revision == last),
        "a watch tells of changes in their order",
    )?;
    clear(store).await
}

async fn each_change_is_seen_once_from_any_moment(store: &Arc<dyn MetaStore>) -> Checked {
    let whole = Seen::begin(store.as_ref()).await?;
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| tokio::spawn(write(Arc::clone(store), writer)))
        .collect();
    let mut watches = vec![whole];
    for _ in 0..WATCHES {
        watches.push(Seen::begin(store.as_ref()).await?);
    }
    for writer in writers {
        writer.await.map_err(|error| Violation::Failed(error.into()))??;
    }
    let last = store.put(&key("last"), vec![1], Expect::Any).await?;
    let listed: BTreeMap<_, _> = store.list(PREFIX).await?.into_iter().collect();
    let mut all = Vec::new();
    for (number, mut seen) in watches.into_iter().enumerate() {
        seen.read_until(last).await?;
        ensure(seen.now == listed, "what a watch told is what is there")?;
        if number == 0 {
            all = seen.revisions;
            continue;
        }
        let since: Vec<_> = all.iter().copied().filter(|revision| *revision > seen.began).collect();
        ensure(
            seen.revisions == since,
            "a watch sees each change once, from whatever moment it began",
        )?;
    }
    clear(store.as_ref()).await
}

async fn write(store: Arc<dyn MetaStore>, writer: u64) -> Checked {
    for i in 0..CHANGES_EACH {
        let name = key(&format!("many/{writer}/{}", i % 5));
        if i % 4 == 3 {
            store.delete(&name, Expect::Any).await?;
        } else {
            store.put(&name, i.to_be_bytes().into(), Expect::Any).await?;
        }
    }
    Ok(())
}

async fn who_reads_late_still_learns_what_is(store: &dyn MetaStore) -> Checked {
    let mut seen = Seen::begin(store).await?;
    let mut last = 0;
    for i in 0..UNREAD_VALUES {
        let name = key(&format!("late/{i}"));
        last = store.put(&name, vec![i; MAX_VALUE_BYTES], Expect::Any).await?;
        store.delete(&name, Expect::Revision(last)).await?;
    }
    last = store.put(&key("late/last"), vec![1], Expect::Any).await?.max(last);
    seen.read_until(last).await?;
    let listed: BTreeMap<_, _> = store.list(PREFIX).await?.into_iter().collect();
    ensure(
        seen.now == listed,
        "who reads a watch late learns what is there nevertheless",
    )?;
    clear(store).await
}

/// What a consumer of a watch knows.
struct Seen {
    watch: Watch,
    now: BTreeMap<String, Entry>,
    /// The revision of the last reset.
    began: u64,
    /// Those of the changes that came after it.
    revisions: Vec<u64>,
}

impl Seen {
    async fn begin(store: &dyn MetaStore) -> Result<Self, Violation> {
        let mut seen = Self {
            watch: store.watch(PREFIX),
            now: BTreeMap::new(),
            began: 0,
            revisions: Vec::new(),
        };
        let first = next(&mut seen.watch).await?;
        ensure(
            matches!(first, WatchEvent::Reset { .. }),
            "a watch begins with all there is",
        )?;
        seen.learn(first)?;
        Ok(seen)
    }

    async fn read_until(&mut self, revision: u64) -> Checked {
        while self.last() < revision {
            let event = next(&mut self.watch).await?;
            self.learn(event)?;
        }
        Ok(())
    }

    fn last(&self) -> u64 {
        self.revisions.last().copied().unwrap_or(self.began)
    }

    fn learn(&mut self, event: WatchEvent) -> Checked {
        let last = self.last();
        let revision = match event {
            WatchEvent::Reset { entries, revision } => {
                self.now = entries.into_iter().collect();
                self.began = revision;
                self.revisions.clear();
                return ensure(revision >= last, "a reset never goes back");
            }
            WatchEvent::Put { key, entry } => {
                let revision = entry.revision;
                self.now.insert(key, entry);
                revision
            }
            WatchEvent::Delete { key, revision } => {
                ensure(
                    self.now.remove(&key).is_some(),
                    "a watch tells of deletes of what is there alone",
                )?;
                revision
            }
            WatchEvent::Away(error) | WatchEvent::Foreign(error) => return Err(error.into()),
        };
        self.revisions.push(revision);
        ensure(
            revision > last,
            "a watch tells of changes in the order of their revisions",
        )
    }
}
