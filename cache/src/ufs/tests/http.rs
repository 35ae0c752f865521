//! `http://`: servers that know little.

use std::time::Instant;

use super::server::{Answer, Request, Server, ranged};
use super::*;

fn plain(etag: Option<&'static str>) -> impl Fn(&Request) -> Answer {
    move |request| match (request.method.as_str(), request.path.as_str()) {
        ("GET" | "HEAD", "/d/a b%2Fc.parquet") => {
            let answer = ranged(b"0123456789", request).with("last-modified", "Sun, 22 Nov 2026 08:45:01 GMT");
            match etag {
                Some(etag) => answer.with("etag", etag),
                None => answer,
            }
        }
        ("PROPFIND", _) => Answer::new(501, ""),
        _ => Answer::new(404, ""),
    }
}

async fn mounted(etag: Option<&'static str>) -> (Ufs, Server) {
    let server = Server::start(plain(etag)).await;
    (
        open(spec("http", &server.address, "d", &[("bearer_token", "env:T")])).unwrap(),
        server,
    )
}

#[tokio::test]
async fn a_server_with_strong_etags_is_read_in_ranges() {
    let (ufs, server) = mounted(Some("\"v1\"")).await;
    let info = ufs.head("a b%2Fc.parquet").await.unwrap().unwrap();
    assert_eq!(info.generation.etag(), Some("v1"));
    assert_eq!(ufs.get_range(&info.path, &ufs.key_of(&info), 3..5).await.unwrap(), "34");
    assert!(
        server
            .requests()
            .iter()
            .all(|r| r.headers["authorization"] == "Bearer secret of T")
    );
    assert_eq!(ufs.head("other").await.unwrap(), None);
}

#[tokio::test]
async fn a_server_without_strong_etags_is_read_whole() {
    for etag in [None, Some("W/\"v1\"")] {
        let (ufs, server) = mounted(etag).await;
        let info = ufs.head("a b%2Fc.parquet").await.unwrap().unwrap();
        assert!(!info.generation.is_strong());
        let key = ufs.key_of(&info);
        ufs.get_range(&info.path, &key, 3..5).await.unwrap_err();
        assert_eq!(ufs.get_range(&info.path, &key, 0..10).await.unwrap(), "0123456789");
        let read = server.requests().pop().unwrap();
        assert!(!read.headers.contains_key("range") && !read.headers.contains_key("if-match"));
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up_by_the_mount_s_own_timeout() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = listener.local_addr().unwrap().to_string();
    let limits = UfsLimits {
        max_retries: 2,
        ..UfsLimits::default()
    };
    let context = UfsContext { limits, ..context() };
    let options = [("timeout", "200ms")];
    let ufs = Ufs::open_in(spec("http", &silent, "d", &options), &context, &|_| None).unwrap();
    let key = FileKey {
        uri: "u".into(),
        generation: Generation::parse("etag:x").unwrap(),
        size: 9,
    };
    let started = Instant::now();
    for error in [
        ufs.head("f").await.unwrap_err(),
        ufs.get_range("f", &key, 0..9).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), UfsErrorKind::Timeout);
        assert!(
            error.to_string().contains("no answer within 0.2 s (3 tries in "),
            "{error}"
        );
    }
    assert!(started.elapsed() < UfsLimits::default().retry_timeout / 2);
}

#[tokio::test]
async fn an_answer_that_began_in_time_may_take_longer_than_one_request() {
    let content = vec![7_u8; 1 << 16];
    let sent = content.clone();
    let server = Server::start(move |request| ranged(&sent, request).paced(Duration::from_millis(200), 8)).await;
    let ufs = open(spec("http", &server.address, "", &[("timeout", "1s")])).unwrap();
    let key = ufs.key_of(&ufs.head("f").await.unwrap().unwrap());
    let started = Instant::now();
    assert_eq!(ufs.get_range("f", &key, 0..1 << 16).await.unwrap(), content);
    assert!(started.elapsed() > Duration::from_secs(1));
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn a_server_without_listings_says_so_in_time() {
    let (ufs, _server) = mounted(None).await;
    let started = Instant::now();
    let error = ufs.list_dir("").await.unwrap_err();
    assert!(
        error.to_string().contains("501") && started.elapsed() < Duration::from_secs(10),
        "{error}"
    );
}
