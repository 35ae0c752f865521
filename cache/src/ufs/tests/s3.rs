//! `s3://` over the wire: names, identities, signatures, and how each failure ends.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::server::{Answer, Server, error, s3};
use super::*;

fn mounted(server: &Server, key: &str, more: &[(&str, &str)]) -> Ufs {
    let endpoint = format!("http://{}", server.address);
    let mut options = vec![("endpoint", endpoint.as_str()), ("allow_http", "true")];
    options.extend_from_slice(more);
    open(spec("s3", "bucket", key, &options)).unwrap()
}

const ANONYMOUS: [(&str, &str); 1] = [("anonymous", "true")];
const KEYS: [(&str, &str); 2] = [("access_key_id", "id"), ("secret_access_key", "env:S")];

fn objects(names: &[&str]) -> Vec<(String, Vec<u8>)> {
    let content = |name: &str| {
        if name.ends_with('/') {
            Vec::new()
        } else {
            name.as_bytes().to_vec()
        }
    };
    names.iter().map(|name| ((*name).to_owned(), content(name))).collect()
}

#[tokio::test]
async fn names_are_taken_as_they_are() {
    let keys: Vec<_> = NAMES.iter().map(|name| format!("to p/{name}")).collect();
    let content = objects(&keys.iter().map(String::as_str).collect::<Vec<_>>());
    let server = Server::start(s3(content)).await;
    let ufs = mounted(&server, "to p", &KEYS);
    let mut expected: Vec<_> = NAMES.iter().map(ToString::to_string).collect();
    expected.sort();
    assert_eq!(paths(&ufs, "").await, expected);
    for name in NAMES {
        assert_eq!(read_whole(&ufs, name).await, format!("to p/{name}").as_bytes());
    }
    assert_eq!(names(&ufs, "über").await, [("数据.parquet".to_owned(), true)]);
    assert_eq!(ufs.uri_of("a%2Fb"), "s3://bucket/to p/a%2Fb");
}

#[tokio::test]
async fn folder_markers_are_no_objects() {
    let keys = [
        "d/",
        "d/1/",
        "d/1/f",
        "d/empty/",
        "d/zero",
        "d/zero.parquet",
        "d/_SUCCESS",
        "top",
    ];
    let mut content = objects(&keys);
    content
        .iter_mut()
        .filter(|(key, _)| key.starts_with("d/zero"))
        .for_each(|(_, body)| body.clear());
    let server = Server::start(s3(content)).await;
    let ufs = mounted(&server, "", &ANONYMOUS);
    assert_eq!(
        paths(&ufs, "").await,
        ["d/1/f", "d/_SUCCESS", "d/zero", "d/zero.parquet", "top"]
    );
    assert_eq!(
        paths(&ufs, "d").await,
        ["d/1/f", "d/_SUCCESS", "d/zero", "d/zero.parquet"]
    );
    assert_eq!(paths(&ufs, "d/empty").await, Vec::<String>::new());
    let listed = [
        ("1", false),
        ("_SUCCESS", true),
        ("empty", false),
        ("zero", true),
        ("zero.parquet", true),
    ];
    assert_eq!(
        names(&ufs, "d").await,
        listed.map(|(name, file)| (name.to_owned(), file))
    );
}

#[tokio::test]
async fn reads_are_pinned_by_a_quoted_etag() {
    let server = Server::start(s3(objects(&["f"]))).await;
    let ufs = mounted(&server, "", &ANONYMOUS);
    let info = ufs.head("f").await.unwrap().unwrap();
    assert_eq!(ufs.get_range("f", &ufs.key_of(&info), 0..1).await.unwrap(), "f");
    let sent = server.requests().pop().unwrap();
    assert_eq!(
        sent.headers["if-match"],
        format!("\"{}\"", info.generation.etag().unwrap())
    );
    let old = FileKey {
        generation: Generation::parse("etag:old").unwrap(),
        ..ufs.key_of(&info)
    };
    let stale = ufs.get_range("f", &old, 0..1).await.unwrap_err();
    assert_eq!(stale.kind(), UfsErrorKind::Stale);
    assert_eq!(stale.generations().unwrap().1, Some(&info.generation));
}

#[tokio::test]
async fn anonymous_requests_are_not_signed_and_others_are() {
    let server = Server::start(s3(objects(&["f"]))).await;
    for (options, signed) in [(&ANONYMOUS[..], false), (&KEYS[..], true)] {
        mounted(&server, "", options).head("f").await.unwrap().unwrap();
        let last = server.requests().pop().unwrap();
        assert_eq!(last.headers.contains_key("authorization"), signed);
    }
}

#[tokio::test]
async fn the_environment_is_read_where_options_are_silent() {
    let server = Server::start(s3(objects(&["f"]))).await;
    let endpoint = format!("http://{}", server.address);
    let environment = move |name: &str| match name {
        "AWS_ENDPOINT_URL" => Some(endpoint.clone()),
        "AWS_ACCESS_KEY_ID" => Some("from-env".to_owned()),
        "AWS_SECRET_ACCESS_KEY" => Some("s".to_owned()),
        "AWS_REGION" => Some("env-region".to_owned()),
        "AWS_ALLOW_HTTP" => Some("true".to_owned()),
        _ => None,
    };
    let opened = |options| Ufs::open_in(spec("s3", "bucket", "", options), &context(), &environment).unwrap();
    opened(&[]).head("f").await.unwrap().unwrap();
    opened(&[("region", "own-region"), KEYS[0], KEYS[1]])
        .head("f")
        .await
        .unwrap()
        .unwrap();
    let signed: Vec<_> = server
        .requests()
        .iter()
        .map(|r| r.headers["authorization"].clone())
        .collect();
    assert!(
        signed[0].contains("from-env/") && signed[0].contains("env-region"),
        "{signed:?}"
    );
    assert!(
        signed[1].contains("=id/") && signed[1].contains("own-region"),
        "{signed:?}"
    );
}

#[tokio::test]
async fn failures_have_their_kinds() {
    let cases = [
        (404, "NoSuchBucket", UfsErrorKind::NotFound),
        (403, "AccessDenied", UfsErrorKind::PermissionDenied),
        (403, "InvalidAccessKeyId", UfsErrorKind::Unauthenticated),
        (403, "SignatureDoesNotMatch", UfsErrorKind::Unauthenticated),
        (400, "ExpiredToken", UfsErrorKind::Unauthenticated),
        (401, "Unauthorized", UfsErrorKind::Unauthenticated),
        (503, "SlowDown", UfsErrorKind::Unavailable),
        (400, "AuthorizationHeaderMalformed", UfsErrorKind::Other),
        (301, "PermanentRedirect", UfsErrorKind::Other),
    ];
    for (status, code, expected) in cases {
        let server = Server::start(move |_| error(status, code)).await;
        let ufs = mounted(&server, "", &KEYS);
        // What is tried again may end in the middle of a try, when the machine is busy: a timeout then.
        let is_expected = |kind| kind == expected || (status == 503 && kind == UfsErrorKind::Timeout);
        let listed = ufs.list("").try_collect::<Vec<_>>().await.unwrap_err();
        assert!(is_expected(listed.kind()), "{listed}");
        let message = listed.to_string();
        assert!(
            message.starts_with("cannot list mount /lake: ") && !message.contains("secret"),
            "{message}"
        );
        assert!(is_expected(kind(ufs.list_dir("").await)));
        assert!(is_expected(kind(ufs.check().await)));
        let key = FileKey {
            uri: "u".into(),
            generation: Generation::parse("etag:x").unwrap(),
            size: 9,
        };
        assert!(is_expected(kind(ufs.get_range("f", &key, 0..9).await)));
    }
}

#[tokio::test]
async fn a_missing_bucket_is_an_error_and_a_missing_key_is_none() {
    let server = Server::start(s3(objects(&["f"]))).await;
    assert_eq!(mounted(&server, "", &ANONYMOUS).head("g").await.unwrap(), None);
    let endpoint = format!("http://{}", server.address);
    let options = [
        ("endpoint", endpoint.as_str()),
        ("allow_http", "true"),
        ("anonymous", "true"),
    ];
    let gone = open(spec("s3", "gone", "", &options)).unwrap();
    let error = gone.list("").try_collect::<Vec<_>>().await.unwrap_err();
    assert!(error.to_string().contains("404 NoSuchBucket"), "{error}");
}

#[tokio::test]
async fn a_server_that_comes_back_is_retried_and_one_that_does_not_is_named_with_tries() {
    let asked = Arc::new(AtomicUsize::new(0));
    let good = s3(objects(&["f"]));
    let counter = Arc::clone(&asked);
    let server = Server::start(move |request| match counter.fetch_add(1, Ordering::Relaxed) {
        0 | 1 => error(503, "SlowDown"),
        _ => good(request),
    });
    let server = server.await;
    mounted(&server, "", &ANONYMOUS).head("f").await.unwrap().unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 3);

    let server = Server::start(|_| error(503, "SlowDown")).await;
    let error = mounted(&server, "", &ANONYMOUS).list_dir("").await.unwrap_err();
    assert!(error.to_string().contains(" tries in "), "{error}");
}

/// One 503, where one request may take as long as it may with all its retries, and longer.
#[tokio::test]
async fn a_server_that_comes_back_is_retried_however_long_one_request_may_take() {
    let short = |retry_timeout| UfsContext {
        limits: UfsLimits {
            retry_timeout: Duration::from_secs(retry_timeout),
            ..UfsLimits::default()
        },
        ..context()
    };
    for (context, timeout) in [
        (short(10), None),
        (short(5), None),
        (short(30), Some("30s")),
        (short(30), Some("2m")),
    ] {
        let asked = AtomicUsize::new(0);
        let good = s3(objects(&["f"]));
        let server = Server::start(move |request| match asked.fetch_add(1, Ordering::Relaxed) % 2 {
            0 => error(503, "SlowDown"),
            _ => good(request),
        });
        let server = server.await;
        let endpoint = format!("http://{}", server.address);
        let mut options = vec![("endpoint", endpoint.as_str()), ("allow_http", "true"), ANONYMOUS[0]];
        options.extend(timeout.map(|timeout| ("timeout", timeout)));
        let ufs = Ufs::open_in(spec("s3", "bucket", "", &options), &context, &|_| None).unwrap();
        let info = ufs.head("f").await.unwrap().unwrap();
        assert_eq!(ufs.get_range("f", &ufs.key_of(&info), 0..1).await.unwrap(), "f");
        assert_eq!(server.requests().len(), 4);
    }
}

#[tokio::test]
async fn a_cut_body_is_resumed() {
    let content: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let good = s3(vec![("f".to_owned(), content.clone())]);
    let asked = AtomicUsize::new(0);
    let server = Server::start(move |request| {
        let mut answer = good(request);
        if request.method == "GET" && asked.fetch_add(1, Ordering::Relaxed) < 3 {
            answer.cut = Some(answer.body.len() / 2);
        }
        answer
    });
    let server = server.await;
    let ufs = mounted(&server, "", &ANONYMOUS);
    let key = ufs.key_of(&ufs.head("f").await.unwrap().unwrap());
    assert_eq!(ufs.get_range("f", &key, 0..100_000).await.unwrap(), content);
}

#[tokio::test]
async fn unreachable_and_silent_servers_fail_in_time() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", listener.local_addr().unwrap());
    let gone = "http://127.0.0.1:1".to_owned();
    for (endpoint, context, expected) in [
        (silent, hasty(), UfsErrorKind::Timeout),
        (gone, context(), UfsErrorKind::Unavailable),
    ] {
        let options = [
            ("endpoint", endpoint.as_str()),
            ("allow_http", "true"),
            ("anonymous", "true"),
        ];
        let ufs = Ufs::open_in(spec("s3", "bucket", "", &options), &context, &|_| None).unwrap();
        let started = Instant::now();
        let error = ufs.check().await.unwrap_err();
        assert_eq!(error.kind(), expected, "{error}");
        assert!(started.elapsed() < Duration::from_secs(10), "{error}");
    }
}

#[tokio::test]
async fn without_credentials_it_fails_in_seconds_and_says_what_to_set() {
    let server = Server::start(|_| Answer::new(200, "")).await;
    let ufs = mounted(&server, "", &[]);
    let started = Instant::now();
    let reads = (0..8).map(|_| ufs.head("f"));
    for outcome in futures::future::join_all(reads).await {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), UfsErrorKind::Unauthenticated);
        assert!(error.to_string().contains("AWS_ACCESS_KEY_ID"), "{error}");
    }
    assert!(started.elapsed() < Duration::from_secs(15));
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn virtual_hosts_carry_the_bucket_in_the_host() {
    let options = [
        ("endpoint", "https://s3.example.com:9000"),
        ("path_style", "false"),
        ("anonymous", "true"),
    ];
    open(spec("s3", "bucket", "", &options)).unwrap();
    let numeric = [
        ("endpoint", "https://127.0.0.1:9000"),
        ("path_style", "false"),
        ("anonymous", "true"),
    ];
    assert_eq!(
        kind(open(spec("s3", "bucket", "", &numeric))),
        UfsErrorKind::InvalidOption
    );
}
