//! Which places failed lately, so that they are tried last.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::fetch::Place;
use crate::fork::Mutex;

/// How long a place is passed over after it failed first; twice as long after each further failure.
const FIRST: Duration = Duration::from_secs(5);
/// The longest that it is passed over.
const LONGEST: Duration = Duration::from_secs(60);

/// The memory of failures, which a success ends.
#[derive(Debug, Default)]
pub(crate) struct Health {
    failed: Mutex<HashMap<Place, Failed>>,
    changes: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
struct Failed {
    times: u32,
    until: Instant,
}

impl Health {
    /// The place did not answer, or broke off.
    pub(crate) fn failed(&self, place: &Place) {
        let mut failed = self.failed.lock();
        let times = failed.get(place).map_or(1, |before| before.times.saturating_add(1));
        let until = Instant::now() + FIRST.saturating_mul(1 << (times - 1).min(16)).min(LONGEST);
        failed.insert(place.clone(), Failed { times, until });
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// The place gave rows.
    pub(crate) fn succeeded(&self, place: &Place) {
        if self.failed.lock().remove(place).is_some() {
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often the order of places may have changed, but by time.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// The places, those that failed lately last; otherwise in their order.
    pub(crate) fn ordered(&self, places: &[Place]) -> Vec<Place> {
        let now = Instant::now();
        let failed = self.failed.lock();
        let is_passed_over = |place: &&Place| failed.get(*place).is_some_and(|failed| failed.until > now);
        let (last, first): (Vec<&Place>, Vec<&Place>) = places.iter().partition(is_passed_over);
        first.into_iter().chain(last).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Address;

    #[test]
    fn what_failed_is_tried_last_until_it_succeeds() {
        let place = |name: &str| Place::Flight(Address::Tcp(format!("{name}:1")));
        let places = [place("a"), place("b"), place("c")];
        let health = Health::default();
        assert_eq!(health.ordered(&places), places);
        assert_eq!(health.changes(), 0);
        health.failed(&places[0]);
        assert_eq!(health.ordered(&places), [place("b"), place("c"), place("a")]);
        health.failed(&places[1]);
        assert_eq!(health.ordered(&places), [place("c"), place("a"), place("b")]);
        health.succeeded(&places[0]);
        assert_eq!(health.ordered(&places), [place("a"), place("c"), place("b")]);
        assert_eq!(health.changes(), 3);
        health.succeeded(&places[2]);
        assert_eq!(health.changes(), 3, "it had not failed");
    }
}
