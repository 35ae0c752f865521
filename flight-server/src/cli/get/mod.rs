//! `jetbridge get`: reads a dataset and writes it in a form of the user's choice.
//!
//! ```text
//! GetFlightInfo -> endpoints, in order (endpoints.rs) -> writer (writer.rs, table.rs) -> stdout or file (sink.rs)
//! ```
//! A file appears under its name only when it is complete.

pub(super) mod endpoints;
pub(super) mod progress;
pub(super) mod sink;
mod table;
pub(super) mod writer;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use self::endpoints::Reader;
use self::progress::Progress;
use self::sink::Sink;
use self::writer::{Format, Writer};
use super::client::{Client, ClientArgs};
use super::error::CliError;

const EXAMPLES: &str = "\
Examples:
  jetbridge get /lake/trips --limit 10
  jetbridge get /lake/trips --columns id,fare --where 'fare > 50 and city = ''Oslo''' -o csv
  jetbridge get /lake/trips --out trips.parquet
  jetbridge get s3://bucket/prefix/trips -o arrow | program-that-reads-an-arrow-stream

json is one object a line, arrow an IPC stream. Without -o the form follows the ending of --out (.csv, .json, .jsonl,
.ndjson, .arrow, .arrows, .parquet); without --out it is a table.";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct GetArgs {
    /// Namespace path, or a mounted URI
    path: String,

    /// Columns to read, in this order; repeatable. A column inside a struct is written parent.child
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    columns: Option<Vec<String>>,

    /// SQL predicate that rows must meet
    #[arg(long = "where", value_name = "SQL")]
    filter: Option<String>,

    /// Read at most this many rows
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    limit: Option<u64>,

    /// Form of the output
    #[arg(short = 'o', long = "output", value_name = "FORM")]
    format: Option<Format>,

    /// Write to a file, which appears when it is complete
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    #[command(flatten)]
    client: ClientArgs,
}

/// The JSON scan of the contract.
#[derive(Debug, Serialize)]
struct Scan<'a> {
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    columns: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    filter: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
    ordered: bool,
}

/// Reads a dataset.
pub(super) async fn run(arguments: GetArgs) -> Result<(), CliError> {
    let out = arguments.out.as_deref();
    let format = format(arguments.format, out, std::io::stdout().is_terminal())?;
    let mut client = Client::connect(&arguments.client).await?;
    let scan = Scan {
        path: &arguments.path,
        columns: arguments.columns.as_deref(),
        filter: arguments.filter.as_deref(),
        limit: arguments.limit,
        ordered: true,
    };
    let info = client.flight_info(&scan).await?;
    let schema = Arc::new(info.clone().try_decode_schema()?);
    let sink = Sink::open(out)?;
    let state = sink.state();
    let mut progress = Progress::start(info.total_records, out.is_some());
    let written = async {
        let mut writer = Writer::new(format, sink, &schema)?;
        let mut reader = Reader::new(client);
        for endpoint in info.endpoint {
            reader
                .read(endpoint, async |received| {
                    progress.advance(&received);
                    writer.write(&received.batch)
                })
                .await?;
        }
        writer.finish()?.commit()
    };
    let outcome = written.await;
    progress.finish(outcome.is_ok());
    // The writers turn I/O errors into text; the sink remembers what really happened.
    outcome.map_err(|error| state.explain(error))
}

/// The form asked for, else that of the file's ending, else a table.
pub(super) fn format(asked: Option<Format>, out: Option<&Path>, stdout_is_terminal: bool) -> Result<Format, CliError> {
    let format = match (asked, out) {
        (Some(format), _) => format,
        (None, None) => Format::Table,
        (None, Some(path)) => Format::of_file(path).ok_or_else(|| {
            CliError::Usage(format!(
                "the ending of {} names no form; add -o csv, json, arrow or parquet",
                path.display()
            ))
        })?,
    };
    if out.is_none() && stdout_is_terminal && format.is_binary() {
        return Err(CliError::Usage(
            "this form is not for terminals; add --out FILE, or send the output to a program".to_owned(),
        ));
    }
    Ok(format)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_follows_the_ending_unless_it_is_given() {
        let of = |asked, out: Option<&str>| format(asked, out.map(Path::new), false).ok();
        assert_eq!(of(None, None), Some(Format::Table));
        assert_eq!(of(None, Some("a/b.PARQUET")), Some(Format::Parquet));
        assert_eq!(of(None, Some("x.jsonl")), Some(Format::Json));
        assert_eq!(of(Some(Format::Csv), Some("x.parquet")), Some(Format::Csv));
        assert_eq!(of(None, Some("x.bin")), None);
    }

    #[test]
    fn binary_forms_do_not_go_to_a_terminal() {
        assert!(matches!(
            format(Some(Format::Arrow), None, true),
            Err(CliError::Usage(_))
        ));
        assert!(format(Some(Format::Arrow), None, false).is_ok());
        assert!(format(Some(Format::Arrow), Some(Path::new("x")), true).is_ok());
        assert!(format(Some(Format::Csv), None, true).is_ok());
    }

    #[test]
    fn the_scan_holds_only_what_was_asked() {
        let scan = Scan {
            path: "/a",
            columns: None,
            filter: None,
            limit: Some(0),
            ordered: true,
        };
        assert_eq!(
            serde_json::to_string(&scan).unwrap(),
            r#"{"path":"/a","limit":0,"ordered":true}"#
        );
    }
}
