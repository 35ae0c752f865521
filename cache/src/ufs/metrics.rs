//! Counters of what is asked of storage. No label holds a path: their number must not grow with the data, and a path is
//! nobody else's business. A mount is named by an id that is made of its path.

use std::sync::Arc;
use std::time::Instant;

use metrics::SharedString;
use xxhash_rust::xxh3::xxh3_64;

use super::Shared;
use super::error::{Operation, UfsErrorKind};

/// Counts one finished request, `bytes` of which were read.
pub(super) fn request(shared: &Shared, operation: Operation, started: Instant, outcome: Result<u64, UfsErrorKind>) {
    let (scheme, op) = (shared.scheme, operation.as_str());
    let mount = || SharedString::from(Arc::clone(&shared.mount_id));
    let result = outcome.map_or_else(UfsErrorKind::as_str, |_| "ok");
    metrics::counter!("jetbridge_store_requests_total", "mount" => mount(), "scheme" => scheme, "op" => op, "result" => result)
        .increment(1);
    metrics::histogram!("jetbridge_store_request_duration_seconds", "mount" => mount(), "scheme" => scheme, "op" => op)
        .record(started.elapsed().as_secs_f64());
    if let Ok(bytes @ 1..) = outcome {
        metrics::counter!("jetbridge_store_read_bytes_total", "mount" => mount(), "scheme" => scheme).increment(bytes);
    }
}

/// What metrics call a mount, by its namespace path: eight hexadecimal digits.
#[must_use]
pub fn mount_id(path: &str) -> String {
    format!("{:08x}", xxh3_64(path.as_bytes()) >> 32)
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
