//! `meta.call`, `meta.watch`: the metadata store of this node, for the nodes that have it as theirs.

use std::sync::Arc;

use arrow_flight::Action;
use futures::StreamExt;
use jetbridge_catalog::meta::MetaStore;
use serde::Serialize;
use tonic::Status;

use super::peers::Parts;
use crate::cluster::remote::{self, Call, META_CALL_ACTION, WatchCall};
use crate::error::ServiceError;
use crate::node::Node;

/// Carries out one call.
pub(super) async fn call(node: &Node, action: &Action) -> Result<impl Serialize + use<>, ServiceError> {
    let store = served(node)?;
    // A value may be larger than the bodies of other actions, and base64 makes it a third longer.
    let call: Call = serde_json::from_slice(&action.body)
        .map_err(|error| ServiceError::invalid(format!("{META_CALL_ACTION}: {error}")))?;
    Ok(remote::answer(store, call).await)
}

/// Watches keys until the caller goes.
pub(super) fn watch(node: &Node, call: &WatchCall) -> Result<Parts, ServiceError> {
    let events = remote::events(served(node)?, call).take_until(node.cluster.ending());
    let parts = events.map(|event| match event {
        Ok(event) => Ok(arrow_flight::Result { body: event.into() }),
        Err(error) => Err(Status::internal(error.to_string())),
    });
    Ok(parts.boxed())
}

fn served(node: &Node) -> Result<&Arc<dyn MetaStore>, ServiceError> {
    node.cluster.served_store().ok_or_else(|| ServiceError::Unimplemented {
        what: "a metadata store on this node, which has none of its own,".to_owned(),
    })
}
