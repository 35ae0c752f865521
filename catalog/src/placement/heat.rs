//! Which splits are read so much that one worker is too few for them.
//!
//! A split's heat is its reads in a window, older ones counting less: each eighth of a window an eighth of the heat
//! goes. At a threshold it deserves one replica more, and one more at each doubling. It loses one again only when
//! its heat is below half of what earned it, so that a heat about a threshold does not flap.
//!
//! Memory is bounded: when as many splits are known as may be, the colder half is forgotten.

use std::collections::HashMap;
use std::time::Duration;

use super::key::SplitKey;

/// A read, in the units of heat.
const READ: u64 = 1 << 16;

/// What is taken from heat in a step is one part in this many, and so many steps are a window.
const STEPS: u32 = 8;

/// After so many steps without a read nothing is left that matters.
const MAX_STEPS: u64 = 256;

/// What counts as hot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeatSettings {
    /// The window over which reads count; default 1 minute.
    pub window: Duration,
    /// The reads in a window that earn the first replica more; default 64, at least 1.
    pub threshold_reads: u32,
    /// The most replicas more; default 7.
    pub max_extra: u32,
    /// The most splits that are known at a time; default 16,384, at least 2.
    pub max_splits: usize,
}

impl Default for HeatSettings {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(60),
            threshold_reads: 64,
            max_extra: 7,
            max_splits: 16 * 1024,
        }
    }
}

/// Counts reads of splits.
#[derive(Debug)]
pub struct Heat {
    settings: HeatSettings,
    splits: HashMap<SplitKey, Warm>,
}

#[derive(Debug, Clone, Copy)]
struct Warm {
    heat: u64,
    step: u64,
    extra: u32,
}

impl Heat {
    /// Nothing was read yet.
    #[must_use]
    pub fn new(settings: HeatSettings) -> Self {
        Self {
            settings,
            splits: HashMap::new(),
        }
    }

    /// Counts a read. Says how many replicas more the split deserves.
    pub fn read(&mut self, now: Duration, split: SplitKey) -> u32 {
        let step = self.step(now);
        if self.splits.len() >= self.settings.max_splits.max(2) && !self.splits.contains_key(&split) {
            self.forget_colder_half(step);
        }
        let warm = self.splits.entry(split).or_insert(Warm {
            heat: 0,
            step,
            extra: 0,
        });
        warm.cool(step);
        warm.heat = warm.heat.saturating_add(READ);
        warm.judge(&self.settings);
        warm.extra
    }

    /// How many replicas more a split deserves now.
    pub fn extra(&mut self, now: Duration, split: SplitKey) -> u32 {
        let step = self.step(now);
        let Some(warm) = self.splits.get_mut(&split) else {
            return 0;
        };
        warm.cool(step);
        warm.judge(&self.settings);
        warm.extra
    }

    /// All splits that deserve more replicas now, hottest first. Forgets those that are cold.
    pub fn hot(&mut self, now: Duration) -> Vec<(SplitKey, u32)> {
        let step = self.step(now);
        self.splits.retain(|_, warm| {
            warm.cool(step);
            warm.judge(&self.settings);
            warm.extra > 0 || warm.heat >= READ / 2
        });
        let mut hot: Vec<_> = self.splits.iter().filter(|(_, warm)| warm.extra > 0).collect();
        hot.sort_unstable_by_key(|(key, warm)| (std::cmp::Reverse(warm.heat), **key));
        hot.into_iter().map(|(key, warm)| (*key, warm.extra)).collect()
    }

    /// How many splits are known.
    #[must_use]
    pub fn known(&self) -> usize {
        self.splits.len()
    }

    fn step(&self, now: Duration) -> u64 {
        let step_ns = (self.settings.window / STEPS).as_nanos().max(1);
        u64::try_from(now.as_nanos() / step_ns).unwrap_or(u64::MAX)
    }

    fn forget_colder_half(&mut self, step: u64) {
        let mut heats: Vec<(u64, SplitKey)> = Vec::with_capacity(self.splits.len());
        for (key, warm) in &mut self.splits {
            warm.cool(step);
            heats.push((warm.heat, *key));
        }
        let half = heats.len() / 2;
        heats.select_nth_unstable(half);
        for (_, key) in &heats[..half.max(1)] {
            self.splits.remove(key);
        }
    }
}

impl Warm {
    /// Takes off what has cooled since it was last looked at.
    fn cool(&mut self, step: u64) {
        let steps = step.saturating_sub(self.step).min(MAX_STEPS);
        for _ in 0..steps {
            self.heat -= self.heat.div_ceil(u64::from(STEPS)).min(self.heat);
        }
        self.step = self.step.max(step);
    }

    fn judge(&mut self, settings: &HeatSettings) {
        let threshold = u64::from(settings.threshold_reads.max(1)) * READ;
        let earns = |extra: u32| threshold.saturating_mul(1 << extra.saturating_sub(1).min(40));
        while self.extra < settings.max_extra && self.heat >= earns(self.extra + 1) {
            self.extra += 1;
        }
        while self.extra > 0 && self.heat < earns(self.extra) / 2 {
            self.extra -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: SplitKey = SplitKey(7);

    /// Reads at a steady rate for a while; gives the number of changes of what is deserved.
    fn read_for(heat: &mut Heat, now: &mut Duration, seconds: u64, a_minute: u64) -> usize {
        let mut changes = 0;
        let mut last = heat.extra(*now, KEY);
        for _ in 0..seconds * a_minute / 60 {
            *now += Duration::from_millis(60_000 / a_minute);
            let extra = heat.read(*now, KEY);
            changes += usize::from(extra != last);
            last = extra;
        }
        changes
    }

    #[test]
    fn each_doubling_earns_one_more() {
        let (mut heat, mut now) = (Heat::new(HeatSettings::default()), Duration::ZERO);
        for (a_minute, extra) in [(30, 0), (90, 1), (190, 2), (400, 3), (60_000, 7)] {
            read_for(&mut heat, &mut now, 600, a_minute);
            assert_eq!(heat.extra(now, KEY), extra, "{a_minute}");
        }
        assert_eq!(heat.hot(now), [(KEY, 7)]);
        now += Duration::from_secs(1200);
        assert!(heat.hot(now).is_empty());
        assert_eq!(heat.known(), 0);
    }

    #[test]
    fn a_rate_about_a_threshold_does_not_flap() {
        for a_minute in 50..150 {
            let (mut heat, mut now) = (Heat::new(HeatSettings::default()), Duration::ZERO);
            let changes = read_for(&mut heat, &mut now, 3600, a_minute);
            assert!(changes <= 2, "{a_minute}: {changes}");
        }
    }

    #[test]
    fn memory_is_bounded_and_the_hot_stay() {
        let settings = HeatSettings {
            max_splits: 100,
            ..HeatSettings::default()
        };
        let mut heat = Heat::new(settings);
        for number in 0..100_000 {
            let now = Duration::from_millis(number);
            heat.read(now, SplitKey(1000 + number));
            if number % 50 == 0 {
                heat.read(now, KEY);
            }
            assert!(heat.known() <= 101);
        }
        assert!(heat.extra(Duration::from_secs(100), KEY) > 0);
    }
}
