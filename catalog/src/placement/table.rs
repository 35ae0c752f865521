//! What all placing with one set of seats has in common, computed once.

use super::key::{to_u32, to_usize};
use super::rank::Score;
use super::seats::Seats;

/// The bits to which weights are cut, relative to the greatest of them.
const WEIGHT_BITS: u32 = 31;

/// What is known of a slot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    /// The seat's weight, at least 1, below 2^31.
    pub(super) weight: u64,
    /// The weights of this slot and those before it, vacant ones too.
    pub(super) up_to: u64,
    /// `weight / up_to` in units of 2^-32, rounded up.
    pub(super) chance: u64,
    /// Its place among the vacant slots in the order in which they were vacated; `u32::MAX` when it is taken.
    pub(super) vacated: u32,
}

impl Slot {
    pub(super) fn is_taken(&self) -> bool {
        self.vacated == u32::MAX
    }
}

/// The slots, and the sums of their weights.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) slots: Vec<Slot>,
    /// Vacant slots in the order in which they were vacated, each with the weight that is left after it.
    pub(super) vacant: Vec<(u32, u64)>,
    /// The weight of the slots that are taken.
    pub(super) weight: u64,
    /// The slots that are taken, in order.
    pub(super) taken: Vec<u32>,
}

impl Table {
    pub(super) fn new(seats: &Seats) -> Self {
        let greatest = seats.slots().iter().map(|seat| seat.weight).max().unwrap_or(0);
        let shift = (u64::BITS - greatest.leading_zeros()).saturating_sub(WEIGHT_BITS);
        let mut up_to = 0;
        let mut slots: Vec<Slot> = Vec::with_capacity(seats.slots().len());
        for seat in seats.slots() {
            let weight = (seat.weight >> shift).max(1);
            up_to += weight;
            let chance = (weight << 32).div_ceil(up_to);
            slots.push(Slot {
                weight,
                up_to,
                chance,
                vacated: u32::MAX,
            });
        }
        let mut weight = up_to;
        let mut vacant = Vec::with_capacity(seats.vacant().len());
        for (order, slot) in seats.vacant().iter().enumerate() {
            let vacated = &mut slots[to_usize(*slot)];
            vacated.vacated = to_u32(order);
            weight -= vacated.weight;
            vacant.push((*slot, weight));
        }
        let taken = |slot: &u32| slots[to_usize(*slot)].is_taken();
        let taken = (0..to_u32(slots.len())).filter(taken).collect();
        Self {
            slots,
            vacant,
            weight,
            taken,
        }
    }

    pub(super) fn slot(&self, slot: u32) -> &Slot {
        &self.slots[to_usize(slot)]
    }

    pub(super) fn score(&self, key: u64, slot: u32) -> Score {
        Score::new(key, slot, self.slot(slot).weight)
    }

    /// The slot that suits a key best of those that are fit for it.
    pub(super) fn best(&self, key: u64, fits: impl Fn(u32, &Slot) -> bool) -> Option<u32> {
        let mut best: Option<Score> = None;
        for (slot, known) in (0..).zip(&self.slots) {
            if fits(slot, known) {
                let score = Score::new(key, slot, known.weight);
                if best.is_none_or(|best| score.beats(&best)) {
                    best = Some(score);
                }
            }
        }
        best.map(|score| score.slot())
    }
}
