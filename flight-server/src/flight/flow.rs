//! The flow of one DoGet: what is queued for its client, whether the client takes it, and until when it may.
//!
//! ```text
//! flowing <-> paused (the client took nothing for some seconds)
//!    `----------`--> cut (for the stall timeout, or the deadline is over) -> ended
//! ```
//! HTTP/2 lets a client stop taking bytes without a word. Such a stream would keep its decoded batches, its chunks and its
//! part of the budget for ever. So each stream has a watch. Where bytes are queued and none of them left for some seconds,
//! the scan behind it is paused, be it one of batches or of stored row groups: it holds nothing then, and the client, should it
//! come back, notices nothing but a row group that is read again. After the stall timeout the stream is over, and says so
//! after what was queued. What is queued already goes with the connection, once all streams of the connection have stalled.
//!
//! A stream that waits for storage is not stalled: nothing of it is queued.
//!
//! Lock order: that of the messages and that of a connection's session are never held together; what the first guards is
//! dropped after it is released.
//!
//! Why the watch is a task beside the body: hyper does not poll a body whose client has no room for more.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::Stream;
use futures::task::AtomicWaker;
use jetbridge_cache::scan::Pause;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use crate::streams::pause_after;
use crate::ticket::SqlOptions;

/// When a stream is cut.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    /// How long a client may take nothing of what is queued for it.
    pub(super) stall_timeout: Duration,
    /// When the client wants no more of it, by its own word.
    pub(super) deadline: Option<Instant>,
    /// The connection that the stream is of.
    pub(super) connection: Arc<Connection>,
    /// Pauses the scan behind the stream, where that can be.
    pub(super) pause: Option<Pause>,
}

/// What is known of one connection: its DoGet streams, and the session of a client that keeps no cookies.
#[derive(Debug, Default)]
pub(crate) struct Connection {
    session: Mutex<SqlOptions>,
    open: AtomicUsize,
    stalled: AtomicUsize,
    /// Streams that ever began.
    begun: AtomicUsize,
    /// Whether somebody waits to see if all that are open have stalled.
    is_watched: AtomicBool,
    /// Cancelled once all that are open have stalled and none begins for as long as one may stand still: nothing but the end of the
    /// connection frees what is queued on it.
    pub(crate) dead: CancellationToken,
}

impl Connection {
    fn have_all_stalled(&self) -> bool {
        let open = self.open.load(Ordering::SeqCst);
        open > 0 && self.stalled.load(Ordering::SeqCst) >= open
    }

    /// Ends a connection of which all streams have stalled, unless one begins within `patience`: a client that leaves a stream
    /// alone may use others, one after the other, and what has just ended may still be on its way to it.
    fn end_if_it_stands(this: &Arc<Self>, patience: Duration) {
        let Ok(runtime) = Handle::try_current() else { return };
        if !this.have_all_stalled() || this.is_watched.swap(true, Ordering::SeqCst) {
            return;
        }
        let connection = Arc::clone(this);
        runtime.spawn(async move {
            loop {
                let before = connection.begun.load(Ordering::SeqCst);
                tokio::time::sleep(patience).await;
                if !connection.have_all_stalled() {
                    break;
                }
                if connection.begun.load(Ordering::SeqCst) == before {
                    connection.dead.cancel();
                    break;
                }
            }
            connection.is_watched.store(false, Ordering::SeqCst);
        });
    }

    /// What its client set for all its statements.
    pub(super) fn session(&self) -> SqlOptions {
        self.session.lock().clone()
    }

    /// Keeps what its client sets.
    pub(super) fn set_session(&self, options: SqlOptions) {
        *self.session.lock() = options;
    }
}

/// Bytes that are queued for a client.
#[derive(Debug)]
pub(super) struct Flow {
    began: Instant,
    queued_bytes: AtomicU64,
    /// When bytes last left, or were queued where none were; milliseconds since it began.
    moved_ms: AtomicU64,
}

impl Flow {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            queued_bytes: AtomicU64::new(0),
            moved_ms: AtomicU64::new(0),
        }
    }

    /// Bytes were queued.
    pub(super) fn queue(&self, bytes: usize) {
        if self.queued_bytes.fetch_add(count(bytes), Ordering::Relaxed) == 0 {
            self.moved();
        }
    }

    /// Bytes left, or were dropped.
    pub(super) fn leave(&self, bytes: usize) {
        self.queued_bytes.fetch_sub(count(bytes), Ordering::Relaxed);
        self.moved();
    }

    fn moved(&self) {
        let elapsed = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved_ms.store(elapsed, Ordering::Relaxed);
    }

    /// For how long nothing of what is queued has left; zero where nothing is queued.
    fn idle(&self) -> Duration {
        if self.queued_bytes.load(Ordering::Relaxed) == 0 {
            return Duration::ZERO;
        }
        let moved = Duration::from_millis(self.moved_ms.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(moved)
    }
}

fn count(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// A stream that ends when it is late or stalls.
pub(super) struct Watched<S> {
    shared: Arc<Shared<S>>,
    _watch: AbortOnDropHandle<()>,
}

struct Shared<S> {
    flow: Arc<Flow>,
    /// None once it was cut.
    inner: Mutex<Option<S>>,
    cut: OnceLock<Status>,
    reader: AtomicWaker,
}

impl<S: Send + 'static> Watched<S> {
    /// Watches over `inner`; what is made of its items is to be queued in [`Watched::flow`].
    pub(super) fn new(inner: S, terms: Terms) -> Self {
        let shared = Arc::new(Shared {
            flow: Arc::new(Flow::new()),
            inner: Mutex::new(Some(inner)),
            cut: OnceLock::new(),
            reader: AtomicWaker::new(),
        });
        let watch = tokio::spawn(watch(Arc::clone(&shared), terms));
        Self {
            shared,
            _watch: AbortOnDropHandle::new(watch),
        }
    }

    pub(super) fn flow(&self) -> &Arc<Flow> {
        &self.shared.flow
    }
}

impl<S> fmt::Debug for Watched<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("flow", &self.shared.flow).finish()
    }
}

impl<S, T> Stream for Watched<S>
where
    S: Stream<Item = Result<T, Status>> + Unpin,
{
    type Item = Result<T, Status>;

    /// Nothing follows the error that says why it was cut.
    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.shared.reader.register(context.waker());
        if let Some(inner) = self.shared.inner.lock().as_mut() {
            return Pin::new(inner).poll_next(context);
        }
        Poll::Ready(self.shared.cut.get().map(|status| Err(status.clone())))
    }
}

impl<S> Drop for Watched<S> {
    fn drop(&mut self) {
        // At once, and not when the runtime gets to dropping the watch.
        let inner = self.shared.inner.lock().take();
        drop(inner);
    }
}

impl<S> Shared<S> {
    fn cut(&self, why: Status) {
        let _ = self.cut.set(why);
        let inner = self.inner.lock().take();
        drop(inner);
        self.reader.wake();
    }
}

async fn watch<S>(shared: Arc<Shared<S>>, terms: Terms) {
    let place = Place::take(terms.connection, terms.stall_timeout);
    let pause_after = pause_after(terms.stall_timeout);
    loop {
        let (now, idle) = (Instant::now(), shared.flow.idle());
        if terms.deadline.is_some_and(|deadline| deadline <= now) {
            return shared.cut(late());
        }
        if idle >= terms.stall_timeout {
            metrics::counter!("jetbridge_flight_streams_stalled_total").increment(1);
            shared.cut(stalled(terms.stall_timeout));
            return place.wait_for_the_end().await;
        }
        let patience = if idle < pause_after {
            pause_after
        } else {
            if terms.pause.as_ref().is_some_and(Pause::pause) {
                metrics::counter!("jetbridge_flight_streams_paused_total").increment(1);
            }
            terms.stall_timeout
        };
        let next = now + (patience - idle);
        let next = terms.deadline.map_or(next, |deadline| deadline.min(next));
        tokio::time::sleep_until(next.into()).await;
    }
}

/// A stream's place among those of its connection.
struct Place {
    connection: Arc<Connection>,
    stall_timeout: Duration,
}

impl Place {
    fn take(connection: Arc<Connection>, stall_timeout: Duration) -> Self {
        connection.open.fetch_add(1, Ordering::SeqCst);
        connection.begun.fetch_add(1, Ordering::SeqCst);
        Self {
            connection,
            stall_timeout,
        }
    }

    /// Counts as stalled until the stream is dropped, which drops this future.
    async fn wait_for_the_end(self) {
        struct Stalled<'a>(&'a Connection);
        impl Drop for Stalled<'_> {
            fn drop(&mut self) {
                self.0.stalled.fetch_sub(1, Ordering::SeqCst);
            }
        }
        self.connection.stalled.fetch_add(1, Ordering::SeqCst);
        let _stalled = Stalled(&self.connection);
        Connection::end_if_it_stands(&self.connection, self.stall_timeout);
        std::future::pending::<()>().await;
    }
}

impl Drop for Place {
    /// Those that are left may all have stalled.
    fn drop(&mut self) {
        self.connection.open.fetch_sub(1, Ordering::SeqCst);
        Connection::end_if_it_stands(&self.connection, self.stall_timeout);
    }
}

/// What a call is told whose deadline is over.
pub(super) fn late() -> Status {
    Status::deadline_exceeded("the deadline that the client set (grpc-timeout) is over")
}

fn stalled(timeout: Duration) -> Status {
    Status::unavailable(format!(
        "the client took nothing for {} s (stall_timeout), so the stream was let go of; redeem the ticket again",
        timeout.as_secs_f64()
    ))
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use futures::{StreamExt, stream};

    use super::*;

    type Numbers = stream::BoxStream<'static, Result<u32, Status>>;

    fn terms(stall_ms: u64, deadline_ms: Option<u64>) -> Terms {
        Terms {
            stall_timeout: Duration::from_millis(stall_ms),
            deadline: deadline_ms.map(|after| Instant::now() + Duration::from_millis(after)),
            connection: Arc::default(),
            pause: None,
        }
    }

    /// A stream of one number, then of nothing for ever, and how to see whether it is still there.
    fn one_number() -> (Numbers, Weak<()>) {
        let held = Arc::new(());
        let weak = Arc::downgrade(&held);
        let numbers = stream::iter([Ok(1)]).chain(stream::pending());
        let numbers = numbers.inspect(move |_: &Result<u32, Status>| {
            let _ = &held;
        });
        (numbers.boxed(), weak)
    }

    #[tokio::test]
    async fn a_stalled_stream_is_let_go_of_and_its_connection_with_the_last() {
        let (numbers, held) = one_number();
        let terms = terms(20, None);
        let mut other = Watched::new(one_number().0, terms.clone());
        let mut watched = Watched::new(numbers, terms.clone());
        assert_eq!(watched.next().await.unwrap().unwrap(), 1);
        watched.flow().queue(10);
        let end = watched.next().await.unwrap().unwrap_err();
        assert_eq!(end.code(), tonic::Code::Unavailable);
        assert_eq!(held.strong_count(), 0);
        assert!(
            !terms.connection.dead.is_cancelled(),
            "another stream of it waits for storage"
        );
        other.flow().queue(1);
        assert!(other.next().await.unwrap().is_ok());
        assert!(other.next().await.unwrap().is_err());
        terms.connection.dead.cancelled().await;
        drop((watched, other));
    }

    #[tokio::test]
    async fn a_connection_goes_as_well_when_the_only_stream_ends_that_has_not_stalled() {
        let terms = terms(20, None);
        let other = Watched::new(one_number().0, terms.clone());
        let mut watched = Watched::new(one_number().0, terms.clone());
        assert!(watched.next().await.unwrap().is_ok());
        watched.flow().queue(10);
        assert!(watched.next().await.unwrap().is_err());
        let dead = &terms.connection.dead;
        assert!(!dead.is_cancelled(), "another stream of it waits for storage");
        drop(other);
        let gone = tokio::time::timeout(Duration::from_secs(60), dead.cancelled()).await;
        assert!(gone.is_ok(), "what is queued stays for as long as the connection");
    }

    #[tokio::test]
    async fn whoever_waits_for_storage_or_takes_slowly_is_not_stalled() {
        let (numbers, held) = one_number();
        let mut watched = Watched::new(numbers, terms(3_000, None));
        assert_eq!(watched.next().await.unwrap().unwrap(), 1);
        watched.flow().queue(10);
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(400)).await;
            watched.flow().leave(1);
        }
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(held.strong_count(), 1);
        drop(watched);
        assert_eq!(held.strong_count(), 0);
    }

    #[tokio::test]
    async fn a_deadline_holds_within_the_stream() {
        let (numbers, held) = one_number();
        let mut watched = Watched::new(numbers, terms(60_000, Some(1_000)));
        assert_eq!(watched.next().await.unwrap().unwrap(), 1);
        let end = watched.next().await.unwrap().unwrap_err();
        assert_eq!((end.code(), held.strong_count()), (tonic::Code::DeadlineExceeded, 0));
    }
}
