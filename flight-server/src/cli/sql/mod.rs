//! `jetbridge sql`: a query and its answer, or a prompt.
//!
//! ```text
//! query -> GetFlightInfo (planned, nothing runs) -> endpoints: rows -> writer -> stdout or file
//! ```
//! | file | part |
//! |---|---|
//! | `answer.rs` | one query from its text to the last row written |
//! | `prompt.rs` | the prompt: history, helps, Ctrl-C |
//! | `text.rs` | where statements end in what was typed |
//!
//! The schema and the time limit go with each call as headers, so that a query needs no session.

mod answer;
mod prompt;
mod text;

use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use self::answer::{Output, answer};
use super::client::{Client, ClientArgs, interruptible};
use super::error::CliError;
use super::get::format;
use super::get::writer::Format;

/// Headers that set options of a call's session.
const SCHEMA_HEADER: &str = "x-jetbridge-sql-schema";
const TIMEOUT_HEADER: &str = "x-jetbridge-sql-timeout";

/// Longest query that is read from stdin, in bytes: more than a server takes, so that it is the server that says so.
const MAX_STDIN_BYTES: u64 = 16 << 20;

const EXAMPLES: &str = "\
Examples:
  jetbridge sql \"select city, avg(fare) from lake.trips group by city\"
  jetbridge sql 'select * from \"/lake/trips\" limit 10' -o json
  jetbridge sql --schema lake \"select count(*) from trips\" --timing
  jetbridge sql - --out result.parquet < query.sql
  jetbridge sql                                        a prompt; \\? tells what it understands

A table is a dataset: the folder with dots is its schema, and a path in double quotes names it anywhere.
json is one object a line, arrow an IPC stream. Without -o the form follows the ending of --out (.csv, .json, .jsonl,
.ndjson, .arrow, .arrows, .parquet); without --out it is a table.";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct SqlArgs {
    /// The query; - reads it from stdin, none asks for it at a prompt
    query: Option<String>,

    /// Form of the output
    #[arg(short = 'o', long = "output", value_name = "FORM")]
    format: Option<Format>,

    /// Write to a file, which appears when it is complete
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    /// Say on stderr how long it took
    #[arg(long)]
    timing: bool,

    /// Schema of table names that have none, such as lake.sub
    #[arg(long, value_name = "NAME")]
    schema: Option<String>,

    /// Give the query up after this time
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,

    #[command(flatten)]
    client: ClientArgs,
}

/// Answers one query, or those that are typed at a prompt.
pub(super) async fn run(arguments: SqlArgs) -> Result<(), CliError> {
    let stdin = std::io::stdin();
    let query = match arguments.query.as_deref() {
        Some("-") => Some(read_query(stdin.lock())?),
        Some(query) => Some(query.to_owned()),
        None if stdin.is_terminal() => None,
        None => return Err(CliError::Usage("give a query, or - to read it from stdin".to_owned())),
    };
    if query.is_none() && arguments.out.is_some() {
        return Err(CliError::Usage("--out is for one query; give it too".to_owned()));
    }
    let format = format(
        arguments.format,
        arguments.out.as_deref(),
        std::io::stdout().is_terminal(),
    )?;
    let mut client = interruptible(Client::connect(&arguments.client)).await?;
    client.set_header(SCHEMA_HEADER, arguments.schema.as_deref())?;
    let seconds = arguments.timeout.map(|timeout| timeout.as_secs_f64().to_string());
    client.set_header(TIMEOUT_HEADER, seconds.as_deref())?;
    let output = Output {
        format,
        out: arguments.out,
        timing: arguments.timing,
    };
    match query {
        Some(query) => interruptible(answer(&mut client, &query, &output)).await,
        None => prompt::run(client, output).await,
    }
}

fn read_query(stdin: impl Read) -> Result<String, CliError> {
    let mut query = String::new();
    let read = stdin.take(MAX_STDIN_BYTES).read_to_string(&mut query);
    read.map_err(|source| CliError::Input {
        what: "the query from stdin".to_owned(),
        source,
    })?;
    Ok(query)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_whole_and_has_to_be_text() {
        assert_eq!(read_query(&b"select 1;\n"[..]).unwrap(), "select 1;\n");
        assert!(matches!(read_query(&[0xff][..]), Err(CliError::Input { .. })));
    }
}
