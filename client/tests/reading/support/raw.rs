//! Row groups that stand for rows: each "file" says in JSON which rows it has, and what reads it makes them.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, LargeBinaryArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::utils::batches_to_flight_data;
use arrow_flight::{FlightData, IpcMessage, SchemaAsIpc};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use jetbridge_client::{ClientOptions, Unpack, UnpackError, Unpacked};
use serde_json::json;

use super::{rows, schema};

/// Rows of a batch that is made of a file.
const BATCH_ROWS: usize = 11;

/// The settings of a client that reads row groups.
pub(crate) fn reading() -> ClientOptions {
    ClientOptions {
        unpack: Some(Unpack::new(unpack)),
        ..super::options()
    }
}

fn unpack(file: Bytes, _: &SchemaRef, _: &[(String, ArrayRef)], _: u64) -> Result<Unpacked, UnpackError> {
    let (endpoint, from, to): (i64, i64, i64) = serde_json::from_slice(&file)?;
    let size = i64::try_from(BATCH_ROWS)?;
    let starts = (from..to).step_by(BATCH_ROWS);
    Ok(Box::new(
        starts.map(move |start| Ok(rows(endpoint, start, to.min(start + size)))),
    ))
}

/// The messages of a stream that has these rows of an endpoint, a row group for each span that has any.
pub(crate) fn messages(endpoint: i64, spans: Vec<Range<i64>>) -> Vec<FlightData> {
    let rows: IpcMessage = SchemaAsIpc::new(&schema(), &IpcWriteOptions::default())
        .try_into()
        .unwrap();
    let metadata = [
        ("jetbridge.wire".to_owned(), "raw".to_owned()),
        ("jetbridge.schema".to_owned(), BASE64.encode(rows.0)),
    ];
    let column = Field::new("parquet", DataType::LargeBinary, false);
    let stream = Arc::new(Schema::new_with_metadata(vec![column], metadata.into()));
    let spans: Vec<_> = spans.into_iter().filter(|span| !span.is_empty()).collect();
    let files = spans.iter().map(|span| {
        let file = json!([endpoint, span.start, span.end]).to_string();
        let column = LargeBinaryArray::from_vec(vec![file.as_bytes()]);
        RecordBatch::try_new(Arc::clone(&stream), vec![Arc::new(column)]).unwrap()
    });
    let mut messages = batches_to_flight_data(&stream, files.collect()).unwrap();
    for (number, (message, span)) in messages.iter_mut().skip(1).zip(&spans).enumerate() {
        let rows = span.end - span.start;
        let about = json!({"batch": number, "source": "disk", "file": "/t/x.parquet", "row_group": number, "rows": rows, "constants": {}});
        message.app_metadata = about.to_string().into();
    }
    messages
}
