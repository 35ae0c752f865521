//! Ending queries by word: CancelFlightInfo, and Flight SQL's older CancelQuery.
//!
//! A query runs on the node that was asked for its rows, which the one that is asked to end it need not be. So the word goes
//! to all nodes. Each ends what of it runs there, and lets it not begin any more.

use std::sync::Arc;

use arrow_flight::sql::{ActionCancelQueryRequest, ActionCancelQueryResult};
use arrow_flight::{CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightInfo};
use bytes::Bytes;
use futures::future::join_all;
use prost::Message;
use serde::{Deserialize, Serialize};

use super::super::actions::others;
use super::super::parse::decode;
use crate::error::ServiceError;
use crate::node::Node;
use crate::statements::CANCEL_QUERIES_ACTION;
use crate::ticket::{Kind, StatementId};

/// Most queries that one call ends.
const MAX_QUERIES: usize = 1024;

/// What nodes tell each other.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct CancelBody {
    /// The ids of the queries, in hexadecimal digits.
    queries: Vec<String>,
}

/// What a node answers to that.
#[derive(Debug, Serialize, Deserialize)]
pub(in super::super) struct Cancelled {
    /// How many of them ran there.
    running: usize,
}

/// Ends queries on this node.
pub(in super::super) fn cancel(node: &Node, body: &CancelBody) -> Cancelled {
    let ids = body
        .queries
        .iter()
        .take(MAX_QUERIES)
        .filter_map(|id| StatementId::parse(id));
    Cancelled {
        running: ids.filter(|&id| node.statements.cancel(id)).count(),
    }
}

/// CancelFlightInfo, raw protobuf in and out.
///
/// # Errors
/// INVALID_ARGUMENT for a body that names no FlightInfo; UNAUTHENTICATED for a query's ticket that is not ours.
pub(in super::super) async fn cancel_flight(node: &Arc<Node>, body: &[u8]) -> Result<Bytes, ServiceError> {
    let request: CancelFlightInfoRequest = decode("CancelFlightInfo", body)?;
    let info = request
        .info
        .ok_or_else(|| ServiceError::invalid("CancelFlightInfo: the request names no FlightInfo"))?;
    let status = end(node, &info).await?;
    Ok(CancelFlightInfoResult::new(status).encode_to_vec().into())
}

/// Flight SQL's CancelQuery.
///
/// # Errors
/// As [`cancel_flight`].
pub(super) async fn older(
    node: &Arc<Node>,
    request: &ActionCancelQueryRequest,
) -> Result<ActionCancelQueryResult, ServiceError> {
    let info: FlightInfo = decode("CancelQuery", &request.info)?;
    // The two enumerations have the same numbers.
    let result = end(node, &info).await?.into();
    Ok(ActionCancelQueryResult { result })
}

/// Ends the queries of a flight, wherever they run. A scan's endpoints hold nothing before DoGet, and a DoGet is ended by its
/// client, so there is nothing to cancel in a flight of those.
async fn end(node: &Arc<Node>, info: &FlightInfo) -> Result<CancelStatus, ServiceError> {
    let tickets = info.endpoint.iter().filter_map(|endpoint| endpoint.ticket.as_ref());
    let queries = tickets
        .filter(|ticket| Kind::Query.is_claimed_by(&ticket.ticket))
        .take(MAX_QUERIES);
    let ids = queries.map(|ticket| {
        // One that expired may run still.
        let statement = node
            .keys
            .open_statement(Kind::Query, &ticket.ticket, node.cluster.cluster_id(), 0)?;
        Ok(statement.id.to_string())
    });
    let body = CancelBody {
        queries: ids.collect::<Result<_, ServiceError>>()?,
    };
    if body.queries.is_empty() {
        return Ok(CancelStatus::NotCancellable);
    }
    cancel(node, &body);
    let told = serde_json::to_value(&body).map_err(|error| ServiceError::Internal {
        what: error.to_string(),
    })?;
    let others = others(node);
    let calls = others
        .iter()
        .map(|id| node.cluster.peers.call(id, CANCEL_QUERIES_ACTION, &told));
    // A node that did not hear it may run the query on for a while.
    let all_heard = join_all(calls).await.iter().all(Result::is_ok);
    Ok(if all_heard {
        CancelStatus::Cancelled
    } else {
        CancelStatus::Cancelling
    })
}
