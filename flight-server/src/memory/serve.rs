//! The server's side of a connection.
//!
//! ```text
//! accepted -- peer checked, first bytes --> idle -- get --> streaming -- end, error --> idle
//! ```
//! Two futures share a connection: one reads what the client says, so that releases and hang-ups are seen while a stream is
//! under way, the other writes. Whichever ends takes the other with it, and all leases go.
//!
//! Pull-based: a batch is taken from the scan when the frames before it are with the kernel. A client that takes its time over
//! one has the scan paused meanwhile, and one that takes nothing at all for the stall timeout is cut.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::BufMut;
use futures::StreamExt;
use jetbridge_cache::chunk::Segment;
use jetbridge_cache::scan::{Pause, ScanBatch, Taker};
use metrics::{counter, gauge};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::describe::{Described, Inline, describe};
use super::leases::{Holder, Leases, to_u64};
use super::send::send;
use super::wire::{
    self, Answer, Batch, FrameError, Get, MAX_HEADER_BYTES, MAX_SEGMENTS_PER_FRAME, PREFIX_BYTES, Prefix, Request,
};
use crate::error::ServiceError;
use crate::flight::code_name;
use crate::listen::{greeted, serve_each};
use crate::node::Node;
use crate::redeem;
use crate::streams::Streams;

/// Connections that are open at once; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 256;
/// A frame that has begun comes whole within this time.
const FRAME_TIMEOUT: Duration = Duration::from_secs(10);
/// What is read of a header at once; what a client announces is not believed before it comes.
const READ_BYTES: usize = 64 << 10;
/// Bytes of a batch of columns that are all kept, at most: no byte of it is moved, and each batch costs its reader as much as any.
const BATCH_BYTES: usize = 32 << 20;
/// All clients together may hold one part in this many of the cache's budget.
const LEASE_SHARE: u64 = 2;

/// Shares the memory of one node.
#[derive(Debug, Clone)]
pub struct Door {
    node: Arc<Node>,
    leases: Arc<Leases>,
    /// Those of this door are among them.
    streams: Streams,
}

impl Door {
    /// The door of `node`. What clients hold may be half of its cache's budget; beyond that they are sent bytes.
    #[must_use]
    pub fn new(node: Arc<Node>, streams: Streams) -> Self {
        let limit_bytes = node.cache.budget_bytes() / LEASE_SHARE;
        Self::with(node, limit_bytes, streams)
    }

    /// A door with a limit of its own on leases.
    pub(super) fn with(node: Arc<Node>, limit_bytes: u64, streams: Streams) -> Self {
        Self {
            node,
            leases: Leases::new(limit_bytes),
            streams,
        }
    }

    /// Bytes that clients hold.
    #[cfg(test)]
    pub(super) fn leased_bytes(&self) -> u64 {
        self.leases.bytes()
    }
}

/// Serves until `stop`, then until the last stream has ended.
pub(crate) async fn serve(listener: UnixListener, door: Door, stop: CancellationToken) {
    let stop_each = stop.clone();
    serve_each(listener, MAX_CONNECTIONS, &stop, move |stream, _| {
        connection(stream, door.clone(), stop_each.clone())
    })
    .await;
}

async fn connection(stream: UnixStream, door: Door, stop: CancellationToken) {
    let _open = Counted::new("jetbridge_memory_connections");
    let outcome = async {
        admit(&stream)?;
        greeted(&stream).await?;
        let connection = Connection {
            holder: Holder::new(&door.leases),
            stream: &stream,
            door: &door,
        };
        let (ask, asked) = mpsc::channel(1);
        tokio::select! {
            outcome = connection.listen(ask) => outcome,
            outcome = connection.answer(asked, &stop) => outcome,
        }
    };
    if let Err(error) = outcome.await {
        tracing::debug!(%error, "a connection for shared memory broke");
    }
}

/// Only the server's own user and root; the socket's mode says so too, but not after a change of user.
fn admit(stream: &UnixStream) -> io::Result<()> {
    let (peer, own) = (stream.peer_cred()?.uid(), rustix::process::geteuid().as_raw());
    if peer == own || peer == 0 {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("user {peer}")))
    }
}

/// What the reading side passes on to the writing one.
enum Asked {
    Get {
        ticket: Vec<u8>,
        batch_bytes: usize,
        cancelled: CancellationToken,
    },
    /// Something that cannot be understood, after which nothing can be.
    Nonsense(Status),
}

struct Connection<'a> {
    stream: &'a UnixStream,
    door: &'a Door,
    holder: Holder,
}

/// Why a stream ends before its rows do.
enum Failed {
    /// The client is told, and may go on.
    Status(Status),
    /// The client is gone.
    Io(io::Error),
}

impl Connection<'_> {
    /// Reads what the client says, until it says no more.
    async fn listen(&self, ask: mpsc::Sender<Asked>) -> io::Result<()> {
        let mut last = CancellationToken::new();
        while let Some(request) = read_request(self.stream).await? {
            let asked = match request {
                Ok(Request::Release(ids)) => {
                    self.holder.release(&ids);
                    continue;
                }
                Ok(Request::Cancel {}) => {
                    last.cancel();
                    continue;
                }
                Ok(Request::Get(get)) => {
                    last = CancellationToken::new();
                    asked_for(&get, &last)
                }
                Err(status) => {
                    last.cancel();
                    Asked::Nonsense(status)
                }
            };
            let is_last = matches!(asked, Asked::Nonsense(_));
            if ask.send(asked).await.is_err() || is_last {
                // The other side has the last word, and ends the connection.
                return std::future::pending().await;
            }
        }
        Ok(())
    }

    /// Answers one request after the other, until there are no more, or the server stops.
    async fn answer(&self, mut asked: mpsc::Receiver<Asked>, stop: &CancellationToken) -> io::Result<()> {
        loop {
            let asked = tokio::select! {
                biased;
                asked = asked.recv() => asked,
                () = stop.cancelled() => None,
            };
            let (end, is_last) = match asked {
                None => return Ok(()),
                Some(Asked::Nonsense(status)) => (error(&status), true),
                Some(Asked::Get {
                    ticket,
                    batch_bytes,
                    cancelled,
                }) => (self.stream((&ticket, batch_bytes), &cancelled).await?, false),
            };
            // An end and an error fit into a frame, so only the client's absence is in the way.
            if let Err(Failed::Io(error)) = self.say(&end, &Inline::default(), &[]).await {
                return Err(error);
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// Sends the rows of a ticket, where there is a place for one more stream; what is left to say is how it ended.
    async fn stream(&self, get: (&[u8], usize), cancelled: &CancellationToken) -> io::Result<Answer> {
        let sent = async {
            let _place = self.door.streams.enter()?;
            let _open = Counted::new("jetbridge_memory_streams");
            self.rows(get, cancelled).await
        };
        let (code, end) = match sent.await {
            Ok(batches) => (Code::Ok, Answer::End { batches }),
            Err(Failed::Status(status)) => (status.code(), error(&status)),
            Err(Failed::Io(error)) => return Err(error),
        };
        counter!("jetbridge_memory_streams_total", "code" => code_name(code)).increment(1);
        Ok(end)
    }

    /// Sends schema and batches, and gives the number of batches.
    async fn rows(&self, (ticket, batch_bytes): (&[u8], usize), cancelled: &CancellationToken) -> Result<u64, Failed> {
        let mut redeemed = redeem::redeem(&self.door.node, ticket)?;
        redeemed.request.taker = Taker::Maps { batch_bytes };
        let mut rows = redeemed.rows();
        let schema = wire::schema_message(&rows.schema).map_err(|error| ServiceError::Internal {
            what: format!("encoding a schema: {error}"),
        })?;
        self.say(&Answer::Schema(BASE64.encode(schema)), &Inline::default(), &[])
            .await?;
        self.holder.begin_stream();
        let mut batches = 0;
        loop {
            let next = tokio::select! {
                biased;
                () = cancelled.cancelled() => return Err(Failed::Status(Status::cancelled("the client wants no more"))),
                next = rows.batches.next() => next,
            };
            let Some(batch) = next else { return Ok(batches) };
            let batch = batch?;
            self.unhurried(self.batch(batches, &batch), &rows.pause).await?;
            batches += 1;
        }
    }

    /// What `sending` comes to. Where the client takes its time, what the scan holds ahead is let go of until it is asked again.
    async fn unhurried<T>(&self, sending: impl Future<Output = T>, scan: &Pause) -> T {
        let mut sending = pin!(sending);
        let hurried = tokio::time::timeout(self.door.streams.pause_after(), &mut sending);
        if let Ok(sent) = hurried.await {
            return sent;
        }
        if scan.pause() {
            counter!("jetbridge_memory_streams_paused_total").increment(1);
        }
        sending.await
    }

    /// Hands over what the client does not have yet of a batch, then sends the batch.
    async fn batch(&self, index: u64, batch: &ScanBatch) -> Result<(), Failed> {
        let (described, new) = self.described(batch);
        for some in new.chunks(MAX_SEGMENTS_PER_FRAME) {
            let (entries, segments): (Vec<_>, Vec<_>) = some.iter().cloned().unzip();
            self.say(&Answer::Segments(entries), &Inline::default(), &segments)
                .await?;
        }
        let inline_bytes = to_u64(described.inline.bytes());
        counter!("jetbridge_memory_sent_bytes_total", "kind" => "shared").increment(described.shared_bytes);
        counter!("jetbridge_memory_sent_bytes_total", "kind" => "inline").increment(inline_bytes);
        let header = Answer::Batch(Batch {
            index,
            rows: to_u64(batch.batch.num_rows()),
            source: batch.source.as_str().to_owned(),
            columns: described.columns,
            done: self.holder.used(described.used),
        });
        self.say(&header, &described.inline, &[]).await
    }

    /// A batch, and the segments that are to be handed over before it.
    fn described(&self, batch: &ScanBatch) -> (Described, Vec<(wire::Segment, Arc<Segment>)>) {
        let mut new = Vec::new();
        let described = describe(&batch.batch, |buffer| {
            let (segment, offset) = self.door.node.cache.segment_of(buffer)?;
            let reference = self.holder.refer(&segment)?;
            if let Some(segment) = reference.new {
                let (id, bytes) = (reference.id, to_u64(segment.bytes()));
                new.push((wire::Segment { id, bytes }, segment));
            }
            Some((reference.id, offset))
        });
        (described, new)
    }

    async fn say(&self, answer: &Answer, inline: &Inline, segments: &[Arc<Segment>]) -> Result<(), Failed> {
        let head = wire::head(answer, inline.bytes())?;
        let patience = self.door.streams.stall_timeout();
        Ok(send(self.stream, &head, inline, segments, patience).await?)
    }
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<ServiceError> for Failed {
    fn from(error: ServiceError) -> Self {
        Self::Status(error.into())
    }
}

impl From<FrameError> for Failed {
    fn from(error: FrameError) -> Self {
        Self::Status(Status::resource_exhausted(crate::error::chain(&error)))
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn error(status: &Status) -> Answer {
    Answer::Error {
        code: status.code().into(),
        code_name: code_name(status.code()).to_owned(),
        message: status.message().to_owned(),
    }
}

/// The next thing that a client says, or why it cannot be understood; none where it has hung up.
async fn read_request(stream: &UnixStream) -> io::Result<Option<Result<Request, Status>>> {
    // Between two frames a client may be silent for as long as it likes.
    let mut first = [0];
    if !fill(stream, &mut first).await? {
        return Ok(None);
    }
    let header = async {
        let mut prefix = [0; PREFIX_BYTES];
        prefix[..1].copy_from_slice(&first);
        if !fill(stream, &mut prefix[1..]).await? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match header_bytes(Prefix::read(prefix)) {
            Ok(bytes) => read_header(stream, bytes).await.map(Ok),
            Err(status) => Ok(Err(status)),
        }
    };
    let header = tokio::time::timeout(FRAME_TIMEOUT, header).await??;
    Ok(Some(header.and_then(|header| parse(&header))))
}

/// How long a client's header is.
fn header_bytes(prefix: Prefix) -> Result<usize, Status> {
    if prefix.inline_bytes != 0 {
        return Err(nonsense("a client sends no inline bytes"));
    }
    let bytes = usize::try_from(prefix.header_bytes).ok();
    bytes.filter(|bytes| *bytes <= MAX_HEADER_BYTES).ok_or_else(|| {
        nonsense(&format!(
            "a header of {} bytes is more than the {MAX_HEADER_BYTES} that one may have",
            prefix.header_bytes
        ))
    })
}

async fn read_header(stream: &UnixStream, bytes: usize) -> io::Result<Vec<u8>> {
    let mut header = Vec::new();
    while header.len() < bytes {
        stream.readable().await?;
        let some = (bytes - header.len()).min(READ_BYTES);
        match stream.try_read_buf(&mut (&mut header).limit(some)) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(header)
}

/// Fills a buffer; false where the stream ends before its first byte.
async fn fill(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<bool> {
    let mut filled = 0;
    while filled < buffer.len() {
        stream.readable().await?;
        match stream.try_read(&mut buffer[filled..]) {
            Ok(0) if filled == 0 => return Ok(false),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

fn parse(header: &[u8]) -> Result<Request, Status> {
    serde_json::from_slice(header).map_err(|error| nonsense(&format!("the header says nothing known: {error}")))
}

fn asked_for(get: &Get, cancelled: &CancellationToken) -> Asked {
    let wanted = get.batch_bytes.and_then(|bytes| usize::try_from(bytes).ok());
    match BASE64.decode(&get.ticket) {
        Ok(ticket) => Asked::Get {
            ticket,
            batch_bytes: wanted.map_or(BATCH_BYTES, |bytes| bytes.min(BATCH_BYTES)),
            cancelled: cancelled.clone(),
        },
        Err(error) => Asked::Nonsense(nonsense(&format!("the ticket is not base64: {error}"))),
    }
}

fn nonsense(what: &str) -> Status {
    Status::invalid_argument(what)
}

/// One more in a gauge, until it is dropped.
struct Counted(&'static str);

impl Counted {
    fn new(name: &'static str) -> Self {
        gauge!(name).increment(1.0);
        Self(name)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        gauge!(self.0).decrement(1.0);
    }
}
