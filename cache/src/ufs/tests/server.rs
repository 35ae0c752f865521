//! A small HTTP server on a loopback port, which answers by a function, and one that speaks enough S3 to be mounted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A request: method, decoded path, decoded query, headers with names in lower case.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: BTreeMap<String, String>,
    pub(super) headers: BTreeMap<String, String>,
}

/// An answer. With `cut`, only so many bytes of the body are sent before the connection closes; with `pace`, the body
/// comes in so many pieces, with a pause before each.
#[derive(Debug, Clone, Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
    pub(super) cut: Option<usize>,
    pub(super) pace: Option<(Duration, usize)>,
}

impl Answer {
    pub(super) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            body: body.into(),
            ..Self::default()
        }
    }

    pub(super) fn paced(mut self, pause: Duration, pieces: usize) -> Self {
        self.pace = Some((pause, pieces));
        self
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

pub(super) struct Server {
    pub(super) address: String,
    log: Arc<Mutex<Vec<Request>>>,
}

type Handler = Arc<dyn Fn(&Request) -> Answer + Send + Sync>;

impl Server {
    pub(super) async fn start(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (log, handler): (_, Handler) = (Arc::new(Mutex::new(Vec::new())), Arc::new(handler));
        let seen = Arc::clone(&log);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, Arc::clone(&handler), Arc::clone(&seen)));
            }
        });
        Self { address, log }
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.log.lock().clone()
    }
}

async fn serve(mut socket: TcpStream, handler: Handler, log: Arc<Mutex<Vec<Request>>>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await?);
    }
    let request = parse(&String::from_utf8_lossy(&head));
    log.lock().push(request.clone());
    let answer = handler(&request);
    let mut text = format!("HTTP/1.1 {} X\r\nconnection: close\r\n", answer.status);
    if !answer.headers.iter().any(|(name, _)| *name == "content-length") {
        text += &format!("content-length: {}\r\n", answer.body.len());
    }
    for (name, value) in &answer.headers {
        text += &format!("{name}: {value}\r\n");
    }
    socket.write_all(format!("{text}\r\n").as_bytes()).await?;
    let sent = if request.method == "HEAD" {
        0
    } else {
        answer.cut.unwrap_or(answer.body.len())
    };
    let (pause, pieces) = answer.pace.unwrap_or((Duration::ZERO, 1));
    for piece in answer.body[..sent].chunks(sent.div_ceil(pieces).max(1)) {
        tokio::time::sleep(pause).await;
        socket.write_all(piece).await?;
    }
    socket.shutdown().await
}

fn parse(head: &str) -> Request {
    let mut lines = head.lines();
    let mut first = lines.next().unwrap().split(' ');
    let (method, target) = (first.next().unwrap().to_owned(), first.next().unwrap());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let decode = |text: &str| percent_decode_str(text).decode_utf8().unwrap().into_owned();
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let query = pairs
        .map(|(k, v)| (k.to_owned(), decode(&v.replace('+', " "))))
        .collect();
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(k, v)| (k.to_lowercase(), v.to_owned()))
        .collect();
    Request {
        method,
        path: decode(path),
        query,
        headers,
    }
}

const LAST_MODIFIED: &str = "Sun, 22 Nov 2026 08:45:01 GMT";

/// One bucket, `/bucket`, of these objects, by path style. Keys that end in a slash are folder markers.
pub(super) fn s3(objects: Vec<(String, Vec<u8>)>) -> impl Fn(&Request) -> Answer + Send + Sync {
    let objects: BTreeMap<_, _> = objects.into_iter().collect();
    move |request| match request.path.strip_prefix("/bucket") {
        Some("" | "/") => list(&objects, request),
        Some(key) => match objects.get(&key[1..]) {
            Some(content) => object(content, request),
            None => error(404, "NoSuchKey"),
        },
        None => error(404, "NoSuchBucket"),
    }
}

pub(super) fn error(status: u16, code: &str) -> Answer {
    Answer::new(
        status,
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>no.</Message></Error>"),
    )
}

fn etag(content: &[u8]) -> String {
    format!("{:x}", xxhash_rust::xxh3::xxh3_64(content))
}

fn list(objects: &BTreeMap<String, Vec<u8>>, request: &Request) -> Answer {
    let prefix = request.query.get("prefix").map(String::as_str).unwrap_or_default();
    let delimiter = request.query.contains_key("delimiter");
    let (mut contents, mut folders) = (String::new(), std::collections::BTreeSet::new());
    for (key, content) in objects.iter().filter(|(key, _)| key.starts_with(prefix)) {
        match key[prefix.len()..].split_once('/') {
            Some((folder, _)) if delimiter => drop(folders.insert(format!("{prefix}{folder}/"))),
            _ => {
                let (key, tag, size) = (escape(key), etag(content), content.len());
                contents += &format!(
                    "<Contents><Key>{key}</Key><LastModified>2026-11-22T08:45:01.000Z</LastModified>\
                     <ETag>&quot;{tag}&quot;</ETag><Size>{size}</Size></Contents>"
                );
            }
        }
    }
    for folder in folders {
        contents += &format!("<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", escape(&folder));
    }
    Answer::new(
        200,
        format!("<?xml version=\"1.0\"?><ListBucketResult>{contents}</ListBucketResult>"),
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

fn object(content: &[u8], request: &Request) -> Answer {
    let tag = format!("\"{}\"", etag(content));
    if request.headers.get("if-match").is_some_and(|wanted| *wanted != tag) {
        return error(412, "PreconditionFailed");
    }
    ranged(content, request)
        .with("etag", tag)
        .with("last-modified", LAST_MODIFIED)
}

/// The whole content, or the range that was asked for.
pub(super) fn ranged(content: &[u8], request: &Request) -> Answer {
    let range = request
        .headers
        .get("range")
        .and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    match range {
        None => Answer::new(200, content),
        Some((start, end)) => {
            let (start, end): (usize, usize) = (start.parse().unwrap(), end.parse().unwrap());
            let place = format!("bytes {start}-{end}/{}", content.len());
            Answer::new(206, &content[start..=end]).with("content-range", place)
        }
    }
}
