//! What one folder may hold and holds: the policy's bytes, the tables' bytes, and the bound that a full disk sets.
//!
//! The policy decides about extents. Tables are no extents: they are paid for out of the capacity before the policy is
//! told what is left, since a table goes when its file's last page goes and not before.

use std::time::{Duration, Instant};

use crate::key::FileId;
use crate::policy::{Decision, Offer, ScopedPolicy};
use crate::retention::Quota;

/// For how long a disk that was full is taken to be full.
const FULL_RETRY: Duration = Duration::from_secs(10 * 60);

/// Pages of a file that follow one another ([`EXTENT_PAGES`](super::presence::EXTENT_PAGES)): the unit of eviction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Extent {
    pub(super) file: FileId,
    pub(super) index: u64,
}

/// The account of a folder. All bytes are as the file system allocates them.
#[derive(Debug)]
pub(super) struct Account {
    policy: ScopedPolicy<Extent>,
    capacity_bytes: u64,
    table_bytes: u64,
    /// What the policy was told.
    room: u64,
    full: Option<Full>,
}

/// A disk had no space left for more than this.
#[derive(Debug, Clone, Copy)]
struct Full {
    held_bytes: u64,
    until: Instant,
}

impl Account {
    pub(super) fn new(capacity_bytes: u64) -> Self {
        Self {
            policy: ScopedPolicy::new(capacity_bytes),
            capacity_bytes,
            table_bytes: 0,
            room: capacity_bytes,
            full: None,
        }
    }

    pub(super) fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }

    pub(super) fn held_bytes(&self) -> u64 {
        self.policy.bytes() + self.table_bytes
    }

    /// Asks to keep so many bytes more of an extent: whether to, and what has to go.
    pub(super) fn offer(&mut self, extent: Extent, bytes: u64, offer: Offer, now: Instant) -> Decision<Extent> {
        let mut victims = self.look_at_room(now);
        let decision = self.policy.offer(extent, bytes, offer);
        victims.extend(decision.evicted);
        Decision {
            evicted: victims,
            ..decision
        }
    }

    /// The room may be another than at the last time, and what was evicted may have been put back by a part that was dropped
    /// meanwhile. Returns what has to go.
    fn look_at_room(&mut self, now: Instant) -> Vec<Extent> {
        if self.full.is_some_and(|full| now >= full.until) {
            self.full = None;
        }
        self.enforce()
    }

    /// Protects an extent anew, as if it was demanded now.
    pub(super) fn protect(&mut self, extent: Extent, by: u64) {
        self.policy.protect(extent, Some(by));
    }

    /// Says anew which extents are pinned, and gives what has to go; those of files of which nothing is said stay as they
    /// are.
    #[must_use = "what is evicted has to be dropped"]
    pub(super) fn set_pins(&mut self, is_pinned: impl Fn(FileId) -> Option<bool>, now: Instant) -> Vec<Extent> {
        let mut victims = self.look_at_room(now);
        victims.extend(self.policy.set_pins(|extent| is_pinned(extent.file)));
        victims
    }

    pub(super) fn pinned_bytes(&self) -> u64 {
        self.policy.pinned_bytes()
    }

    pub(super) fn touch(&mut self, extent: Extent) {
        self.policy.touch(extent);
    }

    /// Says what is left of an extent after pages of it went, or did not come. One that the policy itself evicted is
    /// none of its residents any more, and is not mentioned: it may remember what it evicted, and would forget it.
    pub(super) fn resize(&mut self, extent: Extent, bytes: u64) {
        if self.policy.contains(&extent) || bytes > 0 {
            self.policy.resize(extent, bytes);
        }
    }

    /// Says anew which extents have which quota, and gives what has to go.
    #[must_use = "what is evicted has to be dropped"]
    pub(super) fn set_quotas(&mut self, quota_of: impl Fn(FileId) -> Option<Quota>, now: Instant) -> Vec<Extent> {
        let mut victims = self.look_at_room(now);
        victims.extend(self.policy.set_quotas(|extent| quota_of(extent.file)));
        victims
    }

    /// Takes what was found on disk as held, for [`Account::enforce`] to cut down.
    pub(super) fn restore(&mut self, extent: Extent, bytes: u64) {
        self.policy.restore(extent, bytes);
    }

    pub(super) fn restore_tables(&mut self, bytes: u64) {
        self.table_bytes += bytes;
    }

    /// Pays for parts of tables, and returns what has to go for them.
    #[must_use = "what is evicted has to be dropped"]
    pub(super) fn charge_tables(&mut self, bytes: u64) -> Vec<Extent> {
        self.table_bytes += bytes;
        self.enforce()
    }

    /// What this leaves room for is seen at the next [`Account::offer`].
    pub(super) fn release_tables(&mut self, bytes: u64) {
        self.table_bytes = self.table_bytes.saturating_sub(bytes);
    }

    /// Returns what has to go.
    #[must_use = "what is evicted has to be dropped"]
    pub(super) fn set_capacity(&mut self, bytes: u64) -> Vec<Extent> {
        self.capacity_bytes = bytes;
        self.enforce()
    }

    /// Keeps no more than is held now, for a while: the disk is full. Whether that is news.
    pub(super) fn disk_is_full(&mut self, now: Instant) -> bool {
        let news = self.full.is_none();
        self.full = Some(Full {
            held_bytes: self.held_bytes(),
            until: now + FULL_RETRY,
        });
        news
    }

    /// Tells the policy what is left for it, and returns what has to go.
    #[must_use = "what is evicted has to be dropped"]
    pub(super) fn enforce(&mut self) -> Vec<Extent> {
        let bound = self.full.map_or(u64::MAX, |full| full.held_bytes);
        let room = self.capacity_bytes.min(bound).saturating_sub(self.table_bytes);
        if room == self.room && self.policy.bytes() <= room {
            return Vec::new();
        }
        self.room = room;
        self.policy.set_capacity(room)
    }

    /// Forgets everything that is held.
    pub(super) fn reset(&mut self) {
        *self = Self::new(self.capacity_bytes);
    }
}
