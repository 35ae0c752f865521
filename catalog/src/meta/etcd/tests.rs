//! The store in etcd against its contract, and against an etcd that is killed, emptied, paused and locked.

use std::time::Instant;

use super::server::Etcd;
use super::*;
use crate::meta::conformance;
use crate::secret::SecretRef;

/// Names an etcd to run the contract's checks against, as `http://HOST:PORT`, instead of one that is started.
const ENDPOINT_VARIABLE: &str = "JETBRIDGE_TEST_ETCD";

const LIMIT: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn etcd_keeps_the_contract() {
    let named = std::env::var(ENDPOINT_VARIABLE).ok();
    let started = if named.is_some() { None } else { Etcd::start().await };
    let Some(endpoint) = named.or_else(|| started.as_ref().map(Etcd::endpoint)) else {
        return;
    };
    // A name of its own, since an etcd that is named may hold what others left.
    let name = format!("conformance-{}", std::process::id());
    let open = || Arc::new(EtcdStore::open(EtcdSettings::new(vec![endpoint.clone()], name.clone())).unwrap());
    conformance::suite(open()).await.unwrap();
    conformance::two_handles(open(), open()).await.unwrap();
    println!("conformance: etcd at {endpoint} keeps the contract of the metadata store");
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_of_other_names_are_not_seen() {
    let Some(etcd) = Etcd::start().await else { return };
    let one = etcd.store(LIMIT);
    let other = EtcdStore::open(EtcdSettings::new(vec![etcd.endpoint()], "tes")).unwrap();
    one.put("a", vec![1], Expect::Absent).await.unwrap();
    assert!(other.list("").await.unwrap().is_empty());
    other.put("a", vec![2], Expect::Absent).await.unwrap();
    assert_eq!(one.get("a").await.unwrap().unwrap().value, [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_and_started_again_it_has_all_and_a_watch_misses_nothing() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let store = etcd.store(Duration::from_secs(2));
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    store
        .put_leased("leased", vec![1], Expect::Absent, Some(lease))
        .await
        .unwrap();
    let mut watch = store.watch("");
    assert_eq!(reset(watch.next().await), ["leased"]);
    etcd.kill();
    assert_is_away(watch.next().await);
    assert_fails_in_time(&store, Duration::from_secs(2)).await;
    etcd.start_again().await;
    let writer = etcd.store(LIMIT);
    for name in ["a", "b", "c"] {
        writer.put(name, vec![1], Expect::Any).await.unwrap();
    }
    let mut seen = reset(watch.next().await);
    while seen.len() < 4 {
        match watch.next().await {
            WatchEvent::Put { key, .. } => seen.push(key),
            event => panic!("{event:?}"),
        }
    }
    seen.sort();
    assert_eq!(seen, ["a", "b", "c", "leased"]);
    store.keep_alive(lease).await.unwrap();
    store.revoke(lease).await.unwrap();
    assert!(matches!(watch.next().await, WatchEvent::Delete { key, .. } if key == "leased"));
}

#[tokio::test(flavor = "multi_thread")]
async fn restarted_empty_it_gets_no_write_and_makes_nobody_forget() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let plain = etcd.store(LIMIT);
    plain
        .put(CLUSTER_ID_KEY, b"ours".to_vec(), Expect::Absent)
        .await
        .unwrap();
    let store = plain.bound("ours");
    let mount = store.put("mounts/lake", vec![1], Expect::Absent).await.unwrap();
    let mut watch = store.watch("mounts/");
    assert_eq!(reset(watch.next().await), ["mounts/lake"]);
    etcd.kill();
    etcd.empty();
    etcd.start_again().await;
    assert_is_away(watch.next().await);
    let event = watch.next().await;
    assert!(
        matches!(&event, WatchEvent::Foreign(MetaError::Foreign { found: None, .. })),
        "{event:?}"
    );
    for expect in [Expect::Any, Expect::Absent, Expect::Revision(mount)] {
        let error = store.put("mounts/lake", vec![2], expect).await.unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("the metadata store does not hold the cluster ours"),
            "{error}"
        );
    }
    assert!(matches!(store.list("").await, Err(MetaError::Foreign { .. })));
    assert!(plain.list("").await.unwrap().is_empty(), "no write went in");
    plain.put("mounts/back", vec![1], Expect::Absent).await.unwrap();
    plain
        .put(CLUSTER_ID_KEY, b"ours".to_vec(), Expect::Absent)
        .await
        .unwrap();
    assert_eq!(reset(watch.next().await), ["mounts/back"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_it_fails_each_operation_in_time_and_comes_back() {
    let Some(etcd) = Etcd::start().await else { return };
    let limit = Duration::from_secs(2);
    let store = etcd.store(limit);
    store.put("a", vec![1], Expect::Absent).await.unwrap();
    let mut watch = store.watch("");
    assert_eq!(reset(watch.next().await), ["a"]);
    etcd.pause();
    assert_fails_in_time(&store, limit).await;
    // No answer comes to the pings of the connection.
    assert_is_away(watch.next().await);
    etcd.resume();
    let again = reset(watch.next().await);
    assert!(again.starts_with(&["a".to_owned()]), "{again:?}");
    store.put("b", vec![1], Expect::Any).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_three_members_any_may_go() {
    let Some(mut members) = Etcd::start_members(3).await else {
        return;
    };
    let endpoints = members.iter().map(Etcd::endpoint).collect();
    let store = EtcdStore::open(EtcdSettings::new(endpoints, "test")).unwrap();
    let mut watch = store.watch("");
    assert!(reset(watch.next().await).is_empty());
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    let mut known = Vec::new();
    for (number, member) in members.iter_mut().enumerate() {
        member.kill();
        let key = format!("without-{number}");
        put_when_there_is_a_leader(&store, &key, lease).await;
        known.push(key);
        // Whether the watch went through the member that is gone or not, it gets to know the key.
        while !learned(watch.next().await).is_some_and(|keys| keys.contains(&known[number])) {}
        store.keep_alive(lease).await.unwrap();
        member.start_again().await;
    }
    let listed = store.list("").await.unwrap();
    assert_eq!(listed.into_iter().map(|(key, _)| key).collect::<Vec<_>>(), known);
}

/// Until the members that are left have a new leader, etcd says that it is away.
async fn put_when_there_is_a_leader(store: &EtcdStore, key: &str, lease: LeaseId) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match store.put_leased(key, vec![1], Expect::Any, Some(lease)).await {
            Ok(_) => return,
            Err(MetaError::Unavailable { .. }) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// The keys that an event tells of; `None` when it tells that the store is away.
fn learned(event: WatchEvent) -> Option<Vec<String>> {
    match event {
        WatchEvent::Reset { entries, .. } => Some(entries.into_iter().map(|(key, _)| key).collect()),
        WatchEvent::Put { key, .. } => Some(vec![key]),
        WatchEvent::Away(_) => None,
        event => panic!("{event:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_down_or_silent_costs_no_more_than_one_operation() {
    let Some(etcd) = Etcd::start().await else { return };
    let nobody = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let silent = format!("http://{}", nobody.local_addr().unwrap());
    let down = "http://127.0.0.1:1".to_owned();
    let mut settings = EtcdSettings::new(vec![down, silent, etcd.endpoint()], "test");
    settings.time_limit = Duration::from_secs(3);
    let store = EtcdStore::open(settings).unwrap();
    // The first is skipped; the second takes the connection and never answers.
    let first = store.put("a", vec![1], Expect::Any).await;
    assert!(matches!(first, Err(MetaError::Unavailable { .. })), "{first:?}");
    store.put("a", vec![1], Expect::Any).await.unwrap();
    store.get("a").await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_user_it_logs_in_and_does_so_again() {
    let Some(mut etcd) = Etcd::start().await else { return };
    etcd.post("/v3/auth/user/add", r#"{"name": "root", "password": "right"}"#);
    etcd.post("/v3/auth/role/add", r#"{"name": "root"}"#);
    etcd.post("/v3/auth/user/grant", r#"{"user": "root", "role": "root"}"#);
    etcd.post("/v3/auth/enable", "{}");
    let open = |password: Option<&str>| {
        let mut settings = EtcdSettings::new(vec![etcd.endpoint()], "test");
        settings.user = password.map(|password| ("root".to_owned(), secret(password)));
        EtcdStore::open(settings).unwrap()
    };
    for refused in [None, Some("wrong")] {
        let error = open(refused).put("a", vec![1], Expect::Any).await.unwrap_err();
        assert!(matches!(error, MetaError::Store { .. }), "{error:?}");
    }
    let store = open(Some("right"));
    assert!(!format!("{store:?}").contains("right"));
    store.put("a", vec![1], Expect::Absent).await.unwrap();
    let mut watch = store.watch("");
    assert_eq!(reset(watch.next().await), ["a"]);
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    // Its tokens are in its memory alone.
    etcd.kill();
    etcd.start_again().await;
    store.keep_alive(lease).await.unwrap();
    assert_is_away(watch.next().await);
    assert_eq!(reset(watch.next().await), ["a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn history_that_was_compacted_is_told_apart() {
    let Some(etcd) = Etcd::start().await else { return };
    let store = etcd.store(LIMIT);
    let first = store.put("a", vec![1], Expect::Any).await.unwrap();
    let last = store.put("a", vec![2], Expect::Any).await.unwrap();
    etcd.post("/v3/kv/compaction", &format!(r#"{{"revision": {last}}}"#));
    let from = i64::try_from(first).unwrap();
    let mut changes = store.client.watch(b"/jetbridge/", from).await.unwrap();
    let error = changes.next().await.unwrap_err();
    assert!(matches!(error, EtcdError::Compacted { .. }), "{error:?}");
}

#[tokio::test]
async fn settings_are_checked() {
    let open = |endpoint: &str, name: &str| EtcdStore::open(EtcdSettings::new(vec![endpoint.to_owned()], name));
    assert!(open("http://etcd-0.local:2379", "prod-1.eu_west").is_ok());
    let long = "n".repeat(MAX_NAME_BYTES + 1);
    for (endpoint, name) in [
        ("etcd:2379", "a"),
        ("https://etcd:2379", "a"),
        ("http://etcd:2379", ""),
        ("http://etcd:2379", "a/b"),
        ("http://etcd:2379", &long),
    ] {
        let error = open(endpoint, name).unwrap_err();
        assert!(matches!(error, MetaError::Settings { .. }), "{error:?}");
    }
}

fn secret(text: &str) -> Secret {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let reference: SecretRef = format!("file:{}", file.path().display()).parse().unwrap();
    reference.resolve().unwrap()
}

fn reset(event: WatchEvent) -> Vec<String> {
    match event {
        WatchEvent::Reset { entries, .. } => entries.into_iter().map(|(key, _)| key).collect(),
        event => panic!("{event:?}"),
    }
}

fn assert_is_away(event: WatchEvent) {
    assert!(
        matches!(event, WatchEvent::Away(MetaError::Unavailable { .. })),
        "{event:?}"
    );
}

/// Every operation ends within the limit, and a little for a machine that is busy.
async fn assert_fails_in_time(store: &EtcdStore, limit: Duration) {
    let lease = LeaseId::from_number(1);
    let started = Instant::now();
    let errors = [
        store.get("x").await.unwrap_err(),
        store.list("").await.unwrap_err(),
        store.put("x", vec![1], Expect::Any).await.unwrap_err(),
        store.delete("x", Expect::Any).await.unwrap_err(),
        store.grant(Duration::from_secs(60)).await.unwrap_err(),
        store.keep_alive(lease).await.unwrap_err(),
        store.revoke(lease).await.unwrap_err(),
    ];
    assert!(
        started.elapsed() < 7 * limit + Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
    for error in errors {
        assert!(matches!(error, MetaError::Unavailable { .. }), "{error:?}");
    }
}
