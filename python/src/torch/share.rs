//! Which positions of an epoch each rank is handed at each step.
//!
//! What is left of an epoch is cut into one stretch a rank, as equal as rows allow, and each rank goes through its own from
//! front to back. The cut is `r * n / world`, rounded down: when every rank has taken as many rows, the same cut of what is
//! left gives the same stretches, so that a run that stops and goes on with as many ranks is the run that never stopped, and
//! one that goes on with another number of ranks hands out exactly what is left.

use std::ops::Range;

/// Most intervals that what is left may be in; each resumption with another number of ranks adds as many as there were ranks.
const MAX_INTERVALS: usize = 1 << 20;

/// What was handed out: so many steps of so many rows on each of so many ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) world: u64,
    pub(super) batch_size: u64,
    pub(super) steps: u64,
}

/// The positions of an epoch that were not handed out yet, as ascending intervals.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Left {
    intervals: Vec<Range<u64>>,
    /// Where each interval ends, counted among what is left.
    ends: Vec<u64>,
}

impl Left {
    /// All of an epoch of so many rows.
    pub(super) fn all(rows: u64) -> Self {
        let mut left = Self::default();
        left.push(0..rows);
        left
    }

    /// What is left after some was handed out.
    ///
    /// # Errors
    /// A history of too many changes of the number of ranks; in words.
    pub(super) fn after(&self, taken: Taken) -> Result<Self, String> {
        let (rows, each) = (self.rows(), taken.batch_size.saturating_mul(taken.steps));
        let mut left = Self::default();
        for rank in 0..taken.world {
            let share = share(rows, rank, taken.world);
            let start = share.start.saturating_add(each).min(share.end);
            self.intervals(start..share.end)
                .into_iter()
                .for_each(|interval| left.push(interval));
            if left.intervals.len() > MAX_INTERVALS {
                return Err("this epoch was resumed with other numbers of ranks too often".to_owned());
            }
        }
        Ok(left)
    }

    /// How many positions are left.
    pub(super) fn rows(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The positions of those that are left from one to another, counted among what is left.
    pub(super) fn intervals(&self, among: Range<u64>) -> Vec<Range<u64>> {
        let first = self.ends.partition_point(|&end| end <= among.start);
        let mut found = Vec::new();
        for (interval, &end) in self.intervals.iter().zip(&self.ends).skip(first) {
            let start = end - (interval.end - interval.start);
            if start >= among.end {
                break;
            }
            let from = among.start.max(start) - start;
            let to = among.end.min(end) - start;
            found.push(interval.start + from..interval.start + to);
        }
        found.retain(|interval| interval.start < interval.end);
        found
    }

    /// Adds positions behind all others.
    fn push(&mut self, interval: Range<u64>) {
        let rows = interval.end.saturating_sub(interval.start);
        if rows == 0 {
            return;
        }
        match (self.intervals.last_mut(), self.ends.last_mut()) {
            (Some(last), Some(end)) if last.end == interval.start => {
                last.end = interval.end;
                *end += rows;
            }
            _ => {
                self.ends.push(self.rows() + rows);
                self.intervals.push(interval);
            }
        }
    }
}

/// What to do where the ranks' stretches are not equally long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Even {
    /// The longer ones leave out their last row.
    Drop,
    /// The shorter ones give the last row of the next longer one, too.
    Pad,
    /// Refuse.
    Refuse,
}

/// How the ranks go through an epoch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub(super) world: u64,
    pub(super) batch_size: u64,
    pub(super) even: Even,
    /// Whether a last batch of fewer rows is left out.
    pub(super) drop_last: bool,
}

/// One rank's steps through what is left of an epoch.
#[derive(Debug, Clone)]
pub(super) struct Share {
    /// Its stretch, counted among what is left.
    stretch: Range<u64>,
    /// Rows that it hands out; as many as every other rank.
    rows: u64,
    /// What it gives after its own rows, where those are too few.
    repeated: u64,
    batch_size: u64,
}

impl Share {
    /// The steps of one rank.
    ///
    /// # Errors
    /// Where the ranks' stretches are not equal and that is to be refused; in words.
    pub(super) fn new(left: &Left, rank: u64, pace: Pace) -> Result<Self, String> {
        let total = left.rows();
        let rows = match pace.even {
            Even::Drop => total / pace.world,
            Even::Pad => total.div_ceil(pace.world),
            Even::Refuse => equal(total, pace)?,
        };
        Ok(Self {
            stretch: share(total, rank, pace.world),
            repeated: repeated(total, rank, pace.world),
            rows: if pace.drop_last {
                rows - rows % pace.batch_size
            } else {
                rows
            },
            batch_size: pace.batch_size,
        })
    }

    /// Steps that every rank makes.
    pub(super) fn steps(&self) -> u64 {
        self.rows.div_ceil(self.batch_size)
    }

    /// The positions of a step, as intervals in the order of the batch's rows.
    pub(super) fn step(&self, left: &Left, step: u64) -> Vec<Range<u64>> {
        let first = step.saturating_mul(self.batch_size).min(self.rows);
        let last = first.saturating_add(self.batch_size).min(self.rows);
        let (start, end) = (self.stretch.start + first, self.stretch.start + last);
        let mut intervals = left.intervals(start.min(self.stretch.end)..end.min(self.stretch.end));
        if end > self.stretch.end {
            intervals.extend(left.intervals(self.repeated..self.repeated + 1));
        }
        intervals
    }
}

fn equal(total: u64, pace: Pace) -> Result<u64, String> {
    let unit = if pace.drop_last { pace.batch_size } else { 1 };
    let each = total / pace.world;
    if total.is_multiple_of(pace.world) && each.is_multiple_of(unit) {
        return Ok(each);
    }
    Err(format!(
        "{total} rows do not divide evenly among {} ranks{}; even=\"drop\" leaves some out, even=\"pad\" repeats some",
        pace.world,
        if pace.drop_last {
            format!(" in batches of {}", pace.batch_size)
        } else {
            String::new()
        }
    ))
}

/// The last row of the next stretch that is longer than this rank's; of the last one, where none is. It is handed out at the last
/// step only, so that it is still there whenever an epoch is resumed.
fn repeated(rows: u64, rank: u64, world: u64) -> u64 {
    let longest = rows.div_ceil(world.max(1));
    let longer = (rank + 1..world)
        .map(|next| share(rows, next, world))
        .find(|stretch| stretch.end - stretch.start == longest);
    longer.map_or(rows, |stretch| stretch.end).max(1) - 1
}

/// A rank's stretch of so many rows.
fn share(rows: u64, rank: u64, world: u64) -> Range<u64> {
    let cut = |rank: u64| {
        let at = u128::from(rows) * u128::from(rank) / u128::from(world.max(1));
        u64::try_from(at).unwrap_or(u64::MAX)
    };
    cut(rank)..cut(rank + 1)
}
