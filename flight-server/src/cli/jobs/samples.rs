//! A job as servers send it, for the tests.

use serde_json::{Value, json};

use crate::jobs::record::Job;

/// A job object in this state.
pub(super) fn object(state: &str) -> Value {
    let mut object = json!({
        "id": "01981f00-51a0-7d60-b0a5-5d4ae02d9fb1", "kind": "preload", "state": state, "path": "/lake/a",
        "paths": ["/lake/a", "/lake/b"], "key": "k", "options": options(), "submitted_unix_ms": 1_700_000_000_000u64,
        "started_unix_ms": 1_700_000_001_000u64, "finished_unix_ms": null, "elapsed_s": 75.5, "scheduler": "node-0",
        "term": 1, "round": 2, "runs": 0, "last_run": null, "next_run_unix_ms": null, "error": null,
    });
    let progress = progress();
    let fields = progress.as_object().into_iter().flatten();
    fields.for_each(|(name, value)| object[name] = value.clone());
    object
}

/// The same, as it is understood.
pub(super) fn job(state: &str) -> Job {
    serde_json::from_value(object(state)).unwrap()
}

fn options() -> Value {
    json!({
        "columns": ["x", "y"], "where": "n > 1", "tier": "both", "replicas": 2, "bandwidth": 209_715_200, "verify": true,
        "metadata_only": false, "skip_if_cached": false, "partial_listing": false, "partial": false, "priority": "normal",
        "max_failures": null, "every": null,
    })
}

fn progress() -> Value {
    json!({
        "waiting": null, "listing": false, "files": 12, "files_done": 4, "files_skipped": 1, "row_groups": 1200,
        "row_groups_done": 400, "bytes": 4_294_967_296u64, "bytes_done": 1_073_741_824, "decoded_bytes": 8_589_934_592u64,
        "decoded_bytes_done": 2_147_483_648u64, "fetched_bytes": 1_073_741_824, "peer_bytes": 0,
        "rate_bytes_per_s": 104_857_600.5, "eta_s": 61.4, "retries": 3, "failures_total": 2, "verified": null,
        "failures": [
            { "path": "/lake/a/1.parquet", "row_group": null, "kind": "not_found", "error": "gone", "tries": 1 },
            { "path": "/lake/a/2.parquet", "row_group": 7, "kind": "storage", "error": "503\u{1b}[31m", "tries": 5 },
        ],
        "workers": [
            { "id": "w1", "state": "serving", "row_groups": 800, "row_groups_done": 300, "bytes": 3_221_225_472u64,
                "bytes_done": 805_306_368, "tasks_running": 4, "tasks_done": 20 },
            { "id": "w2", "state": "lost", "row_groups": 400, "row_groups_done": 100, "bytes": 1_073_741_824,
                "bytes_done": 268_435_456, "tasks_running": 0, "tasks_done": 9 },
        ],
    })
}
