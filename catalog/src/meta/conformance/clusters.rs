//! That a handle that is bound to a cluster leaves the stores of others alone, and is not misled by them.

use std::sync::Arc;
use std::time::Duration;

use super::{Checked, PREFIX, clear, ensure, key, next};
use crate::meta::{CLUSTER_ID_KEY, Expect, MetaError, MetaStore, WatchEvent};

const OURS: &str = "conformance-ours";
const OTHERS: &str = "conformance-others";

pub(super) async fn check(store: &dyn MetaStore) -> Checked {
    let before = store.get(CLUSTER_ID_KEY).await?;
    store.delete(CLUSTER_ID_KEY, Expect::Any).await?;
    let ours = store.bound(OURS);
    everything_is_refused(store, &ours, None).await?;
    store.put(CLUSTER_ID_KEY, OTHERS.into(), Expect::Absent).await?;
    everything_is_refused(store, &ours, Some(OTHERS)).await?;
    store.put(CLUSTER_ID_KEY, OURS.into(), Expect::Any).await?;
    everything_works(&ours).await?;
    a_watch_forgets_nothing(store, &ours).await?;
    match before {
        Some(entry) => drop(store.put(CLUSTER_ID_KEY, entry.value, Expect::Any).await?),
        None => store.delete(CLUSTER_ID_KEY, Expect::Any).await?,
    }
    clear(store).await
}

async fn everything_is_refused(store: &dyn MetaStore, ours: &Arc<dyn MetaStore>, found: Option<&str>) -> Checked {
    let name = key("of-a-cluster");
    let lease = store.grant(Duration::from_secs(60)).await?;
    store.put(&name, vec![1], Expect::Any).await?;
    let foreign = |error: MetaError| is_foreign(&error, found);
    let promise = "a handle does nothing in the store of another cluster";
    ensure(ours.get(&name).await.is_err_and(foreign), promise)?;
    ensure(ours.list("").await.is_err_and(foreign), promise)?;
    for expect in [Expect::Any, Expect::Absent, Expect::Revision(1)] {
        ensure(ours.put(&name, vec![2], expect).await.is_err_and(foreign), promise)?;
        ensure(ours.delete(&name, expect).await.is_err_and(foreign), promise)?;
    }
    let put = ours.put_leased(&name, vec![2], Expect::Any, Some(lease)).await;
    ensure(put.is_err_and(foreign), promise)?;
    ensure(ours.grant(Duration::from_secs(60)).await.is_err_and(foreign), promise)?;
    ensure(ours.keep_alive(lease).await.is_err_and(foreign), promise)?;
    ensure(ours.revoke(lease).await.is_err_and(foreign), promise)?;
    let unchanged = store.get(&name).await?.is_some_and(|entry| entry.value == [1]);
    ensure(unchanged, promise)?;
    let mut watch = ours.watch(PREFIX);
    ensure(
        matches!(next(&mut watch).await?, WatchEvent::Foreign(error) if is_foreign(&error, found)),
        "a watch of the store of another cluster says so",
    )?;
    store.revoke(lease).await?;
    clear(store).await
}

/// Whether an error tells, in words and in type, that another cluster's id was found.
fn is_foreign(error: &MetaError, wanted: Option<&str>) -> bool {
    let text = error.to_string();
    let in_words = text.contains("the metadata store does not hold the cluster") && text.contains(OURS);
    in_words
        && matches!(error, MetaError::Foreign { cluster, found }
            if cluster == OURS && found.as_deref() == wanted)
}

async fn everything_works(ours: &Arc<dyn MetaStore>) -> Checked {
    let name = key("of-a-cluster");
    let lease = ours.grant(Duration::from_secs(60)).await?;
    let first = ours.put(&name, vec![1], Expect::Absent).await?;
    let second = ours
        .put_leased(&name, vec![2], Expect::Revision(first), Some(lease))
        .await?;
    let conflict = ours.put(&name, vec![3], Expect::Revision(first)).await;
    ensure(
        matches!(conflict, Err(MetaError::Conflict { found, .. }) if found == Some(second)),
        "a bound handle tells of conflicts as others do",
    )?;
    ensure(ours.list(PREFIX).await?.len() == 1, "a bound handle lists")?;
    ours.keep_alive(lease).await?;
    ours.revoke(lease).await?;
    ensure(ours.get(&name).await?.is_none(), "a bound handle revokes")?;
    Ok(ours.delete(&name, Expect::Absent).await?)
}

async fn a_watch_forgets_nothing(store: &dyn MetaStore, ours: &Arc<dyn MetaStore>) -> Checked {
    let name = key("of-a-cluster");
    ours.put(&name, vec![1], Expect::Absent).await?;
    let mut watch = ours.watch(PREFIX);
    ensure(
        matches!(next(&mut watch).await?, WatchEvent::Reset { entries, .. } if entries.len() == 1),
        "a watch begins with all there is",
    )?;
    store.delete(CLUSTER_ID_KEY, Expect::Any).await?;
    store.delete(&name, Expect::Any).await?;
    ensure(
        matches!(next(&mut watch).await?, WatchEvent::Foreign(MetaError::Foreign { .. })),
        "a watch hears that the cluster's id went, and of no delete that followed",
    )?;
    store.put(&name, vec![2], Expect::Absent).await?;
    store.put(CLUSTER_ID_KEY, OURS.into(), Expect::Absent).await?;
    let back = loop {
        match next(&mut watch).await? {
            WatchEvent::Foreign(_) => {}
            event => break event,
        }
    };
    ensure(
        matches!(&back, WatchEvent::Reset { entries, .. } if entries.len() == 1 && entries[0].1.value == [2]),
        "a watch begins anew when the store holds the cluster again",
    )?;
    clear(store).await
}
