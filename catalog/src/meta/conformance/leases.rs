//! What ends with a lease, and when.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{Checked, clear, ensure, key, next};
use crate::meta::conformance::PREFIX;
use crate::meta::{Expect, LeaseId, MAX_LEASE_TTL, MetaError, MetaStore, WatchEvent};

/// Short, so that the suite is, and longer than a busy machine or a slow disk stands still; a store may lengthen it.
const SHORT_TTL: Duration = Duration::from_secs(3);

/// Longer than any check lasts.
const LONG_TTL: Duration = Duration::from_secs(600);

/// How long a lease is kept alive: longer than what a store makes of [`SHORT_TTL`].
const KEPT_FOR: Duration = Duration::from_millis(4500);

/// How often it is.
const KEEP_INTERVAL: Duration = Duration::from_millis(250);

pub(super) async fn check(store: &dyn MetaStore) -> Checked {
    keys_go_with_a_lease_that_runs_out(store).await?;
    a_lease_that_is_kept_alive_lasts(store).await?;
    a_key_is_bound_by_its_last_put(store).await?;
    a_lease_that_is_none_is_refused(store, LeaseId::from_number(0x7fff_ffff_ffff_fff0)).await?;
    times_have_limits(store).await
}

async fn keys_go_with_a_lease_that_runs_out(store: &dyn MetaStore) -> Checked {
    let mut watch = store.watch(PREFIX);
    next(&mut watch).await?;
    let granted = Instant::now();
    let lease = store.grant(SHORT_TTL).await?;
    for name in ["leased/a", "leased/b"] {
        store
            .put_leased(&key(name), vec![1], Expect::Absent, Some(lease))
            .await?;
    }
    store.put(&key("leased/c"), vec![1], Expect::Absent).await?;
    let mut gone = BTreeSet::new();
    while gone.len() < 2 {
        if let WatchEvent::Delete { key, .. } = next(&mut watch).await? {
            gone.insert(key);
        }
    }
    ensure(
        granted.elapsed() >= SHORT_TTL,
        "a lease lasts as long as was asked for at least",
    )?;
    ensure(
        gone == BTreeSet::from([key("leased/a"), key("leased/b")]),
        "a lease that runs out takes its keys along, and those who watch see it",
    )?;
    let left = store.list(&key("leased/")).await?;
    ensure(
        left.len() == 1 && left[0].0 == key("leased/c"),
        "a lease takes no other keys along",
    )?;
    a_lease_that_is_none_is_refused(store, lease).await?;
    clear(store).await
}

async fn a_lease_that_is_kept_alive_lasts(store: &dyn MetaStore) -> Checked {
    let lease = store.grant(SHORT_TTL).await?;
    let revision = store
        .put_leased(&key("kept"), vec![1], Expect::Absent, Some(lease))
        .await?;
    let kept = Instant::now();
    let mut ticks = tokio::time::interval(KEEP_INTERVAL);
    while kept.elapsed() < KEPT_FOR {
        ticks.tick().await;
        store.keep_alive(lease).await?;
    }
    let found = store.get(&key("kept")).await?;
    ensure(
        found.is_some_and(|entry| entry.revision == revision),
        "what is bound to a lease stays, unchanged, while that is kept alive",
    )?;
    store.revoke(lease).await?;
    ensure(
        store.get(&key("kept")).await?.is_none(),
        "a lease that is revoked takes its keys along at once",
    )?;
    a_lease_that_is_none_is_refused(store, lease).await
}

async fn a_key_is_bound_by_its_last_put(store: &dyn MetaStore) -> Checked {
    let (one, other) = (store.grant(LONG_TTL).await?, store.grant(LONG_TTL).await?);
    ensure(one != other, "no two leases have one name")?;
    for name in ["free", "other", "again"] {
        store.put_leased(&key(name), vec![1], Expect::Absent, Some(one)).await?;
    }
    store.put(&key("free"), vec![2], Expect::Any).await?;
    store
        .put_leased(&key("other"), vec![2], Expect::Any, Some(other))
        .await?;
    store.delete(&key("again"), Expect::Any).await?;
    store.put(&key("again"), vec![2], Expect::Absent).await?;
    let refused = store.put_leased(&key("free"), vec![3], Expect::Absent, Some(one)).await;
    ensure(
        matches!(refused, Err(MetaError::Conflict { .. })),
        "what is expected holds for leased puts",
    )?;
    store.revoke(one).await?;
    ensure(
        store.list(PREFIX).await?.len() == 3,
        "a key is bound to the lease of its last put alone",
    )?;
    store.revoke(other).await?;
    let left = store.list(PREFIX).await?;
    ensure(
        left.iter().all(|(name, _)| *name != key("other")) && left.len() == 2,
        "a key goes with the lease of its last put",
    )?;
    clear(store).await
}

async fn a_lease_that_is_none_is_refused(store: &dyn MetaStore, lease: LeaseId) -> Checked {
    let refused = |error: MetaError| matches!(error, MetaError::Lease { lease: told } if told == lease);
    ensure(
        store.keep_alive(lease).await.is_err_and(refused),
        "a lease that ended cannot be kept alive",
    )?;
    ensure(
        store.revoke(lease).await.is_err_and(refused),
        "a lease that ended cannot be revoked",
    )?;
    let put = store.put_leased(&key("late"), vec![1], Expect::Any, Some(lease)).await;
    ensure(put.is_err_and(refused), "nothing can be bound to a lease that ended")?;
    ensure(
        store.get(&key("late")).await?.is_none(),
        "what was to be bound to a lease that ended is not put",
    )
}

async fn times_have_limits(store: &dyn MetaStore) -> Checked {
    for ttl in [Duration::ZERO, MAX_LEASE_TTL + Duration::from_nanos(1)] {
        ensure(
            matches!(store.grant(ttl).await, Err(MetaError::LeaseTtl { .. })),
            "a lease that lasts for no time or too long is refused",
        )?;
    }
    let lease = store.grant(MAX_LEASE_TTL).await?;
    Ok(store.revoke(lease).await?)
}
