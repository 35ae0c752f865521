//! The endpoints of one etcd, of which one is in use until it fails; the limit of time of every call; the token
//! of a user.
//!
//! Why not tonic's balancing over the endpoints: it sends calls to the endpoint with the fewest under way, and
//! one that refuses connections always has none.
//!
//! Lock order: `token` alone, never held across an await.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::uri::PathAndQuery;
use parking_lot::Mutex;
use prost::Message;
use tokio_stream::Stream;
use tonic::client::Grpc;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, ConnectError, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::messages::{AuthenticateRequest, AuthenticateResponse};
use crate::{Credentials, EtcdError};

/// The longest answer that is read, in bytes: a list of all there is.
const MAX_ANSWER_BYTES: usize = 256 * 1024 * 1024;

/// How often a connection with a call under way is asked for a sign of life. etcd hangs up on clients that ask
/// more often than every 5 s.
const PING_INTERVAL: Duration = Duration::from_secs(6);

/// How long it may take to give that sign.
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// What the token is called among the headers of a call.
const TOKEN_HEADER: &str = "token";

/// Connections to all endpoints. Clones share them.
#[derive(Clone)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
}

struct Shared {
    endpoints: Vec<(String, Channel)>,
    /// Counts the changes of endpoint; the one in use is this modulo their number.
    turns: AtomicUsize,
    credentials: Option<Credentials>,
    token: Mutex<Option<AsciiMetadataValue>>,
    limit: Duration,
}

impl Connection {
    pub(crate) fn new(
        endpoints: &[String],
        credentials: Option<Credentials>,
        limit: Duration,
    ) -> Result<Self, EtcdError> {
        if endpoints.is_empty() {
            return Err(EtcdError::NoEndpoint);
        }
        // One that swallows packets must leave time to try the next.
        let connect_timeout = limit / u32::try_from(endpoints.len() + 1).unwrap_or(u32::MAX);
        let endpoints = endpoints
            .iter()
            .map(|text| Ok((text.clone(), channel(text, connect_timeout)?)));
        let shared = Shared {
            endpoints: endpoints.collect::<Result<_, EtcdError>>()?,
            turns: AtomicUsize::new(0),
            credentials,
            token: Mutex::new(None),
            limit,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Sends one message and gives the one that answers it.
    pub(crate) async fn unary<Q, A>(&self, path: &'static str, message: Q) -> Result<A, EtcdError>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        self.attempt(|mut grpc, headers| {
            let request = Request::from_parts(headers, tonic::Extensions::default(), message.clone());
            async move {
                ready(&mut grpc).await?;
                let path = PathAndQuery::from_static(path);
                let answer = grpc.unary(request, path, ProstCodec::<Q, A>::default()).await?;
                Ok(answer.into_inner())
            }
        })
        .await
    }

    /// Sends one message where a stream is expected, and gives the first that answers it.
    pub(crate) async fn one_of_stream<Q, A>(&self, path: &'static str, message: Q) -> Result<A, EtcdError>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        self.attempt(|grpc, headers| {
            let messages = tokio_stream::once(message.clone());
            async move {
                let mut answers = stream::<Q, A>(grpc, headers, path, messages).await?;
                let ended = || Status::unavailable("the stream ended without an answer");
                answers.message().await?.ok_or_else(ended)
            }
        })
        .await
    }

    /// Makes a call, within the limit: with the token, if need be with a new one; on the next endpoint where one
    /// could not be connected to, and so did not see it.
    pub(crate) async fn attempt<T, F, R>(&self, call: F) -> Result<T, EtcdError>
    where
        F: Fn(Grpc<Channel>, MetadataMap) -> R,
        R: Future<Output = Result<T, Status>>,
    {
        let limit = self.shared.limit;
        match tokio::time::timeout(limit, self.attempts(call)).await {
            Ok(done) => done,
            Err(_) => {
                let turn = self.shared.turns.load(Ordering::Relaxed);
                let endpoint = self.endpoint(turn).0.clone();
                self.turn(turn);
                Err(EtcdError::Slow { endpoint, limit })
            }
        }
    }

    /// What a stream that was open failed with. The next call goes to the next endpoint.
    pub(crate) fn stream_failure(&self, turn: usize, status: &Status) -> EtcdError {
        if is_away(status) {
            self.turn(turn);
        }
        failure(&self.endpoint(turn).0, status)
    }

    /// Which endpoint is in use, for [`Self::stream_failure`].
    pub(crate) fn current_turn(&self) -> usize {
        self.shared.turns.load(Ordering::Relaxed)
    }

    async fn attempts<T, F, R>(&self, call: F) -> Result<T, EtcdError>
    where
        F: Fn(Grpc<Channel>, MetadataMap) -> R,
        R: Future<Output = Result<T, Status>>,
    {
        let mut others = self.shared.endpoints.len() - 1;
        let mut may_renew = self.shared.credentials.is_some();
        loop {
            let turn = self.shared.turns.load(Ordering::Relaxed);
            let (endpoint, channel) = self.endpoint(turn);
            let result = match self.headers(channel).await {
                Ok(headers) => call(grpc(channel), headers).await,
                Err(status) => Err(status),
            };
            let status = match result {
                Ok(done) => return Ok(done),
                Err(status) => status,
            };
            if may_renew && wants_token(&status) {
                may_renew = false;
                *self.shared.token.lock() = None;
                continue;
            }
            if is_away(&status) {
                self.turn(turn);
            }
            if others == 0 || !was_never_sent(&status) {
                return Err(failure(endpoint, &status));
            }
            others -= 1;
        }
    }

    fn endpoint(&self, turn: usize) -> &(String, Channel) {
        let endpoints = &self.shared.endpoints;
        &endpoints[turn % endpoints.len()]
    }

    /// Goes on to the next endpoint, unless another call did so already.
    fn turn(&self, from: usize) {
        let next = from.wrapping_add(1);
        let turns = &self.shared.turns;
        let _ = turns.compare_exchange(from, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The headers of a call: the token, if there is a user. It asks for one where there is none yet.
    async fn headers(&self, channel: &Channel) -> Result<MetadataMap, Status> {
        let mut headers = MetadataMap::new();
        // A member that has lost the others must end its watches, and not fall silent.
        headers.insert("hasleader", AsciiMetadataValue::from_static("true"));
        let Some(credentials) = &self.shared.credentials else {
            return Ok(headers);
        };
        let known = self.shared.token.lock().clone();
        let token = match known {
            Some(token) => token,
            None => self.authenticate(channel, credentials).await?,
        };
        headers.insert(TOKEN_HEADER, token);
        Ok(headers)
    }

    async fn authenticate(&self, channel: &Channel, credentials: &Credentials) -> Result<AsciiMetadataValue, Status> {
        let request = AuthenticateRequest {
            name: credentials.user.clone(),
            password: credentials.password.clone(),
        };
        let mut grpc = grpc(channel);
        ready(&mut grpc).await?;
        let path = PathAndQuery::from_static("/etcdserverpb.Auth/Authenticate");
        let codec = ProstCodec::<AuthenticateRequest, AuthenticateResponse>::default();
        let answer = grpc.unary(Request::new(request), path, codec).await?.into_inner();
        let token = AsciiMetadataValue::try_from(answer.token)
            .map_err(|_| Status::internal("etcd gave a token that is no header"))?;
        *self.shared.token.lock() = Some(token.clone());
        Ok(token)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoints: Vec<_> = self.shared.endpoints.iter().map(|(text, _)| text).collect();
        f.debug_struct("Connection")
            .field("endpoints", &endpoints)
            .field("limit", &self.shared.limit)
            .finish_non_exhaustive()
    }
}

/// Opens a stream both ways.
pub(crate) async fn stream<Q, A>(
    mut grpc: Grpc<Channel>,
    headers: MetadataMap,
    path: &'static str,
    messages: impl Stream<Item = Q> + Send + 'static,
) -> Result<Streaming<A>, Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    ready(&mut grpc).await?;
    let request = Request::from_parts(headers, tonic::Extensions::default(), messages);
    let path = PathAndQuery::from_static(path);
    let answers = grpc.streaming(request, path, ProstCodec::<Q, A>::default()).await?;
    Ok(answers.into_inner())
}

fn channel(text: &str, connect_timeout: Duration) -> Result<Channel, EtcdError> {
    let wrong = || EtcdError::Endpoint {
        endpoint: text.to_owned(),
    };
    let uri: http::Uri = text.parse().map_err(|_| wrong())?;
    if uri.scheme_str() != Some("http") || uri.port_u16().is_none() {
        return Err(wrong());
    }
    let endpoint = Endpoint::from(uri)
        .connect_timeout(connect_timeout)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    Ok(endpoint.connect_lazy())
}

fn grpc(channel: &Channel) -> Grpc<Channel> {
    Grpc::new(channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
}

async fn ready(grpc: &mut Grpc<Channel>) -> Result<(), Status> {
    grpc.ready().await.map_err(|error| Status::from_error(error.into()))
}

fn wants_token(status: &Status) -> bool {
    // A token that ran out, and one that was made before the rights changed.
    status.code() == Code::Unauthenticated || status.message().contains("revision of auth store is old")
}

fn is_away(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::Unknown | Code::Internal
    )
}

/// Whether a call failed because there was no connection: nobody can have seen it.
fn was_never_sent(status: &Status) -> bool {
    causes(status).any(|cause| cause.is::<ConnectError>())
}

fn causes(status: &Status) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(status.source(), |&cause| cause.source())
}

fn failure(endpoint: &str, status: &Status) -> EtcdError {
    let mut reason = status.message().to_owned();
    for cause in causes(status) {
        let text = cause.to_string();
        if !reason.contains(&text) {
            reason.push_str(": ");
            reason.push_str(&text);
        }
    }
    if status.code() == Code::NotFound && reason.contains("lease not found") {
        return EtcdError::NoLease;
    }
    if is_away(status) {
        let endpoint = endpoint.to_owned();
        EtcdError::Unreachable { endpoint, reason }
    } else {
        EtcdError::Refused { reason }
    }
}
