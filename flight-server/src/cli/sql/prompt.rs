//! The prompt: statements up to their semicolon, over as many lines as they need; a few helps that begin with a backslash.
//!
//! Ctrl-C while something is typed drops it, while a query runs ends the query; Ctrl-D ends the prompt. What was typed is kept
//! for the next time, in a file that only its owner can read.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Editor, Helper};

use super::SCHEMA_HEADER;
use super::answer::{Output, answer};
use super::text;
use crate::cli::client::{Client, interruptible};
use crate::cli::error::CliError;

const PROMPT: &str = "jetbridge> ";
/// Statements that are kept for the next time.
const MAX_HISTORY: usize = 1000;

const HELP: &str = "\
A statement ends with a semicolon. Besides:
  \\d            tables
  \\d NAME       columns of a table
  \\dn           schemas
  \\c NAME       schema of table names that have none
  \\timing       say how long statements take, or stop it
  \\q            leave (or Ctrl-D)
Ctrl-C drops what is typed, or ends the query that runs.";

const TABLES: &str = "SELECT table_schema, table_name FROM information_schema.tables \
    WHERE table_schema <> 'information_schema' ORDER BY table_schema, table_name";
const SCHEMAS: &str = "SELECT schema_name FROM information_schema.schemata \
    WHERE schema_name <> 'information_schema' ORDER BY schema_name";

/// What was typed.
#[derive(Debug, PartialEq, Eq)]
enum Typed<'a> {
    Query(Cow<'a, str>),
    Schema(&'a str),
    Timing,
    Help,
    Leave,
    Unknown(&'a str),
}

/// Answers what is typed until its writer leaves. A query that fails is told and no end.
pub(super) async fn run(mut client: Client, mut output: Output) -> Result<(), CliError> {
    let history = history_file();
    let mut editor = editor(history.as_deref()).map_err(failed)?;
    eprintln!("Connected to {}; \\? tells what there is besides SQL.", client.uri());
    loop {
        // Nothing else waits for this thread but the connection's own tasks, which other threads see to.
        let line = match tokio::task::block_in_place(|| editor.readline(PROMPT)) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(failed(error)),
        };
        if line.trim().is_empty() {
            continue;
        }
        remember(&mut editor, history.as_deref(), &line);
        for typed in typed(&line) {
            match typed {
                Typed::Query(query) => report(interruptible(answer(&mut client, &query, &output)).await)?,
                Typed::Schema(name) => report(client.set_header(SCHEMA_HEADER, Some(name)))?,
                Typed::Timing => {
                    output.timing = !output.timing;
                    eprintln!("timing is {}", if output.timing { "on" } else { "off" });
                }
                Typed::Help => eprintln!("{HELP}"),
                Typed::Unknown(word) => eprintln!("jetbridge: {word} is none of the helps; \\? lists them"),
                Typed::Leave => return Ok(()),
            }
        }
    }
    Ok(())
}

/// What a line asks for.
fn typed(line: &str) -> Vec<Typed<'_>> {
    let line = line.trim();
    if !line.starts_with('\\') {
        let (statements, _) = text::split(line);
        return statements.into_iter().map(|query| Typed::Query(query.into())).collect();
    }
    let line = line.trim_end_matches(';').trim_end();
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    vec![match (word, rest) {
        ("\\d" | "\\dt", "") => Typed::Query(TABLES.into()),
        ("\\d", table) => Typed::Query(format!("DESCRIBE {table}").into()),
        ("\\dn", "") => Typed::Query(SCHEMAS.into()),
        ("\\c", name) if !name.is_empty() => Typed::Schema(name),
        ("\\timing", "") => Typed::Timing,
        ("\\?" | "\\h", _) => Typed::Help,
        ("\\q", _) => Typed::Leave,
        _ => Typed::Unknown(word),
    }]
}

/// Tells of an error and goes on; only where nobody reads any more there is no point in going on.
fn report(outcome: Result<(), CliError>) -> Result<(), CliError> {
    match outcome {
        Err(CliError::OutputClosed) => Err(CliError::OutputClosed),
        Err(error) => {
            error.report();
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

fn editor(history: Option<&Path>) -> Result<Editor<Lines, FileHistory>, ReadlineError> {
    let config = rustyline::Config::builder().max_history_size(MAX_HISTORY)?.build();
    let mut editor = Editor::with_config(config)?;
    editor.set_helper(Some(Lines));
    if let Some(history) = history {
        // There is none the first time.
        let _ = editor.load_history(history);
    }
    Ok(editor)
}

fn remember(editor: &mut Editor<Lines, FileHistory>, history: Option<&Path>, line: &str) {
    // A history that cannot be kept is no reason not to answer.
    let _ = editor.add_history_entry(line.trim());
    if let Some(history) = history {
        let _ = editor.append_history(history);
    }
}

/// Where the history is kept: in the folder for the state of programs. None where there is no such folder.
fn history_file() -> Option<PathBuf> {
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state"));
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let folder = state
        .filter(|folder| folder.is_absolute())
        .or_else(home)?
        .join("jetbridge");
    std::fs::create_dir_all(&folder).ok()?;
    Some(folder.join("sql_history"))
}

fn failed(error: ReadlineError) -> CliError {
    CliError::Input {
        what: "the prompt".to_owned(),
        source: std::io::Error::other(error),
    }
}

/// Lines that go on until their statement does not.
struct Lines;

impl Validator for Lines {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(if text::is_whole(context.input()) {
            ValidationResult::Valid(None)
        } else {
            ValidationResult::Incomplete
        })
    }
}

impl Completer for Lines {
    type Candidate = String;
}

impl Hinter for Lines {
    type Hint = String;
}

impl Highlighter for Lines {}

impl Helper for Lines {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_statements_or_helps() {
        let query = |text: &'static str| Typed::Query(text.into());
        assert_eq!(typed("select 1; select 2;"), [query("select 1"), query("select 2")]);
        assert_eq!(typed("\\d"), [query(TABLES)]);
        assert_eq!(typed("\\d lake.trips;"), [query("DESCRIBE lake.trips")]);
        assert_eq!(typed("\\c lake"), [Typed::Schema("lake")]);
        assert_eq!(typed(" \\q "), [Typed::Leave]);
        assert_eq!(typed("\\timing"), [Typed::Timing]);
        assert_eq!(typed("\\x 1"), [Typed::Unknown("\\x")]);
        assert_eq!(typed("\\c"), [Typed::Unknown("\\c")]);
    }

    #[test]
    fn an_error_is_told_and_no_end_unless_nobody_reads() {
        assert!(report(Err(CliError::Interrupted)).is_ok());
        assert!(matches!(
            report(Err(CliError::OutputClosed)),
            Err(CliError::OutputClosed)
        ));
    }
}
