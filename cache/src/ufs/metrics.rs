//! Counters of what is asked of storage. No label holds a path or a mount: their number must not grow with the data.

use std::time::Instant;

use super::error::{Operation, UfsErrorKind};

/// Counts one finished request, `bytes` of which were read.
pub(super) fn request(
    scheme: &'static str,
    operation: Operation,
    started: Instant,
    outcome: Result<u64, UfsErrorKind>,
) {
    let op = operation.as_str();
    let result = outcome.map_or_else(UfsErrorKind::as_str, |_| "ok");
    metrics::counter!("jetbridge_store_requests_total", "scheme" => scheme, "op" => op, "result" => result)
        .increment(1);
    metrics::histogram!("jetbridge_store_request_duration_seconds", "scheme" => scheme, "op" => op)
        .record(started.elapsed().as_secs_f64());
    if let Ok(bytes @ 1..) = outcome {
        metrics::counter!("jetbridge_store_read_bytes_total", "scheme" => scheme).increment(bytes);
    }
}

/// The scheme as a label.
pub(super) fn label(scheme: &str) -> &'static str {
    match scheme {
        "file" => "file",
        "s3" => "s3",
        "gs" => "gs",
        "az" => "az",
        "http" => "http",
        "https" => "https",
        "memory" => "memory",
        _ => "other",
    }
}
