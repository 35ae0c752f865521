//! A Flight server as arrow-flight's own parts make it: its encoder, tonic's server, nothing else. `make bench` sets
//! Jetbridge's DoGet against it.
//!
//! `cargo run --release --workspace --example stock_server -- FILE` loads the record batches of an Arrow IPC file and
//! prints `ready PORT`. A ticket, and likewise the command that GetFlightInfo takes, is a range of batches as text:
//! `3 10` is those from the fourth to the tenth.

use std::error::Error;
use std::fs::File;
use std::io::BufReader;
use std::ops::Range;
use std::pin::Pin;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::FileReader;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, HandshakeRequest,
    HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket,
};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

/// What gRPC clients take by default; the batches come in messages below that, so none is cut.
const MAX_MESSAGE_BYTES: usize = 4 << 20;

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let file = std::env::args().nth(1).ok_or("usage: stock_server FILE")?;
    let reader = FileReader::try_new(BufReader::new(File::open(file)?), None)?;
    let stock = Stock {
        schema: reader.schema(),
        batches: reader.collect::<Result<_, _>>()?,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("ready {}", listener.local_addr()?.port());
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let service = FlightServiceServer::new(stock).max_encoding_message_size(usize::MAX);
    Server::builder()
        .add_service(service)
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}

struct Stock {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
}

impl Stock {
    /// The batches that a ticket or a command names.
    fn asked(&self, text: &[u8]) -> Result<&[RecordBatch], Status> {
        range(text)
            .and_then(|range| self.batches.get(range))
            .ok_or_else(|| Status::invalid_argument("what is asked for must be a range of batches, such as `3 10`"))
    }
}

fn range(text: &[u8]) -> Option<Range<usize>> {
    let (begin, end) = std::str::from_utf8(text).ok()?.split_once(' ')?;
    Some(begin.parse().ok()?..end.parse().ok()?)
}

#[tonic::async_trait]
impl FlightService for Stock {
    type HandshakeStream = Messages<HandshakeResponse>;
    type ListFlightsStream = Messages<FlightInfo>;
    type DoGetStream = Messages<FlightData>;
    type DoPutStream = Messages<PutResult>;
    type DoExchangeStream = Messages<FlightData>;
    type DoActionStream = Messages<arrow_flight::Result>;
    type ListActionsStream = Messages<ActionType>;

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        let batches = self.asked(&request.get_ref().ticket)?.to_vec();
        let encoded = FlightDataEncoderBuilder::new()
            .with_schema(self.schema.clone())
            .with_max_flight_data_size(MAX_MESSAGE_BYTES)
            .build(stream::iter(batches.into_iter().map(Ok)));
        Ok(Response::new(encoded.map_err(Status::from).boxed()))
    }

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        let descriptor = request.into_inner();
        self.asked(&descriptor.cmd)?;
        let endpoint = FlightEndpoint::new().with_ticket(Ticket::new(descriptor.cmd.clone()));
        let info = FlightInfo::new().try_with_schema(&self.schema);
        let info = info.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(info.with_endpoint(endpoint).with_descriptor(descriptor)))
    }

    async fn handshake(
        &self,
        _: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        Err(Status::unimplemented("Handshake"))
    }

    async fn list_flights(&self, _: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        Err(Status::unimplemented("ListFlights"))
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        Err(Status::unimplemented("PollFlightInfo"))
    }

    async fn get_schema(&self, _: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        Err(Status::unimplemented("GetSchema"))
    }

    async fn do_put(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        Err(Status::unimplemented("DoPut"))
    }

    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoExchangeStream>, Status> {
        Err(Status::unimplemented("DoExchange"))
    }

    async fn do_action(&self, _: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        Err(Status::unimplemented("DoAction"))
    }

    async fn list_actions(&self, _: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        Err(Status::unimplemented("ListActions"))
    }
}
