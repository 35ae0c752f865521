//! A node as another node has it, over a real connection: its store, and what it answers.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use clap::Parser;
use futures::future::join_all;
use jetbridge_catalog::meta::conformance;
use jetbridge_catalog::meta::{Expect, MetaError, MetaStore, WatchEvent};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::batches::{Answers, Ask, Batches};
use super::footers::{FooterCalls, FooterOf, Found};
use super::pass::Pass;
use super::peers::{Directory, PeerPool};
use super::remote::RemoteStore;
use super::{Places, Role};
use crate::admin::Readiness;
use crate::config::{self, ConfigFlags, Machine, Settings};
use crate::flight::{FlightDoor, StreamLimits};
use crate::node::Node;
use crate::server::{self, Drained, Listeners, Parts, ServeError};

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    flags: ConfigFlags,
}

/// A node that serves its metadata store.
struct Served {
    uri: String,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<Drained, ServeError>>,
}

fn settings(data: &Path) -> Settings {
    let words = ["test", "--memory", "64MiB", "--cache-dir", "none", "--data-dir"];
    let flags = Flags::try_parse_from(words.into_iter().chain([data.to_str().unwrap()]))
        .unwrap()
        .flags;
    let machine = Machine {
        memory_bytes: None,
        cores: 2,
    };
    config::load(&flags, [], &machine).unwrap().settings
}

async fn serve(data: &Path, address: &str) -> Served {
    let node = Node::open(&settings(data), Role::Coordinator, Places::default())
        .await
        .unwrap();
    let limits = StreamLimits {
        max_streams: 64,
        stall_timeout: Duration::from_secs(60),
    };
    let listeners = Listeners::bind(address, "127.0.0.1:0", false).await.unwrap();
    let uri = format!("grpc://{}", listeners.flight_address());
    let front = FlightDoor::new(Arc::new(node), limits).into_service();
    let parts = Parts {
        flight: move |request| front.clone().answer(request),
        local: None,
        readiness: Readiness::new([server::LISTENING]),
        metrics: crate::observe::metrics_recorder().unwrap(),
        grace: Duration::ZERO,
    };
    let (stop, stopped) = oneshot::channel();
    let running = tokio::spawn(server::run(listeners, parts, async {
        let _ = stopped.await;
    }));
    Served { uri, stop, running }
}

impl Served {
    fn store(&self) -> Arc<dyn MetaStore> {
        Arc::new(RemoteStore::new(&self.uri, Pass::of(None).unwrap()).unwrap())
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.running.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_of_another_node_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let served = serve(folder.path(), "127.0.0.1:0").await;
    conformance::suite(served.store()).await.unwrap();
    conformance::two_handles(served.store(), served.store()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_outlives_the_node_and_misses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let served = serve(folder.path(), "127.0.0.1:0").await;
    let (store, address) = (served.store(), served.uri.replace("grpc://", ""));
    let mut watch = store.watch("test/");
    let first = watch.next().await;
    assert!(
        matches!(&first, WatchEvent::Reset { entries, .. } if entries.is_empty()),
        "{first:?}"
    );
    store.put("test/a", vec![1], Expect::Absent).await.unwrap();
    assert!(matches!(watch.next().await, WatchEvent::Put { key, .. } if key == "test/a"));
    served.stop().await;
    let away = watch.next().await;
    assert!(matches!(away, WatchEvent::Away(_)), "{away:?}");
    let refused = store.put("test/b", vec![2], Expect::Any).await.unwrap_err();
    assert!(matches!(refused, MetaError::Unavailable { .. }), "{refused:?}");
    let served = serve(folder.path(), &address).await;
    served.store().put("test/c", vec![3], Expect::Absent).await.unwrap();
    let mut known = Vec::new();
    while known != ["test/a", "test/c"] {
        match watch.next().await {
            WatchEvent::Reset { entries, .. } => known = entries.into_iter().map(|(key, _)| key).collect(),
            WatchEvent::Put { key, .. } => known.push(key),
            other => panic!("{other:?}"),
        }
    }
}

/// Knows one node, and hears of those that are not reached.
#[derive(Debug)]
struct Heard {
    uri: String,
    unreachable: Mutex<Vec<String>>,
}

impl Directory for Heard {
    fn address_of(&self, _: &str) -> Option<String> {
        Some(self.uri.clone())
    }

    fn is_unreachable(&self, id: &str) {
        self.unreachable.lock().push(id.to_owned());
    }
}

impl Heard {
    fn of(served: &Served) -> Arc<Self> {
        Arc::new(Self {
            uri: served.uri.clone(),
            unreachable: Mutex::default(),
        })
    }
}

/// A pool of a node called `asks`, whose connection is there by the time that it counts.
async fn connected(heard: &Arc<Heard>) -> Arc<PeerPool> {
    let pool = PeerPool::new("asks".to_owned(), Pass::of(None).unwrap(), Arc::clone(heard) as _);
    let status = pool.call("asked", "server.status", &serde_json::json!({})).await;
    assert!(status.is_ok(), "{status:?}");
    Arc::new(pool)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_refuses_a_question_is_not_taken_for_lost() {
    let folder = tempfile::tempdir().unwrap();
    let served = serve(folder.path(), "127.0.0.1:0").await;
    let heard = Heard::of(&served);
    let peers = connected(&heard).await;
    // More tickets than it takes at once.
    assert!(peers.residency("asked", &vec![Bytes::new(); 10_001]).await.is_none());
    assert!(heard.unreachable.lock().is_empty());
    served.stop().await;
}

/// Calls for footers, counted.
struct Counted {
    calls: FooterCalls,
    count: Arc<AtomicUsize>,
}

#[async_trait]
impl Ask for Counted {
    type Question = FooterOf;
    type Answer = Found;
    const CALLS: usize = FooterCalls::CALLS;
    const QUESTIONS: usize = FooterCalls::QUESTIONS;

    async fn ask(&self, id: &str, files: Vec<FooterOf>, answers: Answers<Found>) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.calls.ask(id, files, answers).await;
    }
}

/// The node has nothing mounted; of each file it says that it has none.
#[tokio::test(flavor = "multi_thread")]
async fn many_footers_are_asked_for_in_few_calls() {
    const FILES: usize = 1_000;
    let folder = tempfile::tempdir().unwrap();
    let served = serve(folder.path(), "127.0.0.1:0").await;
    let heard = Heard::of(&served);
    let count = Arc::new(AtomicUsize::new(0));
    let asks = Batches::new(Counted {
        calls: FooterCalls(connected(&heard).await),
        count: Arc::clone(&count),
    });
    let asked = (0..FILES).map(|number| {
        let file = FooterOf {
            uri: format!("s3://bucket/{number}.parquet"),
            generation: "etag:a".to_owned(),
            size: 100_000,
        };
        asks.ask("asked", file)
    });
    let found = join_all(asked).await;
    assert_eq!(found, vec![Some(Found::Missing); FILES]);
    let calls = count.load(Ordering::Relaxed);
    assert!(calls <= 3 * FILES / Counted::QUESTIONS, "{calls} calls");
    // A generation that is none is refused with all that were asked for with it, and nobody is lost for that.
    let refused = FooterOf {
        uri: "s3://bucket/a".to_owned(),
        generation: "a".to_owned(),
        size: 1,
    };
    assert_eq!(asks.ask("asked", refused).await, None);
    assert!(heard.unreachable.lock().is_empty());
    served.stop().await;
}
