//! The metadata store of another node, over Flight: what a worker has that names a coordinator.
//!
//! ```text
//! RemoteStore --DoAction meta.call, meta.watch--> the coordinator's embedded store
//! ```
//! Calls and answers are JSON, with values in base64; a call names the cluster that its caller is bound to, so that the
//! store compares it in the moment of the change. What the store says, errors too, comes back as data; an error of the
//! connection is [`MetaError::Unavailable`].
//!
//! A watch is one stream. When it breaks, the watcher is told that the store is away, and the stream is asked for anew; it
//! begins with all that there is.
//!
//! Why actions and not a gRPC service of its own: they pass through what every call passes through here, limits, counts,
//! logs and the check of the cluster's pass.

mod wire;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use arrow_flight::Action;
use arrow_flight::flight_service_client::FlightServiceClient;
use async_trait::async_trait;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use jetbridge_catalog::meta::{
    Entry, Expect, LeaseId, MetaError, MetaStore, Watch, WatchDropped, WatchEvent, WatchFeed,
};
use serde::Serialize;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use self::wire::{Answer, Base64, Operation, WireEntry, WireError, WireEvent, entries};
pub use self::wire::{Call, WatchCall};
use super::pass::Pass;

/// What the names of the actions here begin with.
pub const META_PREFIX: &str = "meta.";
/// Name of the action that calls the store.
pub const META_CALL_ACTION: &str = "meta.call";
/// Name of the action that watches keys.
pub const META_WATCH_ACTION: &str = "meta.watch";

/// How long one operation may take.
const TIME_LIMIT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A coordinator that is silent is asked for life this often, and given up when it does not answer: a watch would not
/// notice otherwise.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a watch waits before it asks a store again that was away.
const RETRY_INTERVAL: Duration = Duration::from_millis(300);
/// The longest answer: all keys under a prefix.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// Answers one call from a store of this node.
pub async fn answer(store: &Arc<dyn MetaStore>, call: Call) -> impl Serialize + use<> {
    let store = bound(store, call.cluster.as_deref());
    carry_out(store.as_ref(), call.operation)
        .await
        .unwrap_or_else(|error| Answer::Failed(WireError::of(&error)))
}

/// The events of a watch of a store of this node, each as JSON.
pub fn events(store: &Arc<dyn MetaStore>, call: &WatchCall) -> BoxStream<'static, serde_json::Result<Vec<u8>>> {
    let watch = bound(store, call.cluster.as_deref()).watch(&call.prefix);
    stream::unfold(watch, |mut watch| async move {
        let event = WireEvent::of(watch.next().await);
        Some((serde_json::to_vec(&event), watch))
    })
    .boxed()
}

fn bound(store: &Arc<dyn MetaStore>, cluster: Option<&str>) -> Arc<dyn MetaStore> {
    cluster.map_or_else(|| Arc::clone(store), |cluster| store.bound(cluster))
}

async fn carry_out(store: &dyn MetaStore, operation: Operation) -> Result<Answer, MetaError> {
    Ok(match operation {
        Operation::Get { key } => Answer::Entry(store.get(&key).await?.map(WireEntry::from)),
        Operation::List { prefix } => Answer::Entries(entries(store.list(&prefix).await?)),
        Operation::Put {
            key,
            value,
            expect,
            lease,
        } => {
            let lease = lease.map(LeaseId::from_number);
            Answer::Revision(store.put_leased(&key, value.0, expect.into(), lease).await?)
        }
        Operation::Delete { key, expect } => {
            store.delete(&key, expect.into()).await?;
            Answer::Done
        }
        Operation::Grant { ttl_ms } => Answer::Lease(store.grant(Duration::from_millis(ttl_ms)).await?.number()),
        Operation::KeepAlive { lease } => {
            store.keep_alive(LeaseId::from_number(lease)).await?;
            Answer::Done
        }
        Operation::Revoke { lease } => {
            store.revoke(LeaseId::from_number(lease)).await?;
            Answer::Done
        }
    })
}

/// The store of the node at an address.
#[derive(Debug, Clone)]
pub struct RemoteStore {
    link: Arc<Link>,
    cluster: Option<String>,
}

#[derive(Debug)]
struct Link {
    client: FlightServiceClient<Channel>,
    pass: Pass,
}

impl RemoteStore {
    /// The store of the node at `uri`, `grpc://host:port`. Connects when it is first asked.
    ///
    /// # Errors
    /// [`MetaError::Settings`] for what is no such address.
    pub fn new(uri: &str, pass: Pass) -> Result<Self, MetaError> {
        let authority = uri.strip_prefix("grpc://").unwrap_or(uri);
        let endpoint = Endpoint::from_shared(format!("http://{authority}"))
            .map_err(|source| MetaError::Settings { source: source.into() })?;
        let channel = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .connect_lazy();
        let client = FlightServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
        Ok(Self {
            link: Arc::new(Link { client, pass }),
            cluster: None,
        })
    }

    async fn call(&self, name: &'static str, operation: Operation) -> Result<Answer, MetaError> {
        let call = Call {
            cluster: self.cluster.clone(),
            operation,
        };
        let asked = self.link.ask(META_CALL_ACTION, &call);
        let whole = async { asked.await?.try_next().await };
        let answer = timeout(TIME_LIMIT, whole)
            .await
            .map_err(|_| MetaError::slow(name, TIME_LIMIT))?;
        let answer = answer.map_err(|status| unreachable_store(name, status))?;
        let answer = answer.ok_or_else(|| unexpected(name))?;
        match serde_json::from_slice(&answer.body) {
            Ok(Answer::Failed(error)) => Err(error.into_error(name)),
            Ok(answer) => Ok(answer),
            Err(error) => Err(MetaError::Store {
                operation: name,
                source: error.into(),
            }),
        }
    }
}

impl Link {
    async fn ask(
        &self,
        action: &str,
        body: &impl Serialize,
    ) -> Result<BoxStream<'static, Result<arrow_flight::Result, Status>>, Status> {
        let body = serde_json::to_vec(body).map_err(|error| Status::internal(error.to_string()))?;
        let mut request = Request::new(Action::new(action, body));
        self.pass.show(request.metadata_mut());
        let mut client = self.client.clone();
        Ok(client.do_action(request).await?.into_inner().boxed())
    }

    /// Tells what the other node tells, until the connection breaks. `told_away` is what the watcher knows.
    async fn follow(
        &self,
        call: &WatchCall,
        feed: &WatchFeed,
        told_away: &mut bool,
    ) -> Result<MetaError, WatchDropped> {
        let asked = match timeout(TIME_LIMIT, self.ask(META_WATCH_ACTION, call)).await {
            Ok(asked) => asked,
            Err(_elapsed) => return Ok(MetaError::slow("watch", TIME_LIMIT)),
        };
        let mut told = match asked {
            Ok(told) => told,
            Err(status) => return Ok(unreachable_store("watch", status)),
        };
        loop {
            let event = match told.try_next().await {
                Ok(Some(event)) => serde_json::from_slice::<WireEvent>(&event.body),
                Ok(None) => return Ok(unexpected("watch")),
                Err(status) => return Ok(unreachable_store("watch", status)),
            };
            match event {
                Ok(event) => {
                    *told_away = false;
                    feed.send(event.into_event()).await?;
                }
                Err(_) => return Ok(unexpected("watch")),
            }
        }
    }
}

#[async_trait]
impl MetaStore for RemoteStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, MetaError> {
        match self.call("get", Operation::Get { key: key.to_owned() }).await? {
            Answer::Entry(entry) => Ok(entry.map(Entry::from)),
            _ => Err(unexpected("get")),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Entry)>, MetaError> {
        let prefix = prefix.to_owned();
        match self.call("list", Operation::List { prefix }).await? {
            Answer::Entries(entries) => Ok(entries.into_iter().map(|(key, entry)| (key, entry.into())).collect()),
            _ => Err(unexpected("list")),
        }
    }

    async fn put_leased(
        &self,
        key: &str,
        value: Vec<u8>,
        expect: Expect,
        lease: Option<LeaseId>,
    ) -> Result<u64, MetaError> {
        jetbridge_catalog::meta::check_value(&value)?;
        let operation = Operation::Put {
            key: key.to_owned(),
            value: Base64(value),
            expect: expect.into(),
            lease: lease.map(LeaseId::number),
        };
        match self.call("put", operation).await? {
            Answer::Revision(revision) => Ok(revision),
            _ => Err(unexpected("put")),
        }
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<(), MetaError> {
        let operation = Operation::Delete {
            key: key.to_owned(),
            expect: expect.into(),
        };
        self.done("delete", operation).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, MetaError> {
        jetbridge_catalog::meta::check_ttl(ttl)?;
        let ttl_ms = u64::try_from(ttl.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
        match self.call("grant a lease", Operation::Grant { ttl_ms }).await? {
            Answer::Lease(lease) => Ok(LeaseId::from_number(lease)),
            _ => Err(unexpected("grant a lease")),
        }
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), MetaError> {
        let lease = lease.number();
        self.done("keep a lease", Operation::KeepAlive { lease }).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), MetaError> {
        let lease = lease.number();
        self.done("end a lease", Operation::Revoke { lease }).await
    }

    fn watch(&self, prefix: &str) -> Watch {
        let (feed, watch) = Watch::new();
        let link = Arc::clone(&self.link);
        let call = WatchCall {
            cluster: self.cluster.clone(),
            prefix: prefix.to_owned(),
        };
        tokio::spawn(async move {
            tokio::select! {
                () = feed.dropped() => {}
                _ = keep_following(&link, &call, &feed) => {}
            }
        });
        watch
    }

    fn bound(&self, cluster: &str) -> Arc<dyn MetaStore> {
        Arc::new(Self {
            link: Arc::clone(&self.link),
            cluster: Some(cluster.to_owned()),
        })
    }
}

impl RemoteStore {
    async fn done(&self, name: &'static str, operation: Operation) -> Result<(), MetaError> {
        match self.call(name, operation).await? {
            Answer::Done => Ok(()),
            _ => Err(unexpected(name)),
        }
    }
}

async fn keep_following(link: &Link, call: &WatchCall, feed: &WatchFeed) -> Result<(), WatchDropped> {
    // That the store is away is told once, however often it is asked in vain.
    let mut told_away = false;
    loop {
        let error = link.follow(call, feed, &mut told_away).await?;
        if !told_away {
            told_away = true;
            tracing::warn!(
                error = crate::error::chain(&error),
                "the watch of the metadata store is interrupted"
            );
            feed.send(WatchEvent::Away(error)).await?;
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

/// Why there is no answer: nobody there, or somebody who refuses.
fn unreachable_store(operation: &'static str, status: Status) -> MetaError {
    let is_refusal = matches!(
        status.code(),
        Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented | Code::InvalidArgument
    );
    let source: Box<dyn Error + Send + Sync> = match is_refusal {
        true => status.message().into(),
        false => status.into(),
    };
    if is_refusal {
        MetaError::Store { operation, source }
    } else {
        MetaError::Unavailable { operation, source }
    }
}

fn unexpected(operation: &'static str) -> MetaError {
    MetaError::Store {
        operation,
        source: "the other node's answer is not one to this call".into(),
    }
}
