//! The client, and its calls that are not streams of rows.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::datatypes::{Schema, SchemaRef};
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::{CommandStatementQuery, ProstMessageExt};
use arrow_flight::{Action, Criteria, Empty, FlightDescriptor};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use prost::Message;
use serde_json::Value;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::address::Address;
use crate::backoff;
use crate::connections::Connections;
use crate::error::{Error, ErrorKind, Result};
use crate::health::Health;
use crate::link::Links;
use crate::options::{ClientOptions, Local};
use crate::plan::Plan;
use crate::pool::Pool;
use crate::raw::Unpacking;
use crate::reader::{ReadOptions, Reader};
use crate::scan::Scan;
use crate::shared::Sockets;

/// Request header by which a client of the server's host asks for its sockets.
const LOCAL_HEADER: &str = "x-jetbridge-local";

/// A client of one server and of the cluster that it belongs to. Cheap to clone; connections are made when they are needed, on
/// the runtime that it is used on, and end with the last clone.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
}

/// What clones of a client, and their readers, share.
pub(crate) struct Shared {
    pub(crate) home: Address,
    pub(crate) options: ClientOptions,
    pub(crate) connections: Arc<Connections>,
    pub(crate) health: Health,
    pub(crate) links: Arc<Links>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) sockets: Arc<Sockets>,
    /// How row groups are read that come as they are stored; none where nothing reads them.
    pub(crate) unpacking: Option<Unpacking>,
    /// Whether the server has ever answered.
    reached: AtomicBool,
}

/// A dataset of the namespace.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Listed {
    /// Its path, as `/lake/trips`.
    pub path: String,
    /// A plan of all of it.
    pub plan: Plan,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shared = f.debug_struct("Shared");
        shared.field("home", &self.home).field("options", &self.options);
        shared.finish_non_exhaustive()
    }
}

impl Shared {
    /// Waits until a server does not answer any more: it is asked something small each time that so much time is over, and has as
    /// long to answer. Any error will do for an answer: a server that is gone has ended what is waited for itself.
    pub(crate) async fn silence(&self, address: &Address, every: Duration) -> Error {
        loop {
            tokio::time::sleep(every).await;
            let Ok(channel) = self.connections.for_calls(address) else {
                continue;
            };
            let mut request = Request::new(Empty {});
            *request.metadata_mut() = MetadataMap::from_headers(self.options.headers.clone());
            let mut flight = FlightServiceClient::new(channel);
            let asked = tokio::time::timeout(every, flight.list_actions(request)).await;
            if asked.is_err() {
                return Error::silent(every.saturating_mul(2));
            }
        }
    }
}

impl Client {
    /// A client of the server at `uri`: `grpc://host:port`, or `grpc+unix:///path` for a socket of this host. Nothing is
    /// connected yet.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for what is no such URI, and where the form `raw` is asked for by a client that nothing reads it for.
    pub fn new(uri: &str, options: ClientOptions) -> Result<Self> {
        let home = Address::parse(uri)?;
        let shared = Shared {
            home,
            connections: Arc::new(Connections::new(&options)),
            health: Health::default(),
            links: Arc::default(),
            pool: Pool::new(options.budget_bytes),
            sockets: Arc::new(Sockets::new(&options)),
            unpacking: Unpacking::of(&options)?,
            reached: AtomicBool::new(false),
            options,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// The server's address.
    #[must_use]
    pub fn uri(&self) -> String {
        self.shared.home.to_string()
    }

    /// The settings.
    #[must_use]
    pub fn options(&self) -> &ClientOptions {
        &self.shared.options
    }

    /// Runs an action with a JSON body; gives its JSON answers, `null` for an empty one.
    ///
    /// An action is tried again only where the server was not reached, since it may not be repeatable.
    ///
    /// # Errors
    /// The server's; INTERNAL for an answer that is not JSON.
    pub async fn action(&self, name: &str, body: &Value) -> Result<Vec<Value>> {
        let answers = self.action_bytes(name, body.to_string().into()).await?;
        answers.iter().map(|answer| json(name, answer)).collect()
    }

    /// Runs an action whose body and answers are bytes, as Flight's own ones.
    ///
    /// # Errors
    /// The server's.
    pub async fn action_bytes(&self, name: &str, body: Bytes) -> Result<Vec<Bytes>> {
        self.trying(not_reached, |mut flight| {
            let request = self.request(Action::new(name, body.clone()));
            async move {
                let answers = flight.do_action(request).await?.into_inner();
                answers.map_ok(|answer| answer.body).try_collect().await
            }
        })
        .await
    }

    /// Runs an action whose answers come one after the other for as long as it goes on. Dropping the stream ends it. The
    /// client's timeout is for the begin only.
    ///
    /// # Errors
    /// As of [`Client::action`], also in the stream.
    pub async fn watch(
        &self,
        name: &str,
        body: &Value,
    ) -> Result<impl Stream<Item = Result<Value>> + Send + Unpin + use<>> {
        let answers = self
            .trying(not_reached, |mut flight| {
                // Without a deadline for the server, which would end the stream with it.
                let mut request = Request::new(Action::new(name, Bytes::from(body.to_string())));
                *request.metadata_mut() = MetadataMap::from_headers(self.shared.options.headers.clone());
                async move { Ok(flight.do_action(request).await?.into_inner()) }
            })
            .await?;
        let (name, location) = (name.to_owned(), self.uri());
        let answers = answers.map(move |answer| match answer {
            Ok(answer) => json(&name, &answer.body),
            Err(status) => Err(Error::from(status).at(&location)),
        });
        let answers: BoxStream<'static, Result<Value>> = answers.boxed();
        Ok(answers)
    }

    /// Plans a scan.
    ///
    /// # Errors
    /// NOT_FOUND for a path that does not exist, INVALID_ARGUMENT for a column, filter or key that is wrong, and the server's.
    pub async fn plan(&self, scan: &Scan) -> Result<Plan> {
        self.plan_of(descriptor(scan)?).await
    }

    /// Plans a SQL query.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for SQL that is wrong, and the server's.
    pub async fn plan_sql(&self, sql: &str) -> Result<Plan> {
        let command = CommandStatementQuery {
            query: sql.to_owned(),
            transaction_id: None,
        };
        let command = command.as_any().encode_to_vec();
        self.plan_of(FlightDescriptor::new_cmd(command)).await
    }

    /// Plans what a descriptor says.
    pub(crate) async fn plan_of(&self, descriptor: FlightDescriptor) -> Result<Plan> {
        let info = self.trying(Error::is_retryable, |mut flight| {
            let request = self.request(descriptor.clone());
            async move { Ok(flight.get_flight_info(request).await?.into_inner()) }
        });
        let mut info = info.await?;
        // Asked for again, the same is planned anew; servers need not say what was asked for.
        info.flight_descriptor.get_or_insert(descriptor);
        Plan::new(info)
    }

    /// The schema of a scan's rows, without planning it.
    ///
    /// # Errors
    /// As of [`Client::plan`].
    pub async fn schema(&self, scan: &Scan) -> Result<SchemaRef> {
        let descriptor = descriptor(scan)?;
        let result = self.trying(Error::is_retryable, |mut flight| {
            let request = self.request(descriptor.clone());
            async move { Ok(flight.get_schema(request).await?.into_inner()) }
        });
        Ok(Arc::new(Schema::try_from(&result.await?)?))
    }

    /// The datasets of the namespace: all for empty criteria, else those at and below a path, or that a glob matches.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for criteria that are neither, and the server's.
    pub async fn list(&self, criteria: &str) -> Result<Vec<Listed>> {
        let infos = self.trying(Error::is_retryable, |mut flight| {
            let request = self.request(Criteria {
                expression: criteria.to_owned().into(),
            });
            async move {
                let infos = flight.list_flights(request).await?.into_inner();
                infos.try_collect::<Vec<_>>().await
            }
        });
        let listed = infos.await?.into_iter().map(|info| {
            let names = info.flight_descriptor.iter().flat_map(|descriptor| &descriptor.path);
            let path = names.fold(String::new(), |path, name| path + "/" + name);
            Plan::new(info).map(|plan| Listed { path, plan })
        });
        listed.collect()
    }

    /// Reads a plan's endpoints, in parallel. Nothing happens before the reader is polled; dropping it ends the streams at the
    /// servers.
    #[must_use]
    pub fn read(&self, plan: &Plan, options: ReadOptions) -> Reader {
        Reader::new(self.clone(), plan.clone(), options)
    }

    /// Calls the server, again where `again` says so of its error. A server that this client has never reached is not waited
    /// for: its address is more likely wrong.
    async fn trying<T, F>(&self, again: fn(&Error) -> bool, call: impl Fn(Flight) -> F) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, Status>>,
    {
        let shared = &self.shared;
        let mut retry = 0;
        loop {
            let flight = FlightServiceClient::new(shared.connections.for_calls(&shared.home)?);
            let flight = flight.max_decoding_message_size(usize::MAX);
            let error = match self.within(call(flight)).await {
                Ok(answer) => {
                    shared.reached.store(true, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error) => error,
            };
            if error.kind() != ErrorKind::Connect {
                shared.reached.store(true, Ordering::Relaxed);
            }
            // What took all of its time is not begun again.
            let is_over = error.kind() == ErrorKind::DeadlineExceeded || retry >= shared.options.retries;
            if is_over || !again(&error) || !shared.reached.load(Ordering::Relaxed) {
                return Err(error);
            }
            retry += 1;
            tracing::debug!(%error, retry, "tried again");
            tokio::time::sleep(backoff::wait(retry)).await;
        }
    }

    /// A call within the client's timeout.
    async fn within<T>(&self, call: impl Future<Output = std::result::Result<T, Status>>) -> Result<T> {
        let answer = match self.shared.options.timeout {
            None => call.await,
            Some(timeout) => tokio::time::timeout(timeout, call).await.unwrap_or_else(|_| {
                let words = format!("no answer within {} s", timeout.as_secs_f64());
                Err(Status::deadline_exceeded(words))
            }),
        };
        answer.map_err(|status| Error::from(status).at(&self.uri()))
    }

    /// A request with what the server is to know of this client.
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let shared = &self.shared;
        *request.metadata_mut() = MetadataMap::from_headers(shared.options.headers.clone());
        if let Some(timeout) = shared.options.timeout {
            request.set_timeout(timeout);
        }
        if shared.options.local == Local::Auto && shared.home.is_local() {
            let both = MetadataValue::from_static("unix,memory");
            request.metadata_mut().insert(LOCAL_HEADER, both);
        }
        request
    }
}

type Flight = FlightServiceClient<Channel>;

/// Whether a call surely had no effect.
fn not_reached(error: &Error) -> bool {
    error.kind() == ErrorKind::Connect
}

fn descriptor(scan: &Scan) -> Result<FlightDescriptor> {
    let command = serde_json::to_vec(scan).map_err(|error| {
        let words = format!("the scan cannot be said in JSON: {error}");
        Error::new(ErrorKind::InvalidArgument, words)
    })?;
    Ok(FlightDescriptor::new_cmd(command))
}

fn json(name: &str, answer: &[u8]) -> Result<Value> {
    if answer.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(answer).map_err(|error| Error::protocol(format!("{name}: {error}")))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::service::Routes;
    use tonic::transport::Server;

    use super::*;

    /// Why the server at an address is given up within ten seconds, if it is.
    async fn given_up(authority: String) -> Option<Error> {
        let client = Client::new("grpc://127.0.0.1:1", ClientOptions::default()).unwrap();
        let address = Address::Tcp(authority);
        let silence = client.shared.silence(&address, Duration::from_secs(3));
        tokio::time::timeout(Duration::from_secs(10), silence).await.ok()
    }

    #[tokio::test]
    async fn a_server_that_stands_still_is_given_up_and_no_other() {
        // The kernel takes connections, and nobody reads what is said on them.
        let still = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
        let (still_at, answering_at) = (at(&still), at(&listener));
        // That it has not got what it is asked for is an answer.
        let answering = Server::builder().add_routes(Routes::default());
        tokio::spawn(answering.serve_with_incoming(TcpListenerStream::new(listener)));
        let nobody_at = "127.0.0.1:1".to_owned();
        let (still, answering, nobody) = tokio::join!(given_up(still_at), given_up(answering_at), given_up(nobody_at));
        assert_eq!(still.map(|error| error.kind()), Some(ErrorKind::DeadlineExceeded));
        assert!(answering.is_none(), "{answering:?}");
        assert!(nobody.is_none(), "{nobody:?}");
    }
}
