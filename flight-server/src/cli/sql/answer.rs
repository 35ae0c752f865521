//! One query from its text to the last row written.
//!
//! The rows of a scan lie on several workers in no order, and are read from a few of them at once. Whatever has an order comes as
//! one endpoint, or is read one endpoint after the other.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_flight::FlightInfo;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::mpsc;

use crate::cli::client::Client;
use crate::cli::error::CliError;
use crate::cli::get::endpoints::{Reader, Received};
use crate::cli::get::progress::Progress;
use crate::cli::get::sink::Sink;
use crate::cli::get::writer::{Format, Writer};
use crate::cli::output::{human_bytes, human_count};

/// Endpoints that are read at once.
const ENDPOINTS_AT_ONCE: usize = 4;
/// Batches that wait to be written: as many as endpoints, so that none of them waits for another.
const WAITING_BATCHES: usize = ENDPOINTS_AT_ONCE;

/// Where answers go, and in which form.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) format: Format,
    /// The file; stdout where there is none.
    pub(super) out: Option<PathBuf>,
    /// Whether to say how long it took.
    pub(super) timing: bool,
}

/// What a query took.
#[derive(Debug, Default)]
struct Timing {
    planned: Duration,
    first_rows: Option<Duration>,
    done: Duration,
    rows: u64,
    bytes: u64,
}

/// Runs a query and writes its answer.
pub(super) async fn answer(client: &mut Client, query: &str, output: &Output) -> Result<(), CliError> {
    let started = Instant::now();
    let info = client.statement_info(query).await?;
    let mut timing = Timing {
        planned: started.elapsed(),
        ..Timing::default()
    };
    let schema = Arc::new(info.clone().try_decode_schema()?);
    let sink = Sink::open(output.out.as_deref())?;
    let state = sink.state();
    let mut progress = Progress::start(info.total_records, output.out.is_some());
    let (sender, mut received) = mpsc::channel::<Received>(WAITING_BATCHES);
    let writing = async {
        let mut writer = Writer::new(output.format, sink, &schema)?;
        while let Some(received) = received.recv().await {
            progress.advance(&received);
            timing.first_rows.get_or_insert_with(|| started.elapsed());
            timing.rows += u64::try_from(received.batch.num_rows()).unwrap_or(u64::MAX);
            timing.bytes += received.body_bytes;
            writer.write(&received.batch)?;
        }
        Ok(writer)
    };
    // Nothing is given its name before all was read: an answer that broke off is none.
    let both = tokio::try_join!(read(client, info, sender), writing);
    let outcome = both.and_then(|((), writer)| writer.finish()?.commit());
    progress.finish(outcome.is_ok() && !output.timing);
    // The writers turn I/O errors into text; the sink remembers what really happened.
    outcome.map_err(|error| state.explain(error))?;
    if output.timing {
        timing.done = started.elapsed();
        eprintln!("jetbridge: {}", timing.line());
    }
    Ok(())
}

/// Hands the batches of a flight on as they come.
async fn read(client: &Client, info: FlightInfo, sender: mpsc::Sender<Received>) -> Result<(), CliError> {
    let at_once = if info.ordered { 1 } else { ENDPOINTS_AT_ONCE };
    let reads = stream::iter(info.endpoint).map(|endpoint| {
        let (mut reader, sender) = (Reader::new(client.again()), sender.clone());
        async move {
            // That nobody takes the rows any more is told by whoever stopped to.
            let hand_on = async |received| sender.send(received).await.map_err(|_| CliError::OutputClosed);
            reader.read(endpoint, hand_on).await
        }
    });
    reads.buffer_unordered(at_once).try_collect().await
}

impl Timing {
    fn line(&self) -> String {
        let seconds = |time: Duration| format!("{:.3} s", time.as_secs_f64());
        let first = self.first_rows.map(|first| format!(", first rows {}", seconds(first)));
        format!(
            "{} rows, {} in {} (planned {}{})",
            human_count(self.rows),
            human_bytes(self.bytes),
            seconds(self.done),
            seconds(self.planned),
            first.unwrap_or_default()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_tells_rows_bytes_and_times() {
        let mut timing = Timing {
            planned: Duration::from_millis(12),
            done: Duration::from_millis(1_500),
            rows: 1_234,
            bytes: 2_048,
            first_rows: None,
        };
        assert_eq!(timing.line(), "1,234 rows, 2.0 KiB in 1.500 s (planned 0.012 s)");
        timing.first_rows = Some(Duration::from_secs(1));
        assert!(
            timing.line().ends_with("(planned 0.012 s, first rows 1.000 s)"),
            "{}",
            timing.line()
        );
    }
}
