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
use jetbridge_cache::retention::Reread;
use jetbridge_cache::scan::{Charge, Pause, ScanBatch};
use tonic::Status;

use super::ahead::one_ahead;
use super::encode::{Encoder, Limits};
use super::message::Message;
use super::raw::{Files, Offered};
use super::wire::{Asked, Chosen, Wire, Wish};
use super::{BoxedStream, raw, sql};
use crate::error::ServiceError;
use crate::node::Node;
use crate::redeem::{self, Redeemed};

/// How long headers and schema wait for the first rows: many times as long as rows take that are held, and not to be felt where
/// they have to be fetched.
const FIRST_PIECE_PATIENCE: Duration = Duration::from_millis(2);

/// What answers a ticket.
pub(super) struct Answer {
    /// The form that the messages have.
    pub(super) chosen: Chosen,
    pub(super) messages: BoxedStream<Message>,
    /// Lets go of what is held for those that are still to come, where that can be.
    pub(super) pause: Option<Pause>,
}

/// The messages that answer `ticket`, none larger than `limits` say unless one row is.
///
/// # Errors
/// UNAUTHENTICATED for a ticket that is not ours, was altered or expired; storage and file errors, also in the stream.
pub(super) async fn stream(
    node: Arc<Node>,
    ticket: &[u8],
    limits: Limits,
    asked: &Asked,
) -> Result<Answer, ServiceError> {
    if let Some(rows) = sql::rows(&node, ticket).await? {
        return of_query(node, rows, limits, asked);
    }
    let redeemed = redeem::redeem(&node, ticket)?;
    let (chosen, files) = choose(&redeemed, limits, asked).await?;
    if let Some(Files { messages, pause }) = files {
        return Ok(Answer {
            chosen,
            messages,
            pause: Some(pause),
        });
    }
    let rows = redeemed.rows();
    let mut pieces = rows.batches.map_ok(Piece::from).peekable();
    // What is at hand goes out with the headers and the schema, in one write. It stays the next of the stream, be it an error.
    let _ = tokio::time::timeout(FIRST_PIECE_PATIENCE, Pin::new(&mut pieces).peek()).await;
    Ok(Answer {
        chosen,
        messages: messages(node, &rows.schema, pieces.boxed(), limits.message_bytes, chosen.wire)?,
        pause: Some(rows.pause),
    })
}

/// The first form asked for that can say the answer, and its messages where that is `raw`.
async fn choose(redeemed: &Redeemed, limits: Limits, asked: &Asked) -> Result<(Chosen, Option<Files>), ServiceError> {
    let (mut reason, mut is_unsaid) = (None, false);
    for wish in asked.wishes() {
        let offered = match *wish {
            Wish::Form(Wire::Raw) | Wish::Auto if is_unsaid => continue,
            // Who asks for stored bytes by name takes no columns the next time either.
            Wish::Form(Wire::Raw) => raw::offer(redeemed, limits, Reread::Unknown).await?,
            Wish::Auto => raw::offer_unless_warm(redeemed, limits).await?,
            Wish::Form(wire) => return Ok((Chosen { wire, reason }, None)),
        };
        match offered {
            Offered::Files(files) => {
                // It was asked for by name, whatever `auto` was passed over for.
                let (wire, reason) = (Wire::Raw, None);
                return Ok((Chosen { wire, reason }, Some(files)));
            }
            Offered::Unsaid(why) => (reason, is_unsaid) = (Some(why), true),
            Offered::ByName(why) => reason = Some(why),
            Offered::Warm => {}
        }
    }
    let wire = Wire::Arrow;
    Ok((Chosen { wire, reason }, None))
}

/// The messages of a query's rows, which are in no tier and in no file.
fn of_query(node: Arc<Node>, rows: sql::Rows, limits: Limits, asked: &Asked) -> Result<Answer, ServiceError> {
    let chosen = asked.unstored("the rows of a query are in no file");
    let piece = |batch| Piece {
        batch,
        source: Source::Memory,
        charge: Charge::default(),
    };
    let pieces = rows.batches.map_ok(piece).boxed();
    Ok(Answer {
        chosen,
        messages: messages(node, &rows.schema, pieces, limits.message_bytes, chosen.wire)?,
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tonic::metadata::{MetadataMap, MetadataValue};

    use super::super::testing::first_ticket;
    use super::super::wire::WIRE_HEADER;
    use super::*;
    use crate::testing::{Lake, numbers};

    /// What answers the first endpoint of a scan.
    async fn answer(lake: &Lake, scan: &str, asked: &'static str) -> Answer {
        let ticket = first_ticket(lake, scan).await;
        let mut metadata = MetadataMap::new();
        metadata.insert(WIRE_HEADER, MetadataValue::from_static(asked));
        let asked = Asked::of(&metadata).unwrap();
        let limits = Limits::asked(&metadata).unwrap();
        stream(Arc::clone(&lake.node), &ticket, limits, &asked).await.unwrap()
    }

    /// Reads the first endpoint of a scan to its end: the form that it came in, and why.
    async fn told(lake: &Lake, scan: &str, asked: &'static str) -> (Wire, Option<&'static str>) {
        let answer = answer(lake, scan, asked).await;
        let chosen = answer.chosen;
        let messages: Vec<Message> = answer.messages.try_collect().await.unwrap();
        assert!(messages.len() > 1);
        (chosen.wire, chosen.reason)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn auto_is_raw_until_columns_would_be_kept() {
        let lake = Lake::of(&[("lake/a.parquet", numbers(5_000)), ("lake/b.parquet", numbers(7))]).await;
        let whole = r#"{"path": "/lake"}"#;
        for (asked, wire) in [
            ("auto, lz4", Wire::Raw),
            ("auto", Wire::Arrow),
            ("auto, lz4", Wire::Lz4),
            ("auto, raw", Wire::Raw),
            ("raw, auto", Wire::Raw),
            ("zstd, auto", Wire::Zstd),
        ] {
            assert_eq!(told(&lake, whole, asked).await, (wire, None), "{asked}");
        }
    }

    /// The bodies of an answer's messages, and how often it was paused: after each message, where that was possible.
    async fn paused_bodies(mut answer: Answer) -> (Vec<Bytes>, usize) {
        let pause = answer.pause.unwrap();
        let (mut bodies, mut pauses) = (Vec::new(), 0);
        while let Some(message) = answer.messages.next().await {
            bodies.push(message.unwrap().into_flight_data().data_body);
            pauses += usize::from(pause.pause());
        }
        (bodies, pauses)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn row_groups_that_were_read_ahead_are_let_go_of_and_read_again() {
        let lake = Lake::of(&[
            ("lake/a.parquet", numbers(5_000)),
            ("lake/b.parquet", numbers(7)),
            ("lake/c.parquet", numbers(300)),
        ])
        .await;
        let whole = r#"{"path": "/lake"}"#;
        let read = answer(&lake, whole, "raw").await;
        assert_eq!(read.chosen.wire, Wire::Raw);
        let messages: Vec<Message> = read.messages.try_collect().await.unwrap();
        let bodies = messages.into_iter().map(|message| message.into_flight_data().data_body);
        let (paused, pauses) = paused_bodies(answer(&lake, whole, "raw").await).await;
        assert_eq!(paused, bodies.collect::<Vec<_>>());
        // Before the first row group nothing is read ahead, and after the last one nothing is left.
        assert!(pauses > 0 && pauses == paused.len() - 2, "{pauses}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn auto_is_passed_over_where_files_are_held_to_limits_of_the_servers_own() {
        for flag in [["--max-page-bytes", "64MiB"], ["--max-footer-bytes", "128MiB"]] {
            let lake = Lake::with(&[("lake/a.parquet", numbers(5_000))], &flag).await;
            let whole = r#"{"path": "/lake"}"#;
            for (asked, wire) in [
                ("raw", Wire::Raw),
                ("auto", Wire::Arrow),
                ("auto, lz4", Wire::Lz4),
                ("auto, raw", Wire::Raw),
                ("raw, auto", Wire::Raw),
            ] {
                let (told, reason) = told(&lake, whole, asked).await;
                assert_eq!(told, wire, "{asked}");
                let is_told = reason.is_some_and(|reason| reason.contains("limits of its own"));
                assert_eq!(is_told, wire != Wire::Raw, "{asked}: {reason:?}");
            }
            let filtered = told(&lake, r#"{"path": "/lake", "filter": "n > 3"}"#, "auto, raw, zstd").await;
            assert_eq!(filtered, (Wire::Zstd, Some("the scan has a filter")));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn raw_is_no_touch() {
        let lake = Lake::of(&[("lake/a.parquet", numbers(5_000))]).await;
        let whole = r#"{"path": "/lake"}"#;
        for asked in ["raw", "raw", "auto"] {
            assert_eq!(told(&lake, whole, asked).await, (Wire::Raw, None), "{asked}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_stored_bytes_cannot_say_comes_in_the_next_form() {
        let lake = Lake::of(&[("lake/a.parquet", numbers(5_000))]).await;
        let filtered = r#"{"path": "/lake", "filter": "n > 3"}"#;
        for (asked, wire) in [
            ("auto", Wire::Arrow),
            ("raw", Wire::Arrow),
            ("raw, auto, lz4", Wire::Lz4),
            ("auto, zstd, lz4", Wire::Zstd),
        ] {
            let told = told(&lake, filtered, asked).await;
            assert_eq!(told, (wire, Some("the scan has a filter")), "{asked}");
        }
    }
}
