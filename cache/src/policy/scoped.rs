//! A [`Policy`] under which some keys have a quota as well.
//!
//! A key with a quota must pass its scope's own policy, whose capacity is the quota, and then the policy of all. So within
//! a full scope keys compete as they do within a full cache, by the same rules, and what wins there takes the place of
//! one of its own. Residents are the same for both, at any time.

use std::collections::HashMap;
use std::hash::Hash;

use super::{Policy, Verdict};
use crate::retention::Quota;

/// What became of a key that was offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decision<K> {
    /// Whether it is resident now, with the bytes it was offered with.
    pub(crate) admitted: bool,
    /// The keys that are not resident any more.
    pub(crate) evicted: Vec<K>,
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

    /// As [`Policy::admit`], within a quota where one is given.
    pub(crate) fn admit(&mut self, key: K, bytes: u64, quota: Option<Quota>) -> Decision<K> {
        let mut decision = match quota {
            Some(quota) => self.admit_to_scope(key, bytes, quota),
            None => Decision {
                admitted: true,
                evicted: Vec::new(),
            },
        };
        if !decision.admitted {
            return decision;
        }
        match self.all.admit(key, bytes) {
            Verdict::Admitted { evicted } => {
                self.leave_scopes(&evicted);
                decision.evicted.extend(evicted);
            }
            Verdict::Refused => {
                decision.admitted = false;
                let had = self.all.bytes_of(&key);
                if let Some(scope) = self.scope(&key) {
                    scope.remove(&key);
                    scope.restore(key, had);
                }
                if had == 0 {
                    self.scope_of.remove(&key);
                }
            }
        }
        decision
    }

    fn admit_to_scope(&mut self, key: K, bytes: u64, quota: Quota) -> Decision<K> {
        let scope = self
            .scopes
            .entry(quota.scope)
            .or_insert_with(|| Policy::new(quota.bytes));
        let (admitted, evicted) = match scope.admit(key, bytes) {
            Verdict::Refused => (false, Vec::new()),
            Verdict::Admitted { evicted } => (true, evicted),
        };
        if admitted {
            self.scope_of.insert(key, quota.scope);
        }
        for gone in &evicted {
            self.all.remove(gone);
            self.scope_of.remove(gone);
        }
        Decision { admitted, evicted }
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
        if self.all.contains(&key) {
            self.all.remove(&key);
        }
        self.all.restore(key, bytes);
        if let Some(scope) = self.scope(&key) {
            scope.remove(&key);
            scope.restore(key, bytes);
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
    pub(crate) fn set_quotas(&mut self, quota_of: impl Fn(&K) -> Option<Quota>) -> Vec<K> {
        self.scopes.clear();
        self.scope_of.clear();
        let mut quotas = HashMap::new();
        for (key, bytes) in self.all.residents() {
            if let Some(quota) = quota_of(&key) {
                quotas.insert(quota.scope, quota.bytes);
                let scope = self.scopes.entry(quota.scope);
                scope.or_insert_with(|| Policy::new(quota.bytes)).restore(key, bytes);
                self.scope_of.insert(key, quota.scope);
            }
        }
        let mut evicted = Vec::new();
        for (scope, bytes) in quotas {
            evicted.extend(
                self.scopes
                    .get_mut(&scope)
                    .into_iter()
                    .flat_map(|of| of.set_capacity(bytes)),
            );
        }
        for key in &evicted {
            self.all.remove(key);
            self.scope_of.remove(key);
        }
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

    /// The residents of a scope are residents of all, with the same bytes, and no scope is over its quota.
    fn check(policy: &ScopedPolicy<u32>) {
        let all: HashMap<u32, u64> = policy.all.residents().collect();
        for (id, scope) in &policy.scopes {
            for (key, bytes) in scope.residents() {
                assert_eq!(all.get(&key), Some(&bytes), "key {key}");
                assert_eq!(policy.scope_of.get(&key), Some(id));
            }
            assert!(scope.bytes() <= scope.capacity_bytes());
        }
        let scoped: usize = policy.scopes.values().map(Policy::len).sum();
        assert_eq!(policy.scope_of.len(), scoped);
        assert!(policy.bytes() <= policy.capacity_bytes());
    }

    #[test]
    fn a_full_scope_leaves_the_rest_to_others() {
        let mut policy = ScopedPolicy::new(1_000);
        for key in 0..50 {
            policy.admit(key, 10, Some(QUOTA));
        }
        assert_eq!(policy.bytes(), 100);
        assert!((50..140).all(|key| policy.admit(key, 10, None).admitted));
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
        assert!(policy.admit(99, 10, None).admitted);
        check(&policy);
    }

    #[test]
    fn what_comes_again_takes_the_place_of_its_own() {
        let mut policy = ScopedPolicy::new(10_000);
        (0..10).for_each(|key| assert!(policy.admit(key, 10, Some(QUOTA)).admitted));
        (500..600).for_each(|key| assert!(policy.admit(key, 10, None).admitted));
        // One set is asked for again and again, the first never more.
        for _ in 0..20 {
            (20..25).for_each(|key| drop(policy.admit(key, 10, Some(QUOTA))));
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
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let key = || 0u32..40;
        let step = prop_oneof![
            6 => (key(), 1u64..60).prop_map(|(k, b)| Step::Admit(k, b)),
            3 => key().prop_map(Step::Touch),
            1 => key().prop_map(Step::Remove),
            1 => (key(), 0u64..20).prop_map(|(k, b)| Step::Resize(k, b)),
            1 => (0u64..100).prop_map(Step::Evict),
            1 => (300u64..500).prop_map(Step::Capacity),
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
                    Step::Admit(key, bytes) => drop(policy.admit(key, bytes, (key < 20).then_some(QUOTA))),
                    Step::Touch(key) => policy.touch(key),
                    Step::Remove(key) => policy.remove(&key),
                    // It only shrinks: what grows is admitted.
                    Step::Resize(key, bytes) if policy.all.bytes_of(&key) >= bytes && policy.contains(&key) => policy.resize(key, bytes),
                    Step::Resize(..) => {}
                    Step::Evict(bytes) => drop(policy.evict(bytes)),
                    Step::Capacity(bytes) => drop(policy.set_capacity(bytes)),
                }
                check(&policy);
            }
        }
    }
}
