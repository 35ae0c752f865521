//! What the cache holds, and `jetbridge free`.

use clap::{Args, ValueEnum};
use serde::Deserialize;
use serde_json::json;

use super::client::{Client, ClientArgs, parsed};
use super::error::CliError;
use super::output::{Columns, Form, OutputArgs, human_bytes, human_count, print, print_json};

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  jetbridge free /lake/trips --dry-run\n  jetbridge free /lake/trips/part-0.parquet\n  jetbridge free /"
)]
pub(super) struct FreeArgs {
    /// Namespace path, or a mounted URI; / is everything
    path: String,
    /// Only this generation of a file, as `stat --by file` shows it
    #[arg(long, value_name = "GENERATION")]
    generation: Option<String>,
    /// Say what would be let go of, and keep it
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
}

/// What `stat --by` shows a line for.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum By {
    /// Each file
    File,
    /// Each column, over all files
    Column,
}

/// What is held of a path.
#[derive(Debug, Deserialize)]
pub(super) struct Held {
    raw_bytes: u64,
    raw_share: f64,
    decoded_bytes: u64,
    outdated_bytes: u64,
}

impl Held {
    /// Lines for people: a name and a text each.
    pub(super) fn rows(&self) -> Vec<[String; 2]> {
        let percent = self.raw_share * 100.0;
        let mut rows = vec![
            [
                "cached raw".to_owned(),
                format!("{} ({percent:.1} %)", human_bytes(self.raw_bytes)),
            ],
            ["cached decoded".to_owned(), human_bytes(self.decoded_bytes)],
        ];
        if self.outdated_bytes > 0 {
            rows.push(["cached outdated".to_owned(), human_bytes(self.outdated_bytes)]);
        }
        rows
    }
}

#[derive(Debug, Deserialize)]
struct Freed {
    path: String,
    files: u64,
    raw_bytes: u64,
    decoded_bytes: u64,
    dry_run: bool,
}

/// Lets go of what is held of a path.
pub(super) async fn free(arguments: FreeArgs) -> Result<(), CliError> {
    let mut body = json!({ "path": arguments.path, "dry_run": arguments.dry_run });
    if let Some(generation) = arguments.generation {
        body["generation"] = generation.into();
    }
    let mut client = Client::connect(&arguments.client).await?;
    let answer = client.action("cache.free", &body).await?;
    match arguments.output.form {
        Form::Json => print_json(&answer),
        Form::Table => print(&freed_text(&parsed("cache.free", &answer)?)),
    }
}

/// Shows a line for each file or column of a path.
pub(super) async fn show_parts(client: &mut Client, path: &str, by: By, form: Form) -> Result<(), CliError> {
    let (word, list) = match by {
        By::File => ("file", "by_file"),
        By::Column => ("column", "by_column"),
    };
    let body = json!({ "path": path, "by": word });
    let answer = client.action("cache.stat", &body).await?;
    let parts: Vec<Part> = parsed("cache.stat", &answer[list])?;
    match form {
        Form::Json => print_json(&answer[list]),
        Form::Table => print(&parts_text(&parts)),
    }
}

/// A file or a column.
#[derive(Debug, Deserialize)]
struct Part {
    #[serde(alias = "path", alias = "column")]
    name: String,
    #[serde(default)]
    generation: Option<String>,
    #[serde(default)]
    current: Option<bool>,
    rows: u64,
    bytes: u64,
    raw_bytes: u64,
    decoded_bytes: u64,
}

fn parts_text(parts: &[Part]) -> String {
    let mut columns = Columns::new(
        &["ROWS", "BYTES", "RAW", "DECODED", "NAME", "GENERATION"],
        &[0, 1, 2, 3],
    );
    for part in parts {
        let outdated = if part.current == Some(false) { " (outdated)" } else { "" };
        let generation = part.generation.as_deref().unwrap_or_default();
        columns.row(&[
            &human_count(part.rows),
            &human_bytes(part.bytes),
            &human_bytes(part.raw_bytes),
            &human_bytes(part.decoded_bytes),
            &part.name,
            &format!("{generation}{outdated}"),
        ]);
    }
    columns.text()
}

fn freed_text(freed: &Freed) -> String {
    let verb = if freed.dry_run { "would free" } else { "freed" };
    let (raw, decoded) = (human_bytes(freed.raw_bytes), human_bytes(freed.decoded_bytes));
    let files = human_count(freed.files);
    format!(
        "{verb} {raw} raw and {decoded} decoded of {files} files below {}\n",
        freed.path
    )
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn files_and_columns_have_a_line_each() {
        let parts: Vec<Part> = serde_json::from_value(json!([
            { "path": "/a.parquet", "generation": "etag:x", "current": false, "rows": 1000, "bytes": 2048, "raw_bytes": 0, "decoded_bytes": 0 },
            { "column": "n", "rows": 5, "bytes": 10, "raw_bytes": 10, "decoded_bytes": 40 },
        ]))
        .unwrap();
        let text = parts_text(&parts);
        let lines: Vec<Vec<_>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            lines[1][5..],
            ["0", "B", "/a.parquet", "etag:x", "(outdated)"],
            "{text}"
        );
        assert_eq!(lines[2].last(), Some(&"n"), "{text}");
    }

    #[test]
    fn a_dry_run_says_so() {
        let freed = |dry_run: bool| -> Freed {
            let answer: Value =
                json!({ "path": "/x", "files": 2, "bytes": 3, "raw_bytes": 2, "decoded_bytes": 1, "dry_run": dry_run });
            serde_json::from_value(answer).unwrap()
        };
        assert_eq!(
            freed_text(&freed(true)),
            "would free 2 B raw and 1 B decoded of 2 files below /x\n"
        );
        assert!(freed_text(&freed(false)).starts_with("freed "));
    }
}
