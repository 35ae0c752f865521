//! What the policy promises: hit ratios on traces that are the same on every run, and invariants against a model.

mod demands;
mod traces;

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::{GHOSTS_MIN, GHOSTS_PER_RESIDENT, Policy, Verdict};
use traces::{Between, Cache, Hits, Lru, Random, Sizes, Zipf, epochs, interleaved, run, run_one, until};

const KEYS: u64 = 2000;

impl Cache for Policy<u64> {
    fn access(&mut self, key: u64, bytes: u64) -> bool {
        let found = self.contains(&key);
        if found {
            self.touch(key);
        } else {
            self.admit(key, bytes);
        }
        assert!(self.bytes() <= self.capacity_bytes());
        found
    }
}

/// Calls `check` with sizes, whether epochs are shuffled, and each of these percentages.
fn each<const N: usize>(percents: [u32; N], check: impl Fn(Sizes, bool, u32)) {
    for sizes in Sizes::BOTH {
        for shuffled in [false, true] {
            percents.iter().for_each(|&percent| check(sizes, shuffled, percent));
        }
    }
}

/// Epochs hit 0.95 of cache/data or more, by accesses and by bytes, and everything when the data fits.
#[test]
fn epochs_come_within_a_twentieth_of_never_evicting() {
    each([25, 50, 75, 100, 105], |sizes, shuffled, percent| {
        for times in [5, 10] {
            let mut policy = Policy::new(sizes.share(0..KEYS, percent.into()));
            let traces = epochs(0..KEYS, times, shuffled, &mut Random(1));
            let hits = Hits::mean(&run(&mut policy, &traces, sizes)[1..]).worse();
            let bound = f64::from(percent.min(100)) / 100.0;
            let goal = if percent < 100 { 0.95 * bound } else { 1.0 };
            assert!(
                hits >= goal,
                "{sizes:?} shuffled {shuffled} {percent}% x{times}: {hits}"
            );
        }
    });
}

/// On skewed reads, alone or with scans and loops in between, it is never below LRU, by accesses and by bytes.
#[test]
fn skewed_reads_are_not_below_lru() {
    for sizes in Sizes::BOTH {
        for alpha in [0.7, 0.9, 1.1] {
            let zipf = Zipf::new(KEYS, alpha);
            let mut all = vec![zipf.trace(60_000, &mut Random(2))];
            all.extend(Between::ALL.map(|kind| kind.trace(&zipf, KEYS, &mut Random(3))));
            for (at, trace) in all.iter().enumerate() {
                for percent in [5, 10, 25, 50] {
                    let capacity = sizes.share(0..KEYS, percent);
                    let mine = run_one(&mut Policy::new(capacity), trace, sizes);
                    let lru = run_one(&mut Lru::new(capacity), trace, sizes);
                    let name = format!("{sizes:?} {alpha} trace {at} {percent}%: {mine:?} {lru:?}");
                    assert!(mine.object >= lru.object && mine.byte >= lru.byte, "{name}");
                }
            }
        }
    }
}

/// When another dataset takes the place of the first, it has 0.95 of its bound from its fourth epoch on, 0.85 in its
/// third, and everything there when it fits.
#[test]
fn another_dataset_takes_over_within_three_epochs() {
    each([25, 50, 75, 100], |sizes, shuffled, percent| {
        let mut policy = Policy::new(sizes.share(KEYS..2 * KEYS, percent.into()));
        let mut random = Random(4);
        run(&mut policy, &epochs(0..KEYS, 5, shuffled, &mut random), sizes);
        let hits = run(&mut policy, &epochs(KEYS..2 * KEYS, 5, shuffled, &mut random), sizes);
        for (epoch, share) in hits[2..].iter().zip([0.85, 0.95, 0.95]) {
            let goal = if percent < 100 {
                share * f64::from(percent) / 100.0
            } else {
                0.995
            };
            assert!(
                epoch.worse() >= goal,
                "{sizes:?} shuffled {shuffled} {percent}%: {hits:?}"
            );
        }
    });
}

/// A smaller dataset that fits hits 0.95 or more in its third epoch, and everything in its fourth.
#[test]
fn a_smaller_dataset_that_fits_takes_over() {
    each([50, 75], |sizes, shuffled, percent| {
        let fits = KEYS..KEYS + KEYS * u64::from(percent) / 100;
        let mut policy = Policy::new(sizes.share(0..KEYS, 100).max(sizes.share(fits.clone(), 100)));
        let mut random = Random(4);
        run(&mut policy, &epochs(0..KEYS, 5, shuffled, &mut random), sizes);
        let hits = run(&mut policy, &epochs(fits, 5, shuffled, &mut random), sizes);
        assert!(
            hits[2].worse() >= 0.95,
            "{sizes:?} shuffled {shuffled} {percent}%: {hits:?}"
        );
        assert!(
            hits[3].worse() >= 0.995,
            "{sizes:?} shuffled {shuffled} {percent}%: {hits:?}"
        );
    });
}

/// After every rank of a Zipf set has moved, it needs at most three times as many accesses as LRU to come back.
#[test]
fn a_moved_hot_set_is_found_again() {
    for alpha in [0.7, 0.9, 1.1] {
        for percent in [5, 10, 25, 50] {
            let (zipf, capacity) = (Zipf::new(KEYS, alpha), Sizes::Unit.share(0..KEYS, percent));
            let before = zipf.trace(50_000, &mut Random(5));
            let after: Vec<u64> = zipf
                .trace(50_000, &mut Random(6))
                .into_iter()
                .map(|key| (key + KEYS / 2) % KEYS)
                .collect();
            let (mut mine, mut lru) = (Policy::new(capacity), Lru::new(capacity));
            let goal = 0.95 * run_one(&mut lru, &before, Sizes::Unit).object;
            run_one(&mut mine, &before, Sizes::Unit);
            let (mine, lru) = (
                until(&mut mine, &after, KEYS, goal),
                until(&mut lru, &after, KEYS, goal),
            );
            assert!(mine <= 3 * lru, "{alpha} {percent}%: {mine} accesses, LRU {lru}");
        }
    }
}

/// Two epochs at different speeds hit 0.95 of cache/data or more, and everything when both fit.
#[test]
fn epochs_at_different_speeds_live_side_by_side() {
    each([25, 50, 75, 100], |sizes, shuffled, percent| {
        for speed in [1, 3] {
            let mut policy = Policy::new(sizes.share(0..2 * KEYS, percent.into()));
            let traces = interleaved(KEYS, speed, shuffled, &mut Random(7));
            let hits = Hits::mean(&run(&mut policy, &traces, sizes)[1..]).worse();
            let goal = if percent < 100 {
                0.0095 * f64::from(percent)
            } else {
                1.0
            };
            assert!(
                hits >= goal,
                "{sizes:?} shuffled {shuffled} x{speed} {percent}%: {hits}"
            );
        }
    });
}

/// Keys that were restored serve the first epoch after a restart, and the policy holds on to them.
#[test]
fn restored_keys_survive_the_next_epochs() {
    let mut policy = Policy::new(Sizes::Unit.share(0..KEYS, 50));
    (0..KEYS / 2).for_each(|key| policy.restore(key * 2, 1 << 20));
    let hits = run(&mut policy, &epochs(0..KEYS, 4, true, &mut Random(8)), Sizes::Unit);
    assert!(hits.iter().all(|epoch| epoch.worse() >= 0.95 * 0.5), "{hits:?}");
}

/// Touches alone move the clock on, also when all keys were restored at its start.
#[test]
fn restored_keys_gain_a_history_by_touches() {
    let mut policy = Policy::new(100);
    (0..100_u64).for_each(|key| policy.restore(key, 1));
    (0..4).for_each(|_| (0..50).for_each(|key| policy.touch(key)));
    assert!(policy.evict(50).iter().all(|&key| key >= 50));
}

/// Sequential epochs keep their hits when other reads come in between, of a pace that changes from epoch to epoch.
#[test]
fn a_changing_pace_does_not_look_like_the_end() {
    for percent in [25_u32, 50, 75] {
        let mut policy = Policy::new(Sizes::Unit.share(0..KEYS, percent.into()));
        let shares = [0, 0, 60, 10, 30, 5, 50, 0, 20, 40];
        for (at, (share, epoch)) in shares
            .into_iter()
            .zip(epochs(0..KEYS, 10, false, &mut Random(9)))
            .enumerate()
        {
            let others = (0..).map(|other| KEYS * (10 + u64::try_from(at).unwrap()) + other);
            let mut hits = 0_u32;
            for (key, other) in epoch.into_iter().zip(others) {
                hits += u32::from(policy.access(key, 1 << 20));
                if other * share % 100 < share {
                    policy.access(other, 1 << 20);
                }
            }
            let goal = 0.9 * f64::from(percent) / 100.0 * f64::from(u32::try_from(KEYS).unwrap());
            assert!(at == 0 || f64::from(hits) >= goal, "{percent}% epoch {at}: {hits} hits");
        }
    }
}

/// An extent that is read in sixteen pieces is one access: epochs over extents reach the bound too.
#[test]
fn pieces_of_an_extent_are_one_access() {
    const PIECES: u64 = 16;
    let mut policy = Policy::new(KEYS * 64 / 2);
    let mut had: HashMap<u64, u64> = HashMap::new();
    let (mut found, mut read) = (0_u32, 0_u32);
    for (epoch, trace) in epochs(0..KEYS, 5, true, &mut Random(9)).into_iter().enumerate() {
        for (key, piece) in trace
            .into_iter()
            .flat_map(|key| (0..PIECES).map(move |piece| (key, piece)))
        {
            let resident = policy.contains(&key) && had.get(&key).is_some_and(|pieces| pieces >> piece & 1 == 1);
            if resident {
                policy.touch(key);
            } else if let Verdict::Admitted { evicted } = policy.admit(key, 4) {
                evicted.iter().for_each(|key| _ = had.remove(key));
                *had.entry(key).or_default() |= 1 << piece;
            }
            found += u32::from(resident && epoch > 0);
            read += u32::from(epoch > 0);
        }
    }
    assert!(f64::from(found) >= 0.95 * 0.5 * f64::from(read), "{found} of {read}");
}

/// Among residents of one history the largest goes first.
#[test]
fn the_larger_of_equals_goes_first() {
    let mut policy = Policy::new(1 << 30);
    policy.restore(1, 1 << 20);
    policy.restore(2, 1 << 26);
    policy.restore(3, 1 << 12);
    policy.admit(4, 1 << 20);
    assert_eq!(policy.evict(1), [2]);
    assert_eq!(policy.evict(u64::MAX).first(), Some(&1));
}

/// What is larger than the capacity is refused, and so is nothing at all.
#[test]
fn what_cannot_fit_is_refused() {
    let mut policy = Policy::new(100);
    assert_eq!(policy.admit(1, 101), Verdict::Refused);
    assert_eq!(policy.admit(1, 0), Verdict::Refused);
    assert_eq!(policy.admit(1, 100), Verdict::Admitted { evicted: vec![] });
    assert_eq!(policy.admit(1, 1), Verdict::Refused);
    assert_eq!((policy.bytes(), policy.len(), policy.is_empty()), (100, 1, false));
    assert_eq!(Policy::new(0).admit(1, 1), Verdict::Refused);
}

/// A miss that is not loaded is remembered like one that is refused, and what would be let in then is.
#[test]
fn what_passes_is_remembered_like_what_is_refused() {
    let full = || {
        let mut policy = Policy::new(10 << 10);
        (0..10).for_each(|key| _ = policy.admit(key, 1 << 10));
        policy
    };
    let (mut offered, mut passed, mut asked) = (full(), full(), full());
    assert_eq!(passed.room_for(&99, 1 << 10), 0, "a stranger");
    assert_eq!(offered.admit(99, 1 << 10), Verdict::Refused);
    passed.pass(99, 1 << 10);
    assert_eq!((passed.len(), passed.bytes()), (10, 10 << 10));
    let verdict = offered.admit(99, 1 << 10);
    assert!(
        matches!(verdict, Verdict::Admitted { .. }),
        "it came back sooner than the others"
    );
    assert_eq!(passed.admit(99, 1 << 10), verdict);
    (0..2).for_each(|_| asked.pass(99, 1 << 10));
    assert!(asked.room_for(&99, 1 << 10) >= 1 << 10);
    // And no more than those have that are worth less: the latest of them is not.
    assert_eq!(asked.room_for(&99, u64::MAX), 9 << 10);
    assert_eq!(asked.len(), 10, "to ask lets nothing in");
    // Of what is resident, and of what can never be, it is nothing.
    let before = format!("{passed:?}");
    passed.pass(99, 1 << 10);
    passed.pass(7, 11 << 10);
    assert_eq!(format!("{passed:?}"), before);
}

#[derive(Debug, Clone)]
enum Call {
    Access(u16, u64),
    Grow(u16, u64),
    Remove(u16),
    Evict(u64),
    Capacity(u64),
    Restore(u16, u64),
    Demand(u16, u64, Option<u64>),
    Pin(u16, bool),
    Resize(u16, u64),
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let key = 0_u16..300;
    let call = prop_oneof![
        20 => (key.clone(), 1_u64..2000).prop_map(|(key, bytes)| Call::Access(key, bytes)),
        4 => (key.clone(), 0_u64..50).prop_map(|(key, bytes)| Call::Grow(key, bytes)),
        2 => key.clone().prop_map(Call::Remove),
        1 => (0_u64..5000).prop_map(Call::Evict),
        1 => (0_u64..20_000).prop_map(Call::Capacity),
        1 => (key.clone(), 0_u64..500).prop_map(|(key, bytes)| Call::Restore(key, bytes)),
        2 => (key.clone(), 0_u64..2000, prop::option::of(0_u64..3)).prop_map(|(key, bytes, by)| Call::Demand(key, bytes, by)),
        1 => (key.clone(), any::<bool>()).prop_map(|(key, pinned)| Call::Pin(key, pinned)),
        1 => (key, 0_u64..500).prop_map(|(key, bytes)| Call::Resize(key, bytes)),
    ];
    prop::collection::vec(call, 0..600)
}

/// The residents, as an owner sees them.
#[derive(Default)]
struct Model(HashMap<u16, u64>, HashSet<u16>);

impl Model {
    fn drop_all(&mut self, evicted: &[u16]) -> u64 {
        evicted
            .iter()
            .map(|key| {
                assert!(!self.1.contains(key), "{key} is pinned");
                self.0.remove(key).expect("only residents are evicted")
            })
            .sum()
    }

    fn admit(&mut self, policy: &mut Policy<u16>, key: u16, bytes: u64) {
        if let Verdict::Admitted { evicted } = policy.admit(key, bytes) {
            assert!(!evicted.contains(&key));
            self.drop_all(&evicted);
            *self.0.entry(key).or_default() += bytes;
        }
    }

    fn apply(&mut self, policy: &mut Policy<u16>, call: &Call) {
        match *call {
            Call::Access(key, _) if policy.contains(&key) => policy.touch(key),
            Call::Access(key, bytes) | Call::Grow(key, bytes) => self.admit(policy, key, bytes),
            Call::Remove(key) => {
                assert_eq!(policy.remove(&key), self.0.remove(&key).unwrap_or(0));
                self.1.remove(&key);
            }
            Call::Evict(bytes) => {
                let there = policy.bytes() - policy.pinned_bytes();
                assert!(self.drop_all(&policy.evict(bytes)) >= bytes.min(there));
            }
            Call::Capacity(bytes) => _ = self.drop_all(&policy.set_capacity(bytes)),
            Call::Restore(key, bytes) => {
                policy.restore(key, bytes);
                if bytes > 0 {
                    *self.0.entry(key).or_default() += bytes;
                }
                self.drop_all(&policy.set_capacity(policy.capacity_bytes()));
            }
            Call::Demand(key, bytes, by) => self.demand(policy, key, bytes, by),
            Call::Pin(key, pinned) => {
                policy.pin(&key, pinned);
                if self.0.contains_key(&key) && pinned {
                    self.1.insert(key);
                } else {
                    self.1.remove(&key);
                }
                self.drop_all(&policy.set_capacity(policy.capacity_bytes()));
            }
            Call::Resize(key, bytes) => {
                // It only shrinks, as owners have it.
                let bytes = bytes.min(policy.bytes_of(&key));
                policy.resize(key, bytes);
                if bytes == 0 {
                    self.0.remove(&key);
                    self.1.remove(&key);
                } else {
                    self.0.insert(key, bytes);
                }
            }
        }
    }

    fn demand(&mut self, policy: &mut Policy<u16>, key: u16, bytes: u64, by: Option<u64>) {
        let pinned: u64 = self
            .1
            .iter()
            .filter(|pinned| **pinned != key)
            .map(|key| self.0[key])
            .sum();
        let total = policy.bytes_of(&key) + bytes;
        match policy.demand(key, bytes, by) {
            Verdict::Admitted { evicted } => {
                assert!(!evicted.contains(&key));
                self.drop_all(&evicted);
                *self.0.entry(key).or_default() += bytes;
            }
            Verdict::Refused => {
                let fits = total > 0 && total + pinned <= policy.capacity_bytes();
                assert!(
                    by.is_some() || !fits,
                    "{total} bytes fit beside {pinned} that are pinned"
                );
            }
        }
    }

    fn check(&self, policy: &Policy<u16>) {
        assert_eq!(policy.bytes(), self.0.values().sum::<u64>());
        assert!(policy.bytes() <= policy.capacity_bytes().max(policy.pinned_bytes()));
        assert_eq!(policy.pinned_bytes(), self.1.iter().map(|key| self.0[key]).sum::<u64>());
        assert!(policy.guards.len() <= policy.len());
        assert_eq!(policy.len(), self.0.len());
        assert!((0..300).all(|key| policy.contains(&key) == self.0.contains_key(&key)));
        assert!(policy.ghosts <= policy.len() * GHOSTS_PER_RESIDENT + GHOSTS_MIN);
        assert_eq!(policy.slots.len(), policy.len() + policy.ghosts);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Bytes are the sum of the residents and within the capacity, only residents are evicted, evicting frees as much
    /// as was asked for, and ghosts are bounded, whatever the calls.
    #[test]
    fn it_agrees_with_a_model(calls in calls(), capacity in 0_u64..20_000) {
        let (mut policy, mut model) = (Policy::new(capacity), Model::default());
        for call in &calls {
            model.apply(&mut policy, call);
            model.check(&policy);
        }
    }

    /// The same calls have the same answers.
    #[test]
    fn it_is_deterministic(calls in calls()) {
        let run = || {
            let (mut policy, mut model) = (Policy::new(9000), Model::default());
            calls.iter().for_each(|call| model.apply(&mut policy, call));
            policy.evict(u64::MAX)
        };
        prop_assert_eq!(run(), run());
    }
}

/// A scan over ever new keys leaves no more behind than the ghosts' bound.
#[test]
fn history_is_bounded() {
    let mut policy = Policy::new(100);
    (0..100_000_u64).for_each(|key| _ = policy.admit(key, 1));
    let most = policy.len() * (GHOSTS_PER_RESIDENT + 1) + GHOSTS_MIN;
    assert!(policy.slots.len() <= most && policy.shelf.slots() <= most + 1);
}
