//! `jetbridge ls`, `stat` and `status`: looking around.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use super::cache::{self, By, Held};
use super::client::{Client, ClientArgs, parsed};
use super::error::CliError;
use super::output::{Columns, Form, OutputArgs, human_bytes, human_count, print, print_json};

/// The most entries of one listing; the server gives no more either.
const MAX_ENTRIES: u64 = 10_000;

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  jetbridge ls\n  jetbridge ls /lake/trips -o json\n  jetbridge ls s3://bucket/prefix"
)]
pub(super) struct LsArgs {
    /// Namespace path, or a mounted URI
    #[arg(default_value = "/")]
    path: String,
    /// Show at most this many entries, 10000 at the most [default: 10000]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u64).range(0..=MAX_ENTRIES))]
    limit: Option<u64>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  jetbridge stat /lake/trips\n  jetbridge stat /lake/trips --by column\n  jetbridge stat /t -o json"
)]
pub(super) struct StatArgs {
    /// Namespace path, or a mounted URI
    path: String,
    /// Show what the cache holds of each file or column instead
    #[arg(long, value_name = "WHAT")]
    by: Option<By>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  jetbridge status\n  jetbridge status --uri grpc://127.0.0.1:9000 -o json")]
pub(super) struct StatusArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
}

/// Lists a folder.
pub(super) async fn ls(arguments: LsArgs) -> Result<(), CliError> {
    let mut body = json!({ "path": arguments.path });
    if let Some(limit) = arguments.limit {
        body["limit"] = limit.into();
    }
    let answer = Client::connect(&arguments.client)
        .await?
        .action("namespace.list", &body)
        .await?;
    let listing: Listing = parsed("namespace.list", &answer)?;
    match arguments.output.form {
        Form::Json => print_json(&answer["entries"])?,
        Form::Table => print(&listing_table(&listing.entries))?,
    }
    if listing.truncated {
        eprintln!("jetbridge: {}", more_text(listing.entries.len(), arguments.limit));
    }
    Ok(())
}

/// What is said below a listing that is not whole.
fn more_text(shown: usize, limit: Option<u64>) -> String {
    match limit {
        Some(limit) if limit < MAX_ENTRIES => format!("there are more entries than the {shown} of --limit {limit}"),
        _ => format!("there are more entries than the {shown} that one listing has; list a folder below"),
    }
}

/// Shows what a path is.
pub(super) async fn stat(arguments: StatArgs) -> Result<(), CliError> {
    let mut client = Client::connect(&arguments.client).await?;
    let body = json!({ "path": arguments.path });
    if let Some(by) = arguments.by {
        return cache::show_parts(&mut client, &arguments.path, by, arguments.output.form).await;
    }
    let mut answer = client.action("namespace.stat", &body).await?;
    answer["cache"] = client.action("cache.stat", &body).await?;
    match arguments.output.form {
        Form::Json => print_json(&answer),
        Form::Table => print(&stat_text(&parsed("namespace.stat", &answer)?)),
    }
}

/// Shows how the server is doing.
pub(super) async fn status(arguments: StatusArgs) -> Result<(), CliError> {
    let mut client = Client::connect(&arguments.client).await?;
    let answer = client.action("server.status", &json!({})).await?;
    match arguments.output.form {
        Form::Json => print_json(&answer),
        Form::Table => print(&status_text(client.uri(), &parsed("server.status", &answer)?)),
    }
}

#[derive(Debug, Deserialize)]
struct Listing {
    entries: Vec<Entry>,
    #[serde(default)]
    truncated: bool,
}

#[derive(Debug, Deserialize)]
struct Entry {
    name: String,
    kind: String,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    modified: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Stat {
    path: String,
    kind: String,
    #[serde(default)]
    uri: Option<String>,
    #[serde(default)]
    mount: Option<String>,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    modified: Option<String>,
    #[serde(default)]
    generation: Option<String>,
    #[serde(default)]
    dataset: Option<Dataset>,
    #[serde(default)]
    dataset_error: Option<String>,
    #[serde(default)]
    cache: Option<Held>,
}

#[derive(Debug, Deserialize)]
struct Dataset {
    rows: u64,
    files: u64,
    row_groups: u64,
    bytes: u64,
    schema: Vec<Column>,
    #[serde(default)]
    partition_columns: Vec<String>,
    #[serde(default)]
    unreadable_files: u64,
}

#[derive(Debug, Deserialize)]
struct Column {
    name: String,
    #[serde(rename = "type")]
    data_type: String,
    nullable: bool,
}

#[derive(Debug, Deserialize)]
struct Status {
    version: String,
    uptime_s: f64,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

fn listing_table(entries: &[Entry]) -> String {
    let mut columns = Columns::new(&["KIND", "SIZE", "MODIFIED", "NAME"], &[1]);
    for entry in entries {
        let size = entry.size.map_or_else(|| "-".to_owned(), |size| size.to_string());
        let slash = if entry.kind == "file" { "" } else { "/" };
        let name = format!("{}{slash}", entry.name);
        columns.row(&[&entry.kind, &size, entry.modified.as_deref().unwrap_or("-"), &name]);
    }
    columns.text()
}

fn stat_text(stat: &Stat) -> String {
    let mut columns = Columns::pairs();
    columns.row(&["path", &stat.path]);
    columns.row(&["kind", &stat.kind]);
    let size = stat.size.map(|size| format!("{} ({size} bytes)", human_bytes(size)));
    let lines = [
        ("uri", &stat.uri),
        ("mount", &stat.mount),
        ("size", &size),
        ("modified", &stat.modified),
        ("generation", &stat.generation),
        ("no dataset", &stat.dataset_error),
    ];
    for (name, value) in lines {
        if let Some(value) = value {
            columns.row(&[name, value]);
        }
    }
    if let Some(held) = &stat.cache {
        held.rows().iter().for_each(|[name, value]| columns.row(&[name, value]));
    }
    match &stat.dataset {
        None => columns.text(),
        Some(dataset) => dataset_text(columns, dataset),
    }
}

fn dataset_text(mut columns: Columns, dataset: &Dataset) -> String {
    columns.row(&["rows", &human_count(dataset.rows)]);
    columns.row(&["files", &human_count(dataset.files)]);
    if dataset.unreadable_files > 0 {
        columns.row(&["unreadable", &human_count(dataset.unreadable_files)]);
    }
    columns.row(&["row groups", &human_count(dataset.row_groups)]);
    columns.row(&["bytes", &format!("{} ({})", human_bytes(dataset.bytes), dataset.bytes)]);
    let mut schema = Columns::new(&["COLUMN", "TYPE", "NULLS", ""], &[]);
    for column in &dataset.schema {
        let nulls = if column.nullable { "yes" } else { "no" };
        let partition = if dataset.partition_columns.contains(&column.name) {
            "partition"
        } else {
            ""
        };
        schema.row(&[&column.name, &column.data_type, nulls, partition]);
    }
    format!("{}\n{}", columns.text(), schema.text())
}

fn status_text(uri: &str, status: &Status) -> String {
    let mut columns = Columns::pairs();
    columns.row(&["server", uri]);
    columns.row(&["version", &status.version]);
    let uptime = Duration::try_from_secs_f64(status.uptime_s.trunc()).unwrap_or_default();
    columns.row(&["uptime", &humantime::format_duration(uptime).to_string()]);
    for (key, value) in &status.rest {
        match value {
            Value::Object(counts) => {
                counts
                    .iter()
                    .for_each(|(name, count)| columns.row(&[&format!("{key}.{name}"), &shown(name, count)]));
            }
            value => columns.row(&[&label(key), &shown(key, value)]),
        }
    }
    columns.text()
}

/// A key for people: `raw_bytes` is shown as `raw`, since the value carries its unit.
fn label(key: &str) -> String {
    key.strip_suffix("_bytes").unwrap_or(key).replace('_', " ")
}

fn shown(key: &str, value: &Value) -> String {
    match value {
        Value::Number(number) => match number.as_u64() {
            Some(count) if key.ends_with("_bytes") => human_bytes(count),
            Some(count) => human_count(count),
            None => number.to_string(),
        },
        Value::String(text) => text.clone(),
        Value::Array(items) => items.len().to_string(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<&str> {
        line.split_whitespace().collect()
    }

    #[test]
    fn a_listing_marks_folders_and_keeps_names_last() {
        let listing: Listing = serde_json::from_value(json!({ "path": "/", "entries": [
            { "name": "lake", "kind": "mount" },
            { "name": "a b.parquet", "kind": "file", "size": 12, "modified": "2026-01-02T03:04:05.000Z", "generation": "x" },
        ]}))
        .unwrap();
        let text = listing_table(&listing.entries);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(words(lines[1]), ["mount", "-", "-", "lake/"]);
        assert_eq!(
            words(lines[2]),
            ["file", "12", "2026-01-02T03:04:05.000Z", "a", "b.parquet"]
        );
        assert!(!listing.truncated);
    }

    #[test]
    fn a_listing_that_is_not_whole_says_whose_limit_it_was() {
        assert_eq!(more_text(5, Some(5)), "there are more entries than the 5 of --limit 5");
        for limit in [None, Some(MAX_ENTRIES)] {
            let text = more_text(10_000, limit);
            assert!(text.contains("10000 that one listing has"), "{text}");
        }
    }

    #[test]
    fn a_dataset_is_shown_with_its_schema() {
        let stat: Stat = serde_json::from_value(json!({
            "path": "/lake/t", "kind": "folder", "uri": "s3://b/t", "mount": "/lake", "dataset_error": null,
            "dataset": { "rows": 6001215, "files": 2, "row_groups": 49, "bytes": 2048,
                "schema": [
                    { "name": "a", "type": "Int64", "nullable": false },
                    { "name": "year", "type": "Int64", "nullable": true },
                ],
                "partition_columns": ["year"] },
        }))
        .unwrap();
        let text = stat_text(&stat);
        assert!(text.contains("6,001,215") && text.contains("2.0 KiB (2048)"), "{text}");
        let last = text.lines().last().unwrap();
        assert_eq!(words(last), ["year", "Int64", "yes", "partition"]);
    }

    #[test]
    fn a_path_without_a_dataset_is_shown_too() {
        let stat = json!({ "path": "/x", "kind": "folder", "uri": null, "mount": null, "dataset": null });
        let text = stat_text(&serde_json::from_value(stat).unwrap());
        assert_eq!(text.lines().count(), 2, "{text}");
    }

    #[test]
    fn a_status_shows_whatever_the_server_tells() {
        let body = json!({ "version": "0.1.0", "uptime_s": 3661, "mounts": 2, "raw_bytes": 1048576, "requests": { "DoGet": 12 } });
        let text = status_text("grpc://h:1", &serde_json::from_value(body).unwrap());
        for expected in ["1h 1m 1s", "requests.DoGet", "1.0 MiB"] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }
}
