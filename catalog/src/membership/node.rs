//! What is known of one node, and what follows from it as time goes by.

use std::sync::Arc;
use std::time::Duration;

use super::record::{Member, Readiness, Role};
use super::view::Status;
use super::{Settings, Time};

/// The most that flapping counts for: beyond it the settling time is at its limit anyway.
const MAX_PENALTY: u32 = 20;

/// One node, as the store tells of it.
#[derive(Debug, Default, Clone)]
pub(super) struct Node {
    pub(super) record: Option<Arc<Member>>,
    /// The generation that its lease names.
    pub(super) alive: Option<u64>,
    /// When what matters for a seat last changed: lease, weight, role, readiness.
    steady_since: Time,
    /// Since when it has not been serving; `None` while it is.
    away_since: Option<Time>,
    /// Until when this node holds it for unreachable.
    suspect_until: Option<Time>,
    suspect_since: Time,
    /// How often it has flapped of late, as of `flapped_at`.
    penalty: u32,
    flapped_at: Time,
}

impl Node {
    pub(super) fn new(now: Time) -> Self {
        Self {
            away_since: Some(now),
            steady_since: now,
            ..Self::default()
        }
    }

    /// Takes in a new record.
    pub(super) fn put(&mut self, now: Time, record: Member, settings: &Settings) {
        if let Some(old) = &self.record {
            let changed = (old.weight, old.role, old.state) != (record.weight, record.role, record.state);
            let flaps = old.weight != record.weight || old.state == Readiness::Leaving && changed;
            if flaps {
                self.flap(now, settings);
            }
            if changed {
                self.steady_since = now;
            }
        }
        self.record = Some(Arc::new(record));
        self.note(now, false);
    }

    pub(super) fn remove_record(&mut self, now: Time) {
        self.record = None;
        self.note(now, true);
    }

    pub(super) fn appear(&mut self, now: Time, generation: u64, settings: &Settings) {
        if self.alive != Some(generation) {
            if self.alive.is_some() {
                self.flap(now, settings);
            }
            self.steady_since = now;
            self.suspect_until = None;
        }
        self.alive = Some(generation);
        self.note(now, false);
    }

    /// Its lease has lapsed; `from` is when its absence begins to count.
    pub(super) fn lapse(&mut self, now: Time, from: Time, settings: &Settings) {
        if self.alive.take().is_some() {
            if from <= now {
                self.flap(now, settings);
            }
            self.away_since = None;
            self.note(from, true);
        }
    }

    pub(super) fn suspect(&mut self, now: Time, settings: &Settings) {
        if self.suspect_until.is_none() {
            self.suspect_since = now;
        }
        self.suspect_until = Some(now + settings.suspicion);
    }

    /// Forgets a suspicion whose time is over. Says whether there was one.
    pub(super) fn relieve(&mut self, now: Time) -> bool {
        let over = self.suspect_until.is_some_and(|until| until <= now);
        if over {
            self.suspect_until = None;
        }
        over
    }

    pub(super) fn status(&self, now: Time) -> Status {
        let Some(record) = &self.record else {
            return Status::Unknown;
        };
        // An absence that does not count yet, just after the store came back, changes nothing.
        let pending = self.away_since.is_some_and(|since| since > now);
        if self.alive.is_none() && !pending {
            Status::Lost
        } else if record.state != Readiness::Serving {
            Status::Draining
        } else if self.suspect_until.is_some_and(|until| until > now) {
            Status::Suspect
        } else {
            Status::Serving
        }
    }

    /// Since when it has its status.
    pub(super) fn since(&self, now: Time) -> Time {
        match self.status(now) {
            Status::Serving => self.steady_since,
            Status::Suspect => self.suspect_since,
            Status::Draining | Status::Lost | Status::Unknown => self.away_since.unwrap_or(now),
        }
    }

    /// When its seat is to be given up, as far as is known; `None` while it serves.
    pub(super) fn seat_ends(&self, settings: &Settings) -> Option<Time> {
        let since = self.away_since?;
        match &self.record {
            // Its record was removed: somebody says that it is gone for good.
            None if self.alive.is_none() => Some(since + settings.lease),
            Some(record) if record.state == Readiness::Leaving || record.role == Role::Coordinator => Some(since),
            Some(record) => Some(since + record.grace_ms.map_or(settings.grace, Duration::from_millis)),
            None => Some(since + settings.grace),
        }
    }

    /// When it may have a seat, or its seat a new weight; `None` while it may not at all.
    pub(super) fn seat_begins(&self, settings: &Settings) -> Option<Time> {
        let record = self.record.as_ref()?;
        self.alive?;
        let may = record.role == Role::Worker && record.state == Readiness::Serving;
        may.then(|| self.steady_since + self.settling(settings))
    }

    /// Whether it has a record of bad habits.
    pub(super) fn is_flapping(&self) -> bool {
        self.penalty > 1
    }

    /// When it has been lost for so long that its record is of no use.
    pub(super) fn is_stale(&self, now: Time, after: Duration) -> bool {
        let away = self.away_since.is_some_and(|since| since + after <= now);
        self.alive.is_none() && away
    }

    /// The times, later than now, at which something may follow.
    pub(super) fn wakes(&self, now: Time, settings: &Settings) -> impl Iterator<Item = Time> {
        let times = [
            self.suspect_until,
            self.away_since,
            self.seat_ends(settings),
            self.seat_begins(settings),
        ];
        times.into_iter().flatten().filter(move |time| *time > now)
    }

    fn settling(&self, settings: &Settings) -> Duration {
        let flaps = self.penalty.saturating_sub(1);
        settings.settling.saturating_mul(1 << flaps).min(settings.max_settling)
    }

    fn flap(&mut self, now: Time, settings: &Settings) {
        let quiet = now.saturating_sub(self.flapped_at).as_secs() / settings.flap_memory.as_secs().max(1);
        let forgiven = u32::try_from(quiet).unwrap_or(u32::MAX);
        self.penalty = (self.penalty.saturating_sub(forgiven) + 1).min(MAX_PENALTY);
        self.flapped_at = now;
    }

    /// Keeps `away_since` in step with the rest.
    fn note(&mut self, now: Time, anew: bool) {
        let serving = self.alive.is_some() && self.record.as_ref().is_some_and(|record| Self::may_sit(record));
        if serving {
            self.away_since = None;
        } else if anew || self.away_since.is_none() {
            self.away_since = Some(now);
        }
    }

    fn may_sit(record: &Member) -> bool {
        record.state == Readiness::Serving && record.role == Role::Worker
    }
}
