//! Servers that do as they are told, and wires that break.

pub(crate) mod raw;
pub(crate) mod server;
pub(crate) mod wire;

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use futures::StreamExt;
use jetbridge_client::{Client, ClientOptions, Error, Piece, ReadOptions, Reader, Scan};

/// No test waits longer for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Rows of one endpoint are numbered from its number times this.
pub(crate) const STRIDE: i64 = 1_000_000;

pub(crate) fn schema() -> SchemaRef {
    let fields = vec![
        Field::new("n", DataType::Int64, false),
        Field::new("text", DataType::Utf8, true),
    ];
    Arc::new(Schema::new(fields))
}

/// Rows `from..to` of an endpoint.
pub(crate) fn rows(endpoint: i64, from: i64, to: i64) -> RecordBatch {
    let numbers: Int64Array = (from..to).map(|row| endpoint * STRIDE + row).collect();
    let texts: StringArray = (from..to)
        .map(|row| (row % 5 > 0).then(|| format!("row {row}")))
        .collect();
    RecordBatch::try_new(schema(), vec![Arc::new(numbers), Arc::new(texts)]).unwrap()
}

/// The numbers of all rows, checked to have their texts.
pub(crate) fn numbers(batch: &RecordBatch) -> Vec<i64> {
    let (numbers, texts) = (
        batch.column(0).as_primitive::<Int64Type>(),
        batch.column(1).as_string::<i32>(),
    );
    for (number, text) in numbers.values().iter().zip(texts) {
        let row = number % STRIDE;
        assert_eq!(text, (row % 5 > 0).then(|| format!("row {row}")).as_deref());
    }
    assert_eq!(numbers.null_count(), 0);
    numbers.values().to_vec()
}

/// What a read of endpoints with so many rows should give, in order.
pub(crate) fn expected(endpoints: &[i64]) -> Vec<i64> {
    let numbered = (0..).zip(endpoints);
    numbered
        .flat_map(|(endpoint, rows)| (0..*rows).map(move |row| endpoint * STRIDE + row))
        .collect()
}

/// A client that gives up soon.
pub(crate) fn client(uri: &str) -> Client {
    Client::new(uri, options()).unwrap()
}

pub(crate) fn options() -> ClientOptions {
    ClientOptions {
        connect_timeout: Duration::from_secs(2),
        timeout: Some(Duration::from_secs(5)),
        retries: 2,
        ..ClientOptions::default()
    }
}

/// Plans the server's dataset and begins to read it.
pub(crate) async fn begun(client: &Client, options: ReadOptions) -> Reader {
    let plan = client.plan(&Scan::of("/t")).await.unwrap();
    client.read(&plan, options)
}

/// What is left of a read: its pieces up to the end, or up to an error.
pub(crate) async fn drained(reader: &mut Reader) -> (Vec<Piece>, Option<Error>) {
    let mut pieces = Vec::new();
    let read = async {
        while let Some(piece) = reader.next().await {
            match piece {
                Ok(piece) => pieces.push(piece),
                Err(error) => return Some(error),
            }
        }
        None
    };
    let error = tokio::time::timeout(PATIENCE, read)
        .await
        .expect("the read takes too long");
    if error.is_some() {
        assert!(reader.next().await.is_none(), "nothing comes after an error");
    }
    (pieces, error)
}

/// All rows of a read that must not fail, as they came.
pub(crate) async fn all(client: &Client, options: ReadOptions) -> Vec<i64> {
    let mut reader = begun(client, options).await;
    let (pieces, error) = drained(&mut reader).await;
    assert!(error.is_none(), "{error:?}");
    pieces.iter().flat_map(|piece| numbers(&piece.batch)).collect()
}

pub(crate) fn in_order() -> ReadOptions {
    ReadOptions {
        ordered: true,
        ..ReadOptions::default()
    }
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .unwrap_or_else(|_| panic!("not so: {what}"));
}
