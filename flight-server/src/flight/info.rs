//! FlightInfo from a plan: schema, endpoints, tickets.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arrow_flight::{FlightEndpoint, FlightInfo, Ticket};
use bytes::Bytes;
use jetbridge_catalog::path::NsPath;
use prost_types::Timestamp;
use serde::Serialize;

use super::offer::Offer;
use super::{encode, residency, sql};
use crate::cluster::Named;
use crate::error::ServiceError;
use crate::node::Node;
use crate::plan::{Plan, Run};
use crate::redeem;
use crate::request::ScanSpec;
use crate::ticket::Kind;

/// The location that means "the connection you already have".
pub(crate) const REUSE_CONNECTION: &str = "arrow-flight-reuse-connection://?";

/// What an endpoint's `app_metadata` says, as JSON.
#[derive(Debug, Serialize)]
struct EndpointMetadata<'a> {
    /// The file, or the deepest folder with all files of the endpoint.
    path: String,
    /// Row groups in reading order, one number each; of several files one after another.
    row_groups: Vec<u32>,
    /// Files that it reads.
    files: usize,
    /// Rows that are read; those of the answer where there is no filter.
    rows: u64,
    /// Decoded bytes that are read, estimated from the footers.
    bytes: u64,
    /// Where the bytes are now, on the first node that it names: `decoded`, `raw` or `none`.
    cached: &'a str,
    /// The id of that node.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<&'a str>,
    /// The socket that gives the same rows as shared memory, for clients that it is offered to.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<&'a str>,
}

/// The flight of a planned scan; an endpoint names the nodes that own it, then the connection in use.
///
/// # Errors
/// A schema that cannot be encoded, a run too large for a ticket.
pub(super) async fn flight_info(
    node: &Node,
    plan: &Plan,
    spec: &ScanSpec,
    offer: Offer,
) -> Result<FlightInfo, ServiceError> {
    let endpoints = endpoints(node, plan, spec, offer).await?;
    assemble(
        plan,
        spec,
        endpoints.into_iter().map(|(endpoint, _)| endpoint).collect(),
    )
}

/// The endpoints of a planned scan in its order, and whether each can be read without asking storage.
///
/// # Errors
/// A run too large for a ticket.
pub(super) async fn endpoints(
    node: &Node,
    plan: &Plan,
    spec: &ScanSpec,
    offer: Offer,
) -> Result<Vec<(FlightEndpoint, bool)>, ServiceError> {
    let expires = node.cluster.now() + node.ticket_ttl;
    let sealer = redeem::Sealer::new(node, plan, spec, expires);
    let mut planned = Vec::with_capacity(plan.runs.len());
    for run in &plan.runs {
        planned.push(Planned {
            ticket: sealer.seal(run, node.cluster.holders(&plan.view, run))?,
            named: node.cluster.named(&plan.view, run),
            run,
        });
    }
    let cached = residency::of(node, plan, &planned).await;
    let mut endpoints = Vec::with_capacity(planned.len());
    for (planned, cached) in planned.into_iter().zip(cached) {
        let mut endpoint = FlightEndpoint::new()
            .with_expiration_time(timestamp(expires))
            .with_app_metadata(metadata(plan, &planned, &cached, offer)?);
        for uri in planned
            .named
            .iter()
            .flat_map(|node| offer.locations(node))
            .chain([REUSE_CONNECTION])
        {
            endpoint = endpoint.with_location(uri);
        }
        let is_warm = planned.run.files.is_empty() || cached != residency::NONE;
        endpoints.push((endpoint.with_ticket(Ticket::new(planned.ticket)), is_warm));
    }
    Ok(endpoints)
}

/// A flight of these endpoints.
///
/// # Errors
/// A schema that cannot be encoded.
pub(super) fn assemble(
    plan: &Plan,
    spec: &ScanSpec,
    endpoints: Vec<FlightEndpoint>,
) -> Result<FlightInfo, ServiceError> {
    let mut info = FlightInfo::new()
        .with_endpoints(endpoints)
        .with_total_records(plan.rows.map_or(-1, saturating))
        .with_total_bytes(plan.rows.map_or(-1, |_| saturating(plan.bytes)))
        .with_app_metadata(format!("{{\"epoch\":{}}}", plan.view.epoch()))
        .with_ordered(spec.ordered);
    info.schema = encode::schema_bytes(&plan.output).map_err(|error| ServiceError::Internal {
        what: error.to_string(),
    })?;
    Ok(info)
}

/// A run on its way to become an endpoint.
pub(super) struct Planned<'a> {
    pub(super) run: &'a Run,
    pub(super) ticket: Bytes,
    /// The nodes that it names, the best first.
    pub(super) named: Vec<Named>,
}

/// A ticket sealed anew, with its new expiration time.
///
/// # Errors
/// What DoGet refuses.
pub(super) fn renewed(node: &Node, ticket: &[u8]) -> Result<(Ticket, Timestamp), ServiceError> {
    let expires = node.cluster.now() + node.ticket_ttl;
    let sealed = if Kind::Query.is_claimed_by(ticket) {
        sql::renewed(node, ticket, expires)?
    } else {
        redeem::renew(node, ticket, expires)?
    };
    Ok((Ticket::new(sealed), timestamp(expires)))
}

fn metadata(plan: &Plan, planned: &Planned<'_>, cached: &str, offer: Offer) -> Result<Vec<u8>, ServiceError> {
    let run = planned.run;
    let metadata = EndpointMetadata {
        path: common_path(plan, run),
        row_groups: run
            .files
            .iter()
            .flat_map(|file| file.row_groups.iter().copied())
            .collect(),
        files: run.files.len(),
        rows: run.rows,
        bytes: run.bytes,
        cached,
        node: planned.named.first().map(|node| node.id.as_str()),
        memory: planned.named.first().and_then(|node| offer.memory(node)),
    };
    serde_json::to_vec(&metadata).map_err(|error| ServiceError::Internal {
        what: error.to_string(),
    })
}

fn common_path(plan: &Plan, run: &Run) -> String {
    let paths = run.files.iter().map(|file| &plan.dataset.files[file.file].path);
    let common = paths.cloned().reduce(|common, path| deepest_common(&common, &path));
    common.unwrap_or_else(|| plan.dataset.path.clone()).to_string()
}

fn deepest_common(one: &NsPath, other: &NsPath) -> NsPath {
    let mut folder = one.clone();
    while other.strip_prefix(&folder).is_none() {
        match folder.parent() {
            Some(parent) => folder = parent,
            None => return NsPath::root(),
        }
    }
    folder
}

/// A time as Flight writes it.
pub(super) fn timestamp(time: SystemTime) -> Timestamp {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp {
        seconds: i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since_epoch.subsec_nanos()).unwrap_or(0),
    }
}

fn saturating(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
