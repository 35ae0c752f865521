//! What the planner and the operators say, in the words and kinds of this service.
//!
//! DataFusion tells what the text, the types and the data did wrong by kinds of its own, and wraps them: in contexts, in
//! diagnostics with a place in the text, in other errors that crossed from one task to another. What the scan failed with
//! comes back as it was.

use std::fmt;
use std::sync::Arc;

use arrow::error::ArrowError;
use datafusion::common::{Column, DataFusionError, SchemaError};

use crate::error::{ServiceError, chain};
use crate::filter::nearest;

/// Longest piece of a message of the planner's that is passed on, in characters.
const MAX_MESSAGE_CHARS: usize = 600;

/// Why a statement was refused, or failed over its data: what the client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlError {
    /// What is wrong, in words.
    pub message: String,
    /// Line and column of the text where it went wrong, both from 1, where known.
    pub position: Option<(u64, u64)>,
}

impl SqlError {
    /// An error without a place.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            position: None,
        }
    }

    /// The same at a place, where it has none yet.
    pub(crate) fn at(mut self, position: Option<(u64, u64)>) -> Self {
        self.position = self.position.or(position);
        self
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match self.position {
            Some((line, column)) => write!(f, " (line {line}, column {column})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for SqlError {}

/// What the text of an error begins with by which another node finds it again; its code follows.
const ELSEWHERE: &str = "a node of the cluster says, code ";

/// An error of the scan's on its way through DataFusion. From one node to the next it goes as text, and its code with it.
#[derive(Debug, Clone)]
pub(crate) struct Carried(Arc<ServiceError>);

impl fmt::Display for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ELSEWHERE}{}: {}", i32::from(self.0.code()), chain(&*self.0))
    }
}

impl std::error::Error for Carried {}

/// An error of ours as DataFusion passes it on; [`of_datafusion`] gives it back.
pub(crate) fn carried(error: ServiceError) -> DataFusionError {
    DataFusionError::External(Box::new(Carried(Arc::new(error))))
}

/// What went wrong, for the client.
pub(crate) fn of_datafusion(error: &DataFusionError) -> ServiceError {
    let position = position_of(error);
    match unwrapped(error) {
        DataFusionError::External(inner) => external(inner.as_ref()),
        DataFusionError::ArrowError(arrow, _) => of_arrow(arrow, position),
        DataFusionError::SQL(parse, _) => parse_error(&parse.to_string()).at(position).into(),
        DataFusionError::SchemaError(schema, _) => of_schema(schema).at(position).into(),
        DataFusionError::NotImplemented(what) => ServiceError::Unimplemented {
            what: in_short(what).trim_end_matches('.').to_owned(),
        },
        DataFusionError::Plan(what) | DataFusionError::Configuration(what) | DataFusionError::Substrait(what) => {
            SqlError::new(in_short(what)).at(position).into()
        }
        DataFusionError::Execution(what) => SqlError::new(in_short(what)).into(),
        DataFusionError::ResourcesExhausted(what) => exhausted(what),
        DataFusionError::ExecutionJoin(_) => internal("an operator panicked"),
        DataFusionError::IoError(error) => internal(&format!("a spill file: {error}")),
        other => internal(&in_short(&other.message())),
    }
}

/// What sqlparser says, with the position taken out of its words.
pub(crate) fn parse_error(text: &str) -> SqlError {
    let text = text.strip_prefix("sql parser error: ").unwrap_or(text);
    let Some((message, place)) = text.rsplit_once(" at Line: ") else {
        return SqlError::new(in_short(text));
    };
    let position = place.split_once(", Column: ").and_then(|(line, column)| {
        let column: String = column.chars().take_while(char::is_ascii_digit).collect();
        Some((line.trim().parse().ok()?, column.parse().ok()?))
    });
    SqlError::new(in_short(message)).at(position)
}

/// The error inside contexts, diagnostics, and errors that several tasks share.
fn unwrapped(error: &DataFusionError) -> &DataFusionError {
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => unwrapped(inner),
        DataFusionError::Shared(inner) => unwrapped(inner),
        DataFusionError::Collection(errors) => errors.first().map_or(error, unwrapped),
        DataFusionError::ArrowError(arrow, _) => match arrow.as_ref() {
            ArrowError::ExternalError(inner) => inner.downcast_ref().map_or(error, unwrapped),
            _ => error,
        },
        DataFusionError::External(inner) => inner.downcast_ref().map_or(error, unwrapped),
        other => other,
    }
}

/// The first place in the text that the planner tells of.
fn position_of(error: &DataFusionError) -> Option<(u64, u64)> {
    match error {
        DataFusionError::Diagnostic(diagnostic, inner) => diagnostic
            .span
            .map(|span| (span.start.line, span.start.column))
            .or_else(|| position_of(inner)),
        DataFusionError::Context(_, inner) => position_of(inner),
        DataFusionError::Shared(inner) => position_of(inner),
        DataFusionError::Collection(errors) => errors.first().and_then(position_of),
        _ => None,
    }
}

fn external(inner: &(dyn std::error::Error + Send + Sync + 'static)) -> ServiceError {
    match inner.downcast_ref::<Carried>() {
        Some(Carried(error)) => ServiceError::Shared(Arc::clone(error)),
        None => elsewhere(&inner.to_string()),
    }
}

/// What another node said, where it did, and else a defect.
fn elsewhere(text: &str) -> ServiceError {
    let told = text.split_once(ELSEWHERE).and_then(|(_, told)| told.split_once(": "));
    match told.and_then(|(code, message)| Some((code.parse::<i32>().ok()?, message))) {
        Some((code, message)) => ServiceError::Elsewhere {
            code: code.into(),
            message: message.to_owned(),
        },
        None => internal(&in_short(text)),
    }
}

fn of_arrow(error: &ArrowError, position: Option<(u64, u64)>) -> ServiceError {
    let refused = |what: &str| SqlError::new(in_short(what)).at(position).into();
    match error {
        ArrowError::DivideByZero => refused("division by zero"),
        ArrowError::ArithmeticOverflow(what) => refused(&format!("a number is too large: {what}")),
        ArrowError::CastError(what)
        | ArrowError::ParseError(what)
        | ArrowError::ComputeError(what)
        | ArrowError::InvalidArgumentError(what) => refused(what),
        ArrowError::ExternalError(inner) => external(inner.as_ref()),
        ArrowError::MemoryError(what) => exhausted(what),
        other => internal(&in_short(&other.to_string())),
    }
}

fn of_schema(error: &SchemaError) -> SqlError {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => no_such_column(field, valid_fields),
        SchemaError::AmbiguousReference { field } => {
            let name = &field.name;
            SqlError::new(format!(
                "the column {name} is in more than one of the tables; write which, as table.{name}"
            ))
        }
        other => SqlError::new(in_short(&other.to_string())),
    }
}

fn no_such_column(field: &Column, valid_fields: &[Column]) -> SqlError {
    let known = valid_fields.iter().map(|column| column.name.as_str());
    let hint = match nearest(&field.name, known) {
        // A name in capitals has to be quoted, which is what was forgotten then.
        Some(other) if other.to_lowercase() != other => format!("; did you mean \"{other}\"?"),
        Some(other) => format!("; did you mean {other}?"),
        None => String::new(),
    };
    SqlError::new(format!("there is no column {}{hint}", field.flat_name()))
}

/// The operators' words name consumers of memory, one a line; the first says what did not fit.
fn exhausted(what: &str) -> ServiceError {
    let first = what.lines().next().unwrap_or_default().trim_end_matches(':');
    ServiceError::Full {
        what: format!(
            "the query needs more than it may hold: {}; ask for less at once, or raise sql_query_memory and sql_memory",
            in_short(first)
        ),
    }
}

fn internal(what: &str) -> ServiceError {
    ServiceError::Internal {
        what: format!("a query: {what}"),
    }
}

/// One line of at most [`MAX_MESSAGE_CHARS`], without what DataFusion says to its own developers.
pub(super) fn in_short(text: &str) -> String {
    let text = text
        .split("\nThis issue was likely caused")
        .next()
        .unwrap_or_default()
        .trim();
    let text = text
        .strip_prefix("Error during planning: ")
        .or_else(|| text.strip_prefix("Execution error: "))
        .unwrap_or(text);
    let words = text.lines().next().unwrap_or_default();
    match words.char_indices().nth(MAX_MESSAGE_CHARS) {
        Some((end, _)) => format!("{}…", &words[..end]),
        None => words.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn an_error_of_the_scan_comes_back_as_it_was() {
        let there = carried(ServiceError::Busy {
            what: "too many".to_owned(),
        });
        let shared = DataFusionError::Shared(Arc::new(there.context("a task")));
        let back = of_datafusion(&DataFusionError::External(Box::new(shared)));
        assert_eq!(back.code(), Code::Unavailable);
        assert_eq!(back.to_string(), "too many; try again");
    }

    #[test]
    fn an_error_keeps_its_code_from_node_to_node() {
        let there = carried(ServiceError::Busy {
            what: "too many".to_owned(),
        });
        let once = DataFusionError::External(there.to_string().into());
        let twice = DataFusionError::External(once.context("stage 2").to_string().into());
        let back = of_datafusion(&twice);
        assert_eq!(back.code(), Code::Unavailable);
        assert_eq!(back.to_string(), "too many; try again");
        let nonsense = DataFusionError::External(format!("{ELSEWHERE}x: y").into());
        assert_eq!(of_datafusion(&nonsense).code(), Code::Internal);
    }

    #[test]
    fn a_place_is_taken_from_the_words_of_the_parser() {
        let error = parse_error("sql parser error: Expected: an expression, found: EOF at Line: 2, Column: 17");
        assert_eq!(error.position, Some((2, 17)));
        assert_eq!(
            error.to_string(),
            "Expected: an expression, found: EOF (line 2, column 17)"
        );
    }

    #[test]
    fn the_kinds_are_told_apart() {
        let code = |error: DataFusionError| of_datafusion(&error).code();
        assert_eq!(
            code(DataFusionError::from(ArrowError::DivideByZero)),
            Code::InvalidArgument
        );
        assert_eq!(
            code(DataFusionError::ResourcesExhausted("no room".into())),
            Code::ResourceExhausted
        );
        assert_eq!(code(DataFusionError::NotImplemented("x".into())), Code::Unimplemented);
        assert_eq!(code(DataFusionError::Internal("x".into())), Code::Internal);
    }
}
