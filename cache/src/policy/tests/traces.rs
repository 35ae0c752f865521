//! Synthetic accesses, the same on every run, and LRU to compare with: shared by the tests and the example.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "ratios and samples, far from the limits of the types"
)]

use std::collections::{BTreeMap, HashMap};

/// Keys in the order in which they are read.
pub(crate) type Trace = Vec<u64>;

/// A cache under test.
pub(crate) trait Cache {
    /// One access, loading what is missing; says whether it was a hit.
    fn access(&mut self, key: u64, bytes: u64) -> bool;
}

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn shuffle(&mut self, keys: &mut [u64]) {
        for last in (1..keys.len()).rev() {
            keys.swap(last, (self.next() % (last as u64 + 1)) as usize);
        }
    }
}

pub(crate) fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

/// What the sizes of keys are: all 1 MiB, or lognormal from 64 KiB to 8 MiB.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sizes {
    Unit,
    Mixed,
}

impl Sizes {
    pub(crate) const BOTH: [Self; 2] = [Self::Unit, Self::Mixed];

    pub(crate) fn of(self, key: u64) -> u64 {
        if matches!(self, Self::Unit) {
            return 1 << 20;
        }
        let mut random = Random(mix(key));
        let radius = (-2.0 * random.unit().max(1e-12).ln()).sqrt();
        let normal = radius * (2.0 * std::f64::consts::PI * random.unit()).cos();
        (700_000.0 * (1.1 * normal).exp()).clamp(65_536.0, 8_388_608.0) as u64
    }

    /// A share of the bytes of all these keys.
    pub(crate) fn share(self, keys: std::ops::Range<u64>, percent: u64) -> u64 {
        (keys.map(|key| self.of(key)).sum::<u64>() * percent).div_ceil(100)
    }
}

/// Ranks drawn by Zipf's law, spread over `0..keys` so that neighbours in rank are not neighbours in key.
pub(crate) struct Zipf {
    cumulated: Vec<f64>,
}

impl Zipf {
    pub(crate) fn new(keys: u64, alpha: f64) -> Self {
        let mut sum = 0.0;
        let cumulated: Vec<f64> = (1..=keys)
            .map(|rank| {
                sum += (rank as f64).powf(-alpha);
                sum
            })
            .collect();
        Self {
            cumulated: cumulated.into_iter().map(|weight| weight / sum).collect(),
        }
    }

    pub(crate) fn draw(&self, random: &mut Random) -> u64 {
        let unit = random.unit();
        let rank = self.cumulated.partition_point(|&weight| weight < unit) as u64;
        rank.wrapping_mul(2_654_435_761) % self.cumulated.len() as u64
    }

    pub(crate) fn trace(&self, accesses: usize, random: &mut Random) -> Trace {
        (0..accesses).map(|_| self.draw(random)).collect()
    }
}

/// Epochs over the keys, in order or reshuffled each time.
pub(crate) fn epochs(keys: std::ops::Range<u64>, times: usize, shuffled: bool, random: &mut Random) -> Vec<Trace> {
    let epoch = |_| {
        let mut epoch: Trace = keys.clone().collect();
        if shuffled {
            random.shuffle(&mut epoch);
        }
        epoch
    };
    (0..times).map(epoch).collect()
}

/// Two datasets of `keys` each, read side by side: the second `speed` times as fast. A trace an epoch of the first.
pub(crate) fn interleaved(keys: u64, speed: usize, shuffled: bool, random: &mut Random) -> Vec<Trace> {
    let slow = epochs(0..keys, 6, shuffled, random);
    let fast = epochs(keys..2 * keys, 6 * speed, shuffled, random).concat();
    let mut fast = fast.chunks(speed);
    slow.into_iter()
        .map(|epoch| {
            epoch
                .into_iter()
                .flat_map(|key| std::iter::once(key).chain(fast.next().unwrap_or_default().iter().copied()))
                .collect()
        })
        .collect()
}

/// What comes between the draws of a Zipf set of `keys`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Between {
    /// One scan of three times as many other keys.
    Scan,
    /// A loop over as many other keys, again and again at intervals.
    Loop,
    /// The same loop all the time, every third access.
    Steady,
}

impl Between {
    pub(crate) const ALL: [Self; 3] = [Self::Scan, Self::Loop, Self::Steady];

    pub(crate) fn trace(self, zipf: &Zipf, keys: u64, random: &mut Random) -> Trace {
        let (accesses, mut trace) = (30 * keys, Trace::new());
        for at in 0..accesses {
            trace.push(zipf.draw(random));
            match self {
                Self::Scan if at == accesses / 2 => trace.extend(keys..4 * keys),
                Self::Loop if at % (5 * keys) == 2 * keys => trace.extend(keys..2 * keys),
                Self::Steady if at % 2 == 0 => trace.push(keys + at / 2 % keys),
                _ => {}
            }
        }
        trace
    }
}

/// Hit ratios, by accesses and by bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Hits {
    pub(crate) object: f64,
    pub(crate) byte: f64,
}

impl Hits {
    pub(crate) fn worse(self) -> f64 {
        self.object.min(self.byte)
    }

    pub(crate) fn mean(all: &[Self]) -> Self {
        let count = all.len() as f64;
        let mean = |ratio: fn(&Self) -> f64| all.iter().map(ratio).sum::<f64>() / count;
        Self {
            object: mean(|hits| hits.object),
            byte: mean(|hits| hits.byte),
        }
    }
}

/// Runs the traces one after another.
pub(crate) fn run(cache: &mut dyn Cache, traces: &[Trace], sizes: Sizes) -> Vec<Hits> {
    traces.iter().map(|trace| run_one(cache, trace, sizes)).collect()
}

pub(crate) fn run_one(cache: &mut dyn Cache, trace: &[u64], sizes: Sizes) -> Hits {
    let (mut hits, mut hit_bytes, mut bytes) = (0_u64, 0, 0);
    for &key in trace {
        let size = sizes.of(key);
        bytes += size;
        if cache.access(key, size) {
            hits += 1;
            hit_bytes += size;
        }
    }
    Hits {
        object: hits as f64 / trace.len() as f64,
        byte: hit_bytes as f64 / bytes as f64,
    }
}

/// Accesses, in steps of half of `keys`, until the hit ratio of such a step first reaches `goal`.
pub(crate) fn until(cache: &mut dyn Cache, trace: &[u64], keys: u64, goal: f64) -> usize {
    let step = (keys as usize / 2).max(1);
    let steps = trace
        .chunks(step)
        .take_while(|part| run_one(cache, part, Sizes::Unit).object < goal)
        .count();
    (steps + 1) * step
}

/// Least recently used, by bytes.
#[derive(Default)]
pub(crate) struct Lru {
    capacity: u64,
    used: u64,
    time: u64,
    entries: HashMap<u64, (u64, u64)>,
    order: BTreeMap<u64, u64>,
}

impl Lru {
    pub(crate) fn new(capacity: u64) -> Self {
        Self {
            capacity,
            ..Self::default()
        }
    }

    pub(crate) fn touch(&mut self, key: u64) -> bool {
        let found = self.take(key);
        found.is_some_and(|bytes| {
            self.push(key, bytes);
            true
        })
    }

    pub(crate) fn push(&mut self, key: u64, bytes: u64) {
        self.time += 1;
        self.used += bytes;
        self.entries.insert(key, (self.time, bytes));
        self.order.insert(self.time, key);
    }

    pub(crate) fn take(&mut self, key: u64) -> Option<u64> {
        let (time, bytes) = self.entries.remove(&key)?;
        self.order.remove(&time);
        self.used -= bytes;
        Some(bytes)
    }

    pub(crate) fn oldest(&self) -> Option<u64> {
        self.order.first_key_value().map(|(_, &key)| key)
    }

    /// Takes the oldest while it is over capacity.
    pub(crate) fn overflow(&mut self) -> Option<(u64, u64)> {
        let key = self.oldest().filter(|_| self.used() > self.capacity)?;
        Some((key, self.take(key)?))
    }

    pub(crate) fn used(&self) -> u64 {
        self.used
    }
}

impl Cache for Lru {
    fn access(&mut self, key: u64, bytes: u64) -> bool {
        if self.touch(key) {
            return true;
        }
        if bytes <= self.capacity {
            self.push(key, bytes);
            while self.overflow().is_some() {}
        }
        false
    }
}
