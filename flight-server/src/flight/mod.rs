//! The Arrow Flight door.
//!
//! | call | module |
//! |---|---|
//! | GetFlightInfo, GetSchema, PollFlightInfo | [`describe`], [`info`] |
//! | ListFlights | [`list`] |
//! | which sockets these three name | [`offer`] |
//! | DoGet | [`front`], [`get`], [`raw`], [`wire`], [`ahead`], [`encode`], [`message`], [`buffers`], [`flow`] |
//! | DoAction, ListActions | [`actions`] |
//! | Flight SQL, in all of these and in DoPut | [`sql`] |
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
mod parse;
mod poll;
mod raw;
mod residency;
mod sql;
#[cfg(test)]
pub(crate) mod testing;
mod wire;

use std::pin::Pin;
use std::sync::Arc;

use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse,
    PollInfo, PutResult, SchemaAsIpc, SchemaResult, Ticket,
};
use futures::{Stream, StreamExt, stream};
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status, Streaming};

use crate::error::ServiceError;
use crate::node::Node;
use crate::streams::Streams;

pub use buffers::Buffers;
use describe::Asked;
#[cfg(test)]
pub(crate) use encode::schema_bytes;
pub(crate) use flow::Connection;
pub use front::{AnswerBody, Front};
use message::Message;
use observe::Failure;
pub(crate) use observe::code_name;
use offer::{Offer, Offered};
use sql::Caller;

/// Largest request message, in bytes: tickets, JSON scans, statements and the values of their parameters.
const MAX_REQUEST_BYTES: usize = 16 << 20;

type BoxedStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The Flight service of one node.
#[derive(Debug, Clone)]
pub struct FlightDoor {
    node: Arc<Node>,
    /// Those of DoGet are among them.
    streams: Streams,
}

impl FlightDoor {
    /// The door of `node`.
    #[must_use]
    pub fn new(node: Arc<Node>, streams: Streams) -> Self {
        Self { node, streams }
    }

    /// The gRPC service, with the limits on messages set.
    #[must_use]
    pub fn into_service(self) -> Front {
        // What we send is cut to size by the encoder; a single row larger than the limit still goes out whole.
        let inner = FlightServiceServer::new(self.clone())
            .max_decoding_message_size(MAX_REQUEST_BYTES)
            .max_encoding_message_size(usize::MAX);
        let tasks = self.node.distribution.door(&self.node);
        Front::new(self, inner, tasks)
    }

    /// The messages that answer a DoGet.
    async fn messages(&self, request: Request<Ticket>) -> Result<Response<BoxedStream<Message>>, Status> {
        let limits = encode::Limits::asked(request.metadata())?;
        let asked = wire::Asked::of(request.metadata())?;
        observe::call("DoGet", request, |ticket| async move {
            let place = self.streams.enter()?;
            let answer = get::stream(Arc::clone(&self.node), &ticket.ticket, limits, &asked).await?;
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

    async fn info(
        &self,
        descriptor: FlightDescriptor,
        caller: &Caller,
        offered: Offered,
    ) -> Result<FlightInfo, ServiceError> {
        let offer = offered?;
        let info = match describe::asked(&descriptor)? {
            Asked::Scan(spec) => {
                let plan = self.node.plan(&spec).await?;
                info::flight_info(&self.node, &plan, &spec, offer).await?
            }
            Asked::Sql(command) => sql::info(&self.node, caller, *command, offer).await?,
        };
        Ok(info.with_descriptor(descriptor))
    }

    async fn schema(&self, descriptor: &FlightDescriptor, caller: &Caller) -> Result<SchemaResult, ServiceError> {
        let schema = match describe::asked(descriptor)? {
            Asked::Scan(spec) => self.node.answer_schema(&spec).await?,
            Asked::Sql(command) => sql::schema(&self.node, caller, *command).await?,
        };
        let answer = SchemaResult::try_from(SchemaAsIpc::new(&schema, &IpcWriteOptions::default()));
        answer.map_err(|error| ServiceError::Internal {
            what: error.to_string(),
        })
    }

    /// A statement's flight is whole at once: what takes long about it begins with DoGet.
    async fn poll(
        &self,
        descriptor: FlightDescriptor,
        caller: &Caller,
        offered: Offered,
    ) -> Result<PollInfo, ServiceError> {
        if let Ok(Asked::Sql(_)) = describe::asked(&descriptor) {
            let info = self.info(descriptor, caller, offered).await?;
            let poll = PollInfo::new().with_info(info).try_with_progress(1.0);
            return poll.map_err(|error| ServiceError::Internal {
                what: error.to_string(),
            });
        }
        poll::poll(&self.node, &descriptor, offered?).await
    }

    async fn act(&self, action: &Action, caller: &Caller, from_node: Result<(), Status>) -> Acted {
        if !sql::is_action(&action.r#type) {
            return Ok(Response::new(actions::run(&self.node, action, from_node).await?));
        }
        let told = sql::act(&self.node, caller, action).await?;
        let parts = told.body.map(|body| Ok(arrow_flight::Result { body }));
        let mut response = Response::new(stream::iter(parts).boxed() as BoxedStream<arrow_flight::Result>);
        if let Some(cookie) = told.cookie {
            response.metadata_mut().insert("set-cookie", cookie);
        }
        Ok(response)
    }
}

/// What an action gives.
type Acted = Result<Response<BoxedStream<arrow_flight::Result>>, Failure>;

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
        let offered = Offer::of(&request);
        observe::call("ListFlights", request, |criteria| async move {
            let flights = list::flights(Arc::clone(&self.node), offered?, &criteria).await?;
            Ok(Response::new(flights))
        })
        .await
    }

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        let (caller, offered) = (Caller::of(&request), Offer::of(&request));
        observe::call("GetFlightInfo", request, |descriptor| async {
            Ok(Response::new(self.info(descriptor, &caller, offered).await?))
        })
        .await
    }

    async fn poll_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        let (caller, offered) = (Caller::of(&request), Offer::of(&request));
        observe::call("PollFlightInfo", request, |descriptor| async {
            Ok(Response::new(self.poll(descriptor, &caller, offered).await?))
        })
        .await
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        let caller = Caller::of(&request);
        observe::call("GetSchema", request, |descriptor| async move {
            Ok(Response::new(self.schema(&descriptor, &caller).await?))
        })
        .await
    }

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        let (metadata, messages, extensions) = self.messages(request).await?.into_parts();
        let data = messages.map(|message| message.map(Message::into_flight_data)).boxed() as Self::DoGetStream;
        Ok(Response::from_parts(metadata, data, extensions))
    }

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        observe::call("DoPut", request, |messages| async {
            Ok(Response::new(sql::put(&self.node, messages).await?))
        })
        .await
    }

    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoExchangeStream>, Status> {
        Err(Status::unimplemented("DoExchange is not implemented"))
    }

    async fn do_action(&self, request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        let from_node = self.node.cluster.pass.demand(&request);
        let caller = Caller::of(&request);
        observe::call("DoAction", request, |action| async move {
            self.act(&action, &caller, from_node).await
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::streams::StreamLimits;
    use crate::testing::{Lake, numbers};

    fn door(lake: &Lake) -> FlightDoor {
        let limits = StreamLimits {
            max_streams: 64,
            stall_timeout: Duration::from_secs(60),
        };
        FlightDoor::new(Arc::clone(&lake.node), Streams::new(limits))
    }

    fn scan(json: &str) -> Request<FlightDescriptor> {
        Request::new(FlightDescriptor::new_cmd(json.to_owned()))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn get_schema_refuses_what_get_flight_info_refuses() {
        let lake = Lake::of(&[("lake/a.parquet", numbers(3))]).await;
        let door = door(&lake);
        for (json, code) in [
            (r#"{"path": "/lake", "columns": ["x"]}"#, tonic::Code::InvalidArgument),
            (r#"{"path": "/lake", "filter": "x > 1"}"#, tonic::Code::InvalidArgument),
            (r#"{"path": "/lake", "filter": "n >"}"#, tonic::Code::InvalidArgument),
            (r#"{"path": "/lake", "snapshot": "another"}"#, tonic::Code::Aborted),
            (
                r#"{"path": "/lake", "parts": [["b.parquet", [0]]]}"#,
                tonic::Code::NotFound,
            ),
            (
                r#"{"path": "/lake", "parts": [["a.parquet", [7]]]}"#,
                tonic::Code::InvalidArgument,
            ),
        ] {
            let refused = door.get_flight_info(scan(json)).await.unwrap_err();
            assert_eq!(refused.code(), code, "{json}: {refused}");
            let told = door.get_schema(scan(json)).await.unwrap_err();
            assert_eq!((told.code(), told.message()), (code, refused.message()), "{json}");
        }
        let whole = r#"{"path": "/lake", "columns": ["n"], "filter": "n > 1", "parts": [["a.parquet", [0]]]}"#;
        let told = door.get_schema(scan(whole)).await.unwrap().into_inner();
        let schema = arrow::datatypes::Schema::try_from(&told).unwrap();
        assert_eq!(schema.fields().len(), 1);
    }
}
