//! The messages of one answer: HTTP/2 frames in, Flight messages out, each body in memory that there was room for.
//!
//! Whoever waits for the next message may stop waiting and ask again: what came by then is kept.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::BodyExt;
use tonic::body::Body;
use tonic::{Code, Status};

use crate::budget::{Lease, Turn};
use crate::error::{Error, Result, chain};
use crate::frame::{FlightMessage, Parser, Step};
use crate::pool::Pool;

/// A server may end the stream of a client that takes nothing for as long as this; ours waits five minutes unless told otherwise.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// A message that came.
#[derive(Debug)]
pub(crate) struct Came {
    pub(crate) message: FlightMessage,
    /// What its body has of the budget, if it has one.
    pub(crate) lease: Option<Lease>,
}

/// An answer under way. Dropped before its end, it ends at the server.
#[derive(Debug)]
pub(crate) struct Messages {
    body: Body,
    /// What is left of the last frame.
    data: Bytes,
    parser: Parser,
    /// The room for the body that is coming.
    lease: Option<Lease>,
    pool: Arc<Pool>,
    silence: Option<Duration>,
    /// Bytes that came since this was asked last, and time that was spent waiting for them.
    received: usize,
    waited: Duration,
    /// When a frame was last waited for.
    read_until: Instant,
    /// Whether the server was ever kept waiting so long that it may end the stream for it. What it had sent by then still comes.
    was_slow: bool,
}

/// The wait for a frame: it ends when one came, or when nobody waits for it any more.
struct Reading<'a>(&'a mut Instant);

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        *self.0 = Instant::now();
    }
}

impl Messages {
    /// The messages in `body`, which may say nothing for as long as `silence`.
    pub(crate) fn new(body: Body, pool: Arc<Pool>, silence: Option<Duration>) -> Self {
        Self {
            body,
            data: Bytes::new(),
            parser: Parser::default(),
            lease: None,
            pool,
            silence,
            received: 0,
            waited: Duration::ZERO,
            read_until: Instant::now(),
            was_slow: false,
        }
    }

    /// The next message; none at the end. Before it takes a body of so many bytes, it waits for as much room in the budget as
    /// `room_for` says, which may refuse it.
    ///
    /// # Errors
    /// The server's; UNAVAILABLE where the connection broke; DEADLINE_EXCEEDED where nothing came for too long; that of `room_for`.
    pub(crate) async fn next(
        &mut self,
        turn: &Turn,
        room_for: impl Fn(usize) -> Result<usize>,
    ) -> Result<Option<Came>> {
        loop {
            match self.parser.step(&mut self.data)? {
                Step::More => {
                    if !self.more().await? {
                        return Ok(None);
                    }
                }
                Step::Body(bytes) => {
                    let room = turn.take(room_for(bytes)?).await;
                    self.parser.give(self.pool.take(bytes)?)?;
                    self.lease = Some(room);
                }
                Step::Message(message) => {
                    let lease = self.lease.take();
                    return Ok(Some(Came { message, lease }));
                }
            }
        }
    }

    /// Bytes that came since this was asked last.
    pub(crate) fn received_bytes(&mut self) -> usize {
        std::mem::take(&mut self.received)
    }

    /// How long frames were waited for since this was asked last.
    pub(crate) fn waited(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
    }

    /// Whether the server may have ended the stream for what this client did.
    pub(crate) fn was_slow(&self) -> bool {
        self.was_slow
    }

    /// Waits for the next frame; whether there is one, rather than the end.
    async fn more(&mut self) -> Result<bool> {
        self.was_slow |= self.read_until.elapsed() >= PATIENCE;
        let began = Instant::now();
        let body = &mut self.body;
        let reading = Reading(&mut self.read_until);
        let frame = within(self.silence, async { Ok(body.frame().await) }).await;
        drop(reading);
        self.waited += began.elapsed();
        let frame = match frame? {
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
}

/// The status that a stream ends with.
fn ended(trailers: &HeaderMap) -> Result<()> {
    match Status::from_header_map(trailers) {
        Some(status) if status.code() == Code::Ok => Ok(()),
        Some(status) => Err(status.into()),
        None => Err(Error::broken("the stream ended without a status")),
    }
}

/// Waits for something for so long at the most.
///
/// # Errors
/// Its own; DEADLINE_EXCEEDED after that.
pub(crate) async fn within<T>(limit: Option<Duration>, work: impl Future<Output = Result<T>>) -> Result<T> {
    match limit {
        None => work.await,
        Some(limit) => match tokio::time::timeout(limit, work).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => Err(Error::silent(limit)),
        },
    }
}
