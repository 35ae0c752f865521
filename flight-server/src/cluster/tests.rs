//! A node as another node has it, over a real connection: its store, and what it answers.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use clap::Parser;
use futures::future::join_all;
use jetbridge_cache::key::FileKey;
use jetbridge_cache::page::{OpenFile, Peers};
use jetbridge_catalog::meta::conformance;
use jetbridge_catalog::meta::{Expect, MetaError, MetaStore, WatchEvent};
use jetbridge_catalog::path::NsPath;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::batches::{Answers, Ask, Batches};
use super::footers::{FOOTER_TIMEOUT, FooterCalls, FooterOf, Found, HeldFooterCalls, KNOWN_ACTION};
use super::pass::Pass;
use super::peers::{Directory, PLAN_TIMEOUT, Patience, PeerPool};
use super::remote::RemoteStore;
use super::{Places, Role};
use crate::admin::Readiness;
use crate::config::{self, ConfigFlags, Machine, Settings};
use crate::flight::FlightDoor;
use crate::node::Node;
use crate::server::{self, Drained, Listeners, Parts, ServeError};
use crate::streams::{StreamLimits, Streams};

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    flags: ConfigFlags,
}

/// A node that serves its metadata store.
struct Served {
    node: Arc<Node>,
    uri: String,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<Drained, ServeError>>,
}

fn settings(data: &Path, more: &[&str]) -> Settings {
    let words = ["test", "--memory", "64MiB", "--cache-dir", "none", "--data-dir"];
    let words = words.into_iter().chain([data.to_str().unwrap()]);
    let flags = Flags::try_parse_from(words.chain(more.iter().copied())).unwrap().flags;
    let machine = Machine {
        memory_bytes: None,
        cores: 2,
    };
    config::load(&flags, [], &machine).unwrap().settings
}

async fn serve(data: &Path, address: &str) -> Served {
    serve_with(data, address, &[]).await
}

/// The same with more words on its command line.
async fn serve_with(data: &Path, address: &str, more: &[&str]) -> Served {
    let node = Node::open(&settings(data, more), Role::Coordinator, Places::default())
        .await
        .unwrap();
    let node = Arc::new(node);
    let limits = StreamLimits {
        max_streams: 64,
        stall_timeout: Duration::from_secs(60),
    };
    let listeners = Listeners::bind(address, "127.0.0.1:0", false).await.unwrap();
    let uri = format!("grpc://{}", listeners.flight_address());
    let front = FlightDoor::new(Arc::clone(&node), Streams::new(limits)).into_service();
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
    Served {
        node,
        uri,
        stop,
        running,
    }
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

/// How long a seat is kept is in its node's own record, where all the others read it.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_tells_the_others_its_own_grace() {
    let cases: [(&[&str], Option<u64>); 2] = [(&[], None), (&["--member-grace", "7s"], Some(7_000))];
    for (words, told) in cases {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path(), words);
        let node = Node::open(&settings, Role::Worker, Places::default()).await.unwrap();
        let record = node.cluster.record(jetbridge_catalog::membership::Readiness::Serving);
        assert_eq!(record.grace_ms, told, "{words:?}");
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
        Self::at(served.uri.clone())
    }

    fn at(uri: String) -> Arc<Self> {
        let unreachable = Mutex::default();
        Arc::new(Self { uri, unreachable })
    }
}

/// A pool of a node called `asks`.
fn pool(heard: &Arc<Heard>) -> PeerPool {
    PeerPool::new("asks".to_owned(), Pass::of(None).unwrap(), Arc::clone(heard) as _)
}

/// The same, with a connection that is there by the time that it counts.
async fn connected(heard: &Arc<Heard>) -> Arc<PeerPool> {
    let pool = pool(heard);
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

/// One of an older version.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_does_not_know_a_question_is_not_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let served = serve(folder.path(), "127.0.0.1:0").await;
    let peers = connected(&Heard::of(&served)).await;
    let nothing = serde_json::json!({});
    let answer = peers.ask("asked", "peer.unheard_of", &nothing, Patience::Plan).await;
    assert!(answer.is_none());
    assert_eq!(peers.residency("asked", &[Bytes::new()]).await.unwrap(), ["none"]);
    served.stop().await;
}

/// Files that are asked for together.
const FILES: usize = 1_000;

fn footer_of(uri: String) -> FooterOf {
    FooterOf {
        uri,
        generation: "etag:a".to_owned(),
        size: 100_000,
    }
}

/// Asks for the footers of many files of a storage.
async fn ask_all<A>(asks: &Arc<Batches<A>>, storage: &str) -> Vec<Option<Found>>
where
    A: Ask<Question = FooterOf, Answer = Found>,
{
    let asked = (0..FILES).map(|number| asks.ask("asked", footer_of(format!("{storage}/{number}.parquet"))));
    join_all(asked).await
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
    let folder = tempfile::tempdir().unwrap();
    let served = serve(folder.path(), "127.0.0.1:0").await;
    let heard = Heard::of(&served);
    let count = Arc::new(AtomicUsize::new(0));
    let asks = Batches::new(Counted {
        calls: FooterCalls(connected(&heard).await),
        count: Arc::clone(&count),
    });
    assert_eq!(ask_all(&asks, "s3://bucket").await, vec![Some(Found::Missing); FILES]);
    let calls = count.load(Ordering::Relaxed);
    assert!(calls <= 3 * FILES / Counted::QUESTIONS, "{calls} calls");
    // A generation that is none is refused with all that were asked for with it, and nobody is lost for that.
    let refused = FooterOf {
        generation: "a".to_owned(),
        ..footer_of("s3://bucket/a".to_owned())
    };
    assert_eq!(asks.ask("asked", refused).await, None);
    assert!(heard.unreachable.lock().is_empty());
    served.stop().await;
}

/// Gives zeros.
#[derive(Debug)]
struct Zeros;

#[async_trait]
impl Peers for Zeros {
    async fn fetch(&self, _: &FileKey, bytes: Range<u64>) -> Option<Bytes> {
        let length = usize::try_from(bytes.end - bytes.start).ok()?;
        Some(vec![0_u8; length].into())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_of_a_file_that_no_mount_shows_is_given_as_pages() {
    let folder = tempfile::tempdir().unwrap();
    let served = serve_with(folder.path(), "127.0.0.1:0", &["--mount", "/m=memory://any"]).await;
    let asked = footer_of("s3://bucket/held".to_owned());
    let (ufs, path) = served.node.resolve(&NsPath::parse("/m/held").unwrap()).unwrap();
    let file = OpenFile {
        ufs,
        path,
        key: asked.key().unwrap(),
        peers: Some(Arc::new(Zeros)),
        errand: None,
    };
    let cache = &served.node.cache;
    cache.pages().read(&file, &[0..10]).await.unwrap();
    while !cache.arriving_files().is_empty() {
        tokio::task::yield_now().await;
    }
    let asks = Batches::new(FooterCalls(connected(&Heard::of(&served)).await));
    assert_eq!(asks.ask("asked", asked).await, Some(Found::AsPages));
    let other = footer_of("s3://bucket/other".to_owned());
    assert_eq!(asks.ask("asked", other).await, Some(Found::Missing));
    served.stop().await;
}

/// Whoever may ask storage for so much a second alone learns so what costs nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_footer_that_is_not_held_is_not_read_for_who_asks_for_what_is_held() {
    let (folder, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut content = vec![7_u8; 400];
    content.extend(100_u32.to_le_bytes());
    content.extend(b"PAR1");
    std::fs::write(data.path().join("a.parquet"), content).unwrap();
    let mount = format!("/m=file://{}", data.path().display());
    let served = serve_with(folder.path(), "127.0.0.1:0", &["--mount", &mount]).await;
    let path = NsPath::parse("/m/a.parquet").unwrap();
    let listed = served.node.datasets.tree().file(&path).await.unwrap().unwrap();
    let key = listed.ufs.key_of(&listed.info);
    let asked = || FooterOf {
        uri: key.uri.to_string(),
        generation: key.generation.to_string(),
        size: key.size,
    };
    let peers = connected(&Heard::of(&served)).await;
    let (held, read) = (
        Batches::new(HeldFooterCalls(Arc::clone(&peers))),
        Batches::new(FooterCalls(peers)),
    );
    for _ in 0..2 {
        assert_eq!(held.ask("asked", asked()).await, Some(Found::Missing));
    }
    let given = read.ask("asked", asked()).await;
    assert!(
        matches!(&given, Some(Found::Given(footer)) if footer.len() == 108),
        "{given:?}"
    );
    while !served.node.cache.arriving_files().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(held.ask("asked", asked()).await, given);
    served.stop().await;
}

/// A plan asks a node whose storage hangs for a few footers in vain, and goes on without it then. For all else the node is
/// as good as any.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_late_with_footers_is_left_alone_by_plans() {
    // It takes connections, and says nothing.
    let hangs = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let storage = format!("http://{}/h", hangs.local_addr().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let mount = format!("/h={storage}");
    let served = serve_with(folder.path(), "127.0.0.1:0", &["--mount", &mount]).await;
    let heard = Heard::of(&served);
    let peers = connected(&heard).await;
    let asks = Batches::new(FooterCalls(Arc::clone(&peers)));
    let started = Instant::now();
    let storage_asked = async {
        let (connection, _) = hangs.accept().await.unwrap();
        (connection, served.node.peer_room.available_permits())
    };
    let (found, (_connection, free_kib)) = tokio::join!(ask_all(&asks, &storage), storage_asked);
    // What waits for storage takes no room from those who ask for pages.
    assert_eq!(free_kib, usize::try_from(served.node.peer_room_kib).unwrap());
    let late = found.iter().filter(|found| **found == Some(Found::Late)).count();
    let unanswered = found.iter().filter(|found| found.is_none()).count();
    assert_eq!((late, unanswered), (FooterCalls::CALLS, FILES - FooterCalls::CALLS));
    assert_eq!(ask_all(&asks, &storage).await, vec![None::<Found>; FILES]);
    let elapsed = started.elapsed();
    assert!(elapsed < 2 * FOOTER_TIMEOUT, "{elapsed:?}");
    assert!(heard.unreachable.lock().is_empty());
    assert_eq!(peers.residency("asked", &[Bytes::new()]).await.unwrap(), ["none"]);
    served.stop().await;
}

/// A node that answers nothing, though its machine takes connections, holds up one plan, and once. Readers find that out for
/// themselves, and whoever asks for advice is not the one to say so.
#[tokio::test(flavor = "multi_thread")]
async fn who_answers_no_plan_is_left_alone_by_plans() {
    let frozen = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let heard = Heard::at(format!("grpc://{}", frozen.local_addr().unwrap()));
    let peers = Arc::new(pool(&heard));
    let asks = Batches::new(FooterCalls(Arc::clone(&peers)));
    let started = Instant::now();
    for _ in 0..2 {
        assert_eq!(ask_all(&asks, "s3://bucket").await, vec![None::<Found>; FILES]);
    }
    let elapsed = started.elapsed();
    assert!(elapsed < 2 * PLAN_TIMEOUT, "{elapsed:?}");
    let nothing = serde_json::json!({});
    assert!(
        peers
            .ask("asked", KNOWN_ACTION, &nothing, Patience::Advice)
            .await
            .is_none()
    );
    assert!(heard.unreachable.lock().is_empty());
    assert!(
        peers
            .ask("asked", KNOWN_ACTION, &nothing, Patience::Reader)
            .await
            .is_none()
    );
    assert_eq!(*heard.unreachable.lock(), ["asked"]);
}
