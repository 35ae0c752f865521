//! `jetbridge mount`: the mount table of a running server.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::json;

use super::client::{Client, ClientArgs, parsed};
use super::error::CliError;
use super::output::{Columns, Form, OutputArgs, print, print_json};

const EXAMPLES: &str = "\
Examples:
  jetbridge mount add /lake s3://bucket/prefix --option region=eu-central-1
  jetbridge mount ls
  jetbridge mount rm /lake";

const ADD_EXAMPLES: &str = "\
Examples:
  jetbridge mount add /lake s3://bucket/prefix --option region=eu-central-1
  jetbridge mount add /minio s3://bucket --option endpoint=http://127.0.0.1:9000 --option allow_http=true \\
      --option access_key_id=reader --option secret_access_key=env:MINIO_SECRET
  jetbridge mount add /web https://example.org/data --option freshness=immutable

Secrets are given by reference only: env:NAME or file:PATH, read by the server. `freshness` says how long what was
listed may be believed: immutable, max-age=60s (the default) or always (look every time).

What the cache keeps of a mount: cache_ttl=12h (no longer than that), cache_quota=100GiB (no more of raw pages, nor of
decoded columns), cache_rules=\"never tmp/**; max-age=1h logs/**; always hot/*.parquet\" (exceptions, by path in the
mount; the first that matches holds; always keeps columns decoded from the first read on, and without end).";

/// Commands about mounts.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(super) enum MountCommand {
    /// Mount a UFS URI at a namespace path
    Add(AddArgs),
    /// List the mounts
    Ls(LsArgs),
    /// Remove a mount; nothing in its storage is touched
    Rm(PathArgs),
    /// Try a mount: credentials, listing, ranged reads, versions
    Check(CheckArgs),
}

#[derive(Args, Debug)]
#[command(after_help = ADD_EXAMPLES)]
pub(super) struct AddArgs {
    /// Namespace path, for example /lake
    path: String,
    /// Storage, for example s3://bucket/prefix or file:///data
    target: String,
    /// An option of the mount; repeatable
    #[arg(long = "option", value_name = "KEY=VALUE", value_parser = key_value)]
    options: Vec<(String, String)>,
    /// Never write to the storage
    #[arg(long)]
    read_only: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  jetbridge mount ls -o json")]
pub(super) struct LsArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  jetbridge mount rm /lake")]
pub(super) struct PathArgs {
    /// Namespace path of the mount
    path: String,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  jetbridge mount check /lake\n\nThe exit code is 1 when a check fails.")]
pub(super) struct CheckArgs {
    /// Namespace path of the mount
    path: String,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
}

/// Runs a command about mounts.
pub(super) async fn run(command: MountCommand) -> Result<(), CliError> {
    match command {
        MountCommand::Add(arguments) => add(arguments).await,
        MountCommand::Ls(arguments) => ls(arguments).await,
        MountCommand::Rm(arguments) => rm(arguments).await,
        MountCommand::Check(arguments) => check(arguments).await,
    }
}

async fn add(arguments: AddArgs) -> Result<(), CliError> {
    let AddArgs {
        path,
        target,
        options,
        read_only,
        client,
    } = arguments;
    if !target.contains("://") {
        let hint = format!(
            "{target:?} has no scheme; write s3://bucket/prefix, or file:///path for a folder of the server's machine"
        );
        return Err(CliError::Usage(hint));
    }
    let options = distinct(options)?;
    let body = json!({ "path": path, "uri": target, "options": options, "read_only": read_only });
    Client::connect(&client).await?.action("mount.add", &body).await?;
    print(&format!("mounted {target} at {path}"))
}

async fn ls(arguments: LsArgs) -> Result<(), CliError> {
    let answer = Client::connect(&arguments.client)
        .await?
        .action("mount.list", &json!({}))
        .await?;
    let list: MountList = parsed("mount.list", &answer)?;
    match arguments.output.form {
        Form::Json => print_json(&answer["mounts"]),
        Form::Table => print(&mount_table(&list.mounts)),
    }
}

async fn rm(arguments: PathArgs) -> Result<(), CliError> {
    let body = json!({ "path": arguments.path });
    Client::connect(&arguments.client)
        .await?
        .action("mount.remove", &body)
        .await?;
    print(&format!("removed the mount at {}", arguments.path))
}

async fn check(arguments: CheckArgs) -> Result<(), CliError> {
    let body = json!({ "path": arguments.path });
    let answer = Client::connect(&arguments.client)
        .await?
        .action("mount.check", &body)
        .await?;
    let report: CheckReport = parsed("mount.check", &answer)?;
    match arguments.output.form {
        Form::Json => print_json(&answer)?,
        Form::Table => print(&check_table(&report))?,
    }
    if report.ok {
        Ok(())
    } else {
        Err(CliError::CheckFailed { path: arguments.path })
    }
}

#[derive(Debug, Deserialize)]
struct MountList {
    mounts: Vec<Mount>,
}

#[derive(Debug, Deserialize)]
struct Mount {
    path: String,
    uri: String,
    #[serde(default)]
    options: BTreeMap<String, String>,
    #[serde(default)]
    read_only: bool,
}

#[derive(Debug, Deserialize)]
struct CheckReport {
    ok: bool,
    checks: Vec<Check>,
}

#[derive(Debug, Deserialize)]
struct Check {
    name: String,
    ok: bool,
    #[serde(default)]
    detail: Option<String>,
    #[serde(default)]
    ms: f64,
}

fn mount_table(mounts: &[Mount]) -> String {
    let mut columns = Columns::new(&["PATH", "URI", "ACCESS", "OPTIONS"], &[]);
    for mount in mounts {
        let options = mount.options.iter().map(|(key, value)| format!("{key}={value}"));
        let access = if mount.read_only { "read-only" } else { "read-write" };
        columns.row(&[&mount.path, &mount.uri, access, &options.collect::<Vec<_>>().join(" ")]);
    }
    columns.text()
}

fn check_table(report: &CheckReport) -> String {
    let mut columns = Columns::new(&["CHECK", "RESULT", "MS", "DETAIL"], &[2]);
    for check in &report.checks {
        let result = if check.ok { "ok" } else { "failed" };
        let detail = check.detail.as_deref().unwrap_or_default();
        columns.row(&[&check.name, result, &format!("{:.0}", check.ms), detail]);
    }
    columns.text()
}

/// Options by their keys, each of which may be there once: which of two was meant is not ours to say.
fn distinct(options: Vec<(String, String)>) -> Result<BTreeMap<String, String>, CliError> {
    let mut found = BTreeMap::new();
    for (key, value) in options {
        if found.insert(key.clone(), value).is_some() {
            return Err(CliError::Usage(format!("--option {key} is given twice")));
        }
    }
    Ok(found)
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let cut = text.split_once('=').filter(|(key, _)| !key.is_empty());
    let (key, value) = cut.ok_or_else(|| format!("{text:?} is not an option; write it like region=eu-central-1"))?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_listed_with_their_options() {
        let list: MountList = serde_json::from_value(json!({ "mounts": [
            { "path": "/lake", "uri": "s3://b", "options": { "region": "x", "endpoint": "http://h" }, "read_only": true },
            { "path": "/x", "uri": "file:///x", "added_later": 1 },
        ]}))
        .unwrap();
        let text = mount_table(&list.mounts);
        let lines: Vec<Vec<_>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            lines[1],
            ["/lake", "s3://b", "read-only", "endpoint=http://h", "region=x"]
        );
        assert_eq!(lines[2], ["/x", "file:///x", "read-write"]);
    }

    #[test]
    fn a_check_tells_each_step() {
        let body = json!({ "ok": false, "checks": [
            { "name": "credentials", "ok": true, "detail": "", "ms": 3 },
            { "name": "list", "ok": false, "detail": "no such bucket", "ms": 12.5 },
        ]});
        let text = check_table(&serde_json::from_value(body).unwrap());
        assert!(text.lines().nth(2).unwrap().ends_with("no such bucket"), "{text}");
        assert_eq!(text.lines().nth(2).unwrap().split_whitespace().nth(1), Some("failed"));
    }

    #[test]
    fn an_option_that_is_given_twice_is_refused() {
        let options = |pairs: &[&str]| distinct(pairs.iter().map(|pair| key_value(pair).unwrap()).collect());
        assert_eq!(options(&["region=a", "endpoint=b"]).unwrap().len(), 2);
        let refused = options(&["region=a", "endpoint=b", "region=a"]).unwrap_err();
        assert!(matches!(&refused, CliError::Usage(words) if words == "--option region is given twice"));
    }

    #[test]
    fn an_option_may_hold_equals_signs() {
        assert_eq!(key_value("endpoint=http://h/?a=b").unwrap().1, "http://h/?a=b");
        assert_eq!(key_value("prefix=").unwrap().1, "");
        assert!(key_value("=x").is_err() && key_value("x").is_err());
    }
}
