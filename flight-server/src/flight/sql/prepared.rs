//! Prepared statements: a handle is the statement itself, sealed, so that any node knows it and none keeps it.
//!
//! ```text
//! CreatePreparedStatement -> handle (no values) --DoPut binds--> handle (values) --GetFlightInfo--> flight
//! ```
//! A handle lives as long as any ticket may. To bind gives a new handle, which the client uses from then on, as Flight SQL
//! has it for servers that keep no state. A statement runs with the session that it was prepared in.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow_flight::sql::{ActionCreatePreparedStatementResult, DoPutPreparedStatementResult};

use super::{parameters, query, schema_message};
use crate::error::ServiceError;
use crate::node::Node;
use crate::redeem::unix_ms;
use crate::sql::Text;
use crate::ticket::{Kind, SqlOptions, Statement};

/// How long a handle is good for.
pub(super) const PREPARED_TTL: Duration = Duration::from_secs(7 * 24 * 3600);

/// A handle for a statement, and the schemas of its answer and of its parameters.
///
/// # Errors
/// As the engine describes it; RESOURCE_EXHAUSTED where it is too long to seal.
pub(super) async fn create(
    node: &Arc<Node>,
    text: Text,
    options: SqlOptions,
) -> Result<ActionCreatePreparedStatementResult, ServiceError> {
    let statement = Statement {
        expires_unix_ms: unix_ms(node.cluster.now() + PREPARED_TTL),
        ..query::statement(node, text, options)
    };
    let described = query::describe(node, &statement).await?;
    Ok(ActionCreatePreparedStatementResult {
        prepared_statement_handle: node.keys.seal_statement(Kind::Prepared, &statement)?,
        dataset_schema: schema_message(&described.schema)?,
        parameter_schema: schema_message(&described.parameters)?,
    })
}

/// The statement of a handle.
///
/// # Errors
/// UNAUTHENTICATED for a handle that is not ours, was altered or expired; NOT_FOUND for one that was closed here.
pub(super) fn open(node: &Node, handle: &[u8]) -> Result<Statement, ServiceError> {
    let (audience, now) = (node.cluster.cluster_id(), unix_ms(node.cluster.now()));
    let statement = node.keys.open_statement(Kind::Prepared, handle, audience, now)?;
    if node.statements.is_closed(statement.id) {
        return Err(ServiceError::StatementClosed);
    }
    Ok(statement)
}

/// The handle of a statement with values for its parameters, in place of those it had.
///
/// # Errors
/// As [`open`]; INVALID_ARGUMENT where the values are not as many as the parameters, or do not fit them.
pub(super) async fn bind(
    node: &Arc<Node>,
    handle: &[u8],
    row: RecordBatch,
) -> Result<DoPutPreparedStatementResult, ServiceError> {
    let mut statement = open(node, handle)?;
    statement.parameters = Some(parameters::sealed(&row)?);
    query::describe(node, &statement).await?;
    let handle = node.keys.seal_statement(Kind::Prepared, &statement)?;
    Ok(DoPutPreparedStatementResult {
        prepared_statement_handle: Some(handle),
    })
}

/// The handle is refused from now on, here. One that expired or was closed is as good as closed.
///
/// # Errors
/// UNAUTHENTICATED for a handle that is not ours or was altered.
pub(super) fn close(node: &Node, handle: &[u8]) -> Result<(), ServiceError> {
    // The time is not asked for: whatever was ours is let go of.
    let statement = node
        .keys
        .open_statement(Kind::Prepared, handle, node.cluster.cluster_id(), 0)?;
    node.statements.close(statement.id);
    Ok(())
}
