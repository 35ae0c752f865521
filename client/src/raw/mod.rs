//! Rows that come as they are stored: the form `raw` (`flight/WIRE.md` of the server).
//!
//! ```text
//! message -> description    which row group, its rows, its file in place in the message's body   (description)
//!         -> group          decoded step by step, on threads that may take their time            (group)
//!         -> Files          the row groups of one stream: some at once, handed out in their order
//! ```
//! Some row groups are decoded at once while the next one comes. Each has room in the budget for its file, and for what a step
//! makes of it, before its file is received; nobody waits for more room in the midst of it, and while room for one more row group
//! is waited for, those that are there are handed out. So what is read ahead is never in the way of what is read.
//!
//! Architecture invariant: nothing here knows Parquet; what does is handed in ([`crate::Unpack`]).

mod description;
mod group;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use arrow::datatypes::{Schema, SchemaRef};
use tokio::task::{JoinHandle, spawn_blocking};

use self::description::{RowGroup, rows_schema};
use self::group::{About, Decoded, Group};
use crate::budget::{Lease, Turn};
use crate::decode::{Decoder, agreed};
use crate::error::{Error, ErrorKind, Result};
use crate::flight::Received;
use crate::messages::{Came, Messages};
use crate::options::{ClientOptions, Wire};
use crate::unpack::Unpack;

/// Row groups of one stream that are there at once, at most: decoded, or still coming.
const MOST_GROUPS: usize = 4;
/// What a step decodes of a row group, at most, but for the last batch of it. A fork waits until steps are over, so they are short.
const MOST_STEP_BYTES: u64 = 32 << 20;
/// The part of a budget that a step may take, where that is less.
const STEP_PARTS: u64 = 8;
/// The part of a budget that a small file may take: it is there as a whole while it is decoded.
const FILE_PARTS: u64 = 2;
/// The least and the most that a server takes for the size of small files.
const LEAST_FILE_BYTES: u64 = 64 << 10;
const MOST_FILE_BYTES: u64 = 1 << 30;
/// What a message has besides its file, and more.
const BESIDES_BYTES: u64 = 64 << 10;
/// What Parquet becomes when it is decoded, by its size.
const GROWTH: usize = 5;
/// What the large pages of a row group may take unpacked, however small the budget is.
const LEAST_PAGES_BYTES: u64 = 64 << 20;

/// How a client reads small files.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unpacking {
    unpack: Unpack,
    cores: usize,
    /// Row groups of one stream that are there at once.
    groups: usize,
}

impl Unpacking {
    /// How a client of these settings does it; none where nothing reads small files.
    ///
    /// # Errors
    /// INVALID_ARGUMENT where they are asked for all the same.
    pub(crate) fn of(options: &ClientOptions) -> Result<Option<Self>> {
        let Some(unpack) = options.unpack else {
            return match options.wire {
                Wire::Raw => Err(Error::new(
                    ErrorKind::InvalidArgument,
                    "the form raw is Parquet, and this client was given nothing that reads it",
                )),
                _ => Ok(None),
            };
        };
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let cores_a_stream = cores / options.streams_per_worker.max(1);
        Ok(Some(Self {
            unpack,
            cores,
            // One more comes while those are decoded.
            groups: cores_a_stream.clamp(1, MOST_GROUPS - 1) + 1,
        }))
    }

    /// Whether row groups can be decoded while others come.
    pub(crate) fn has_a_core_to_spare(&self) -> bool {
        self.cores > 1
    }
}

/// The largest small file that a read of this budget takes.
pub(crate) fn most_file_bytes(budget_bytes: u64) -> u64 {
    (budget_bytes / FILE_PARTS).clamp(LEAST_FILE_BYTES, MOST_FILE_BYTES)
}

/// The row groups of one stream.
#[derive(Debug)]
pub(crate) struct Files {
    unpacking: Unpacking,
    /// The schema of the rows: what was planned, or else what the stream says.
    schema: SchemaRef,
    /// Of the stream itself, whose batches have a file each.
    decoder: Decoder,
    step_bytes: usize,
    /// The largest message that is taken: what the server was told of, and not what it says.
    most_bytes: usize,
    /// What the large pages of a row group may take unpacked.
    pages_bytes: u64,
    /// In their order.
    groups: VecDeque<Pending>,
    /// How the stream ended, once it has.
    end: Option<Result<()>>,
    is_unwanted: Arc<AtomicBool>,
}

/// A row group that is not handed out yet.
#[derive(Debug)]
struct Pending {
    about: Arc<About>,
    state: State,
}

#[derive(Debug)]
enum State {
    Decoding(JoinHandle<Result<Decoded>>),
    /// With rows that are next to be handed out.
    Here(Decoded),
}

impl Files {
    /// A stream of row groups whose rows are to be of this schema, or of any where it has no fields.
    pub(crate) fn new(unpacking: Unpacking, schema: SchemaRef, budget_bytes: u64) -> Self {
        let step_bytes = (budget_bytes / STEP_PARTS).clamp(1, MOST_STEP_BYTES);
        Self {
            unpacking,
            schema,
            decoder: Decoder::new(Arc::new(Schema::empty()), true),
            step_bytes: usize::try_from(step_bytes).unwrap_or(usize::MAX),
            most_bytes: usize::try_from(most_file_bytes(budget_bytes) + BESIDES_BYTES).unwrap_or(usize::MAX),
            pages_bytes: budget_bytes.max(LEAST_PAGES_BYTES),
            groups: VecDeque::new(),
            end: None,
            is_unwanted: Arc::default(),
        }
    }

    /// The next rows; none at the end.
    ///
    /// # Errors
    /// As of [`Messages::next`], after the rows that came before; DATA_LOSS for a row group that cannot be decoded, or has not as
    /// many rows as are said.
    pub(crate) async fn next(&mut self, messages: &mut Messages, turn: &Turn) -> Result<Option<Received>> {
        loop {
            if let Some(received) = self.ready() {
                return Ok(Some(received));
            }
            if self.groups.is_empty()
                && let Some(end) = &self.end
            {
                return end.clone().map(|()| None);
            }
            let reads_on = self.end.is_none() && self.groups.len() < self.unpacking.groups;
            let (step_bytes, most_bytes) = (self.step_bytes, self.most_bytes);
            let room = |bytes| room_for(bytes, step_bytes, most_bytes);
            tokio::select! {
                biased;
                decoded = first_decoded(&mut self.groups), if !self.groups.is_empty() => decoded?,
                came = messages.next(turn, room), if reads_on => self.take(came),
            }
        }
    }

    /// Rows of the first row group, where some are decoded.
    fn ready(&mut self) -> Option<Received> {
        self.go_on();
        let Pending { about, state } = self.groups.front_mut()?;
        let State::Here(decoded) = state else { return None };
        let (batch, bytes) = decoded.batches.pop_front()?;
        let received = Received {
            batch,
            bytes,
            source: about.source,
            lease: decoded.lease.split(bytes),
        };
        self.go_on();
        Some(received)
    }

    /// Where the first row group has no rows at hand: decodes on, or lets go of it.
    fn go_on(&mut self) {
        while let Some(first) = self.groups.pop_front() {
            match first.state {
                State::Here(decoded) if decoded.batches.is_empty() => {
                    if let Some(group) = decoded.rest {
                        let decoding = self.decoding(first.about, group, decoded.lease);
                        return self.groups.push_front(decoding);
                    }
                }
                _ => return self.groups.push_front(first),
            }
        }
    }

    /// Takes what came of waiting for a message. What is wrong with it is told after the rows before it.
    fn take(&mut self, came: Result<Option<Came>>) {
        self.end = match came {
            Ok(Some(came)) => self.begin(came).err().map(Err),
            Ok(None) => Some(Ok(())),
            Err(error) => Some(Err(error)),
        };
    }

    fn begin(&mut self, came: Came) -> Result<()> {
        let Some(batch) = self.decoder.message(&came.message)? else {
            if let Some(sent) = self.decoder.sent() {
                self.schema = agreed(&self.schema, &rows_schema(sent)?)?;
            }
            return Ok(());
        };
        let sent = RowGroup::read(&batch, &came.message.metadata)?;
        let lease = came
            .lease
            .ok_or_else(|| Error::protocol("a row group without a body"))?;
        let about = Arc::clone(&sent.about);
        let schema = Arc::clone(&self.schema);
        let group = Group::new(sent, self.unpacking.unpack, schema, self.pages_bytes);
        let decoding = self.decoding(about, group, lease);
        self.groups.push_back(decoding);
        Ok(())
    }

    fn decoding(&self, about: Arc<About>, group: Group, lease: Lease) -> Pending {
        let (step_bytes, is_unwanted) = (self.step_bytes, Arc::clone(&self.is_unwanted));
        let task = spawn_blocking(move || group.step(lease, step_bytes, &is_unwanted));
        Pending {
            about,
            state: State::Decoding(task),
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.is_unwanted.store(true, Ordering::Relaxed);
    }
}

/// Waits until the first of these has rows at hand, or none at all.
async fn first_decoded(groups: &mut VecDeque<Pending>) -> Result<()> {
    let Some(Pending { about, state }) = groups.front_mut() else {
        return Ok(());
    };
    if let State::Decoding(task) = state {
        let decoded = task.await.map_err(|death| about.died(death))??;
        *state = State::Here(decoded);
    }
    Ok(())
}

/// What there is to be room for before a file of so many bytes is received: that, and the rows that a step makes of it.
///
/// # Errors
/// One that is larger than this client said that it takes.
fn room_for(bytes: usize, step_bytes: usize, most_bytes: usize) -> Result<usize> {
    if bytes > most_bytes {
        let words = format!("a row group of {bytes} bytes, where {most_bytes} are the most that was asked for");
        return Err(Error::protocol(words));
    }
    Ok(bytes.saturating_add(bytes.saturating_mul(GROWTH).min(step_bytes)))
}
