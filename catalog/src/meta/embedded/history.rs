//! The last changes of the store, for those who watch it.
//!
//! Why one history for all and not a queue for each watch: its size is bounded once, whoever watches and however
//! slowly. A watch that falls behind its beginning starts anew.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::super::{Entry, WatchEvent};

/// The most changes that are kept.
const MAX_CHANGES: usize = 4096;

/// The most bytes of keys and values that are kept.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// The most changes that a watch takes at once.
const BATCH_CHANGES: usize = 64;

/// A put, or without a value a delete.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) key: String,
    pub(super) value: Option<Vec<u8>>,
    pub(super) revision: u64,
}

impl Change {
    pub(super) fn event(&self) -> WatchEvent {
        let (key, revision) = (self.key.clone(), self.revision);
        match self.value.clone() {
            Some(value) => WatchEvent::Put {
                key,
                entry: Entry { value, revision },
            },
            None => WatchEvent::Delete { key, revision },
        }
    }

    fn bytes(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Vec::len)
    }
}

/// The number of the next change that a watch wants to see; changes are numbered from the opening of the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cursor(u64);

/// What came since a [`Cursor`].
pub(super) enum Since {
    /// These, and maybe more.
    Changes(Vec<Arc<Change>>),
    /// More than is kept.
    Forgotten,
}

/// The last changes.
pub(super) struct History {
    kept: Mutex<Kept>,
    news: watch::Sender<()>,
}

#[derive(Default)]
struct Kept {
    /// The number of the first change that is kept.
    first: u64,
    changes: VecDeque<Arc<Change>>,
    bytes: usize,
}

impl History {
    pub(super) fn new() -> Self {
        Self {
            kept: Mutex::default(),
            news: watch::Sender::new(()),
        }
    }

    /// Tells of each addition.
    pub(super) fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    /// Adds what was changed, in the order of the revisions.
    pub(super) fn add(&self, changes: Vec<Change>) {
        self.kept.lock().add(changes);
        self.news.send_replace(());
    }

    /// Behind the last change.
    pub(super) fn end(&self) -> Cursor {
        self.kept.lock().end()
    }

    /// What came since, some of it at a time; moves the cursor behind what it gives.
    pub(super) fn since(&self, cursor: &mut Cursor) -> Since {
        self.kept.lock().since(cursor)
    }
}

impl Kept {
    fn add(&mut self, changes: Vec<Change>) {
        for change in changes {
            self.bytes += change.bytes();
            self.changes.push_back(Arc::new(change));
        }
        while self.changes.len() > MAX_CHANGES || self.bytes > MAX_BYTES {
            let Some(oldest) = self.changes.pop_front() else { break };
            self.bytes -= oldest.bytes();
            self.first += 1;
        }
    }

    fn end(&self) -> Cursor {
        Cursor(self.first + to_u64(self.changes.len()))
    }

    fn since(&self, cursor: &mut Cursor) -> Since {
        let Some(seen) = cursor.0.checked_sub(self.first) else {
            return Since::Forgotten;
        };
        let seen = usize::try_from(seen).unwrap_or(usize::MAX);
        let changes: Vec<_> = self.changes.iter().skip(seen).take(BATCH_CHANGES).cloned().collect();
        cursor.0 += to_u64(changes.len());
        Since::Changes(changes)
    }
}

/// A count of things in memory never exceeds what 64 bits hold.
fn to_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(revision: u64, bytes: usize) -> Change {
        Change {
            key: String::new(),
            value: Some(vec![0; bytes]),
            revision,
        }
    }

    #[test]
    fn it_is_bounded_in_number_and_bytes_and_says_what_it_forgot() {
        let history = History::new();
        let mut cursor = history.end();
        let too_many = u64::try_from(MAX_CHANGES).unwrap() + 1;
        history.add((0..too_many).map(|revision| change(revision, 0)).collect());
        assert!(matches!(history.since(&mut cursor), Since::Forgotten));
        assert_eq!(history.kept.lock().changes.len(), MAX_CHANGES);
        let mut cursor = history.end();
        history.add((0..17).map(|revision| change(revision, 1024 * 1024)).collect());
        assert!(matches!(history.since(&mut cursor), Since::Forgotten));
        assert_eq!(history.kept.lock().changes.len(), 16);
        assert_eq!(history.kept.lock().bytes, MAX_BYTES);
    }

    #[test]
    fn a_cursor_sees_each_change_once() {
        let history = History::new();
        let mut cursor = history.end();
        let mut seen = Vec::new();
        history.add((0..100).map(|revision| change(revision, 1)).collect());
        loop {
            let Since::Changes(changes) = history.since(&mut cursor) else {
                panic!("nothing was forgotten");
            };
            if changes.is_empty() {
                break;
            }
            assert!(changes.len() <= BATCH_CHANGES);
            seen.extend(changes.iter().map(|change| change.revision));
        }
        assert_eq!(seen, (0..100).collect::<Vec<_>>());
        assert_eq!(cursor, history.end());
    }
}
