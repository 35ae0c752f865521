//! One DoGet: a ticket redeemed at a server, and its batches.
//!
//! gRPC is spoken by hand above tonic's channel: the request is one small message, and the answer's bytes go from the HTTP/2
//! frames that they came in to where the arrays will lie ([`crate::frame`]), without tonic's buffer between.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::Ticket;
use bytes::{BufMut, Bytes, BytesMut};
use futures::TryFutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use prost::Message;
use serde::Deserialize;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::ServiceExt;

use crate::address::Address;
use crate::budget::{Lease, Turn};
use crate::calls::Shared;
use crate::connections::Exclusive;
use crate::decode::Decoder;
use crate::error::{Error, Result, chain};
use crate::frame::{FlightMessage, Parser, Step};
use crate::link::Gauge;
use crate::pool::Pool;
use crate::reader::Source;

const DO_GET: &str = "/arrow.flight.protocol.FlightService/DoGet";
/// Header by which a form is asked for, and by which a Jetbridge server says which one it sends.
const WIRE_HEADER: HeaderName = HeaderName::from_static("x-jetbridge-wire");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

/// A server may end the stream of a client that takes nothing for as long as this; ours waits five minutes unless told otherwise.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Rows that came.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) batch: RecordBatch,
    /// What its arrays have, as [`bytes_of`].
    pub(crate) bytes: usize,
    pub(crate) source: Source,
    pub(crate) lease: Lease,
}

/// A stream under way. Dropped before its end, it ends at the server.
#[derive(Debug)]
pub(crate) struct FlightStream {
    connection: Exclusive,
    body: Body,
    /// What is left of the last frame.
    data: Bytes,
    parser: Parser,
    decoder: Decoder,
    pool: Arc<Pool>,
    gauge: Option<Gauge>,
    silence: Option<Duration>,
    /// Bytes that came since the last message, and time that was spent waiting for them.
    received: usize,
    waited: Duration,
    /// Whether the server was ever kept waiting so long that it may end the stream for it. What it had sent by then still comes.
    was_slow: bool,
}

/// What a Jetbridge server says of a batch.
#[derive(Deserialize)]
struct About {
    #[serde(default)]
    source: Source,
}

impl FlightStream {
    /// Redeems a ticket.
    ///
    /// # Errors
    /// CONNECT where nobody answers, what the server refuses it with, DEADLINE_EXCEEDED where it says nothing.
    pub(crate) async fn open(client: &Shared, address: &Address, ticket: &Bytes, schema: &SchemaRef) -> Result<Self> {
        let options = &client.options;
        let form = client.links.form(options.wire, address);
        let mut connection = client.connections.for_stream(address).await?;
        let channel = connection
            .channel()
            .ok_or_else(|| Error::broken("the connection was given up"))?;
        let answer = channel.oneshot(request(ticket, form.as_str(), &options.headers)?);
        let answer = answer.map_err(|error| Error::from(Status::from_error(Box::new(error))));
        let answer = match within(options.timeout, answer).await.and_then(accepted) {
            Ok(answer) => answer,
            Err(error) => {
                if error.is_retryable() {
                    connection.give_up();
                }
                return Err(error);
            }
        };
        // Only our servers say so.
        let is_ours = answer.headers().contains_key(WIRE_HEADER);
        Ok(Self {
            connection,
            decoder: Decoder::new(Arc::clone(schema), options.check_values || !is_ours),
            body: answer.into_body(),
            data: Bytes::new(),
            parser: Parser::default(),
            pool: Arc::clone(&client.pool),
            gauge: client.links.gauge(options.wire, form, address),
            silence: options.timeout,
            received: 0,
            waited: Duration::ZERO,
            was_slow: false,
        })
    }

    /// The next rows; none at the end. Waits for room in the budget before it takes a body.
    ///
    /// # Errors
    /// The server's; UNAVAILABLE where the connection broke; DEADLINE_EXCEEDED where nothing came for too long.
    pub(crate) async fn next(&mut self, turn: &Turn) -> Result<Option<Received>> {
        self.advance(turn).await.map_err(|error| {
            if error.is_retryable() {
                self.connection.give_up();
            }
            if self.was_slow { error.of_ours() } else { error }
        })
    }

    /// Bytes that came since this was asked last.
    pub(crate) fn received_bytes(&mut self) -> usize {
        std::mem::take(&mut self.received)
    }

    async fn advance(&mut self, turn: &Turn) -> Result<Option<Received>> {
        let mut lease = None;
        loop {
            match self.parser.step(&mut self.data)? {
                Step::More => {
                    if !self.more().await? {
                        return Ok(None);
                    }
                }
                Step::Body(bytes) => {
                    let began = Instant::now();
                    let room = turn.take(bytes).await;
                    self.was_slow |= began.elapsed() >= PATIENCE;
                    self.parser.give(self.pool.take(bytes)?)?;
                    lease = Some(room);
                }
                Step::Message(message) => {
                    if let Some(batch) = self.decoder.message(&message)? {
                        let lease = match lease.take() {
                            Some(lease) => lease,
                            None => turn.take(0).await,
                        };
                        return Ok(Some(self.rows(batch, &message, lease)));
                    }
                    // A dictionary stays with the decoder.
                    lease = None;
                }
            }
        }
    }

    /// Waits for the next frame; whether there is one, rather than the end.
    async fn more(&mut self) -> Result<bool> {
        let began = Instant::now();
        let frame = within(self.silence, async { Ok(self.body.frame().await) }).await?;
        self.waited += began.elapsed();
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Err(Error::broken(chain(&error))),
            None => return Err(Error::broken("the stream ended without a status")),
        };
        match frame.into_data() {
            Ok(data) => {
                self.received += data.len();
                self.data = data;
                Ok(true)
            }
            Err(frame) => {
                ended(frame.trailers_ref().unwrap_or(&HeaderMap::new()))?;
                if !self.parser.is_between_messages() {
                    return Err(Error::broken("the stream ended within a message"));
                }
                Ok(false)
            }
        }
    }

    fn rows(&mut self, batch: RecordBatch, message: &FlightMessage, mut lease: Lease) -> Received {
        let about = serde_json::from_slice::<About>(&message.metadata);
        let source = about.map_or(Source::Store, |about| about.source);
        let waited = std::mem::take(&mut self.waited);
        let sent_bytes = message.body.as_ref().map_or(0, arrow::buffer::Buffer::len);
        if let Some(gauge) = &self.gauge
            && source == Source::Memory
        {
            gauge.saw(sent_bytes, waited);
        }
        let bytes = bytes_of(&batch);
        if self.gauge.is_none() {
            // Compressed, perhaps: then it is larger now.
            lease.grow_to(bytes);
        }
        Received {
            batch,
            bytes,
            source,
            lease,
        }
    }
}

/// Bytes of a batch's arrays, each part of a shared buffer as often as it is used.
pub(crate) fn bytes_of(batch: &RecordBatch) -> usize {
    let columns = batch.columns().iter();
    let bytes = columns.map(|column| column.to_data().get_slice_memory_size().unwrap_or(0));
    bytes.sum()
}

fn request(ticket: &Bytes, form: Option<&'static str>, headers: &HeaderMap) -> Result<Request<Body>> {
    let ticket = Ticket { ticket: ticket.clone() };
    let bytes = ticket.encoded_len();
    let length = u32::try_from(bytes).map_err(|_| Error::protocol(format!("a ticket of {bytes} bytes")))?;
    let mut message = BytesMut::with_capacity(5 + bytes);
    message.put_u8(0);
    message.put_u32(length);
    ticket.encode(&mut message).map_err(Error::protocol)?;
    let mut request = Request::new(Body::new(Full::new(message.freeze())));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static(DO_GET);
    *request.headers_mut() = headers.clone();
    let own = request.headers_mut();
    own.insert(header::CONTENT_TYPE, GRPC);
    own.insert(header::TE, TRAILERS);
    if let Some(form) = form {
        own.insert(WIRE_HEADER, HeaderValue::from_static(form));
    }
    Ok(request)
}

/// An answer whose headers do not end it with an error.
fn accepted(answer: Response<Body>) -> Result<Response<Body>> {
    if let Some(status) = Status::from_header_map(answer.headers())
        && status.code() != Code::Ok
    {
        return Err(status.into());
    }
    if answer.status() != StatusCode::OK {
        let status = answer.status();
        return Err(Error::protocol(format!(
            "HTTP status {status}; is this a Flight server?"
        )));
    }
    Ok(answer)
}

/// The status that a stream ends with.
fn ended(trailers: &HeaderMap) -> Result<()> {
    match Status::from_header_map(trailers) {
        Some(status) if status.code() == Code::Ok => Ok(()),
        Some(status) => Err(status.into()),
        None => Err(Error::broken("the stream ended without a status")),
    }
}

async fn within<T>(limit: Option<Duration>, work: impl Future<Output = Result<T>>) -> Result<T> {
    match limit {
        None => work.await,
        Some(limit) => match tokio::time::timeout(limit, work).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => Err(Error::silent(limit)),
        },
    }
}
