//! Reads a path's rows as a program on the server's host does that computes: all of them as shared memory, then every value
//! summed. `make bench` sets it against pyarrow's readers.
//!
//! `cargo run --release --workspace --example memory_read -- grpc://HOST:PORT PATH` reads once for each line that comes on its
//! input, and prints a line of JSON for each read, times from the read's begin:
//! `{"planned_ms": 2.0, "handed_over_ms": 20.5, "summed_ms": 180.1, "batches": 672, "rows": 6001215, "inline_bytes": 0,
//! "sums": {"l_orderkey": 18005322964949}}`. Handed over: all batches are there, their values not looked at.

mod sums;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{FlightClient, FlightDescriptor, FlightInfo};
use jetbridge_client::memory::Client;
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;
use tonic::transport::Endpoint;
use url::Url;

/// Connections that hand over at once. The server describes batches of one while the client maps those of another.
const CONNECTIONS: usize = 2;

type Failure = Box<dyn Error + Send + Sync>;

/// What is printed of one read.
#[derive(Serialize)]
struct Read {
    planned_ms: f64,
    handed_over_ms: f64,
    summed_ms: f64,
    batches: usize,
    rows: usize,
    inline_bytes: u64,
    sums: BTreeMap<String, i64>,
}

/// What an endpoint says of itself, as far as it matters here.
#[derive(Deserialize)]
struct Offered {
    memory: Option<String>,
}

/// The rows of one endpoint, and how many of their bytes came over the socket.
struct Part {
    endpoint: usize,
    batches: Vec<RecordBatch>,
    inline_bytes: u64,
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let (Some(uri), Some(path)) = (arguments.next(), arguments.next()) else {
        return Err("usage: memory_read grpc://HOST:PORT PATH".into());
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for line in std::io::stdin().lines() {
        line?;
        println!("{}", serde_json::to_string(&read(&runtime, &uri, &path)?)?);
    }
    Ok(())
}

fn read(runtime: &Runtime, uri: &str, path: &str) -> Result<Read, Failure> {
    let began = Instant::now();
    let info = runtime.block_on(planned(uri, path))?;
    let planned_ms = milliseconds(began);
    let parts = handed_over(&info)?;
    let handed_over_ms = milliseconds(began);
    let batches: Vec<_> = parts.iter().flat_map(|part| &part.batches).collect();
    let sums = sums::of(&batches)?;
    Ok(Read {
        planned_ms,
        handed_over_ms,
        summed_ms: milliseconds(began),
        batches: batches.len(),
        rows: batches.iter().map(|batch| batch.num_rows()).sum(),
        inline_bytes: parts.iter().map(|part| part.inline_bytes).sum(),
        sums,
    })
}

fn milliseconds(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e3
}

/// What is to be read, and where.
async fn planned(uri: &str, path: &str) -> Result<FlightInfo, Failure> {
    let channel = Endpoint::from_shared(uri.replace("grpc://", "http://"))?
        .connect()
        .await?;
    let mut client = FlightClient::new_from_inner(FlightServiceClient::new(channel));
    client.add_header("x-jetbridge-local", "memory")?;
    let names = path.split('/').filter(|name| !name.is_empty()).map(str::to_owned);
    Ok(client
        .get_flight_info(FlightDescriptor::new_path(names.collect()))
        .await?)
}

/// All endpoints in order, fetched over [`CONNECTIONS`] connections that take them in turn.
fn handed_over(info: &FlightInfo) -> Result<Vec<Part>, Failure> {
    let Some(first) = info.endpoint.first() else {
        return Ok(Vec::new());
    };
    let socket = socket(&first.app_metadata)?;
    let next = AtomicUsize::new(0);
    let mut parts = thread::scope(|scope| {
        let fetching: Vec<_> = (0..CONNECTIONS)
            .map(|_| scope.spawn(|| fetched(&socket, info, &next)))
            .collect();
        let mut parts = Vec::with_capacity(info.endpoint.len());
        for thread in fetching {
            parts.extend(thread.join().map_err(|_| "a thread that fetched panicked")??);
        }
        Ok::<_, Failure>(parts)
    })?;
    parts.sort_by_key(|part| part.endpoint);
    Ok(parts)
}

/// The endpoints that nobody else has taken.
fn fetched(socket: &Path, info: &FlightInfo, next: &AtomicUsize) -> Result<Vec<Part>, Failure> {
    let mut client = Client::connect(socket)?;
    let mut parts = Vec::new();
    loop {
        let endpoint = next.fetch_add(1, Ordering::Relaxed);
        let Some(ticket) = info.endpoint.get(endpoint).and_then(|one| one.ticket.as_ref()) else {
            return Ok(parts);
        };
        let mut stream = client.get(&ticket.ticket)?;
        let batches = stream.by_ref().collect::<Result<_, _>>()?;
        parts.push(Part {
            endpoint,
            batches,
            inline_bytes: stream.inline_bytes(),
        });
    }
}

/// The socket's path, out of an endpoint's metadata.
fn socket(app_metadata: &[u8]) -> Result<PathBuf, Failure> {
    let offered: Offered = serde_json::from_slice(app_metadata)?;
    let uri = offered
        .memory
        .ok_or("the server offers no shared memory to this client")?;
    let as_file = Url::parse(&uri.replacen("unix://", "file://", 1))?;
    as_file
        .to_file_path()
        .map_err(|()| format!("{uri} is no path of this host").into())
}
