//! What mounts say about keeping, told to the cache.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jetbridge_cache::Cache;
use jetbridge_cache::retention::{Keep, Retention, Rule};
use jetbridge_catalog::mount::{KeepRule, Mount, MountTable, RetentionRule};

use crate::error::ServiceError;

/// How often it is looked whether something has to go.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Tells the cache what the mounts say now.
///
/// # Errors
/// Options that cannot be read, which none is that was mounted.
pub async fn apply(cache: &Cache, table: &MountTable) -> Result<(), ServiceError> {
    let said = table.iter().map(|mount| of(mount));
    cache.set_retention(said.collect::<Result<_, _>>()?).await;
    Ok(())
}

/// Drops what has to go, for as long as it is polled.
pub async fn enforce(cache: Arc<Cache>) {
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    let mut last: Option<Instant> = None;
    loop {
        ticks.tick().await;
        let due = |interval| last.is_none_or(|last| last.elapsed() >= interval);
        if cache.expiry_interval().is_some_and(due) {
            cache.expire().await;
            last = Some(Instant::now());
        }
    }
}

fn of(mount: &Mount) -> Result<Retention, ServiceError> {
    let said = mount.retention()?;
    Ok(Retention {
        uri: mount.uri.to_string(),
        ttl: said.ttl,
        quota_bytes: said.quota_bytes,
        rules: said.rules.iter().map(rule).collect::<Result<_, _>>()?,
    })
}

fn rule(said: &RetentionRule) -> Result<Rule, ServiceError> {
    let keep = match said.keep {
        KeepRule::Never => Keep::Never,
        KeepRule::Always => Keep::AtOnce,
        KeepRule::MaxAge(age) => Keep::OnReuse(Some(age)),
    };
    Rule::new(&said.glob, keep).map_err(|error| ServiceError::invalid(error.to_string()))
}
