//! The front of the Flight service: DoGet past tonic's encoder.
//!
//! tonic copies each message into its own buffer, and prost copied the body into the message before; this answers DoGet with an
//! HTTP body that yields the messages' frames by reference. Every other call goes on to the generated service, and so does a
//! DoGet that tonic has to answer: one with a compressed request. Tasks of queries, which nodes send each other, have a door of
//! their own behind the same port.
//!
//! Why a service in front and not a tonic codec: a codec writes into one contiguous buffer, so it can only copy.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use arrow_flight::Ticket;
use arrow_flight::flight_service_server::FlightServiceServer;
use bytes::{Buf, Bytes};
use futures::Stream;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::{Body as HttpBody, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Limited};
use prost::Message as _;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use super::buffers::Buffers;
use super::flow::{self, Connection, Terms, Watched};
use super::message::Message;
use super::{FlightDoor, MAX_REQUEST_BYTES};
use crate::sql::distributed::door::{self, WorkerDoor};

const DO_GET: &str = "/arrow.flight.protocol.FlightService/DoGet";
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_TIMEOUT_HEADER: &str = "grpc-timeout";
const GRPC_PREFIX_BYTES: usize = 5;

/// The body of any answer. Each piece of data is a list of buffers that goes out as one HTTP/2 frame, where the client's
/// limits allow it.
pub type AnswerBody = UnsyncBoxBody<Buffers, Status>;

/// The Flight service with its own way out for DoGet, and the door of tasks beside it.
#[derive(Debug, Clone)]
pub struct Front {
    door: FlightDoor,
    inner: FlightServiceServer<FlightDoor>,
    tasks: WorkerDoor,
}

impl Front {
    pub(super) fn new(door: FlightDoor, inner: FlightServiceServer<FlightDoor>, tasks: WorkerDoor) -> Self {
        Self { door, inner, tasks }
    }

    /// Answers one request, within the time that the client gives.
    pub async fn answer<B>(self, request: Request<B>) -> Response<AnswerBody>
    where
        B: HttpBody<Data = Bytes, Error: Into<tonic::codegen::StdError>> + Send + 'static,
    {
        let request = request.map(Body::new);
        let deadline = deadline(request.headers());
        let answered = self.answer_by(request, deadline);
        let answered = match deadline {
            None => answered.await,
            Some(deadline) => tokio::time::timeout_at(deadline.into(), answered)
                .await
                .unwrap_or_else(|_| Err(flow::late())),
        };
        answered.unwrap_or_else(|status| status.into_http::<Body>().map(one_buffer_a_frame))
    }

    async fn answer_by(
        mut self,
        request: Request<Body>,
        deadline: Option<Instant>,
    ) -> Result<Response<AnswerBody>, Status> {
        if request.uri().path().starts_with(door::PATH) {
            // Boxed, so that calls of clients need no room for it.
            let answered = Box::pin(self.tasks.answer(request));
            return Ok(answered.await.map(one_buffer_a_frame));
        }
        if request.uri().path() != DO_GET || is_compressed(request.headers()) {
            let Ok(response) = self.inner.call(request).await;
            return Ok(response.map(one_buffer_a_frame));
        }
        do_get(self.door, request, deadline).await
    }
}

fn one_buffer_a_frame(body: Body) -> AnswerBody {
    body.map_frame(|frame| frame.map_data(Buffers::from)).boxed_unsync()
}

async fn do_get(
    door: FlightDoor,
    request: Request<Body>,
    deadline: Option<Instant>,
) -> Result<Response<AnswerBody>, Status> {
    let (mut parts, body) = request.into_parts();
    let ticket = read_ticket(body).await?;
    let mut request = tonic::Request::new(ticket);
    *request.metadata_mut() = MetadataMap::from_headers(parts.headers);
    let stall_timeout = door.streams.stall_timeout();
    let (metadata, messages, mut found) = door.messages(request).await?.into_parts();
    let terms = Terms {
        stall_timeout,
        deadline,
        connection: parts.extensions.remove::<Arc<Connection>>().unwrap_or_default(),
        pause: found.remove(),
    };
    let mut response = Response::new(Outgoing::new(Watched::new(messages, terms)).boxed_unsync());
    *response.headers_mut() = metadata.into_headers();
    response.headers_mut().insert(header::CONTENT_TYPE, GRPC);
    Ok(response)
}

/// The one message of the request.
async fn read_ticket(body: Body) -> Result<Ticket, Status> {
    let whole = Limited::new(body, MAX_REQUEST_BYTES).collect().await;
    let mut bytes = whole
        .map_err(|error| Status::invalid_argument(format!("the request cannot be read: {error}")))?
        .to_bytes();
    if bytes.len() < GRPC_PREFIX_BYTES {
        return Err(Status::invalid_argument("the request has no message"));
    }
    let (compressed, length) = (bytes.get_u8(), bytes.get_u32());
    if compressed != 0 || usize::try_from(length) != Ok(bytes.len()) {
        return Err(Status::invalid_argument("the request is not one uncompressed message"));
    }
    Ticket::decode(bytes).map_err(|error| Status::invalid_argument(format!("the request is no ticket: {error}")))
}

/// When the client gives up, by gRPC's header: up to eight digits and a unit. What is no such thing is no deadline.
fn deadline(headers: &HeaderMap) -> Option<Instant> {
    let text = headers.get(GRPC_TIMEOUT_HEADER)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = Some(digits).filter(|digits| digits.len() <= 8)?.parse().ok()?;
    let time = match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    };
    Instant::now().checked_add(time)
}

fn is_compressed(headers: &HeaderMap) -> bool {
    headers
        .get("grpc-encoding")
        .is_some_and(|encoding| encoding != "identity")
}

/// The body of a DoGet: messages, then the status as trailers.
struct Outgoing<S> {
    messages: Watched<S>,
    ended: bool,
}

impl<S> Outgoing<S> {
    fn new(messages: Watched<S>) -> Self {
        Self { messages, ended: false }
    }

    fn end<D>(&mut self, status: &Status) -> Poll<Option<Result<Frame<D>, Status>>> {
        self.ended = true;
        Poll::Ready(Some(Ok(Frame::trailers(trailers(status)))))
    }
}

impl<S: Stream<Item = Result<Message, Status>> + Unpin + Send + 'static> HttpBody for Outgoing<S> {
    type Data = Buffers;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        match std::task::ready!(Pin::new(&mut self.messages).poll_next(context)) {
            Some(Ok(message)) => match message.into_buffers() {
                Ok(buffers) => Poll::Ready(Some(Ok(Frame::data(buffers.queued(self.messages.flow()))))),
                Err(error) => self.end(&Status::internal(error.to_string())),
            },
            Some(Err(status)) => self.end(&status),
            None => self.end(&Status::new(Code::Ok, "")),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        // Only metadata that is no valid header can do that, and ours is none; the code alone is still a status.
        trailers.insert("grpc-status", HeaderValue::from(i32::from(status.code())));
    }
    trailers
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    #[tokio::test]
    async fn an_error_within_the_stream_comes_as_trailers() {
        let messages = stream::iter([Ok(Message::default()), Err(Status::aborted("STALE"))]);
        let terms = Terms {
            stall_timeout: Duration::from_secs(60),
            deadline: None,
            connection: Arc::default(),
            pause: None,
        };
        let mut body = Outgoing::new(Watched::new(messages, terms));
        assert!(body.frame().await.unwrap().unwrap().is_data());
        let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "10");
        assert!(body.frame().await.is_none());
    }

    #[test]
    fn deadlines_are_read_as_grpc_writes_them() {
        let of = |text: &str| {
            let headers = HeaderMap::from_iter([(
                http::HeaderName::from_static(GRPC_TIMEOUT_HEADER),
                HeaderValue::from_str(text).unwrap(),
            )]);
            deadline(&headers).map(|at| at.saturating_duration_since(Instant::now()).as_secs_f64().round())
        };
        assert_eq!((of("90S"), of("2M"), of("1H")), (Some(90.0), Some(120.0), Some(3600.0)));
        assert_eq!(
            (of("5000m"), of("7000000u"), of("1000n")),
            (Some(5.0), Some(7.0), Some(0.0))
        );
        for nonsense in ["", "S", "9", "-1S", "123456789S", "1x", "1.5S"] {
            assert_eq!(of(nonsense), None, "{nonsense}");
        }
    }

    #[tokio::test]
    async fn what_is_no_message_is_refused() {
        for bytes in [
            &b""[..],
            b"\0",
            b"\0\0\0\0\x05abc",
            b"\x01\0\0\0\0",
            b"\0\0\0\0\x03\xff\xff\xff",
        ] {
            let body = Body::new(http_body_util::Full::new(Bytes::copy_from_slice(bytes)));
            assert_eq!(
                read_ticket(body).await.unwrap_err().code(),
                Code::InvalidArgument,
                "{bytes:?}"
            );
        }
    }
}
