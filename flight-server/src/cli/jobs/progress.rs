//! How far a watched job is: as lines, or as bars on a terminal.
//!
//! Lines go to stdout: they are the answer. Bars go to stderr and only where both are terminals; when the job is over they
//! make room for the same last line.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};

use super::text::{self, measure};
use crate::cli::error::CliError;
use crate::cli::output::{human_bytes, print, printable};
use crate::jobs::record::{Job, State, WorkerShare};

/// Lines of one state are at least this far apart.
const LINE_INTERVAL: Duration = Duration::from_millis(900);
/// Redraws a second; more would only cost.
const REDRAWS_PER_SECOND: u8 = 10;
/// Workers that have a bar of their own; those of a large cluster would not fit on the screen.
const MAX_WORKER_BARS: usize = 16;
/// Characters of a worker's id that are shown beside its bar: enough to find it in `jetbridge workers`.
const WORKER_CHARS: usize = 8;
/// The overall bar, and a worker's.
const OVERALL: &str = "{prefix:9} {wide_bar} {msg}";
const WORKER: &str = "{prefix:9} {bar:30} {msg}";

/// Shows one job.
#[derive(Debug)]
pub(super) enum Progress {
    /// As lines.
    Lines(Lines),
    /// As bars.
    Bars(Box<Bars>),
}

impl Progress {
    /// Bars where somebody looks at them, else lines.
    pub(super) fn new() -> Self {
        if std::io::stderr().is_terminal() && std::io::stdout().is_terminal() {
            Self::Bars(Box::new(Bars::new(ProgressDrawTarget::stderr_with_hz(
                REDRAWS_PER_SECOND,
            ))))
        } else {
            Self::Lines(Lines::default())
        }
    }

    /// Shows how far the job is now.
    pub(super) fn show(&mut self, job: &Job) -> Result<(), CliError> {
        match self {
            Self::Lines(lines) => lines.next(job, Instant::now()).map_or(Ok(()), |line| print(&line)),
            Self::Bars(bars) if job.state.is_final() => {
                bars.clear();
                print(&printable(&text::line(job)))
            }
            Self::Bars(bars) => {
                bars.show(job);
                Ok(())
            }
        }
    }

    /// Says something beside the progress.
    pub(super) fn note(&self, words: &str) {
        match self {
            Self::Lines(_) => eprintln!("{words}"),
            Self::Bars(bars) => {
                // A terminal that has gone changes nothing about the job.
                let _ = bars.all.println(words);
            }
        }
    }
}

/// Which lines are worth printing.
#[derive(Debug, Default)]
pub(super) struct Lines {
    last: Option<(State, String, Instant)>,
}

impl Lines {
    /// The job's line, where the state is another than before, or something else has changed and it is time for it.
    fn next(&mut self, job: &Job, now: Instant) -> Option<String> {
        let line = printable(&text::line(job)).into_owned();
        if let Some((state, last, at)) = &self.last
            && *state == job.state
            && (*last == line || now.duration_since(*at) < LINE_INTERVAL)
        {
            return None;
        }
        self.last = Some((job.state, line.clone(), now));
        Some(line)
    }
}

/// A bar for the job and one for each worker.
#[derive(Debug)]
pub(super) struct Bars {
    all: MultiProgress,
    overall: ProgressBar,
    workers: BTreeMap<String, ProgressBar>,
    /// How many workers have no bar; there where there are some.
    more: Option<ProgressBar>,
}

impl Bars {
    fn new(target: ProgressDrawTarget) -> Self {
        let all = MultiProgress::with_draw_target(target);
        let overall = all.add(bar(OVERALL));
        Self {
            all,
            overall,
            workers: BTreeMap::new(),
            more: None,
        }
    }

    fn show(&mut self, job: &Job) {
        let (done, of) = measure(&job.progress);
        self.overall.set_prefix(job.state.as_str());
        self.overall.set_message(printable(&text::message(job)).into_owned());
        set(&self.overall, done, of);
        let shown = &job.progress.workers[..job.progress.workers.len().min(MAX_WORKER_BARS)];
        self.workers.retain(|id, bar| {
            let is_there = shown.iter().any(|worker| worker.id == *id);
            if !is_there {
                bar.finish_and_clear();
            }
            is_there
        });
        for worker in shown {
            let all = &self.all;
            let bar = self
                .workers
                .entry(worker.id.clone())
                .or_insert_with(|| all.add(bar(WORKER)));
            bar.set_prefix(printable(short(&worker.id)).into_owned());
            bar.set_message(worker_message(worker));
            let (done, of) = worker_measure(worker);
            set(bar, done, of);
        }
        self.show_more(job.progress.workers.len() - shown.len());
    }

    fn show_more(&mut self, more: usize) {
        if more == 0 {
            if let Some(bar) = self.more.take() {
                bar.finish_and_clear();
            }
            return;
        }
        let all = &self.all;
        let bar = self.more.get_or_insert_with(|| all.add(bar("{msg}")));
        bar.set_message(format!("and {more} workers more"));
    }

    /// Wipes all bars off. Each is finished, or it would be drawn once more when it is dropped.
    fn clear(&self) {
        let bars = self.workers.values().chain(&self.more).chain([&self.overall]);
        bars.for_each(ProgressBar::finish_and_clear);
    }
}

/// A bar that stays on the screen as it was, should the user stop the command.
fn bar(template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::no_length()
        .with_style(style)
        .with_finish(ProgressFinish::Abandon)
}

/// A bar of nothing is empty, not full.
fn set(bar: &ProgressBar, done: u64, of: u64) {
    bar.set_length(of.max(1));
    bar.set_position(done);
}

fn worker_measure(worker: &WorkerShare) -> (u64, u64) {
    match worker.bytes {
        0 => (worker.row_groups_done, worker.row_groups),
        bytes => (worker.bytes_done, bytes),
    }
}

fn worker_message(worker: &WorkerShare) -> String {
    let done = match worker.bytes {
        0 => format!("{} of {} row groups", worker.row_groups_done, worker.row_groups),
        bytes => format!("{} of {}", human_bytes(worker.bytes_done), human_bytes(bytes)),
    };
    let state = match worker.state.as_str() {
        "serving" => String::new(),
        state => format!(", {}", printable(state)),
    };
    format!("{done}, {} tasks{state}", worker.tasks_running)
}

fn short(id: &str) -> &str {
    id.char_indices().nth(WORKER_CHARS).map_or(id, |(end, _)| &id[..end])
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use indicatif::TermLike;
    use parking_lot::Mutex;

    use super::*;
    use crate::cli::jobs::samples;

    const WIDTH: u16 = 160;

    /// As much of a terminal as bars make use of: lines that wrap when they are full, and a cursor.
    #[derive(Debug, Clone, Default)]
    struct Screen(Arc<Mutex<Cells>>);

    #[derive(Debug, Default)]
    struct Cells {
        lines: Vec<String>,
        row: usize,
    }

    impl Screen {
        fn contents(&self) -> String {
            let cells = self.0.lock();
            let lines: Vec<_> = cells.lines.iter().map(|line| line.trim_end()).collect();
            lines.join("\n").trim_end().to_owned()
        }
    }

    impl Cells {
        fn line(&mut self) -> &mut String {
            let rows = self.lines.len().max(self.row + 1);
            self.lines.resize(rows, String::new());
            &mut self.lines[self.row]
        }

        fn put(&mut self, c: char) {
            if self.line().chars().count() == usize::from(WIDTH) {
                self.row += 1;
                self.line().clear();
            }
            self.line().push(c);
        }
    }

    impl TermLike for Screen {
        fn width(&self) -> u16 {
            WIDTH
        }

        fn height(&self) -> u16 {
            60
        }

        fn move_cursor_up(&self, rows: usize) -> io::Result<()> {
            let mut cells = self.0.lock();
            cells.row = cells.row.saturating_sub(rows);
            Ok(())
        }

        fn move_cursor_down(&self, rows: usize) -> io::Result<()> {
            self.0.lock().row += rows;
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)?;
            let mut cells = self.0.lock();
            cells.row += 1;
            cells.line().clear();
            Ok(())
        }

        fn write_str(&self, text: &str) -> io::Result<()> {
            let mut cells = self.0.lock();
            text.chars().for_each(|c| cells.put(c));
            Ok(())
        }

        fn clear_line(&self) -> io::Result<()> {
            self.0.lock().line().clear();
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_printed_at_each_state_and_else_at_most_about_one_a_second() {
        let mut lines = Lines::default();
        let began = Instant::now();
        let after = |ms| began + Duration::from_millis(ms);
        let mut job = samples::job("PENDING");
        assert!(lines.next(&job, began).is_some());
        job.state = State::Running;
        assert!(lines.next(&job, after(10)).unwrap().starts_with("RUNNING "));
        assert_eq!(lines.next(&job, after(5_000)), None, "nothing changed");
        job.progress.bytes_done *= 2;
        assert!(lines.next(&job, after(5_001)).is_some());
        job.progress.bytes_done *= 2;
        assert_eq!(lines.next(&job, after(5_100)), None, "too soon");
        assert!(lines.next(&job, after(6_001)).unwrap().contains("100.0 %"));
        job.state = State::Succeeded;
        assert!(lines.next(&job, after(6_002)).unwrap().starts_with("SUCCEEDED "));
    }

    #[test]
    fn a_job_and_its_workers_have_bars_and_leave_none_behind() {
        let screen = Screen::default();
        let mut bars = Bars::new(ProgressDrawTarget::term_like(Box::new(screen.clone())));
        let mut job = samples::job("RUNNING");
        job.progress.workers[0].id = "0123456789".to_owned();
        bars.show(&job);
        bars.all.println("beside").unwrap();
        let text = screen.contents();
        let line = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap_or_default();
        assert!(line("RUNNING").contains("25.0 % (1.0 GiB of 4.0 GiB)"), "{text}");
        assert!(line("01234567 ").contains("768.0 MiB of 3.0 GiB, 4 tasks"), "{text}");
        assert!(line("w2 ").ends_with("0 tasks, lost"), "{text}");
        job.progress.workers.remove(1);
        bars.show(&job);
        bars.overall.tick();
        assert!(!screen.contents().contains("w2 "), "{}", screen.contents());
        bars.clear();
        drop(bars);
        assert_eq!(screen.contents().trim(), "beside");
    }

    #[test]
    fn a_large_cluster_does_not_fill_the_screen() {
        let screen = Screen::default();
        let mut bars = Bars::new(ProgressDrawTarget::term_like(Box::new(screen.clone())));
        let mut job = samples::job("RUNNING");
        let worker = job.progress.workers.remove(0);
        job.progress.workers = (0..100)
            .map(|number| WorkerShare {
                id: format!("worker-{number}"),
                ..worker.clone()
            })
            .collect();
        bars.show(&job);
        bars.overall.tick();
        let text = screen.contents();
        assert_eq!(text.lines().count(), 1 + MAX_WORKER_BARS + 1, "{text}");
        assert!(text.contains("and 84 workers more"), "{text}");
    }
}
