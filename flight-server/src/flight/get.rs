//! DoGet: a ticket's rows as a stream of messages, be they a scan's or a query's.
//!
//! Two doors lead here: [`front`](super::front), which sends the messages' buffers by reference and takes every call that
//! comes over the network, and tonic's generated one, which copies them.
//!
//! Pull-based: a batch is encoded when the transport asks for the next message, and the scan below reads ahead only as far
//! as its own bound, so a slow client holds little and a client that goes away stops the reading.
//!
//! Batches that are sent as they lie in memory are encoded where they are asked for, since that is references only. To
//! compress one takes milliseconds: that is done on the threads that decode, one batch ahead of the transport.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use jetbridge_cache::key::Source;
use jetbridge_cache::scan::{Charge, Pause, ScanBatch};
use tonic::Status;

use super::ahead::one_ahead;
use super::encode::Encoder;
use super::message::Message;
use super::wire::{Chosen, Wire};
use super::{BoxedStream, raw, sql};
use crate::error::ServiceError;
use crate::node::Node;
use crate::redeem;

/// How long headers and schema wait for the first rows: many times as long as rows take that are held, and not to be felt where
/// they have to be fetched.
const FIRST_PIECE_PATIENCE: Duration = Duration::from_millis(2);

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
    if let Some(rows) = sql::rows(&node, ticket).await? {
        return of_query(node, rows, limit_bytes, asked);
    }
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
    let rows = redeemed.rows();
    let mut pieces = rows.batches.map_ok(Piece::from).peekable();
    // What is at hand goes out with the headers and the schema, in one write. It stays the next of the stream, be it an error.
    let _ = tokio::time::timeout(FIRST_PIECE_PATIENCE, Pin::new(&mut pieces).peek()).await;
    Ok(Answer {
        chosen,
        messages: messages(node, &rows.schema, pieces.boxed(), limit_bytes, chosen.wire)?,
        pause: Some(rows.pause),
    })
}

/// The messages of a query's rows, which are in no tier and in no file.
fn of_query(node: Arc<Node>, rows: sql::Rows, limit_bytes: usize, asked: Wire) -> Result<Answer, ServiceError> {
    let chosen = match asked {
        Wire::Raw => Chosen::instead("the rows of a query are in no file"),
        form => Chosen::as_asked(form),
    };
    let piece = |batch| Piece {
        batch,
        source: Source::Memory,
        charge: Charge::default(),
    };
    let pieces = rows.batches.map_ok(piece).boxed();
    Ok(Answer {
        chosen,
        messages: messages(node, &rows.schema, pieces, limit_bytes, chosen.wire)?,
        pause: None,
    })
}

/// A batch on its way out.
struct Piece {
    batch: RecordBatch,
    source: Source,
    charge: Charge,
}

impl From<ScanBatch> for Piece {
    fn from(scanned: ScanBatch) -> Self {
        Self {
            batch: scanned.batch,
            source: scanned.source,
            charge: scanned.charge,
        }
    }
}

type Pieces = BoxStream<'static, Result<Piece, ServiceError>>;

/// The schema's message, then those of the pieces.
fn messages(
    node: Arc<Node>,
    schema: &SchemaRef,
    pieces: Pieces,
    limit_bytes: usize,
    wire: Wire,
) -> Result<BoxedStream<Message>, ServiceError> {
    let compression = wire.compression();
    let encoder = Encoder::compressing(schema, limit_bytes, compression).map_err(|error| unsayable(&error))?;
    let schema = stream::iter([Ok(encoder.schema())]);
    Ok(match compression {
        None => schema.chain(plain(pieces, encoder)).boxed(),
        Some(_) => schema.chain(compressed(node, pieces, encoder)).boxed(),
    })
}

/// Batches as they lie in memory.
fn plain(pieces: Pieces, mut encoder: Encoder) -> impl Stream<Item = Result<Message, Status>> + Send + 'static {
    let messages = pieces.map(move |piece| encode(&mut encoder, &piece?));
    messages.map_ok(one_by_one).try_flatten()
}

/// Batches whose buffers are compressed, away from the threads that serve sockets.
fn compressed(
    node: Arc<Node>,
    pieces: Pieces,
    encoder: Encoder,
) -> impl Stream<Item = Result<Message, Status>> + Send + 'static {
    let steps = stream::try_unfold((node, pieces, encoder), |parts| async move {
        let (node, mut pieces, mut encoder) = parts;
        let Some(piece) = pieces.try_next().await? else {
            return Ok(None);
        };
        let work = move || {
            let messages = encode(&mut encoder, &piece);
            (messages, encoder)
        };
        let (messages, encoder) = node.cache.compute(work).await.map_err(ServiceError::from)?;
        Ok::<_, Status>(Some((messages?, (node, pieces, encoder))))
    });
    one_ahead(Box::pin(steps)).map_ok(one_by_one).try_flatten()
}

fn one_by_one(messages: Vec<Message>) -> impl Stream<Item = Result<Message, Status>> + Send + 'static {
    stream::iter(messages.into_iter().map(Ok))
}

/// The messages of a piece. Each keeps the whole piece's charge until it is sent: pieces of one that was cut share its buffers,
/// most of them, and what is compressed is no more than that.
fn encode(encoder: &mut Encoder, piece: &Piece) -> Result<Vec<Message>, Status> {
    let encoded = encoder.batch(&piece.batch, piece.source);
    let mut messages = encoded.map_err(|error| unsayable(&error))?;
    messages
        .iter_mut()
        .for_each(|message| message.charge = piece.charge.clone());
    Ok(messages)
}

/// An answer that cannot be encoded.
pub(super) fn unsayable(error: &ArrowError) -> ServiceError {
    ServiceError::Internal {
        what: format!("encoding an answer: {error}"),
    }
}
