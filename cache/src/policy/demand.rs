//! What is kept because somebody said so, and not by merit: demanded keys and pinned ones.
//!
//! A *demanded* key comes in whatever the policy thinks of strangers. Others go for it: first those that are kept by
//! merit, the worst of them first, then what was demanded before by others, the oldest first. It is *protected* until a
//! capacity's worth of accesses has passed, demands not counted, against everything but later demands and the memory
//! budget; from then on it competes as if it had been accessed at that moment. A demand does not evict what the same
//! one demanded: of a set that is larger than the cache the first part stays and the rest is refused, instead of all of
//! it passing through.
//!
//! A *pinned* key goes for nothing at all.
//!
//! Both are on lists of their own, in the order in which they were demanded, which is the order in which protection ends.
//! So the choice of victims looks at one entry more, and what ends is found at the old end of its list.

use std::hash::Hash;

use super::{PINNED, PROTECTED, Policy, Verdict};

/// Why a resident is no ordinary one.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Guard {
    pub(super) pinned: bool,
    /// The clock at which protection ends; 0 where nobody demanded it.
    pub(super) until: u64,
    /// Who demanded it.
    by: Option<u64>,
}

impl<K: Copy + Eq + Hash> Policy<K> {
    /// Takes a key in, or lets it grow by `bytes`, or protects anew what is resident (0 bytes). `by` is whose demand it is,
    /// which evicts nothing that is its own; without it everything that is not pinned may go.
    ///
    /// Refused where it cannot fit beside what may not go for it.
    pub fn demand(&mut self, key: K, bytes: u64, by: Option<u64>) -> Verdict<K> {
        let total = self.bytes_of(&key).saturating_add(bytes);
        if total > self.capacity_bytes || total == 0 {
            return Verdict::Refused;
        }
        // A demand is no access: time does not pass by it, or the first of a large set would be unprotected by its last, and
        // nothing is learnt from it of when the key comes back.
        let slot = match self.slots.get(&key) {
            Some(&slot) => slot,
            None => self.remember(key),
        };
        self.note_access(slot);
        self.shelf.unlink(slot);
        let verdict = match self.make_way(bytes, by) {
            Some(evicted) => {
                self.grow(slot, bytes);
                let guard = self.guards.entry(slot).or_default();
                guard.until = self.clock.saturating_add(self.capacity_bytes);
                guard.by = by;
                Verdict::Admitted { evicted }
            }
            None => Verdict::Refused,
        };
        self.shelve(slot);
        self.trim_ghosts();
        verdict
    }

    /// Whether a resident goes for nothing from now on; of anything else it is nothing.
    ///
    /// Nothing is evicted, and pins may have held more than the capacity: call [`Policy::set_capacity`] when all is said.
    pub fn pin(&mut self, key: &K, pinned: bool) {
        let Some(&slot) = self.slots.get(key) else { return };
        let bytes = self.shelf.get(slot).bytes;
        if bytes == 0 || self.is_pinned(slot) == pinned {
            return;
        }
        self.shelf.unlink(slot);
        if pinned {
            self.pinned_bytes += bytes;
            self.guards.entry(slot).or_default().pinned = true;
        } else {
            self.pinned_bytes -= bytes;
            self.unpin(slot);
        }
        self.shelve(slot);
    }

    /// The bytes of residents that are pinned.
    #[must_use]
    pub fn pinned_bytes(&self) -> u64 {
        self.pinned_bytes
    }

    /// Whether a key is pinned.
    pub(super) fn has_pinned(&self, key: &K) -> bool {
        self.slots.get(key).is_some_and(|slot| self.is_pinned(*slot))
    }

    /// Whether what has this slot is pinned.
    pub(super) fn is_pinned(&self, slot: usize) -> bool {
        self.guards.get(&slot).is_some_and(|guard| guard.pinned)
    }

    /// Ends protection that is over, at the clock of now.
    pub(super) fn end_protection(&mut self) {
        while let Some(slot) = self.shelf.oldest(PROTECTED) {
            let until = self.guards.get(&slot).map_or(0, |guard| guard.until);
            if until > self.clock {
                return;
            }
            self.shelf.unlink(slot);
            self.guards.remove(&slot);
            self.note_access(slot);
            self.shelve(slot);
        }
    }

    /// The resident that goes first where anything may go that is not pinned: ordinary ones, then those protected.
    pub(super) fn worst_of_all(&self) -> Option<usize> {
        let view = self.view();
        self.worst(&view, |_| true).or_else(|| self.shelf.oldest(PROTECTED))
    }

    /// Whose demand a resident was; none where it is not protected.
    pub(super) fn demanded_by(&self, key: &K) -> Option<Option<u64>> {
        let guard = self.guards.get(self.slots.get(key)?)?;
        (guard.until > self.clock).then_some(guard.by)
    }

    /// Evicts for `bytes` more; `None`, and all as it was, where that is not to be had.
    fn make_way(&mut self, bytes: u64, by: Option<u64>) -> Option<Vec<K>> {
        let mut missing = self.bytes.saturating_add(bytes).saturating_sub(self.capacity_bytes);
        let mut victims = Vec::new();
        while missing > 0 {
            let is_own = |slot: &usize| by.is_some() && self.guards.get(slot).is_some_and(|guard| guard.by == by);
            let victim = self.worst_of_all().filter(|slot| !is_own(slot));
            let Some(victim) = victim else {
                let back = victims.into_iter().rev();
                back.for_each(|(list, slot)| self.shelf.push_oldest(list, slot));
                return None;
            };
            missing = missing.saturating_sub(self.shelf.get(victim).bytes);
            victims.push((self.shelf.unlink(victim), victim));
        }
        Some(victims.into_iter().map(|(_, slot)| self.bury(slot)).collect())
    }

    /// Records an access of what may be on no list, from which nothing is learnt.
    fn note_access(&mut self, slot: usize) {
        if !self.in_burst(self.shelf.get(slot)) {
            let now = self.clock;
            self.shelf.get_mut(slot).record(now);
        }
    }

    /// What was demanded and is not pinned any more is protected anew, so that its list stays in order; anything else is
    /// ordinary, as if it had been accessed now.
    fn unpin(&mut self, slot: usize) {
        let until = self.clock.saturating_add(self.capacity_bytes);
        match self.guards.get_mut(&slot) {
            Some(guard) if guard.until > self.clock => {
                guard.pinned = false;
                guard.until = until;
            }
            _ => {
                self.guards.remove(&slot);
                self.note_access(slot);
            }
        }
    }

    /// The list of a resident that is no ordinary one.
    pub(super) fn guarded_list(&self, slot: usize) -> Option<super::List> {
        let guard = self.guards.get(&slot)?;
        Some(if guard.pinned { PINNED } else { PROTECTED })
    }
}
