//! Row groups, from messages that a test makes to the rows that a reader of fake files makes of them.

use std::convert::Infallible;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, LargeBinaryArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type};
use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::utils::batches_to_flight_data;
use arrow_flight::{FlightData, IpcMessage, SchemaAsIpc};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use http::HeaderMap;
use http_body::Frame;
use http_body_util::StreamBody;
use prost::Message;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tonic::body::Body;

use super::*;
use crate::budget::Budget;
use crate::pool::Pool;
use crate::reader::Source;
use crate::unpack::{UnpackError, Unpacked};

const LONG: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_millis(50);
const PLENTY: u64 = 1 << 30;

/// What stands in a fake file: the rows `from..to` in batches of `each`, and what comes after them.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Fake {
    from: i64,
    to: i64,
    each: usize,
    then: Then,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Then {
    End,
    Fail,
    Panic,
    /// Batches without rows, for ever.
    Nothing,
    /// An error that says what large pages may take.
    Memory,
}

/// Readers of `Then::Nothing` that were let go of.
static LET_GO: AtomicBool = AtomicBool::new(false);

struct Told;

type Made = std::result::Result<RecordBatch, UnpackError>;

impl Drop for Told {
    fn drop(&mut self) {
        LET_GO.store(true, Ordering::SeqCst);
    }
}

impl Fake {
    fn rows(from: i64, to: i64) -> Self {
        Self {
            from,
            to,
            each: 10,
            then: Then::End,
        }
    }

    fn then(self, then: Then) -> Self {
        Self { then, ..self }
    }
}

fn schema() -> SchemaRef {
    let fields = vec![
        Field::new("n", DataType::Int64, false),
        Field::new("kind", DataType::Utf8, true),
    ];
    Arc::new(Schema::new(fields))
}

fn unpack(
    file: Bytes,
    schema: &SchemaRef,
    constants: &[(String, ArrayRef)],
    memory_bytes: u64,
) -> std::result::Result<Unpacked, UnpackError> {
    let fake: Fake = serde_json::from_slice(&file)?;
    let mut kind = None;
    for (name, value) in constants {
        assert_eq!((name.as_str(), value.len()), ("kind", 1));
        let value = cast(value, &DataType::Utf8)?;
        kind = value.is_valid(0).then(|| value.as_string::<i32>().value(0).to_owned());
    }
    let (made_of, empty) = (Arc::clone(schema), RecordBatch::new_empty(Arc::clone(schema)));
    let starts = (fake.from..fake.to).step_by(fake.each);
    let rows = starts.map(move |from| {
        let end = fake.to.min(from + i64::try_from(fake.each).unwrap());
        let numbers: Int64Array = (from..end).collect();
        let kinds: StringArray = (from..end).map(|_| kind.as_deref()).collect();
        let columns: Vec<ArrayRef> = vec![Arc::new(numbers), Arc::new(kinds)];
        RecordBatch::try_new(Arc::clone(&made_of), columns).map_err(UnpackError::from)
    });
    let told = match fake.then {
        Then::Nothing => Some(Told),
        _ => None,
    };
    let end = std::iter::from_fn(move || -> Option<Made> {
        match (fake.then, &told) {
            (Then::End, _) => None,
            (Then::Fail, _) => Some(Err("a page that does not check".into())),
            (Then::Panic, _) => panic!("out of its depth"),
            (Then::Nothing, _) => Some(Ok(empty.clone())),
            (Then::Memory, _) => Some(Err(format!("pages may take {memory_bytes} bytes").into())),
        }
    });
    Ok(Box::new(rows.chain(end)))
}

/// The stream's own schema.
fn stream_schema(rows: &Schema) -> Schema {
    let message: IpcMessage = SchemaAsIpc::new(rows, &IpcWriteOptions::default()).try_into().unwrap();
    let metadata = [
        ("jetbridge.wire".to_owned(), "raw".to_owned()),
        ("jetbridge.schema".to_owned(), BASE64.encode(message.0)),
    ];
    let column = Field::new("parquet", DataType::LargeBinary, false);
    Schema::new_with_metadata(vec![column], metadata.into())
}

fn framed(data: &FlightData) -> Frame<Bytes> {
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(u32::try_from(data.encoded_len()).unwrap());
    data.encode(&mut message).unwrap();
    Frame::data(message.freeze())
}

fn begin(rows: &Schema) -> Frame<Bytes> {
    let messages = batches_to_flight_data(&stream_schema(rows), Vec::new()).unwrap();
    framed(&messages[0])
}

/// The message of a row group that is said to be this.
fn said(fake: Fake, about: &Value) -> Frame<Bytes> {
    let file = serde_json::to_vec(&fake).unwrap();
    let schema = stream_schema(&schema());
    let column = LargeBinaryArray::from_vec(vec![file.as_slice()]);
    let batch = RecordBatch::try_new(Arc::new(schema.clone()), vec![Arc::new(column)]).unwrap();
    let mut message = batches_to_flight_data(&schema, vec![batch]).unwrap().remove(1);
    message.app_metadata = about.to_string().into();
    framed(&message)
}

fn group(fake: Fake) -> Frame<Bytes> {
    said(
        fake,
        &json!({"batch": 0, "source": "disk", "file": "/lake/t.parquet", "row_group": 3, "rows": fake.to - fake.from,
            "constants": {"kind": "a b"}}),
    )
}

fn end(status: &str) -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.parse().unwrap());
    Frame::trailers(trailers)
}

/// A whole answer of these row groups.
fn answer(fakes: &[Fake]) -> Vec<Frame<Bytes>> {
    let groups = fakes.iter().map(|fake| group(*fake));
    [begin(&schema())].into_iter().chain(groups).chain([end("0")]).collect()
}

struct Reading {
    files: Files,
    messages: Messages,
    turn: Turn,
}

impl Reading {
    fn of(frames: Vec<Frame<Bytes>>, groups: usize, budget: &Arc<Budget>) -> Self {
        let unpacking = Unpacking {
            unpack: Unpack::new(unpack),
            cores: 2,
            groups,
        };
        let frames = stream::iter(frames.into_iter().map(Ok::<_, Infallible>));
        Self {
            files: Files::new(unpacking, schema(), budget.limit_bytes()),
            messages: Messages::new(Body::new(StreamBody::new(frames)), Pool::new(1 << 20), Some(LONG)),
            turn: Turn {
                budget: Arc::clone(budget),
                position: 0,
            },
        }
    }

    async fn next(&mut self) -> Result<Option<Received>> {
        let next = self.files.next(&mut self.messages, &self.turn);
        tokio::time::timeout(LONG, next).await.expect("it takes too long")
    }

    /// The numbers that are left, up to the end or to an error.
    async fn drained(&mut self) -> (Vec<i64>, Option<Error>) {
        let mut numbers = Vec::new();
        loop {
            match self.next().await {
                Ok(Some(received)) => numbers.extend(checked(&received)),
                Ok(None) => return (numbers, None),
                Err(error) => return (numbers, Some(error)),
            }
        }
    }
}

/// The numbers of rows that must have come as they were said.
fn checked(received: &Received) -> Vec<i64> {
    assert_eq!((received.source, received.batch.schema()), (Source::Disk, schema()));
    assert_eq!(received.bytes, crate::flight::bytes_of(&received.batch));
    let kinds = received.batch.column(1).as_string::<i32>();
    assert!(kinds.iter().all(|kind| kind == Some("a b")));
    received.batch.column(0).as_primitive::<Int64Type>().values().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn row_groups_come_in_their_order_and_leave_nothing_taken() {
    let sizes = [40, 7, 1000, 1, 64, 300];
    let mut from = 0;
    let fakes = sizes.map(|rows| {
        from += rows;
        Fake::rows(from - rows, from)
    });
    for groups in 1..=4 {
        // The least of them has room for one message at a time.
        for (budget_bytes, in_order) in [(PLENTY, true), (PLENTY, false), (1, true), (1, false), (40_000, true)] {
            let budget = Budget::new(budget_bytes, in_order);
            let mut reading = Reading::of(answer(&fakes), groups, &budget);
            let (numbers, error) = reading.drained().await;
            assert!(error.is_none(), "{error:?}");
            assert_eq!(numbers, (0..from).collect::<Vec<_>>());
            assert!(reading.next().await.unwrap().is_none(), "the end stays the end");
            assert_eq!(budget.taken_bytes(), 0);
        }
    }
}

#[tokio::test]
async fn one_thread_is_enough_and_a_partition_may_be_null_or_a_number() {
    for (constant, kind) in [(json!(null), None), (json!(-7), Some("-7"))] {
        let about = json!({"file": "/f", "row_group": 0, "rows": 3, "constants": {"kind": constant}});
        let frames = vec![begin(&schema()), said(Fake::rows(0, 3), &about), end("0")];
        let mut reading = Reading::of(frames, 2, &Budget::new(PLENTY, false));
        let received = reading.next().await.unwrap().unwrap();
        assert_eq!(received.source, Source::Store, "a server that says nothing");
        let kinds = received.batch.column(1).as_string::<i32>();
        assert!(kinds.iter().all(|found| found == kind), "{kinds:?}");
        assert!(reading.next().await.unwrap().is_none());
    }
}

#[tokio::test]
async fn what_came_from_another_node_counts_as_from_the_store() {
    for (source, peer) in [("store", Some(true)), ("peer", None)] {
        let about = json!({"source": source, "peer": peer, "file": "/f", "row_group": 0, "rows": 3});
        let frames = vec![begin(&schema()), said(Fake::rows(0, 3), &about), end("0")];
        let mut reading = Reading::of(frames, 2, &Budget::new(PLENTY, false));
        assert_eq!(reading.next().await.unwrap().unwrap().source, Source::Store);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_decoded_than_a_step_makes() {
    // 4,096 rows are some 60 KiB of arrays, and a step 8 KiB.
    let budget = Budget::new(64 << 10, false);
    let fake = Fake {
        each: 128,
        ..Fake::rows(0, 4096)
    };
    let mut reading = Reading::of(answer(&[fake]), 2, &budget);
    let (mut rows, mut most_bytes) = (0, 0);
    while let Some(received) = reading.next().await.unwrap() {
        rows += received.batch.num_rows();
        most_bytes = most_bytes.max(budget.taken_bytes());
    }
    assert_eq!(rows, 4096);
    assert!(most_bytes < 32 << 10, "{most_bytes}");
    assert_eq!(budget.taken_bytes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_held_are_what_is_taken() {
    let budget = Budget::new(PLENTY, true);
    let fakes: Vec<_> = (0..8).map(|n| Fake::rows(n * 2000, n * 2000 + 2000)).collect();
    let mut reading = Reading::of(answer(&fakes), 3, &budget);
    let mut held = Vec::new();
    while let Some(received) = reading.next().await.unwrap() {
        held.push(received);
    }
    drop(reading);
    let least = |received: &Received| u64::try_from(received.bytes).unwrap().max(4 << 10);
    assert_eq!(budget.taken_bytes(), held.iter().map(least).sum::<u64>());
    drop(held);
    assert_eq!(budget.taken_bytes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_not_in_turn_waits_and_goes_on_in_its_turn() {
    let budget = Budget::new(1, true);
    let mut reading = Reading::of(answer(&[Fake::rows(0, 30), Fake::rows(30, 60)]), 4, &budget);
    reading.turn.position = 1;
    let waited = tokio::time::timeout(SOON, reading.files.next(&mut reading.messages, &reading.turn)).await;
    assert!(waited.is_err());
    budget.turn_to(1);
    assert_eq!(reading.drained().await.0, (0..60).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_group_that_is_not_what_is_said_is_an_error_that_names_it() {
    let (good, bad) = (Fake::rows(0, 25), Fake::rows(25, 50));
    let rows = |rows: u64| json!({"source": "disk", "file": "/lake/t.parquet", "row_group": 3, "rows": rows});
    let cases = [
        (group(bad.then(Then::Fail)), "a page that does not check"),
        (group(bad.then(Then::Panic)), "panicked: out of its depth"),
        (said(bad, &rows(26)), "1 of its rows are missing"),
        (said(bad, &rows(24)), "more rows than it should"),
    ];
    for (message, words) in cases {
        let budget = Budget::new(PLENTY, true);
        let frames = vec![begin(&schema()), group(good), message, group(good), end("0")];
        let mut reading = Reading::of(frames, 2, &budget);
        let (numbers, error) = reading.drained().await;
        assert_eq!(
            numbers[..25],
            (0..25).collect::<Vec<_>>(),
            "what came before it is handed out"
        );
        let error = error.unwrap();
        assert_eq!(error.kind(), ErrorKind::DataLoss);
        let (message, named) = (error.message(), "/lake/t.parquet, row group 3: ");
        assert!(message.starts_with(named) && message.contains(words), "{message}");
        drop(reading);
        until("nothing is taken", || budget.taken_bytes() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_pages_may_take_what_the_budget_has() {
    for (budget_bytes, memory_bytes) in [(1, 64 << 20), (64 << 20, 64 << 20), (PLENTY, PLENTY)] {
        let fake = Fake::rows(0, 25).then(Then::Memory);
        let (_, error) = Reading::of(answer(&[fake]), 2, &Budget::new(budget_bytes, true))
            .drained()
            .await;
        let (error, words) = (error.unwrap(), format!("pages may take {memory_bytes} bytes"));
        assert!(error.message().contains(&words), "{error}");
    }
}

/// The beginning of a message whose body is said to have so many bytes.
fn announced(body_bytes: u64) -> Frame<Bytes> {
    let mut field = vec![0xc2, 0x3e];
    let mut left = body_bytes;
    while left >= 0x80 {
        field.push(u8::try_from(left & 0x7f).unwrap() | 0x80);
        left >>= 7;
    }
    field.push(u8::try_from(left).unwrap());
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(u32::try_from(field.len()).unwrap() + u32::try_from(body_bytes).unwrap());
    message.put_slice(&field);
    Frame::data(message.freeze())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_larger_than_what_was_asked_for_is_refused_before_there_is_memory_for_it() {
    // Of half of such a budget; a message may have a little more.
    let most_bytes = (64 << 20) + (64 << 10);
    let budget = Budget::new(128 << 20, true);
    for (bytes, kind) in [
        (most_bytes, ErrorKind::Unavailable),
        (most_bytes + 1, ErrorKind::Internal),
        (u64::from(u32::MAX) - 16, ErrorKind::Internal),
    ] {
        let frames = vec![begin(&schema()), group(Fake::rows(0, 25)), announced(bytes)];
        let mut reading = Reading::of(frames, 2, &budget);
        let (numbers, error) = reading.drained().await;
        let error = error.unwrap();
        assert_eq!((numbers.len(), error.kind()), (25, kind), "{error}");
        let is_named = error.message().contains(&format!("a row group of {bytes} bytes"));
        assert_eq!(is_named, kind == ErrorKind::Internal, "{error}");
        if is_named {
            assert_eq!(budget.taken_bytes(), 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_an_error_and_no_panic() {
    let good = Fake::rows(0, 25);
    let other = Schema::new(vec![Field::new("other", DataType::Int64, false)]);
    let partition = json!({"file": "/f", "row_group": 0, "rows": 25, "constants": {"kind": true}});
    let cases = [
        (vec![begin(&other), group(good)], "was planned"),
        (vec![group(good)], "before their schema"),
        (vec![begin(&schema()), said(good, &json!({}))], "not described"),
        (
            vec![begin(&schema()), said(good, &partition)],
            "a partition of the value true",
        ),
    ];
    for (mut frames, words) in cases {
        frames.push(end("0"));
        let (numbers, error) = Reading::of(frames, 2, &Budget::new(PLENTY, true)).drained().await;
        let error = error.unwrap();
        assert_eq!((numbers.len(), error.kind()), (0, ErrorKind::Internal));
        assert!(error.message().contains(words), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_has_given_what_came_before() {
    for (last, words) in [(Some(end("14")), ""), (None, "without a status")] {
        let fakes = [Fake::rows(0, 25), Fake::rows(25, 50)];
        let frames = [begin(&schema())].into_iter().chain(fakes.map(group)).chain(last);
        let budget = Budget::new(PLENTY, true);
        let mut reading = Reading::of(frames.collect(), 4, &budget);
        let (numbers, error) = reading.drained().await;
        assert_eq!(numbers, (0..50).collect::<Vec<_>>());
        let error = error.unwrap();
        assert!(error.is_retryable() && error.message().contains(words), "{error}");
        assert_eq!(budget.taken_bytes(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_dropped_is_not_decoded_any_further() {
    let budget = Budget::new(PLENTY, true);
    let mut reading = Reading::of(answer(&[Fake::rows(0, 25).then(Then::Nothing)]), 2, &budget);
    let waited = tokio::time::timeout(SOON, reading.files.next(&mut reading.messages, &reading.turn)).await;
    assert!(waited.is_err(), "it is decoded for ever");
    assert!(!LET_GO.load(Ordering::SeqCst) && budget.taken_bytes() > 0);
    drop(reading);
    until("it is let go of", || LET_GO.load(Ordering::SeqCst)).await;
    until("nothing is taken", || budget.taken_bytes() == 0).await;
}

#[test]
fn the_form_is_not_asked_for_where_nothing_reads_it() {
    let options = |wire, unpack| ClientOptions {
        wire,
        unpack,
        ..ClientOptions::default()
    };
    let reads = Some(Unpack::new(unpack));
    let error = Unpacking::of(&options(Wire::Raw, None)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(Unpacking::of(&options(Wire::Auto, None)).unwrap().is_none());
    let found = Unpacking::of(&options(Wire::Raw, reads)).unwrap().unwrap();
    assert!((2..=MOST_GROUPS).contains(&found.groups), "{found:?}");
    assert_eq!(options(Wire::Auto, reads), options(Wire::Auto, reads));
    assert_ne!(options(Wire::Auto, reads), options(Wire::Auto, None));
}

#[test]
fn a_small_file_is_a_part_of_the_budget() {
    assert_eq!(most_file_bytes(256 << 20), 128 << 20);
    assert_eq!((most_file_bytes(1), most_file_bytes(u64::MAX)), (64 << 10, 1 << 30));
    assert_eq!(room_for(1000, 1 << 20, 1000).unwrap(), 6000);
    assert_eq!(room_for(1 << 20, 1000, 1 << 20).unwrap(), (1 << 20) + 1000);
    assert_eq!(room_for(usize::MAX, 1000, usize::MAX).unwrap(), usize::MAX);
    assert!(room_for(1001, 1 << 20, 1000).is_err());
}

/// Waits until something is so.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let waited = tokio::time::timeout(LONG, waiting).await;
    assert!(waited.is_ok(), "not so: {what}");
}
