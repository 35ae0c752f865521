//! What every call leaves behind: a span with a request id, counts, durations, bytes sent.
//!
//! The id is the client's `x-request-id` where it gives a sane one, else a new UUID; it goes back in the answer's headers.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use futures::Stream;
use metrics::{counter, gauge, histogram};
use tokio::sync::OwnedSemaphorePermit;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Request, Response, Status};
use tracing::Instrument;

use super::message::Message;
use crate::error::ServiceError;

const REQUEST_ID_HEADER: &str = "x-request-id";
const MAX_REQUEST_ID_BYTES: usize = 128;

/// What a handler may fail with.
#[derive(Debug)]
pub(super) enum Failure {
    /// An error of ours.
    Service(ServiceError),
    /// A status that came from the transport.
    Status(Status),
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Self {
        Self::Service(error)
    }
}

impl From<crate::request::RequestError> for Failure {
    fn from(error: crate::request::RequestError) -> Self {
        Self::Service(error.into())
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

/// Runs the handler of one call inside its span, and counts it.
pub(super) async fn call<M, A, F>(
    method: &'static str,
    request: Request<M>,
    handler: impl FnOnce(M) -> F,
) -> Result<Response<A>, Status>
where
    F: Future<Output = Result<Response<A>, Failure>>,
{
    let id = request_id(request.metadata());
    let span = tracing::info_span!("flight", method, request_id = %id);
    let started = Instant::now();
    // In a box of its own: it has 20 KB, and whoever holds it, layer around layer down to the connection, would move all of them
    // and keep them for as long as the answer's body goes out.
    let handled = Box::pin(handler(request.into_inner()));
    let outcome = async {
        let outcome = handled.await.map_err(|failure| match failure {
            Failure::Service(error) => Status::from(error),
            Failure::Status(status) => status,
        });
        let code = outcome.as_ref().map_or_else(Status::code, |_| Code::Ok);
        tracing::debug!(?code, elapsed_ms = started.elapsed().as_millis(), "answered");
        counter!("jetbridge_flight_requests_total", "method" => method, "code" => code_name(code)).increment(1);
        histogram!("jetbridge_flight_request_duration_seconds", "method" => method).record(started.elapsed());
        outcome
    }
    .instrument(span)
    .await;
    with_id(outcome, &id)
}

/// Counts what a DoGet stream sends, and the streams that are open, of which this one has `place`.
pub(super) fn stream<S>(inner: S, place: OwnedSemaphorePermit) -> Pin<Box<Observed<S>>> {
    gauge!("jetbridge_flight_streams").increment(1.0);
    Box::pin(Observed { inner, _place: place })
}

/// A DoGet stream that is counted.
#[derive(Debug)]
pub(super) struct Observed<S> {
    inner: S,
    _place: OwnedSemaphorePermit,
}

impl<S: Stream<Item = Result<Message, Status>> + Unpin> Stream for Observed<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let polled = Pin::new(&mut self.inner).poll_next(context);
        match &polled {
            Poll::Ready(Some(Ok(message))) => {
                let bytes = u64::try_from(message.bytes()).unwrap_or(u64::MAX);
                counter!("jetbridge_flight_sent_bytes_total").increment(bytes);
            }
            Poll::Ready(Some(Err(status))) => {
                counter!("jetbridge_flight_stream_errors_total", "code" => code_name(status.code())).increment(1);
            }
            Poll::Ready(None) | Poll::Pending => {}
        }
        polled
    }
}

impl<S> Drop for Observed<S> {
    fn drop(&mut self) {
        gauge!("jetbridge_flight_streams").decrement(1.0);
    }
}

fn request_id(metadata: &MetadataMap) -> String {
    metadata
        .get(REQUEST_ID_HEADER)
        .and_then(|value| value.to_str().ok())
        .filter(|id| !id.is_empty() && id.len() <= MAX_REQUEST_ID_BYTES)
        .map_or_else(|| uuid::Uuid::now_v7().to_string(), str::to_owned)
}

fn with_id<A>(mut outcome: Result<Response<A>, Status>, id: &str) -> Result<Response<A>, Status> {
    if let Ok(value) = MetadataValue::try_from(id) {
        match &mut outcome {
            Ok(response) => response.metadata_mut().insert(REQUEST_ID_HEADER, value),
            Err(status) => status.metadata_mut().insert(REQUEST_ID_HEADER, value),
        };
    }
    outcome
}

/// The code as gRPC's specification writes it.
pub(crate) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
