//! The bound on what one slot gets of a dataset of many files.
//!
//! Files are placed without knowledge of each other, so a dataset of many small ones is only as even as chance
//! has it. Where a slot would have more than nine eighths of its share and a largest split, splits of it go to
//! those that suit them best of the slots below their share. Which splits go is drawn from their keys, so that
//! lists that differ a little move the same ones.

use super::key::{SplitLoad, to_u32, to_usize};
use super::table::Table;

/// A slot's bound is its share times this, over [`EIGHTS`], and the largest split.
const BOUND_EIGHTHS: u128 = 9;
const EIGHTS: u128 = 8;

/// Moves splits off slots that are above their bound.
pub(super) fn apply(table: &Table, splits: &[SplitLoad], owners: &mut [u32]) {
    let mut loads = vec![0_u64; table.slots.len()];
    let (mut total, mut largest) = (0, 0);
    for (split, owner) in splits.iter().zip(&*owners) {
        loads[to_usize(*owner)] += split.load();
        total += split.load();
        largest = largest.max(split.load());
    }
    let whole = u128::from(table.weight);
    let is_above = |load: u64, slot: u32| {
        let bound = BOUND_EIGHTHS * u128::from(total) * u128::from(table.slot(slot).weight);
        u128::from(load) * whole * EIGHTS > bound + EIGHTS * u128::from(largest) * whole
    };
    let above: Vec<bool> = (0..).zip(&loads).map(|(slot, load)| is_above(*load, slot)).collect();
    let mut suspects: Vec<(u64, u32)> = Vec::new();
    for (place, owner) in owners.iter().enumerate() {
        if above[to_usize(*owner)] {
            suspects.push((splits[place].key().0, to_u32(place)));
        }
    }
    suspects.sort_unstable();
    let mut moved = Vec::new();
    for (key, place) in suspects {
        let owner = owners[to_usize(place)];
        if is_above(loads[to_usize(owner)], owner) {
            loads[to_usize(owner)] -= splits[to_usize(place)].load();
            moved.push((key, place));
        }
    }
    for (key, place) in moved {
        let best = table.best(key, |slot, known| {
            let load = u128::from(loads[to_usize(slot)]) * whole;
            known.is_taken() && load < u128::from(total) * u128::from(known.weight)
        });
        if let Some(best) = best {
            loads[to_usize(best)] += splits[to_usize(place)].load();
            owners[to_usize(place)] = best;
        }
    }
}
