//! One reader's way through an epoch: its steps, and which places of which clumps each of them has.

use std::ops::Range;

use super::order::{How, Order};
use super::share::{Left, Pace, Share, Taken};

/// What a course follows from.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// Rows of each unit; 1 or more.
    pub(super) unit_rows: Vec<u64>,
    pub(super) how: How,
    /// What of the epoch was handed out before.
    pub(super) before: Vec<Taken>,
    pub(super) pace: Pace,
    pub(super) rank: u64,
    /// Which of the rank's readers this is, and of how many.
    pub(super) reader: u64,
    pub(super) readers: u64,
    /// Steps that a reader makes before it is the next one's turn; 1 or more.
    pub(super) run: u64,
}

/// The steps of one reader.
#[derive(Debug)]
pub(super) struct Course {
    pub(super) order: Order,
    left: Left,
    share: Share,
    reader: u64,
    readers: u64,
    run: u64,
}

/// Rows of a batch that follow each other in a clump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) clump: usize,
    /// Places in the clump.
    pub(super) places: Range<u64>,
}

impl Course {
    /// # Errors
    /// What [`Order::new`], [`Left::after`] and [`Share::new`] refuse; in words.
    pub(super) fn new(plan: Plan) -> Result<Self, String> {
        let order = Order::new(&plan.unit_rows, plan.how)?;
        let mut left = Left::all(order.rows());
        for taken in plan.before {
            left = left.after(taken)?;
        }
        Ok(Self {
            share: Share::new(&left, plan.rank, plan.pace)?,
            order,
            left,
            reader: plan.reader,
            readers: plan.readers.max(1),
            run: plan.run.max(1),
        })
    }

    /// Steps that every rank makes, all its readers together.
    pub(super) fn rank_steps(&self) -> u64 {
        self.share.steps()
    }

    /// This reader's step of a number, counted from 0; none after its last.
    pub(super) fn step(&self, number: u64) -> Option<u64> {
        let turn = (number / self.run)
            .checked_mul(self.readers)?
            .checked_add(self.reader)?;
        let step = turn.checked_mul(self.run)?.checked_add(number % self.run)?;
        (step < self.share.steps()).then_some(step)
    }

    /// The rows of a step, in their order.
    pub(super) fn spans(&self, step: u64) -> Vec<Span> {
        let mut spans = Vec::new();
        for interval in self.share.step(&self.left, step) {
            let mut from = interval.start;
            while from < interval.end {
                let clump = self.order.clump_at(from);
                let Some(found) = self.order.clumps().get(clump) else {
                    break;
                };
                let to = interval.end.min(found.positions.end);
                let start = found.positions.start;
                spans.push(Span {
                    clump,
                    places: from - start..to - start,
                });
                from = to;
            }
        }
        spans
    }
}

/// The clumps that a course needs, in the order in which it does, each once.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    number: u64,
    /// The clump after the last that was given.
    next: usize,
}

impl Ahead {
    /// Of a reader that has made so many steps.
    pub(super) fn from(number: u64) -> Self {
        Self { number, next: 0 }
    }

    /// The next clump that is needed.
    pub(super) fn next(&mut self, course: &Course) -> Option<usize> {
        while let Some(step) = course.step(self.number) {
            let spans = course.spans(step);
            if let Some(span) = spans.iter().find(|span| span.clump >= self.next) {
                self.next = span.clump + 1;
                return Some(span.clump);
            }
            self.number += 1;
        }
        None
    }
}
