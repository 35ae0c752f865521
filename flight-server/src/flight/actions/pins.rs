//! `cache.pin`, `cache.unpin`, `cache.pins`

use serde::{Deserialize, Serialize};

use super::{Nothing, PathBody};
use crate::error::ServiceError;
use crate::jobs::spec::Tier;
use crate::node::Node;
use crate::pins::{self, PinRecord};

/// Body of `cache.pin`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PinBody {
    path: String,
    #[serde(default)]
    tier: Tier,
}

/// Answer of `cache.pins`.
#[derive(Debug, Serialize)]
pub(super) struct Listed {
    pins: Vec<PinRecord>,
}

pub(super) async fn pin(node: &Node, body: PinBody) -> Result<PinRecord, ServiceError> {
    pins::pin(node, node.locate(&body.path)?, body.tier).await
}

pub(super) async fn unpin(node: &Node, body: PathBody) -> Result<PinRecord, ServiceError> {
    pins::unpin(node, &node.locate(&body.path)?).await
}

pub(super) fn list(node: &Node, _: &Nothing) -> Listed {
    Listed { pins: node.pins.list() }
}
