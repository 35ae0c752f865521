//! DoAction: JSON in, JSON out, and Flight's standard actions with their protobuf bodies.
//!
//! To add an action: a line in [`ACTIONS`], an arm in [`run`], a function in the module of its subject.

mod cache;
mod datasets;
mod mounts;
mod standard;
mod status;

use std::sync::Arc;

use arrow_flight::{Action, ActionType};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::ServiceError;
use crate::node::Node;

/// Largest JSON body, in bytes.
const MAX_BODY_BYTES: usize = 1 << 20;

/// What ListActions tells.
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
        "cache.stat",
        "What is held of a path: {\"path\", \"by\": \"file\" or \"column\"}; bytes, raw and decoded.",
    ),
    (
        "cache.free",
        "Let go of what is held of a path: {\"path\", \"generation\", \"dry_run\"}; / is everything.",
    ),
    ("namespace.list", "What lies in a folder: {\"path\", \"limit\"}."),
    (
        "namespace.stat",
        "What a path is, and its dataset if it is one: {\"path\"}.",
    ),
    ("server.status", "Version, uptime, mounts, memory in use: {}."),
    (
        "CancelFlightInfo",
        "Flight's standard action; a scan holds nothing before DoGet, so there is nothing to cancel.",
    ),
    (
        "RenewFlightEndpoint",
        "Flight's standard action: the same endpoint with a new expiration time.",
    ),
];

/// The actions that exist.
pub(super) fn list() -> impl Iterator<Item = ActionType> {
    ACTIONS.iter().map(|&(name, description)| ActionType {
        r#type: name.to_owned(),
        description: description.to_owned(),
    })
}

/// Runs one action; each gives one result.
///
/// # Errors
/// UNIMPLEMENTED for an unknown name, INVALID_ARGUMENT for a body that does not fit, and what the action itself says.
pub(super) async fn run(node: &Arc<Node>, action: &Action) -> Result<Vec<arrow_flight::Result>, ServiceError> {
    let body = &action.body;
    let answer = match action.r#type.as_str() {
        "mount.add" => json(&mounts::add(node, parse(action)?).await?)?,
        "mount.list" => json(&mounts::list(node, &parse(action)?))?,
        "mount.remove" => json(&mounts::remove(node, parse(action)?).await?)?,
        "mount.check" => json(&mounts::check(node, parse(action)?).await?)?,
        "dataset.refresh" => json(&datasets::refresh(node, &parse(action)?)?)?,
        "cache.stat" => json(&cache::stat(node, parse(action)?).await?)?,
        "cache.free" => json(&cache::free(node, parse(action)?).await?)?,
        "namespace.list" => json(&datasets::list(node, parse(action)?).await?)?,
        "namespace.stat" => json(&datasets::stat(node, &parse(action)?).await?)?,
        "server.status" => json(&status::status(node, &parse(action)?))?,
        "CancelFlightInfo" => standard::cancel_flight_info(body)?,
        "RenewFlightEndpoint" => standard::renew_flight_endpoint(node, body)?,
        other => {
            return Err(ServiceError::Unimplemented {
                what: format!("the action {other:?}"),
            });
        }
    };
    Ok(vec![arrow_flight::Result { body: answer }])
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

fn json(answer: &impl Serialize) -> Result<bytes::Bytes, ServiceError> {
    serde_json::to_vec(answer)
        .map(Into::into)
        .map_err(|error| ServiceError::Internal {
            what: error.to_string(),
        })
}
