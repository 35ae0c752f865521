//! Connections to workers: kept, metered, with the cluster's pass.
//!
//! What goes wrong with a connection comes out as [`super::lost`] says it, and so does an answer that ends without
//! saying that this is its end: gRPC takes the first kind of ending for an error, but the second for a whole answer.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::error::DataFusionError;
use datafusion_distributed::grpc::{BoxCloneSyncChannel, create_worker_client};
use datafusion_distributed::{ChannelResolver, WorkerChannel};
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint, Error};
use url::Url;

use super::lost;
use crate::cluster::pass::Pass;
use crate::cluster::peers::Directory;

/// Connections to one worker. A task has two calls open, and a connection has room for a thousand.
const CHANNELS_PER_WORKER: usize = 4;
/// Most workers that connections are kept to.
const MAX_WORKERS: usize = 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A worker is asked for life after this much silence, and lost when no answer comes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(4);
/// What a worker may send ahead: on one stream, and on all streams of a connection.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Bytes of tasks' answers that came from other nodes.
pub const RECEIVED_BYTES: &str = "jetbridge_sql_exchange_bytes_total";

/// Connections to all workers. Clones share them.
#[derive(Clone)]
pub struct Channels(Arc<Kept>);

struct Kept {
    pass: Pass,
    directory: Arc<dyn Directory>,
    open: Mutex<HashMap<String, [Channel; CHANNELS_PER_WORKER]>>,
    turn: AtomicUsize,
}

impl Channels {
    /// No connection so far. `directory` hears of workers that cannot be reached.
    #[must_use]
    pub fn new(pass: Pass, directory: Arc<dyn Directory>) -> Self {
        Self(Arc::new(Kept {
            pass,
            directory,
            open: Mutex::default(),
            turn: AtomicUsize::new(0),
        }))
    }

    /// A connection to the worker at an address of [`super::crew::address`].
    fn to(&self, url: &Url) -> Result<Metered, DataFusionError> {
        let turn = self.0.turn.fetch_add(1, Ordering::Relaxed) % CHANNELS_PER_WORKER;
        let authority = url.authority();
        let mut open = self.0.open.lock();
        if open.len() >= MAX_WORKERS && !open.contains_key(authority) {
            open.clear();
        }
        let channels = match open.get(authority) {
            Some(channels) => channels,
            None => {
                let endpoint = endpoint(authority).map_err(|error| DataFusionError::External(Box::new(error)))?;
                let channels = std::array::from_fn(|_| endpoint.connect_lazy());
                open.entry(authority.to_owned()).or_insert(channels)
            }
        };
        Ok(Metered {
            channel: channels[turn].clone(),
            id: url.fragment().unwrap_or(authority).into(),
            kept: Arc::clone(&self.0),
        })
    }
}

#[async_trait]
impl ChannelResolver for Channels {
    async fn get_worker_client_for_url(&self, url: &Url) -> Result<Box<dyn WorkerChannel>, DataFusionError> {
        Ok(create_worker_client(BoxCloneSyncChannel::new(self.to(url)?)))
    }
}

impl fmt::Debug for Channels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channels")
            .field("open", &self.0.open.lock().len())
            .finish()
    }
}

fn endpoint(authority: &str) -> Result<Endpoint, Error> {
    Ok(Endpoint::from_shared(format!("http://{authority}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES))
}

/// A connection to one worker.
#[derive(Clone)]
struct Metered {
    channel: Channel,
    id: Arc<str>,
    kept: Arc<Kept>,
}

impl Service<Request<Body>> for Metered {
    type Response = Response<Body>;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Response<Body>, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // Whether the connection is ready is waited for in the call, where a failure can be put into words.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let id = Arc::clone(&this.id);
            Ok(match this.asked(request).await {
                Ok(response) => response,
                Err(status) => {
                    tracing::debug!(worker = %id, %status, "a worker cannot be reached");
                    status.into_http()
                }
            })
        })
    }
}

impl Metered {
    async fn asked(mut self, mut request: Request<Body>) -> Result<Response<Body>, Status> {
        let mut metadata = MetadataMap::new();
        self.kept.pass.show(&mut metadata);
        request.headers_mut().extend(metadata.into_headers());
        let ready = std::future::poll_fn(|context| self.channel.poll_ready(context)).await;
        let answered = match ready {
            Ok(()) => self.channel.call(request).await,
            Err(error) => Err(error),
        };
        match answered {
            Ok(response) => Ok(self.metered(response)),
            Err(error) => {
                self.kept.directory.is_unreachable(&self.id);
                Err(lost::status(&self.id, &crate::error::chain(&error)))
            }
        }
    }

    fn metered(self, response: Response<Body>) -> Response<Body> {
        // An answer of a status alone has it in its headers.
        let is_ended = response.headers().contains_key(Status::GRPC_STATUS);
        response.map(|inner| {
            Body::new(Answer {
                inner,
                id: self.id,
                is_ended,
            })
        })
    }
}

/// What a worker sends.
struct Answer {
    inner: Body,
    id: Arc<str>,
    /// Whether it said that this was all.
    is_ended: bool,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = std::task::ready!(Pin::new(&mut self.inner).poll_frame(context));
        Poll::Ready(match polled {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    metrics::counter!(RECEIVED_BYTES).increment(data.len() as u64);
                }
                self.is_ended |= frame.is_trailers();
                Some(Ok(frame))
            }
            // What the worker has to say of an error comes as a trailer; this is the connection's.
            Some(Err(status)) => Some(Err(lost::status(&self.id, &status.message()))),
            None if self.is_ended => None,
            None => {
                self.is_ended = true;
                Some(Err(lost::status(&self.id, &"its answer broke off")))
            }
        })
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use futures::stream;
    use http::HeaderMap;
    use http_body_util::{BodyExt, StreamBody};

    use super::*;
    use crate::sql::distributed::lost::{Loss, told_by};

    fn answer(frames: Vec<Result<Frame<Bytes>, Status>>) -> Answer {
        Answer {
            inner: Body::new(StreamBody::new(stream::iter(frames))),
            id: "w-1".into(),
            is_ended: false,
        }
    }

    async fn last(answer: Answer) -> Option<Result<Frame<Bytes>, Status>> {
        let frames: Vec<_> = stream::unfold(answer, |mut answer| async {
            let frame = answer.frame().await?;
            Some((frame, answer))
        })
        .collect()
        .await;
        frames.into_iter().next_back()
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_a_loss_and_never_an_end() {
        let data = || Ok(Frame::data(Bytes::from_static(b"rows")));
        let trailers = || Ok(Frame::trailers(HeaderMap::new()));
        let whole = last(answer(vec![data(), trailers()])).await.unwrap().unwrap();
        assert!(whole.is_trailers());
        let broken = last(answer(vec![data(), data()])).await.unwrap().unwrap_err();
        assert_eq!(told_by(&broken), Some(Loss::Of("w-1".to_owned())));
        let reset = last(answer(vec![data(), Err(Status::internal("h2 protocol error"))])).await;
        assert_eq!(told_by(&reset.unwrap().unwrap_err()), Some(Loss::Of("w-1".to_owned())));
    }

    #[derive(Debug, Default)]
    struct Heard(Mutex<Vec<String>>);

    impl Directory for Heard {
        fn address_of(&self, _: &str) -> Option<String> {
            None
        }

        fn is_unreachable(&self, id: &str) {
            self.0.lock().push(id.to_owned());
        }
    }

    #[tokio::test]
    async fn a_worker_that_cannot_be_reached_is_lost_and_the_directory_hears_of_it() {
        let heard = Arc::new(Heard::default());
        let channels = Channels::new(Pass::of(None).unwrap(), Arc::clone(&heard) as _);
        // Nobody listens on the port of a socket that was closed again.
        let url = super::super::crew::address("w-2", "grpc://127.0.0.1:1").unwrap();
        let mut client = channels.get_worker_client_for_url(&url).await.unwrap();
        let error = client
            .get_worker_info(datafusion_distributed::GetWorkerInfoRequest {})
            .await
            .err()
            .unwrap();
        assert_eq!(told_by(&error), Some(Loss::Of("w-2".to_owned())), "{error}");
        assert_eq!(*heard.0.lock(), ["w-2"]);
    }
}
