//! The Flight SQL door, on the same service as all else.
//!
//! ```text
//! descriptor, ticket, action --describe, here--> command
//!     query, prepared statement --query--> Node::sql.describe -> FlightInfo: endpoints on the owners, or one sealed ticket
//!     the ticket                --query--> Node::sql.run      -> rows
//!     catalog, types, keys      --catalog, info, xdbc-->         rows
//! ```
//! | module | part |
//! |---|---|
//! | [`query`] | a statement's flight, its schema, its rows |
//! | [`prepared`], [`parameters`] | prepared statements: handles, values bound by DoPut |
//! | [`cancel`] | ending a query on whichever node it runs |
//! | [`catalog`], [`keys`], [`info`], [`xdbc`] | what there is, and what this server can do |
//! | [`session`] | options that a client sets once |
//!
//! A query runs at DoGet and never before: its flight is described from its plan alone. What is handed out for it, ticket or
//! handle, is sealed and says everything, so that any node goes on from there.
//!
//! The schema of a flight, of a prepared statement, of GetSchema and of the stream is one schema, to the bit: drivers refuse
//! an answer whose columns differ in so much as a nullability.
//!
//! Nothing is written: updates, bulk ingestion and transactions are UNIMPLEMENTED in words, and the server says of itself that
//! it has none. A Substrait plan is a statement in all that follows; its ticket and its handle hold the plan in place of a text.

mod cancel;
mod catalog;
mod info;
mod keys;
mod parameters;
mod prepared;
mod query;
mod session;
mod xdbc;

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow_flight::sql::{Command, ProstMessageExt, SubstraitPlan, TicketStatementQuery};
use arrow_flight::{Action, FlightData, FlightEndpoint, FlightInfo, PutResult, Ticket};
use bytes::Bytes;
use futures::{StreamExt, stream};
use prost::Message;
use tonic::Streaming;

use super::describe::{self, Asked};
use super::observe::Failure;
use super::offer::Offer;
use super::{BoxedStream, encode};
use crate::error::ServiceError;
use crate::node::Node;
use crate::sql::Text;
use crate::ticket::{Kind, Statement};

pub(super) use cancel::{cancel, cancel_flight};
pub(super) use query::{Rows, renewed};
pub(super) use session::{Caller, Told};

/// What a command asks for.
enum Wanted {
    /// The rows of a statement.
    Query(Box<Statement>),
    /// Rows about this server, of a command that is its own ticket.
    Catalog(catalog::Listing),
}

/// The flight of a command.
///
/// # Errors
/// As the engine describes a statement; UNIMPLEMENTED in words for what is not served.
pub(super) async fn info(
    node: &Arc<Node>,
    caller: &Caller,
    command: Command,
    offer: Offer,
) -> Result<FlightInfo, ServiceError> {
    let ticket = command.clone().into_any().encode_to_vec();
    match wanted(node, caller, command)? {
        Wanted::Query(statement) => query::info(node, *statement, offer).await,
        Wanted::Catalog(listing) => {
            let endpoint = FlightEndpoint::new().with_ticket(Ticket::new(ticket));
            one_endpoint(&listing.schema(), endpoint)
        }
    }
}

/// The schema of a command's answer.
///
/// # Errors
/// As [`info`].
pub(super) async fn schema(node: &Arc<Node>, caller: &Caller, command: Command) -> Result<SchemaRef, ServiceError> {
    match wanted(node, caller, command)? {
        Wanted::Query(statement) => Ok(query::describe(node, &statement).await?.schema),
        Wanted::Catalog(listing) => Ok(listing.schema()),
    }
}

/// The rows of a ticket of this door; none where it is another door's.
///
/// # Errors
/// UNAUTHENTICATED for a ticket that was altered or expired; what the query itself fails with, also in the stream.
pub(super) async fn rows(node: &Arc<Node>, ticket: &[u8]) -> Result<Option<Rows>, ServiceError> {
    if Kind::Scan.is_claimed_by(ticket) {
        return Ok(None);
    }
    if Kind::Query.is_claimed_by(ticket) {
        return query::rows(node, ticket).await.map(Some);
    }
    let Some(command) = describe::sql_command(ticket)? else {
        return Ok(None);
    };
    match command {
        Command::TicketStatementQuery(TicketStatementQuery { statement_handle }) => {
            query::rows(node, &statement_handle).await.map(Some)
        }
        command => match catalog::Listing::of(command) {
            Ok(listing) => Ok(Some(Rows::of_one(listing.rows(node).await?))),
            Err(command) => Err(refused(&command)),
        },
    }
}

/// Whether an action is one of this door.
pub(super) fn is_action(name: &str) -> bool {
    ACTIONS.iter().any(|&(action, _)| action == name)
}

/// The actions of this door, with what ListActions says of them.
pub(super) const ACTIONS: &[(&str, &str)] = &[
    (
        "CreatePreparedStatement",
        "Flight SQL: a handle for a statement, with the schemas of its answer and of its parameters.",
    ),
    (
        "CreatePreparedSubstraitPlan",
        "Flight SQL: the same for a Substrait plan.",
    ),
    (
        "ClosePreparedStatement",
        "Flight SQL: the handle is refused from then on, on the node that hears it.",
    ),
    ("CancelQuery", "Flight SQL's older form of CancelFlightInfo."),
    (
        "SetSessionOptions",
        "Flight's standard action: catalog, schema, timeout, batch_size for all statements of a session.",
    ),
    ("GetSessionOptions", "Flight's standard action: the options that hold."),
    ("CloseSession", "Flight's standard action: the session is forgotten."),
    ("BeginTransaction", "Flight SQL; not implemented, nothing is written."),
    ("EndTransaction", "Flight SQL; not implemented, nothing is written."),
    ("BeginSavepoint", "Flight SQL; not implemented, nothing is written."),
    ("EndSavepoint", "Flight SQL; not implemented, nothing is written."),
];

/// Runs one of [`ACTIONS`].
///
/// # Errors
/// INVALID_ARGUMENT for a body that is not the action's; UNIMPLEMENTED in words; what the action itself fails with.
pub(super) async fn act(node: &Arc<Node>, caller: &Caller, action: &Action) -> Result<Told, ServiceError> {
    match action.r#type.as_str() {
        "SetSessionOptions" => return session::set(node, caller, &action.body).await,
        "GetSessionOptions" => return session::get(node, caller, &action.body),
        "CloseSession" => return session::close(caller, &action.body),
        _ => {}
    }
    let named = || ServiceError::invalid(format!("{}: its body is not the message of this action", action.r#type));
    match (
        action.r#type.as_str(),
        describe::sql_command(&action.body)?.ok_or_else(named)?,
    ) {
        ("CreatePreparedStatement", Command::ActionCreatePreparedStatementRequest(request)) => {
            refuse_transaction(request.transaction_id.as_ref())?;
            let created = prepared::create(node, Text::Sql(request.query), caller.options(node)?).await?;
            Ok(told(&created))
        }
        ("CreatePreparedSubstraitPlan", Command::ActionCreatePreparedSubstraitPlanRequest(request)) => {
            refuse_transaction(request.transaction_id.as_ref())?;
            let created = prepared::create(node, of_plan(request.plan)?, caller.options(node)?).await?;
            Ok(told(&created))
        }
        ("ClosePreparedStatement", Command::ActionClosePreparedStatementRequest(request)) => {
            prepared::close(node, &request.prepared_statement_handle)?;
            Ok(Told::default())
        }
        ("CancelQuery", Command::ActionCancelQueryRequest(request)) => Ok(told(&cancel::older(node, &request).await?)),
        (_, command) if is_transaction(&command) => Err(no_transactions()),
        _ => Err(named()),
    }
}

/// DoPut: binds the parameters of a prepared statement, and refuses all else.
///
/// # Errors
/// UNIMPLEMENTED in words for what would write; as the engine finds the values not to fit.
pub(super) async fn put(
    node: &Arc<Node>,
    mut messages: Streaming<FlightData>,
) -> Result<BoxedStream<PutResult>, Failure> {
    let first = messages.message().await?;
    let first = first.ok_or_else(|| ServiceError::invalid("DoPut: not one message came"))?;
    let descriptor = first.flight_descriptor.clone();
    let descriptor = descriptor.ok_or_else(|| ServiceError::invalid("DoPut: the first message has no descriptor"))?;
    match describe::asked(&descriptor) {
        Ok(Asked::Sql(command)) => match *command {
            Command::CommandPreparedStatementQuery(statement) => {
                let row = parameters::received(node, first, &mut messages).await?;
                let bound = prepared::bind(node, &statement.prepared_statement_handle, row).await?;
                let result = PutResult {
                    app_metadata: bound.encode_to_vec().into(),
                };
                Ok(stream::iter([Ok(result)]).boxed())
            }
            Command::CommandStatementSubstraitPlan(_) => Err(no_writes("an update by a Substrait plan").into()),
            other => Err(refused(&other).into()),
        },
        Ok(Asked::Scan(_)) | Err(_) => Err(no_writes("DoPut to a path").into()),
    }
}

/// What a command wants, statements with the caller's options.
fn wanted(node: &Node, caller: &Caller, command: Command) -> Result<Wanted, ServiceError> {
    match command {
        Command::CommandStatementQuery(query) => {
            refuse_transaction(query.transaction_id.as_ref())?;
            let statement = query::statement(node, Text::Sql(query.query), caller.options(node)?);
            Ok(Wanted::Query(Box::new(statement)))
        }
        Command::CommandStatementSubstraitPlan(query) => {
            refuse_transaction(query.transaction_id.as_ref())?;
            let statement = query::statement(node, of_plan(query.plan)?, caller.options(node)?);
            Ok(Wanted::Query(Box::new(statement)))
        }
        Command::CommandPreparedStatementQuery(query) => {
            let statement = prepared::open(node, &query.prepared_statement_handle)?;
            Ok(Wanted::Query(Box::new(query::again(node, statement))))
        }
        command => catalog::Listing::of(command)
            .map(Wanted::Catalog)
            .map_err(|command| refused(&command)),
    }
}

/// Why a command is not carried out.
fn refused(command: &Command) -> ServiceError {
    match command {
        Command::CommandStatementUpdate(_) => no_writes("an update"),
        Command::CommandPreparedStatementUpdate(_) => no_writes("an update by a prepared statement"),
        Command::CommandStatementIngest(_) => no_writes("bulk ingestion"),
        command if is_transaction(command) => no_transactions(),
        Command::Unknown(any) => ServiceError::Unimplemented {
            what: format!("the Flight SQL command {}", short_name(&any.type_url)),
        },
        command => ServiceError::invalid(format!(
            "{} is no command for this call",
            short_name(command.type_url())
        )),
    }
}

fn is_transaction(command: &Command) -> bool {
    matches!(
        command,
        Command::ActionBeginTransactionRequest(_)
            | Command::ActionEndTransactionRequest(_)
            | Command::ActionBeginSavepointRequest(_)
            | Command::ActionEndSavepointRequest(_)
    )
}

fn refuse_transaction(id: Option<&Bytes>) -> Result<(), ServiceError> {
    match id {
        Some(id) if !id.is_empty() => Err(no_transactions()),
        _ => Ok(()),
    }
}

fn no_transactions() -> ServiceError {
    ServiceError::Unimplemented {
        what: "a transaction (nothing is written here)".to_owned(),
    }
}

fn no_writes(what: &str) -> ServiceError {
    ServiceError::Unimplemented {
        what: format!("{what} (Jetbridge reads; write to the storage itself)"),
    }
}

/// The plan of a message. What it says of its version decides nothing: a plan is taken where it can be read.
fn of_plan(plan: Option<SubstraitPlan>) -> Result<Text, ServiceError> {
    let plan = plan.ok_or_else(|| ServiceError::invalid("the message holds no Substrait plan"))?;
    Ok(Text::Substrait(plan.plan))
}

/// The last part of a type URL, for messages.
fn short_name(type_url: &str) -> &str {
    let name = type_url.rsplit('.').next().unwrap_or(type_url);
    &name[..name.floor_char_boundary(80)]
}

/// The answer of an action of Flight SQL: its message as `Any`.
fn told(message: &impl ProstMessageExt) -> Told {
    Told {
        body: Some(message.as_any().encode_to_vec().into()),
        cookie: None,
    }
}

/// A flight of one endpoint whose rows nobody has counted.
fn one_endpoint(schema: &SchemaRef, endpoint: FlightEndpoint) -> Result<FlightInfo, ServiceError> {
    let mut info = FlightInfo::new()
        .with_endpoint(endpoint)
        .with_total_records(-1)
        .with_total_bytes(-1)
        .with_ordered(true);
    info.schema = schema_message(schema)?;
    Ok(info)
}

/// A schema as an encapsulated IPC message.
fn schema_message(schema: &SchemaRef) -> Result<Bytes, ServiceError> {
    encode::schema_bytes(schema).map_err(|error| ServiceError::Internal {
        what: format!("encoding a schema: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use arrow_flight::sql::{Any, CommandGetCatalogs, CommandStatementIngest, CommandStatementUpdate};
    use tonic::Code;

    use super::*;

    #[test]
    fn what_would_write_is_refused_in_words() {
        let update = Command::CommandStatementUpdate(CommandStatementUpdate::default());
        let ingest = Command::CommandStatementIngest(CommandStatementIngest::default());
        for (command, word) in [(update, "update"), (ingest, "ingestion")] {
            let error = refused(&command);
            assert_eq!(error.code(), Code::Unimplemented);
            assert!(error.to_string().contains(word), "{error}");
        }
    }

    #[test]
    fn a_command_in_the_wrong_place_is_named() {
        let error = refused(&Command::TicketStatementQuery(TicketStatementQuery::default()));
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(
            error.to_string().starts_with("TicketStatementQuery is no command"),
            "{error}"
        );
        let unknown = Any {
            type_url: "type.googleapis.com/arrow.flight.protocol.sql.CommandDance".to_owned(),
            value: Bytes::new(),
        };
        let error = refused(&Command::Unknown(unknown));
        assert_eq!(error.code(), Code::Unimplemented);
        assert!(error.to_string().contains("CommandDance"), "{error}");
    }

    #[test]
    fn every_action_is_known_by_its_name() {
        assert!(ACTIONS.iter().all(|(name, _)| is_action(name)));
        assert!(!is_action("mount.add"));
        let any = CommandGetCatalogs {}.as_any();
        assert_eq!(short_name(&any.type_url), "CommandGetCatalogs");
    }
}
