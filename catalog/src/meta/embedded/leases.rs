//! When leases end, and the thread that ends them.
//!
//! Why a thread and not a task: it needs no runtime to be there when the file is opened, and it sleeps until the
//! next lease ends.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::disk::Disk;
use crate::error::Sentence;
use crate::meta::LeaseId;

/// How long a lease whose keys could not be removed waits for the next try.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The leases, and the bell that is rung when one of them may end sooner than the thread knows.
#[derive(Default)]
pub(super) struct Leases {
    pub(super) deadlines: Mutex<Deadlines>,
    bell: Condvar,
}

/// For each lease its time, and when it ends unless it is kept alive.
#[derive(Default)]
pub(super) struct Deadlines {
    leases: HashMap<LeaseId, (Duration, Instant)>,
    closed: bool,
}

impl Deadlines {
    /// Gives a lease its whole time, from now.
    pub(super) fn start(&mut self, lease: LeaseId, ttl: Duration) {
        self.leases.insert(lease, (ttl, Instant::now() + ttl));
    }

    /// Gives a lease its whole time again; whether there is such a lease, still.
    pub(super) fn renew(&mut self, lease: LeaseId) -> bool {
        if !self.is_alive(lease) {
            return false;
        }
        if let Some((ttl, end)) = self.leases.get_mut(&lease) {
            *end = Instant::now() + *ttl;
        }
        true
    }

    /// Whether its time is not over, even if nobody has ended it yet.
    pub(super) fn is_alive(&self, lease: LeaseId) -> bool {
        self.leases.get(&lease).is_some_and(|(_, end)| *end > Instant::now())
    }

    pub(super) fn forget(&mut self, lease: LeaseId) {
        self.leases.remove(&lease);
    }

    fn next_end(&self) -> Option<Instant> {
        self.leases.values().map(|(_, end)| *end).min()
    }

    fn due(&self) -> Vec<LeaseId> {
        let now = Instant::now();
        let due = self.leases.iter().filter(|(_, (_, end))| *end <= now);
        due.map(|(lease, _)| *lease).collect()
    }

    fn postpone(&mut self, lease: LeaseId) {
        if let Some((_, end)) = self.leases.get_mut(&lease) {
            *end = Instant::now() + RETRY_INTERVAL;
        }
    }
}

impl Leases {
    /// Tells the thread that a lease was made.
    pub(super) fn ring(&self) {
        self.bell.notify_one();
    }

    /// Tells the thread that the file is closed.
    pub(super) fn close(&self) {
        self.deadlines.lock().closed = true;
        self.ring();
    }

    /// Waits until leases are due, and gives them; `None` when the file was closed.
    fn wait(&self) -> Option<Vec<LeaseId>> {
        let mut deadlines = self.deadlines.lock();
        while !deadlines.closed {
            let due = deadlines.due();
            if !due.is_empty() {
                return Some(due);
            }
            match deadlines.next_end() {
                Some(end) => {
                    self.bell.wait_until(&mut deadlines, end);
                }
                None => self.bell.wait(&mut deadlines),
            }
        }
        None
    }
}

/// Ends leases when their time is over, until the file is closed. Keeps no file open.
pub(super) fn end_leases(leases: &Arc<Leases>, disk: &Weak<Disk>) {
    while let Some(due) = leases.wait() {
        let Some(disk) = disk.upgrade() else { return };
        for lease in due {
            if let Err(fault) = disk.end_if_due(lease) {
                let error = fault.into_error("end a lease");
                tracing::warn!(%lease, error = %Sentence::of(&error), "a lease could not be ended; it is tried again");
                leases.deadlines.lock().postpone(lease);
            }
        }
    }
}
