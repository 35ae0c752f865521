//! A client in Rust: blocking, arrays in place over the server's memory.
//!
//! Trust: layouts and bounds are always checked, so that no description makes this process read beyond what it has mapped by
//! itself. The values within (offsets of strings, keys of dictionaries, UTF-8) are taken on the server's word, since checking
//! would read all of them; whoever owns the socket's folder is trusted with that. [`Client::checking_values`] checks them too.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::buffer::{Buffer, MutableBuffer};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::convert::try_schema_from_ipc_buffer;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};

use super::arrays::Memory;
use super::mapping::{Ledger, Mapping};
use super::wire::{
    Answer, Batch, Get, MAX_HEADER_BYTES, MAX_SEGMENTS_PER_FRAME, PREFIX_BYTES, Prefix, Segment, SegmentId,
};

/// Why rows did not come.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens there, or not to this user.
    #[error("cannot connect to {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The connection broke, or memory cannot be mapped.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// The server's error.
    #[error("{code_name}: {message}")]
    Refused {
        /// The gRPC status code.
        code: i32,
        /// Its name, as `ABORTED`.
        code_name: String,
        /// What happened.
        message: String,
    },
    /// The server says what makes no sense.
    #[error("the server breaks the protocol: {0}")]
    Protocol(String),
    /// Arrays that do not fit their types.
    #[error("an array does not fit its type")]
    Array(#[from] ArrowError),
    /// An earlier error left the connection in the middle of something.
    #[error("the connection failed before; make a new one")]
    Broken,
}

/// A connection to a server's shared memory. One stream at a time; arrays that came over it stay valid when it is dropped, and
/// keep the connection open until the last of them goes.
#[derive(Debug)]
pub struct Client {
    ledger: Arc<Ledger>,
    /// How long the begin of a stream is waited for, and how long a batch.
    answers_within: Option<Duration>,
    patience: Option<Duration>,
    check_values: bool,
    batch_bytes: Option<u64>,
    is_broken: bool,
}

/// The batches of one ticket. Dropped before its end, it ends the reading at the server.
pub struct Batches<'a> {
    client: &'a mut Client,
    schema: SchemaRef,
    /// Whatever the rest of the stream may refer to, in use or not.
    segments: HashMap<SegmentId, Arc<Mapping>>,
    source: String,
    inline_bytes: u64,
    next: u64,
    has_ended: bool,
}

/// Ends a connection from another thread: whoever waits for it gets an error.
#[derive(Debug, Clone)]
pub struct Stopper {
    ledger: Weak<Ledger>,
}

impl Stopper {
    /// Ends the connection. Arrays that came over it stay valid.
    pub fn stop(&self) {
        if let Some(ledger) = self.ledger.upgrade() {
            ledger.shut_down();
        }
    }
}

impl fmt::Debug for Batches<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batches")
            .field("schema", &self.schema)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Connects to a server's `memory.sock`.
    ///
    /// # Errors
    /// [`ClientError::Connect`].
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).map_err(|source| ClientError::Connect {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            ledger: Ledger::new(stream),
            answers_within: None,
            patience: None,
            check_values: false,
            batch_bytes: None,
            is_broken: false,
        })
    }

    /// How long the server may say nothing while a batch is waited for; the connection counts as broken then. Default: for ever.
    ///
    /// # Errors
    /// A time that the system does not take.
    pub fn with_patience(self, patience: Option<Duration>) -> Result<Self, ClientError> {
        self.ledger.stream.set_read_timeout(patience)?;
        Ok(Self { patience, ..self })
    }

    /// How long the server may take to begin a stream, for which it reads nothing: one that has as many connections as it takes
    /// leaves further ones waiting, and lets them say what they like. Default: as long as for a batch.
    #[must_use]
    pub fn answering_within(self, limit: Duration) -> Self {
        Self {
            answers_within: Some(limit),
            ..self
        }
    }

    /// How long batches may be from now on, where their columns are all kept. Default: as the server likes, up to 32 MiB.
    pub fn limit_batches(&mut self, bytes: Option<u64>) {
        self.batch_bytes = bytes;
    }

    /// Whether no ticket can be redeemed here any more.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// What ends the stream under way from another thread.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper {
            ledger: Arc::downgrade(&self.ledger),
        }
    }

    /// Checks the values of every array as well, at the price of reading all of them. Default: not.
    #[must_use]
    pub fn checking_values(self) -> Self {
        Self {
            check_values: true,
            ..self
        }
    }

    /// Asks for the rows of a ticket, as GetFlightInfo gave it.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with what the server says of the ticket; a connection that broke.
    pub fn get(&mut self, ticket: &[u8]) -> Result<Batches<'_>, ClientError> {
        if self.is_broken {
            return Err(ClientError::Broken);
        }
        // Until the stream is under way, whatever goes wrong leaves the connection where nobody knows.
        self.is_broken = true;
        self.ledger
            .stream
            .set_read_timeout(self.answers_within.or(self.patience))?;
        let segments = self.ledger.get(Get {
            ticket: BASE64.encode(ticket),
            batch_bytes: self.batch_bytes,
        })?;
        let schema = match self.read()?.answer {
            Answer::Schema(schema) => schema,
            other => return Err(self.out_of_turn(other)),
        };
        let message = BASE64
            .decode(schema)
            .map_err(|error| ClientError::Protocol(format!("the schema is not base64: {error}")))?;
        let schema = Arc::new(try_schema_from_ipc_buffer(&message)?);
        self.ledger.stream.set_read_timeout(self.patience)?;
        self.is_broken = false;
        Ok(Batches {
            client: self,
            schema,
            segments,
            source: String::new(),
            inline_bytes: 0,
            next: 0,
            has_ended: false,
        })
    }

    /// The error of an answer that does not belong there; the server's own ends the stream and nothing else.
    fn out_of_turn(&mut self, answer: Answer) -> ClientError {
        match answer {
            Answer::Error {
                code,
                code_name,
                message,
            } => {
                self.is_broken = false;
                ClientError::Refused {
                    code,
                    code_name,
                    message,
                }
            }
            other => ClientError::Protocol(format!("out of turn: {other:?}")),
        }
    }

    fn read(&self) -> Result<Frame, ClientError> {
        let mut descriptors = Vec::new();
        let prefix = Prefix::read(read_prefix(&self.ledger.stream, &mut descriptors)?);
        let length = |bytes: u32| usize::try_from(bytes).map_err(io::Error::other);
        let (header_bytes, inline_bytes) = (length(prefix.header_bytes)?, length(prefix.inline_bytes)?);
        if header_bytes > MAX_HEADER_BYTES {
            return Err(ClientError::Protocol(format!("a header of {header_bytes} bytes")));
        }
        let mut stream = &self.ledger.stream;
        let mut header = vec![0; header_bytes];
        stream.read_exact(&mut header)?;
        let answer = serde_json::from_slice(&header).map_err(|error| ClientError::Protocol(error.to_string()))?;
        let mut inline = MutableBuffer::from_len_zeroed(inline_bytes);
        stream.read_exact(&mut inline)?;
        let expected = match &answer {
            Answer::Segments(segments) => segments.len(),
            _ => 0,
        };
        if expected != descriptors.len() {
            let given = descriptors.len();
            return Err(ClientError::Protocol(format!(
                "{given} descriptors for {expected} segments"
            )));
        }
        Ok(Frame {
            answer,
            inline: inline.into(),
            descriptors,
        })
    }
}

/// What came.
struct Frame {
    answer: Answer,
    inline: Buffer,
    descriptors: Vec<OwnedFd>,
}

impl Batches<'_> {
    /// The schema of the batches.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The slowest tier that the last batch came from: `memory`, `disk` or `store`; empty before the first.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Bytes that came over the socket so far, rather than in shared memory.
    #[must_use]
    pub fn inline_bytes(&self) -> u64 {
        self.inline_bytes
    }

    /// The next batch; none at the end.
    fn read(&mut self) -> Result<Option<RecordBatch>, ClientError> {
        loop {
            let frame = self.client.read()?;
            match frame.answer {
                Answer::Segments(segments) => self.map(&segments, frame.descriptors)?,
                Answer::Batch(batch) => return self.batch(&batch, frame.inline).map(Some),
                Answer::End { batches } if batches == self.next => {
                    self.end();
                    return Ok(None);
                }
                other => return Err(self.client.out_of_turn(other)),
            }
        }
    }

    fn map(&mut self, segments: &[Segment], descriptors: Vec<OwnedFd>) -> Result<(), ClientError> {
        for (segment, descriptor) in segments.iter().zip(descriptors) {
            let mapping = self.client.ledger.map(segment, descriptor)?;
            self.segments.insert(segment.id, mapping);
        }
        Ok(())
    }

    fn batch(&mut self, batch: &Batch, inline: Buffer) -> Result<RecordBatch, ClientError> {
        let fields = self.schema.fields();
        if batch.index != self.next || batch.columns.len() != fields.len() {
            let (index, columns) = (batch.index, batch.columns.len());
            return Err(ClientError::Protocol(format!("batch {index} of {columns} columns")));
        }
        self.next += 1;
        self.inline_bytes += u64::try_from(inline.len()).map_err(io::Error::other)?;
        self.source.clone_from(&batch.source);
        let memory = Memory {
            segments: &self.segments,
            inline,
            check_values: self.client.check_values,
        };
        let columns = fields.iter().zip(&batch.columns);
        let columns = columns.map(|(field, column)| memory.column(field.data_type(), column));
        let columns = columns.collect::<Result<_, _>>()?;
        let rows = usize::try_from(batch.rows).map_err(io::Error::other)?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        // What the rest of the stream does not use goes with its last array, which may be now.
        for id in &batch.done {
            self.segments.remove(id);
        }
        Ok(rows)
    }

    fn end(&mut self) {
        self.has_ended = true;
        self.segments.clear();
    }

    /// Reads the stream to its end, and drops what comes.
    fn skip(&mut self) -> Result<(), ClientError> {
        self.client.ledger.cancel()?;
        loop {
            let frame = self.client.read()?;
            match frame.answer {
                // They count as held until they are released, which they are when they go.
                Answer::Segments(segments) => self.map(&segments, frame.descriptors)?,
                Answer::Batch(_) => {}
                Answer::End { .. } | Answer::Error { .. } => return Ok(()),
                Answer::Schema(_) => return Err(ClientError::Protocol("a second schema".to_owned())),
            }
        }
    }
}

impl Iterator for Batches<'_> {
    type Item = Result<RecordBatch, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_ended {
            return None;
        }
        let read = self.read();
        if let Err(error) = &read {
            self.client.is_broken = !matches!(error, ClientError::Refused { .. });
            self.end();
        }
        read.transpose()
    }
}

impl Drop for Batches<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.client.is_broken = self.skip().is_err();
        }
    }
}

/// Reads a frame's prefix, and the descriptors that came with it. Nothing else is read here, so none of another frame come.
fn read_prefix(stream: &UnixStream, descriptors: &mut Vec<OwnedFd>) -> Result<[u8; PREFIX_BYTES], ClientError> {
    let mut prefix = [0; PREFIX_BYTES];
    let mut filled = 0;
    while filled < PREFIX_BYTES {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SEGMENTS_PER_FRAME))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(&mut prefix[filled..])];
        let received = match recvmsg(stream, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => received,
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(ClientError::Io(error.into())),
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(some) = message {
                descriptors.extend(some);
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(ClientError::Protocol(
                "descriptors were lost; is the limit on open files reached?".to_owned(),
            ));
        }
        if received.bytes == 0 {
            return Err(ClientError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        filled += received.bytes;
    }
    Ok(prefix)
}
