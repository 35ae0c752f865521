//! The wire form `raw`: a stream of Parquet files, one a row group (`WIRE.md` is its specification).

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, LargeBinaryArray, RecordBatch};
use arrow::buffer::{Buffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use futures::{StreamExt, stream};
use jetbridge_cache::raw::{Raw, RawFile, RawGroup, RawScan, schema_text};
use jetbridge_catalog::path::NsPath;
use serde::Serialize;
use serde_json::{Map, Value};
use tonic::Status;

use super::BoxedStream;
use super::ahead::one_ahead;
use super::encode::Encoder;
use super::get::unsayable;
use super::message::Message;
use super::wire::Wire;
use crate::error::ServiceError;
use crate::node::Node;
use crate::redeem::{self, Redeemed};

/// The stream's one column.
const COLUMN: &str = "parquet";
/// Keys of the stream's schema metadata: the form, and the schema that the rows are to have.
const WIRE_KEY: &str = "jetbridge.wire";
const SCHEMA_KEY: &str = "jetbridge.schema";

/// Bytes of a message besides the file and its description: the IPC header.
const HEADER_BYTES: usize = 1 << 10;

/// The messages of an answer in this form, or why it cannot be given so.
pub(super) type Offered = Result<BoxedStream<Message>, &'static str>;

/// What a batch says about itself in its `app_metadata`.
#[derive(Serialize)]
struct Description<'a> {
    batch: u64,
    source: &'a str,
    /// Namespace path of the file that the row group is of.
    file: &'a str,
    row_group: u32,
    rows: u64,
    /// Columns that have one value in all of the file, for the client to add.
    constants: Map<String, Value>,
}

/// What the parts of one answer share.
struct Answer {
    node: Arc<Node>,
    dataset: NsPath,
    scan: RawScan,
    /// The schema of the rows.
    output: SchemaRef,
    /// The schema of the stream.
    stream: SchemaRef,
}

/// The messages that answer a ticket, none larger than `limit_bytes`.
///
/// # Errors
/// Footers that cannot be read, files that changed.
pub(super) async fn offer(redeemed: &Redeemed, limit_bytes: usize) -> Result<Offered, ServiceError> {
    let Redeemed {
        node, dataset, request, ..
    } = redeemed;
    let mut encoder = Encoder::new(&stream_schema(&request.output), limit_bytes).map_err(|error| unsayable(&error))?;
    let most_bytes = u64::try_from(encoder.limit_bytes().saturating_sub(HEADER_BYTES)).unwrap_or(u64::MAX);
    let scan = match node.cache.raw(request, most_bytes).await? {
        Raw::Files(scan) => scan,
        Raw::Unsaid(reason) => return Ok(Err(reason)),
    };
    redeemed.count_read();
    let schema = encoder.schema();
    let answer = Arc::new(Answer {
        node: Arc::clone(node),
        dataset: dataset.clone(),
        scan,
        output: Arc::clone(&request.output),
        stream: stream_schema(&request.output),
    });
    let groups = 0..answer.scan.groups().len();
    let files = stream::iter(groups).then(move |at| {
        let answer = Arc::clone(&answer);
        async move { answer.read(at).await.map(|file| (answer, at, file)) }
    });
    let files = one_ahead(Box::pin(files)).map(move |read| {
        let (answer, at, file) = read?;
        answer
            .message(&mut encoder, at, file)
            .map_err(|error| unsayable(&error).into())
    });
    Ok(Ok(stream::iter([Ok(schema)]).chain(files).boxed()))
}

impl Answer {
    async fn read(&self, at: usize) -> Result<RawFile, Status> {
        let group = self.group(at);
        self.scan
            .read(group)
            .await
            .map_err(|error| redeem::failed(&self.node, &self.dataset, error).into())
    }

    fn group(&self, at: usize) -> &RawGroup {
        &self.scan.groups()[at]
    }

    /// The file as the one row of a batch, by reference.
    fn message(&self, encoder: &mut Encoder, at: usize, file: RawFile) -> Result<Message, ArrowError> {
        let group = self.group(at);
        let length = i64::try_from(file.bytes.len()).map_err(|error| ArrowError::IpcError(error.to_string()))?;
        let offsets = OffsetBuffer::new(vec![0, length].into());
        let column = LargeBinaryArray::try_new(offsets, Buffer::from(file.bytes), None)?;
        let batch = RecordBatch::try_new(Arc::clone(&self.stream), vec![Arc::new(column)])?;
        let constants = group
            .constants()
            .iter()
            .filter(|(name, _)| self.output.index_of(name).is_ok());
        let constants: Map<_, _> = constants.map(|(name, value)| (name.clone(), json(value))).collect();
        encoder.single(&batch, |batch| {
            let description = Description {
                batch,
                source: file.source.as_str(),
                file: group.path(),
                row_group: group.row_group.0,
                rows: group.rows,
                constants,
            };
            serde_json::to_vec(&description).map_err(|error| ArrowError::JsonError(error.to_string()))
        })
    }
}

fn stream_schema(output: &Schema) -> SchemaRef {
    let said = [
        (WIRE_KEY.to_owned(), Wire::Raw.as_str().to_owned()),
        (SCHEMA_KEY.to_owned(), schema_text(output)),
    ];
    let column = Field::new(COLUMN, DataType::LargeBinary, false);
    Arc::new(Schema::new_with_metadata(vec![column], said.into()))
}

/// The value of a partition: a whole number, a text or null.
fn json(value: &ArrayRef) -> Value {
    if value.is_empty() || value.is_null(0) {
        return Value::Null;
    }
    match (value.as_primitive_opt::<Int64Type>(), value.as_string_opt::<i32>()) {
        (Some(numbers), _) => numbers.value(0).into(),
        (_, Some(texts)) => texts.value(0).into(),
        (None, None) => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};

    use super::*;

    #[test]
    fn values_of_partitions_are_what_json_says_best() {
        let number: ArrayRef = Arc::new(Int64Array::from(vec![i64::MIN]));
        let text: ArrayRef = Arc::new(StringArray::from(vec!["a \"b\""]));
        let null: ArrayRef = Arc::new(Int64Array::from(vec![None]));
        assert_eq!(json(&number).to_string(), i64::MIN.to_string());
        assert_eq!(json(&text), Value::from("a \"b\""));
        assert_eq!(json(&null), Value::Null);
    }

    #[test]
    fn the_stream_says_what_its_rows_are() {
        let output = Schema::new(vec![Field::new("n", DataType::Int32, true)]);
        let schema = stream_schema(&output);
        assert_eq!(schema.metadata()[WIRE_KEY], "raw");
        assert!(!schema.metadata()[SCHEMA_KEY].is_empty());
        assert_eq!(schema.field(0), &Field::new("parquet", DataType::LargeBinary, false));
    }
}
