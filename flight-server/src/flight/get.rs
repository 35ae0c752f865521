//! DoGet: a ticket's rows as a stream of messages.
//!
//! Two doors lead here: [`front`](super::front), which sends the messages' buffers by reference and takes every call that
//! comes over the network, and tonic's generated one, which copies them.
//!
//! Pull-based: a batch is encoded when the transport asks for the next message, and the scan below reads ahead only as far
//! as its own bound, so a slow client holds little and a client that goes away stops the reading.
//!
//! Batches that are sent as they lie in memory are encoded where they are asked for, since that is references only. To
//! compress one takes milliseconds: that is done on the threads that decode, one batch ahead of the transport.

use std::sync::Arc;

use arrow::error::ArrowError;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use jetbridge_cache::scan::{Pause, ScanBatch};
use tonic::Status;

use super::ahead::one_ahead;
use super::encode::Encoder;
use super::message::Message;
use super::wire::{Chosen, Wire};
use super::{BoxedStream, raw};
use crate::error::ServiceError;
use crate::node::Node;
use crate::redeem;

/// What answers a ticket.
pub(super) struct Answer {
    /// The form that the messages have.
    pub(super) chosen: Chosen,
    pub(super) messages: BoxedStream<Message>,
    /// Pauses the scan that they come from, where that can be.
    pub(super) pause: Option<Pause>,
}

/// The messages that answer `ticket`, none larger than `limit_bytes` unless one row is.
///
/// # Errors
/// UNAUTHENTICATED for a ticket that is not ours, was altered or expired; storage and file errors, also in the stream.
pub(super) async fn stream(
    node: Arc<Node>,
    ticket: &[u8],
    limit_bytes: usize,
    asked: Wire,
) -> Result<Answer, ServiceError> {
    let redeemed = redeem::redeem(&node, ticket)?;
    let mut chosen = Chosen::as_asked(asked);
    if asked == Wire::Raw {
        match raw::offer(&redeemed, limit_bytes).await? {
            Ok(messages) => {
                return Ok(Answer {
                    chosen,
                    messages,
                    pause: None,
                });
            }
            Err(reason) => chosen = Chosen::instead(reason),
        }
    }
    let compression = chosen.wire.compression();
    let rows = redeemed.rows();
    let encoder = Encoder::compressing(&rows.schema, limit_bytes, compression).map_err(|error| unsayable(&error))?;
    let schema = stream::iter([Ok(encoder.schema())]);
    let messages = match compression {
        None => schema.chain(plain(rows.batches, encoder)).boxed(),
        Some(_) => schema.chain(compressed(node, rows.batches, encoder)).boxed(),
    };
    Ok(Answer {
        chosen,
        messages,
        pause: Some(rows.pause),
    })
}

type Batches = BoxStream<'static, Result<ScanBatch, ServiceError>>;

/// Batches as they lie in memory.
fn plain(batches: Batches, mut encoder: Encoder) -> impl Stream<Item = Result<Message, Status>> + Send + 'static {
    let messages = batches.map(move |batch| encode(&mut encoder, &batch?));
    messages.map_ok(one_by_one).try_flatten()
}

/// Batches whose buffers are compressed, away from the threads that serve sockets.
fn compressed(
    node: Arc<Node>,
    batches: Batches,
    encoder: Encoder,
) -> impl Stream<Item = Result<Message, Status>> + Send + 'static {
    let steps = stream::try_unfold((node, batches, encoder), |parts| async move {
        let (node, mut batches, mut encoder) = parts;
        let Some(batch) = batches.try_next().await? else {
            return Ok(None);
        };
        let work = move || {
            let messages = encode(&mut encoder, &batch);
            (messages, encoder)
        };
        let (messages, encoder) = node.cache.compute(work).await.map_err(ServiceError::from)?;
        Ok::<_, Status>(Some((messages?, (node, batches, encoder))))
    });
    one_ahead(Box::pin(steps)).map_ok(one_by_one).try_flatten()
}

fn one_by_one(messages: Vec<Message>) -> impl Stream<Item = Result<Message, Status>> + Send + 'static {
    stream::iter(messages.into_iter().map(Ok))
}

/// The messages of a batch. Each keeps the whole batch's charge until it is sent: pieces of one that was cut share its buffers,
/// most of them, and what is compressed is no more than that.
fn encode(encoder: &mut Encoder, batch: &ScanBatch) -> Result<Vec<Message>, Status> {
    let encoded = encoder.batch(&batch.batch, batch.source);
    let mut messages = encoded.map_err(|error| unsayable(&error))?;
    messages
        .iter_mut()
        .for_each(|message| message.charge = batch.charge.clone());
    Ok(messages)
}

/// An answer that cannot be encoded.
pub(super) fn unsayable(error: &ArrowError) -> ServiceError {
    ServiceError::Internal {
        what: format!("encoding an answer: {error}"),
    }
}
