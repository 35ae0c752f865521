//! A statement's flight, its schema, its rows.
//!
//! What is no more than a scan becomes the flight of that scan: endpoints on the owners, whose rows no engine touches.
//! Everything else is one endpoint, whose ticket holds the statement: it runs on the node that is asked for its rows.

use std::sync::Arc;
use std::time::SystemTime;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::{FlightEndpoint, FlightInfo, Ticket};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use jetbridge_cache::scan::tidy;

use super::super::info::{self as flight, timestamp};
use super::super::offer::Offer;
use super::{one_endpoint, parameters, session};
use crate::error::ServiceError;
use crate::node::Node;
use crate::redeem::unix_ms;
use crate::sql::{Described, Query, Text};
use crate::ticket::{Kind, SqlOptions, Statement, StatementId, TicketError, schema_fingerprint};

/// Rows that are no scan's.
pub(in super::super) struct Rows {
    pub(in super::super) schema: SchemaRef,
    pub(in super::super) batches: BoxStream<'static, Result<RecordBatch, ServiceError>>,
}

impl Rows {
    /// The rows of one batch.
    pub(super) fn of_one(batch: RecordBatch) -> Self {
        Self {
            schema: batch.schema(),
            batches: stream::iter([Ok(batch)]).boxed(),
        }
    }
}

/// A statement of this text, made now.
pub(super) fn statement(node: &Node, text: Text, options: SqlOptions) -> Statement {
    Statement {
        expires_unix_ms: unix_ms(node.cluster.now() + node.ticket_ttl),
        audience: node.cluster.cluster_id().to_owned(),
        id: StatementId::new(),
        text,
        options,
        parameters: None,
        schema_fingerprint: 0,
    }
}

/// A prepared statement as a query of its own.
pub(super) fn again(node: &Node, prepared: Statement) -> Statement {
    Statement {
        parameters: prepared.parameters,
        ..statement(node, prepared.text, prepared.options)
    }
}

/// What the statement will give.
///
/// # Errors
/// As [`crate::sql::SqlEngine::describe`].
pub(super) async fn describe(node: &Arc<Node>, statement: &Statement) -> Result<Described, ServiceError> {
    node.sql.describe(node, &query(statement)?).await
}

/// The statement's flight; nothing of it runs.
///
/// # Errors
/// As [`describe`]; INVALID_ARGUMENT where it has parameters without values; RESOURCE_EXHAUSTED where it is too long to seal.
pub(super) async fn info(node: &Arc<Node>, mut statement: Statement, offer: Offer) -> Result<FlightInfo, ServiceError> {
    let described = describe(node, &statement).await?;
    let unbound = described.parameters.fields().len();
    if statement.parameters.is_none() && unbound > 0 {
        return Err(ServiceError::invalid(format!(
            "the query has {unbound} parameters without values; prepare it, and bind them"
        )));
    }
    statement.schema_fingerprint = schema_fingerprint(&described.schema);
    if let Some(info) = scan_info(node, &statement, &described, offer).await? {
        return Ok(info);
    }
    let expires = node.cluster.now() + node.ticket_ttl;
    let ticket = node.keys.seal_statement(Kind::Query, &statement)?;
    let endpoint = FlightEndpoint::new()
        .with_ticket(Ticket::new(ticket))
        .with_expiration_time(timestamp(expires));
    let info = one_endpoint(&described.schema, endpoint)?;
    Ok(info.with_app_metadata(format!("{{\"query\":\"{}\"}}", statement.id)))
}

/// The flight of the scan that the statement is, where it is nothing more. What the endpoints of a scan know nothing of, a time
/// limit or a size of batches, makes it a query like any other.
async fn scan_info(
    node: &Arc<Node>,
    statement: &Statement,
    described: &Described,
    offer: Offer,
) -> Result<Option<FlightInfo>, ServiceError> {
    let Some(spec) = &described.scan else {
        return Ok(None);
    };
    if statement.options.timeout_ms.is_some() || statement.options.batch_rows.is_some() {
        return Ok(None);
    }
    let plan = node.plan(spec).await?;
    if schema_fingerprint(&plan.output) != statement.schema_fingerprint {
        return Ok(None);
    }
    match flight::flight_info(node, &plan, spec, offer).await {
        // Tickets of a scan name each column with its type; the statement may be shorter than that.
        Err(ServiceError::Ticket(TicketError::TooLarge { .. })) => Ok(None),
        info => info.map(Some),
    }
}

/// Runs the statement of a ticket.
///
/// # Errors
/// UNAUTHENTICATED for a ticket that is not ours, was altered or expired; CANCELLED where it was cancelled; ABORTED where it
/// gives other columns than it was planned with; as [`crate::sql::SqlEngine::run`], also in the stream.
pub(super) async fn rows(node: &Arc<Node>, ticket: &[u8]) -> Result<Rows, ServiceError> {
    let (audience, now) = (node.cluster.cluster_id(), unix_ms(node.cluster.now()));
    let statement = node.keys.open_statement(Kind::Query, ticket, audience, now)?;
    let running = node.statements.begin(statement.id)?;
    let query = Query {
        cancel: running.token().clone(),
        ..query(&statement)?
    };
    let answer = node.sql.run(node, &query).await?;
    if schema_fingerprint(&answer.schema) != statement.schema_fingerprint {
        return Err(ServiceError::AnswerChanged);
    }
    let batches = answer.batches.map(move |batch| {
        // It runs as long as its rows are asked for.
        let _ = &running;
        compact(&batch?)
    });
    Ok(Rows {
        schema: answer.schema,
        batches: batches.boxed(),
    })
}

/// The same ticket, valid until `expires`.
///
/// # Errors
/// UNAUTHENTICATED for a ticket that is not ours, was altered or expired.
pub(in super::super) fn renewed(node: &Node, ticket: &[u8], expires: SystemTime) -> Result<Bytes, ServiceError> {
    let (audience, now) = (node.cluster.cluster_id(), unix_ms(node.cluster.now()));
    let statement = Statement {
        expires_unix_ms: unix_ms(expires),
        ..node.keys.open_statement(Kind::Query, ticket, audience, now)?
    };
    Ok(node.keys.seal_statement(Kind::Query, &statement)?)
}

/// The statement as the engine takes it.
fn query(statement: &Statement) -> Result<Query, ServiceError> {
    Ok(Query {
        text: statement.text.clone(),
        options: session::for_engine(&statement.options),
        parameters: statement.parameters.as_deref().map(parameters::opened).transpose()?,
        ..Query::default()
    })
}

/// A batch without what it does not use of shared buffers.
fn compact(batch: &RecordBatch) -> Result<RecordBatch, ServiceError> {
    tidy(batch).map_err(|error| ServiceError::Internal {
        what: format!("the rows of a query: {error}"),
    })
}
