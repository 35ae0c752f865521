//! Downloads every object below a prefix of an S3 bucket with plain `object_store`: what bringing a dataset in costs at
//! the least. `make bench` sets Jetbridge's preload against it.
//!
//! Usage: `download BUCKET PREFIX CONCURRENCY RANGE_BYTES [--to FOLDER]`. Endpoint and credentials come from the usual
//! `AWS_*` variables. Objects up to RANGE_BYTES are got whole, larger ones in ranges of that size, CONCURRENCY requests at
//! once; the listing goes on meanwhile. The bytes are thrown away, or written to files below FOLDER.
//!
//! Prints one JSON object: objects, bytes, seconds, requests (all that went out: listings and retries too), cpu_seconds.

use std::error::Error;
use std::fs::OpenOptions;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use futures::{Stream, TryStreamExt, stream};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use object_store::path::Path;
use object_store::{ClientOptions, GetOptions, GetRange, ObjectMeta, ObjectStore};

type Failure = Box<dyn Error + Send + Sync>;

/// What is gathered of a body before it is written.
const WRITE_BYTES: usize = 1 << 20;
/// In which Linux counts the CPU time of processes, on every architecture of ours.
const CLOCK_TICKS_PER_S: f64 = 100.0;
const USAGE: &str = "usage: download BUCKET PREFIX CONCURRENCY RANGE_BYTES [--to FOLDER]";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("download: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<String, Failure> {
    let (bucket, prefix, numbers, folder) = match *words {
        [bucket, prefix, concurrency, range] => (bucket, prefix, [concurrency, range], None),
        [bucket, prefix, concurrency, range, "--to", folder] => {
            (bucket, prefix, [concurrency, range], Some(PathBuf::from(folder)))
        }
        _ => return Err(USAGE.into()),
    };
    let (concurrency, range_bytes): (usize, u64) = (numbers[0].parse()?, numbers[1].parse()?);
    if concurrency == 0 || range_bytes == 0 {
        return Err(USAGE.into());
    }
    let requests = Arc::new(AtomicU64::new(0));
    let store = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_http_connector(Counting(Arc::clone(&requests)))
        .build()?;
    let download = Arc::new(Download { store, folder });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let start = Instant::now();
    let (objects, bytes) = runtime.block_on(download.all(&Path::from(prefix), concurrency, range_bytes))?;
    Ok(format!(
        r#"{{"objects": {objects}, "bytes": {bytes}, "seconds": {}, "requests": {}, "cpu_seconds": {}}}"#,
        start.elapsed().as_secs_f64(),
        requests.load(Ordering::Relaxed),
        cpu_seconds()?
    ))
}

/// Where the bytes come from, and where they go.
struct Download {
    store: AmazonS3,
    folder: Option<PathBuf>,
}

/// A part of an object that is one request; none where it is the whole.
struct Piece {
    path: Path,
    range: Option<Range<u64>>,
    begins_object: bool,
}

impl Download {
    /// How many objects there were, and how many bytes came.
    async fn all(self: Arc<Self>, prefix: &Path, concurrency: usize, range_bytes: u64) -> Result<(u64, u64), Failure> {
        let listing = self.store.list(Some(prefix)).map_err(Failure::from);
        listing
            .map_ok(|object| pieces(&object, range_bytes))
            .try_flatten()
            .map_ok(|piece| {
                let download = Arc::clone(&self);
                // A task each, so that every core is used.
                async move { tokio::spawn(async move { download.get(piece).await }).await? }
            })
            .try_buffer_unordered(concurrency)
            .try_fold((0, 0), |(objects, bytes), (begun, more)| async move {
                Ok((objects + u64::from(begun), bytes + more))
            })
            .await
    }

    /// Gets one piece: whether an object begins with it, and its bytes.
    async fn get(&self, piece: Piece) -> Result<(bool, u64), Failure> {
        let mut at = piece.range.as_ref().map_or(0, |range| range.start);
        let begin = at;
        let options = GetOptions {
            range: piece.range.map(GetRange::Bounded),
            ..GetOptions::default()
        };
        let mut body = self.store.get_opts(&piece.path, options).await?.into_stream();
        let (mut gathered, mut gathered_bytes) = (Vec::new(), 0);
        while let Some(bytes) = body.try_next().await? {
            gathered_bytes += bytes.len();
            gathered.push(bytes);
            if gathered_bytes >= WRITE_BYTES {
                at += self.write(&piece.path, at, std::mem::take(&mut gathered)).await?;
                gathered_bytes = 0;
            }
        }
        at += self.write(&piece.path, at, gathered).await?;
        Ok((piece.begins_object, at - begin))
    }

    /// Writes bytes to the object's file, if there are to be files; how many they are.
    async fn write(&self, path: &Path, mut at: u64, parts: Vec<Bytes>) -> Result<u64, Failure> {
        let length = parts
            .iter()
            .map(|part| u64::try_from(part.len()))
            .sum::<Result<u64, _>>()?;
        let Some(folder) = &self.folder else { return Ok(length) };
        let file = folder.join(path.as_ref());
        tokio::task::spawn_blocking(move || {
            let mut open = OpenOptions::new();
            open.write(true).create(true).truncate(false);
            let file = open.open(&file).or_else(|_| {
                std::fs::create_dir_all(file.parent().unwrap_or(&file))?;
                open.open(&file)
            })?;
            for part in parts {
                file.write_all_at(&part, at)?;
                at += u64::try_from(part.len())?;
            }
            Ok(length)
        })
        .await?
    }
}

/// The requests that an object takes.
fn pieces(object: &ObjectMeta, range_bytes: u64) -> impl Stream<Item = Result<Piece, Failure>> + use<> {
    let (path, size) = (object.location.clone(), object.size);
    let starts = (0..size.max(1)).step_by(usize::try_from(range_bytes).unwrap_or(usize::MAX));
    stream::iter(starts.map(move |start| {
        Ok(Piece {
            path: path.clone(),
            range: (size > range_bytes).then(|| start..size.min(start + range_bytes)),
            begins_object: start == 0,
        })
    }))
}

/// Makes clients that count what they send.
#[derive(Debug)]
struct Counting(Arc<AtomicU64>);

impl HttpConnector for Counting {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Counted {
            inner,
            requests: Arc::clone(&self.0),
        }))
    }
}

#[derive(Debug)]
struct Counted {
    inner: HttpClient,
    requests: Arc<AtomicU64>,
}

#[async_trait::async_trait]
impl HttpService for Counted {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.inner.execute(request).await
    }
}

/// User and system time of this process.
fn cpu_seconds() -> Result<f64, Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit_once(')').ok_or("no process name in /proc/self/stat")?.1;
    let ticks: Vec<f64> = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / CLOCK_TICKS_PER_S)
}
