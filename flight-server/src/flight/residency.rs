//! Where the rows of endpoints are, on the nodes that they name.
//!
//! What is on this node is looked up; the others are asked, many at once, each once. A node that does not answer soon is
//! one that nobody should count on: its endpoints say `none`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use jetbridge_cache::key::RowGroup;
use tokio::time::{Instant, timeout_at};

use super::info::Planned;
use crate::cluster::peers::residency_calls;
use crate::node::Node;
use crate::plan::{Plan, Run, RunFile};

/// What is not known to be cached.
pub(super) const NONE: &str = "none";
/// How long all nodes together may take; what is not known by then is taken for not cached.
const TIME_LIMIT: Duration = Duration::from_millis(500);
/// Nodes that are asked at once, so that a plan over a thousand workers opens no thousand connections in a moment.
const CALLS_AT_ONCE: usize = 64;

/// `decoded`, `raw` or `none` for each planned run.
pub(super) async fn of(node: &Node, plan: &Plan, planned: &[Planned<'_>]) -> Vec<String> {
    let mut cached = vec![NONE.to_owned(); planned.len()];
    let mut elsewhere: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, run) in planned.iter().enumerate() {
        match run.named.first() {
            Some(named) if named.id != node.cluster.id() => elsewhere.entry(&named.id).or_default().push(at),
            _ => held_here(node, plan, run.run).await.clone_into(&mut cached[at]),
        }
    }
    let tickets = |runs: &[usize]| {
        runs.iter()
            .map(|&at| planned[at].ticket.clone())
            .collect::<Vec<Bytes>>()
    };
    let mut calls = Vec::new();
    for (id, runs) in elsewhere {
        let calls_to_it = residency_calls(runs, |&at| planned[at].ticket.len());
        calls.extend(calls_to_it.into_iter().map(|runs| {
            let tickets = tickets(&runs);
            (id.to_owned(), runs, tickets)
        }));
    }
    let peers = Arc::clone(&node.cluster.peers);
    let calls = stream::iter(calls).map(move |(id, runs, tickets)| {
        let peers = Arc::clone(&peers);
        async move { (runs, peers.residency(&id, &tickets).await) }
    });
    let until = Instant::now() + TIME_LIMIT;
    let mut told = calls.buffer_unordered(CALLS_AT_ONCE);
    while let Ok(Some((runs, told))) = timeout_at(until, told.next()).await {
        for (&at, told) in runs.iter().zip(told.into_iter().flatten()) {
            cached[at] = told;
        }
    }
    cached
}

async fn held_here(node: &Node, plan: &Plan, run: &Run) -> &'static str {
    let row_groups = |file: &RunFile| file.row_groups.iter().copied().map(RowGroup).collect();
    let files: Vec<_> = run
        .files
        .iter()
        .map(|file| (&plan.dataset.files[file.file].open, row_groups(file)))
        .collect();
    node.cache.residency(&files, &plan.read).await.as_str()
}
