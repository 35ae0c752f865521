//! A ticket read over the shared memory of a server on this host.
//!
//! The client of it is blocking ([`crate::memory`]): each stream has a thread, which hands its batches to the task that asked.
//! When the task goes, the connection is shut down, so that the thread does not stay.
//!
//! A server has a place for so many connections and no more, so those that nobody uses are closed after a while.
//!
//! Why not one of the runtime's threads for what blocks: a fork waits until all of these are idle ([`crate::fork`]), and a stream
//! lasts as long as its reader likes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use crate::budget::Turn;
use crate::decode::{agreed, as_planned};
use crate::error::{Error, Result};
use crate::flight::{Received, bytes_of};
use crate::fork::{Mutex, block_on, within};
use crate::memory::{Client, ClientError, Stopper};
use crate::messages::PATIENCE;
use crate::options::ClientOptions;
use crate::reader::Source;

/// What the streams' threads are called: no longer than the system keeps, and not as the runtime's are.
const THREAD_NAME: &str = "jetbridge-rows";
/// Batches on their way from a thread to its task.
const QUEUED_BATCHES: usize = 1;
/// How long a connection is idle before it is closed.
const IDLE: Duration = Duration::from_secs(10);

/// Connections that are not in use, by socket.
#[derive(Debug)]
pub(crate) struct Sockets {
    idle: Mutex<Idle>,
    kept: usize,
    answers_within: Duration,
    patience: Option<Duration>,
    check_values: bool,
}

#[derive(Debug, Default)]
struct Idle {
    /// By socket, the most recently used last.
    clients: HashMap<PathBuf, Vec<(Client, Instant)>>,
    is_swept: bool,
}

/// Says that idle connections are looked after, while they are.
struct Sweeping(Weak<Sockets>);

/// A stream under way. Dropped before its end, it ends at the server.
#[derive(Debug)]
pub(crate) struct SharedStream {
    batches: mpsc::Receiver<Result<Received>>,
    _stop: Stop,
}

/// Ends the connection when it is dropped, if it is still the stream's.
#[derive(Debug)]
struct Stop {
    stopper: Stopper,
    is_ours: Arc<Mutex<bool>>,
}

impl Sockets {
    pub(crate) fn new(options: &ClientOptions) -> Self {
        Self {
            idle: Mutex::default(),
            kept: options.streams_per_worker,
            answers_within: options
                .timeout
                .map_or(options.connect_timeout, |timeout| timeout.min(options.connect_timeout)),
            patience: options.timeout,
            check_values: options.check_values,
        }
    }

    fn take(&self, path: &Path) -> Result<Client> {
        if let Some((client, _)) = self.idle.lock().clients.get_mut(path).and_then(Vec::pop) {
            return Ok(client);
        }
        let client = Client::connect(path)?.with_patience(self.patience)?;
        let client = client.answering_within(self.answers_within);
        Ok(if self.check_values {
            client.checking_values()
        } else {
            client
        })
    }

    /// Keeps a connection for the next stream; gives what closes it later, where nothing is there already that does.
    fn give_back(self: &Arc<Self>, path: &Path, client: Client) -> Option<Sweeping> {
        if client.is_broken() {
            return None;
        }
        let mut idle = self.idle.lock();
        let clients = idle.clients.entry(path.to_owned()).or_default();
        if clients.len() < self.kept {
            clients.push((client, Instant::now()));
        }
        let was_swept = std::mem::replace(&mut idle.is_swept, true);
        (!was_swept).then(|| Sweeping(Arc::downgrade(self)))
    }

    /// Closes what has been idle for longer than this; whether anything is left.
    fn sweep(&self, longer_than: Duration) -> bool {
        // Outlives the lock: connections are closed without it.
        let mut closed = Vec::new();
        let mut idle = self.idle.lock();
        for clients in idle.clients.values_mut() {
            // The first ones have been idle longest.
            let old = clients.partition_point(|(_, since)| since.elapsed() > longer_than);
            closed.extend(clients.drain(..old));
        }
        idle.clients.retain(|_, clients| !clients.is_empty());
        idle.is_swept = !idle.clients.is_empty();
        idle.is_swept
    }
}

impl Sweeping {
    /// Closes what is idle, for as long as there is anything.
    async fn run(self) {
        loop {
            tokio::time::sleep(IDLE).await;
            let Some(sockets) = self.0.upgrade() else { return };
            if !sockets.sweep(IDLE) {
                return;
            }
        }
    }
}

impl Drop for Sweeping {
    fn drop(&mut self) {
        // Its runtime may end before the client does: then the next connection that is given back begins anew.
        if let Some(sockets) = self.0.upgrade() {
            sockets.idle.lock().is_swept = false;
        }
    }
}

impl SharedStream {
    /// Asks for a ticket's rows at a server's socket, in batches of so many bytes at most, if any.
    ///
    /// # Errors
    /// CONNECT where nobody listens, or not to this user.
    pub(crate) async fn open(
        sockets: &Arc<Sockets>,
        path: &Path,
        ticket: Bytes,
        batch_bytes: Option<u64>,
        (schema, turn): (&SchemaRef, &Turn),
    ) -> Result<Self> {
        let (shared, at) = (Arc::clone(sockets), path.to_owned());
        let taken = spawn_blocking(move || shared.take(&at)).await;
        let mut client = taken.map_err(|error| Error::broken(&error))??;
        client.limit_batches(batch_bytes);
        let is_ours = Arc::new(Mutex::new(true));
        let stop = Stop {
            stopper: client.stopper(),
            is_ours: Arc::clone(&is_ours),
        };
        let (batches_to, batches) = mpsc::channel(QUEUED_BATCHES);
        let pump = Pump {
            schema: Arc::clone(schema),
            turn: turn.clone(),
            to: batches_to,
            answers_within: sockets.answers_within,
            patience: sockets.patience,
        };
        let (shared, at, runtime) = (Arc::clone(sockets), path.to_owned(), Handle::current());
        // It ends by itself: at the end of the stream, or when nobody takes its batches any more.
        let pumping = move || {
            if let Err(error) = pump.run(&mut client, &ticket) {
                let _ = block_on(pump.to.send(Err(error)));
            }
            // Whoever drops the stream from here on leaves the connection alone: it may be another one's.
            *is_ours.lock() = false;
            let sweeping = shared.give_back(&at, client);
            within(move || {
                if let Some(sweeping) = sweeping {
                    runtime.spawn(sweeping.run());
                }
                drop((pump, runtime));
            });
        };
        let thread = thread::Builder::new().name(THREAD_NAME.to_owned());
        thread.spawn(pumping).map_err(|error| Error::broken(&error))?;
        Ok(Self { batches, _stop: stop })
    }

    /// The next rows; none at the end.
    ///
    /// # Errors
    /// The server's; UNAVAILABLE where the connection broke.
    pub(crate) async fn next(&mut self) -> Result<Option<Received>> {
        self.batches.recv().await.transpose()
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        let is_ours = self.is_ours.lock();
        if *is_ours {
            self.stopper.stop();
        }
    }
}

/// Moves batches from a connection to a task.
struct Pump {
    schema: SchemaRef,
    turn: Turn,
    to: mpsc::Sender<Result<Received>>,
    answers_within: Duration,
    patience: Option<Duration>,
}

impl Pump {
    fn run(&self, client: &mut Client, ticket: &[u8]) -> Result<()> {
        let begun = client.get(ticket);
        let mut batches = begun.map_err(|error| explained(error, Some(self.answers_within)))?;
        let schema = agreed(&self.schema, batches.schema())?;
        // Whether the server was ever kept waiting so long that it may end the stream for it.
        let mut was_slow = false;
        while let Some(batch) = batches.next() {
            let batch = batch.map_err(|error| {
                let error = explained(error, self.patience);
                if was_slow { error.of_ours() } else { error }
            })?;
            let batch = as_planned(&schema, &batch)?;
            let bytes = bytes_of(&batch);
            let began = Instant::now();
            let room = async {
                tokio::select! {
                    lease = self.turn.take(bytes) => Some(lease),
                    () = self.to.closed() => None,
                }
            };
            let Some(lease) = block_on(room) else {
                return Ok(());
            };
            let source = Source::named(batches.source());
            let received = Received {
                batch,
                bytes,
                source,
                lease,
            };
            let sent = block_on(self.to.send(Ok(received)));
            if sent.is_err() {
                // With its lease, for which others may wait.
                within(|| drop(sent));
                return Ok(());
            }
            was_slow |= began.elapsed() >= PATIENCE;
        }
        Ok(())
    }
}

/// An error of a connection on which nothing is waited for longer than this.
fn explained(error: ClientError, limit: Option<Duration>) -> Error {
    match (&error, limit) {
        (ClientError::Io(source), Some(limit)) if source.kind() == std::io::ErrorKind::WouldBlock => {
            Error::silent(limit)
        }
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn idle_connections_are_used_again_and_closed_with_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("memory.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let sockets = Arc::new(Sockets::new(&ClientOptions::default()));
        let client = sockets.take(&path).unwrap();
        let (mut other_end, _) = listener.accept().unwrap();
        let sweeping = sockets.give_back(&path, client);
        assert!(sweeping.is_some());
        let client = sockets.take(&path).unwrap();
        assert!(sockets.give_back(&path, client).is_none(), "it is looked after already");
        assert!(sockets.sweep(Duration::from_secs(60)), "none is that old");
        thread::sleep(Duration::from_millis(2));
        assert!(!sockets.sweep(Duration::from_millis(1)));
        assert_eq!(other_end.read(&mut [0]).unwrap(), 0, "it is closed");
        drop(sweeping);
        let client = sockets.take(&path).unwrap();
        assert!(sockets.give_back(&path, client).is_some());
    }
}
