//! Record batches as Flight messages of a bounded size.
//!
//! Arrow's buffers are not copied here: a message is a small header and the arrays' own buffers, by reference.
//!
//! A message larger than the client's limit is refused by most gRPC libraries, so a batch that encodes to more is cut by rows
//! into as many parts as should fit, and these again where they do not; a single row that is larger goes out whole. Where
//! buffers are compressed, it is the compressed message that counts. Dictionaries are sent as dictionaries: the
//! stream's schema is the one that FlightInfo gave, to the bit.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{DictionaryHandling, IpcWriteOptions, StreamEncoder};
use arrow_flight::{FlightData, SchemaAsIpc};
use jetbridge_cache::key::Source;
use jetbridge_cache::scan::tidy;
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::message::{self, Message};

/// Request header by which a client raises (or lowers) the size of the messages that it takes, in bytes.
pub(crate) const MESSAGE_LIMIT_HEADER: &str = "x-jetbridge-max-message-bytes";
/// The same of the files that it takes in the wire form `raw`, where these may be larger than other messages.
pub(crate) const FILE_LIMIT_HEADER: &str = "x-jetbridge-max-file-bytes";

/// What gRPC clients take unless told otherwise: 4 MiB (grpc-go, grpc-java, tonic).
const DEFAULT_MESSAGE_LIMIT_BYTES: usize = 4 << 20;
const MIN_MESSAGE_LIMIT_BYTES: usize = 64 << 10;
const MAX_MESSAGE_LIMIT_BYTES: usize = 1 << 30;

/// Room for the message's protobuf framing and metadata.
const FRAMING_BYTES: usize = 4 << 10;

/// A batch that is too large is cut as if it had this many eighths of its bytes: rows are not all alike.
const CUT_EIGHTHS: usize = 9;

/// The fastest level of zstd: on a link that is slow enough for a higher one, `raw` sends less.
const ZSTD_LEVEL: i32 = 1;

/// The sizes that a caller takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Bytes of a message.
    pub(super) message_bytes: usize,
    /// Bytes of a file in the wire form `raw`; where none, its message keeps the limit of messages.
    pub(super) file_bytes: Option<usize>,
}

impl Limits {
    /// What a request's headers say.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for a header that is no number between 64 KiB and 1 GiB.
    pub(super) fn asked(metadata: &MetadataMap) -> Result<Self, Status> {
        let message_bytes = limit(metadata, MESSAGE_LIMIT_HEADER)?;
        Ok(Self {
            message_bytes: message_bytes.unwrap_or(DEFAULT_MESSAGE_LIMIT_BYTES),
            file_bytes: limit(metadata, FILE_LIMIT_HEADER)?,
        })
    }
}

fn limit(metadata: &MetadataMap, header: &str) -> Result<Option<usize>, Status> {
    let Some(value) = metadata.get(header) else {
        return Ok(None);
    };
    let limit = value.to_str().ok().and_then(|text| text.parse().ok());
    let limit = limit.filter(|limit| (MIN_MESSAGE_LIMIT_BYTES..=MAX_MESSAGE_LIMIT_BYTES).contains(limit));
    limit.map(Some).ok_or_else(|| {
        Status::invalid_argument(format!(
            "{header} must be a number of bytes from {MIN_MESSAGE_LIMIT_BYTES} to {MAX_MESSAGE_LIMIT_BYTES}"
        ))
    })
}

/// Encodes the messages of one stream.
pub(super) struct Encoder {
    stream: StreamEncoder,
    options: IpcWriteOptions,
    schema: SchemaRef,
    /// Whether the stream encoder has given its schema message, which comes with its first batch.
    begun: bool,
    limit_bytes: usize,
    /// Number of the next batch, for the client that resumes a broken stream.
    next_batch: u64,
}

impl Encoder {
    /// A stream of batches of `schema` in messages of at most `limit_bytes`.
    ///
    /// # Errors
    /// A schema that IPC cannot say.
    pub(super) fn new(schema: &SchemaRef, limit_bytes: usize) -> Result<Self, ArrowError> {
        Self::compressing(schema, limit_bytes, None)
    }

    /// The same, the batches' buffers compressed.
    ///
    /// # Errors
    /// As [`Encoder::new`].
    pub(super) fn compressing(
        schema: &SchemaRef,
        limit_bytes: usize,
        compression: Option<CompressionType>,
    ) -> Result<Self, ArrowError> {
        let level = (compression == Some(CompressionType::ZSTD)).then_some(ZSTD_LEVEL);
        let options = IpcWriteOptions::default()
            .with_dictionary_handling(DictionaryHandling::Resend)
            .try_with_compression(compression)?
            .try_with_compression_level(level)?;
        Ok(Self {
            stream: StreamEncoder::try_new_with_options(schema, options.clone())?,
            options,
            schema: Arc::clone(schema),
            begun: false,
            limit_bytes: limit_bytes.saturating_sub(FRAMING_BYTES),
            next_batch: 0,
        })
    }

    /// The stream's first message: its schema, with dictionaries numbered as the batches will number them.
    pub(super) fn schema(&self) -> Message {
        let data = FlightData::from(SchemaAsIpc::new(&self.schema, &self.options));
        Message {
            header: data.data_header,
            ..Message::default()
        }
    }

    /// The messages of one batch: new dictionaries, then the rows.
    ///
    /// # Errors
    /// Arrays that cannot be encoded.
    pub(super) fn batch(&mut self, batch: &RecordBatch, source: Source) -> Result<Vec<Message>, ArrowError> {
        let mut sent = Vec::with_capacity(1);
        let mut rest = vec![batch.clone()];
        while let Some(batch) = rest.pop() {
            let mut messages = self.encoded(&batch)?;
            let Some(mut rows) = messages.pop() else { continue };
            // Dictionaries come before the rows, and count as sent.
            sent.append(&mut messages);
            if batch.num_rows() > 1 && rows.bytes() > self.limit_bytes {
                rest.extend(parts(&batch, rows.bytes(), self.limit_bytes)?);
                continue;
            }
            rows.metadata = self.metadata(source).into();
            sent.push(rows);
        }
        Ok(sent)
    }

    /// The message of a batch without dictionaries that goes out whole, with the description that `describe` gives for its
    /// number.
    ///
    /// # Errors
    /// Arrays that cannot be encoded, a description that cannot be made.
    pub(super) fn single(
        &mut self,
        batch: &RecordBatch,
        describe: impl FnOnce(u64) -> Result<Vec<u8>, ArrowError>,
    ) -> Result<Message, ArrowError> {
        let mut message = self.encoded(batch)?.pop().unwrap_or_default();
        message.metadata = describe(self.next_batch)?.into();
        self.next_batch += 1;
        Ok(message)
    }

    /// Bytes that a message may have besides its framing.
    pub(super) fn limit_bytes(&self) -> usize {
        self.limit_bytes
    }

    /// New dictionaries, then the rows, however large.
    fn encoded(&mut self, batch: &RecordBatch) -> Result<Vec<Message>, ArrowError> {
        let mut messages = message::split(self.stream.encode(batch)?)?;
        if !std::mem::replace(&mut self.begun, true) {
            // The schema, which went out before there was a batch.
            messages.remove(0);
        }
        Ok(messages)
    }

    fn metadata(&mut self, source: Source) -> Vec<u8> {
        let index = self.next_batch;
        self.next_batch += 1;
        let (source, is_peer) = told(source);
        let peer = if is_peer { r#", "peer": true"# } else { "" };
        format!(r#"{{"batch": {index}, "source": "{source}"{peer}}}"#).into_bytes()
    }
}

/// What a client is told of where rows were, and whether that was at a peer. A client knows three sources: what is in none of
/// this node's tiers comes from the store, or from a peer's tiers.
pub(super) fn told(source: Source) -> (&'static str, bool) {
    match source {
        Source::Peer => (Source::Store.as_str(), true),
        other => (other.as_str(), false),
    }
}

/// A batch of `bytes` cut so that its parts should have no more than `limit_bytes`, the last first, each without what it
/// does not use of shared buffers.
fn parts(batch: &RecordBatch, bytes: usize, limit_bytes: usize) -> Result<Vec<RecordBatch>, ArrowError> {
    let rows = batch.num_rows();
    let count = (bytes / 8 * CUT_EIGHTHS).div_ceil(limit_bytes.max(1)).max(2);
    let each = rows.div_ceil(count).max(1);
    let starts = (0..rows).step_by(each).rev();
    starts
        .map(|from| tidy(&batch.slice(from, each.min(rows - from))))
        .collect()
}

/// The schema as FlightInfo carries it.
///
/// # Errors
/// A schema that IPC cannot say.
pub(crate) fn schema_bytes(schema: &Schema) -> Result<bytes::Bytes, ArrowError> {
    let options = IpcWriteOptions::default();
    let message: arrow_flight::IpcMessage = SchemaAsIpc::new(schema, &options).try_into()?;
    Ok(message.0)
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, DictionaryArray, Int64Array, StringArray, StringViewArray, UInt8Array};
    use arrow::datatypes::{DataType, Field, UInt8Type};
    use arrow_flight::decode::FlightRecordBatchStream;
    use futures::{TryStreamExt, stream};

    use super::*;

    async fn round_trip(batch: &RecordBatch, limit_bytes: usize) -> (Vec<usize>, RecordBatch) {
        let mut encoder = Encoder::new(&batch.schema(), limit_bytes).unwrap();
        let mut messages = vec![encoder.schema()];
        messages.extend(encoder.batch(batch, Source::Memory).unwrap());
        let sizes = messages.iter().map(Message::bytes).collect();
        (sizes, read_back(messages, &batch.schema()).await)
    }

    async fn read_back(messages: Vec<Message>, schema: &SchemaRef) -> RecordBatch {
        let messages: Vec<_> = messages.into_iter().map(Message::into_flight_data).collect();
        let decoded = FlightRecordBatchStream::new_from_flight_data(stream::iter(messages.into_iter().map(Ok)));
        let batches: Vec<_> = decoded.try_collect().await.unwrap();
        arrow::compute::concat_batches(schema, &batches).unwrap()
    }

    fn batch_of(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
    }

    #[tokio::test]
    async fn a_large_batch_is_cut_below_the_limit_and_reads_back_equal() {
        let numbers: ArrayRef = Arc::new((0..500_000).collect::<Int64Array>());
        let names: ArrayRef = Arc::new(
            (0..500_000)
                .map(|i| Some(format!("a name that is not inlined {i}")))
                .collect::<StringViewArray>(),
        );
        let batch = batch_of(vec![("n", numbers), ("s", names)]);
        let (sizes, read) = round_trip(&batch, 1 << 20).await;
        assert!(sizes.len() > 20, "{sizes:?}");
        assert!(sizes.iter().all(|&size| size <= 1 << 20), "{sizes:?}");
        assert_eq!(read, batch);
    }

    #[tokio::test]
    async fn one_row_larger_than_the_limit_goes_out_whole() {
        let batch = batch_of(vec![(
            "s",
            Arc::new(StringArray::from(vec!["x".repeat(1 << 20)])) as ArrayRef,
        )]);
        let (_, read) = round_trip(&batch, MIN_MESSAGE_LIMIT_BYTES).await;
        assert_eq!(read, batch);
    }

    /// The first batch brings its dictionaries, and they may be empty ones.
    #[tokio::test]
    async fn empty_dictionaries_are_sent() {
        let empty: ArrayRef = Arc::new(StringArray::from(Vec::<&str>::new()));
        let array: ArrayRef = Arc::new(DictionaryArray::<UInt8Type>::new(UInt8Array::from(vec![None]), empty));
        let batch = batch_of(vec![("d", array)]);
        let mut encoder = Encoder::new(&batch.schema(), 1 << 20).unwrap();
        let messages = encoder.batch(&batch, Source::Memory).unwrap();
        assert_eq!(messages.len(), 2);
        assert_eq!(round_trip(&batch, 1 << 20).await.1, batch);
    }

    #[tokio::test]
    async fn dictionaries_stay_dictionaries() {
        let keys = UInt8Array::from(vec![Some(0), None, Some(1)]);
        let values: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
        let array: ArrayRef = Arc::new(DictionaryArray::<UInt8Type>::new(keys, values));
        let (_, read) = round_trip(&batch_of(vec![("d", array)]), 1 << 20).await;
        let expected = DataType::Dictionary(Box::new(DataType::UInt8), Box::new(DataType::Utf8));
        assert_eq!(read.schema().field(0), &Field::new("d", expected, true));
    }

    #[tokio::test]
    async fn compressed_batches_are_smaller_keep_the_limit_and_read_back_equal() {
        let numbers: ArrayRef = Arc::new((0..300_000).map(|i| i % 1_000).collect::<Int64Array>());
        let words: ArrayRef = Arc::new(
            (0..300_000)
                .map(|i| Some(format!("word {}", i * 7 % 5_000)))
                .collect::<StringArray>(),
        );
        let batch = batch_of(vec![("n", numbers), ("s", words)]);
        let plain: usize = round_trip(&batch, 1 << 30).await.0.into_iter().sum();
        for compression in [CompressionType::LZ4_FRAME, CompressionType::ZSTD] {
            let limit_bytes = 100 << 10;
            let mut encoder = Encoder::compressing(&batch.schema(), limit_bytes, Some(compression)).unwrap();
            let mut messages = vec![encoder.schema()];
            messages.extend(encoder.batch(&batch, Source::Memory).unwrap());
            let sizes: Vec<_> = messages.iter().map(Message::bytes).collect();
            assert!(
                sizes.len() > 3 && sizes.iter().all(|&size| size <= limit_bytes),
                "{sizes:?}"
            );
            assert!(
                sizes.iter().sum::<usize>() * 2 < plain,
                "{compression:?}: {sizes:?} of {plain}"
            );
            assert_eq!(read_back(messages, &batch.schema()).await, batch);
        }
    }

    #[test]
    fn limits_are_read_by_themselves() {
        let asked = |pairs: &[(&'static str, &'static str)]| {
            let mut metadata = MetadataMap::new();
            for &(header, value) in pairs {
                metadata.insert(header, value.parse().unwrap());
            }
            Limits::asked(&metadata).map(|limits| (limits.message_bytes, limits.file_bytes))
        };
        assert_eq!(asked(&[]).unwrap(), (4 << 20, None));
        let both = [(MESSAGE_LIMIT_HEADER, "65536"), (FILE_LIMIT_HEADER, "1073741824")];
        assert_eq!(asked(&both).unwrap(), (64 << 10, Some(1 << 30)));
        for header in [MESSAGE_LIMIT_HEADER, FILE_LIMIT_HEADER] {
            for value in ["", "many", "-1", "65535", "1073741825", "99999999999999999999"] {
                let refused = asked(&[(header, value)]).unwrap_err();
                assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{header}: {value}");
                assert!(refused.message().contains(header), "{refused}");
            }
        }
    }

    #[test]
    fn batches_are_numbered_and_say_where_they_were() {
        let numbers = batch_of(vec![("n", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]);
        let mut encoder = Encoder::new(&numbers.schema(), 1 << 20).unwrap();
        let mut metadata = |source| encoder.batch(&numbers, source).unwrap()[0].metadata.clone();
        assert_eq!(metadata(Source::Disk), r#"{"batch": 0, "source": "disk"}"#);
        assert_eq!(metadata(Source::Disk), r#"{"batch": 1, "source": "disk"}"#);
        assert_eq!(
            metadata(Source::Peer),
            r#"{"batch": 2, "source": "store", "peer": true}"#
        );
    }
}
