//! The splits of one file over the slots: even to within a split, and nothing moves but what must.
//!
//! The slots are filled as if they had been added one after the other, by number. A slot that is added takes its
//! share from the fullest of those before it, split by split; whether it takes the last one, which it has only a
//! part of a claim to, is drawn from file and slot. So adding a slot at the end moves its share to it and nothing
//! else. Then the vacant slots are emptied in the order in which they were vacated: each of their splits goes to
//! the slot that suits it best of those that are below their share. So vacating one more moves its share and
//! nothing else, and who takes the slot vacated last gets back just that.
//!
//! Splits are lined up by multiples of the golden ratio, so that neighbours in the file are on different slots.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use super::key::{FileKey, GOLDEN, SplitLoad, mix, to_u32, to_usize};
use super::table::Table;

/// The end of a list.
const NONE: u32 = u32::MAX;

/// A slot that others may take from. The greatest is the fullest for its weight, its last split counted for as
/// much of it as was drawn: so of two slots with a split each, the one that had less of a claim to it gives it.
#[derive(Debug, Clone, Copy)]
struct Donor {
    /// Its load without the last split, and the drawn part of that, in units of 2^-32.
    fullness: u128,
    weight: u64,
    slot: u32,
}

impl Donor {
    fn new(slot: u32, weight: u64, draw: u64, (load, last): (u64, u64)) -> Self {
        let fullness = (u128::from(load - last) << 32) + u128::from(draw >> 32) * u128::from(last);
        Self { fullness, weight, slot }
    }
}

impl Ord for Donor {
    fn cmp(&self, other: &Self) -> Ordering {
        let mine = self.fullness * u128::from(other.weight);
        let theirs = other.fullness * u128::from(self.weight);
        mine.cmp(&theirs).then(other.slot.cmp(&self.slot))
    }
}

impl PartialOrd for Donor {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Donor {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Donor {}

/// Each slot's list of splits, last in first out.
#[derive(Debug)]
struct Lists {
    /// The split that each slot would give first.
    heads: Vec<u32>,
    /// For each split, the one behind it.
    next: Vec<u32>,
    loads: Vec<u64>,
}

impl Lists {
    fn clear(&mut self, splits: usize) {
        self.heads.fill(NONE);
        self.loads.fill(0);
        self.next.clear();
        self.next.resize(splits, NONE);
    }

    fn push(&mut self, slot: u32, split: u32, load: u64) {
        self.next[to_usize(split)] = self.heads[to_usize(slot)];
        self.heads[to_usize(slot)] = split;
        self.loads[to_usize(slot)] += load;
    }

    fn pop(&mut self, slot: u32, load: u64) {
        let head = &mut self.heads[to_usize(slot)];
        *head = self.next[to_usize(*head)];
        self.loads[to_usize(slot)] -= load;
    }

    fn load(&self, slot: u32) -> u64 {
        self.loads[to_usize(slot)]
    }

    fn head(&self, slot: u32) -> u32 {
        self.heads[to_usize(slot)]
    }
}

/// Places files one after the other; what it allocates is used again.
#[derive(Debug)]
pub(super) struct FilePlacer<'a> {
    table: &'a Table,
    lists: Lists,
    order: Vec<u32>,
    donors: BinaryHeap<Donor>,
}

impl<'a> FilePlacer<'a> {
    pub(super) fn new(table: &'a Table) -> Self {
        let slots = table.slots.len();
        let lists = Lists {
            heads: vec![NONE; slots],
            next: Vec::new(),
            loads: vec![0; slots],
        };
        Self {
            table,
            lists,
            order: Vec::new(),
            donors: BinaryHeap::new(),
        }
    }

    /// Puts the owner of each split of one file into `owners`. There must be a seat.
    pub(super) fn place(&mut self, splits: &[SplitLoad], owners: &mut Vec<u32>) {
        match splits {
            [] => {}
            [split] => owners.push(self.place_one(split)),
            [first, ..] => self.place_many(first.file, splits, owners),
        }
    }

    /// What [`Self::place_many`] comes to for one split, without lists.
    fn place_one(&self, split: &SplitLoad) -> u32 {
        let mut owner = 0;
        for (slot, known) in (0..).zip(&self.table.slots) {
            if mix(split.file.0, slot) >> 32 < known.chance {
                owner = slot;
            }
        }
        loop {
            let vacated = self.table.slot(owner).vacated;
            if vacated == u32::MAX {
                return owner;
            }
            let best = self.table.best(split.key().0, |_, known| known.vacated > vacated);
            let Some(best) = best else { return owner };
            owner = best;
        }
    }

    /// Places any number of splits.
    pub(super) fn place_many(&mut self, file: FileKey, splits: &[SplitLoad], owners: &mut Vec<u32>) {
        self.line_up(file, splits);
        let total: u64 = splits.iter().map(SplitLoad::load).sum();
        let least = splits.iter().map(SplitLoad::load).min().unwrap_or(1);
        let most_splits = total.div_ceil(least);
        for (slot, known) in (1..).zip(&self.table.slots[1..]) {
            let draw = mix(file.0, slot);
            // Most slots have a claim to less of a split than was drawn, in most files: they take nothing.
            if draw >> 32 < most_splits.saturating_mul(known.chance) {
                self.take(slot, file, total, splits);
            }
        }
        self.donors.clear();
        for (slot, left) in &self.table.vacant {
            self.give_up(*slot, total, *left, splits);
        }
        self.hand_over(splits.len(), owners);
    }

    /// Puts all splits on slot 0, lined up by the golden ratio.
    fn line_up(&mut self, file: FileKey, splits: &[SplitLoad]) {
        self.order.clear();
        self.order.extend(0..to_u32(splits.len()));
        self.order.sort_unstable_by_key(|split| {
            let index = splits[to_usize(*split)].index;
            (file.0.wrapping_add(u64::from(index).wrapping_mul(GOLDEN)), *split)
        });
        self.lists.clear(splits.len());
        for split in &self.order {
            self.lists.push(0, *split, splits[to_usize(*split)].load());
        }
        self.donors.clear();
        self.offer(0, mix(file.0, 0), splits);
    }

    /// Gives a new slot its share, from the fullest of those before it.
    fn take(&mut self, slot: u32, file: FileKey, total: u64, splits: &[SplitLoad]) {
        let draw = mix(file.0, slot);
        let known = self.table.slot(slot);
        let up_to = u128::from(known.up_to);
        let claim = u128::from(total) * u128::from(known.weight);
        while let Some(donor) = self.donors.peek() {
            let giver = donor.slot;
            let split = self.lists.head(giver);
            let load = splits[to_usize(split)].load();
            let mine = u128::from(self.lists.load(slot)) * up_to;
            let wanted = u128::from(load) * up_to;
            let whole = mine + wanted <= claim;
            if !whole && u128::from(draw >> 32) * wanted >= (claim - mine) << 32 {
                break;
            }
            self.lists.pop(giver, load);
            self.lists.push(slot, split, load);
            self.offer_less(giver, file, splits);
            if !whole {
                break;
            }
        }
        self.offer(slot, draw, splits);
    }

    /// Hands the splits of a vacant slot to those that are below their share.
    fn give_up(&mut self, slot: u32, total: u64, left: u64, splits: &[SplitLoad]) {
        let vacated = self.table.slot(slot).vacated;
        while self.lists.head(slot) != NONE {
            let split = self.lists.head(slot);
            let given = &splits[to_usize(split)];
            self.lists.pop(slot, given.load());
            let lists = &self.lists;
            let heir = self.table.best(given.key().0, |slot, known| {
                let load = u128::from(lists.load(slot)) * u128::from(left);
                known.vacated > vacated && load < u128::from(total) * u128::from(known.weight)
            });
            // One is always below its share: together they lack this split.
            if let Some(heir) = heir {
                self.lists.push(heir, split, given.load());
            }
        }
    }

    /// Puts a slot that has splits among those that others may take from.
    fn offer(&mut self, slot: u32, draw: u64, splits: &[SplitLoad]) {
        if let Some(donor) = self.donor(slot, draw, splits) {
            self.donors.push(donor);
        }
    }

    /// Puts the slot that has just given back in its place.
    fn offer_less(&mut self, slot: u32, file: FileKey, splits: &[SplitLoad]) {
        let donor = self.donor(slot, mix(file.0, slot), splits);
        let Some(mut first) = self.donors.peek_mut() else {
            return;
        };
        if let Some(donor) = donor {
            *first = donor;
        } else {
            PeekMut::pop(first);
        }
    }

    fn donor(&self, slot: u32, draw: u64, splits: &[SplitLoad]) -> Option<Donor> {
        let last = self.lists.head(slot);
        let last = splits.get(to_usize(last))?.load();
        let weight = self.table.slot(slot).weight;
        Some(Donor::new(slot, weight, draw, (self.lists.load(slot), last)))
    }

    fn hand_over(&self, count: usize, owners: &mut Vec<u32>) {
        let first = owners.len();
        owners.resize(first + count, 0);
        for (slot, head) in (0..).zip(&self.lists.heads) {
            let mut split = *head;
            while split != NONE {
                owners[first + to_usize(split)] = slot;
                split = self.lists.next[to_usize(split)];
            }
        }
    }
}
