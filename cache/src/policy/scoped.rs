//! A [`Policy`] under which some keys have a quota as well.
//!
//! A key with a quota must pass its scope's own policy, whose capacity is the quota, and then the policy of all. So within
//! a full scope keys compete as they do within a full cache, by the same rules, and what wins there takes the place of
//! one of its own. Residents are the same for both, at any time.

use std::collections::HashMap;
use std::hash::Hash;

use super::{Policy, Verdict};
use crate::retention::Quota;
use crate::unkept::Unkept;

/// How a key is offered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) quota: Option<Quota>,
    /// Whose demand it is; by merit where none.
    pub(crate) demanded_by: Option<u64>,
    /// It is pinned, and comes in as if it was demanded.
    pub(crate) pinned: bool,
}

impl Offer {
    fn to<K: Copy + Eq + Hash>(self, policy: &mut Policy<K>, key: K, bytes: u64) -> Verdict<K> {
        if self.pinned || self.demanded_by.is_some() {
            policy.demand(key, bytes, self.demanded_by)
        } else {
            policy.admit(key, bytes)
        }
    }
}

/// What became of a key that was offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decision<K> {
    /// Why it is not resident with the bytes it was offered with; none where it is.
    pub(crate) refused: Option<Unkept>,
    /// The keys that are not resident any more.
    pub(crate) evicted: Vec<K>,
}

impl<K> Decision<K> {
    /// Whether it is resident now, with the bytes it was offered with.
    pub(crate) fn admitted(&self) -> bool {
        self.refused.is_none()
    }
}

/// A policy with quotas. Its users hold a mutex.
#[derive(Debug)]
pub(crate) struct ScopedPolicy<K> {
    all: Policy<K>,
    scopes: HashMap<u64, Policy<K>>,
    /// The scopes of those residents that have one.
    scope_of: HashMap<K, u64>,
}

impl<K: Copy + Eq + Hash> ScopedPolicy<K> {
    /// An empty cache of `capacity_bytes`, without quotas.
    pub(crate) fn new(capacity_bytes: u64) -> Self {
        Self {
            all: Policy::new(capacity_bytes),
            scopes: HashMap::new(),
            scope_of: HashMap::new(),
        }
    }

    /// As [`Policy::touch`].
    pub(crate) fn touch(&mut self, key: K) {
        self.all.touch(key);
        if let Some(scope) = self.scope(&key) {
            scope.touch(key);
        }
    }

    /// As [`Policy::admit`] or [`Policy::demand`], within a quota where one is given.
    pub(crate) fn offer(&mut self, key: K, bytes: u64, offer: Offer) -> Decision<K> {
        let mut decision = Decision {
            refused: None,
            evicted: Vec::new(),
        };
        if let Some(quota) = offer.quota {
            decision = self.offer_to_scope(key, bytes, (offer, quota));
        }
        if !decision.admitted() {
            return decision;
        }
        match offer.to(&mut self.all, key, bytes) {
            Verdict::Admitted { evicted } => {
                self.leave_scopes(&evicted);
                decision.evicted.extend(evicted);
                if offer.pinned {
                    self.pin(&key, true);
                }
            }
            Verdict::Refused => {
                let capacity_bytes = self.all.capacity_bytes();
                decision.refused = Some(Unkept::Full { capacity_bytes });
                let had = self.all.bytes_of(&key);
                if let Some(scope) = self.scope(&key) {
                    scope.resize(key, had);
                }
                if had == 0 {
                    self.scope_of.remove(&key);
                }
            }
        }
        decision
    }

    fn offer_to_scope(&mut self, key: K, bytes: u64, (offer, quota): (Offer, Quota)) -> Decision<K> {
        let scope = self
            .scopes
            .entry(quota.scope)
            .or_insert_with(|| Policy::new(quota.bytes));
        // What came in before it had a quota comes under it now, with all that it has.
        let outside = if scope.contains(&key) {
            0
        } else {
            self.all.bytes_of(&key)
        };
        let (refused, evicted) = match offer.to(scope, key, bytes.saturating_add(outside)) {
            Verdict::Refused => (
                Some(Unkept::Quota {
                    quota_bytes: quota.bytes,
                }),
                Vec::new(),
            ),
            Verdict::Admitted { evicted } => (None, evicted),
        };
        if refused.is_none() {
            self.scope_of.insert(key, quota.scope);
        }
        for gone in &evicted {
            self.all.remove(gone);
            self.scope_of.remove(gone);
        }
        Decision { refused, evicted }
    }

    /// As [`Policy::pass`], within a quota where one is given: what its scope would refuse is none of the others' business.
    pub(crate) fn pass(&mut self, key: K, bytes: u64, quota: Option<Quota>) {
        if let Some(quota) = quota {
            let scope = self.scopes.entry(quota.scope);
            let scope = scope.or_insert_with(|| Policy::new(quota.bytes));
            let is_let_in = scope.room_for(&key, bytes) >= bytes;
            scope.pass(key, bytes);
            if !is_let_in {
                return;
            }
        }
        self.all.pass(key, bytes);
    }

    /// As [`Policy::room_for`], within a quota where one is given.
    pub(crate) fn room_for(&self, key: &K, most: u64, quota: Option<Quota>) -> u64 {
        let within = quota.map_or(u64::MAX, |quota| match self.scopes.get(&quota.scope) {
            Some(scope) => scope.room_for(key, most),
            None => quota.bytes,
        });
        within.min(self.all.room_for(key, most))
    }

    /// Protects a resident anew, as if it was demanded now.
    pub(crate) fn protect(&mut self, key: K, by: Option<u64>) {
        if self.all.contains(&key) {
            // Without bytes there is nothing to make room for, and no reason to refuse it.
            self.all.demand(key, 0, by);
            if let Some(scope) = self.scope(&key) {
                scope.demand(key, 0, by);
            }
        }
    }

    /// Says of residents whether they are pinned from now on, and gives what pins alone held beyond the capacity or a quota.
    /// Those of which nothing is said stay as they are.
    #[must_use = "what is evicted has to be dropped"]
    pub(crate) fn set_pins(&mut self, is_pinned: impl Fn(&K) -> Option<bool>) -> Vec<K> {
        let residents = self.all.residents();
        let said: Vec<(K, bool)> = residents.filter_map(|(key, _)| Some((key, is_pinned(&key)?))).collect();
        for (key, pinned) in said {
            self.pin(&key, pinned);
        }
        self.enforce()
    }

    fn pin(&mut self, key: &K, pinned: bool) {
        self.all.pin(key, pinned);
        if let Some(scope) = self.scope(key) {
            scope.pin(key, pinned);
        }
    }

    /// As [`Policy::pinned_bytes`].
    pub(crate) fn pinned_bytes(&self) -> u64 {
        self.all.pinned_bytes()
    }

    /// As [`Policy::remove`].
    pub(crate) fn remove(&mut self, key: &K) {
        self.all.remove(key);
        if let Some(scope) = self.scope(key) {
            scope.remove(key);
        }
        self.scope_of.remove(key);
    }

    /// Sets what a resident has, without any decision; 0 makes it none.
    pub(crate) fn resize(&mut self, key: K, bytes: u64) {
        self.all.resize(key, bytes);
        if let Some(scope) = self.scope(&key) {
            scope.resize(key, bytes);
        }
        if bytes == 0 {
            self.scope_of.remove(&key);
        }
    }

    /// As [`Policy::restore`], without a quota until [`ScopedPolicy::set_quotas`].
    pub(crate) fn restore(&mut self, key: K, bytes: u64) {
        self.all.restore(key, bytes);
    }

    /// As [`Policy::evict`].
    pub(crate) fn evict(&mut self, bytes: u64) -> Vec<K> {
        let evicted = self.all.evict(bytes);
        self.leave_scopes(&evicted);
        evicted
    }

    /// As [`Policy::set_capacity`].
    pub(crate) fn set_capacity(&mut self, bytes: u64) -> Vec<K> {
        let evicted = self.all.set_capacity(bytes);
        self.leave_scopes(&evicted);
        evicted
    }

    /// Says anew which key has which quota, and gives what is beyond. What the scopes knew of accesses is forgotten.
    #[must_use = "what is evicted has to be dropped"]
    pub(crate) fn set_quotas(&mut self, quota_of: impl Fn(&K) -> Option<Quota>) -> Vec<K> {
        self.scopes.clear();
        self.scope_of.clear();
        for (key, bytes) in self.all.residents() {
            if let Some(quota) = quota_of(&key) {
                let scope = self.scopes.entry(quota.scope);
                let scope = scope.or_insert_with(|| Policy::new(quota.bytes));
                scope.restore(key, bytes);
                if let Some(by) = self.all.demanded_by(&key) {
                    scope.demand(key, 0, by);
                }
                scope.pin(&key, self.all.has_pinned(&key));
                self.scope_of.insert(key, quota.scope);
            }
        }
        self.enforce()
    }

    /// What is beyond a quota goes, and then what is beyond the capacity.
    fn enforce(&mut self) -> Vec<K> {
        let scopes = self.scopes.values_mut();
        let mut evicted: Vec<K> = scopes.flat_map(|of| of.set_capacity(of.capacity_bytes())).collect();
        for key in &evicted {
            self.all.remove(key);
            self.scope_of.remove(key);
        }
        evicted.extend(self.set_capacity(self.all.capacity_bytes()));
        evicted
    }

    /// As [`Policy::bytes`].
    pub(crate) fn bytes(&self) -> u64 {
        self.all.bytes()
    }

    /// As [`Policy::contains`].
    pub(crate) fn contains(&self, key: &K) -> bool {
        self.all.contains(key)
    }

    /// As [`Policy::bytes_of`].
    pub(crate) fn bytes_of(&self, key: &K) -> u64 {
        self.all.bytes_of(key)
    }

    /// As [`Policy::capacity_bytes`].
    pub(crate) fn capacity_bytes(&self) -> u64 {
        self.all.capacity_bytes()
    }

    fn scope(&mut self, key: &K) -> Option<&mut Policy<K>> {
        self.scopes.get_mut(self.scope_of.get(key)?)
    }

    /// They go from their scopes, which remember them.
    fn leave_scopes(&mut self, evicted: &[K]) {
        for key in evicted {
            if let Some(scope) = self.scope(key) {
                scope.remove(key);
            }
            self.scope_of.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const QUOTA: Quota = Quota { scope: 1, bytes: 100 };

    fn offer(policy: &mut ScopedPolicy<u32>, key: u32, bytes: u64, quota: Option<Quota>) -> bool {
        let offer = Offer {
            quota,
            ..Offer::default()
        };
        policy.offer(key, bytes, offer).admitted()
    }

    /// The residents of a scope are residents of all, with the same bytes, and no scope is over its quota.
    fn check(policy: &ScopedPolicy<u32>) {
        let all: HashMap<u32, u64> = policy.all.residents().collect();
        for (id, scope) in &policy.scopes {
            for (key, bytes) in scope.residents() {
                assert_eq!(all.get(&key), Some(&bytes), "key {key}");
                assert_eq!(policy.scope_of.get(&key), Some(id));
            }
            assert!(scope.bytes() <= scope.capacity_bytes().max(scope.pinned_bytes()));
        }
        let scoped: usize = policy.scopes.values().map(Policy::len).sum();
        assert_eq!(policy.scope_of.len(), scoped);
        assert!(policy.bytes() <= policy.capacity_bytes().max(policy.pinned_bytes()));
    }

    #[test]
    fn a_full_scope_leaves_the_rest_to_others() {
        let mut policy = ScopedPolicy::new(1_000);
        for key in 0..50 {
            offer(&mut policy, key, 10, Some(QUOTA));
        }
        assert_eq!(policy.bytes(), 100);
        assert!((50..140).all(|key| offer(&mut policy, key, 10, None)));
        assert_eq!(policy.bytes(), 1_000);
        check(&policy);
    }

    #[test]
    fn a_quota_can_be_set_and_lifted_later() {
        let mut policy = ScopedPolicy::new(1_000);
        (0..50).for_each(|key| policy.restore(key, 10));
        let evicted = policy.set_quotas(|key| (*key < 30).then_some(QUOTA));
        assert_eq!((evicted.len(), policy.bytes()), (20, 300));
        assert!(evicted.iter().all(|key| *key < 30));
        check(&policy);
        assert!(policy.set_quotas(|_| None).is_empty());
        assert!(offer(&mut policy, 99, 10, None));
        check(&policy);
    }

    #[test]
    fn what_came_before_its_quota_counts_in_it_when_it_grows() {
        let mut policy = ScopedPolicy::new(1_000);
        assert!(offer(&mut policy, 1, 60, None));
        assert!(offer(&mut policy, 1, 10, Some(QUOTA)));
        check(&policy);
        assert!(
            !offer(&mut policy, 1, 50, Some(QUOTA)),
            "120 bytes under a quota of 100"
        );
        assert_eq!(policy.bytes(), 70);
        check(&policy);
    }

    /// Pinned under no quota and in a larger cache, they go when nothing pins them any more.
    #[test]
    fn what_pins_alone_held_goes_with_them() {
        let mut policy = ScopedPolicy::new(1_000);
        (0..60).for_each(|key| policy.restore(key, 10));
        assert!(policy.set_pins(|_| Some(true)).is_empty());
        assert!(policy.set_quotas(|key| (*key < 30).then_some(QUOTA)).is_empty());
        assert!(policy.set_capacity(200).is_empty());
        check(&policy);
        assert_eq!(policy.set_pins(|key| Some(*key < 15)).len(), 40);
        assert!(
            (0..15).all(|key| policy.contains(&key)),
            "150 pinned bytes under a quota of 100"
        );
        check(&policy);
        assert_eq!(policy.set_pins(|_| Some(false)).len(), 5);
        assert_eq!(policy.bytes(), 150);
        check(&policy);
    }

    #[test]
    fn what_comes_again_takes_the_place_of_its_own() {
        let mut policy = ScopedPolicy::new(10_000);
        (0..10).for_each(|key| assert!(offer(&mut policy, key, 10, Some(QUOTA))));
        (500..600).for_each(|key| assert!(offer(&mut policy, key, 10, None)));
        // One set is asked for again and again, the first never more.
        for _ in 0..20 {
            (20..25).for_each(|key| _ = offer(&mut policy, key, 10, Some(QUOTA)));
        }
        assert!((20..25).all(|key| policy.contains(&key)));
        assert!((500..600).all(|key| policy.contains(&key)), "others pay nothing for it");
        check(&policy);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Admit(u32, u64),
        Touch(u32),
        Remove(u32),
        Resize(u32, u64),
        Evict(u64),
        Capacity(u64),
        Pins(u32),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let key = || 0u32..40;
        let step = prop_oneof![
            6 => (key(), 1u64..60).prop_map(|(k, b)| Step::Admit(k, b)),
            3 => key().prop_map(Step::Touch),
            1 => key().prop_map(Step::Remove),
            1 => (key(), 0u64..20).prop_map(|(k, b)| Step::Resize(k, b)),
            1 => (0u64..100).prop_map(Step::Evict),
            1 => (0u64..500).prop_map(Step::Capacity),
            1 => key().prop_map(Step::Pins),
        ];
        prop::collection::vec(step, 1..200)
    }

    proptest! {
        #[test]
        fn both_sides_have_the_same_residents(steps in steps()) {
            let mut policy = ScopedPolicy::new(400);
            for step in steps {
                match step {
                    // A key's scope is a matter of its file, and does not change from call to call.
                    Step::Admit(key, bytes) => _ = offer(&mut policy, key, bytes, (key < 20).then_some(QUOTA)),
                    Step::Touch(key) => policy.touch(key),
                    Step::Remove(key) => policy.remove(&key),
                    // It only shrinks: what grows is admitted.
                    Step::Resize(key, bytes) if policy.all.bytes_of(&key) >= bytes && policy.contains(&key) => policy.resize(key, bytes),
                    Step::Resize(..) => {}
                    Step::Evict(bytes) => drop(policy.evict(bytes)),
                    Step::Capacity(bytes) => drop(policy.set_capacity(bytes)),
                    Step::Pins(below) => drop(policy.set_pins(|key| Some(*key < below))),
                }
                check(&policy);
            }
        }
    }
}
