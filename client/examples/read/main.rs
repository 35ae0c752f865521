//! Reads a path with the client, sums every column, and prints what it took: for the benchmark, and to try a cluster.
//!
//! `cargo run --release -p jetbridge-client --example read -- grpc://HOST:PORT PATH [--ordered] [--keep] [--touch-nothing]
//! [--columns a,b] [--wire arrow|lz4|zstd] [--network] [--streams N] [--repeat N] [--check-values]` prints a line of JSON for each
//! read: `{"seconds": 0.41, "planned_seconds": 0.002, "rows": 6001215, "batches": 672, "bytes": 1260000000, "received_bytes": 0,
//! "cpu_seconds": 0.5, "peak_rss_bytes": 300000000, "failovers": 0, "served_by": {...}, "sums": {"l_orderkey": 18005322964949}}`.
//! Batches are summed as they come and dropped; with `--keep` all of them are held first, as for a table.

#[path = "../memory_read/sums.rs"]
mod sums;

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Instant;

use arrow::array::RecordBatch;
use futures::StreamExt;
use jetbridge_client::{Client, ClientOptions, Local, ReadOptions, Scan, Wire};
use serde::Serialize;

type Failure = Box<dyn Error + Send + Sync>;

/// What is asked for.
struct Wanted {
    uri: String,
    scan: Scan,
    options: ClientOptions,
    ordered: bool,
    keep: bool,
    touch: bool,
    repeat: usize,
}

/// What is printed of one read.
#[derive(Serialize)]
struct Read {
    seconds: f64,
    planned_seconds: f64,
    rows: u64,
    batches: usize,
    bytes: u64,
    received_bytes: u64,
    cpu_seconds: f64,
    peak_rss_bytes: u64,
    failovers: u64,
    served_by: BTreeMap<String, u64>,
    sums: BTreeMap<String, i64>,
}

fn main() -> Result<(), Failure> {
    let wanted = wanted(std::env::args().skip(1))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let client = Client::new(&wanted.uri, wanted.options.clone())?;
    for _ in 0..wanted.repeat {
        println!("{}", serde_json::to_string(&runtime.block_on(read(&client, &wanted))?)?);
    }
    Ok(())
}

fn wanted(mut words: impl Iterator<Item = String>) -> Result<Wanted, Failure> {
    let (Some(uri), Some(path)) = (words.next(), words.next()) else {
        return Err("usage: read grpc://HOST:PORT PATH [words]".into());
    };
    let mut wanted = Wanted {
        uri,
        scan: Scan::of(path),
        options: ClientOptions::default(),
        ordered: false,
        keep: false,
        touch: true,
        repeat: 1,
    };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} takes a value"));
        match word.as_str() {
            "--ordered" => wanted.ordered = true,
            "--keep" => wanted.keep = true,
            "--touch-nothing" => wanted.touch = false,
            "--network" => wanted.options.local = Local::Off,
            "--check-values" => wanted.options.check_values = true,
            "--columns" => wanted.scan.columns = Some(value()?.split(',').map(str::to_owned).collect()),
            "--streams" => wanted.options.streams_per_worker = value()?.parse()?,
            "--repeat" => wanted.repeat = value()?.parse()?,
            "--wire" => {
                let name = value()?;
                let forms = [Wire::Arrow, Wire::Lz4, Wire::Zstd].into_iter();
                let form = forms.into_iter().find(|form| form.as_str() == Some(name.as_str()));
                wanted.options.wire = form.ok_or_else(|| format!("no form is called {name}"))?;
            }
            _ => return Err(format!("{word} is not known").into()),
        }
    }
    Ok(wanted)
}

async fn read(client: &Client, wanted: &Wanted) -> Result<Read, Failure> {
    let (began, cpu_before) = (Instant::now(), cpu_seconds()?);
    let plan = client.plan(&wanted.scan).await?;
    let planned_seconds = began.elapsed().as_secs_f64();
    let options = ReadOptions {
        ordered: wanted.ordered,
        ..ReadOptions::default()
    };
    let mut reader = client.read(&plan, options);
    let (mut batches, mut kept, mut totals) = (0, Vec::new(), BTreeMap::<String, i64>::new());
    let mut add = |batches: &[&RecordBatch]| {
        for (column, sum) in sums::of(batches)? {
            *totals.entry(column).or_default() += sum;
        }
        Ok::<_, Failure>(())
    };
    while let Some(piece) = reader.next().await {
        let batch = piece?.batch;
        batches += 1;
        if wanted.keep {
            kept.push(batch);
        } else if wanted.touch {
            add(&[&batch])?;
        }
    }
    if wanted.touch {
        add(&kept.iter().collect::<Vec<_>>())?;
    }
    let stats = reader.stats();
    Ok(Read {
        seconds: began.elapsed().as_secs_f64(),
        planned_seconds,
        rows: stats.rows,
        batches,
        bytes: stats.bytes,
        received_bytes: stats.received_bytes,
        cpu_seconds: cpu_seconds()? - cpu_before,
        peak_rss_bytes: peak_rss_bytes()?,
        failovers: stats.failovers,
        served_by: stats.served_by,
        sums: totals,
    })
}

/// Of this process, user and system.
fn cpu_seconds() -> Result<f64, Failure> {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The second field is a name in parentheses, which may hold anything.
    let (_, fields) = stat.rsplit_once(')').ok_or("no CPU time is known")?;
    let times = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    Ok(times.sum::<Result<f64, _>>()? / TICKS_PER_SECOND)
}

fn peak_rss_bytes() -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes: u64 = line
        .and_then(|line| line.split_whitespace().next())
        .ok_or("no peak is known")?
        .parse()?;
    Ok(kibibytes * 1024)
}
