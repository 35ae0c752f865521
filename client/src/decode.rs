//! Batches out of Flight messages: bytes in, arrays out. Arrays lie in their message's body.
//!
//! Trust: that a message's buffers lie within its body and fit their types is always checked. The values within (offsets of
//! strings, keys of dictionaries, UTF-8) are checked unless the server is a Jetbridge server, whose word is taken as for shared
//! memory, since checking reads all of them: whoever runs the server is trusted with what it stores. Values that were compressed
//! are checked like others. [`ClientOptions::check_values`](crate::ClientOptions::check_values) checks them everywhere.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::buffer::Buffer;
use arrow::datatypes::{FieldRef, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::convert::fb_to_schema;
use arrow::ipc::reader::{RecordBatchDecoder, read_dictionary_impl};
use arrow::ipc::{Message, MessageHeader, RecordBatch as Described, root_as_message};
use arrow_data::UnsafeFlag;

use crate::error::{Error, Result};
use crate::frame::FlightMessage;

/// The longest buffer that a compressed one may say it becomes.
const MAX_UNPACKED_BYTES: i64 = 1 << 32;

/// Decodes the messages of one stream.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// The schema that was planned.
    planned: SchemaRef,
    /// The schema that the stream begins with: dictionaries have their numbers in it.
    sent: Option<SchemaRef>,
    dictionaries: HashMap<i64, ArrayRef>,
    checks_values: bool,
}

impl Decoder {
    /// A decoder for rows of this schema; one without fields takes what comes.
    pub(crate) fn new(planned: SchemaRef, checks_values: bool) -> Self {
        Self {
            planned,
            sent: None,
            dictionaries: HashMap::new(),
            checks_values,
        }
    }

    /// The schema that the stream began with.
    pub(crate) fn sent(&self) -> Option<&SchemaRef> {
        self.sent.as_ref()
    }

    /// The rows of a message, if it has any.
    ///
    /// # Errors
    /// A message that is none, that does not fit what came before, or that the stream's schema does not allow.
    pub(crate) fn message(&mut self, message: &FlightMessage) -> Result<Option<RecordBatch>> {
        if message.header.is_empty() {
            // Metadata by itself.
            return Ok(None);
        }
        let ipc = root_as_message(&message.header).map_err(Error::protocol)?;
        let body = message.body.clone().unwrap_or_else(|| Buffer::from([]));
        match ipc.header_type() {
            MessageHeader::Schema => self.schema(&ipc).map(|()| None),
            MessageHeader::DictionaryBatch => self.dictionary(&ipc, &body).map(|()| None),
            MessageHeader::RecordBatch => self.rows(&ipc, &body).map(Some),
            other => Err(Error::protocol(format!("a message of the kind {other:?}"))),
        }
    }

    fn schema(&mut self, message: &Message<'_>) -> Result<()> {
        let schema = message.header_as_schema();
        let schema = fb_to_schema(schema.ok_or_else(|| Error::protocol("a schema message without a schema"))?);
        let schema = Arc::new(schema);
        self.planned = agreed(&self.planned, &schema)?;
        self.sent = Some(schema);
        Ok(())
    }

    fn dictionary(&mut self, message: &Message<'_>, body: &Buffer) -> Result<()> {
        let batch = message.header_as_dictionary_batch();
        let batch = batch.ok_or_else(|| Error::protocol("a dictionary message without a dictionary"))?;
        let values = batch
            .data()
            .ok_or_else(|| Error::protocol("a dictionary without values"))?;
        check_places(&values, body)?;
        let sent = self.sent.as_ref().ok_or_else(no_schema)?;
        let flag = self.flag();
        read_dictionary_impl(
            body,
            batch,
            sent,
            &mut self.dictionaries,
            &message.version(),
            false,
            flag,
        )?;
        Ok(())
    }

    fn rows(&mut self, message: &Message<'_>, body: &Buffer) -> Result<RecordBatch> {
        let batch = message.header_as_record_batch();
        let batch = batch.ok_or_else(|| Error::protocol("a batch message without a batch"))?;
        check_places(&batch, body)?;
        let sent = Arc::clone(self.sent.as_ref().ok_or_else(no_schema)?);
        let version = message.version();
        let decoder = RecordBatchDecoder::try_new(body, batch, sent, &self.dictionaries, &version)?;
        let decoder = decoder.with_require_alignment(false).with_skip_validation(self.flag());
        let rows = decoder.read_record_batch()?;
        if !self.checks_values {
            for column in rows.columns() {
                column.to_data().validate()?;
            }
        }
        Ok(as_planned(&self.planned, &rows)?)
    }

    #[expect(unsafe_code, reason = "validating values would read all of them")]
    fn flag(&self) -> UnsafeFlag {
        let mut flag = UnsafeFlag::new();
        // SAFETY: the values are right by the word of the server, which this client trusts with them or else checks them; their
        // layout is checked by `check_places` before and by `validate` after.
        unsafe { flag.set(!self.checks_values) };
        flag
    }
}

/// The schema that a read's batches have: what was planned, where a stream sends that; what is sent, where nothing was.
///
/// # Errors
/// A stream of other columns.
pub(crate) fn agreed(planned: &SchemaRef, sent: &SchemaRef) -> Result<SchemaRef> {
    if planned.fields().is_empty() {
        return Ok(Arc::clone(sent));
    }
    let mut fields = planned.fields().iter().zip(sent.fields());
    let same = |(planned, sent): (&FieldRef, &FieldRef)| {
        planned.name() == sent.name() && planned.data_type() == sent.data_type()
    };
    if planned.fields().len() == sent.fields().len() && fields.all(same) {
        return Ok(Arc::clone(planned));
    }
    let names = |schema: &SchemaRef| {
        schema
            .fields()
            .iter()
            .map(|field| field.to_string())
            .collect::<Vec<_>>()
    };
    let (sent, planned) = (names(sent), names(planned));
    Err(Error::protocol(format!(
        "a stream of {sent:?}, where {planned:?} was planned"
    )))
}

/// The rows with the schema that all batches of a read have, whichever stream they come from.
pub(crate) fn as_planned(schema: &SchemaRef, rows: &RecordBatch) -> std::result::Result<RecordBatch, ArrowError> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), rows.columns().to_vec(), &options)
}

fn no_schema() -> Error {
    Error::protocol("rows before their schema")
}

/// Checks that buffers are within the body, and that no length is below zero.
fn check_places(batch: &Described<'_>, body: &Buffer) -> Result<()> {
    let nodes = batch.nodes().into_iter().flatten();
    let counts = nodes
        .flat_map(|node| [node.length(), node.null_count()])
        .chain([batch.length()]);
    if counts.into_iter().any(|count| usize::try_from(count).is_err()) {
        return Err(Error::protocol("an array of less than no rows"));
    }
    let is_packed = batch.compression().is_some();
    for place in batch.buffers().into_iter().flatten() {
        let begin = usize::try_from(place.offset()).ok();
        let length = usize::try_from(place.length()).ok();
        let end = begin.zip(length).and_then(|(begin, length)| begin.checked_add(length));
        let buffer = begin.zip(end).and_then(|(begin, end)| body.as_slice().get(begin..end));
        let buffer = buffer.ok_or_else(|| Error::protocol("a buffer that is not within its message"))?;
        if is_packed && !buffer.is_empty() {
            let unpacked = buffer.first_chunk().map(|length| i64::from_le_bytes(*length));
            if unpacked.is_none_or(|bytes| !(-1..=MAX_UNPACKED_BYTES).contains(&bytes)) {
                return Err(Error::protocol("a compressed buffer of an impossible length"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use arrow::array::{DictionaryArray, Int32Array, Int64Array, ListArray, StringArray, StringViewArray, StructArray};
    use arrow::compute::concat_batches;
    use arrow::datatypes::{DataType, Field, Int32Type, Int64Type};
    use arrow::ipc::CompressionType;
    use arrow::ipc::writer::IpcWriteOptions;
    use arrow_flight::encode::FlightDataEncoderBuilder;
    use futures::{TryStreamExt, stream};

    use super::*;

    fn rows(count: i64) -> RecordBatch {
        let numbers: Int64Array = (0..count).map(|n| (n % 3 > 0).then_some(n)).collect();
        let names: StringArray = (0..count).map(|n| Some(format!("name {n}"))).collect();
        let views: StringViewArray = (0..count).map(|n| Some(format!("a view of the number {n}"))).collect();
        let words: DictionaryArray<Int32Type> = (0..count)
            .map(|n| ["one", "two"].get(usize::try_from(n % 3).unwrap()).copied())
            .collect();
        let lists = ListArray::from_iter_primitive::<Int64Type, _, _>((0..count).map(|n| Some(vec![Some(n), None])));
        let inner: ArrayRef = Arc::new(
            (0..count)
                .map(|n| Some(i32::try_from(n).unwrap()))
                .collect::<Int32Array>(),
        );
        let structs = StructArray::from(vec![(Arc::new(Field::new("i", DataType::Int32, true)), inner)]);
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("numbers", Arc::new(numbers)),
            ("names", Arc::new(names)),
            ("views", Arc::new(views)),
            ("words", Arc::new(words)),
            ("lists", Arc::new(lists)),
            ("structs", Arc::new(structs)),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
    }

    async fn sent(batches: Vec<RecordBatch>, compression: Option<CompressionType>) -> Vec<FlightMessage> {
        let options = IpcWriteOptions::default().try_with_compression(compression).unwrap();
        let encoder = FlightDataEncoderBuilder::new()
            .with_options(options)
            .with_dictionary_handling(arrow_flight::encode::DictionaryHandling::Resend)
            .build(stream::iter(batches.into_iter().map(Ok)));
        let messages: Vec<_> = encoder.try_collect().await.unwrap();
        let message = |data: arrow_flight::FlightData| FlightMessage {
            header: data.data_header.to_vec(),
            metadata: Vec::new(),
            body: (!data.data_body.is_empty()).then(|| Buffer::from(data.data_body.to_vec())),
        };
        messages.into_iter().map(message).collect()
    }

    #[tokio::test]
    async fn every_kind_of_array_reads_back_plain_and_compressed_checked_or_not() {
        let batches = vec![rows(100), rows(7), rows(0)];
        let expected = concat_batches(&batches[0].schema(), &batches).unwrap();
        for compression in [None, Some(CompressionType::LZ4_FRAME), Some(CompressionType::ZSTD)] {
            for checks in [false, true] {
                let mut decoder = Decoder::new(expected.schema(), checks);
                let messages = sent(batches.clone(), compression).await;
                let read: Vec<_> = messages
                    .iter()
                    .filter_map(|message| decoder.message(message).unwrap())
                    .collect();
                assert!(
                    read.iter()
                        .all(|batch| Arc::ptr_eq(&batch.schema(), &expected.schema()))
                );
                assert_eq!(concat_batches(&expected.schema(), &read).unwrap(), expected);
            }
        }
    }

    #[tokio::test]
    async fn a_stream_of_another_schema_is_refused() {
        let messages = sent(vec![rows(3)], None).await;
        let other = RecordBatch::try_from_iter([("a", Arc::new(Int32Array::from(vec![1])) as ArrayRef)]).unwrap();
        let error = Decoder::new(other.schema(), true).message(&messages[0]).unwrap_err();
        assert!(error.message().contains("numbers"), "{error}");
        let error = Decoder::new(rows(3).schema(), true)
            .message(messages.last().unwrap())
            .unwrap_err();
        assert!(error.message().contains("before their schema"), "{error}");
    }

    #[tokio::test]
    async fn a_body_that_is_too_short_is_an_error_and_no_panic() {
        for checks in [false, true] {
            let mut messages = sent(vec![rows(100)], None).await;
            let mut decoder = Decoder::new(rows(0).schema(), checks);
            let mut last = messages.pop().unwrap();
            for message in &messages {
                decoder.message(message).unwrap();
            }
            last.body = last.body.map(|body| body.slice_with_length(0, body.len() / 2));
            let error = decoder.message(&last).unwrap_err();
            assert!(error.message().contains("not within its message"), "{error}");
        }
    }

    #[tokio::test]
    async fn values_are_looked_at_only_where_they_are_checked() {
        let batch =
            RecordBatch::try_from_iter([("s", Arc::new(StringArray::from(vec!["abc", "de"])) as ArrayRef)]).unwrap();
        for checks in [false, true] {
            let mut messages = sent(vec![batch.clone()], None).await;
            let rows = messages.last_mut().unwrap();
            let mut body = rows.body.take().unwrap().to_vec();
            let at = body.windows(3).position(|bytes| bytes == b"abc").unwrap();
            body[at + 1] = 0xff;
            rows.body = Some(Buffer::from(body));
            let mut decoder = Decoder::new(batch.schema(), checks);
            let read: Result<Vec<_>> = messages.iter().map(|message| decoder.message(message)).collect();
            assert_eq!(read.is_err(), checks, "{read:?}");
        }
    }
}
