//! What may be asked: the length and the depth of a text, one statement, and one that changes nothing.
//!
//! The depth is bounded before there is a tree. Operators chain without brackets, `1+1+1+...`, and a tree of a chain is as
//! deep as it is long: whatever walks or drops it recurses as deep. So the words are counted first, each chain by itself:
//! ten thousand columns beside one another, or a hundred thousand values of an IN list, are no chain.

use std::fmt::Write;

use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::Statement as SqlStatement;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use super::MAX_SQL_BYTES;
use super::errors::{SqlError, parse_error};
use crate::error::ServiceError;

/// Most operators that may stand within one another, in brackets or in a chain.
pub(super) const MAX_DEPTH: usize = 2_000;
/// Most queries, tables and set operations of a statement: each is a level of its plan.
pub(super) const MAX_RELATIONS: usize = 400;
/// Deepest nesting of brackets, as the parser counts it.
const PARSER_NESTING: usize = 150;

/// The one statement of a text, with `?` written as `$1`, `$2` ...
///
/// # Errors
/// INVALID_ARGUMENT for a text that is too long or too deep, does not parse, or holds more or less than one statement;
/// UNIMPLEMENTED for a statement that would change something.
pub(super) fn statement(sql: &str) -> Result<Statement, ServiceError> {
    if sql.len() > MAX_SQL_BYTES {
        let message = format!("{} bytes are more than the {MAX_SQL_BYTES} of a statement", sql.len());
        return Err(SqlError::new(message).into());
    }
    let tokens = Tokenizer::new(&GenericDialect {}, sql)
        .tokenize_with_location()
        .map_err(|error| parse_error(&error.to_string()))?;
    check_depth(&tokens)?;
    let numbered = numbered(sql, &tokens);
    let parsed = DFParserBuilder::new(numbered.as_deref().unwrap_or(sql))
        .with_dialect(&GenericDialect {})
        .with_recursion_limit(PARSER_NESTING)
        .build()
        .and_then(|mut parser| parser.parse_statements());
    let mut statements = match parsed {
        Ok(statements) => statements,
        Err(error) => return Err(refused(&error, &tokens)),
    };
    match (statements.pop_front(), statements.len()) {
        (Some(statement), 0) => {
            check_reads(&statement, &tokens)?;
            Ok(statement)
        }
        (Some(_), more) => {
            Err(SqlError::new(format!("the text holds {} statements; send them one by one", more + 1)).into())
        }
        (None, _) => Err(SqlError::new("the text holds no statement").into()),
    }
}

fn refused(error: &datafusion::common::DataFusionError, tokens: &[TokenWithSpan]) -> ServiceError {
    let text = error.to_string().to_lowercase().replace(' ', "");
    if text.contains("recursionlimit") {
        return too_deep(PARSER_NESTING);
    }
    match super::errors::of_datafusion(error) {
        // What is missing at the end has no place of its own.
        ServiceError::Sql(error) => {
            let end = tokens.last().map(|last| (last.span.end.line, last.span.end.column));
            error.at(end.filter(|(line, _)| *line > 0)).into()
        }
        other => other,
    }
}

/// Counts operators that nest. Each bracket opens a level; a comma and the words that begin a clause end a chain.
fn check_depth(tokens: &[TokenWithSpan]) -> Result<(), ServiceError> {
    let mut levels = vec![0usize];
    let (mut depth, mut relations) = (0usize, 0usize);
    for token in tokens {
        match &token.token {
            Token::LParen | Token::LBracket | Token::LBrace => {
                levels.push(1);
                depth += 1;
            }
            Token::RParen | Token::RBracket | Token::RBrace if levels.len() > 1 => {
                depth -= levels.pop().unwrap_or_default();
            }
            Token::Comma => depth -= levels.last_mut().map(end_chain).unwrap_or_default(),
            Token::Word(word) if ends_chain(word.keyword) => {
                depth -= levels.last_mut().map(end_chain).unwrap_or_default();
                relations += usize::from(is_relation(word.keyword));
            }
            token if is_operator(token) => {
                depth += 1;
                if let Some(level) = levels.last_mut() {
                    *level += 1;
                }
            }
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(too_deep(MAX_DEPTH));
        }
        if relations > MAX_RELATIONS {
            return Err(SqlError::new(format!(
                "more than {MAX_RELATIONS} queries, tables and set operations in one statement"
            ))
            .into());
        }
    }
    Ok(())
}

/// Forgets the chain of a level, but for the bracket that opened it.
fn end_chain(level: &mut usize) -> usize {
    let bracket = (*level).min(1);
    let chain = *level - bracket;
    *level = bracket;
    chain
}

fn ends_chain(word: Keyword) -> bool {
    is_relation(word)
        || matches!(
            word,
            Keyword::WHERE
                | Keyword::GROUP
                | Keyword::HAVING
                | Keyword::ORDER
                | Keyword::LIMIT
                | Keyword::ON
                | Keyword::WHEN
                | Keyword::THEN
                | Keyword::ELSE
        )
}

fn is_relation(word: Keyword) -> bool {
    matches!(
        word,
        Keyword::SELECT
            | Keyword::FROM
            | Keyword::JOIN
            | Keyword::UNION
            | Keyword::EXCEPT
            | Keyword::INTERSECT
            | Keyword::VALUES
    )
}

fn is_operator(token: &Token) -> bool {
    match token {
        Token::Word(word) => matches!(
            word.keyword,
            Keyword::AND | Keyword::OR | Keyword::NOT | Keyword::XOR | Keyword::IS | Keyword::LIKE | Keyword::BETWEEN
        ),
        Token::EOF
        | Token::Whitespace(_)
        | Token::Number(..)
        | Token::Char(_)
        | Token::SingleQuotedString(_)
        | Token::NationalStringLiteral(_)
        | Token::HexStringLiteral(_)
        | Token::Placeholder(_)
        | Token::SemiColon
        | Token::Period => false,
        _ => true,
    }
}

fn too_deep(levels: usize) -> ServiceError {
    SqlError::new(format!("it nests deeper than {levels} levels")).into()
}

/// The text with its `?`s numbered, in the order in which they stand; none where it has none.
fn numbered(sql: &str, tokens: &[TokenWithSpan]) -> Option<String> {
    let mut marks = tokens
        .iter()
        .filter(|token| matches!(&token.token, Token::Placeholder(name) if name == "?"))
        .map(|token| (token.span.start.line, token.span.start.column))
        .peekable();
    marks.peek()?;
    let (mut text, mut line, mut column, mut number) = (String::with_capacity(sql.len() + 64), 1u64, 1u64, 0u64);
    for letter in sql.chars() {
        if marks.next_if_eq(&(line, column)).is_some() {
            number += 1;
            // Writing to a String cannot fail.
            let _ = write!(text, "${number}");
        } else {
            text.push(letter);
        }
        (line, column) = if letter == '\n' {
            (line + 1, 1)
        } else {
            (line, column + 1)
        };
    }
    Some(text)
}

/// Refuses what is no question.
fn check_reads(statement: &Statement, tokens: &[TokenWithSpan]) -> Result<(), ServiceError> {
    let asks = match statement {
        Statement::Explain(explain) => return check_reads(&explain.statement, tokens),
        Statement::Statement(statement) => asks(statement),
        Statement::CreateExternalTable(_) | Statement::CopyTo(_) | Statement::Reset(_) => false,
    };
    if asks {
        return Ok(());
    }
    let first = tokens.iter().find_map(|token| match &token.token {
        Token::Word(word) => Some(word.value.to_uppercase()),
        _ => None,
    });
    Err(reads_only(&first.unwrap_or_else(|| "this".to_owned())))
}

/// UNIMPLEMENTED for a statement that would change something.
pub(super) fn reads_only(what: &str) -> ServiceError {
    ServiceError::Unimplemented {
        what: format!("{what}: SQL reads datasets here and changes neither them nor the server; that"),
    }
}

fn asks(statement: &SqlStatement) -> bool {
    match statement {
        SqlStatement::Explain { statement, .. } => asks(statement),
        SqlStatement::Query(_)
        | SqlStatement::ExplainTable { .. }
        | SqlStatement::ShowTables { .. }
        | SqlStatement::ShowColumns { .. }
        | SqlStatement::ShowFunctions { .. }
        | SqlStatement::ShowVariable { .. }
        | SqlStatement::ShowVariables { .. }
        | SqlStatement::ShowCreate { .. }
        | SqlStatement::ShowSchemas { .. }
        | SqlStatement::ShowDatabases { .. }
        | SqlStatement::ShowCatalogs { .. } => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn error(sql: &str) -> ServiceError {
        statement(sql).unwrap_err()
    }

    #[test]
    fn one_question_is_let_in() {
        for sql in [
            "SELECT 1",
            "select 1;",
            "WITH x AS (SELECT 1) SELECT * FROM x",
            "VALUES (1), (2)",
            "EXPLAIN ANALYZE SELECT 1",
            "SHOW TABLES",
            "DESCRIBE lake.trips",
            "SHOW COLUMNS FROM trips",
        ] {
            statement(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
    }

    #[test]
    fn what_changes_anything_is_refused_in_words() {
        for sql in [
            "INSERT INTO t VALUES (1)",
            "UPDATE t SET a = 1",
            "DELETE FROM t",
            "CREATE TABLE t (a INT)",
            "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '/etc'",
            "CREATE VIEW v AS SELECT 1",
            "DROP TABLE t",
            "COPY t TO '/tmp/x.parquet'",
            "SET datafusion.execution.batch_size = 1",
            "EXPLAIN INSERT INTO t VALUES (1)",
            "PREPARE p AS SELECT 1",
            "BEGIN",
        ] {
            let error = error(sql);
            assert_eq!(error.code(), Code::Unimplemented, "{sql}: {error}");
            assert!(error.to_string().contains("changes neither"), "{error}");
        }
    }

    #[test]
    fn two_statements_and_none_are_refused() {
        assert!(error("SELECT 1; SELECT 2").to_string().contains("2 statements"));
        assert_eq!(error("SELECT 1; DROP TABLE t").code(), Code::InvalidArgument);
        assert!(error(" -- nothing").to_string().contains("no statement"));
    }

    #[test]
    fn what_does_not_parse_has_a_place() {
        let place = |sql: &str| match error(sql) {
            ServiceError::Sql(error) => error.position,
            other => panic!("{other}"),
        };
        assert_eq!(place("SELECT 1\n  FROM x WHERE )"), Some((2, 16)));
        assert_eq!(place("SELEC 1"), Some((1, 1)));
        assert!(place("SELECT (1").is_some());
        assert!(place("SELECT 'abc").is_some());
    }

    #[test]
    fn length_and_depth_are_bounded() {
        let long = format!("SELECT '{}'", "x".repeat(MAX_SQL_BYTES));
        assert!(error(&long).to_string().contains("bytes"));
        let chain = format!("SELECT 1{}", "+1".repeat(300_000));
        assert!(error(&chain).to_string().contains("deeper"));
        let brackets = format!("SELECT {}1{}", "(".repeat(100_000), ")".repeat(100_000));
        assert!(error(&brackets).to_string().contains("deeper"));
        let brackets = format!("SELECT {}1{}", "(".repeat(1_000), ")".repeat(1_000));
        assert!(error(&brackets).to_string().contains("deeper"));
        let unions = vec!["SELECT 1"; 1_000].join(" UNION ALL ");
        assert!(error(&unions).to_string().contains("set operations"));
    }

    #[test]
    fn what_is_only_wide_is_let_in() {
        let columns: Vec<String> = (0..10_000).map(|n| format!("c{n} + 1")).collect();
        statement(&format!("SELECT {} FROM t", columns.join(", "))).unwrap();
        let values: Vec<String> = (0..100_000).map(|n| n.to_string()).collect();
        statement(&format!("SELECT a FROM t WHERE a IN ({})", values.join(","))).unwrap();
        let terms: Vec<String> = (0..900).map(|n| format!("a = {n}")).collect();
        statement(&format!("SELECT a FROM t WHERE {}", terms.join(" OR "))).unwrap();
    }

    #[test]
    fn question_marks_are_numbered_in_the_text() {
        let text = "SELECT 'a?' , ?\nFROM t WHERE é = ? -- ?";
        let tokens = Tokenizer::new(&GenericDialect {}, text)
            .tokenize_with_location()
            .unwrap();
        assert_eq!(
            numbered(text, &tokens).unwrap(),
            "SELECT 'a?' , $1\nFROM t WHERE é = $2 -- ?"
        );
        assert_eq!(numbered("SELECT 1", &[]), None);
    }
}
