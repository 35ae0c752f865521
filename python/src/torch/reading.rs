//! Batches on their way, as whoever may ask for them does: threads, and the handlers of signals that come while one waits.
//!
//! ```text
//! idle <-> read      a call of next has the loader for itself, and gives it back
//!   -> over          at its end, failed, or closed; from there it goes nowhere
//! ```
//! The lock is held to look at the state alone. Nothing waits with it, nothing of Python's runs, and what was begun ahead is not
//! taken down: a handler that asks for a batch while its own thread waits for one would wait for itself.
//!
//! Why a second reader is refused and does not wait for its turn: in a handler, its turn would not come.
//!
//! Why a closed epoch has an error and not an end: whoever waits would take what came until then for all of it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{self, ThreadId};

use jetbridge_client::fork::Mutex;
use tokio_util::sync::CancellationToken;

use super::column::Named;
use super::failure::Failure;
use super::loader::Loader;
use super::{Stopped, look};
use crate::error;
use crate::fork::within;
use crate::task::panicked;

/// How an epoch was left: read to its end, or why not.
type End = Result<(), error::Failure>;

/// An epoch that is read.
#[derive(Debug)]
pub(super) struct Reading {
    state: Mutex<State>,
    /// Ends a wait.
    closed: CancellationToken,
}

#[derive(Debug)]
enum State {
    /// Nobody reads.
    Idle(Box<Loader>),
    /// A call in this thread has the loader.
    Read(ThreadId),
    Over(End),
}

impl Reading {
    pub(super) fn new(loader: Loader) -> Self {
        Self {
            state: Mutex::new(State::Idle(Box::new(loader))),
            closed: CancellationToken::new(),
        }
    }

    /// The next batch, none at the end. Signals are handled while it waits; after one whose handler raised, the same batch can be
    /// asked for again.
    ///
    /// # Errors
    /// What the handler raised; that another call reads; that it was closed, before or meanwhile; why there is no batch. The last
    /// two are the same from then on.
    pub(super) fn next(&self) -> Result<Option<Vec<Named>>, Stopped> {
        let Some(mut loader) = self.begin()? else {
            return Ok(None);
        };
        let taken = catch_unwind(AssertUnwindSafe(|| loader.next(&self.closed, look)));
        let taken = taken.unwrap_or_else(|panic| Err(panicked(&*panic).into()));
        let end = match &taken {
            Ok(Some(_)) | Err(Stopped::Interrupted(_)) => None,
            Ok(None) => Some(Ok(())),
            Err(Stopped::Failed(failure)) => Some(Err(failure.clone())),
        };
        let unused = self.give_back(loader, end);
        within(|| drop(unused));
        taken
    }

    /// Ends the reading. A call of next that waits ends too.
    pub(super) fn close(&self) {
        let before = {
            let mut state = self.state.lock();
            if matches!(&*state, State::Over(_)) {
                return;
            }
            std::mem::replace(&mut *state, State::Over(Err(Failure::Closed.into())))
        };
        within(|| {
            self.closed.cancel();
            drop(before);
        });
    }

    /// Takes the loader for this thread; none at the end.
    fn begin(&self) -> Result<Option<Box<Loader>>, error::Failure> {
        let own = thread::current().id();
        let mut state = self.state.lock();
        match std::mem::replace(&mut *state, State::Read(own)) {
            State::Idle(loader) => Ok(Some(loader)),
            State::Read(by) => {
                *state = State::Read(by);
                Err(read_by(by == own))
            }
            State::Over(end) => {
                let said = end.clone().map(|()| None);
                *state = State::Over(end);
                said
            }
        }
    }

    /// Has the next call read on, unless this is the end; gives the loader where it is of no more use.
    fn give_back(&self, loader: Box<Loader>, end: Option<End>) -> Option<Box<Loader>> {
        let mut state = self.state.lock();
        let is_closed = matches!(&*state, State::Over(_));
        match end {
            _ if is_closed => Some(loader),
            Some(end) => {
                *state = State::Over(end);
                Some(loader)
            }
            None => {
                *state = State::Idle(loader);
                None
            }
        }
    }
}

fn read_by(is_own: bool) -> error::Failure {
    let by = if is_own {
        "a call that this one was made in, as the handler of a signal makes one"
    } else {
        "another thread"
    };
    error::Failure::new(
        "FAILED_PRECONDITION",
        format!("these batches are already being read by {by}"),
    )
}
