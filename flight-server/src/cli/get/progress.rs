//! How far a read is: a bar on a terminal once it takes long, and one line at the end.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::endpoints::Received;
use crate::cli::output::{human_bytes, human_count};

/// Reads shorter than this leave no trace.
const SILENT: Duration = Duration::from_secs(1);
/// Redraws a second; more would only cost.
const REDRAWS_PER_SECOND: u8 = 10;

/// Counts rows and bytes, and shows them when there is reason to.
#[derive(Debug)]
pub(in crate::cli) struct Progress {
    started: Instant,
    total_rows: Option<u64>,
    rows: u64,
    bytes: u64,
    may_draw: bool,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Starts the clock. `total_rows` is negative when it is unknown; `to_file` tells whether stdout stays free.
    pub(in crate::cli) fn start(total_rows: i64, to_file: bool) -> Self {
        // A bar between the lines of a table would garble both.
        let may_draw = std::io::stderr().is_terminal() && (to_file || !std::io::stdout().is_terminal());
        Self {
            started: Instant::now(),
            total_rows: u64::try_from(total_rows).ok(),
            rows: 0,
            bytes: 0,
            may_draw,
            bar: None,
        }
    }

    /// Counts a batch.
    pub(in crate::cli) fn advance(&mut self, received: &Received) {
        self.rows += u64::try_from(received.batch.num_rows()).unwrap_or(u64::MAX);
        self.bytes += received.body_bytes;
        if self.may_draw && self.bar.is_none() && self.started.elapsed() > SILENT {
            self.bar = Some(bar(self.total_rows));
        }
        if let Some(bar) = &self.bar {
            bar.set_position(self.rows);
            bar.set_message(human_bytes(self.bytes));
        }
    }

    /// Removes the bar; after a long read that went well, one line tells what was read.
    pub(in crate::cli) fn finish(self, succeeded: bool) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if let Some(line) = self.summary().filter(|_| succeeded) {
            eprintln!("{line}");
        }
    }

    fn summary(&self) -> Option<String> {
        let elapsed = self.started.elapsed();
        let (rows, bytes) = (human_count(self.rows), human_bytes(self.bytes));
        (elapsed > SILENT).then(|| format!("jetbridge: {rows} rows, {bytes} in {:.1} s", elapsed.as_secs_f64()))
    }
}

fn bar(total_rows: Option<u64>) -> ProgressBar {
    let target = ProgressDrawTarget::stderr_with_hz(REDRAWS_PER_SECOND);
    let template = match total_rows {
        Some(_) => "{wide_bar} {human_pos}/{human_len} rows, {msg}, {eta} left",
        None => "{spinner} {human_pos} rows, {msg} in {elapsed}",
    };
    let bar = ProgressBar::with_draw_target(total_rows, target);
    // The templates above are known to parse; the library's own look would do as well.
    bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_read_says_nothing_and_a_long_one_one_line() {
        let mut progress = Progress::start(-1, true);
        assert_eq!(progress.summary(), None);
        progress.started = Instant::now().checked_sub(Duration::from_secs(4)).unwrap();
        progress.rows = 6_001_215;
        assert!(progress.summary().unwrap().starts_with("jetbridge: 6,001,215 rows, "));
    }

    #[test]
    fn both_templates_parse() {
        for total in [None, Some(3)] {
            bar(total).finish_and_clear();
        }
        for template in [
            "{wide_bar} {human_pos}/{human_len} rows, {msg}, {eta} left",
            "{spinner} {human_pos} rows, {msg} in {elapsed}",
        ] {
            assert!(ProgressStyle::with_template(template).is_ok());
        }
    }
}
