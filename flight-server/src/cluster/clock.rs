//! The time that tickets are dated by: that of one node for all.
//!
//! A ticket ends at a time that one node writes and another reads, and their clocks may differ by more than a ticket lives. So
//! the cluster has a time of its own, which is handed on: it is that of the clock of whoever was there first, and every node
//! keeps the difference from its own clock to it. A node that joins takes the time over from one that has it, before it is
//! ready. Later each follows the first by id of those that serve, and that one goes on with the time that it has; so nobody's
//! coming or going makes time step.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jetbridge_catalog::membership::{Status, View};
use serde::{Deserialize, Serialize};

use super::peers::PeerPool;

/// Name of the action that tells a node's time.
pub const CLOCK_ACTION: &str = "peer.clock";
/// How often the difference is measured anew.
pub(super) const MEASURE_INTERVAL: Duration = Duration::from_secs(10);

/// What `peer.clock` answers.
#[derive(Debug, Serialize, Deserialize)]
pub struct ClockAnswer {
    /// The cluster's time, in milliseconds since 1970 UTC, as that node has it; none while it has not taken it over yet.
    pub unix_ms: Option<i64>,
}

/// The difference from this node's clock to the cluster's.
#[derive(Debug, Default)]
pub(super) struct Clock {
    ahead_ms: AtomicI64,
    /// Whether the difference is known.
    is_set: AtomicBool,
}

impl Clock {
    /// The cluster's time.
    pub(super) fn now(&self) -> SystemTime {
        let ahead_ms = self.ahead_ms.load(Ordering::Relaxed);
        let difference = Duration::from_millis(ahead_ms.unsigned_abs());
        let now = SystemTime::now();
        let shifted = if ahead_ms < 0 {
            now.checked_sub(difference)
        } else {
            now.checked_add(difference)
        };
        shifted.unwrap_or(now)
    }

    /// What other nodes are told.
    pub(super) fn told(&self) -> ClockAnswer {
        let now = || own_unix_ms().saturating_add(self.ahead_ms.load(Ordering::Relaxed));
        ClockAnswer {
            unix_ms: self.is_set.load(Ordering::Acquire).then(now),
        }
    }

    /// Measures the difference; says whether it is known. Where nobody tells the time, the last difference stays; where nobody
    /// has any, it begins with the clock of the first by id.
    pub(super) async fn measure(&self, own_id: &str, view: &View, peers: &PeerPool) -> bool {
        let serving = view.members.values().filter(|member| member.status == Status::Serving);
        let mut ids: Vec<&str> = serving.map(|member| member.id.as_str()).collect();
        ids.sort_unstable();
        let Some(&first) = ids.first() else { return false };
        let is_set = self.is_set.load(Ordering::Acquire);
        // Who has the time follows the first alone; who has not takes it from anybody who has.
        let asked = if is_set { vec![first] } else { ids };
        for id in asked.into_iter().filter(|id| *id != own_id) {
            let began = Instant::now();
            if let Some(theirs) = peers.clock(id).await {
                // It looked at its clock halfway, as far as we know.
                let half = i64::try_from(began.elapsed().as_millis() / 2).unwrap_or(0);
                let ahead_ms = theirs.saturating_add(half).saturating_sub(own_unix_ms());
                self.ahead_ms.store(ahead_ms, Ordering::Relaxed);
                self.is_set.store(true, Ordering::Release);
                return true;
            }
        }
        if !is_set && first == own_id {
            self.is_set.store(true, Ordering::Release);
        }
        self.is_set.load(Ordering::Acquire)
    }
}

/// This node's own clock, in milliseconds since 1970 UTC.
#[must_use]
pub fn own_unix_ms() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clusters_time_is_ours_and_the_difference() {
        let clock = Clock::default();
        for ahead_ms in [0, 600_000, -600_000] {
            clock.ahead_ms.store(ahead_ms, Ordering::Relaxed);
            let now = clock.now().duration_since(UNIX_EPOCH).unwrap().as_millis();
            let expected = own_unix_ms() + ahead_ms;
            assert!(i64::try_from(now).unwrap().abs_diff(expected) < 1000, "{ahead_ms}");
        }
        clock.ahead_ms.store(i64::MIN, Ordering::Relaxed);
        clock.now();
        assert_eq!(clock.told().unix_ms, None);
    }
}
