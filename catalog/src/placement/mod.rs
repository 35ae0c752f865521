//! Placement: which worker owns a split. A pure function of an epoch's seats and a dataset's splits.
//!
//! | file | what is in it |
//! |---|---|
//! | `placement/mod.rs` | the function as others call it |
//! | `placement/key.rs` | the numbers of files and splits |
//! | `placement/seats.rs` | slots and who sits in them; how a join or a leave changes them |
//! | `placement/table.rs` | what is computed once for an epoch |
//! | `placement/rank.rs` | weighted rendezvous hashing in integers |
//! | `placement/file.rs` | the splits of one file over the slots |
//! | `placement/bound.rs` | the bound on a slot's part of a dataset of many files |
//! | `placement/heat.rs` | which splits are read so much that they deserve more replicas |
//!
//! `catalog/PLACEMENT.md` defines the function so that it can be written again in another language, has its
//! figures, and says what was tried instead.
//!
//! Why not rendezvous hashing alone: over 3 workers, the splits of a file of 49 are out of balance by more than a
//! quarter in 3 files of 10, and any bound put on that moves more splits at a join than the newcomer gets.

mod bound;
mod file;
pub mod heat;
mod key;
mod rank;
mod seats;
mod table;

use std::sync::Arc;

pub use heat::{Heat, HeatSettings};
pub use key::{FileKey, MAX_SPLIT_BYTES, SplitKey, SplitLoad};
pub use seats::{MAX_NODE_ID_BYTES, MAX_SEATS, NodeId, Seat, Seats, SeatsError};

use file::FilePlacer;
use key::to_usize;
use table::Table;

/// The slots of a replica group; the last group has the rest, up to twice as many less one.
const GROUP_SLOTS: u32 = 4;

/// Who owns what under one epoch. Clones are cheap.
#[derive(Debug, Clone)]
pub struct Placement(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    epoch: u64,
    seats: Seats,
    table: Table,
}

impl Placement {
    /// The placement of an epoch with these seats.
    #[must_use]
    pub fn new(epoch: u64, seats: Seats) -> Self {
        let table = Table::new(&seats);
        Self(Arc::new(Inner { epoch, seats, table }))
    }

    /// The number of the epoch.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.0.epoch
    }

    /// The seats, by slot.
    #[must_use]
    pub fn seats(&self) -> &Seats {
        &self.0.seats
    }

    /// Who sits in a slot; `None` when it is vacant or does not exist.
    #[must_use]
    pub fn seat(&self, slot: u32) -> Option<&Seat> {
        let known = self.0.table.slots.get(to_usize(slot))?;
        if known.is_taken() {
            self.0.seats.slots().get(to_usize(slot))
        } else {
            None
        }
    }

    /// The slots that suit a key best, best first: at most `count`, and no more than there are seats. For what
    /// belongs to no dataset; it knows no bounds, and differs from what [`Self::assign`] says.
    #[must_use]
    pub fn ranked(&self, key: u64, count: usize) -> Vec<u32> {
        self.rank(key, self.0.table.taken.iter().copied(), count)
    }

    /// The owners of each split of a dataset: its owner, then `replicas - 1` others, fewer when there are fewer
    /// seats; none when there are no seats.
    ///
    /// A file's splits must stand together, and all of them must be there, whichever of them are to be read: a
    /// split's owner depends on its file's other splits, and on other files only where a bound is exceeded.
    #[must_use]
    pub fn assign(&self, splits: &[SplitLoad], replicas: usize) -> Assignment {
        let table = &self.0.table;
        let each = replicas.max(1).min(table.taken.len());
        let mut owners = Vec::with_capacity(splits.len());
        if each == 0 {
            return Assignment {
                owners,
                each,
                splits: splits.len(),
            };
        }
        let mut placer = FilePlacer::new(table);
        let mut files = 0;
        for file in splits.chunk_by(|one, other| one.file == other.file) {
            placer.place(file, &mut owners);
            files += 1;
        }
        if files > 1 {
            bound::apply(table, splits, &mut owners);
        }
        if each > 1 {
            owners = self.with_replicas(splits, &owners, each);
        }
        Assignment {
            owners,
            each,
            splits: splits.len(),
        }
    }

    /// Who stands in for a split's owner, in order: at most `count`, and no more than there are other seats. The
    /// replicas are the first of these.
    ///
    /// They are sought in the owner's group of slots first, then in the groups behind it. So few pairs of workers
    /// hold anything between them, and the loss of a few workers rarely takes all replicas of a split.
    #[must_use]
    pub fn replicas(&self, owner: u32, key: SplitKey, count: usize) -> Vec<u32> {
        let groups = (self.slots() / GROUP_SLOTS).max(1);
        let first = (owner / GROUP_SLOTS).min(groups - 1);
        let mut found = Vec::new();
        for group in (first..groups).chain(0..first) {
            if found.len() >= count {
                break;
            }
            let end = if group + 1 == groups {
                self.slots()
            } else {
                (group + 1) * GROUP_SLOTS
            };
            let others = (group * GROUP_SLOTS..end).filter(|slot| *slot != owner && self.seat(*slot).is_some());
            found.extend(self.rank(key.0, others, count - found.len()));
        }
        found
    }

    fn slots(&self) -> u32 {
        key::to_u32(self.0.table.slots.len())
    }

    fn rank(&self, key: u64, slots: impl Iterator<Item = u32>, count: usize) -> Vec<u32> {
        let mut scores: Vec<_> = slots.map(|slot| self.0.table.score(key, slot)).collect();
        let count = count.min(scores.len());
        if count == 0 {
            return Vec::new();
        }
        if count < scores.len() {
            scores.select_nth_unstable_by(count - 1, |one, other| other.cmp(one));
            scores.truncate(count);
        }
        scores.sort_unstable_by(|one, other| other.cmp(one));
        scores.iter().map(rank::Score::slot).collect()
    }

    fn with_replicas(&self, splits: &[SplitLoad], owners: &[u32], each: usize) -> Vec<u32> {
        let mut all = Vec::with_capacity(owners.len() * each);
        for (split, owner) in splits.iter().zip(owners) {
            all.push(*owner);
            all.extend(self.replicas(*owner, split.key(), each - 1));
        }
        all
    }
}

/// The owners of the splits of a dataset, as slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    owners: Vec<u32>,
    each: usize,
    splits: usize,
}

impl Assignment {
    /// How many splits were placed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.splits
    }

    /// Whether no split was to be placed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.splits == 0
    }

    /// The slots of a split by its place in the list: its owner, then its replicas. Empty when there are no seats
    /// or no such split.
    #[must_use]
    pub fn owners(&self, split: usize) -> &[u32] {
        let first = split.saturating_mul(self.each);
        self.owners.get(first..first + self.each).unwrap_or(&[])
    }

    /// The owner of a split by its place in the list.
    #[must_use]
    pub fn owner(&self, split: usize) -> Option<u32> {
        self.owners(split).first().copied()
    }

    /// The slots of each split, in the order of the list.
    pub fn iter(&self) -> impl Iterator<Item = &[u32]> {
        (0..self.splits).map(|split| self.owners(split))
    }
}

#[cfg(test)]
mod tests;
