//! `jetbridge preload` and `verify`: jobs that load data before it is read, and that compare what is held with the storage.
//!
//! Both submit a job and return, unless they are told to wait. stdout begins with the job's id, alone on its line; what to do
//! next is said on stderr.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use super::client::{Client, ClientArgs, interruptible, parsed};
use super::error::CliError;
use super::jobs::{self, Show};
use super::output::{Columns, Form, OutputArgs, human_bytes, human_count, print, print_json};
use crate::config::{parse_bytes, parse_duration};
use crate::jobs::record::Job;
use crate::jobs::spec::Tier as LoadedTier;

/// Longest list of paths that is read, in bytes; the server takes no longer request.
const MAX_PATHS_BYTES: u64 = 1 << 20;

const PRELOAD_EXAMPLES: &str = "\
Examples:
  jetbridge preload /lake/trips --wait
  jetbridge preload /lake/trips --columns id,fare --where 'year = 2024' --tier decoded
  jetbridge preload /lake/trips --bandwidth 200MiB/s --priority low --every 1h
  jetbridge preload /lake/trips --dry-run
  find-my-datasets | jetbridge preload --paths-from - --metadata-only

The id of the job is printed on a line by itself; `jetbridge jobs watch ID` shows how far it is. Asking for the same again \
while it is not over gives the same job. What is held already costs no request to the storage. With --wait the exit code is 0 \
only where the job ends SUCCEEDED; with -o json besides, the job is printed once, when it is over.";

const VERIFY_EXAMPLES: &str = "\
Examples:
  jetbridge verify /lake/trips --wait
  jetbridge verify /lake/trips --columns fare --bandwidth 50MiB/s
  jetbridge verify / --priority low --wait -o json

Every copy is compared, whichever worker holds it. Nothing is loaded that is not held. What differs from the storage is \
dropped, and the job ends PARTIAL.";

#[derive(Args, Debug)]
#[command(after_help = PRELOAD_EXAMPLES)]
pub(super) struct PreloadArgs {
    #[command(flatten)]
    what: WhatArgs,

    /// Where to hold it: as stored bytes on disk (raw), as decoded columns in memory, or both [default: both]
    #[arg(long, value_name = "TIER")]
    tier: Option<Tier>,

    /// How many workers shall hold each part, 1 to 16 and no more than there are: its owner first, then those that stand in
    /// for it [default: as the mount's option replicas says, else 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    replicas: Option<u32>,

    /// Compare what is held already with the storage, and load anew what differs
    #[arg(long)]
    verify: bool,

    /// Load the files' footers alone, so that plans need no storage
    #[arg(long, conflicts_with_all = ["tier", "verify", "skip_if_cached", "partial"])]
    metadata_only: bool,

    /// Leave alone what is held already, instead of protecting it from eviction as if it had been loaded now
    #[arg(long)]
    skip_if_cached: bool,

    /// Begin with the first files while the others are still being listed
    #[arg(long)]
    partial_listing: bool,

    /// Load as much as the workers have room for, where that is not all; without it, what does not fit is refused
    #[arg(long)]
    partial: bool,

    /// Do it again and again; TIME is from one beginning to the next, as in 30m or 1h [default: once]
    #[arg(long, value_name = "TIME", value_parser = checked_time, conflicts_with_all = ["wait", "dry_run"])]
    every: Option<String>,

    /// Say what would be loaded onto each worker, and whether it fits; make no job
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,

    #[command(flatten)]
    how: HowArgs,
}

#[derive(Args, Debug)]
#[command(after_help = VERIFY_EXAMPLES)]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    what: WhatArgs,
    #[command(flatten)]
    how: HowArgs,
}

/// What of the data a job is about, and at what cost.
#[derive(Args, Debug)]
struct WhatArgs {
    /// Namespace paths, or mounted URIs: files, or folders that read as datasets
    #[arg(value_name = "PATH", required_unless_present = "paths_from")]
    paths: Vec<String>,

    /// Read more paths from a file, one a line; - is stdin
    #[arg(long, value_name = "FILE")]
    paths_from: Option<PathBuf>,

    /// Only these columns; repeatable. A column inside a struct is written parent.child [default: all]
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    columns: Option<Vec<String>>,

    /// Only row groups in which rows may meet this SQL predicate, as in 'year = 2024' [default: all]
    #[arg(long = "where", value_name = "SQL")]
    filter: Option<String>,

    /// Ask storage for no more than this, in bytes a second by all nodes together, footers included, as in 200MiB/s or 1GB/s
    /// [default: no limit]
    #[arg(long, value_name = "RATE", value_parser = rate)]
    bandwidth: Option<u64>,

    /// Whose turn it is where several jobs have work for a worker; high gets 4 parts for each of normal's, low a quarter
    /// of one [default: normal]
    #[arg(long, value_name = "PRIORITY")]
    priority: Option<Priority>,

    /// End the job as FAILED when more files than this have failed [default: no limit]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    max_failures: Option<u64>,
}

/// How the command itself behaves.
#[derive(Args, Debug)]
struct HowArgs {
    /// Watch the job until it is over; the exit code is 1 unless it ends SUCCEEDED
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
}

/// Where data is held.
#[derive(Debug, Clone, Copy, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Tier {
    /// As stored bytes, on disk where the worker has one
    Raw,
    /// As decoded columns, in memory; stored bytes that had to be fetched for them are not kept
    Decoded,
    /// In both forms
    Both,
}

#[derive(Debug, Clone, Copy, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Priority {
    High,
    Normal,
    Low,
}

/// The body of `preload.submit` and, as far as it goes, of `verify.submit`. What was not given is left to the server.
#[derive(Debug, Default, Serialize)]
struct Submission {
    paths: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    columns: Option<Vec<String>>,
    #[serde(rename = "where", skip_serializing_if = "Option::is_none")]
    filter: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tier: Option<Tier>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replicas: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bandwidth: Option<u64>,
    #[serde(skip_serializing_if = "is_false")]
    verify: bool,
    #[serde(skip_serializing_if = "is_false")]
    metadata_only: bool,
    #[serde(skip_serializing_if = "is_false")]
    skip_if_cached: bool,
    #[serde(skip_serializing_if = "is_false")]
    partial_listing: bool,
    #[serde(skip_serializing_if = "is_false")]
    partial: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<Priority>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_failures: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    every: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    dry_run: bool,
}

impl WhatArgs {
    fn submission(self) -> Result<Submission, CliError> {
        let mut paths = self.paths;
        if let Some(file) = &self.paths_from {
            paths.extend(listed_paths(file)?);
        }
        if paths.is_empty() {
            return Err(CliError::Usage("the list of paths is empty".to_owned()));
        }
        Ok(Submission {
            paths,
            columns: self.columns,
            filter: self.filter,
            bandwidth: self.bandwidth,
            priority: self.priority,
            max_failures: self.max_failures,
            ..Submission::default()
        })
    }
}

impl PreloadArgs {
    fn submission(self) -> Result<(Submission, HowArgs), CliError> {
        let submission = Submission {
            tier: self.tier,
            replicas: self.replicas,
            verify: self.verify,
            metadata_only: self.metadata_only,
            skip_if_cached: self.skip_if_cached,
            partial_listing: self.partial_listing,
            partial: self.partial,
            every: self.every,
            dry_run: self.dry_run,
            ..self.what.submission()?
        };
        Ok((submission, self.how))
    }
}

/// Loads data before it is read.
pub(super) async fn preload(arguments: PreloadArgs) -> Result<(), CliError> {
    let (submission, how) = arguments.submission()?;
    if submission.dry_run {
        return interruptible(dry_run(&submission, &how)).await;
    }
    submit("preload.submit", submission, how).await
}

/// Compares what is held with the storage.
pub(super) async fn verify(arguments: VerifyArgs) -> Result<(), CliError> {
    submit("verify.submit", arguments.what.submission()?, arguments.how).await
}

async fn submit(action: &str, submission: Submission, how: HowArgs) -> Result<(), CliError> {
    let answer = interruptible(async { Client::connect(&how.client).await?.action(action, &submission).await }).await?;
    let job: Job = parsed(action, &answer)?;
    match (how.output.form, how.wait) {
        (Form::Json, false) => return print_json(&answer),
        (Form::Json, true) => {}
        (Form::Table, _) => print(&job.id)?,
    }
    if how.wait {
        let show = match how.output.form {
            Form::Json => Show::End,
            Form::Table => Show::Progress,
        };
        return jobs::wait(&how.client, job.id, show).await;
    }
    let (id, state) = (&job.id, job.state.as_str());
    eprintln!("jetbridge: the job is {state}; `jetbridge jobs watch {id}` shows how far it is");
    Ok(())
}

async fn dry_run(submission: &Submission, how: &HowArgs) -> Result<(), CliError> {
    let mut client = Client::connect(&how.client).await?;
    let answer = client.action("preload.submit", submission).await?;
    match how.output.form {
        Form::Json => print_json(&answer),
        Form::Table => print(&dry_run_text(&parsed("preload.submit", &answer)?)),
    }
}

/// What a preload would do.
#[derive(Debug, Deserialize)]
struct DryRun {
    paths: Vec<String>,
    options: Options,
    files: u64,
    row_groups: u64,
    bytes: u64,
    decoded_bytes: u64,
    fits: bool,
    workers: Vec<Worker>,
}

#[derive(Debug, Deserialize)]
struct Options {
    tier: LoadedTier,
}

#[derive(Debug, Deserialize)]
struct Worker {
    id: String,
    bytes: u64,
    decoded_bytes: u64,
    #[serde(default)]
    raw_capacity_bytes: Option<u64>,
    #[serde(default)]
    decoded_capacity_bytes: Option<u64>,
}

fn dry_run_text(run: &DryRun) -> String {
    let mut pairs = Columns::pairs();
    for path in &run.paths {
        pairs.row(&["path", path]);
    }
    pairs.row(&["files", &human_count(run.files)]);
    pairs.row(&["row groups", &human_count(run.row_groups)]);
    let (has_raw, has_decoded) = (run.options.tier.has_raw(), run.options.tier.has_decoded());
    pairs.row(&["stored", &format!("{} ({})", human_bytes(run.bytes), run.bytes)]);
    if has_decoded {
        pairs.row(&[
            "decoded",
            &format!("{} ({})", human_bytes(run.decoded_bytes), run.decoded_bytes),
        ]);
    }
    let answer = match run.fits {
        true => "yes",
        false => "no; ask for fewer columns or replicas, another tier, or with --partial for as much as fits",
    };
    pairs.row(&["fits", answer]);
    let header = ["WORKER", "STORED", "RAW TIER HOLDS", "DECODED", "DECODED TIER HOLDS"];
    let mut workers = Columns::new(&header, &[1, 2, 3, 4]);
    let capacity = |bytes: Option<u64>| bytes.map_or_else(|| "unknown".to_owned(), human_bytes);
    let unused = || "-".to_owned();
    for worker in &run.workers {
        let raw_capacity = if has_raw {
            capacity(worker.raw_capacity_bytes)
        } else {
            unused()
        };
        let (decoded, decoded_capacity) = match has_decoded {
            true => (
                human_bytes(worker.decoded_bytes),
                capacity(worker.decoded_capacity_bytes),
            ),
            false => (unused(), unused()),
        };
        workers.row(&[
            &worker.id,
            &human_bytes(worker.bytes),
            &raw_capacity,
            &decoded,
            &decoded_capacity,
        ]);
    }
    format!("{}\n{}", pairs.text(), workers.text())
}

/// The paths in a file, one a line; empty lines are none.
fn listed_paths(file: &Path) -> Result<Vec<String>, CliError> {
    let failed = |source| CliError::Input {
        what: file.display().to_string(),
        source,
    };
    let mut text = String::new();
    let read = match file.as_os_str() == "-" {
        true => std::io::stdin().take(MAX_PATHS_BYTES + 1).read_to_string(&mut text),
        false => std::fs::File::open(file).and_then(|open| open.take(MAX_PATHS_BYTES + 1).read_to_string(&mut text)),
    };
    if u64::try_from(read.map_err(failed)?).unwrap_or(u64::MAX) > MAX_PATHS_BYTES {
        let size = human_bytes(MAX_PATHS_BYTES);
        return Err(CliError::Usage(format!(
            "{} is longer than {size}; submit several jobs",
            file.display()
        )));
    }
    Ok(text
        .lines()
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect())
}

/// A rate such as `200MiB/s`, or a count of bytes a second.
fn rate(text: &str) -> Result<u64, String> {
    let size = text.trim();
    let bytes = parse_bytes(size.strip_suffix("/s").unwrap_or(size));
    let bytes = bytes.map_err(|_| format!("{text:?} is not a rate; write it like 200MiB/s or 1GB/s"))?;
    match bytes.as_u64() {
        0 => Err("nothing would ever be loaded; leave it out for no limit".to_owned()),
        bytes => Ok(bytes),
    }
}

fn checked_time(text: &str) -> Result<String, String> {
    parse_duration(text).map(|_| text.trim().to_owned())
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use clap::Parser;
    use serde_json::{Value, json};

    use super::*;
    use crate::jobs::spec::{PreloadBody, VerifyBody};

    #[derive(Debug, Parser)]
    enum Line {
        Preload(Box<PreloadArgs>),
        Verify(VerifyArgs),
    }

    fn parse(line: &[&str]) -> Result<Line, clap::Error> {
        Line::try_parse_from(std::iter::once(&"jetbridge").chain(line))
    }

    /// The body that a command line comes to, checked by the server's own reading of it.
    fn body(line: &[&str]) -> Value {
        match parse(line).unwrap() {
            Line::Preload(arguments) => {
                let body = serde_json::to_value(arguments.submission().unwrap().0).unwrap();
                let read: PreloadBody = serde_json::from_value(body.clone()).unwrap();
                read.check().unwrap();
                body
            }
            Line::Verify(arguments) => {
                let body = serde_json::to_value(arguments.what.submission().unwrap()).unwrap();
                let read: VerifyBody = serde_json::from_value(body.clone()).unwrap();
                read.check().unwrap();
                body
            }
        }
    }

    #[test]
    fn nothing_is_said_that_was_not_given() {
        assert_eq!(body(&["preload", "/a"]), json!({ "paths": ["/a"] }));
        assert_eq!(body(&["verify", "/a", "/b"]), json!({ "paths": ["/a", "/b"] }));
    }

    #[test]
    fn every_option_arrives() {
        let line = "preload /a s3://b/c --columns x,y --columns z --where n>=5 --tier decoded --replicas 2 --bandwidth 3MiB/s \
                    --verify --skip-if-cached --partial-listing --partial --priority high --max-failures 7 --every 90m";
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(
            body(&words),
            json!({ "paths": ["/a", "s3://b/c"], "columns": ["x", "y", "z"], "where": "n>=5", "tier": "decoded",
                "replicas": 2, "bandwidth": 3 << 20, "verify": true, "skip_if_cached": true, "partial_listing": true,
                "partial": true, "priority": "high", "max_failures": 7, "every": "90m" })
        );
        assert_eq!(
            body(&["preload", "/a", "--metadata-only", "--dry-run", "--replicas", "2"]),
            json!({ "paths": ["/a"], "metadata_only": true, "dry_run": true, "replicas": 2 })
        );
        let line = "verify /a --columns x --where n>=5 --bandwidth 9 --priority low --max-failures 0";
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(
            body(&words),
            json!({ "paths": ["/a"], "columns": ["x"], "where": "n>=5", "bandwidth": 9, "priority": "low",
                "max_failures": 0 })
        );
    }

    #[test]
    fn every_option_of_the_server_has_one_here() {
        let full = Submission {
            paths: vec!["/a".to_owned()],
            columns: Some(Vec::new()),
            filter: Some("n > 1".to_owned()),
            tier: Some(Tier::Both),
            replicas: Some(1),
            bandwidth: Some(1),
            verify: true,
            metadata_only: false,
            skip_if_cached: true,
            partial_listing: true,
            partial: true,
            priority: Some(Priority::Normal),
            max_failures: Some(1),
            every: Some("1h".to_owned()),
            dry_run: false,
        };
        let read: PreloadBody = serde_json::from_value(serde_json::to_value(full).unwrap()).unwrap();
        let options = serde_json::to_value(read.check().unwrap().spec).unwrap();
        let unset = options.as_object().unwrap().iter();
        let unset: Vec<_> = unset
            .filter(|(_, value)| value.is_null() || **value == json!(false))
            .collect();
        assert_eq!(
            unset.len(),
            1,
            "only metadata_only, which goes with no verify: {unset:?}"
        );
    }

    #[test]
    fn rates_are_sizes_a_second() {
        for (text, bytes) in [
            ("200MiB/s", 200 << 20),
            ("1GB/s", 1_000_000_000),
            ("1.5 GiB/s", 1_610_612_736),
            ("64KiB", 64 << 10),
            ("4096", 4096),
            (" 7/s ", 7),
        ] {
            assert_eq!(rate(text), Ok(bytes), "{text}");
        }
        for text in ["0", "0MiB/s", "-1", "fast", "", "/s", "1MiB/m", "1MiB/s/s"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn wrong_usage_is_refused() {
        for line in [
            "preload",
            "verify",
            "preload /a --tier tape",
            "preload /a --priority urgent",
            "preload /a --replicas 0",
            "preload /a --replicas many",
            "preload /a --max-failures -1",
            "preload /a --bandwidth 0",
            "preload /a --every often",
            "preload /a --every 1h --wait",
            "preload /a --dry-run --wait",
            "preload /a --metadata-only --tier raw",
            "preload /a --metadata-only --verify",
            "preload /a --metadata-only --skip-if-cached",
            "preload /a --metadata-only --partial",
            "verify /a --tier raw",
            "verify /a --verify",
        ] {
            let words: Vec<&str> = line.split(' ').collect();
            assert_eq!(parse(&words).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn paths_come_from_a_file_too() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"/b\r\n\n/with blanks \n").unwrap();
        let name = file.path().to_str().unwrap();
        assert_eq!(
            body(&["preload", "/a", "--paths-from", name])["paths"],
            json!(["/a", "/b", "/with blanks "])
        );
        let missing = listed_paths(Path::new("/there/is/none.txt")).unwrap_err();
        assert!(missing.to_string().contains("none.txt"));
        assert_eq!(missing.report(), 1);
        let empty = tempfile::NamedTempFile::new().unwrap();
        let Line::Verify(arguments) = parse(&["verify", "--paths-from", empty.path().to_str().unwrap()]).unwrap()
        else {
            panic!("not a verify")
        };
        assert_eq!(arguments.what.submission().unwrap_err().report(), 2);
    }

    #[test]
    fn a_dry_run_tells_what_each_worker_would_hold() {
        let run = |tier: &str, fits: bool| -> DryRun {
            let answer = json!({ "dry_run": true, "path": "/a", "paths": ["/a"], "options": { "tier": tier, "verify": false },
                "files": 12, "row_groups": 1200, "bytes": 5_368_709_120u64, "decoded_bytes": 10_737_418_240u64, "fits": fits,
                "workers": [
                    { "id": "w1", "bytes": 4_294_967_296u64, "decoded_bytes": 8_589_934_592u64,
                        "raw_capacity_bytes": 8_589_934_592u64, "decoded_capacity_bytes": 1_073_741_824 },
                    { "id": "w2", "bytes": 1_073_741_824, "decoded_bytes": 2_147_483_648u64,
                        "raw_capacity_bytes": null, "decoded_capacity_bytes": null },
                ] });
            serde_json::from_value(answer).unwrap()
        };
        let words = |text: &str, start: &str| -> Vec<String> {
            let line = text.lines().find(|line| line.starts_with(start)).unwrap();
            line.split_whitespace().map(str::to_owned).collect()
        };
        let text = dry_run_text(&run("both", false));
        assert_eq!(words(&text, "files"), ["files", "12"], "{text}");
        assert_eq!(words(&text, "row groups")[2], "1,200");
        assert!(words(&text, "fits").join(" ").starts_with("fits no; "));
        assert_eq!(
            words(&text, "w1").join(" "),
            "w1 4.0 GiB 8.0 GiB 8.0 GiB 1.0 GiB",
            "{text}"
        );
        assert_eq!(words(&text, "w2").join(" "), "w2 1.0 GiB unknown 2.0 GiB unknown");
        let text = dry_run_text(&run("raw", true));
        assert_eq!(words(&text, "fits"), ["fits", "yes"]);
        assert_eq!(words(&text, "w1").join(" "), "w1 4.0 GiB 8.0 GiB - -");
        assert!(!text.contains("decoded  "), "{text}");
    }
}
