//! DoAction: JSON in, JSON out, and Flight's standard actions with their protobuf bodies.
//!
//! To add an action: a line in [`ACTIONS`], an arm in [`run`], a function in the module of its subject.

mod cache;
mod cluster;
mod datasets;
mod everywhere;
mod jobs;
mod meta;
mod mounts;
mod peers;
mod pins;
mod standard;
mod status;

use std::sync::Arc;

use arrow_flight::{Action, ActionType};
use bytes::Bytes;
use futures::{StreamExt, stream};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::Status;

pub(super) use self::everywhere::others;
use self::peers::Parts;
use super::observe::Failure;
use super::sql;
use crate::capacity::CAPACITY_ACTION;
use crate::cluster::clock::CLOCK_ACTION;
use crate::cluster::footers::{FOOTERS_ACTION, HELD_FOOTERS_ACTION, KNOWN_ACTION};
use crate::cluster::peers::{MAX_BODY_BYTES, PAGES_ACTION, RESIDENCY_ACTION};
use crate::cluster::remote::{META_CALL_ACTION, META_PREFIX, META_WATCH_ACTION};
use crate::error::ServiceError;
use crate::jobs::holders::HOLDS_ACTION;
use crate::jobs::task::PULL_ACTION;
use crate::node::Node;
use crate::statements::CANCEL_QUERIES_ACTION;

/// What the names of the actions begin with that nodes ask each other.
const PEER_PREFIX: &str = "peer.";

/// What ListActions tells: all but what nodes ask each other.
const ACTIONS: &[(&str, &str)] = &[
    (
        "mount.add",
        "Mount storage: {\"path\", \"uri\", \"options\": {}, \"read_only\"}; it must answer first.",
    ),
    ("mount.list", "All mounts: {}; secrets are shown by reference."),
    (
        "mount.remove",
        "Remove a mount: {\"path\"}; refused while mounts lie below it.",
    ),
    (
        "mount.check",
        "Try a mount's storage: {\"path\"}; credentials, listing, range reads, versions.",
    ),
    (
        "dataset.refresh",
        "Look at the storage anew at the next read: {\"path\"}.",
    ),
    (
        "dataset.find",
        "The dataset that a table's name means in SQL: {\"schema\", \"table\"}; its path.",
    ),
    (
        "dataset.units",
        "A dataset's row groups in its order: {\"path\", \"columns\", \"filter\", \"count\", \"snapshot\", \"after\", \"limit\"}; \
         a page, with the version's fingerprint. `parts` of a scan names those to read.",
    ),
    (
        "cache.stat",
        "What is held of a path: {\"path\", \"by\": \"file\" or \"column\", \"scope\": \"node\"}; bytes, raw and decoded, of all nodes.",
    ),
    (
        "cache.free",
        "Let go of what is held of a path, on all nodes: {\"path\", \"generation\", \"dry_run\", \"scope\": \"node\"}; / is all.",
    ),
    (
        "cache.pin",
        "Keep what is held of a path and is read of it from then on: {\"path\", \"tier\": \"raw\", \"decoded\" or \"both\"}; \
         refused where it does not fit.",
    ),
    ("cache.unpin", "Let a pinned path be evicted again: {\"path\"}."),
    ("cache.pins", "All pins: {}; path, tier, bytes."),
    (
        "namespace.list",
        "What lies in a folder, 10000 entries at the most: {\"path\", \"limit\"}.",
    ),
    (
        "namespace.stat",
        "What a path is, and its dataset if it is one: {\"path\"}.",
    ),
    (
        "preload.submit",
        "Load data before it is read: {\"path\" or \"paths\", \"columns\", \"where\", \"tier\", \"replicas\", \"bandwidth\", \"verify\", \
         \"metadata_only\", \"skip_if_cached\", \"partial_listing\", \"partial\", \"priority\", \"max_failures\", \"every\", \"dry_run\"}; \
         gives the job, or the unfinished one that does the same.",
    ),
    (
        "verify.submit",
        "Compare what is held with the storage: {\"path\" or \"paths\", \"columns\", \"where\", \"bandwidth\", \"priority\", \
         \"max_failures\"}; gives the job.",
    ),
    (
        "preload.list",
        "Jobs, the latest first, without their workers: {\"state\", \"limit\"}.",
    ),
    ("preload.get", "A job and how far it is: {\"id\"}."),
    (
        "preload.cancel",
        "End a job: {\"id\"}; what it asked of storage is dropped.",
    ),
    (
        "preload.watch",
        "A job each time that its progress is written down, until it is over: {\"id\"}; a stream.",
    ),
    (
        "cluster.members",
        "The nodes of the cluster: {}; id, role, state, addresses, weight, share of the placement.",
    ),
    (
        "locate",
        "Which nodes own a path: {\"path\"}; its splits, their owners, and what is cached there.",
    ),
    (
        "cluster.rotate_keys",
        "Seal tickets with a new key: {}; tickets of the key before still open.",
    ),
    ("server.status", "Version, uptime, mounts, memory in use: {}."),
    (
        "CancelFlightInfo",
        "Flight's standard action: ends a query wherever it runs. A scan holds nothing before DoGet, so there is nothing to cancel.",
    ),
    (
        "RenewFlightEndpoint",
        "Flight's standard action: the same endpoint with a new expiration time.",
    ),
];

/// The actions that exist.
pub(super) fn list() -> impl Iterator<Item = ActionType> {
    ACTIONS
        .iter()
        .chain(sql::ACTIONS)
        .map(|&(name, description)| ActionType {
            r#type: name.to_owned(),
            description: description.to_owned(),
        })
}

/// Runs one action. `from_node` says whether the caller may call those of the nodes.
///
/// # Errors
/// UNIMPLEMENTED for an unknown name, INVALID_ARGUMENT for a body that does not fit, PERMISSION_DENIED for an action of the
/// nodes where the caller is none, and what the action itself says.
pub(super) async fn run(node: &Arc<Node>, action: &Action, from_node: Result<(), Status>) -> Result<Parts, Failure> {
    let name = action.r#type.as_str();
    if name.starts_with(PEER_PREFIX) || name.starts_with(META_PREFIX) {
        from_node?;
    }
    match name {
        PAGES_ACTION => Ok(peers::pages(node, parse(action)?).await?),
        FOOTERS_ACTION => Ok(peers::footers(node, &parse(action)?)?),
        HELD_FOOTERS_ACTION => Ok(peers::held_footers(node, &parse(action)?)?),
        META_WATCH_ACTION => Ok(meta::watch(node, &parse(action)?)?),
        "preload.watch" => Ok(jobs::watch(node, &parse(action)?).await?),
        _ => {
            let body = one(node, action).await?;
            Ok(stream::iter([Ok(arrow_flight::Result { body })]).boxed())
        }
    }
}

/// Runs an action that gives one result.
async fn one(node: &Arc<Node>, action: &Action) -> Result<Bytes, ServiceError> {
    let body = &action.body;
    match action.r#type.as_str() {
        "mount.add" => json(&mounts::add(node, parse(action)?).await?),
        "mount.list" => json(&mounts::list(node, &parse(action)?)),
        "mount.remove" => json(&mounts::remove(node, parse(action)?).await?),
        "mount.check" => json(&mounts::check(node, parse(action)?).await?),
        "dataset.refresh" => json(&datasets::refresh(node, parse(action)?).await?),
        "dataset.find" => json(&datasets::find(node, &parse(action)?).await?),
        "dataset.units" => json(&datasets::units(node, parse(action)?).await?),
        "cache.stat" => json(&cache::stat(node, parse(action)?).await?),
        "cache.free" => json(&cache::free(node, parse(action)?).await?),
        "cache.pin" => json(&pins::pin(node, parse(action)?).await?),
        "cache.unpin" => json(&pins::unpin(node, parse(action)?).await?),
        "cache.pins" => json(&pins::list(node, &parse(action)?)),
        "preload.submit" => json(&jobs::preload(node, parse(action)?).await?),
        "verify.submit" => json(&jobs::verify(node, parse(action)?).await?),
        "preload.list" => json(&jobs::list(node, &parse(action)?).await?),
        "preload.get" => json(&jobs::get(node, &parse(action)?).await?),
        "preload.cancel" => json(&jobs::cancel(node, &parse(action)?).await?),
        PULL_ACTION => json(&jobs::tasks(node, &parse(action)?).await?),
        CAPACITY_ACTION => json(&crate::capacity::own(node)),
        "namespace.list" => json(&datasets::list(node, parse(action)?).await?),
        "namespace.stat" => json(&datasets::stat(node, &parse(action)?).await?),
        "server.status" => json(&status::status(node, &parse(action)?)),
        "CancelFlightInfo" => sql::cancel_flight(node, body).await,
        CANCEL_QUERIES_ACTION => json(&sql::cancel(node, &parse(action)?)),
        "RenewFlightEndpoint" => standard::renew_flight_endpoint(node, body),
        RESIDENCY_ACTION => json(&peers::residency(node, parse(action)?).await?),
        KNOWN_ACTION => json(&peers::known(node, &parse(action)?)?),
        HOLDS_ACTION => json(&peers::holds(node, parse(action)?).await?),
        CLOCK_ACTION => json(&peers::clock(node, &parse(action)?)),
        "cluster.members" => json(&cluster::members(node, &parse(action)?)),
        "locate" => json(&cluster::locate(node, &parse(action)?).await?),
        "cluster.rotate_keys" => json(&cluster::rotate_keys(node, &parse(action)?).await?),
        META_CALL_ACTION => json(&meta::call(node, action).await?),
        other => Err(ServiceError::Unimplemented {
            what: format!("the action {other:?}"),
        }),
    }
}

/// A body without fields.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// A body that names a path or a mounted URI.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PathBody {
    pub(super) path: String,
}

/// The JSON body of an action; an empty body is an empty object.
fn parse<T: DeserializeOwned>(action: &Action) -> Result<T, ServiceError> {
    let name = &action.r#type;
    if action.body.len() > MAX_BODY_BYTES {
        return Err(ServiceError::invalid(format!(
            "{name}: the body is larger than {MAX_BODY_BYTES} bytes"
        )));
    }
    let body: &[u8] = if action.body.is_empty() { b"{}" } else { &action.body };
    serde_json::from_slice(body).map_err(|error| ServiceError::invalid(format!("{name}: {error}")))
}

fn json(answer: &impl Serialize) -> Result<Bytes, ServiceError> {
    serde_json::to_vec(answer)
        .map(Into::into)
        .map_err(|error| ServiceError::Internal {
            what: error.to_string(),
        })
}
