//! `server.status`

use jetbridge_catalog::membership::{MemberView, Status as MemberStatus};
use serde::Serialize;

use super::Nothing;
use crate::cluster::Role;
use crate::node::Node;

/// Answer of `server.status`.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    version: &'static str,
    uptime_s: u64,
    node: String,
    role: &'static str,
    epoch: u64,
    workers: usize,
    metadata_store: &'static str,
    mounts: usize,
    memory_budget_bytes: u64,
    raw_bytes: u64,
    decoded_bytes: u64,
    footer_bytes: u64,
}

pub(super) fn status(node: &Node, _: &Nothing) -> Status {
    let usage = node.cache.usage();
    let view = node.cluster.view();
    let is_serving_worker = |member: &&MemberView| member.is_worker() && member.status == MemberStatus::Serving;
    Status {
        version: env!("CARGO_PKG_VERSION"),
        uptime_s: node.started.elapsed().as_secs(),
        node: node.cluster.id().to_owned(),
        role: match node.cluster.role() {
            Role::All => "all",
            Role::Coordinator => "coordinator",
            Role::Worker => "worker",
        },
        epoch: view.epoch(),
        workers: view.members.values().filter(is_serving_worker).count(),
        metadata_store: if node.cluster.is_store_away() {
            "away"
        } else {
            "reachable"
        },
        mounts: node.namespace.table().iter().count(),
        memory_budget_bytes: node.memory_bytes,
        raw_bytes: usage.raw_bytes,
        decoded_bytes: usage.decoded_bytes,
        footer_bytes: usage.footer_bytes,
    }
}
