//! The small files of an answer, one after the other, as a stream that can be let go of while nobody reads it.
//!
//! ```text
//! some are being read -- poll --> the first is given, more are being read -- pause --> nothing -- poll --> those are read anew
//! ```
//! As many are read ahead of the one that was taken as the scan has room for, since storage may be far away; each by a task of its
//! own, so that it goes on while nobody polls the stream: a read that waits for memory would otherwise keep its place in the
//! queue from others for as long as its reader stalls.
//!
//! None is begun before its turn but with its share of the room: one that waits for room is the first, which everything waits for.
//!
//! A paused stream holds nothing but what it gave, and the list of what is still to come. To go on costs a row group that is
//! read again, mostly from pages that are held, in the generation that was planned. One that its reader waits for is not paused:
//! the reader would wait for ever.
//!
//! Lock order: what the one lock guards is dropped after it is released.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::Stream;
use parking_lot::Mutex;
use tokio_util::task::AbortOnDropHandle;

use super::excerpt::Excerpt;
use super::{RawFile, RawGroup, RawScan, Share};
use crate::error::ReadError;
use crate::scan::{Pausable, Pause};

/// The row groups of an answer, each with the small file that it becomes. Nothing follows an error.
pub struct RawFiles {
    scan: Arc<RawScan>,
    /// Position of the row group that is given next.
    next: usize,
    state: Arc<Mutex<State>>,
}

/// Row groups that are read at once, at most.
const GROUPS_AT_ONCE: usize = 32;

/// What is held for the reader.
#[derive(Default)]
struct State {
    /// The reads of the row groups that are next, as far as they have begun.
    reading: VecDeque<Reading>,
    /// How the row group before them was cut out, for those that come to find: they are of the same file, mostly.
    excerpt: Option<Arc<Excerpt>>,
    /// The reader waits for the first of them.
    awaited: bool,
}

/// A read that has begun.
struct Reading {
    task: AbortOnDropHandle<Cut>,
    /// Whether it had its share of the room before it began; else it waits for it.
    has_share: bool,
    /// Whether it began before its turn.
    is_ahead: bool,
}

type Cut = Result<(RawFile, Arc<Excerpt>), ReadError>;

impl Reading {
    fn begin(scan: &Arc<RawScan>, group: &RawGroup, share: Option<Share>, is_ahead: bool) -> Self {
        let (scan, group, has_share) = (Arc::clone(scan), group.clone(), share.is_some());
        Self {
            task: AbortOnDropHandle::new(tokio::spawn(async move { scan.cut_out(&group, share).await })),
            has_share,
            is_ahead,
        }
    }
}

impl State {
    /// Begins the read of the row group at this position, which is next, and of those after it that there is room for.
    fn read_on(&mut self, scan: &Arc<RawScan>, next: usize) {
        if self.reading.is_empty()
            && let Some(group) = scan.groups.get(next)
        {
            let first = Reading::begin(scan, group, scan.try_share(group), false);
            self.reading.push_back(first);
        }
        while self.reading.len() < GROUPS_AT_ONCE
            && self.reading.front().is_some_and(|first| first.has_share)
            && let Some(group) = scan.groups.get(next + self.reading.len())
            && let Some(share) = scan.try_share(group)
        {
            self.reading.push_back(Reading::begin(scan, group, Some(share), true));
        }
    }

    /// Polls the first read. One that began before its turn may have found no memory that there is by now.
    fn poll_first(&mut self, scan: &Arc<RawScan>, group: &RawGroup, context: &mut Context<'_>) -> Poll<Cut> {
        let Some(first) = self.reading.front_mut() else {
            return Poll::Ready(Err(ReadError::internal("a row group is not being read")));
        };
        let mut polled = Pin::new(&mut first.task).poll(context);
        if first.is_ahead && matches!(&polled, Poll::Ready(Ok(Err(ReadError::Budget { .. })))) {
            *first = Reading::begin(scan, group, None, false);
            polled = Pin::new(&mut first.task).poll(context);
        }
        self.awaited = polled.is_pending();
        polled.map(|read| {
            read.unwrap_or_else(|death| {
                let reason = format!("reading a row group ended early: {death}");
                Err(ReadError::internal(reason))
            })
        })
    }
}

impl RawFiles {
    pub(super) fn new(scan: RawScan) -> (Self, Pause) {
        let state = Arc::new(Mutex::new(State::default()));
        let files = Self {
            scan: Arc::new(scan),
            next: 0,
            state: Arc::clone(&state),
        };
        (files, Pause::new(state))
    }

    /// Goes on to the next row group after this came of reading one; what is left to drop, and what to give.
    fn taken(&mut self, read: Cut) -> (State, Result<RawFile, ReadError>) {
        let mut state = self.state.lock();
        let mut left = State::default();
        match read {
            Ok((file, excerpt)) => {
                self.next += 1;
                left.reading.extend(state.reading.pop_front());
                state.read_on(&self.scan, self.next);
                let more = self.next < self.scan.groups.len();
                left.excerpt = std::mem::replace(&mut state.excerpt, more.then_some(excerpt));
                (left, Ok(file))
            }
            Err(error) => {
                self.next = self.scan.groups.len();
                (std::mem::take(&mut *state), Err(error))
            }
        }
    }
}

impl Stream for RawFiles {
    type Item = Result<(RawGroup, RawFile), ReadError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let Some(group) = this.scan.groups.get(this.next).cloned() else {
            return Poll::Ready(None);
        };
        let polled = {
            let mut state = this.state.lock();
            state.read_on(&this.scan, this.next);
            state.poll_first(&this.scan, &group, context)
        };
        let (left, given) = this.taken(ready!(polled));
        drop(left);
        if given.is_ok() {
            this.scan.took(&group);
        }
        Poll::Ready(Some(given.map(|file| (group, file))))
    }
}

impl Pausable for Mutex<State> {
    fn pause(&self) -> bool {
        let dropped = {
            let mut state = self.lock();
            if state.awaited {
                return false;
            }
            std::mem::take(&mut *state)
        };
        !dropped.reading.is_empty()
    }
}

impl Drop for RawFiles {
    /// Whoever can still pause it keeps nothing of it.
    fn drop(&mut self) {
        let dropped = std::mem::take(&mut *self.state.lock());
        drop(dropped);
    }
}

impl fmt::Debug for RawFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawFiles")
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}
