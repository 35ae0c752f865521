//! Weighted rendezvous hashing, in integers alone.
//!
//! Each slot draws a number `h` from the key; `-log2(h / 2^64) / weight` is smallest at each slot with the
//! probability of its share of the weight. The logarithm is computed bit by bit by squaring, in 32 binary places,
//! and quotients are compared by cross multiplication: no floating point, so that any program gets the same order.

use std::cmp::Ordering;

use super::key::mix;

/// How well a slot suits a key. Greater is better.
#[derive(Debug, Clone, Copy)]
pub(super) struct Score {
    hash: u64,
    weight: u64,
    slot: u32,
}

impl Score {
    pub(super) fn new(key: u64, slot: u32, weight: u64) -> Self {
        let hash = mix(key, slot);
        Self { hash, weight, slot }
    }

    pub(super) fn slot(&self) -> u32 {
        self.slot
    }

    /// Whether it is better than another. What most answers can be told without a logarithm, is.
    pub(super) fn beats(&self, other: &Self) -> bool {
        if self.weight != other.weight {
            // -log2(p) is at least 1 - p.
            let least = u128::from(!self.hash >> 32) * u128::from(other.weight);
            if least > u128::from(cost(other.hash)) * u128::from(self.weight) {
                return false;
            }
        }
        self.cmp(other) == Ordering::Greater
    }
}

impl Ord for Score {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_cost = if self.weight == other.weight {
            Ordering::Equal
        } else {
            let mine = u128::from(cost(self.hash)) * u128::from(other.weight);
            let theirs = u128::from(cost(other.hash)) * u128::from(self.weight);
            theirs.cmp(&mine)
        };
        by_cost
            .then(self.hash.cmp(&other.hash))
            .then(other.slot.cmp(&self.slot))
    }
}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Score {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Score {}

/// `-log2(max(hash, 1) / 2^64)` in units of 2^-32: 1 to 2^38.
fn cost(hash: u64) -> u64 {
    (64 << 32) - log2(hash.max(1))
}

/// The logarithm of a positive number to base 2 in units of 2^-32, rounded down at each of 32 squarings.
fn log2(number: u64) -> u64 {
    let whole = u64::from(number.ilog2());
    let mut mantissa = u128::from(number) << (63 - whole);
    let mut bits = whole;
    for _ in 0..32 {
        mantissa = (mantissa * mantissa) >> 63;
        let bit = u64::from(mantissa >> 64 != 0);
        mantissa >>= bit;
        bits = (bits << 1) | bit;
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_one() {
        assert_eq!(log2(1), 0);
        assert_eq!(log2(1 << 40), 40 << 32);
        for number in [3_u64, 1000, u64::MAX / 3, u64::MAX] {
            #[expect(
                clippy::cast_precision_loss,
                reason = "a test compares with floating point on purpose"
            )]
            let (exact, found) = ((number as f64).log2(), log2(number) as f64 / 4_294_967_296.0);
            assert!((exact - found).abs() < 1e-7, "{number}: {exact} {found}");
        }
        assert_eq!(cost(u64::MAX), 1);
        assert_eq!(cost(0), 64 << 32);
    }

    #[test]
    fn the_short_cut_says_what_the_comparison_says() {
        for key in 0..200_000_u64 {
            let one = Score::new(key, 0, 1 + key % 7);
            let other = Score::new(key, 1, 1 + key % 5);
            assert_eq!(one.beats(&other), one > other, "{one:?} {other:?}");
        }
    }

    #[test]
    fn shares_follow_weights() {
        let mut won = [0_u32; 3];
        for key in 0..60_000 {
            let best = (0..3_u32)
                .map(|slot| Score::new(mix(key, 9), slot, u64::from(slot) + 1))
                .max()
                .unwrap();
            won[usize::try_from(best.slot()).unwrap()] += 1;
        }
        for (slot, share) in [10_000_u32, 20_000, 30_000].into_iter().enumerate() {
            assert!(won[slot].abs_diff(share) < 500, "{won:?}");
        }
    }
}
