//! The wire form `raw`: a stream of Parquet files, one a row group (`WIRE.md` is its specification).

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, LargeBinaryArray, RecordBatch};
use arrow::buffer::{Buffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use futures::{StreamExt, stream};
use jetbridge_cache::raw::{Raw, RawFile, RawGroup, refusal, schema_text};
use jetbridge_cache::retention::Reread;
use jetbridge_cache::scan::Pause;
use jetbridge_cache::{ReadError, ReadLimits};
use jetbridge_catalog::path::NsPath;
use serde::Serialize;
use serde_json::{Map, Value};
use tonic::Status;

use super::BoxedStream;
use super::encode::{Encoder, Limits, told};
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

/// Why stored bytes are not for whoever did not ask for them by name: clients decode by the limits that hold unless told
/// otherwise.
const OWN_LIMITS: &str = "the server has limits of its own on what files may ask for, and clients decode by others";

/// What became of the wish for an answer in this form.
pub(super) enum Offered {
    Files(Files),
    /// It cannot be given so; why, in words.
    Unsaid(&'static str),
    /// It could be, where it is asked for by name; why not otherwise, in words.
    ByName(&'static str),
    /// It could be, but the columns are decoded already, or will be kept.
    Warm,
}

/// Row groups on their way out.
pub(super) struct Files {
    pub(super) messages: BoxedStream<Message>,
    /// Lets go of what is read ahead.
    pub(super) pause: Pause,
}

/// What a batch says about itself in its `app_metadata`.
#[derive(Serialize)]
struct Description<'a> {
    batch: u64,
    source: &'static str,
    /// Whether it came from another node; not said otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<bool>,
    /// Namespace path of the file that the row group is of.
    file: &'a str,
    row_group: u32,
    rows: u64,
    /// Columns that have one value in all of the file, for the client to add.
    constants: Map<String, Value>,
}

/// What the messages of one answer share.
struct Answer {
    node: Arc<Node>,
    dataset: NsPath,
    /// The schema of the rows.
    output: SchemaRef,
    /// The schema of the stream.
    stream: SchemaRef,
}

/// The messages that answer a ticket, unless its columns are decoded here anyway, or other files are read here than by clients.
///
/// # Errors
/// As [`offer`].
pub(super) async fn offer_unless_warm(redeemed: &Redeemed, limits: Limits) -> Result<Offered, ServiceError> {
    let Redeemed {
        node, dataset, request, ..
    } = redeemed;
    if let Some(reason) = refusal(request) {
        return Ok(Offered::Unsaid(reason));
    }
    if *node.cache.limits() != ReadLimits::default() {
        return Ok(Offered::ByName(OWN_LIMITS));
    }
    let warmth = node.cache.warmth(request).await;
    let warmth = warmth.map_err(|error| redeem::failed(node, dataset, error))?;
    if warmth.is_warm() {
        return Ok(Offered::Warm);
    }
    let offered = offer(redeemed, limits, request.reread).await?;
    if matches!(offered, Offered::Files(_)) && request.reread == Reread::Unknown {
        // Whoever reads it again finds it wanted, and has it decoded and kept. What is decoded later counts then.
        warmth.pass();
    }
    Ok(offered)
}

/// The messages that answer a ticket, each with a file that is no larger than the client takes. `reread` says whether columns
/// are to be decoded for its next read.
///
/// # Errors
/// Footers that cannot be read, files that changed.
pub(super) async fn offer(redeemed: &Redeemed, limits: Limits, reread: Reread) -> Result<Offered, ServiceError> {
    let Redeemed {
        node, dataset, request, ..
    } = redeemed;
    let encoder = Encoder::new(&stream_schema(&request.output), limits.message_bytes);
    let mut encoder = encoder.map_err(|error| unsayable(&error))?;
    let most_bytes = limits
        .file_bytes
        .unwrap_or_else(|| encoder.limit_bytes().saturating_sub(HEADER_BYTES));
    let most_bytes = u64::try_from(most_bytes).unwrap_or(u64::MAX);
    let planned = node.cache.raw(request, most_bytes).await;
    let scan = match planned.map_err(|error| redeem::failed(node, dataset, error))? {
        Raw::Files(scan) => scan.for_reader(reread),
        Raw::Unsaid(reason) => return Ok(Offered::Unsaid(reason)),
    };
    redeemed.count_read();
    let schema = encoder.schema();
    let answer = Answer {
        node: Arc::clone(node),
        dataset: dataset.clone(),
        output: Arc::clone(&request.output),
        stream: stream_schema(&request.output),
    };
    let (files, pause) = scan.files();
    let messages = files.map(move |read| answer.sent(&mut encoder, read));
    Ok(Offered::Files(Files {
        messages: stream::iter([Ok(schema)]).chain(messages).boxed(),
        pause,
    }))
}

impl Answer {
    /// What is sent of a read.
    fn sent(&self, encoder: &mut Encoder, read: Result<(RawGroup, RawFile), ReadError>) -> Result<Message, Status> {
        let (group, file) = read.map_err(|error| redeem::failed(&self.node, &self.dataset, error))?;
        let message = self.message(encoder, &group, file);
        message.map_err(|error| unsayable(&error).into())
    }

    /// The file as the one row of a batch, by reference.
    fn message(&self, encoder: &mut Encoder, group: &RawGroup, file: RawFile) -> Result<Message, ArrowError> {
        let length = i64::try_from(file.bytes.len()).map_err(|error| ArrowError::IpcError(error.to_string()))?;
        let offsets = OffsetBuffer::new(vec![0, length].into());
        let column = LargeBinaryArray::try_new(offsets, Buffer::from(file.bytes), None)?;
        let batch = RecordBatch::try_new(Arc::clone(&self.stream), vec![Arc::new(column)])?;
        let constants = group
            .constants()
            .iter()
            .filter(|(name, _)| self.output.index_of(name).is_ok());
        let constants: Map<_, _> = constants.map(|(name, value)| (name.clone(), json(value))).collect();
        let (source, is_peer) = told(file.source);
        encoder.single(&batch, |batch| {
            let description = Description {
                batch,
                source,
                peer: is_peer.then_some(true),
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
    use bytes::Bytes;
    use jetbridge_cache::key::Source;

    use super::super::testing::first_ticket;
    use super::*;
    use crate::testing::{Lake, numbers};

    #[tokio::test(flavor = "multi_thread")]
    async fn row_groups_say_where_they_were_as_batches_do() {
        let lake = Lake::of(&[("lake/a.parquet", numbers(10))]).await;
        let ticket = first_ticket(&lake, r#"{"path": "/lake"}"#).await;
        let Redeemed {
            node, dataset, request, ..
        } = redeem::redeem(&lake.node, &ticket).unwrap();
        let Raw::Files(scan) = node.cache.raw(&request, u64::MAX).await.unwrap() else {
            panic!("its file cannot say it");
        };
        let answer = Answer {
            node,
            dataset,
            stream: stream_schema(&request.output),
            output: request.output,
        };
        let mut encoder = Encoder::new(&answer.stream, 1 << 20).unwrap();
        for (source, said, peer) in [
            (Source::Memory, "memory", None),
            (Source::Disk, "disk", None),
            (Source::Store, "store", None),
            (Source::Peer, "store", Some(true)),
        ] {
            let bytes = Bytes::from_static(b"PAR1");
            let message = answer.message(&mut encoder, &scan.groups()[0], RawFile { bytes, source });
            let described: Value = serde_json::from_slice(&message.unwrap().metadata).unwrap();
            assert_eq!(described["source"], said);
            assert_eq!(described.get("peer"), peer.map(Value::Bool).as_ref(), "{source}");
            assert_eq!(described["file"], "/lake/a.parquet");
        }
    }

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
