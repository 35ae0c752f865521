//! The random numbers of an epoch's order: the same on every machine, for as long as an order is to be resumed.
//!
//! `ORDER.md` beside the package is the specification, with test vectors; nothing here may change without a new version of
//! the state that refers to it.

/// What SplitMix64 adds at each step.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The `index`-th number that SplitMix64 gives from the state `key`.
pub(super) fn mix(key: u64, index: u64) -> u64 {
    let mut z = key.wrapping_add(index.wrapping_add(1).wrapping_mul(GOLDEN));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// What is shuffled: the units of an epoch, or the rows of one of its clumps.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stream {
    Units,
    Rows { clump: u64 },
}

/// The key of one shuffle.
pub(super) fn key(seed: u64, epoch: u64, stream: Stream) -> u64 {
    let (number, index) = match stream {
        Stream::Units => (1, 0),
        Stream::Rows { clump } => (2, clump),
    };
    mix(mix(mix(seed, epoch), number), index)
}

/// The numbers below `count` in a random order: Fisher and Yates, from the last place down.
pub(super) fn shuffled(count: u32, key: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..count).collect();
    for (draw, place) in (0u64..).zip((1..order.len()).rev()) {
        order.swap(place, below(mix(key, draw), place + 1));
    }
    order
}

/// A number below `bound`, which is less than 2^32: the high half of a product, so without a division.
fn below(random: u64, bound: usize) -> usize {
    let bound = u128::try_from(bound).unwrap_or(u128::MAX);
    usize::try_from((u128::from(random) * bound) >> 64).unwrap_or(0)
}
