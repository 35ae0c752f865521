//! A scan that can be let go of while nobody reads it, and goes on where it was.
//!
//! ```text
//! begun at a place -- poll --> flowing -- pause --> paused, at the place after what was given -- poll --> flowing ...
//! ```
//! A paused scan holds nothing: no memory, no chunks, no tasks. What it costs is that the row group in which it stopped is
//! read again from its start, and the rows are left out that were given. That is the same rows: files are read in one
//! generation, and row groups in one order; only where batches begin may differ.
//!
//! A scan that its reader waits for is not paused: the reader would wait for ever.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use futures::stream::BoxStream;
use parking_lot::Mutex;

use super::{Engine, ScanBatch, ScanRequest, scan};
use crate::error::ReadError;

/// How far a scan has come: what it gives next follows so many row groups, and so many rows of the answer in the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Progress {
    /// Row groups that are behind, of those of the request.
    pub(crate) row_groups: usize,
    /// Rows of the answer that the row group after them gave.
    pub(crate) rows: u64,
}

/// The batches of a scan that can be paused.
pub struct PausableScan(Arc<Mutex<State>>);

/// What can be let go of while nobody reads it.
pub(crate) trait Pausable: Send + Sync {
    /// Lets go of all that it holds, unless its reader waits for it; whether there was anything to let go of.
    fn pause(&self) -> bool;
}

/// Pauses a scan, or a read of stored bytes. Cheap to clone; clones are one.
#[derive(Clone)]
pub struct Pause(Arc<dyn Pausable>);

struct State {
    engine: Arc<Engine>,
    /// What is still to be given, as of when it was begun or taken up last.
    request: ScanRequest,
    /// How far that has come, and how many rows that was.
    progress: Progress,
    given_rows: u64,
    batches: Option<BoxStream<'static, Result<ScanBatch, ReadError>>>,
    /// The reader waits for the next batch.
    awaited: bool,
    /// Nothing more is to come.
    ended: bool,
}

impl PausableScan {
    /// A scan, and how to pause it.
    pub(crate) fn new(engine: Arc<Engine>, request: ScanRequest) -> (Self, Pause) {
        let state = Arc::new(Mutex::new(State {
            engine,
            request,
            progress: Progress::default(),
            given_rows: 0,
            batches: None,
            awaited: false,
            ended: false,
        }));
        (Self(Arc::clone(&state)), Pause::new(state))
    }
}

impl Pause {
    /// What pauses this.
    pub(crate) fn new(what: Arc<dyn Pausable>) -> Self {
        Self(what)
    }

    /// Lets go of all that is held for the reader, unless it waits for it; whether there was anything to let go of.
    pub fn pause(&self) -> bool {
        self.0.pause()
    }
}

impl Pausable for Mutex<State> {
    fn pause(&self) -> bool {
        let dropped = {
            let mut state = self.lock();
            if state.awaited {
                return false;
            }
            state.batches.take()
        };
        dropped.is_some()
    }
}

impl State {
    /// The batches from here on.
    fn flowing(&mut self) -> &mut BoxStream<'static, Result<ScanBatch, ReadError>> {
        let Self {
            engine,
            request,
            progress,
            given_rows,
            batches,
            ..
        } = self;
        batches.get_or_insert_with(|| {
            request.go_on(std::mem::take(progress), std::mem::take(given_rows));
            scan(Arc::clone(engine), request.clone())
        })
    }
}

impl Stream for PausableScan {
    type Item = Result<ScanBatch, ReadError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.0.lock();
        if state.ended {
            return Poll::Ready(None);
        }
        let polled = state.flowing().as_mut().poll_next(context);
        state.awaited = polled.is_pending();
        match &polled {
            Poll::Ready(Some(Ok(batch))) => {
                state.progress = batch.progress;
                state.given_rows += u64::try_from(batch.batch.num_rows()).unwrap_or(u64::MAX);
            }
            Poll::Ready(Some(Err(_)) | None) => {
                state.ended = true;
                state.batches = None;
            }
            Poll::Pending => {}
        }
        polled
    }
}

impl Drop for PausableScan {
    /// Whoever can still pause it keeps nothing of it.
    fn drop(&mut self) {
        let dropped = self.0.lock().batches.take();
        drop(dropped);
    }
}

impl fmt::Debug for PausableScan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PausableScan").finish_non_exhaustive()
    }
}

impl fmt::Debug for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pause").finish_non_exhaustive()
    }
}

impl ScanRequest {
    /// Leaves out what was given: `progress` of this request, `rows` in all.
    fn go_on(&mut self, progress: Progress, rows: u64) {
        let mut behind = progress.row_groups;
        self.splits.retain_mut(|split| {
            let from_this = behind.min(split.row_groups.len());
            behind -= from_this;
            split.row_groups.drain(..from_this);
            !split.row_groups.is_empty()
        });
        // Rows that are left out already count as rows of the row group.
        if progress != Progress::default() {
            self.skip = progress.rows;
        }
        self.limit = self.limit.map(|limit| limit.saturating_sub(rows));
    }
}
