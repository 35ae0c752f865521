//! The values of a statement's parameters: from the messages that bind them, and as sealed handles and tickets hold them.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use arrow_flight::FlightData;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use bytes::Bytes;
use futures::{FutureExt, TryStreamExt, stream};
use tonic::Streaming;

use super::super::observe::Failure;
use crate::error::ServiceError;
use crate::node::Node;

/// Most bytes that the values of one statement may have, sent and sealed.
const MAX_BYTES: usize = 512 << 10;
/// Most messages that bind one row.
const MAX_MESSAGES: usize = 1024;

/// The row that a client sends to bind, `first` being the message that came already.
///
/// # Errors
/// INVALID_ARGUMENT for what is not one row, or no rows at all in Arrow's form; RESOURCE_EXHAUSTED for too much of it.
pub(super) async fn received(
    node: &Arc<Node>,
    first: FlightData,
    rest: &mut Streaming<FlightData>,
) -> Result<RecordBatch, Failure> {
    let mut messages = vec![first];
    let mut bytes = 0;
    while let Some(message) = rest.message().await? {
        bytes += message.data_body.len() + message.data_header.len();
        if bytes > MAX_BYTES || messages.len() == MAX_MESSAGES {
            return Err(too_much().into());
        }
        messages.push(message);
    }
    // Whoever sends may send anything: what a decoder panics at ends there, with the threads that decode files.
    let decoded = node.cache.compute(move || decoded(messages)).await;
    let batches = decoded.map_err(ServiceError::from)?.map_err(|error| refused(&error))?;
    Ok(one_row(batches)?)
}

/// The values as sealed contents hold them: an Arrow IPC stream.
///
/// # Errors
/// RESOURCE_EXHAUSTED where they are too many bytes.
pub(super) fn sealed(row: &RecordBatch) -> Result<Bytes, ServiceError> {
    let write = || {
        let mut writer = StreamWriter::try_new(Vec::new(), &row.schema())?;
        writer.write(row)?;
        writer.into_inner()
    };
    let bytes = write().map_err(|error| ServiceError::invalid(format!("the parameters: {error}")))?;
    if bytes.len() > MAX_BYTES {
        return Err(too_much());
    }
    Ok(bytes.into())
}

/// Reads what [`sealed`] wrote.
///
/// # Errors
/// INTERNAL for what it did not write.
pub(super) fn opened(bytes: &[u8]) -> Result<RecordBatch, ServiceError> {
    let read = || StreamReader::try_new(bytes, None)?.next().transpose();
    let internal = |what: String| ServiceError::Internal { what };
    let row = read().map_err(|error| internal(format!("sealed parameters: {error}")))?;
    row.ok_or_else(|| internal("sealed parameters hold no row".to_owned()))
}

fn decoded(messages: Vec<FlightData>) -> Result<Vec<RecordBatch>, FlightError> {
    let messages = stream::iter(messages.into_iter().map(Ok));
    let batches = FlightRecordBatchStream::new_from_flight_data(messages).try_collect();
    // All messages are there, so nothing is waited for.
    let ended = || FlightError::from(ArrowError::IpcError("the messages end too early".to_owned()));
    batches.now_or_never().unwrap_or_else(|| Err(ended()))
}

fn one_row(batches: Vec<RecordBatch>) -> Result<RecordBatch, ServiceError> {
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let mut filled = batches.into_iter().filter(|batch| batch.num_rows() > 0);
    match (rows, filled.next()) {
        (1, Some(row)) => Ok(row),
        _ => Err(ServiceError::invalid(format!(
            "{rows} rows of parameters were bound; a query takes one row at a time"
        ))),
    }
}

fn refused(error: &FlightError) -> ServiceError {
    ServiceError::invalid(format!("the parameters are no Arrow record batches: {error}"))
}

fn too_much() -> ServiceError {
    ServiceError::Full {
        what: format!(
            "the parameters of one statement may have {MAX_BYTES} bytes in {MAX_MESSAGES} messages, and no more"
        ),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, StringArray};
    use arrow_flight::encode::FlightDataEncoderBuilder;

    use super::*;

    fn rows(count: i64) -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..count));
        RecordBatch::try_from_iter([("$1", numbers)]).unwrap()
    }

    async fn messages(batches: Vec<RecordBatch>) -> Vec<FlightData> {
        let encoder = FlightDataEncoderBuilder::new().build(stream::iter(batches.into_iter().map(Ok)));
        encoder.try_collect().await.unwrap()
    }

    #[tokio::test]
    async fn one_row_is_bound_however_it_was_sent() {
        let sent = messages(vec![rows(0), rows(1)]).await;
        assert_eq!(one_row(decoded(sent).unwrap()).unwrap(), rows(1));
    }

    #[tokio::test]
    async fn no_row_and_two_are_refused_with_their_number() {
        for (batches, count) in [
            (vec![rows(0)], "0 rows"),
            (vec![rows(2)], "2 rows"),
            (vec![rows(1), rows(1)], "2 rows"),
        ] {
            let error = one_row(decoded(messages(batches).await).unwrap())
                .unwrap_err()
                .to_string();
            assert!(error.starts_with(count), "{error}");
        }
    }

    #[test]
    fn values_are_sealed_and_opened_to_the_same() {
        assert_eq!(opened(&sealed(&rows(1)).unwrap()).unwrap(), rows(1));
        let long: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(MAX_BYTES)]));
        let long = RecordBatch::try_from_iter([("$1", long)]).unwrap();
        assert_eq!(sealed(&long).unwrap_err().code(), tonic::Code::ResourceExhausted);
        assert!(opened(b"").is_err());
    }

    #[tokio::test]
    async fn messages_that_are_cut_short_are_refused_and_nothing_panics() {
        let whole = messages(vec![rows(1)]).await;
        for at in 0..whole.len() {
            for length in 0..whole[at].data_header.len() {
                let mut cut = whole.clone();
                cut[at].data_header.truncate(length);
                let _ = std::panic::catch_unwind(|| decoded(cut).map(one_row));
            }
        }
        let no_schema = whole[1..].to_vec();
        assert!(decoded(no_schema).is_err());
    }
}
