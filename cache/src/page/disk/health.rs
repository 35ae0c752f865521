//! The health of one cache folder: what its operations came to, and what may be asked of it therefore.
//!
//! ```text
//!            3 failures in a minute              30 minutes, or gone
//!   Healthy ───────────────────────▶ Unstable ───────────────────────▶ Out
//!      ▲                                │                               │
//!      ├──────── 60 good in a row ──────┘                               │
//!      └──────────────────────── a good probe, scanned anew ────────────┘
//! ```
//! Healthy: reads and writes. Unstable: no pages are written, and few reads at a time are tried. Out: nothing is asked,
//! but a probe every 30 seconds.
//!
//! Why the clock is an argument: half an hour passes in a test without waiting.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// So many failures within [`FAILURE_WINDOW`] make a folder unstable.
const MAX_FAILURES: usize = 3;
/// How long a failure is remembered.
const FAILURE_WINDOW: Duration = Duration::from_secs(60);
/// So many good operations in a row make an unstable folder healthy.
const GOOD_OPERATIONS: u32 = 60;
/// How long a folder may be unstable.
const MAX_UNSTABLE: Duration = Duration::from_secs(30 * 60);
/// How often a folder that is out is probed.
const PROBE_INTERVAL: Duration = Duration::from_secs(30);
/// How often an unstable one is: without this, one that nobody reads would never be healthy again.
const UNSTABLE_PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// How a cache folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FolderHealth {
    /// It is read and written.
    Healthy,
    /// It failed three times within a minute: it is read, by few at a time, and not written.
    Unstable,
    /// It is not used, and probed every 30 seconds.
    Out,
}

impl FolderHealth {
    /// `healthy`, `unstable` or `out`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Unstable => "unstable",
            Self::Out => "out",
        }
    }
}

/// What happened in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// An operation went well.
    Good,
    /// An operation failed.
    Failed,
    /// The folder is not there any more.
    Gone,
    /// A folder that was out was probed and scanned, and can be used.
    Returned,
    /// Time passed.
    Tick,
}

/// The state machine.
#[derive(Debug)]
pub(super) struct Health {
    state: FolderHealth,
    failures: VecDeque<Instant>,
    good: u32,
    since: Instant,
    last_probe: Instant,
}

impl Health {
    pub(super) fn new(state: FolderHealth, now: Instant) -> Self {
        Self {
            state,
            failures: VecDeque::new(),
            good: 0,
            since: now,
            last_probe: now,
        }
    }

    pub(super) fn state(&self) -> FolderHealth {
        self.state
    }

    /// Takes an event in, and returns the state when it is another one from now on.
    pub(super) fn on(&mut self, event: Event, now: Instant) -> Option<FolderHealth> {
        let next = match (self.state, event) {
            (FolderHealth::Out, Event::Returned) => FolderHealth::Healthy,
            (FolderHealth::Out, _) => FolderHealth::Out,
            (_, Event::Gone) => FolderHealth::Out,
            (FolderHealth::Healthy, Event::Failed) => self.count_failure(now),
            (FolderHealth::Healthy, _) => FolderHealth::Healthy,
            (FolderHealth::Unstable, _) if now.duration_since(self.since) >= MAX_UNSTABLE => FolderHealth::Out,
            (FolderHealth::Unstable, event) => self.count_good(event),
        };
        (next != self.state).then(|| {
            *self = Self::new(next, now);
            next
        })
    }

    /// Whether to probe the folder now; the next probe is due after the interval of its state.
    pub(super) fn probe_due(&mut self, now: Instant) -> bool {
        let interval = match self.state {
            FolderHealth::Healthy => return false,
            FolderHealth::Unstable => UNSTABLE_PROBE_INTERVAL,
            FolderHealth::Out => PROBE_INTERVAL,
        };
        let due = now.duration_since(self.last_probe) >= interval;
        if due {
            self.last_probe = now;
        }
        due
    }

    fn count_failure(&mut self, now: Instant) -> FolderHealth {
        self.failures.retain(|at| now.duration_since(*at) < FAILURE_WINDOW);
        self.failures.push_back(now);
        if self.failures.len() < MAX_FAILURES {
            FolderHealth::Healthy
        } else {
            FolderHealth::Unstable
        }
    }

    fn count_good(&mut self, event: Event) -> FolderHealth {
        match event {
            Event::Good => self.good += 1,
            Event::Failed => self.good = 0,
            Event::Gone | Event::Returned | Event::Tick => {}
        }
        if self.good < GOOD_OPERATIONS {
            FolderHealth::Unstable
        } else {
            FolderHealth::Healthy
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn unstable(at: Instant) -> Health {
        let mut health = Health::new(FolderHealth::Healthy, at);
        assert_eq!(health.on(Event::Failed, at), None);
        assert_eq!(health.on(Event::Failed, at), None);
        assert_eq!(health.on(Event::Failed, at), Some(FolderHealth::Unstable));
        health
    }

    #[test]
    fn three_failures_count_only_within_a_minute() {
        let start = Instant::now();
        let mut health = Health::new(FolderHealth::Healthy, start);
        for n in 0..100 {
            assert_eq!(health.on(Event::Failed, start + SECOND * (30 * n)), None, "failure {n}");
        }
        let late = start + SECOND * (30 * 99 + 1);
        assert_eq!(health.on(Event::Failed, late), Some(FolderHealth::Unstable));
    }

    #[test]
    fn sixty_good_operations_in_a_row_make_an_unstable_folder_healthy() {
        let start = Instant::now();
        let mut health = unstable(start);
        for _ in 0..59 {
            assert_eq!(health.on(Event::Good, start), None);
        }
        assert_eq!(health.on(Event::Failed, start), None);
        for _ in 0..59 {
            assert_eq!(health.on(Event::Good, start), None);
        }
        assert_eq!(health.on(Event::Good, start), Some(FolderHealth::Healthy));
        // What made it unstable is forgotten.
        assert_eq!(health.on(Event::Failed, start), None);
    }

    #[test]
    fn half_an_hour_of_unstable_is_the_end() {
        let start = Instant::now();
        let mut health = unstable(start);
        assert_eq!(health.on(Event::Tick, start + SECOND * 1799), None);
        assert_eq!(health.on(Event::Tick, start + SECOND * 1800), Some(FolderHealth::Out));
    }

    #[test]
    fn a_folder_that_is_gone_is_out_at_once_and_only_returns_by_a_probe() {
        let start = Instant::now();
        let mut health = Health::new(FolderHealth::Healthy, start);
        assert_eq!(health.on(Event::Gone, start), Some(FolderHealth::Out));
        for event in [Event::Good, Event::Failed, Event::Gone, Event::Tick] {
            assert_eq!(health.on(event, start + SECOND * 4000), None);
        }
        assert_eq!(health.on(Event::Returned, start), Some(FolderHealth::Healthy));
    }

    #[test]
    fn probes_are_due_by_state() {
        let start = Instant::now();
        let mut healthy = Health::new(FolderHealth::Healthy, start);
        assert!(!healthy.probe_due(start + SECOND * 100));
        let mut out = Health::new(FolderHealth::Out, start);
        let due: Vec<_> = (1..=100).filter(|n| out.probe_due(start + SECOND * *n)).collect();
        assert_eq!(due, [30, 60, 90]);
        let mut unstable = unstable(start);
        assert!((1..=10).all(|n| unstable.probe_due(start + SECOND * n)));
    }

    #[test]
    fn no_sequence_of_events_leaves_the_picture() {
        use FolderHealth::{Healthy, Out, Unstable};
        let events = [Event::Good, Event::Failed, Event::Gone, Event::Returned, Event::Tick];
        let arrows = [
            (Healthy, Unstable),
            (Healthy, Out),
            (Unstable, Healthy),
            (Unstable, Out),
            (Out, Healthy),
        ];
        let mut seen = std::collections::HashSet::new();
        let mut random = 42u64;
        let mut now = Instant::now();
        let mut health = Health::new(Healthy, now);
        for _ in 0..200_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let pick = random >> 33;
            now += Duration::from_millis((pick % 10_000) * u64::from(pick.is_multiple_of(5)));
            // Mostly good ones, or sixty in a row would not come up; and seldom gone.
            let event = match pick % 500 {
                0..490 => Event::Good,
                rest => events[usize::try_from(rest % 5).unwrap()],
            };
            let event = if pick % 7000 < 100 { Event::Failed } else { event };
            let before = health.state();
            if let Some(after) = health.on(event, now) {
                assert!(
                    arrows.contains(&(before, after)),
                    "{before:?} to {after:?} by {event:?}"
                );
                assert_eq!(after, health.state());
                seen.insert((before, after));
            }
        }
        assert!(seen.len() >= 4, "only {seen:?}");
    }
}
