//! What was demanded or pinned stays, whatever the policy thinks of strangers.

use proptest::prelude::*;

use super::traces::Random;
use super::{Call, Model, Policy, Verdict, calls};
use crate::policy::PROTECTED;

const MIB: u64 = 1 << 20;

/// A cache that is full of what is read over and over.
fn full(keys: u64) -> Policy<u64> {
    let mut policy = Policy::new(keys * MIB);
    for _ in 0..8 {
        for key in 0..keys {
            if policy.contains(&key) {
                policy.touch(key);
            } else {
                policy.admit(key, MIB);
            }
        }
    }
    assert_eq!(policy.bytes(), keys * MIB);
    policy
}

fn demand(policy: &mut Policy<u64>, keys: std::ops::Range<u64>, by: u64) -> usize {
    keys.filter(|key| matches!(policy.demand(*key, MIB, Some(by)), Verdict::Admitted { .. }))
        .count()
}

#[test]
fn a_set_that_fits_is_wholly_there_over_a_full_cache() {
    let mut policy = full(500);
    assert_eq!(demand(&mut policy, 1_000..1_500, 1), 500);
    assert!((1_000..1_500).all(|key| policy.contains(&key)));
    // And another one's after it.
    assert_eq!(demand(&mut policy, 2_000..2_500, 2), 500);
    assert!((2_000..2_500).all(|key| policy.contains(&key)));
}

#[test]
fn a_set_that_does_not_fit_keeps_its_first_part() {
    let mut policy = full(500);
    assert_eq!(demand(&mut policy, 1_000..1_900, 1), 500);
    assert!((1_000..1_500).all(|key| policy.contains(&key)));
}

#[test]
fn others_are_admitted_beside_what_is_protected_and_take_its_place_after_a_capacity_of_accesses() {
    let mut policy = full(500);
    demand(&mut policy, 1_000..1_400, 1);
    // Others that come back soon would beat anything of no history.
    let others = |policy: &mut Policy<u64>, accesses: u64| {
        for access in 0..accesses {
            let key = access % 150;
            if policy.contains(&key) {
                policy.touch(key);
            } else {
                policy.admit(key, MIB);
            }
        }
    };
    // Accesses in bursts do not count, so this is less than a capacity's worth.
    others(&mut policy, 90);
    assert!((1_000..1_400).all(|key| policy.contains(&key)));
    others(&mut policy, 6_000);
    assert_eq!(policy.shelf.oldest(PROTECTED), None);
    let left = (1_000..1_400).filter(|key| policy.contains(key)).count();
    assert!(
        (300..400).contains(&left),
        "{left} are left: those that others needed went, and no more"
    );
    assert!((0..150).all(|key| policy.contains(&key)));
}

#[test]
fn demanding_what_is_resident_protects_it_anew() {
    let mut policy = full(100);
    demand(&mut policy, 1_000..1_050, 1);
    for turn in 0..40 {
        (1_000..1_050)
            .for_each(|key| assert_eq!(policy.demand(key, 0, Some(2)), Verdict::Admitted { evicted: vec![] }));
        (0..45).for_each(|key| {
            if policy.contains(&key) {
                policy.touch(key);
            } else {
                policy.admit(key, MIB);
            }
        });
        assert!((1_000..1_050).all(|key| policy.contains(&key)), "turn {turn}");
    }
}

/// What was demanded is an ordinary resident then, and not the first to go.
#[test]
fn when_protection_ends_those_that_nobody_asks_for_go_first() {
    let mut policy = Policy::new(100 * MIB);
    (0..40).for_each(|key| _ = policy.admit(key, MIB));
    demand(&mut policy, 1_000..1_050, 1);
    let mut hot = (2_000..2_010).cycle();
    while policy.shelf.oldest(PROTECTED).is_some() {
        let key = hot.next().unwrap();
        if policy.contains(&key) {
            policy.touch(key);
        } else {
            policy.admit(key, MIB);
        }
    }
    let first = policy.evict(20 * MIB);
    assert!(first.iter().all(|key| *key < 40), "{first:?}");
}

#[test]
fn what_is_pinned_goes_for_nothing() {
    let mut policy = full(100);
    (0..40).for_each(|key| policy.pin(&key, true));
    assert_eq!(policy.pinned_bytes(), 40 * MIB);
    assert_eq!(demand(&mut policy, 1_000..1_100, 1), 60);
    assert!((0..40).all(|key| policy.contains(&key)));
    assert_eq!(policy.evict(u64::MAX).len(), 60);
    assert_eq!((policy.bytes(), policy.evict(1).len()), (40 * MIB, 0));
    assert_eq!(policy.set_capacity(10 * MIB), [] as [u64; 0]);
    assert_eq!(policy.demand(7_000, MIB, None), Verdict::Refused);
    (0..40).for_each(|key| policy.pin(&key, false));
    assert_eq!((policy.pinned_bytes(), policy.evict(u64::MAX).len()), (0, 40));
}

/// A seed, printed, or the one that the environment asks for.
fn seed(test: &str) -> u64 {
    let wanted = std::env::var("JETBRIDGE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = wanted.unwrap_or_else(|| {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    });
    println!("{test}: JETBRIDGE_SEED={seed}");
    seed
}

/// From any state: some of a set may be resident, protected, known or pinned already.
#[test]
fn from_any_state_a_set_that_fits_beside_what_is_pinned_is_wholly_there() {
    let mut random = Random(seed("any state"));
    let mut below = |most: u64| random.next() % most;
    for round in 0..3_000 {
        let capacity = 1 + below(10_000);
        let (mut policy, mut model) = (Policy::new(capacity), Model::default());
        for _ in 0..below(400) {
            let key = u16::try_from(below(300)).unwrap();
            let call = match below(12) {
                0 => Call::Demand(key, below(500), Some(below(3))),
                1 => Call::Demand(key, below(500), None),
                2 => Call::Pin(key, below(3) > 0),
                3 => Call::Evict(below(1_000)),
                4 => Call::Remove(key),
                5 => Call::Resize(key, below(300)),
                _ => Call::Access(key, 1 + below(500)),
            };
            model.apply(&mut policy, &call);
            model.check(&policy);
        }
        let pinned: u64 = model.1.iter().map(|key| model.0[key]).sum();
        let mut room = capacity.saturating_sub(pinned);
        let mut set = Vec::new();
        for key in 0..below(200) {
            let key = u16::try_from(key).unwrap();
            let bytes = 1 + below(200);
            if model.1.contains(&key) || bytes > room {
                continue;
            }
            // What is resident already keeps its bytes: as much is wanted of it as it has.
            let wanted = model.0.get(&key).copied().unwrap_or(bytes);
            if wanted > room {
                continue;
            }
            room -= wanted;
            set.push((key, wanted));
        }
        for (key, bytes) in &set {
            let more = bytes - policy.bytes_of(key);
            model.apply(&mut policy, &Call::Demand(*key, more, Some(99)));
        }
        for (key, bytes) in &set {
            assert_eq!(
                policy.bytes_of(key),
                *bytes,
                "round {round}, key {key} of {}",
                set.len()
            );
        }
        model.check(&policy);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever comes, merit evicts neither what is pinned nor what is protected.
    #[test]
    fn merit_evicts_nothing_that_is_guarded(calls in calls(), capacity in 1_u64..20_000) {
        let (mut policy, mut model) = (Policy::new(capacity), Model::default());
        for call in &calls {
            let guards = policy.slots.iter().filter_map(|(key, slot)| Some((*key, *policy.guards.get(slot)?)));
            let guards: Vec<_> = guards.collect();
            model.apply(&mut policy, call);
            if matches!(call, Call::Access(..) | Call::Grow(..)) {
                let stays = guards.iter().filter(|(_, guard)| guard.pinned || guard.until > policy.clock);
                stays.for_each(|(key, _)| assert!(policy.contains(key)));
            }
        }
    }
}
