//! Which value each row has: the values of a column, each once, and their numbers row by row.

use std::collections::HashMap;
use std::hash::Hash;
use std::ops::RangeInclusive;

use foldhash::fast::RandomState;

/// The number of a null.
pub(super) const NULL: u32 = 0;
/// A dense table has at most so many slots for each row,
const DENSE_SLOTS_PER_ROW: usize = 2;
/// or so many, whichever is more.
const DENSE_SLOTS: usize = 1 << 16;
/// Rows that are looked up together.
const BLOCK: usize = 128;
/// Slots of a hash table to begin with.
const HASHED_SLOTS: usize = 1 << 10;

/// Rows by their values.
#[derive(Debug)]
pub(super) struct Encoded<V> {
    /// Each value once, in the order that they come in; the first has number 1.
    pub(super) values: Vec<V>,
    /// How many rows have each number.
    pub(super) counts: Vec<usize>,
    /// The number of each row, up to where values were found to hardly repeat.
    pub(super) numbers: Vec<u32>,
    next: u32,
}

/// Numbers of values.
pub(super) trait Lookup<V> {
    /// Reads what the number of a value will be read from, so that many of these reads are under way at once.
    fn touch(&self, _value: V) -> u32 {
        NULL
    }

    /// The number of a value; `next`, which it has from now on, where it had none.
    fn number(&mut self, value: V, next: u32) -> u32;
}

/// Integers of a short range: a slot for each.
#[derive(Debug)]
pub(super) struct Dense {
    first: i64,
    numbers: Vec<u32>,
}

impl Dense {
    /// For integers of a range among so many rows; nothing where that would take too much memory.
    pub(super) fn of(range: &RangeInclusive<i64>, rows: usize) -> Option<Self> {
        let slots = usize::try_from(range.end().checked_sub(*range.start())?.checked_add(1)?).ok()?;
        let most = rows.saturating_mul(DENSE_SLOTS_PER_ROW).max(DENSE_SLOTS);
        (slots <= most).then(|| Self {
            first: *range.start(),
            numbers: vec![NULL; slots],
        })
    }
}

impl Dense {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "what lies in the range is a slot's index"
    )]
    fn slot(&self, value: i64) -> usize {
        value.wrapping_sub(self.first) as usize
    }
}

impl Lookup<i64> for Dense {
    fn touch(&self, value: i64) -> u32 {
        self.numbers[self.slot(value)]
    }

    fn number(&mut self, value: i64, next: u32) -> u32 {
        let at = self.slot(value);
        let slot = &mut self.numbers[at];
        if *slot == NULL {
            *slot = next;
        }
        *slot
    }
}

/// Any values.
#[derive(Debug)]
pub(super) struct Hashed<V>(HashMap<V, u32, RandomState>);

impl<V> Hashed<V> {
    pub(super) fn new() -> Self {
        Self(HashMap::with_capacity_and_hasher(HASHED_SLOTS, RandomState::default()))
    }
}

impl<V: Eq + Hash> Lookup<V> for Hashed<V> {
    fn number(&mut self, value: V, next: u32) -> u32 {
        *self.0.entry(value).or_insert(next)
    }
}

/// Numbers the rows that come, until more than so many values were found; what then remains is left.
pub(super) fn encode<V: Copy>(
    rows: &mut impl Iterator<Item = Option<V>>,
    count: usize,
    mut lookup: impl Lookup<V>,
    most_values: usize,
) -> Encoded<V> {
    let mut encoded = Encoded {
        values: Vec::new(),
        counts: vec![0],
        numbers: Vec::with_capacity(count),
        next: NULL + 1,
    };
    let mut block = Vec::with_capacity(BLOCK);
    while encoded.values.len() < most_values {
        block.clear();
        block.extend(rows.take(BLOCK));
        if block.is_empty() {
            break;
        }
        let touched = block.iter().flatten().map(|value| lookup.touch(*value));
        std::hint::black_box(touched.fold(NULL, u32::wrapping_add));
        for row in &block {
            encoded.push(*row, &mut lookup);
        }
    }
    encoded
}

impl<V: Copy> Encoded<V> {
    fn push(&mut self, row: Option<V>, lookup: &mut impl Lookup<V>) {
        let mut number = NULL;
        if let Some(value) = row {
            let next = self.next;
            number = lookup.number(value, next);
            if number == next {
                self.values.push(value);
                self.counts.push(0);
                self.next += 1;
            }
        }
        self.counts[number as usize] += 1;
        self.numbers.push(number);
    }
}
