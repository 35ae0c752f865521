//! What the tiers of the workers can hold.

use futures::future::join_all;
use jetbridge_cache::preload::Capacity;
use serde::{Deserialize, Serialize};

use crate::cluster::Role;
use crate::node::Node;

/// Name of the action that tells it of a node.
pub const CAPACITY_ACTION: &str = "peer.capacity";

/// What a node's tiers can hold, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// As pages.
    pub raw_bytes: u64,
    /// Decoded.
    pub decoded_bytes: u64,
}

impl From<Capacity> for Told {
    fn from(capacity: Capacity) -> Self {
        Self {
            raw_bytes: capacity.raw_bytes,
            decoded_bytes: capacity.decoded_bytes,
        }
    }
}

/// What this node's tiers can hold.
pub fn own(node: &Node) -> Told {
    node.cache.capacity().into()
}

/// The workers that have a place in the cluster, and what they can hold. One that does not answer is left out.
pub async fn capacities(node: &Node) -> Vec<(String, Told)> {
    let view = node.cluster.view();
    let seats = view.placement.seats().taken();
    let mut workers: Vec<String> = seats.map(|(_, seat)| seat.id.to_string()).collect();
    if workers.is_empty() && node.cluster.role() != Role::Coordinator {
        workers.push(node.cluster.id().to_owned());
    }
    let asked = workers.into_iter().map(|id| async move {
        if id == node.cluster.id() {
            return Some((id, own(node)));
        }
        let told = node
            .cluster
            .peers
            .call(&id, CAPACITY_ACTION, &serde_json::json!({}))
            .await;
        let told = told.and_then(|told| serde_json::from_value(told).map_err(|error| error.to_string()));
        match told {
            Ok(told) => Some((id, told)),
            Err(reason) => {
                tracing::debug!(reason, "what a worker can hold is not known");
                None
            }
        }
    });
    join_all(asked).await.into_iter().flatten().collect()
}
