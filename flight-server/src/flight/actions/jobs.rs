//! `preload.*`, `verify.submit`, `peer.tasks`: jobs.

use std::sync::Arc;

use futures::StreamExt;
use serde::{Deserialize, Serialize};

use super::json;
use super::peers::Parts;
use crate::error::ServiceError;
use crate::jobs::record::{Job, State};
use crate::jobs::spec::{PreloadBody, VerifyBody};
use crate::jobs::submit::{self, Submitted};
use crate::jobs::task::{Orders, Pull};
use crate::node::Node;

/// A body that names a job.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct JobBody {
    id: String,
}

/// Body of `preload.list`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListBody {
    state: Option<State>,
    /// Most jobs to give. Default 1,000.
    limit: Option<usize>,
}

/// Answer of `preload.list`.
#[derive(Debug, Serialize)]
pub(super) struct Listed {
    jobs: Vec<Job>,
}

pub(super) async fn preload(node: &Node, body: PreloadBody) -> Result<Submitted, ServiceError> {
    submit::submit(node, body.check()?).await
}

pub(super) async fn verify(node: &Node, body: VerifyBody) -> Result<Submitted, ServiceError> {
    submit::submit(node, body.check()?).await
}

pub(super) async fn get(node: &Node, body: &JobBody) -> Result<Job, ServiceError> {
    submit::get(node.cluster.store().as_ref(), &body.id).await
}

pub(super) async fn list(node: &Node, body: &ListBody) -> Result<Listed, ServiceError> {
    let jobs = submit::list(node.cluster.store().as_ref(), body.state, body.limit).await?;
    Ok(Listed { jobs })
}

pub(super) async fn cancel(node: &Node, body: &JobBody) -> Result<Job, ServiceError> {
    submit::cancel(node.cluster.store().as_ref(), &body.id).await
}

/// A job each time that it is written down, until it is over.
pub(super) async fn watch(node: &Node, body: &JobBody) -> Result<Parts, ServiceError> {
    let jobs = submit::watch(node, &body.id).await?;
    let parts = jobs.map(|job| {
        let body = json(&job?)?;
        Ok(arrow_flight::Result { body })
    });
    Ok(parts.boxed())
}

/// Hears a worker, and gives it what to do.
pub(super) async fn tasks(node: &Arc<Node>, pull: &Pull) -> Result<Orders, ServiceError> {
    node.jobs.schedule(pull).await.ok_or_else(|| ServiceError::Busy {
        what: "this node does not schedule jobs".to_owned(),
    })
}
