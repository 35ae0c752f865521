//! The Arrow Flight door.
//!
//! | call | module |
//! |---|---|
//! | GetFlightInfo, GetSchema, PollFlightInfo | [`describe`], [`info`] |
//! | ListFlights | [`list`] |
//! | which sockets these three name | [`offer`] |
//! | DoGet | [`front`], [`get`], [`raw`], [`wire`], [`ahead`], [`encode`], [`message`], [`buffers`], [`flow`] |
//! | DoAction, ListActions | [`actions`] |
//!
//! Why not arrow-flight's `FlightSqlService`: its blanket implementation answers ListFlights, GetSchema and PollFlightInfo
//! itself, with UNIMPLEMENTED, and decodes every ticket as a Flight SQL message.

mod actions;
mod ahead;
mod buffers;
mod describe;
mod encode;
#[cfg(test)]
mod every_type;
mod flow;
mod front;
mod get;
mod info;
mod list;
mod message;
mod observe;
mod offer;
mod raw;
#[cfg(test)]
pub(crate) mod testing;
mod wire;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse,
    PollInfo, PutResult, SchemaAsIpc, SchemaResult, Ticket,
};
use futures::{Stream, StreamExt, stream};
use tokio::sync::Semaphore;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status, Streaming};

use crate::error::ServiceError;
use crate::node::Node;

pub use buffers::Buffers;
#[cfg(test)]
pub(crate) use encode::schema_bytes;
pub(crate) use flow::Connection;
pub use front::{AnswerBody, Front};
use message::Message;
pub(crate) use observe::code_name;
pub use offer::Places;
use offer::{Offer, Offered};

/// Largest request message, in bytes: tickets and JSON scans; DoPut does not exist yet.
const MAX_REQUEST_BYTES: usize = 16 << 20;

type BoxedStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The Flight service of one node.
#[derive(Debug, Clone)]
pub struct FlightDoor {
    node: Arc<Node>,
    places: Arc<Places>,
    limits: StreamLimits,
    /// One permit for each DoGet stream that may be open.
    streams: Arc<Semaphore>,
}

/// What DoGet streams may take.
#[derive(Debug, Clone)]
pub struct StreamLimits {
    /// How many may be open at once; a further one is UNAVAILABLE.
    pub max_streams: usize,
    /// How long a client may take nothing of what is ready for it; its stream is let go of then.
    pub stall_timeout: Duration,
}

impl FlightDoor {
    /// The door of `node`, reachable at `places`.
    #[must_use]
    pub fn new(node: Arc<Node>, places: Places, limits: StreamLimits) -> Self {
        Self {
            node,
            places: Arc::new(places),
            streams: Arc::new(Semaphore::new(limits.max_streams)),
            limits,
        }
    }

    /// The gRPC service, with the limits on messages set.
    #[must_use]
    pub fn into_service(self) -> Front {
        // What we send is cut to size by the encoder; a single row larger than the limit still goes out whole.
        let inner = FlightServiceServer::new(self.clone())
            .max_decoding_message_size(MAX_REQUEST_BYTES)
            .max_encoding_message_size(usize::MAX);
        Front::new(self, inner)
    }

    /// The messages that answer a DoGet.
    async fn messages(&self, request: Request<Ticket>) -> Result<Response<BoxedStream<Message>>, Status> {
        let limit = encode::message_limit(request.metadata())?;
        let asked = wire::Wire::asked(request.metadata())?;
        observe::call("DoGet", request, |ticket| async move {
            let place = Arc::clone(&self.streams).try_acquire_owned();
            let place = place.map_err(|_| too_many(self.limits.max_streams))?;
            let answer = get::stream(Arc::clone(&self.node), &ticket.ticket, limit, asked).await?;
            let messages = observe::stream(answer.messages, place).boxed() as BoxedStream<Message>;
            let mut response = Response::new(messages);
            answer.chosen.tell(response.metadata_mut());
            if let Some(pause) = answer.pause {
                response.extensions_mut().insert(pause);
            }
            Ok(response)
        })
        .await
    }

    async fn info(&self, descriptor: FlightDescriptor, offered: Offered) -> Result<FlightInfo, ServiceError> {
        let offer = offered?;
        let spec = describe::scan_spec(&descriptor)?;
        let plan = self.node.plan(&spec).await?;
        info::flight_info(&self.node, &plan, &spec, &offer)
            .await
            .map(|info| info.with_descriptor(descriptor))
    }
}

fn too_many(streams: usize) -> Status {
    Status::unavailable(format!(
        "{streams} DoGet streams are open, which is the most (max_streams); try again"
    ))
}

#[tonic::async_trait]
impl FlightService for FlightDoor {
    type HandshakeStream = BoxedStream<HandshakeResponse>;
    type ListFlightsStream = BoxedStream<FlightInfo>;
    type DoGetStream = BoxedStream<FlightData>;
    type DoPutStream = BoxedStream<PutResult>;
    type DoActionStream = BoxedStream<arrow_flight::Result>;
    type ListActionsStream = BoxedStream<ActionType>;
    type DoExchangeStream = BoxedStream<FlightData>;

    /// Accepts everybody: the server listens on loopback only. Drivers that log in with a name and a password expect a
    /// bearer token in the answer's headers and fail without one.
    async fn handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        observe::call("Handshake", request, |mut messages| async move {
            let protocol_version = messages.message().await?.map_or(0, |first| first.protocol_version);
            let answer = HandshakeResponse {
                protocol_version,
                payload: bytes::Bytes::new(),
            };
            let mut response = Response::new(stream::iter([Ok(answer)]).boxed() as Self::HandshakeStream);
            response
                .metadata_mut()
                .insert("authorization", MetadataValue::from_static("Bearer anonymous"));
            Ok(response)
        })
        .await
    }

    async fn list_flights(&self, request: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        let offered = Offer::of(&self.places, &request);
        observe::call("ListFlights", request, |criteria| async move {
            let flights = list::flights(Arc::clone(&self.node), offered?, &criteria).await?;
            Ok(Response::new(flights))
        })
        .await
    }

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        let offered = Offer::of(&self.places, &request);
        observe::call("GetFlightInfo", request, |descriptor| async {
            Ok(Response::new(self.info(descriptor, offered).await?))
        })
        .await
    }

    /// A scan is planned from footers alone, so the first answer is already the whole one.
    async fn poll_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        let offered = Offer::of(&self.places, &request);
        observe::call("PollFlightInfo", request, |descriptor| async {
            let info = self.info(descriptor, offered).await?;
            let poll = PollInfo::new().with_info(info).try_with_progress(1.0);
            Ok(Response::new(poll.map_err(|error| ServiceError::Internal {
                what: error.to_string(),
            })?))
        })
        .await
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        observe::call("GetSchema", request, |descriptor| async move {
            let spec = describe::scan_spec(&descriptor)?;
            let dataset = self.node.dataset(&spec.path).await?;
            let schema = crate::plan::output_schema(&dataset.schema, &spec)?;
            let options = IpcWriteOptions::default();
            let answer = SchemaResult::try_from(SchemaAsIpc::new(&schema, &options));
            Ok(Response::new(answer.map_err(|error| ServiceError::Internal {
                what: error.to_string(),
            })?))
        })
        .await
    }

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        let (metadata, messages, extensions) = self.messages(request).await?.into_parts();
        let data = messages.map(|message| message.map(Message::into_flight_data)).boxed() as Self::DoGetStream;
        Ok(Response::from_parts(metadata, data, extensions))
    }

    async fn do_put(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        Err(Status::unimplemented(
            "DoPut is not implemented: Jetbridge reads; write to the storage itself",
        ))
    }

    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoExchangeStream>, Status> {
        Err(Status::unimplemented("DoExchange is not implemented"))
    }

    async fn do_action(&self, request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        observe::call("DoAction", request, |action| async move {
            let results = actions::run(&self.node, &action).await?;
            Ok(Response::new(
                stream::iter(results.into_iter().map(Ok)).boxed() as Self::DoActionStream
            ))
        })
        .await
    }

    async fn list_actions(&self, request: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        observe::call("ListActions", request, |_| async {
            Ok(Response::new(
                stream::iter(actions::list().map(Ok)).boxed() as Self::ListActionsStream
            ))
        })
        .await
    }
}
