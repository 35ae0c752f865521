//! `server.status`

use serde::Serialize;

use super::Nothing;
use crate::node::Node;

/// Answer of `server.status`.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    version: &'static str,
    uptime_s: u64,
    mounts: usize,
    memory_budget_bytes: u64,
    raw_bytes: u64,
    decoded_bytes: u64,
    footer_bytes: u64,
}

pub(super) fn status(node: &Node, _: &Nothing) -> Status {
    let usage = node.cache.usage();
    Status {
        version: env!("CARGO_PKG_VERSION"),
        uptime_s: node.started.elapsed().as_secs(),
        mounts: node.namespace.table().iter().count(),
        memory_budget_bytes: node.memory_bytes,
        raw_bytes: usage.raw_bytes,
        decoded_bytes: usage.decoded_bytes,
        footer_bytes: usage.footer_bytes,
    }
}
