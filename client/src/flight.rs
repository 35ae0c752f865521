//! One DoGet: a ticket redeemed at a server, and its batches.
//!
//! gRPC is spoken by hand above tonic's channel: the request is one small message, and the answer's bytes go from the HTTP/2
//! frames that they came in to where the arrays will lie ([`crate::frame`]), without tonic's buffer between.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::Ticket;
use bytes::{BufMut, Bytes, BytesMut};
use futures::TryFutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
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
use crate::error::{Error, Result};
use crate::frame::FlightMessage;
use crate::link::Gauge;
use crate::messages::{Messages, within};
use crate::options::Wire;
use crate::raw::{Files, most_file_bytes};
use crate::reader::Source;

const DO_GET: &str = "/arrow.flight.protocol.FlightService/DoGet";
/// Header by which a form is asked for, and by which a Jetbridge server says which one it sends.
const WIRE_HEADER: HeaderName = HeaderName::from_static("x-jetbridge-wire");
/// Header by which a client says how large the small files of the form `raw` may be.
const FILE_HEADER: HeaderName = HeaderName::from_static("x-jetbridge-max-file-bytes");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

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
    messages: Messages,
    form: Form,
    gauge: Option<Gauge>,
}

/// What the messages are.
#[derive(Debug)]
enum Form {
    /// Batches, plain or compressed.
    Batches(Decoder),
    /// Row groups as they are stored.
    Files(Files),
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
    pub(crate) async fn open(
        client: &Shared,
        address: &Address,
        ticket: &Bytes,
        schema: &SchemaRef,
        turn: &Turn,
    ) -> Result<Self> {
        let (options, unpacking) = (&client.options, client.unpacking);
        let decodes = unpacking.is_some_and(|unpacking| unpacking.has_a_core_to_spare());
        let budget_bytes = turn.budget.limit_bytes();
        let mut request = request(ticket, &options.headers)?;
        let asked = client.links.form(options.wire, decodes, address);
        request
            .headers_mut()
            .insert(WIRE_HEADER, HeaderValue::from_static(asked));
        if unpacking.is_some() {
            let most_bytes = most_file_bytes(budget_bytes);
            request.headers_mut().insert(FILE_HEADER, HeaderValue::from(most_bytes));
        }
        let mut connection = client.connections.for_stream(address).await?;
        let channel = connection
            .channel()
            .ok_or_else(|| Error::broken("the connection was given up"))?;
        let answer = channel.oneshot(request);
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
        let sent = sent(answer.headers())?;
        let form = match (sent, unpacking) {
            (Some(Wire::Raw), Some(unpacking)) => Form::Files(Files::new(unpacking, Arc::clone(schema), budget_bytes)),
            (Some(Wire::Raw), None) => return Err(Error::protocol("it is in the form raw, which nobody asked for")),
            // Only our servers say which form it is.
            _ => Form::Batches(Decoder::new(Arc::clone(schema), options.check_values || sent.is_none())),
        };
        Ok(Self {
            connection,
            messages: Messages::new(answer.into_body(), Arc::clone(&client.pool), options.timeout),
            form,
            gauge: client.links.gauge(options.wire, sent, address),
        })
    }

    /// The next rows; none at the end. Waits for room in the budget before it takes a body.
    ///
    /// # Errors
    /// The server's; UNAVAILABLE where the connection broke; DEADLINE_EXCEEDED where nothing came for too long; DATA_LOSS where a
    /// row group cannot be decoded.
    pub(crate) async fn next(&mut self, turn: &Turn) -> Result<Option<Received>> {
        self.advance(turn).await.map_err(|error| {
            if error.is_retryable() {
                self.connection.give_up();
            }
            if self.messages.was_slow() {
                error.of_ours()
            } else {
                error
            }
        })
    }

    /// Bytes that came since this was asked last.
    pub(crate) fn received_bytes(&mut self) -> usize {
        self.messages.received_bytes()
    }

    async fn advance(&mut self, turn: &Turn) -> Result<Option<Received>> {
        let decoder = match &mut self.form {
            Form::Files(files) => return files.next(&mut self.messages, turn).await,
            Form::Batches(decoder) => decoder,
        };
        while let Some(came) = self.messages.next(turn, Ok).await? {
            // A dictionary stays with the decoder.
            let Some(batch) = decoder.message(&came.message)? else {
                continue;
            };
            let lease = match came.lease {
                Some(lease) => lease,
                None => turn.take(0).await,
            };
            return Ok(Some(self.rows(batch, &came.message, lease)));
        }
        Ok(None)
    }

    fn rows(&mut self, batch: RecordBatch, message: &FlightMessage, mut lease: Lease) -> Received {
        let about = serde_json::from_slice::<About>(&message.metadata);
        let source = about.map_or(Source::Store, |about| about.source);
        let waited = self.messages.waited();
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

fn request(ticket: &Bytes, headers: &HeaderMap) -> Result<Request<Body>> {
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
    Ok(request)
}

/// The form that an answer says it has; none where it says nothing.
fn sent(headers: &HeaderMap) -> Result<Option<Wire>> {
    let Some(said) = headers.get(WIRE_HEADER) else {
        return Ok(None);
    };
    let form = said.to_str().ok().and_then(Wire::named);
    form.map(Some)
        .ok_or_else(|| Error::protocol(format!("it is in the form {said:?}")))
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
