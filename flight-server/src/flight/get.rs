//! DoGet: a ticket's rows as a stream of messages.
//!
//! Two doors lead here: [`front`](super::front), which sends the messages' buffers by reference and takes every call that
//! comes over the network, and tonic's generated one, which copies them.
//!
//! Pull-based: a batch is encoded when the transport asks for the next message, and the scan below reads ahead only as far
//! as its own bound, so a slow client holds little and a client that goes away stops the reading.

use std::sync::Arc;

use arrow::error::ArrowError;
use futures::{Stream, StreamExt, stream};
use jetbridge_cache::ReadError;
use jetbridge_cache::scan::ScanBatch;
use jetbridge_catalog::path::NsPath;
use tonic::Status;

use super::encode::Encoder;
use super::message::Message;
use crate::error::ServiceError;
use crate::node::Node;
use crate::redeem;

/// The messages that answer `ticket`, none larger than `limit_bytes` unless one row is.
///
/// # Errors
/// UNAUTHENTICATED for a ticket that is not ours, was altered or expired; storage and file errors, also in the stream.
pub(super) async fn stream(
    node: Arc<Node>,
    ticket: &[u8],
    limit_bytes: usize,
) -> Result<impl Stream<Item = Result<Message, Status>> + Unpin + Send + 'static, ServiceError> {
    let ticket = redeem::open(&node, ticket)?;
    let dataset = node.locate(&ticket.dataset)?;
    let request = redeem::scan_request(&node, &ticket)?;
    let mut encoder = Encoder::new(&request.output, limit_bytes).map_err(|error| unsayable(&error))?;
    let schema = encoder.schema();
    let messages = node.cache.scan(request).map(move |batch| match batch {
        Ok(batch) => encode(&mut encoder, &batch),
        Err(error) => vec![Err(failed(&node, &dataset, error))],
    });
    Ok(Box::pin(
        stream::iter([Ok(schema)]).chain(messages.flat_map(stream::iter)),
    ))
}

fn encode(encoder: &mut Encoder, batch: &ScanBatch) -> Vec<Result<Message, Status>> {
    match encoder.batch(&batch.batch, batch.source) {
        Ok(messages) => messages
            .into_iter()
            .map(|message| Ok(charged(message, batch)))
            .collect(),
        Err(error) => vec![Err(unsayable(&error).into())],
    }
}

/// Each piece of a batch that was cut keeps the whole batch's charge: they share its buffers, most of them.
fn charged(mut message: Message, batch: &ScanBatch) -> Message {
    message.charge = batch.charge.clone();
    message
}

fn unsayable(error: &ArrowError) -> ServiceError {
    ServiceError::Internal {
        what: format!("encoding an answer: {error}"),
    }
}

/// The status of a read that failed; if the data changed, the next plan looks at the storage anew.
fn failed(node: &Node, dataset: &NsPath, error: ReadError) -> Status {
    let error = ServiceError::from(error);
    if error.is_stale() {
        node.datasets.refresh(dataset);
    }
    error.into()
}
