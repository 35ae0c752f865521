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
use jetbridge_cache::scan::ScanBatch;
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
    let rows = redeem::rows(&node, ticket)?;
    let mut encoder = Encoder::new(&rows.schema, limit_bytes).map_err(|error| unsayable(&error))?;
    let schema = encoder.schema();
    let messages = rows.batches.map(move |batch| match batch {
        Ok(batch) => encode(&mut encoder, &batch),
        Err(error) => vec![Err(error.into())],
    });
    Ok(Box::pin(
        stream::iter([Ok(schema)]).chain(messages.flat_map(stream::iter)),
    ))
}

fn encode(encoder: &mut Encoder, batch: &ScanBatch) -> Vec<Result<Message, Status>> {
    match encoder.batch(&batch.batch, batch.source) {
        Ok(messages) => messages.into_iter().map(Ok).collect(),
        Err(error) => vec![Err(unsayable(&error).into())],
    }
}

fn unsayable(error: &ArrowError) -> ServiceError {
    ServiceError::Internal {
        what: format!("encoding an answer: {error}"),
    }
}
