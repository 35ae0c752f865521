//! A read: endpoints in parallel, their rows as one stream.
//!
//! Each endpoint that is under way is a task ([`Fetch`]); which ones are is decided here, whenever the reader is polled: by
//! position, as many at once for each worker as it has connections. Rows wait in a queue that is bounded by the budget. In order,
//! they wait in the queue of their endpoint until it is its turn.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::Stream;
use futures::future::BoxFuture;
use serde::Deserialize;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::budget::{Budget, Turn};
use crate::calls::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::fetch::{Event, Fetch, News, Place};
use crate::plan::Plan;
use crate::pool::Pool;
use crate::seam::Seam;
use crate::stats::{Counters, Stats};
use crate::tickets::Tickets;

/// Streams at once, over all workers.
const MAX_STREAMS: usize = 64;
/// Events that wait for the reader to look at them; the rows among them are bounded by the budget.
const QUEUED_EVENTS: usize = 256;

/// How to read a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// Whether rows come in the order of the endpoints, and not as they arrive. Within an endpoint they are always in order.
    /// Default: as they arrive.
    pub ordered: bool,
    /// Which endpoints of the plan are read, in this order. Default: all, in the plan's.
    pub endpoints: Option<Vec<usize>>,
    /// Rows that are left out at the begin of an endpoint, since the caller has them already. Default: none.
    pub skip_rows: HashMap<usize, u64>,
    /// Bytes that this reader has received and not yet handed out, at most, where several readers are one read together.
    /// Default: the client's.
    pub budget_bytes: Option<u64>,
    /// Streams of this reader from each worker at once, in the same case. Default: the client's.
    pub streams_per_worker: Option<usize>,
    /// Bytes of a batch, at most about, where a server on this host hands over its memory; elsewhere they are shorter. Default: as
    /// the server likes.
    pub batch_bytes: Option<u64>,
}

/// Rows of one endpoint.
#[derive(Debug, Clone)]
pub struct Piece {
    /// The endpoint's number in the plan.
    pub endpoint: usize,
    /// The piece's number within what this reader gives of the endpoint, from 0. Where a stream broke, pieces may be cut
    /// otherwise than in another read; rows and their order are the same.
    pub batch_index: u64,
    /// The rows.
    pub batch: RecordBatch,
    /// Where the server had them.
    pub source: Source,
}

/// Where a server had rows: the slowest tier that they came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Source {
    /// Decoded, in memory.
    Memory,
    /// As stored, on disk.
    Disk,
    /// In the storage, or at another node; also where a server does not say.
    #[default]
    #[serde(other)]
    Store,
}

/// The rows of a plan, as a stream of pieces. To be polled within a tokio runtime; it goes on there until it is dropped, which
/// ends its streams at the servers.
///
/// After an error there are no more pieces.
pub struct Reader {
    client: Client,
    plan: Plan,
    options: ReadOptions,
    counters: Arc<Counters>,
    state: State,
    /// Whether tickets were already found expired, and the scan planned anew.
    was_replanned: bool,
}

enum State {
    Idle,
    Running(Box<Running>),
    Replanning(BoxFuture<'static, Result<Plan>>),
    Over,
}

/// A read under way.
struct Running {
    /// Endpoints by position.
    endpoints: Vec<usize>,
    places: Vec<Vec<Place>>,
    /// Positions that are not begun.
    waiting: VecDeque<usize>,
    /// Where the endpoints under way were begun.
    begun_at: HashMap<usize, Place>,
    tickets: Arc<Tickets>,
    budget: Arc<Budget>,
    tasks: JoinSet<()>,
    events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Event>,
    /// In order: the position whose turn it is, and what came of each.
    turn: usize,
    queues: HashMap<usize, VecDeque<News>>,
    batches: Vec<u64>,
    left: usize,
    /// How many streams have ended.
    ends: u64,
    /// How many had, and what the places' health was, when it was last seen which endpoints can begin. To see that, all that
    /// wait are compared with all that are under way, which is not done for every batch.
    looked_at: Option<(u64, u64)>,
}

impl Source {
    /// The source of this name.
    pub(crate) fn named(name: &str) -> Self {
        match name {
            "memory" => Self::Memory,
            "disk" => Self::Disk,
            _ => Self::Store,
        }
    }

    /// Its name: `memory`, `disk` or `store`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Store => "store",
        }
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut reader = f.debug_struct("Reader");
        reader.field("options", &self.options).field("stats", &self.stats());
        reader.finish_non_exhaustive()
    }
}

impl Reader {
    pub(crate) fn new(client: Client, plan: Plan, options: ReadOptions) -> Self {
        Self {
            client,
            plan,
            options,
            counters: Arc::default(),
            state: State::Idle,
            was_replanned: false,
        }
    }

    /// The schema of the rows.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.plan.schema)
    }

    /// What was done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.counters.stats()
    }

    /// Keeps the tickets valid from now on, for a reader that may be polled late. No rows are asked for. Outside of a tokio
    /// runtime it does nothing; the first poll begins then.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for an endpoint that is not one of the plan.
    pub fn hold(&mut self) -> Result<()> {
        match self.state {
            State::Idle if Handle::try_current().is_ok() => self.start(),
            _ => Ok(()),
        }
    }

    fn start(&mut self) -> Result<()> {
        let Ok(runtime) = Handle::try_current() else {
            return Err(Error::new(
                ErrorKind::Internal,
                "a reader is polled outside of a tokio runtime",
            ));
        };
        let endpoints = match &self.options.endpoints {
            Some(endpoints) => endpoints.clone(),
            None => (0..self.plan.endpoints.len()).collect(),
        };
        let mut running = Running::new(&self.client, &self.plan, endpoints, &self.options)?;
        running.spawn_renewal(&self.client);
        runtime.spawn(Pool::swept(Arc::downgrade(&self.client.shared.pool)));
        self.state = State::Running(Box::new(running));
        Ok(())
    }

    /// The next piece of the read under way; an event that ends the read changes the state.
    fn poll_running(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Piece>>> {
        let State::Running(running) = &mut self.state else {
            return Poll::Ready(None);
        };
        loop {
            let changes = (running.ends, self.client.shared.health.changes());
            if running.looked_at.replace(changes) != Some(changes) {
                running.begin_more(&self.client, &self.plan, &self.options, &self.counters);
            }
            if running.left == 0 {
                return Poll::Ready(None);
            }
            let Some(event) = ready!(running.poll_event(context, self.options.ordered))? else {
                continue;
            };
            let position = event.position;
            match event.news {
                News::Rows {
                    batch,
                    bytes,
                    source,
                    lease,
                } => {
                    let piece = running.piece(position, batch, source);
                    self.counters.count(piece.batch.num_rows(), bytes);
                    drop(lease);
                    return Poll::Ready(Some(Ok(piece)));
                }
                News::End => running.ended(position, self.options.ordered),
                News::Failed(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }

    /// Whether an error is one of tickets that expired before anything was handed out, so that a new plan is as good.
    fn is_for_a_new_plan(&self, error: &Error) -> bool {
        error.kind() == ErrorKind::Unauthenticated
            && !self.was_replanned
            && self.counters.rows.load(Ordering::Relaxed) == 0
            && self.options.endpoints.is_none()
            && self.options.skip_rows.is_empty()
            && self.plan.descriptor().is_some()
    }

    fn replan(&mut self) {
        self.was_replanned = true;
        let (client, descriptor) = (self.client.clone(), self.plan.descriptor().cloned());
        let schema = self.schema();
        self.state = State::Replanning(Box::pin(async move {
            let plan = client.plan_of(descriptor.unwrap_or_default()).await?;
            if plan.schema == schema {
                return Ok(plan);
            }
            Err(Error::new(
                ErrorKind::Stale,
                "STALE: the tickets expired, and the dataset has another schema now; plan it anew",
            ))
        }));
    }
}

impl Stream for Reader {
    type Item = Result<Piece>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let outcome = match &mut self.state {
                State::Idle => match self.start() {
                    Ok(()) => continue,
                    Err(error) => Some(Err(error)),
                },
                State::Replanning(plan) => match ready!(plan.as_mut().poll(context)) {
                    Ok(plan) => {
                        self.plan = plan;
                        self.state = State::Idle;
                        continue;
                    }
                    Err(error) => Some(Err(error)),
                },
                State::Running(_) => ready!(self.poll_running(context)),
                State::Over => return Poll::Ready(None),
            };
            match outcome {
                Some(Ok(piece)) => return Poll::Ready(Some(Ok(piece))),
                Some(Err(error)) if self.is_for_a_new_plan(&error) => self.replan(),
                end => {
                    self.state = State::Over;
                    return Poll::Ready(end);
                }
            }
        }
    }
}

impl Running {
    fn new(client: &Client, plan: &Plan, endpoints: Vec<usize>, options: &ReadOptions) -> Result<Self> {
        let mut places = Vec::with_capacity(endpoints.len());
        for endpoint in &endpoints {
            let found = plan.endpoints.get(*endpoint).ok_or_else(|| {
                let there = plan.endpoints.len();
                let words = format!("endpoint {endpoint} is not one of the {there} of the plan");
                Error::new(ErrorKind::InvalidArgument, words)
            })?;
            places.push(Place::of(found, &client.shared));
        }
        let (sender, events) = mpsc::channel(QUEUED_EVENTS);
        let budget_bytes = options.budget_bytes.unwrap_or(client.options().budget_bytes);
        Ok(Self {
            waiting: (0..endpoints.len()).collect(),
            begun_at: HashMap::new(),
            tickets: Arc::new(Tickets::new(plan, &endpoints)),
            budget: Budget::new(budget_bytes, options.ordered),
            tasks: JoinSet::new(),
            events,
            sender,
            turn: 0,
            queues: HashMap::new(),
            batches: vec![0; endpoints.len()],
            left: endpoints.len(),
            ends: 0,
            looked_at: None,
            endpoints,
            places,
        })
    }

    fn spawn_renewal(&mut self, client: &Client) {
        let (client, tickets) = (client.clone(), Arc::clone(&self.tickets));
        self.tasks.spawn(async move { tickets.renew(&client).await });
    }

    /// Begins as many of the waiting endpoints as their workers have connections for. The one whose turn it is goes first and in
    /// any case.
    fn begin_more(&mut self, client: &Client, plan: &Plan, options: &ReadOptions, counters: &Arc<Counters>) {
        let streams = options
            .streams_per_worker
            .unwrap_or(client.options().streams_per_worker);
        let mut index = 0;
        while let Some(&position) = self.waiting.get(index) {
            let has_turn = options.ordered && position == self.turn;
            // The one whose turn it is waits before all others: where it does not come first, it does not come.
            if self.begun_at.len() >= MAX_STREAMS && !has_turn {
                break;
            }
            let Some(places) = self.places.get(position) else { break };
            let first = client.shared.health.ordered(places).swap_remove(0);
            let under_way = self.begun_at.values().filter(|place| **place == first).count();
            if under_way >= streams.max(1) && !has_turn {
                index += 1;
                continue;
            }
            self.waiting.remove(index);
            self.begun_at.insert(position, first);
            let endpoint = self.endpoints.get(position).copied().unwrap_or_default();
            let fetch = Fetch {
                client: Arc::clone(&client.shared),
                schema: Arc::clone(&plan.schema),
                tickets: Arc::clone(&self.tickets),
                places: places.clone(),
                turn: Turn {
                    budget: Arc::clone(&self.budget),
                    position,
                },
                batch_bytes: options.batch_bytes,
                seam: Seam::after(options.skip_rows.get(&endpoint).copied().unwrap_or(0)),
                counters: Arc::clone(counters),
                events: self.sender.clone(),
            };
            self.tasks.spawn(fetch.run());
        }
    }

    /// The next event to act upon; none where only something else has changed.
    fn poll_event(&mut self, context: &mut Context<'_>, ordered: bool) -> Poll<Result<Option<Event>>> {
        if ordered && let Some(news) = self.queues.get_mut(&self.turn).and_then(VecDeque::pop_front) {
            return Poll::Ready(Ok(Some(Event {
                position: self.turn,
                news,
            })));
        }
        if let Poll::Ready(event) = self.events.poll_recv(context) {
            let event = event.ok_or_else(|| Error::new(ErrorKind::Internal, "no stream is left"))?;
            if !ordered {
                return Poll::Ready(Ok(Some(event)));
            }
            if matches!(event.news, News::End | News::Failed(_)) {
                self.begun_at.remove(&event.position);
                self.ends += 1;
            }
            self.queues.entry(event.position).or_default().push_back(event.news);
            return Poll::Ready(Ok(None));
        }
        match ready!(self.tasks.poll_join_next(context)) {
            Some(Err(error)) if error.is_panic() => {
                Poll::Ready(Err(Error::protocol("it made a task of this client panic")))
            }
            Some(_) => Poll::Ready(Ok(None)),
            None => Poll::Ready(Err(Error::new(ErrorKind::Internal, "no task is left"))),
        }
    }

    fn piece(&mut self, position: usize, batch: RecordBatch, source: Source) -> Piece {
        let mut batch_index = 0;
        if let Some(batches) = self.batches.get_mut(position) {
            batch_index = *batches;
            *batches += 1;
        }
        Piece {
            endpoint: self.endpoints.get(position).copied().unwrap_or_default(),
            batch_index,
            batch,
            source,
        }
    }

    fn ended(&mut self, position: usize, ordered: bool) {
        self.begun_at.remove(&position);
        self.ends += 1;
        self.left -= 1;
        if ordered {
            self.queues.remove(&position);
            self.turn = position + 1;
            self.budget.turn_to(self.turn);
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Schema;
    use arrow_flight::{FlightEndpoint, FlightInfo, Ticket};

    use super::*;
    use crate::address::Address;
    use crate::options::ClientOptions;

    /// A plan of so many endpoints.
    fn planned(endpoints: usize) -> Plan {
        let mut info = FlightInfo::new().try_with_schema(&Schema::empty()).unwrap();
        for number in 0..endpoints {
            info = info.with_endpoint(FlightEndpoint::new().with_ticket(Ticket::new(number.to_string())));
        }
        Plan::new(info).unwrap()
    }

    #[tokio::test]
    async fn the_one_whose_turn_it_is_begins_however_many_are_open() {
        let client = Client::new("grpc://127.0.0.1:1", ClientOptions::default()).unwrap();
        let plan = planned(MAX_STREAMS + 2);
        let options = ReadOptions {
            ordered: true,
            ..ReadOptions::default()
        };
        let endpoints = (0..plan.endpoints.len()).collect();
        let mut running = Running::new(&client, &plan, endpoints, &options).unwrap();
        // Those behind it had another place to go to, and came before it.
        let elsewhere = Place::Flight(Address::Tcp("127.0.0.1:2".to_owned()));
        running.waiting = [0, MAX_STREAMS + 1].into();
        let others = 1..=MAX_STREAMS;
        running.begun_at = others.map(|position| (position, elsewhere.clone())).collect();
        running.begin_more(&client, &plan, &options, &Arc::default());
        assert!(running.begun_at.contains_key(&0));
        assert_eq!(running.waiting, [MAX_STREAMS + 1], "the others wait");
    }
}
