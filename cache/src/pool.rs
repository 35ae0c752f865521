//! Pools of threads for work of milliseconds at a stretch, away from the threads that serve sockets: one where bytes become
//! columns, and one that keeps pages when nobody else has use for the processor.
//!
//! Hostile input can make decoding panic. So it runs on a fixed number of threads of its own, first come first served, and
//! a panic ends the one piece of work that caused it.
//!
//! Why not `spawn_blocking`: its threads are as many as there is work, so that a burst of readers would hold hundreds of
//! half-decoded row groups at once. Why rayon and not a channel: one row group's columns can then be decoded side by
//! side when there are fewer row groups than threads.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::sync::oneshot;

/// Threads for one kind of work.
#[derive(Debug)]
pub(crate) struct CpuPool {
    threads: rayon::ThreadPool,
}

/// What a piece of work said when it panicked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("panicked: {0}")]
pub(crate) struct Panicked(String);

/// Stack of one decoding thread; schemas nest up to the depth that the limits allow.
const STACK_BYTES: usize = 8 << 20;

/// How nice a thread behind the others is: on a busy machine it gets about a tenth of what they get.
const BEHIND_NICE: i32 = 10;

impl CpuPool {
    /// Starts `threads` threads that decode; 0 means one for each core.
    pub(crate) fn decoding(threads: usize) -> Result<Self, rayon::ThreadPoolBuildError> {
        let builder = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .stack_size(STACK_BYTES);
        builder
            .thread_name(|index| format!("decode-{index}"))
            .build()
            .map(|threads| Self { threads })
    }

    /// Starts one thread whose work comes behind that of all others.
    pub(crate) fn behind(name: &'static str) -> Result<Self, rayon::ThreadPoolBuildError> {
        let builder = rayon::ThreadPoolBuilder::new().num_threads(1).stack_size(STACK_BYTES);
        builder
            .thread_name(move |_| name.to_owned())
            .start_handler(|_| {
                // On Linux this is of the calling thread alone. Where it is forbidden, the work is as urgent as any other.
                let _ = rustix::process::setpriority_process(None, BEHIND_NICE);
            })
            .build()
            .map(|threads| Self { threads })
    }

    /// How many threads there are.
    pub(crate) fn threads(&self) -> usize {
        self.threads.current_num_threads()
    }

    /// Runs `work` on the pool. Work whose caller has gone is not begun.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Panicked> {
        let (done, result) = oneshot::channel();
        self.threads.spawn_fifo(move || {
            if !done.is_closed() {
                // Nobody is left to be told where the receiver has gone meanwhile.
                let _ = done.send(guarded(work));
            }
        });
        result
            .await
            .unwrap_or_else(|_| Err(Panicked("the decoding threads have stopped".to_owned())))
    }
}

/// Runs `work`, and catches its panic.
pub(crate) fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    // What the work held is dropped with it, so no broken state is seen afterwards.
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| Panicked(message(panic.as_ref())))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_one_piece_of_work_and_no_thread() {
        let pool = CpuPool::decoding(1).unwrap();
        let broken = pool.run(|| -> u32 { panic!("bad {}", "input") }).await;
        assert_eq!(broken.unwrap_err().to_string(), "panicked: bad input");
        assert_eq!(pool.run(|| 7).await, Ok(7));
    }
}
