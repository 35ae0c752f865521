//! What a scan's row groups take of the budget, and what of it their batches keep until they have left.
//!
//! ```text
//! Memory (one row group) --- charge ---> Charge (one batch), until its bytes have left
//!        `--- end: gives back all but what is charged
//! ```
//! Lock order: the one lock here is that of a row group's memory; the budget is asked under it, and never asks back.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

use crate::budget::Reservation;

/// The part of the budget that a row group has.
#[derive(Debug)]
pub(crate) struct Memory(Mutex<Held>);

#[derive(Debug)]
struct Held {
    reservation: Reservation,
    /// Bytes of batches that have not left.
    charged_bytes: u64,
    /// Nothing but those batches is left of the row group.
    ended: bool,
}

impl Memory {
    pub(crate) fn new(reservation: Reservation) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Held {
            reservation,
            charged_bytes: 0,
            ended: false,
        })))
    }

    /// Gives back what is more than `bytes`, and says how much is missing.
    pub(crate) fn shrink_to(&self, bytes: u64) -> u64 {
        let mut held = self.0.lock();
        held.reservation.shrink_to(bytes);
        bytes - held.reservation.bytes()
    }

    /// Takes over more. What comes after the end, as the row group is stopped only where it waits, goes back at once.
    pub(crate) fn absorb(&self, more: Reservation) {
        let mut held = self.0.lock();
        held.reservation.absorb(more);
        held.settle();
    }

    /// Gives back all but what batches keep.
    pub(crate) fn end(&self) {
        let mut held = self.0.lock();
        held.ended = true;
        held.settle();
    }
}

impl Held {
    /// Once nothing but batches is left, what they do not keep is given back.
    fn settle(&mut self) {
        if self.ended {
            self.reservation.shrink_to(self.charged_bytes);
        }
    }
}

/// The part of the budget, and of its scan's window, that a batch takes; given back when the last clone is dropped. As long as
/// it is held, the row group that the batch came from decodes no further than its window.
#[derive(Debug, Clone, Default)]
pub struct Charge {
    _charged: Option<Arc<Charged>>,
}

#[derive(Debug)]
struct Charged {
    bytes: u64,
    memory: Arc<Memory>,
    _window: OwnedSemaphorePermit,
}

impl Charge {
    /// The charge of a batch of `bytes`.
    pub(crate) fn new(bytes: u64, memory: &Arc<Memory>, window: OwnedSemaphorePermit) -> Self {
        memory.0.lock().charged_bytes += bytes;
        let charged = Charged {
            bytes,
            memory: Arc::clone(memory),
            _window: window,
        };
        Self {
            _charged: Some(Arc::new(charged)),
        }
    }
}

impl Drop for Charged {
    fn drop(&mut self) {
        let mut held = self.memory.0.lock();
        held.charged_bytes -= self.bytes;
        held.settle();
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;
    use crate::budget::{Budget, Purpose};

    #[test]
    fn what_batches_keep_outlives_their_row_group_and_no_more() {
        let budget = Budget::new(1_000);
        let window = Arc::new(Semaphore::new(2));
        let permit = || Arc::clone(&window).try_acquire_owned().unwrap();
        let memory = Memory::new(budget.take(500, Purpose::Scans).unwrap());
        let (one, other) = (Charge::new(100, &memory, permit()), Charge::new(50, &memory, permit()));
        let again = one.clone();
        drop(one);
        assert_eq!(
            (budget.used_bytes(Purpose::Scans), window.available_permits()),
            (500, 0)
        );
        memory.end();
        assert_eq!(budget.used_bytes(Purpose::Scans), 150);
        drop(again);
        assert_eq!((budget.used_bytes(Purpose::Scans), window.available_permits()), (50, 1));
        drop(memory);
        assert_eq!(budget.used_bytes(Purpose::Scans), 50);
        drop(other);
        assert_eq!(budget.used_bytes(Purpose::Scans), 0);
    }

    /// A row group that is stopped while it takes more has what it asked for once it is over.
    #[test]
    fn what_comes_after_the_end_is_given_back() {
        let budget = Budget::new(1_000);
        let window = Arc::new(Semaphore::new(1));
        let memory = Memory::new(budget.take(100, Purpose::Scans).unwrap());
        let charge = Charge::new(50, &memory, window.try_acquire_owned().unwrap());
        memory.end();
        memory.absorb(budget.take(200, Purpose::Scans).unwrap());
        assert_eq!(budget.used_bytes(Purpose::Scans), 50);
        drop(charge);
        assert_eq!(budget.used_bytes(Purpose::Scans), 0);
    }

    #[test]
    fn batches_of_chunks_that_others_pay_for_charge_nothing() {
        let budget = Budget::new(1_000);
        let window = Arc::new(Semaphore::new(1));
        let memory = Memory::new(budget.take(10, Purpose::Scans).unwrap());
        assert_eq!(memory.shrink_to(30), 20);
        let charge = Charge::new(500, &memory, window.try_acquire_owned().unwrap());
        memory.end();
        drop(memory);
        assert_eq!(budget.used_bytes(Purpose::Scans), 10);
        drop(charge);
        assert_eq!(budget.used_bytes(Purpose::Scans), 0);
    }
}
