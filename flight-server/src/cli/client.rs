//! The Flight connection of the commands.

use std::time::Duration;

use arrow_flight::decode::DecodedFlightData;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::{CommandStatementQuery, ProstMessageExt};
use arrow_flight::{Action, FlightClient, FlightDescriptor, FlightInfo, Ticket};
use clap::Args;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};

use super::error::CliError;

/// Where the server is looked for when nobody says otherwise.
const DEFAULT_URI: &str = "grpc://127.0.0.1:8815";
/// How long making a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A silent server is asked for life after this long, and given up when it does not answer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// What the server may send ahead: several messages, so that decoding and transfer overlap.
const STREAM_WINDOW_BYTES: u32 = 16 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
/// The largest frame: a message then needs few of them.
const MAX_FRAME_BYTES: u32 = 4 << 20;

/// `--uri` of every command that asks a server.
#[derive(Args, Clone, Debug)]
pub(super) struct ClientArgs {
    /// Flight address of the server
    #[arg(long, env = "JETBRIDGE_URI", default_value = DEFAULT_URI, value_name = "URI")]
    uri: String,
}

/// A connection to one server.
#[derive(Debug)]
pub(super) struct Client {
    uri: String,
    flight: FlightClient,
}

impl Client {
    /// Connects to the server that the arguments name.
    pub(super) async fn connect(arguments: &ClientArgs) -> Result<Self, CliError> {
        Self::connect_to(&arguments.uri).await
    }

    /// Connects to a location.
    pub(super) async fn connect_to(uri: &str) -> Result<Self, CliError> {
        let failed = |source| CliError::Connect {
            uri: uri.to_owned(),
            source,
        };
        let channel = endpoint(uri)?.connect().await.map_err(failed)?;
        Ok(Self {
            uri: uri.to_owned(),
            flight: flight_client(channel),
        })
    }

    /// Where this is connected to.
    pub(super) fn uri(&self) -> &str {
        &self.uri
    }

    /// Runs an action with a JSON body and reads its JSON answer.
    pub(super) async fn action(&mut self, name: &str, body: &impl Serialize) -> Result<Value, CliError> {
        let refuse = |source: serde_json::Error| CliError::Answer {
            what: name.to_owned(),
            source: source.into(),
        };
        let body = serde_json::to_vec(body).map_err(refuse)?;
        let call = self.flight.do_action(Action::new(name, body));
        let answers = async { call.await?.try_collect::<Vec<_>>().await };
        let answers = answers.await.map_err(|error| CliError::call(&self.uri, error))?;
        match answers.first() {
            Some(answer) if !answer.is_empty() => serde_json::from_slice(answer).map_err(refuse),
            _ => Ok(Value::Null),
        }
    }

    /// Runs an action with a JSON body whose answer is a stream of JSON values, as they come.
    pub(super) async fn action_stream(&mut self, name: &str, body: &impl Serialize) -> Result<Answers, CliError> {
        let what = name.to_owned();
        let refuse = move |source: serde_json::Error| CliError::Answer {
            what: what.clone(),
            source: source.into(),
        };
        let body = serde_json::to_vec(body).map_err(&refuse)?;
        let uri = self.uri.clone();
        let answers = self.flight.do_action(Action::new(name, body)).await;
        let answers = answers.map_err(|error| CliError::call(&uri, error))?;
        let answers = answers.map(move |answer| {
            let answer = answer.map_err(|error| CliError::call(&uri, error))?;
            serde_json::from_slice(&answer).map_err(&refuse)
        });
        Ok(answers.boxed())
    }

    /// Plans a scan, given as JSON.
    pub(super) async fn flight_info(&mut self, scan: &impl Serialize) -> Result<FlightInfo, CliError> {
        let refuse = |source: serde_json::Error| CliError::Answer {
            what: "the scan".to_owned(),
            source: source.into(),
        };
        let command = serde_json::to_vec(scan).map_err(refuse)?;
        let info = self.flight.get_flight_info(FlightDescriptor::new_cmd(command)).await;
        info.map_err(|error| CliError::call(&self.uri, error))
    }

    /// Plans a statement.
    pub(super) async fn statement_info(&mut self, sql: &str) -> Result<FlightInfo, CliError> {
        let command = CommandStatementQuery {
            query: sql.to_owned(),
            transaction_id: None,
        };
        let command = command.as_any().encode_to_vec();
        let info = self.flight.get_flight_info(FlightDescriptor::new_cmd(command)).await;
        info.map_err(|error| CliError::call(&self.uri, error))
    }

    /// Sends a header with every call from now on; no value, and it is not sent any more.
    pub(super) fn set_header(&mut self, name: &'static str, value: Option<&str>) -> Result<(), CliError> {
        let metadata = self.flight.metadata_mut();
        let Some(value) = value else {
            metadata.remove(name);
            return Ok(());
        };
        let value = MetadataValue::try_from(value);
        let value = value.map_err(|_| CliError::Usage(format!("{name}: a value of plain characters is needed")))?;
        metadata.insert(name, value);
        Ok(())
    }

    /// The same connection for another task.
    pub(super) fn again(&self) -> Self {
        let mut flight = FlightClient::new_from_inner(self.flight.inner().clone());
        flight.metadata_mut().clone_from(self.flight.metadata());
        Self {
            uri: self.uri.clone(),
            flight,
        }
    }

    /// Redeems a ticket.
    pub(super) async fn messages(&mut self, ticket: Ticket) -> Result<Messages, CliError> {
        let uri = self.uri.clone();
        let stream = self.flight.do_get(ticket).await;
        let stream = stream.map_err(|error| CliError::call(&uri, error))?.into_inner();
        Ok(stream.map_err(move |error| CliError::call(&uri, error)).boxed())
    }
}

/// What a ticket gives.
pub(super) type Messages = BoxStream<'static, Result<DecodedFlightData, CliError>>;

/// What an action answers, one after the other.
pub(super) type Answers = BoxStream<'static, Result<Value, CliError>>;

/// The typed form of an action's answer.
pub(super) fn parsed<T: DeserializeOwned>(what: &str, answer: &Value) -> Result<T, CliError> {
    T::deserialize(answer).map_err(|source| CliError::Answer {
        what: what.to_owned(),
        source: source.into(),
    })
}

/// Runs a command's future, unless the user stops it first. Dropping the future drops half-written files.
pub(super) fn block_on(command: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    run(interruptible(command))
}

/// A future that fails when the user stops the command before it is done.
pub(super) async fn interruptible<T>(work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    tokio::select! {
        outcome = work => outcome,
        _ = tokio::signal::ctrl_c() => Err(CliError::Interrupted),
    }
}

/// Runs a command's future that says itself what it does when the user stops it.
pub(super) fn run(command: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    let failed = |error| CliError::Serve(anyhow::Error::new(error).context("cannot start the runtime"));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let outcome = runtime.block_on(command);
    runtime.shutdown_background();
    outcome
}

fn flight_client(channel: Channel) -> FlightClient {
    // A single row may be larger than any limit one would set here, and the user asked for it.
    FlightClient::new_from_inner(FlightServiceClient::new(channel).max_decoding_message_size(usize::MAX))
}

fn endpoint(uri: &str) -> Result<Endpoint, CliError> {
    let refuse = |reason: &str| {
        CliError::Usage(format!(
            "{uri:?} is not a server's address: {reason}, as in {DEFAULT_URI}"
        ))
    };
    let authority = match uri.split_once("://") {
        Some(("grpc" | "grpc+tcp" | "http", authority)) => authority.trim_end_matches('/'),
        Some(("grpc+tls" | "https", _)) => return Err(refuse("TLS is not available yet; write grpc://HOST:PORT")),
        _ => return Err(refuse("write grpc://HOST:PORT")),
    };
    let url = url::Url::parse(&format!("http://{authority}")).map_err(|_| refuse("write grpc://HOST:PORT"))?;
    if url.port_or_known_default().is_none() || url.path() != "/" || url.query().is_some() || !url.username().is_empty()
    {
        return Err(refuse("write grpc://HOST:PORT and nothing more"));
    }
    let endpoint = Endpoint::from_shared(url.to_string()).map_err(|_| refuse("write grpc://HOST:PORT"))?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(MAX_FRAME_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_before_they_are_tried() {
        assert_eq!(
            endpoint("grpc://127.0.0.1:8815").unwrap().uri().to_string(),
            "http://127.0.0.1:8815/"
        );
        assert_eq!(endpoint("grpc+tcp://h:1/").unwrap().uri().to_string(), "http://h:1/");
        assert!(endpoint("grpc://[::1]:8815").is_ok());
        for uri in [
            "127.0.0.1:8815",
            "grpc+tls://h:1",
            "ftp://h:1",
            "grpc://",
            "grpc://h:1/path",
            "grpc://u:p@h:1",
        ] {
            assert!(matches!(endpoint(uri), Err(CliError::Usage(_))), "{uri}");
        }
    }

    #[test]
    fn a_server_that_is_not_there_is_named_with_advice() {
        let outcome = block_on(async { Client::connect_to("grpc://127.0.0.1:1").await.map(|_| ()) });
        let Err(error @ CliError::Connect { .. }) = outcome else {
            panic!("{outcome:?}")
        };
        assert!(error.is_unavailable());
    }
}
