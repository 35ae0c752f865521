//! A Flight server that answers by a script.

use std::collections::HashMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, HandshakeRequest,
    HandshakeResponse, PollInfo, PutResult, RenewFlightEndpointRequest, SchemaResult, Ticket,
};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use prost::Message;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Response, Status, Streaming};

use super::{raw, rows, schema};

/// What a stream does next.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Sends the next so many rows as one batch.
    Rows(i64),
    /// Sends the rest in batches of so many rows, and ends.
    Rest(i64),
    /// Fails.
    Fail(Status),
    /// Says nothing any more.
    Hang,
}

/// How a server is told to behave; what is not said is done well.
#[derive(Debug, Clone, Default)]
pub(crate) struct Script {
    /// Rows of each endpoint.
    pub(crate) endpoints: Vec<i64>,
    /// Locations of each endpoint.
    pub(crate) locations: Vec<String>,
    /// Their socket of shared memory.
    pub(crate) memory: Option<PathBuf>,
    /// What the first streams of each endpoint do, one after the other; later ones send all in batches of seven rows.
    pub(crate) streams: HashMap<usize, Vec<Vec<Step>>>,
    /// How long a ticket is good for.
    pub(crate) tickets_live: Option<Duration>,
    /// How many DoGets are refused as expired, up to the next plan; `usize::MAX` for ever.
    pub(crate) expired: usize,
    /// How many calls besides DoGet are refused as UNAVAILABLE.
    pub(crate) unavailable: usize,
    /// Whether it says that it is a Jetbridge server.
    pub(crate) is_ours: bool,
    /// Whether it sends row groups in place of batches, and says so.
    pub(crate) is_raw: bool,
}

/// A server, and what it was asked.
pub(crate) struct Server {
    pub(crate) authority: String,
    pub(crate) state: Arc<State>,
    _stop: DropGuard,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    script: Mutex<Script>,
    pub(crate) plans: AtomicUsize,
    pub(crate) actions: AtomicUsize,
    pub(crate) renewals: AtomicUsize,
    /// Tickets of the DoGets, in order.
    pub(crate) gets: Mutex<Vec<String>>,
    /// The forms that they asked for.
    pub(crate) forms: Mutex<Vec<String>>,
    /// How large small files may be, by the last of them.
    pub(crate) most_file_bytes: Mutex<Option<String>>,
    /// Streams that are open.
    pub(crate) open: Arc<AtomicUsize>,
}

impl Server {
    pub(crate) async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State {
            script: Mutex::new(script),
            ..State::default()
        });
        let stop = CancellationToken::new();
        let service = FlightServiceServer::new(Service(Arc::clone(&state)));
        let server = tonic::transport::Server::builder().add_service(service);
        let stopped = stop.clone().cancelled_owned();
        tokio::spawn(server.serve_with_incoming_shutdown(TcpListenerStream::new(listener), stopped));
        Self {
            authority,
            state,
            _stop: stop.drop_guard(),
        }
    }

    pub(crate) fn uri(&self) -> String {
        format!("grpc://{}", self.authority)
    }

    pub(crate) fn gets(&self) -> Vec<String> {
        self.state.gets.lock().clone()
    }

    /// Changes the script.
    pub(crate) fn tell(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.state.script.lock());
    }
}

struct Service(Arc<State>);

impl Service {
    fn is_refused(&self) -> Result<(), Status> {
        let mut script = self.0.script.lock();
        if script.unavailable == 0 {
            return Ok(());
        }
        script.unavailable -= 1;
        Err(Status::unavailable("not now"))
    }

    fn steps(&self, endpoint: usize) -> Vec<Step> {
        let mut script = self.0.script.lock();
        match script.streams.get_mut(&endpoint) {
            Some(streams) if !streams.is_empty() => streams.remove(0),
            _ => vec![Step::Rest(7)],
        }
    }
}

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn timestamp(time: SystemTime) -> prost_types::Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap();
    prost_types::Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap(),
        nanos: i32::try_from(since.subsec_nanos()).unwrap(),
    }
}

/// The batches of steps, or the row groups, and how they end.
fn messages(endpoint: i64, total: i64, steps: Vec<Step>, is_raw: bool) -> Boxed<FlightData> {
    let (mut at, mut spans) = (0, Vec::new());
    let mut end: Boxed<FlightData> = stream::empty().boxed();
    for step in steps {
        match step {
            Step::Rows(count) => {
                spans.push(at..total.min(at + count));
                at = total.min(at + count);
            }
            Step::Rest(size) => {
                while at < total {
                    spans.push(at..total.min(at + size));
                    at = total.min(at + size);
                }
            }
            Step::Fail(status) => end = stream::iter([Err(status)]).boxed(),
            Step::Hang => end = stream::pending().boxed(),
        }
    }
    if is_raw {
        return stream::iter(raw::messages(endpoint, spans).into_iter().map(Ok))
            .chain(end)
            .boxed();
    }
    let batches = spans
        .into_iter()
        .map(move |span| Ok(rows(endpoint, span.start, span.end)));
    let encoder = FlightDataEncoderBuilder::new().with_schema(schema());
    let encoded = encoder.build(stream::iter(batches)).map_err(Status::from);
    encoded.chain(end).boxed()
}

/// Counts as open until it is dropped.
struct Counted(Boxed<FlightData>, Arc<AtomicUsize>);

impl Stream for Counted {
    type Item = Result<FlightData, Status>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tonic::async_trait]
impl FlightService for Service {
    type HandshakeStream = Boxed<HandshakeResponse>;
    type ListFlightsStream = Boxed<FlightInfo>;
    type DoGetStream = Boxed<FlightData>;
    type DoPutStream = Boxed<PutResult>;
    type DoActionStream = Boxed<arrow_flight::Result>;
    type ListActionsStream = Boxed<ActionType>;
    type DoExchangeStream = Boxed<FlightData>;

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        self.0.plans.fetch_add(1, Ordering::SeqCst);
        self.is_refused()?;
        let script = {
            let mut script = self.0.script.lock();
            if script.expired != usize::MAX {
                // New tickets are good ones.
                script.expired = 0;
            }
            script.clone()
        };
        let mut info = FlightInfo::new().try_with_schema(&schema()).unwrap();
        for endpoint in 0..script.endpoints.len() {
            let mut planned = FlightEndpoint::new().with_ticket(Ticket::new(endpoint.to_string()));
            if let Some(life) = script.tickets_live {
                planned = planned.with_expiration_time(timestamp(SystemTime::now() + life));
            }
            for location in &script.locations {
                planned = planned.with_location(location.clone());
            }
            if let Some(memory) = &script.memory {
                let about = serde_json::json!({"memory": format!("unix://{}", memory.display())});
                planned = planned.with_app_metadata(about.to_string());
            }
            info = info.with_endpoint(planned);
        }
        Ok(Response::new(info.with_descriptor(request.into_inner())))
    }

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        if let Some(form) = request.metadata().get("x-jetbridge-wire") {
            self.0.forms.lock().push(form.to_str().unwrap().to_owned());
        }
        let most_bytes = request.metadata().get("x-jetbridge-max-file-bytes");
        *self.0.most_file_bytes.lock() = most_bytes.map(|bytes| bytes.to_str().unwrap().to_owned());
        let ticket = String::from_utf8(request.into_inner().ticket.to_vec()).unwrap();
        self.0.gets.lock().push(ticket.clone());
        {
            let mut script = self.0.script.lock();
            if script.expired > 0 {
                if script.expired != usize::MAX {
                    script.expired -= 1;
                }
                return Err(Status::unauthenticated("the ticket expired"));
            }
        }
        let endpoint: usize = ticket.split('+').next().unwrap().parse().unwrap();
        let total = self.0.script.lock().endpoints[endpoint];
        let steps = self.steps(endpoint);
        if let [Step::Fail(status)] = steps.as_slice() {
            return Err(status.clone());
        }
        self.0.open.fetch_add(1, Ordering::SeqCst);
        let (is_ours, is_raw) = {
            let script = self.0.script.lock();
            (script.is_ours, script.is_raw)
        };
        let messages = messages(i64::try_from(endpoint).unwrap(), total, steps, is_raw);
        let mut response = Response::new(Counted(messages, Arc::clone(&self.0.open)).boxed() as Self::DoGetStream);
        if is_ours || is_raw {
            let form = if is_raw { "raw" } else { "arrow" };
            response
                .metadata_mut()
                .insert("x-jetbridge-wire", form.parse().unwrap());
        }
        Ok(response)
    }

    async fn do_action(&self, request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        let action = request.into_inner();
        if action.r#type == "RenewFlightEndpoint" {
            self.0.renewals.fetch_add(1, Ordering::SeqCst);
            let request = RenewFlightEndpointRequest::decode(action.body).unwrap();
            let mut endpoint = request.endpoint.unwrap();
            let ticket = endpoint.ticket.take().unwrap().ticket;
            endpoint.ticket = Some(Ticket::new([&ticket[..], b"+"].concat()));
            let life = self.0.script.lock().tickets_live.unwrap();
            endpoint.expiration_time = Some(timestamp(SystemTime::now() + life));
            let answer = arrow_flight::Result::new(endpoint.encode_to_vec());
            return Ok(Response::new(stream::iter([Ok(answer)]).boxed()));
        }
        self.0.actions.fetch_add(1, Ordering::SeqCst);
        self.is_refused()?;
        // The body, the name, and nothing.
        let name = serde_json::to_vec(&action.r#type).unwrap();
        let answers = [action.body, name.into(), Vec::new().into()].map(|body| Ok(arrow_flight::Result { body }));
        let answers = stream::iter(answers);
        if action.r#type == "watched" {
            return Ok(Response::new(answers.chain(stream::pending()).boxed()));
        }
        Ok(Response::new(answers.boxed()))
    }

    async fn get_schema(&self, _: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        let options = arrow::ipc::writer::IpcWriteOptions::default();
        let result = arrow_flight::SchemaAsIpc::new(&schema(), &options).try_into();
        Ok(Response::new(result.unwrap()))
    }

    async fn list_flights(&self, _: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        let descriptor = FlightDescriptor::new_path(vec!["lake".to_owned(), "trips".to_owned()]);
        let info = FlightInfo::new()
            .try_with_schema(&schema())
            .unwrap()
            .with_descriptor(descriptor);
        Ok(Response::new(stream::iter([Ok(info)]).boxed()))
    }

    async fn handshake(
        &self,
        _: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn do_put(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn list_actions(&self, _: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoExchangeStream>, Status> {
        Err(Status::unimplemented("not here"))
    }
}
