//! What a server says of a row group, and the file in place in the message that it came in.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, NullArray, RecordBatch, StringArray};
use arrow::buffer::Buffer;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::ipc::convert::try_schema_from_ipc_buffer;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::group::About;
use crate::error::{Error, Result};
use crate::reader::Source;

/// Where the stream's schema says what the schema of the rows is.
const SCHEMA_KEY: &str = "jetbridge.schema";

/// A row group as it was sent.
#[derive(Debug)]
pub(super) struct RowGroup {
    pub(super) about: Arc<About>,
    pub(super) rows: u64,
    /// Columns that have one value, which the file does not have.
    pub(super) constants: Vec<(String, ArrayRef)>,
    pub(super) file: Bytes,
}

/// The `app_metadata` of its message.
#[derive(Deserialize)]
struct Description {
    #[serde(default)]
    source: Source,
    file: String,
    row_group: u32,
    rows: u64,
    #[serde(default)]
    constants: Map<String, Value>,
}

impl RowGroup {
    /// Reads a batch of the stream.
    ///
    /// # Errors
    /// A batch that is no row group, or not described as one.
    pub(super) fn read(batch: &RecordBatch, metadata: &[u8]) -> Result<Self> {
        let said: Description = serde_json::from_slice(metadata)
            .map_err(|error| Error::protocol(format!("a row group that is not described: {error}")))?;
        let constants = said
            .constants
            .into_iter()
            .map(|(name, value)| constant(&value).map(|array| (name, array)));
        Ok(Self {
            constants: constants.collect::<Result<_>>()?,
            about: Arc::new(About {
                file: said.file,
                row_group: said.row_group,
                source: said.source,
            }),
            rows: said.rows,
            file: file(batch).ok_or_else(|| Error::protocol("a batch that is not one row group"))?,
        })
    }
}

/// The schema that the rows of a stream are to have.
///
/// # Errors
/// A stream that does not say it.
pub(super) fn rows_schema(stream: &Schema) -> Result<SchemaRef> {
    let text = stream.metadata().get(SCHEMA_KEY);
    let text = text.ok_or_else(|| Error::protocol("row groups without a schema of their rows"))?;
    let message = BASE64
        .decode(text)
        .map_err(|error| Error::protocol(format!("the schema of the rows is not base64: {error}")))?;
    Ok(Arc::new(try_schema_from_ipc_buffer(&message)?))
}

/// The value of a partition, as an array of length one.
fn constant(value: &Value) -> Result<ArrayRef> {
    let array: Option<ArrayRef> = match value {
        Value::Null => Some(Arc::new(NullArray::new(1))),
        Value::String(text) => Some(Arc::new(StringArray::from(vec![text.as_str()]))),
        _ => value
            .as_i64()
            .map(|number| Arc::new(Int64Array::from(vec![number])) as ArrayRef),
    };
    array.ok_or_else(|| Error::protocol(format!("a partition of the value {value}")))
}

/// The one file of a batch.
fn file(batch: &RecordBatch) -> Option<Bytes> {
    struct Held(Buffer);
    impl AsRef<[u8]> for Held {
        fn as_ref(&self) -> &[u8] {
            self.0.as_slice()
        }
    }
    let [column] = batch.columns() else { return None };
    let files = column.as_binary_opt::<i64>().filter(|files| files.null_count() == 0)?;
    let &[start, end] = files.value_offsets() else {
        return None;
    };
    let (start, end) = (usize::try_from(start).ok()?, usize::try_from(end).ok()?);
    let place = files.values().slice_with_length(start, end.checked_sub(start)?);
    Some(Bytes::from_owner(Held(place)))
}
