//! Calls that are not streams of rows.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::StreamExt;
use jetbridge_client::{Client, ClientOptions, ErrorKind, Scan};
use serde_json::{Value, json};

use super::support::server::{Script, Server};
use super::support::wire::Wire;
use super::support::{client, options, until};

async fn served() -> Server {
    Server::start(Script {
        endpoints: vec![10],
        ..Script::default()
    })
    .await
}

#[tokio::test]
async fn actions_take_and_give_json() {
    let server = served().await;
    let client = client(&server.uri());
    let body = json!({"path": "/lake", "by": ["file"]});
    let answers = client.action("cache.stat", &body).await.unwrap();
    assert_eq!(answers, [body.clone(), json!("cache.stat"), Value::Null]);
    let mut watched = client.watch("watched", &body).await.unwrap();
    assert_eq!(watched.next().await.unwrap().unwrap(), body);
}

#[tokio::test]
async fn schemas_and_lists_need_no_plan() {
    let server = served().await;
    let client = client(&server.uri());
    assert_eq!(
        *client.schema(&Scan::of("/t")).await.unwrap(),
        *super::support::schema()
    );
    let listed = client.list("").await.unwrap();
    assert_eq!(listed[0].path, "/lake/trips");
    assert_eq!(server.state.plans.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn plans_are_tried_again_and_actions_are_not() {
    let server = served().await;
    let client = client(&server.uri());
    server.tell(|script| script.unavailable = 1);
    client.plan(&Scan::of("/t")).await.unwrap();
    server.tell(|script| script.unavailable = 1);
    let error = client.action("mount.add", &Value::Null).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(error.to_string(), format!("not now (at {})", server.uri()));
    assert_eq!(server.state.actions.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_never_reached_is_not_waited_for_and_one_that_went_away_is() {
    // A wait would be one of every call; a machine that is busy delays some of them.
    let mut fastest = Duration::MAX;
    for _ in 0..10 {
        let began = Instant::now();
        let error = client("grpc://127.0.0.1:1").plan(&Scan::of("/t")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connect);
        fastest = fastest.min(began.elapsed());
    }
    assert!(fastest < Duration::from_millis(240), "{fastest:?}");
    let server = served().await;
    let wire = Wire::to(&server.authority).await;
    let client = client(&wire.uri);
    client.plan(&Scan::of("/t")).await.unwrap();
    wire.cut();
    until("the wire is cut", || wire.open() == 0).await;
    let began = Instant::now();
    let error = client.plan(&Scan::of("/t")).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    assert!(began.elapsed() > Duration::from_millis(500), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_call_ends_when_its_time_is_over() {
    // It accepts connections and says nothing.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = ClientOptions {
        timeout: Some(Duration::from_millis(200)),
        ..options()
    };
    let client = Client::new(&format!("grpc://{}", listener.local_addr().unwrap()), options).unwrap();
    let began = Instant::now();
    let error = client.plan(&Scan::of("/t")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}
