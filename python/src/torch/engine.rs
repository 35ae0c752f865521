//! What reads and makes batches in one process: the client, and the threads of the process's runtime.
//!
//! Why not threads of our own for what computes: before a fork, all threads that take the runtime's locks must stand still
//! (`fork`), and the runtime's own do. A batch takes them a millisecond or so.

use std::future::Future;
use std::time::Duration;

use jetbridge_client::Client;
use jetbridge_client::fork::wait_for;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::fork::within;

/// Whoever waits looks so often whether it was interrupted.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What one dataset reads with in one process.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) client: Client,
    pub(super) runtime: &'static Runtime,
}

impl Engine {
    pub(super) fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        within(|| self.runtime.spawn(work))
    }

    /// Waits in this thread for what the runtime does.
    ///
    /// # Errors
    /// What `look` says, which is called now and then.
    pub(super) fn wait<T, E>(
        &self,
        look: &mut impl FnMut() -> Result<(), E>,
        what: impl Future<Output = T>,
    ) -> Result<T, E> {
        let _context = self.runtime.enter();
        wait_for(what, LOOK_EVERY, look)
    }
}
