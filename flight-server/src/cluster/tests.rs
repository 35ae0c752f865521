//! A node as another node has it, over a real connection: its store, and what it answers.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use jetbridge_catalog::meta::conformance;
use jetbridge_catalog::meta::{Expect, MetaError, MetaStore, WatchEvent};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

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

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_refuses_a_question_is_not_taken_for_lost() {
    let folder = tempfile::tempdir().unwrap();
    let served = serve(folder.path(), "127.0.0.1:0").await;
    let heard = Arc::new(Heard {
        uri: served.uri.clone(),
        unreachable: Mutex::default(),
    });
    let peers = PeerPool::new("asks".to_owned(), Pass::of(None).unwrap(), Arc::clone(&heard) as _);
    // The connection is there by the time that it counts.
    let status = peers.call("asked", "server.status", &serde_json::json!({})).await;
    assert!(status.is_ok(), "{status:?}");
    // More tickets than it takes at once.
    assert!(peers.residency("asked", &vec![Bytes::new(); 10_001]).await.is_none());
    assert!(heard.unreachable.lock().is_empty());
    served.stop().await;
}
