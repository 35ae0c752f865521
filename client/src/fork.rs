//! Threads that are not the runtime's, in a process that forks.
//!
//! A fork copies locks as they are, and of the threads only the one that forks. tokio's locks are those of `parking_lot`, and
//! whoever waits for one, or wakes another who does, goes through one table of the process. In the child, that table may be
//! locked for ever, or have entries that lie where other threads' stacks are by then. So when a process forks, no thread may
//! be at that table or in it. The runtime's threads are brought to stand by whoever forks. All others keep to two rules:
//!
//! * They touch what is the runtime's [`within`] alone, and do not wait there; a fork waits until nobody is within ([`shut`]).
//! * They wait as the standard library does ([`block_on`], [`Mutex`]): there, a lock is a number in its own memory.
//!
//! The rules are the process's, as a fork is: this is all that is global in this crate. Nothing here waits where nobody forks.

use std::cell::Cell;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// How often it is looked whether a fork is over, or may begin; it takes milliseconds by itself.
const LOOK_EVERY: Duration = Duration::from_micros(100);
/// A day: nothing is looked at.
const NEVER: Duration = Duration::from_secs(86_400);

/// Threads that are within.
static WITHIN: AtomicUsize = AtomicUsize::new(0);
static IS_SHUT: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// How many times over this thread is within, or allowed to be: the thread that forks waits for nobody.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// A lock that is the standard library's. A panic of its holder does not matter to others.
#[derive(Debug, Default)]
pub struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    /// A lock of a value.
    pub const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    /// Waits for the value.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does what touches the runtime, at a moment when the process does not fork. It must not wait for anything.
pub fn within<T>(work: impl FnOnce() -> T) -> T {
    let _inside = Inside::enter();
    work()
}

/// The same, unless the process is about to fork: then the work is given back. For threads that may hold a lock which whoever
/// forks needs to go on, such as Python's: they give it up and [`wait_while_shut`].
///
/// # Errors
/// The work, which was not done.
pub fn within_now<T, F: FnOnce() -> T>(work: F) -> Result<T, F> {
    match Inside::enter_now() {
        Some(_inside) => Ok(work()),
        None => Err(work),
    }
}

/// Waits until a fork is over that is under way, if one is.
pub fn wait_while_shut() {
    while IS_SHUT.load(Ordering::SeqCst) {
        thread::sleep(LOOK_EVERY);
    }
}

struct Inside {
    is_counted: bool,
}

impl Inside {
    /// None where others would have to wait.
    fn enter_now() -> Option<Self> {
        let is_counted = DEPTH.get() == 0;
        if is_counted {
            WITHIN.fetch_add(1, Ordering::SeqCst);
            if IS_SHUT.load(Ordering::SeqCst) {
                WITHIN.fetch_sub(1, Ordering::SeqCst);
                return None;
            }
        }
        DEPTH.set(DEPTH.get() + 1);
        Some(Self { is_counted })
    }

    fn enter() -> Self {
        let is_counted = DEPTH.replace(DEPTH.get() + 1) == 0;
        if is_counted {
            WITHIN.fetch_add(1, Ordering::SeqCst);
            while IS_SHUT.load(Ordering::SeqCst) {
                WITHIN.fetch_sub(1, Ordering::SeqCst);
                wait_while_shut();
                WITHIN.fetch_add(1, Ordering::SeqCst);
            }
        }
        Self { is_counted }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
        if self.is_counted {
            WITHIN.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Waits in this thread for what the runtime does.
pub fn block_on<T>(what: impl Future<Output = T>) -> T {
    let waited = wait_for(what, NEVER, || Ok::<(), Infallible>(()));
    waited.unwrap_or_else(|never| match never {})
}

/// Waits in this thread for what the runtime does; `look` is called every so often meanwhile. What is waited for is dropped in
/// any case.
///
/// # Errors
/// What `look` says.
pub fn wait_for<T, E>(
    what: impl Future<Output = T>,
    every: Duration,
    mut look: impl FnMut() -> Result<(), E>,
) -> Result<T, E> {
    let mut what = Box::pin(what);
    let waker = Waker::from(Arc::new(Waiting(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut next_look = Instant::now() + every;
    let waited = loop {
        if let Poll::Ready(done) = within(|| what.as_mut().poll(&mut context)) {
            break Ok(done);
        }
        let left = next_look.saturating_duration_since(Instant::now());
        if left.is_zero() {
            if let Err(error) = look() {
                break Err(error);
            }
            next_look = Instant::now() + every;
        } else {
            thread::park_timeout(left);
        }
    };
    within(|| drop(what));
    waited
}

/// A thread that is woken by its number, and stands in no table.
struct Waiting(Thread);

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

/// Lets nobody else come within, until [`open`], and waits until nobody is, or for as long as this; whether nobody is. To be
/// called by the thread that forks, and by one at a time.
pub fn shut(patience: Duration) -> bool {
    DEPTH.set(DEPTH.get() + 1);
    IS_SHUT.store(true, Ordering::SeqCst);
    let end = Instant::now() + patience;
    while WITHIN.load(Ordering::SeqCst) > 0 {
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(LOOK_EVERY);
    }
    true
}

/// Ends what [`shut`] began; to be called by the same thread.
pub fn open() {
    DEPTH.set(DEPTH.get().saturating_sub(1));
    IS_SHUT.store(false, Ordering::SeqCst);
}

/// Ends what [`shut`] began, in the child: whoever was within is not there.
pub fn open_in_child() {
    WITHIN.store(0, Ordering::SeqCst);
    open();
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::sync::oneshot;

    use super::*;

    /// Shutting is the process's: these run one after the other.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    const SOON: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn whoever_comes_while_it_is_shut_waits_and_the_one_who_forks_does_not() {
        let _turn = ONE_AT_A_TIME.lock();
        assert!(shut(LONG));
        let (said, heard) = mpsc::channel();
        let other = thread::spawn(move || within(|| said.send(()).unwrap()));
        assert!(heard.recv_timeout(SOON).is_err());
        within(|| assert!(heard.try_recv().is_err()));
        open();
        heard.recv_timeout(LONG).unwrap();
        other.join().unwrap();
    }

    #[test]
    fn who_must_not_wait_has_the_work_back_while_it_is_shut() {
        let _turn = ONE_AT_A_TIME.lock();
        assert_eq!(within_now(|| within_now(|| 1).ok()).ok(), Some(Some(1)));
        assert!(shut(LONG));
        let other = thread::spawn(|| {
            let Err(work) = within_now(|| 2) else {
                panic!("it came within");
            };
            wait_while_shut();
            within_now(work).ok()
        });
        assert_eq!(within_now(|| 3).ok(), Some(3), "the one who forks waits for nobody");
        thread::sleep(SOON);
        assert!(!other.is_finished());
        open();
        assert_eq!(other.join().unwrap(), Some(2));
        assert_eq!(WITHIN.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn shutting_waits_for_whoever_is_within_and_not_for_ever() {
        let _turn = ONE_AT_A_TIME.lock();
        let (said, heard) = mpsc::channel();
        let (go, gone) = mpsc::channel();
        let other = thread::spawn(move || {
            within(|| {
                // Within it is within already.
                within(|| said.send(()).unwrap());
                gone.recv().unwrap();
            });
        });
        heard.recv_timeout(LONG).unwrap();
        assert!(!shut(SOON));
        open();
        go.send(()).unwrap();
        assert!(shut(LONG));
        open();
        other.join().unwrap();
    }

    #[test]
    fn who_waits_is_not_within() {
        let _turn = ONE_AT_A_TIME.lock();
        let (sender, receiver) = oneshot::channel();
        let waiting = thread::spawn(move || block_on(receiver));
        thread::sleep(SOON);
        assert!(shut(LONG));
        open();
        sender.send(7).unwrap();
        assert_eq!(waiting.join().unwrap(), Ok(7));
    }

    #[test]
    fn a_look_ends_the_wait() {
        let _turn = ONE_AT_A_TIME.lock();
        let mut looks = 0;
        let waited = wait_for(std::future::pending::<()>(), Duration::from_millis(1), || {
            looks += 1;
            if looks < 3 { Ok(()) } else { Err("enough") }
        });
        assert_eq!((waited, looks), (Err("enough"), 3));
    }
}
