//! A job in words: how far it is in one line, all of it, and many in a table.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use jetbridge_cache::gauge;
use serde::Serialize;
use serde_json::Value;

use crate::cli::output::{Columns, human_bytes, human_count};
use crate::jobs::record::{Failure, Job, Progress, State, VerifiedCount, WorkerShare};

/// Longest error shown in a line of a table, in characters.
const MAX_ERROR_CHARS: usize = 120;
/// What stands where there is nothing to say.
const NONE: &str = "-";

/// How far a job is, in one line that begins with its state.
pub(super) fn line(job: &Job) -> String {
    let mut words = match job.state {
        State::Pending => pending(job),
        State::Running => running(&job.progress),
        State::Succeeded | State::Partial | State::Failed | State::Cancelled => ended(job),
    };
    words.extend(job.progress.verified.as_ref().map(verified));
    if job.progress.failures_total > 0 {
        words.push(format!("{} failed", human_count(job.progress.failures_total)));
    }
    words.extend(job.error.clone());
    format!("{:<9} {}", job.state.as_str(), words.join(", "))
        .trim_end()
        .to_owned()
}

/// The line without the state, for a bar.
pub(super) fn message(job: &Job) -> String {
    let line = line(job);
    let message = line.strip_prefix(job.state.as_str()).unwrap_or(&line);
    message.trim_start().to_owned()
}

/// What a job counts, done and in all: bytes, or row groups where it loads none.
pub(super) fn measure(progress: &Progress) -> (u64, u64) {
    match progress.bytes {
        0 => (progress.row_groups_done, progress.row_groups),
        bytes => (progress.bytes_done, bytes),
    }
}

fn pending(job: &Job) -> Vec<String> {
    let mut words = Vec::new();
    if job.runs > 0 {
        let last = job.last_run.map_or(NONE, State::as_str);
        words.push(format!("{} runs are over, the last {last}", human_count(job.runs)));
    }
    words.extend(job.next_run_unix_ms.map(|next| format!("runs next at {}", time(next))));
    words.extend(waiting(&job.progress));
    words
}

fn running(progress: &Progress) -> Vec<String> {
    let mut words = match measure(progress) {
        (_, 0) => vec!["not planned yet".to_owned()],
        _ => vec![share(progress)],
    };
    if progress.listing {
        words.push("still listing".to_owned());
    }
    words.push(files(progress));
    if progress.rate_bytes_per_s >= 1.0 {
        words.push(rate(progress.rate_bytes_per_s));
    }
    words.extend(progress.eta_s.map(|eta| format!("{} left", duration(eta))));
    words.extend(waiting(progress));
    words
}

fn ended(job: &Job) -> Vec<String> {
    let mut words = vec![share(&job.progress), files(&job.progress)];
    if job.started_unix_ms.is_some() {
        words.push(format!("in {}", duration(job.elapsed_s)));
    }
    if job.progress.rate_bytes_per_s >= 1.0 {
        words.push(rate(job.progress.rate_bytes_per_s));
    }
    words
}

fn waiting(progress: &Progress) -> Option<String> {
    let waiting = progress.waiting.as_ref()?;
    Some(format!("waits: {waiting}"))
}

/// The part that is done: `45.0 % (1.2 GiB of 2.4 GiB)`.
fn share(progress: &Progress) -> String {
    let (done, of) = measure(progress);
    match (progress.bytes, of) {
        (_, 0) => "nothing to do".to_owned(),
        (0, _) => format!(
            "{} ({} of {} row groups)",
            percent(done, of),
            human_count(done),
            human_count(of)
        ),
        _ => format!("{} ({} of {})", percent(done, of), human_bytes(done), human_bytes(of)),
    }
}

/// All only where it is all.
fn percent(done: u64, of: u64) -> String {
    let percent = gauge(done) / gauge(of.max(1)) * 100.0;
    let percent = if done < of { percent.min(99.9) } else { percent };
    format!("{percent:.1} %")
}

fn files(progress: &Progress) -> String {
    let skipped = match progress.files_skipped {
        0 => String::new(),
        skipped => format!(" ({} held already)", human_count(skipped)),
    };
    let (done, of) = (human_count(progress.files_done), human_count(progress.files));
    format!("{done} of {of} files{skipped}")
}

fn verified(verified: &VerifiedCount) -> String {
    format!(
        "compared {} in {} row groups: {} damaged, {} changed",
        human_bytes(verified.bytes),
        human_count(verified.row_groups),
        human_count(verified.damaged),
        human_count(verified.changed)
    )
}

fn rate(bytes_per_s: f64) -> String {
    format!("{}/s", human_bytes(whole_part(bytes_per_s)))
}

/// Seconds as people say them, whole above ten.
fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    if seconds < 10.0 {
        return format!("{seconds:.1}s");
    }
    humantime::format_duration(Duration::from_secs(whole_part(seconds))).to_string()
}

/// The whole part of a number that is not negative.
fn whole_part(number: f64) -> u64 {
    Duration::try_from_secs_f64(number).map_or(0, |duration| duration.as_secs())
}

/// A time in UTC, to the second.
fn time(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms)
        .ok()
        .and_then(DateTime::<Utc>::from_timestamp_millis);
    time.map_or_else(
        || NONE.to_owned(),
        |time| time.to_rfc3339_opts(SecondsFormat::Secs, true),
    )
}

/// Jobs, a line each.
pub(super) fn list(jobs: &[Job]) -> String {
    let header = [
        "ID",
        "KIND",
        "STATE",
        "DONE",
        "OF",
        "FILES",
        "FAILED",
        "SUBMITTED",
        "PATH",
    ];
    let mut columns = Columns::new(&header, &[3, 4, 5, 6]);
    for job in jobs {
        let (done, of) = measure(&job.progress);
        let of_text = match job.progress.bytes {
            0 => format!("{} row groups", human_count(of)),
            bytes => human_bytes(bytes),
        };
        let more = match job.paths.len() {
            0 | 1 => String::new(),
            paths => format!(" and {} more", paths - 1),
        };
        columns.row(&[
            &job.id,
            &word(&job.kind),
            job.state.as_str(),
            &if of == 0 { NONE.to_owned() } else { percent(done, of) },
            &of_text,
            &human_count(job.progress.files),
            &human_count(job.progress.failures_total),
            &time(job.submitted_unix_ms),
            &format!("{}{more}", job.path),
        ]);
    }
    columns.text()
}

/// All of a job; `options` as the server tells them.
pub(super) fn whole(job: &Job, options: &Value) -> String {
    let mut columns = Columns::pairs();
    for (name, value) in facts(job, options).into_iter().chain(figures(&job.progress)) {
        columns.row(&[name, &value]);
    }
    let mut text = columns.text();
    if !job.progress.workers.is_empty() {
        text = format!("{text}\n{}", workers(&job.progress.workers));
    }
    match failures(job, usize::MAX) {
        Some(failures) => format!("{text}\n{failures}"),
        None => text,
    }
}

/// What a job is, and how it stands.
fn facts(job: &Job, options: &Value) -> Vec<(&'static str, String)> {
    let mut facts = vec![
        ("id", job.id.clone()),
        ("kind", word(&job.kind)),
        ("state", job.state.as_str().to_owned()),
    ];
    facts.extend(job.paths.iter().map(|path| ("path", path.clone())));
    facts.extend(option_rows(options));
    facts.push(("submitted", time(job.submitted_unix_ms)));
    facts.extend(job.started_unix_ms.map(|started| ("started", time(started))));
    facts.extend(job.finished_unix_ms.map(|finished| ("finished", time(finished))));
    if job.started_unix_ms.is_some() {
        facts.push(("elapsed", duration(job.elapsed_s)));
    }
    facts.extend(job.progress.waiting.clone().map(|waiting| ("waits", waiting)));
    facts.extend(job.error.clone().map(|error| ("error", error)));
    facts.extend(job.scheduler.clone().map(|scheduler| ("scheduler", scheduler)));
    facts.push(("plans", human_count(job.round.into())));
    if job.runs > 0 || job.next_run_unix_ms.is_some() {
        let last = job.last_run.map_or(NONE, State::as_str);
        facts.push(("runs", format!("{}, the last {last}", human_count(job.runs))));
    }
    facts.extend(job.next_run_unix_ms.map(|next| ("next run", time(next))));
    facts.push(("key", job.key.clone()));
    facts
}

/// The options that say something.
fn option_rows(options: &Value) -> Vec<(&'static str, String)> {
    let options = options.as_object().into_iter().flatten();
    let said = options.filter(|(_, value)| !value.is_null() && **value != Value::Bool(false));
    let shown = |name: &str, value: &Value| match (name, value) {
        ("bandwidth", value) => value.as_f64().map(rate).unwrap_or_else(|| value.to_string()),
        ("every", value) => value.as_f64().map(duration).unwrap_or_else(|| value.to_string()),
        (_, Value::String(text)) => text.clone(),
        (_, Value::Array(values)) => {
            let texts = values.iter().map(|value| value.as_str().unwrap_or_default());
            texts.collect::<Vec<_>>().join(",")
        }
        (_, Value::Bool(true)) => "yes".to_owned(),
        (_, value) => value.to_string(),
    };
    said.map(|(name, value)| ("option", format!("{name}: {}", shown(name, value))))
        .collect()
}

/// How far a job is, figure by figure.
fn figures(progress: &Progress) -> Vec<(&'static str, String)> {
    let of = |done: u64, all: u64| format!("{} of {}", human_count(done), human_count(all));
    let bytes_of = |done: u64, all: u64| format!("{} of {}", human_bytes(done), human_bytes(all));
    let mut figures = vec![("files", files(progress))];
    if progress.listing {
        figures.push(("listing", "not done: there may be more of everything".to_owned()));
    }
    figures.push(("row groups", of(progress.row_groups_done, progress.row_groups)));
    figures.push(("stored", bytes_of(progress.bytes_done, progress.bytes)));
    if progress.decoded_bytes > 0 {
        let decoded = bytes_of(progress.decoded_bytes_done, progress.decoded_bytes);
        figures.push(("decoded", decoded));
    }
    figures.push(("from storage", human_bytes(progress.fetched_bytes)));
    figures.push(("from peers", human_bytes(progress.peer_bytes)));
    figures.push(("rate", rate(progress.rate_bytes_per_s)));
    figures.extend(progress.eta_s.map(|eta| ("left", duration(eta))));
    figures.push(("tried again", human_count(progress.retries)));
    figures.extend(progress.verified.as_ref().map(|count| ("verified", verified(count))));
    figures.push(("failures", human_count(progress.failures_total)));
    figures
}

fn workers(workers: &[WorkerShare]) -> String {
    let header = [
        "WORKER",
        "STATE",
        "ROW GROUPS",
        "OF",
        "STORED",
        "OF",
        "TASKS",
        "RUNNING",
    ];
    let mut columns = Columns::new(&header, &[2, 3, 4, 5, 6, 7]);
    for worker in workers {
        columns.row(&[
            &worker.id,
            &worker.state,
            &human_count(worker.row_groups_done),
            &human_count(worker.row_groups),
            &human_bytes(worker.bytes_done),
            &human_bytes(worker.bytes),
            &human_count(worker.tasks_done),
            &human_count(worker.tasks_running),
        ]);
    }
    columns.text()
}

/// The first failures of a job as a table, and how many more there are; none where there are none.
pub(super) fn failures(job: &Job, most: usize) -> Option<String> {
    let (listed, total) = (&job.progress.failures, job.progress.failures_total);
    if listed.is_empty() {
        return None;
    }
    let mut columns = Columns::new(&["FAILURE", "PATH", "ROW GROUP", "TRIES", "ERROR"], &[2, 3]);
    for failure in listed.iter().take(most) {
        failure_row(&mut columns, failure);
    }
    let shown = u64::try_from(listed.len().min(most)).unwrap_or(u64::MAX);
    let more = match total.saturating_sub(shown) {
        0 => String::new(),
        more => format!("and {} more\n", human_count(more)),
    };
    Some(columns.text() + &more)
}

fn failure_row(columns: &mut Columns, failure: &Failure) {
    let row_group = failure
        .row_group
        .map_or_else(|| NONE.to_owned(), |group| group.to_string());
    let tries = failure.tries.to_string();
    columns.row(&[
        &word(&failure.kind),
        &failure.path,
        &row_group,
        &tries,
        &shortened(&failure.error),
    ]);
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_ERROR_CHARS) {
        Some((end, _)) => format!("{} …", &text[..end]),
        None => text.to_owned(),
    }
}

/// A name as JSON has it.
fn word(name: &impl Serialize) -> String {
    let value = serde_json::to_value(name).unwrap_or_default();
    value.as_str().unwrap_or(NONE).to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn a_running_job_tells_share_files_rate_and_rest() {
        let mut job = samples::job("RUNNING");
        assert_eq!(
            line(&job),
            "RUNNING   25.0 % (1.0 GiB of 4.0 GiB), 4 of 12 files (1 held already), 100.0 MiB/s, 1m 1s left, 2 failed"
        );
        assert_eq!(format!("RUNNING   {}", message(&job)), line(&job));
        job.progress.listing = true;
        job.progress.waiting = Some("3 tasks for the worker w2, which is lost".to_owned());
        let text = line(&job);
        assert!(text.contains(", still listing, 4 of 12 files"), "{text}");
        assert!(text.contains(", waits: 3 tasks for the worker w2"), "{text}");
    }

    #[test]
    fn an_ended_job_tells_its_time_and_why() {
        let mut job = samples::job("SUCCEEDED");
        job.progress.bytes_done = job.progress.bytes;
        job.progress.failures_total = 0;
        assert_eq!(
            line(&job),
            "SUCCEEDED 100.0 % (4.0 GiB of 4.0 GiB), 4 of 12 files (1 held already), in 1m 15s, 100.0 MiB/s"
        );
        job.state = State::Failed;
        job.error = Some("the plan failed".to_owned());
        job.progress.verified = Some(VerifiedCount {
            row_groups: 3,
            bytes: 2048,
            damaged: 1,
            changed: 0,
        });
        let text = line(&job);
        assert!(
            text.ends_with(", compared 2.0 KiB in 3 row groups: 1 damaged, 0 changed, the plan failed"),
            "{text}"
        );
    }

    #[test]
    fn what_is_not_all_is_not_called_all() {
        assert_eq!(percent(9_999_999, 10_000_000), "99.9 %");
        assert_eq!(percent(10_000_000, 10_000_000), "100.0 %");
        let mut job = samples::job("RUNNING");
        job.progress.bytes = 0;
        assert!(
            line(&job).contains("33.3 % (400 of 1,200 row groups)"),
            "{}",
            line(&job)
        );
        job.progress.row_groups = 0;
        assert!(line(&job).contains("not planned yet"), "{}", line(&job));
        job.state = State::Succeeded;
        assert!(line(&job).contains("nothing to do"), "{}", line(&job));
    }

    #[test]
    fn a_job_that_waits_for_its_next_run_says_when() {
        let mut job = samples::job("PENDING");
        job.progress.failures_total = 0;
        assert_eq!(line(&job), "PENDING");
        job.runs = 2;
        job.last_run = Some(State::Succeeded);
        job.next_run_unix_ms = Some(1_700_003_600_000);
        assert_eq!(
            line(&job),
            "PENDING   2 runs are over, the last SUCCEEDED, runs next at 2023-11-14T23:13:20Z"
        );
    }

    #[test]
    fn jobs_have_a_line_each() {
        let text = list(&[samples::job("RUNNING")]);
        let words: Vec<_> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(words[1..5], ["preload", "RUNNING", "25.0", "%"], "{text}");
        assert!(
            text.contains("2023-11-14T22:13:20Z") && text.ends_with("/lake/a and 1 more\n"),
            "{text}"
        );
    }

    #[test]
    fn all_of_a_job_is_shown() {
        let object = samples::object("PARTIAL");
        let text = whole(&samples::job("PARTIAL"), &object["options"]);
        for words in [
            "path          /lake/b",
            "option        columns: x,y",
            "option        where: n > 1",
            "option        bandwidth: 200.0 MiB/s",
            "option        verify: yes",
            "elapsed       1m 15s",
            "plans         2",
            "row groups    400 of 1,200",
            "decoded       2.0 GiB of 8.0 GiB",
            "from storage  1.0 GiB",
            "tried again   3",
            "left          1m 1s",
        ] {
            assert!(text.contains(words), "{words} is not in\n{text}");
        }
        assert!(!text.contains("metadata_only") && !text.contains("every"), "{text}");
        let rows: Vec<Vec<_>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert!(rows.contains(&vec![
            "w2", "lost", "100", "400", "256.0", "MiB", "1.0", "GiB", "9", "0"
        ]));
        assert!(rows.contains(&vec!["not_found", "/lake/a/1.parquet", "-", "1", "gone"]));
        assert!(text.contains("503\\u{1b}[31m") && !text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn failures_are_cut_with_their_count() {
        let mut job = samples::job("PARTIAL");
        job.progress.failures_total = 1500;
        let text = failures(&job, 1).unwrap();
        assert_eq!(text.lines().count(), 3);
        assert!(text.ends_with("and 1,499 more\n"), "{text}");
        job.progress.failures.clear();
        assert_eq!(failures(&job, 9), None);
        assert_eq!(shortened(&"é".repeat(200)).chars().count(), MAX_ERROR_CHARS + 2);
    }
}
