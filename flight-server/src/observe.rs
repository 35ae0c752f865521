//! What is seen from outside: log lines on stderr, metrics for Prometheus.
//!
//! Both are global to the process, since the `tracing` and `metrics` crates are; both may be asked for twice (the
//! Python wheel may start a second server in one process) and the first one stays.
//!
//! Why no path, dataset or user in labels: each value of a label is a time series for ever, and metrics are read by
//! people who may not read the data.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use parking_lot::Mutex;
use thiserror::Error;
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Buckets of every `…_duration_seconds` histogram: from a memory hit to a slow store.
const DURATION_BUCKETS_SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];
/// Buckets of every `…_bytes` histogram: from a footer to a large row group.
const SIZE_BUCKETS_BYTES: &[f64] = &[
    4096.0,
    65536.0,
    262144.0,
    1048576.0,
    4194304.0,
    16777216.0,
    67108864.0,
    268435456.0,
];

/// How often histograms are drained; without it they grow until somebody scrapes.
pub const METRICS_UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The recorder of this process. The lock is held while it is installed, so that two servers that start together share it.
static RECORDER: Mutex<Option<PrometheusHandle>> = Mutex::new(None);

/// Why the process cannot be observed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ObserveError {
    /// The log filter does not parse.
    #[error("log: {filter:?} is not a filter; write it like info,jetbridge_cache=debug")]
    Filter {
        /// The filter as given.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The metrics recorder cannot be installed.
    #[error("cannot install the metrics recorder")]
    Metrics(#[from] BuildError),
}

/// Sends log events that pass `filter` (tracing directives, such as `info,jetbridge_cache=debug`) to stderr.
///
/// # Errors
/// When the filter does not parse. A subscriber that is installed already stays, without an error.
pub fn init_logging(filter: &str, format: LogFormat) -> Result<(), ObserveError> {
    let filter = EnvFilter::try_new(filter).map_err(|source| ObserveError::Filter {
        filter: filter.to_owned(),
        source,
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // The only failure is that there is a subscriber already; whoever installed it wants the events where they go.
    let _already_installed = match format {
        LogFormat::Text => builder
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .try_init(),
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .try_init(),
    };
    Ok(())
}

/// The handle that renders `/metrics`; the first call installs the recorder and the metrics of the process itself.
///
/// # Errors
/// When somebody else installed another recorder in this process.
pub fn metrics_recorder() -> Result<PrometheusHandle, ObserveError> {
    let mut recorder = RECORDER.lock();
    if let Some(handle) = &*recorder {
        return Ok(handle.clone());
    }
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(
            Matcher::Suffix("_duration_seconds".to_owned()),
            DURATION_BUCKETS_SECONDS,
        )?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), SIZE_BUCKETS_BYTES)?
        .install_recorder()?;
    describe_process();
    Ok(recorder.insert(handle).clone())
}

fn describe_process() {
    metrics::describe_gauge!("jetbridge_build_info", "Always 1; the labels tell what is running.");
    metrics::gauge!("jetbridge_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    metrics::describe_gauge!(
        "jetbridge_start_time_seconds",
        "When the process started, in seconds since 1970."
    );
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    metrics::gauge!("jetbridge_start_time_seconds").set(since_epoch.as_secs_f64());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_does_not_parse_is_refused_with_its_text() {
        let error = init_logging("jetbridge=loudest", LogFormat::Text)
            .unwrap_err()
            .to_string();
        assert!(error.contains("\"jetbridge=loudest\""), "{error}");
    }

    #[test]
    fn the_recorder_may_be_asked_for_twice_and_tells_the_build() {
        metrics_recorder().unwrap();
        metrics::histogram!("jetbridge_test_duration_seconds").record(0.003);
        let text = metrics_recorder().unwrap().render();
        assert!(
            text.contains(concat!(
                "jetbridge_build_info{version=\"",
                env!("CARGO_PKG_VERSION"),
                "\"} 1"
            )),
            "{text}"
        );
        assert!(
            text.contains("jetbridge_test_duration_seconds_bucket{le=\"0.005\"} 1"),
            "{text}"
        );
    }
}
