//! The policy's entries: one slab, threaded onto doubly linked lists by slot. Moving an entry allocates nothing.

use std::array;

/// A list of the shelf.
pub(super) type List = u16;

/// How many of its latest accesses an entry remembers.
pub(super) const SEEN_MAX: usize = 4;

/// "No entry": the end of a list.
const NONE: usize = usize::MAX;

/// One key's history, and its bytes while it is resident.
#[derive(Debug, Clone)]
pub(super) struct Entry<K> {
    pub(super) key: K,
    /// 0 is a ghost: a key that is remembered and not resident.
    pub(super) bytes: u64,
    /// The clock at its latest accesses, newest first; only the first `known` count, or the start where there are none.
    seen: [u64; SEEN_MAX],
    known: u8,
    list: List,
    newer: usize,
    older: usize,
}

impl<K> Entry<K> {
    /// A ghost whose first access is `now`.
    pub(super) fn ghost(key: K, now: u64) -> Self {
        Self {
            key,
            bytes: 0,
            seen: [now; SEEN_MAX],
            known: 1,
            list: 0,
            newer: NONE,
            older: NONE,
        }
    }

    /// Forgets all accesses, for a key that was there before anything was seen.
    pub(super) fn forget(&mut self) {
        self.known = 0;
    }

    /// Pushes an access in front of the history.
    pub(super) fn record(&mut self, now: u64) {
        self.seen = array::from_fn(|at| if at == 0 { now } else { self.seen[at - 1] });
        self.known = (self.known + 1).min(4);
    }

    /// How many accesses are known, at most [`SEEN_MAX`]; 0 for a restored key.
    pub(super) fn known(&self) -> usize {
        usize::from(self.known)
    }

    /// The latest access, or the start.
    pub(super) fn last(&self) -> u64 {
        self.seen[0]
    }

    /// How long ago the access before the `back` latest ones was; `None` when it is not known.
    pub(super) fn since(&self, back: usize, now: u64) -> Option<u64> {
        (back < self.known().max(1)).then(|| now.saturating_sub(self.seen[back]))
    }

    /// The mean distance between its known accesses; `None` for a key that was seen once.
    pub(super) fn mean_distance(&self) -> Option<u64> {
        let gaps = u64::from(self.known).checked_sub(1).filter(|&gaps| gaps > 0)?;
        Some(self.since(self.known() - 1, self.last())? / gaps)
    }

    /// The mean distance between its known accesses if the next one came `now`.
    pub(super) fn spacing(&self, now: u64) -> u64 {
        self.since(self.known().saturating_sub(1), now).unwrap_or(0) / u64::from(self.known.max(1))
    }
}

/// The slab and its lists, each from its newest to its oldest entry.
#[derive(Debug)]
pub(super) struct Shelf<K> {
    entries: Vec<Entry<K>>,
    vacant: Vec<usize>,
    ends: Vec<Ends>,
}

#[derive(Debug, Clone, Copy)]
struct Ends {
    newest: usize,
    oldest: usize,
}

impl<K> Shelf<K> {
    /// An empty shelf of that many lists.
    pub(super) fn new(lists: List) -> Self {
        let ends = vec![
            Ends {
                newest: NONE,
                oldest: NONE
            };
            usize::from(lists)
        ];
        Self {
            entries: Vec::new(),
            vacant: Vec::new(),
            ends,
        }
    }

    pub(super) fn get(&self, slot: usize) -> &Entry<K> {
        &self.entries[slot]
    }

    pub(super) fn get_mut(&mut self, slot: usize) -> &mut Entry<K> {
        &mut self.entries[slot]
    }

    /// Stores an entry that is on no list yet.
    pub(super) fn insert(&mut self, entry: Entry<K>) -> usize {
        if let Some(slot) = self.vacant.pop() {
            self.entries[slot] = entry;
            return slot;
        }
        self.entries.push(entry);
        self.entries.len() - 1
    }

    /// Gives back the slot of an entry that is on no list.
    pub(super) fn release(&mut self, slot: usize) {
        self.vacant.push(slot);
    }

    /// The oldest entry of a list.
    pub(super) fn oldest(&self, list: List) -> Option<usize> {
        Some(self.ends[usize::from(list)].oldest).filter(|&slot| slot != NONE)
    }

    /// The entry that is next newer than this one on its list.
    pub(super) fn newer(&self, slot: usize) -> Option<usize> {
        Some(self.entries[slot].newer).filter(|&newer| newer != NONE)
    }

    /// Puts an entry at the new end of a list.
    pub(super) fn push_newest(&mut self, list: List, slot: usize) {
        let older = self.ends[usize::from(list)].newest;
        self.link(list, slot, NONE, older);
    }

    /// Puts an entry at the old end of a list, as if it had never left it.
    pub(super) fn push_oldest(&mut self, list: List, slot: usize) {
        let newer = self.ends[usize::from(list)].oldest;
        self.link(list, slot, newer, NONE);
    }

    /// Takes an entry off its list, and says which that was.
    pub(super) fn unlink(&mut self, slot: usize) -> List {
        let Entry { list, newer, older, .. } = self.entries[slot];
        self.set_older(list, newer, older);
        self.set_newer(list, older, newer);
        list
    }

    /// How many slots there are, vacant ones included.
    #[cfg(test)]
    pub(super) fn slots(&self) -> usize {
        self.entries.len()
    }

    fn link(&mut self, list: List, slot: usize, newer: usize, older: usize) {
        let entry = &mut self.entries[slot];
        (entry.list, entry.newer, entry.older) = (list, newer, older);
        self.set_older(list, newer, slot);
        self.set_newer(list, older, slot);
    }

    fn set_older(&mut self, list: List, slot: usize, older: usize) {
        match self.entries.get_mut(slot) {
            Some(entry) => entry.older = older,
            None => self.ends[usize::from(list)].newest = older,
        }
    }

    fn set_newer(&mut self, list: List, slot: usize, newer: usize) {
        match self.entries.get_mut(slot) {
            Some(entry) => entry.newer = newer,
            None => self.ends[usize::from(list)].oldest = newer,
        }
    }
}
