//! The client against real processes: the same rows over each way in, and with a worker killed in mid-read.

#![expect(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod process;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Int64Type, SchemaRef};
use bytes::Bytes;
use futures::StreamExt;
use jetbridge_cache::export::ParquetFile;
use jetbridge_client::{
    Client, ClientOptions, ErrorKind, Local, ReadOptions, Scan, Source, Unpack, UnpackError, Unpacked, Wire,
};
use jetbridge_flight_server::raw::RawRows;
use serde_json::json;

use self::process::{Process, until};

const FILES: i64 = 24;
const ROWS: i64 = 60_000;

/// Files of a dataset, whose rows are numbered over all of them, and have texts.
fn write_files(folder: &Path, rows: i64) {
    for file in 0..FILES {
        let from = file * rows;
        let numbers: Int64Array = (from..from + rows).collect();
        let texts: StringArray = (from..from + rows).map(|row| Some(format!("row {row}"))).collect();
        let columns = [("n", Arc::new(numbers) as _), ("text", Arc::new(texts) as _)];
        let rows = RecordBatch::try_from_iter(columns).unwrap();
        let sink = std::fs::File::create(folder.join(format!("{file:03}.parquet"))).unwrap();
        let mut parquet = ParquetFile::create(sink, &rows.schema()).unwrap();
        parquet.write(&rows).unwrap();
        parquet.finish().unwrap();
    }
}

fn numbers(batch: &RecordBatch) -> Vec<i64> {
    let (numbers, texts) = (batch.column(0).as_primitive::<Int64Type>(), batch.column(1));
    let texts = arrow::compute::cast(texts, &arrow::datatypes::DataType::Utf8).unwrap();
    for (number, text) in numbers.values().iter().zip(texts.as_string::<i32>()) {
        assert_eq!(text.unwrap(), format!("row {number}"));
    }
    numbers.values().to_vec()
}

/// What reads row groups that come as they are stored.
fn unpack(
    file: Bytes,
    schema: &SchemaRef,
    constants: &[(String, ArrayRef)],
    memory_bytes: u64,
) -> Result<Unpacked, UnpackError> {
    let rows = RawRows::open(file, schema, constants, memory_bytes)?;
    Ok(Box::new(rows.map(|batch| batch.map_err(UnpackError::from))))
}

struct Lake {
    folder: tempfile::TempDir,
}

impl Lake {
    /// With so many rows in each file.
    fn new(rows: i64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("t")).unwrap();
        write_files(&folder.path().join("t"), rows);
        Self { folder }
    }

    fn process(&self, role: &str, name: &str, more: &[&str]) -> Process {
        Process::start(role, &self.folder.path().join(name), more)
    }

    fn mount(&self) -> String {
        format!("/lake=file://{}", self.folder.path().display())
    }
}

/// A read of all rows in order; gives how often each place served, and the sources.
async fn read_all(client: &Client) -> (BTreeMap<String, u64>, Vec<Source>) {
    let plan = client.plan(&Scan::of("/lake/t")).await.unwrap();
    assert_eq!(plan.rows, Some(u64::try_from(FILES * ROWS).unwrap()));
    let options = ReadOptions {
        ordered: true,
        ..ReadOptions::default()
    };
    let mut reader = client.read(&plan, options);
    let (mut next, mut sources) = (0, Vec::new());
    while let Some(piece) = reader.next().await {
        let piece = piece.unwrap();
        for number in numbers(&piece.batch) {
            assert_eq!(number, next);
            next += 1;
        }
        sources.push(piece.source);
    }
    assert_eq!(next, FILES * ROWS);
    (reader.stats().served_by, sources)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_rows_come_over_each_way_in_and_in_each_form() {
    let lake = Lake::new(ROWS);
    let server = lake.process("serve", "server", &["--mount", &lake.mount(), "--memory", "512MiB"]);
    let client = |options| Client::new(&server.uri, options).unwrap();
    let network = ClientOptions {
        local: Local::Off,
        ..ClientOptions::default()
    };
    let reads = Some(Unpack::new(unpack));
    for (wire, unpack) in [
        (Wire::Raw, reads),
        (Wire::Auto, reads),
        (Wire::Auto, reads),
        (Wire::Auto, None),
        (Wire::Arrow, None),
        (Wire::Lz4, None),
        (Wire::Zstd, reads),
    ] {
        let options = ClientOptions {
            wire,
            unpack,
            check_values: wire == Wire::Arrow,
            ..network.clone()
        };
        let (places, _) = read_all(&client(options)).await;
        assert!(places.keys().all(|place| *place == server.uri), "{places:?}");
    }
    let local = client(ClientOptions::default());
    let (places, sources) = read_all(&local).await;
    assert!(places.keys().all(|place| place.ends_with("/memory.sock")), "{places:?}");
    assert!(sources.iter().all(|source| *source == Source::Memory), "{sources:?}");
    // Arrays outlive the client, and its connections.
    let plan = local.plan(&Scan::of("/lake/t")).await.unwrap();
    let mut reader = local.read(&plan, ReadOptions::default());
    let piece = reader.next().await.unwrap().unwrap();
    drop((reader, local));
    assert!(!numbers(&piece.batch).is_empty());
    // Without the socket of shared memory the other one serves, without a word.
    let folder = lake.folder.path().join("server");
    std::fs::rename(folder.join("memory.sock"), folder.join("gone.sock")).unwrap();
    let (places, _) = read_all(&client(ClientOptions::default())).await;
    assert!(places.keys().all(|place| place.ends_with("/flight.sock")), "{places:?}");
    std::fs::rename(folder.join("flight.sock"), folder.join("gone-too.sock")).unwrap();
    let (places, _) = read_all(&client(ClientOptions::default())).await;
    assert!(places.keys().all(|place| *place == server.uri), "{places:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_and_errors_are_the_servers() {
    let lake = Lake::new(ROWS);
    let server = lake.process("serve", "server", &["--mount", &lake.mount()]);
    let client = Client::new(&server.uri, ClientOptions::default()).unwrap();
    let mounts = client.action("mount.list", &json!({})).await.unwrap();
    assert!(mounts[0].to_string().contains("/lake"), "{mounts:?}");
    let listed = client.list("").await.unwrap();
    assert_eq!(
        listed.iter().map(|dataset| dataset.path.as_str()).collect::<Vec<_>>(),
        ["/lake/t"]
    );
    let scan = Scan {
        columns: Some(vec!["n".to_owned()]),
        filter: Some("n < 70000 and n % 10000 = 1".to_owned()),
        ..Scan::of("/lake/t")
    };
    assert_eq!(client.schema(&scan).await.unwrap().fields().len(), 1);
    let plan = client.plan(&scan).await.unwrap();
    let pieces = client
        .read(&plan, ReadOptions::default())
        .map(|piece| piece.unwrap().batch.num_rows());
    assert_eq!(pieces.fold(0, async |sum, rows| sum + rows).await, 7);
    let without_columns = Scan {
        columns: Some(Vec::new()),
        ..Scan::of("/lake/t")
    };
    for local in [Local::Auto, Local::Off] {
        let client = Client::new(
            &server.uri,
            ClientOptions {
                local,
                ..ClientOptions::default()
            },
        )
        .unwrap();
        let plan = client.plan(&without_columns).await.unwrap();
        let pieces = client
            .read(&plan, ReadOptions::default())
            .map(|piece| piece.unwrap().batch.num_rows());
        let rows = pieces.fold(0, async |sum, rows| sum + rows).await;
        assert_eq!(i64::try_from(rows).unwrap(), FILES * ROWS);
    }
    for (scan, kind) in [
        (Scan::of("/lake/nothing"), ErrorKind::NotFound),
        (
            Scan {
                columns: Some(vec!["m".to_owned()]),
                ..Scan::of("/lake/t")
            },
            ErrorKind::InvalidArgument,
        ),
    ] {
        assert_eq!(client.plan(&scan).await.unwrap_err().kind(), kind);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_change_under_a_reader_are_stale_and_not_tried_elsewhere() {
    let lake = Lake::new(ROWS);
    let server = lake.process("serve", "server", &["--mount", &lake.mount()]);
    let client = Client::new(&server.uri, ClientOptions::default()).unwrap();
    let plan = client.plan(&Scan::of("/lake/t")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    write_files(&lake.folder.path().join("t"), ROWS);
    let network = ClientOptions {
        local: Local::Off,
        ..ClientOptions::default()
    };
    let fresh = Client::new(&server.uri, network).unwrap();
    let mut reader = fresh.read(&plan, ReadOptions::default());
    let outcome = loop {
        match reader.next().await {
            Some(Ok(_)) => {}
            other => break other,
        }
    };
    let error = outcome.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stale, "{error}");
    assert_eq!(reader.stats().failovers, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_in_mid_read_costs_no_row() {
    // More for each worker than its connections hold ahead of the client.
    const MANY: i64 = 400_000;
    for local in [Local::Off, Local::Auto] {
        let lake = Lake::new(MANY);
        let coordinator = lake.process("coordinator", "coordinator", &["--mount", &lake.mount()]);
        let joined = ["--coordinator", &coordinator.uri, "--memory", "256MiB"];
        let mut workers: Vec<_> = (0..3)
            .map(|n| lake.process("worker", &format!("worker-{n}"), &joined))
            .collect();
        let options = ClientOptions {
            local,
            // Little is ahead of what is taken, so that streams break in the middle.
            budget_bytes: 256 << 10,
            ..ClientOptions::default()
        };
        let client = Client::new(&coordinator.uri, options).unwrap();
        until("three workers have seats", async || {
            let members = client.action("cluster.members", &json!({})).await.unwrap();
            let members = members[0]["members"].as_array().unwrap().clone();
            members.iter().filter(|member| member["seat"] == true).count() == 3
        })
        .await;
        // The files are ours, and so is the order.
        let plan = client.plan(&Scan::of("/lake/t")).await.unwrap();
        let mut reader = client.read(&plan, ReadOptions::default());
        let mut rows = Vec::new();
        while let Some(piece) = reader.next().await {
            rows.extend_from_slice(piece.unwrap().batch.column(0).as_primitive::<Int64Type>().values());
            if rows.len() > 100_000
                && let Some(worker) = (workers.len() == 3).then(|| workers.remove(0))
            {
                worker.kill();
            }
        }
        rows.sort_unstable();
        assert!(rows.iter().copied().eq(0..FILES * MANY), "{} rows", rows.len());
        assert!(reader.stats().failovers > 0, "{:?}", reader.stats());
    }
}
