//! After how long keys come back, and whether they have stopped to.
//!
//! [`Reuse`] is the distribution of the distances (bytes of accesses) between two accesses of one key. Each observation
//! weighs as much as its distance: a key that comes back ten times as often is seen ten times as often and must not
//! count ten times, or one busy dashboard would make every epoch look dead. [`Tide`] notices that hits have ceased.

/// Buckets that an octave of distances is cut into; a bucket is a thirty-second of its octave wide.
const STEPS: usize = 32;

/// Octaves that are told apart; shorter distances share the first bucket.
const OCTAVES: usize = 64;

/// A key that stays away for longer than this share of the reuse distances is overdue.
const LATE_PERMILLE: u64 = 990;

/// The share that is long enough for a key that was not touched since hits ceased.
const SLACK_PERMILLE: u64 = 250;

/// An eighth is added to that share's distance, because sequential epochs differ a little in their accesses.
const SLACK_HEADROOM: u64 = 8;

/// The weights are halved before their sum could overflow.
const WEIGHT_LIMIT: u64 = 1 << 60;

/// The distribution of reuse distances, halved every other time its long end goes by.
#[derive(Debug)]
pub(super) struct Reuse {
    weights: Vec<u64>,
    total: u64,
    late: Option<u64>,
    slack: Option<u64>,
    first: Option<u64>,
    review_at: u64,
    halve_at: u64,
}

impl Reuse {
    pub(super) fn new() -> Self {
        let weights = vec![0; OCTAVES * STEPS];
        Self {
            weights,
            total: 0,
            late: None,
            slack: None,
            first: None,
            review_at: 0,
            halve_at: 0,
        }
    }

    /// The distance after which a key is overdue; `None` while nothing has come back yet.
    ///
    /// The first keys that come back are the quick ones, so until this distance has gone by once since the first of
    /// them, twice as long is granted.
    pub(super) fn late(&self, now: u64) -> Option<u64> {
        let late = self.late?;
        let young = now.saturating_sub(self.first?) < late;
        Some(if young { late.saturating_mul(2) } else { late })
    }

    /// The distance that is long enough once hits have ceased.
    pub(super) fn slack(&self) -> Option<u64> {
        self.slack.map(|slack| slack.saturating_add(slack / SLACK_HEADROOM))
    }

    /// A key came back after `distance`; `every` is how often the quantiles are worked out.
    pub(super) fn note(&mut self, distance: u64, now: u64, every: u64) {
        let weight = (distance / every).clamp(1, WEIGHT_LIMIT);
        self.weights[bucket(distance)] += weight;
        self.total += weight;
        self.first.get_or_insert(now);
        if now >= self.review_at || self.total > WEIGHT_LIMIT {
            self.review_at = now.saturating_add(every);
            self.review(now);
        }
    }

    fn review(&mut self, now: u64) {
        if now >= self.halve_at || self.total > WEIGHT_LIMIT {
            self.weights.iter_mut().for_each(|weight| *weight = weight.div_ceil(2));
            self.total = self.weights.iter().sum();
            self.halve_at = now.saturating_add(self.late.unwrap_or(0).saturating_mul(2));
        }
        self.late = self.quantile(LATE_PERMILLE);
        self.slack = self.quantile(SLACK_PERMILLE);
    }

    /// The upper edge of the bucket in which that share of the weight is reached.
    fn quantile(&self, permille: u64) -> Option<u64> {
        let beyond = self.total / 1000 * (1000 - permille) + self.total % 1000 * (1000 - permille) / 1000;
        let mut above = 0;
        for (at, weight) in self.weights.iter().enumerate().rev() {
            above += weight;
            if above > beyond {
                return Some(upper_edge(at));
            }
        }
        None
    }
}

/// Buckets are logarithmic: 32 equal steps from each power of two to the next.
fn bucket(distance: u64) -> usize {
    let distance = distance.max(32);
    let octave = distance.ilog2();
    let step = (distance >> (octave - 5)) & 31;
    usize::try_from(u64::from(octave) * 32 + step).unwrap_or(0)
}

fn upper_edge(bucket: usize) -> u64 {
    let step = u64::try_from(bucket % STEPS).unwrap_or(0);
    let shift = (bucket / STEPS).saturating_sub(5);
    ((33 + u128::from(step)) << shift)
        .saturating_sub(1)
        .try_into()
        .unwrap_or(u64::MAX)
}

/// The hits of each period against the usual number, to see that they have ceased.
///
/// A sequential epoch has a drought in every round, while it reads what is not resident. When a drought ends with hits
/// on what was resident before it, its length was normal, and so is twice that from then on.
#[derive(Debug, Default)]
pub(super) struct Tide {
    hits: u64,
    /// Those of them on residents that were last touched before the drought.
    survivors: u64,
    /// The usual hits of a period, times [`Tide::MEMORY`].
    usual: u64,
    period_end: u64,
    drought: Option<u64>,
    /// The longest drought that was normal, forgotten slowly.
    normal: u64,
}

impl Tide {
    /// Periods over which the usual number is averaged.
    const MEMORY: u64 = 16;

    /// Fewer usual hits in a period than this say nothing when they fail to come.
    const USUAL_MIN: u64 = 12;

    /// A resident was found that had last been touched at `last`.
    pub(super) fn hit(&mut self, last: u64) {
        self.hits += 1;
        self.survivors += u64::from(self.drought.is_some_and(|since| last < since));
    }

    /// How long fewer than a quarter of the usual hits have come; `None` while that is normal.
    pub(super) fn ceased(&self, now: u64) -> Option<u64> {
        let length = now.saturating_sub(self.drought?);
        (length > self.normal.saturating_mul(2)).then_some(length)
    }

    /// Closes the period when it is over.
    pub(super) fn roll(&mut self, now: u64, period: u64) {
        if now < self.period_end {
            return;
        }
        self.period_end = now.saturating_add(period);
        let low = self.usual >= Self::MEMORY * Self::USUAL_MIN && self.hits * 4 * Self::MEMORY < self.usual;
        match self.drought {
            None if low => self.drought = Some(now.saturating_sub(period)),
            Some(since) if !low => self.end_drought(now.saturating_sub(since)),
            _ => {}
        }
        self.usual = self.usual - self.usual / Self::MEMORY + self.hits;
        (self.hits, self.survivors) = (0, 0);
    }

    fn end_drought(&mut self, length: u64) {
        self.drought = None;
        if self.survivors * 2 > self.hits {
            self.normal = length.max(self.normal - self.normal / 8);
        }
    }
}
