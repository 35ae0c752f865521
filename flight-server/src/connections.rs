//! The HTTP/2 connections of the Flight port: accepted, bounded, told to go away, cut.
//!
//! ```text
//! accepting -> (stop) every connection gets a GOAWAY, its streams go on, its client closes -> all gone
//! ```
//! Whoever drops the future cuts what is still open.
//!
//! Why not tonic's server: it passes bodies on one contiguous buffer at a time, and each becomes a DATA frame and a write
//! of its own. Here the bodies' data is a list of buffers, so that a message of twenty is one frame, and its way to the
//! socket one or two vectored writes.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio_util::sync::CancellationToken;

use crate::flight::{AnswerBody, Connection};
use crate::gather::gathering;
use crate::linger::Lingering;
use crate::listen::{Listen, Peer, Socket, greeted, serve_each};

/// Connections that are open at once; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 4096;
/// Calls that one connection may have open at once; a client with more waits. Each takes some tens of KiB besides its rows: ten
/// connections with twice as many had 500 MiB.
const MAX_STREAMS_PER_CONNECTION: u32 = 512;
/// All headers of one request together.
const MAX_HEADER_LIST_BYTES: u32 = 32 << 10;
/// The largest frame that a client may send; answers follow the client's own limit.
const MAX_INBOUND_FRAME_BYTES: u32 = 1 << 20;
/// What a client may send ahead on one stream, and on all streams of a connection.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// What one stream may have queued for its socket before its next message is made. Buffers are queued by reference, so
/// this pins cached bytes rather than copying them.
const MAX_SEND_BUFFER_BYTES: usize = 2 << 20;
/// Streams that a client resets before they were accepted (the "rapid reset" attack) end its connection beyond this.
const MAX_PENDING_RESET_STREAMS: usize = 64;
/// A connection is asked for life after this much silence, and dropped when no answer comes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// What answers the requests of all connections.
pub trait Answer<F>: Fn(Request<Incoming>) -> F + Clone + Send + 'static
where
    F: Future<Output = Response<AnswerBody>> + Send + 'static,
{
}

impl<T, F> Answer<F> for T
where
    T: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<AnswerBody>> + Send + 'static,
{
}

/// Serves until `stop`, then until the last open stream has ended. Each request has its [`Peer`] among its extensions.
pub(crate) async fn serve<F>(listener: impl Listen, answer: impl Answer<F>, stop: CancellationToken)
where
    F: Future<Output = Response<AnswerBody>> + Send + 'static,
{
    let stop_each = stop.clone();
    serve_each(listener, MAX_CONNECTIONS, &stop, move |stream, peer| {
        connection(stream, peer, answer.clone(), stop_each.clone())
    })
    .await;
}

async fn connection<F>(stream: impl Socket, peer: Peer, answer: impl Answer<F>, stop: CancellationToken)
where
    F: Future<Output = Response<AnswerBody>> + Send + 'static,
{
    if let Err(error) = greeted(&stream).await {
        tracing::debug!(%peer, %error, "a connection was dropped");
        return;
    }
    let streams = Arc::new(Connection::default());
    let dead = streams.dead.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(Arc::clone(&streams));
        let answered = answer(request);
        async { Ok::<_, std::convert::Infallible>(answered.await) }
    });
    let (stream, gathered) = gathering(Lingering::new(stream));
    let mut connection = std::pin::pin!(protocol().serve_connection(TokioIo::new(stream), service));
    let outcome = tokio::select! {
        outcome = gathered.driven(connection.as_mut()) => outcome,
        () = dead.cancelled() => {
            tracing::debug!(%peer, "a connection was cut: its client takes nothing");
            return;
        }
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                outcome = gathered.driven(connection) => outcome,
                () = dead.cancelled() => return,
            }
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%peer, error = crate::error::chain(&error), "a connection broke");
    }
}

fn protocol() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS_PER_CONNECTION)
        .max_header_list_size(MAX_HEADER_LIST_BYTES)
        .max_frame_size(MAX_INBOUND_FRAME_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(MAX_SEND_BUFFER_BYTES)
        .max_pending_accept_reset_streams(MAX_PENDING_RESET_STREAMS)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    builder
}
