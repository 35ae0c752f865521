//! One endpoint, read to its end: its places in turn, until one has given the last row.
//!
//! ```text
//! place -> open -> rows ... -> end
//!   |       |        |
//!   |       '--------'--> failed in a way that another place may mend --> next place, from the row where it broke off
//!   '--> none left --> wait, then all of them again; given up after some rounds without a row
//! ```
//! A place that did not answer is remembered by all reads of the client, and tried last for a while. Data that changed (STALE)
//! and everything else that is the same at each place ends the endpoint at once.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use tokio::sync::mpsc;

use crate::address::{Address, memory_socket};
use crate::backoff;
use crate::budget::{Lease, Turn};
use crate::calls::Shared;
use crate::error::{Error, ErrorKind};
use crate::flight::{FlightStream, Received, bytes_of};
use crate::options::{KEEPALIVE, Local};
use crate::plan::Endpoint;
use crate::reader::Source;
use crate::seam::Seam;
use crate::shared::SharedStream;
use crate::stats::Counters;
use crate::tickets::Tickets;

/// Where an endpoint can be read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// The socket of a server of this host that shares its memory.
    Memory(PathBuf),
    /// A Flight server.
    Flight(Address),
}

/// What a fetch tells its reader.
#[derive(Debug)]
pub(crate) struct Event {
    /// The endpoint's position in the read.
    pub(crate) position: usize,
    pub(crate) news: News,
}

#[derive(Debug)]
pub(crate) enum News {
    /// Rows.
    Rows {
        batch: RecordBatch,
        /// What its arrays have.
        bytes: usize,
        source: Source,
        lease: Lease,
    },
    /// There are no more.
    End,
    /// There will be no more.
    Failed(Error),
}

/// The reading of one endpoint.
pub(crate) struct Fetch {
    pub(crate) client: Arc<Shared>,
    pub(crate) schema: SchemaRef,
    pub(crate) tickets: Arc<Tickets>,
    pub(crate) places: Vec<Place>,
    pub(crate) turn: Turn,
    pub(crate) batch_bytes: Option<u64>,
    pub(crate) seam: Seam,
    pub(crate) counters: Arc<Counters>,
    pub(crate) events: mpsc::Sender<Event>,
}

/// Nobody wants the rows any more.
struct Unwanted;

/// Why a try at one place ended early.
enum Stopped {
    Failed(Error),
    Unwanted,
}

impl Place {
    /// The places of an endpoint, the best first.
    pub(crate) fn of(endpoint: &Endpoint, client: &Shared) -> Vec<Self> {
        let memory = endpoint.about.memory.as_deref().and_then(memory_socket);
        let memory = memory.filter(|_| client.options.local == Local::Auto).map(Self::Memory);
        let mut flight = Address::of_locations(&endpoint.locations, &client.home);
        if client.options.local == Local::Off {
            flight.retain(|address| !matches!(address, Address::Unix(_)));
            if flight.is_empty() {
                // Even if it is a socket of this host: that is what the caller named.
                flight.push(client.home.clone());
            }
        }
        memory.into_iter().chain(flight.into_iter().map(Self::Flight)).collect()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(path) => write!(f, "unix://{}", path.display()),
            Self::Flight(address) => address.fmt(f),
        }
    }
}

impl Fetch {
    /// Reads the endpoint, and tells how it ends.
    pub(crate) async fn run(mut self) {
        let news = match self.rounds().await {
            Ok(()) => News::End,
            Err(Stopped::Failed(error)) => News::Failed(error),
            Err(Stopped::Unwanted) => return,
        };
        self.tickets.done(self.turn.position);
        // Without a reader nobody needs to know.
        let _ = self.tell(news).await;
    }

    async fn rounds(&mut self) -> Result<(), Stopped> {
        let mut rounds_without_rows = 0;
        loop {
            let before = self.seam.handed_on();
            let error = match self.round().await {
                Ok(()) => return Ok(()),
                Err(Stopped::Failed(error)) => error,
                Err(unwanted) => return Err(unwanted),
            };
            if self.seam.handed_on() > before {
                rounds_without_rows = 0;
            }
            rounds_without_rows += 1;
            if !error.is_retryable() || rounds_without_rows > self.client.options.retries {
                return Err(Stopped::Failed(error));
            }
            tokio::time::sleep(backoff::wait(rounds_without_rows)).await;
        }
    }

    /// Tries each place once; the first server's failure is the one to report, since the owner's says more than the last
    /// resort's, and that of shared memory may be of this host alone.
    async fn round(&mut self) -> Result<(), Stopped> {
        let mut first: Option<(Place, Error)> = None;
        for place in self.client.health.ordered(&self.places) {
            self.seam.restart();
            match self.read_at(&place).await {
                Ok(()) => {
                    self.client.health.succeeded(&place);
                    self.counters.served_by(place.to_string());
                    return Ok(());
                }
                Err(Stopped::Failed(error)) if is_for_the_next(&place, &error) => {
                    tracing::debug!(%place, %error, "an endpoint is gone on with elsewhere");
                    if is_dead(&error) {
                        self.client.health.failed(&place);
                    }
                    self.counters.failovers.fetch_add(1, Ordering::Relaxed);
                    if first
                        .as_ref()
                        .is_none_or(|(before, _)| matches!(before, Place::Memory(_)))
                    {
                        first = Some((place, error));
                    }
                }
                Err(stopped) => return Err(stopped),
            }
        }
        let none = || Error::new(ErrorKind::Unavailable, "the endpoint has no place to read it");
        Err(Stopped::Failed(first.map_or_else(none, |(_, error)| error)))
    }

    async fn read_at(&mut self, place: &Place) -> Result<(), Stopped> {
        let read = match place {
            Place::Memory(path) => self.read_shared(path.clone()).await,
            Place::Flight(address) => self.read_flight(address).await,
        };
        read.map_err(|stopped| match stopped {
            Stopped::Failed(error) => Stopped::Failed(error.at(&place.to_string())),
            Stopped::Unwanted => Stopped::Unwanted,
        })
    }

    async fn read_flight(&mut self, address: &Address) -> Result<(), Stopped> {
        let ticket = self.tickets.get(self.turn.position);
        let mut stream = FlightStream::open(&self.client, address, &ticket, &self.schema, &self.turn).await?;
        loop {
            let next = stream.next(&self.turn).await;
            let bytes = u64::try_from(stream.received_bytes()).unwrap_or(u64::MAX);
            self.counters.received_bytes.fetch_add(bytes, Ordering::Relaxed);
            match next? {
                Some(received) => self.hand_on(received).await?,
                None => return self.whole(),
            }
        }
    }

    async fn read_shared(&mut self, path: PathBuf) -> Result<(), Stopped> {
        let ticket = self.tickets.get(self.turn.position);
        let sockets = &self.client.sockets;
        let mut stream =
            SharedStream::open(sockets, &path, ticket, self.batch_bytes, (&self.schema, &self.turn)).await?;
        let flight = self.flight_address();
        loop {
            // On the socket, a server that stands still is as silent as one that reads for long.
            let next = tokio::select! {
                biased;
                next = stream.next() => next?,
                error = self.client.silence(&flight, KEEPALIVE) => return Err(error.into()),
            };
            match next {
                Some(received) => self.hand_on(received).await?,
                None => return self.whole(),
            }
        }
    }

    /// Where the server answers that shares its memory: it is the first that the endpoint names.
    fn flight_address(&self) -> Address {
        let mut addresses = self.places.iter().filter_map(|place| match place {
            Place::Flight(address) => Some(address),
            Place::Memory(_) => None,
        });
        addresses.next().unwrap_or(&self.client.home).clone()
    }

    async fn hand_on(&mut self, received: Received) -> Result<(), Unwanted> {
        let Received {
            batch,
            bytes,
            source,
            lease,
        } = received;
        let rows = batch.num_rows();
        let Some(batch) = self.seam.pass(batch) else {
            return Ok(());
        };
        // Adding them up takes a moment for each array, so it is done once more only where a part was left out.
        let bytes = match batch.num_rows() == rows {
            true => bytes,
            false => bytes_of(&batch),
        };
        let news = News::Rows {
            batch,
            bytes,
            source,
            lease,
        };
        self.tell(news).await
    }

    /// The stream ended; it must have had the rows that were read before.
    fn whole(&self) -> Result<(), Stopped> {
        if self.seam.is_whole() {
            return Ok(());
        }
        let rows = self.seam.handed_on();
        Err(Error::new(
            ErrorKind::DataLoss,
            format!("a stream was read anew and has fewer rows than the {rows} that came before"),
        )
        .into())
    }

    async fn tell(&self, news: News) -> Result<(), Unwanted> {
        let event = Event {
            position: self.turn.position,
            news,
        };
        self.events.send(event).await.map_err(|_| Unwanted)
    }
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<Unwanted> for Stopped {
    fn from(_: Unwanted) -> Self {
        Self::Unwanted
    }
}

/// Whether an error at a place leaves hope for the next one.
fn is_for_the_next(place: &Place, error: &Error) -> bool {
    match place {
        // Whatever is wrong with shared memory itself, the same rows come over a socket.
        Place::Memory(_) => error.is_retryable() || error.kind() == ErrorKind::Internal,
        Place::Flight(_) => error.is_retryable(),
    }
}

/// Whether the place is to be left alone for a while. One that answers, and has too much to do or ended a stream that was taken
/// too slowly, is not dead.
fn is_dead(error: &Error) -> bool {
    error.kind() != ErrorKind::Unavailable || error.is_broken()
}
