//! `cluster.members`, `locate`, `cluster.rotate_keys`: who is there, and who owns what.

use std::sync::Arc;

use jetbridge_catalog::membership::{MemberView, Role, Status, View};
use serde::Serialize;

use super::{Nothing, PathBody};
use crate::cluster::{places_of, seals};
use crate::error::ServiceError;
use crate::node::Node;

/// Answer of `cluster.members`.
#[derive(Debug, Serialize)]
pub(super) struct Members {
    cluster: String,
    /// The node that answers.
    node: String,
    epoch: u64,
    /// Whether the metadata store can be reached; if not, the rest is what was known last.
    store_reachable: bool,
    members: Vec<MemberAnswer>,
}

#[derive(Debug, Serialize)]
struct MemberAnswer {
    id: String,
    role: &'static str,
    state: &'static str,
    since_s: f64,
    address: Option<String>,
    weight_bytes: u64,
    /// Whether it owns a share of the data.
    seat: bool,
    /// Its share, 0 to 1.
    share: f64,
}

/// Answer of `locate`.
#[derive(Debug, Serialize)]
pub(super) struct Located {
    path: String,
    epoch: u64,
    splits: Vec<SplitAnswer>,
}

#[derive(Debug, Serialize)]
struct SplitAnswer {
    /// The file.
    path: String,
    /// The first and the last of its row groups.
    row_groups: [u32; 2],
    rows: u64,
    /// Decoded, as estimated.
    bytes: u64,
    /// The owner, then its replicas.
    owners: Vec<OwnerAnswer>,
}

#[derive(Debug, Clone, Serialize)]
struct OwnerAnswer {
    id: String,
    state: &'static str,
    address: Option<String>,
}

/// Answer of `cluster.rotate_keys`.
#[derive(Debug, Serialize)]
pub(super) struct Rotated {}

pub(super) fn members(node: &Node, _: &Nothing) -> Members {
    let cluster = &node.cluster;
    let view = cluster.view();
    let all: u64 = view.placement.seats().taken().map(|(_, seat)| seat.weight).sum();
    let members = view.members.values().map(|member| {
        let seat = member.slot.and_then(|slot| view.placement.seat(slot));
        MemberAnswer {
            id: member.id.to_string(),
            role: role(member),
            state: state(member.status),
            since_s: cluster.elapsed_since(member.since).as_secs_f64(),
            address: places_of(member).network,
            weight_bytes: member.record.as_ref().map_or(0, |record| record.weight),
            seat: seat.is_some(),
            share: seat.map_or(0.0, |seat| {
                jetbridge_cache::gauge(seat.weight) / jetbridge_cache::gauge(all.max(1))
            }),
        }
    });
    Members {
        cluster: cluster.cluster_id().to_owned(),
        node: cluster.id().to_owned(),
        epoch: view.epoch(),
        store_reachable: !cluster.is_store_away(),
        members: members.collect(),
    }
}

pub(super) async fn locate(node: &Arc<Node>, body: &PathBody) -> Result<Located, ServiceError> {
    let dataset = node.dataset(&body.path).await?;
    let lineage = node.lineage(&dataset)?;
    let mut splits = Vec::new();
    for (at, file) in dataset.files.iter().enumerate() {
        let Ok(summary) = &file.summary else { continue };
        for (row_groups, owners) in lineage.now.splits(at) {
            let groups = row_groups
                .clone()
                .filter_map(|group| summary.row_groups.get(usize::try_from(group).ok()?));
            let (rows, bytes) = groups.fold((0, 0), |(rows, bytes), group| {
                (rows + group.rows, bytes + group.decoded_bytes.iter().sum::<u64>())
            });
            splits.push(SplitAnswer {
                path: file.path.to_string(),
                row_groups: [row_groups.start, row_groups.end.saturating_sub(1)],
                rows,
                bytes,
                owners: owners.iter().filter_map(|&slot| owner(&lineage.view, slot)).collect(),
            });
        }
    }
    Ok(Located {
        path: dataset.path.to_string(),
        epoch: lineage.view.epoch(),
        splits,
    })
}

pub(super) async fn rotate_keys(node: &Node, _: &Nothing) -> Result<Rotated, ServiceError> {
    seals::rotate(node.cluster.store().as_ref()).await?;
    Ok(Rotated {})
}

fn owner(view: &View, slot: u32) -> Option<OwnerAnswer> {
    let member = view.at(slot)?;
    Some(OwnerAnswer {
        id: member.id.to_string(),
        state: state(member.status),
        address: places_of(member).network,
    })
}

fn role(member: &MemberView) -> &'static str {
    match member.record.as_ref().map(|record| record.role) {
        Some(Role::Worker) => "worker",
        Some(Role::Coordinator) => "coordinator",
        None => "unknown",
    }
}

fn state(status: Status) -> &'static str {
    match status {
        Status::Serving => "serving",
        Status::Suspect => "suspect",
        Status::Draining => "draining",
        Status::Lost => "lost",
        Status::Unknown => "unknown",
    }
}
