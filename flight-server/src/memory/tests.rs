//! The protocol's promises, each by a test: a real node over Parquet files, its socket, and the client.

mod limits;
mod raw;

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arrow::array::{
    Array, ArrayRef, BooleanArray, FixedSizeListArray, Int32Builder, Int64Array, ListArray, MapBuilder, NullArray,
    RecordBatch, StringArray, StringBuilder, StructArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use clap::Parser;
use jetbridge_cache::export::ParquetFile;
use jetbridge_client::memory::{Client, ClientError};
use tokio::net::UnixListener;
use tokio::task::block_in_place;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::raw::{frame, get, hear, hear_stream, say};
use super::serve::{Door, serve};
use crate::cluster::{Places, Role};
use crate::config::{self, ConfigFlags, Machine};
use crate::flight::testing::do_get;
use crate::node::Node;
use crate::redeem::Sealer;
use crate::request::ScanSpec;
use crate::streams::{StreamLimits, Streams};

const PATIENCE: Duration = Duration::from_secs(30);

/// A node that serves a folder of Parquet files at `/t`, and its socket.
struct Served {
    node: Arc<Node>,
    door: Door,
    socket: PathBuf,
    folder: tempfile::TempDir,
    _stop: DropGuard,
}

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    flags: ConfigFlags,
}

async fn served(files: &[RecordBatch]) -> Served {
    served_with(files, u64::MAX, streams(64, PATIENCE)).await
}

fn streams(max_streams: usize, stall_timeout: Duration) -> Streams {
    Streams::new(StreamLimits {
        max_streams,
        stall_timeout,
    })
}

async fn served_with(files: &[RecordBatch], limit_bytes: u64, streams: Streams) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let (data, lake) = (folder.path().join("data"), folder.path().join("lake"));
    std::fs::create_dir_all(&data).unwrap();
    std::fs::create_dir_all(&lake).unwrap();
    for (number, rows) in files.iter().enumerate() {
        write(&lake.join(format!("{number}.parquet")), rows);
    }
    let mount = format!("/t={}", lake.display());
    let words = [
        "test",
        "--mount",
        &mount,
        "--memory",
        "256MiB",
        "--cache-dir",
        "none",
        "--data-dir",
    ];
    let flags = Flags::try_parse_from(words.iter().copied().chain([data.to_str().unwrap()]))
        .unwrap()
        .flags;
    let machine = Machine {
        memory_bytes: None,
        cores: 2,
    };
    let settings = config::load(&flags, [], &machine).unwrap().settings;
    let node = Arc::new(Node::open(&settings, Role::All, Places::default()).await.unwrap());
    let door = Door::with(Arc::clone(&node), limit_bytes, streams);
    let socket = folder.path().join("memory.sock");
    let stop = CancellationToken::new();
    tokio::spawn(serve(UnixListener::bind(&socket).unwrap(), door.clone(), stop.clone()));
    Served {
        node,
        door,
        socket,
        folder,
        _stop: stop.drop_guard(),
    }
}

fn write(path: &Path, rows: &RecordBatch) {
    let mut file = ParquetFile::create(std::fs::File::create(path).unwrap(), &rows.schema()).unwrap();
    file.write(rows).unwrap();
    file.finish().unwrap();
}

impl Served {
    /// Tickets of a JSON scan.
    async fn tickets(&self, scan: &str) -> Vec<Vec<u8>> {
        self.tickets_until(scan, SystemTime::now() + PATIENCE * 6).await
    }

    async fn tickets_until(&self, scan: &str, expires: SystemTime) -> Vec<Vec<u8>> {
        let spec = ScanSpec::from_json(scan.as_bytes()).unwrap();
        let plan = self.node.plan(&spec).await.unwrap();
        let sealer = Sealer::new(&self.node, &plan, &spec, expires);
        plan.runs
            .iter()
            .map(|run| sealer.seal(run, Vec::new()).unwrap().to_vec())
            .collect()
    }

    /// The one ticket of the whole table.
    async fn ticket(&self) -> Vec<u8> {
        self.tickets(r#"{"path": "/t"}"#).await.swap_remove(0)
    }

    /// Reads a ticket until its columns are kept: they are on the second touch.
    async fn warmed(&self) -> Vec<u8> {
        let ticket = self.ticket().await;
        for _ in 0..2 {
            do_get(&self.node, &ticket).await;
        }
        ticket
    }

    fn client(&self) -> Client {
        Client::connect(&self.socket).unwrap().checking_values()
    }

    /// Bytes of decoded columns in memory, whoever holds them.
    fn charged_bytes(&self) -> u64 {
        self.node.cache.usage().decoded_bytes
    }

    async fn evict_all(&self) {
        for file in self.node.cache.held_files() {
            self.node.cache.remove_file(file.key.id()).await;
        }
    }
}

/// What one read gave.
#[derive(Debug)]
struct Answer {
    batches: Vec<RecordBatch>,
    inline_bytes: u64,
    source: String,
}

fn read(client: &mut Client, ticket: &[u8]) -> Result<Answer, ClientError> {
    block_in_place(|| {
        let mut stream = client.get(ticket)?;
        let mut batches = Vec::new();
        for batch in stream.by_ref() {
            batches.push(batch?);
        }
        Ok(Answer {
            batches,
            inline_bytes: stream.inline_bytes(),
            source: stream.source().to_owned(),
        })
    })
}

fn joined(batches: &[RecordBatch]) -> RecordBatch {
    concat_batches(&batches[0].schema(), batches).unwrap()
}

fn table(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
}

/// A table of two columns; the seed is in every row.
fn rows(seed: i64, count: i64) -> RecordBatch {
    let numbers: ArrayRef = Arc::new((seed..seed + count).collect::<Int64Array>());
    let texts: ArrayRef = Arc::new(
        (0..count)
            .map(|row| Some(format!("row {}", seed + row)))
            .collect::<StringArray>(),
    );
    table(vec![("n", numbers), ("t", texts)])
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Columns of many types, with nulls.
fn all_types() -> RecordBatch {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter((0..1000).map(|i| (i % 7 > 0).then_some(i % 100))));
    let texts = (0..1000).map(|i| (i % 5 > 0).then(|| format!("text {i} {}", "é".repeat(i % 30))));
    let texts: ArrayRef = Arc::new(StringArray::from_iter(texts));
    let of = |array: &ArrayRef, to: &DataType| cast(array, to).unwrap();
    let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let few: ArrayRef = Arc::new(StringArray::from_iter(
        (0..1000).map(|i| (i % 9 > 0).then(|| format!("v{}", i % 5))),
    ));
    let mut columns: Vec<(String, ArrayRef)> = [
        DataType::Int8,
        DataType::UInt16,
        DataType::Float32,
        DataType::Boolean,
        DataType::Decimal128(20, 3),
        DataType::Decimal256(60, 3),
        DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
    ]
    .iter()
    .map(|to| (format!("{to}"), of(&numbers, to)))
    .collect();
    for to in [
        DataType::Utf8,
        DataType::LargeUtf8,
        DataType::Utf8View,
        DataType::Binary,
        DataType::BinaryView,
    ] {
        columns.push((format!("{to}"), of(&texts, &to)));
    }
    columns.push(("dictionary".to_owned(), of(&few, &dictionary)));
    columns.extend(nested(&numbers, &of(&texts, &DataType::Utf8View)));
    columns.push(("id".to_owned(), Arc::new((0..1000).collect::<Int64Array>())));
    columns.push(("null".to_owned(), Arc::new(NullArray::new(1000))));
    columns.push((
        "bool".to_owned(),
        Arc::new(BooleanArray::from_iter((0..1000).map(|i| Some(i % 3 == 0)))),
    ));
    table(
        columns
            .iter()
            .map(|(name, array)| (name.as_str(), Arc::clone(array)))
            .collect(),
    )
}

fn nested(numbers: &ArrayRef, texts: &ArrayRef) -> Vec<(String, ArrayRef)> {
    let fields = Fields::from(vec![
        Field::new("n", numbers.data_type().clone(), true),
        Field::new("t", texts.data_type().clone(), true),
    ]);
    let nulls = Some(NullBuffer::from_iter((0..1000).map(|i| i % 11 > 0)));
    let structs: ArrayRef = Arc::new(StructArray::new(
        fields,
        vec![Arc::clone(numbers), Arc::clone(texts)],
        nulls,
    ));
    let item = |array: &ArrayRef| Arc::new(Field::new("element", array.data_type().clone(), true));
    let nulls = NullBuffer::from_iter((0..1000).map(|i| i % 8 > 0));
    let offsets = OffsetBuffer::from_lengths((0..1000).map(|i| usize::from(i % 4 > 0)));
    let list = ListArray::new(item(&structs), offsets, structs.slice(0, 750), Some(nulls));
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    for row in 0..1000 {
        for entry in 0..row % 4 {
            map.keys().append_value(format!("key {entry}"));
            map.values().append_option((entry % 2 > 0).then_some(row));
        }
        map.append(row % 9 > 0 || row % 4 > 0).unwrap();
    }
    let pairs: ArrayRef = Arc::new(numbers.slice(0, 1000));
    let fixed = FixedSizeListArray::new(item(&pairs), 1, pairs, None);
    vec![
        ("struct".to_owned(), structs),
        ("list".to_owned(), Arc::new(list)),
        ("map".to_owned(), Arc::new(map.finish())),
        ("fixed list".to_owned(), Arc::new(fixed)),
    ]
}

/// Every type comes as DoGet gives it: while there is room, columns are shared from the first read. The file is small enough to
/// have come whole with its footer, so that no read asks storage.
#[tokio::test(flavor = "multi_thread")]
async fn rows_are_those_of_do_get() {
    let served = served(&[all_types()]).await;
    let ticket = served.ticket().await;
    eventually("the file", || served.node.cache.arriving_files().is_empty()).await;
    let mut client = served.client();
    for _ in 0..3 {
        let answer = read(&mut client, &ticket).unwrap();
        let expected = joined(&do_get(&served.node, &ticket).await);
        assert_eq!(answer.batches[0].schema(), expected.schema());
        assert_eq!(joined(&answer.batches), expected);
        assert_eq!((answer.inline_bytes, answer.source.as_str()), (0, "memory"));
    }
}

/// Rows that a filter left and rows that a limit cut come as DoGet gives them.
#[tokio::test(flavor = "multi_thread")]
async fn parts_of_rows_are_those_of_do_get() {
    let served = served(&[all_types()]).await;
    let mut client = served.client();
    for _ in 0..3 {
        for scan in [
            r#"{"path": "/t", "limit": 77}"#,
            r#"{"path": "/t", "filter": "id > 300 and id < 320"}"#,
            r#"{"path": "/t", "filter": "id > 2000"}"#,
            r#"{"path": "/t", "limit": 0}"#,
            r#"{"path": "/t", "columns": []}"#,
        ] {
            for ticket in served.tickets(scan).await {
                let answer = read(&mut client, &ticket).unwrap();
                let expected = do_get(&served.node, &ticket).await;
                assert_eq!(answer.batches.is_empty(), expected.is_empty(), "{scan}");
                if !expected.is_empty() {
                    assert_eq!(joined(&answer.batches), joined(&expected), "{scan}");
                }
            }
        }
    }
}

/// Buffers of whole chunks begin at multiples of 64.
#[tokio::test(flavor = "multi_thread")]
async fn shared_buffers_are_aligned() {
    let served = served(&[rows(0, 200_000)]).await;
    let ticket = served.warmed().await;
    let answer = read(&mut served.client(), &ticket).unwrap();
    assert_eq!(answer.inline_bytes, 0);
    let mut seen = 0;
    for column in answer.batches.iter().flat_map(RecordBatch::columns) {
        for buffer in column.to_data().buffers() {
            assert_eq!(buffer.as_ptr() as usize % 64, 0);
            seen += 1;
        }
    }
    assert!(seen >= 3);
}

/// What a client holds stays valid and charged when the cache evicts it, and goes when the client lets go of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_outlives_eviction_and_ends_with_the_last_array() {
    let served = served(&[rows(7, 100_000)]).await;
    let ticket = served.warmed().await;
    let mut client = served.client();
    let answer = read(&mut client, &ticket).unwrap();
    let leased_bytes = served.door.leased_bytes();
    assert!(leased_bytes > 800_000 && leased_bytes == served.charged_bytes());
    served.evict_all().await;
    assert_eq!(served.charged_bytes(), leased_bytes);
    assert_eq!(joined(&answer.batches), rows(7, 100_000));
    let one = answer.batches[0].column(0).slice(3, 1);
    drop(answer);
    eventually("the release of the other column", || {
        served.door.leased_bytes() < leased_bytes
    })
    .await;
    assert!(served.charged_bytes() >= 800_000);
    drop(one);
    eventually("the last release", || {
        served.door.leased_bytes() == 0 && served.charged_bytes() == 0
    })
    .await;
    assert_eq!(joined(&read(&mut client, &ticket).unwrap().batches), rows(7, 100_000));
}

/// Arrays outlive the client, and keep the lease until they go.
#[tokio::test(flavor = "multi_thread")]
async fn arrays_keep_the_connection() {
    let served = served(&[rows(7, 100_000)]).await;
    let ticket = served.warmed().await;
    let answer = {
        let mut client = served.client();
        read(&mut client, &ticket).unwrap()
    };
    served.evict_all().await;
    assert_eq!(joined(&answer.batches), rows(7, 100_000));
    assert!(served.door.leased_bytes() > 0);
    drop(answer);
    eventually("the end of the leases", || served.charged_bytes() == 0).await;
}

/// A connection that ends lets go of everything, whether the client said so or not; memory that is mapped stays readable.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_ends_lets_go() {
    let served = served(&[rows(7, 100_000)]).await;
    let ticket = served.warmed().await;
    let mut stream = UnixStream::connect(&served.socket).unwrap();
    say(&mut stream, &get(&ticket));
    eventually("a lease", || served.door.leased_bytes() > 0).await;
    drop(stream);
    eventually("the end of the lease", || served.door.leased_bytes() == 0).await;
}

/// A segment is handed over once a connection while it is held, and anew after it was released.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_is_not_handed_over_again() {
    let served = served(&[rows(7, 1_000)]).await;
    let ticket = served.warmed().await;
    let mut stream = UnixStream::connect(&served.socket).unwrap();
    let mut ids = |release: &str| {
        if !release.is_empty() {
            say(&mut stream, release);
        }
        say(&mut stream, &get(&ticket));
        let headers = block_in_place(|| hear_stream(&mut stream));
        let count = headers
            .iter()
            .filter(|header| header.starts_with(r#"{"segments""#))
            .count();
        assert!(headers.last().unwrap().starts_with(r#"{"end""#), "{headers:?}");
        count
    };
    assert_eq!(ids(""), 1);
    assert_eq!(ids(""), 0, "both segments are held");
    assert_eq!(ids(r#"{"release":[1]}"#), 1);
    assert_eq!(ids(r#"{"release":[1, 77]}"#), 0, "1 was not used again");
    assert_eq!(ids(r#"{"release":[2, 3]}"#), 1);
}

/// While a stream goes on, what its rest does not use can be let go of; dropping the stream ends the reading, and the next works.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_stream_does_not_pile_up_leases() {
    let files: Vec<RecordBatch> = (0..8).map(|file| rows(file * 50_000, 50_000)).collect();
    let served = served(&files).await;
    let ticket = served.warmed().await;
    let all = served.charged_bytes();
    let mut client = served.client();
    block_in_place(|| {
        let (mut count, begun) = (0, Instant::now());
        let mut stream = client.get(&ticket).unwrap();
        while count < 350_000 {
            count += stream.next().unwrap().unwrap().num_rows();
        }
        assert_eq!(stream.inline_bytes(), 0);
        while served.door.leased_bytes() > all / 2 {
            assert!(begun.elapsed() < PATIENCE, "{} of {all}", served.door.leased_bytes());
            std::thread::yield_now();
        }
    });
    let answer = read(&mut client, &ticket).unwrap();
    assert_eq!(joined(&answer.batches).num_rows(), 400_000);
    drop(answer);
    eventually("the end of the leases", || served.door.leased_bytes() == 0).await;
}

/// Beyond the limit of all leases, rows come as bytes.
#[tokio::test(flavor = "multi_thread")]
async fn over_the_limit_of_leases_rows_come_inline() {
    for (limit_bytes, shares) in [(0, false), (900_000, true)] {
        let served = served_with(&[rows(7, 100_000)], limit_bytes, streams(64, PATIENCE)).await;
        let ticket = served.warmed().await;
        let (mut client, mut other) = (served.client(), served.client());
        let answers = [read(&mut client, &ticket).unwrap(), read(&mut other, &ticket).unwrap()];
        for answer in &answers {
            assert!(answer.inline_bytes > 1_000_000, "the texts do not fit");
            assert_eq!(joined(&answer.batches), rows(7, 100_000));
        }
        assert_eq!(served.door.leased_bytes(), if shares { 800_000 } else { 0 });
    }
}

/// A ticket that is not ours, was altered or is too old ends the stream, and the connection goes on.
#[tokio::test(flavor = "multi_thread")]
async fn tickets_are_checked() {
    let served = served(&[rows(7, 10)]).await;
    let good = served.ticket().await;
    let past = SystemTime::now() - Duration::from_secs(1);
    let expired = served.tickets_until(r#"{"path": "/t"}"#, past).await.swap_remove(0);
    let mut altered = good.clone();
    *altered.last_mut().unwrap() ^= 1;
    let mut client = served.client();
    for ticket in [&expired[..], &altered, b"", b"forged"] {
        let error = read(&mut client, ticket).unwrap_err();
        let ClientError::Refused { code, code_name, .. } = error else {
            panic!("{error}");
        };
        assert_eq!((code, code_name.as_str()), (16, "UNAUTHENTICATED"));
    }
    assert_eq!(joined(&read(&mut client, &good).unwrap().batches), rows(7, 10));
}

/// A file that was replaced since fails the read as DoGet does, and the connection goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changed_is_stale() {
    let served = served(&[rows(7, 200_000)]).await;
    let ticket = served.ticket().await;
    write(&served.folder.path().join("lake/0.parquet"), &rows(8, 20));
    let mut client = served.client();
    let error = read(&mut client, &ticket).unwrap_err();
    assert!(
        matches!(&error, ClientError::Refused { code: 10, .. }) && error.to_string().contains("STALE"),
        "{error}"
    );
    let ticket = served.ticket().await;
    assert_eq!(joined(&read(&mut client, &ticket).unwrap().batches), rows(8, 20));
}

/// What cannot be understood is an error in words, and the end of the connection; the server lives on.
#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_refused() {
    let served = served(&[rows(7, 10)]).await;
    let framed = |text: &str| frame(text.as_bytes(), 0);
    let cases = [
        (vec![0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0], "4294967295"),
        (frame(b"{}", 4), "inline"),
        (framed("{}"), "nothing known"),
        (framed("no json"), "nothing known"),
        (framed(r#"{"fetch": {}}"#), "`fetch`"),
        (framed(r#"{"get": {"ticket": "AAAA", "columns": []}}"#), "`columns`"),
        (framed(r#"{"get": {"ticket": "?"}}"#), "base64"),
        (framed(r#"{"release": [1.5]}"#), "nothing known"),
        (frame(&[0xff, 0xfe, 0x00], 0), "nothing known"),
    ];
    for (bytes, expected) in cases {
        let mut stream = UnixStream::connect(&served.socket).unwrap();
        stream.write_all(&bytes).unwrap();
        block_in_place(|| {
            let header = hear(&mut stream).unwrap();
            assert!(
                header.contains(r#""code":3,"code_name":"INVALID_ARGUMENT""#),
                "{header}"
            );
            assert!(header.contains(expected), "{header}");
            assert!(hear(&mut stream).is_none(), "the connection is closed");
        });
    }
    for cut in 1..20 {
        let mut stream = UnixStream::connect(&served.socket).unwrap();
        stream.write_all(&framed(r#"{"release": []}"#)[..cut]).unwrap();
    }
    let ticket = served.ticket().await;
    assert_eq!(
        joined(&read(&mut served.client(), &ticket).unwrap().batches),
        rows(7, 10)
    );
}

/// The schema is byte by byte the one of FlightInfo.
#[test]
fn the_schema_is_that_of_flight_info() {
    let schema = all_types().schema();
    let message = super::wire::schema_message(&schema).unwrap();
    assert_eq!(message, crate::flight::schema_bytes(&schema).unwrap());
}

/// The deepest schema that is read can be described.
#[test]
fn the_deepest_schema_can_be_described() {
    let mut array: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    for _ in 0..60 {
        let field = Arc::new(Field::new("f", array.data_type().clone(), true));
        array = Arc::new(StructArray::from(vec![(field, array)]));
    }
    let described = super::describe::describe(&table(vec![("c", array)]), |_| None);
    let header = super::wire::Answer::Batch(super::wire::Batch {
        index: 0,
        rows: 1,
        source: "memory".to_owned(),
        columns: described.columns,
        done: Vec::new(),
    });
    let text = serde_json::to_string(&header).unwrap();
    assert_eq!(serde_json::from_str::<super::wire::Answer>(&text).unwrap(), header);
}
