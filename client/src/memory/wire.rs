//! What is on the socket: frames of a length, a JSON header, and bytes. Client and server share these definitions; the
//! protocol in words is `PROTOCOL.md`, beside the server's side of it.
//!
//! ```text
//! frame := header length u32 LE | inline length u32 LE | header, JSON | inline bytes
//! ```

use arrow::datatypes::{DataType, Schema};
use arrow::error::ArrowError;
use arrow::ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions, write_message};
use serde::{Deserialize, Serialize};

/// Bytes before a header.
pub const PREFIX_BYTES: usize = 8;
/// The longest header of either side.
pub const MAX_HEADER_BYTES: usize = 16 << 20;
/// Where a buffer begins within the inline bytes, a multiple of this many.
pub const INLINE_ALIGNMENT_BYTES: usize = 64;
/// Descriptors that one frame brings, at most. The kernel takes 253.
pub const MAX_SEGMENTS_PER_FRAME: usize = 128;

/// What a client says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Give me the rows of a ticket.
    Get(Get),
    /// These are not mapped any more.
    Release(Vec<SegmentId>),
    /// End the stream that is under way.
    Cancel {},
}

/// Which rows.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Get {
    /// The ticket, in base64.
    pub ticket: String,
    /// Bytes that a batch of columns that are all kept may have; none for what the server likes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_bytes: Option<u64>,
}

/// What the server says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The schema message of Arrow IPC, with its length in front, in base64.
    Schema(String),
    /// Memory that is handed over; the frame's first byte brings as many descriptors.
    Segments(Vec<Segment>),
    /// Rows.
    Batch(Batch),
    /// The stream is complete.
    End {
        /// How many batches it had.
        batches: u64,
    },
    /// The stream failed.
    Error {
        /// The gRPC status code.
        code: i32,
        /// Its name.
        code_name: String,
        /// What happened.
        message: String,
    },
}

/// The number of a piece of memory that was handed over, which a connection uses once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SegmentId(pub i64);

impl SegmentId {
    /// Not a segment: the frame's own inline bytes.
    pub const INLINE: Self = Self(-1);
}

/// A piece of memory that is handed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Its number.
    pub id: SegmentId,
    /// Its length.
    pub bytes: u64,
}

/// Rows.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Its number within the stream, from 0.
    pub index: u64,
    /// How many rows.
    pub rows: u64,
    /// The slowest tier that the rows came from.
    pub source: String,
    /// An array for each field of the schema.
    pub columns: Vec<Array>,
    /// Segments that earlier batches of this stream used, and that the rest of it does not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub done: Vec<SegmentId>,
}

/// Arrow's `ArrayData` with buffers by place.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Array {
    /// Elements.
    pub length: u64,
    /// Elements before the first one, in the validity bitmap and in the buffers alike.
    pub offset: u64,
    /// How many of the elements are null.
    pub nulls: u64,
    /// The bitmap of those that are not.
    pub validity: Option<Place>,
    /// The type's buffers.
    pub buffers: Vec<Place>,
    /// The type's children.
    pub children: Vec<Array>,
}

/// Where a buffer is: which segment, where it begins there, and its length in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place(pub SegmentId, pub u64, pub u64);

impl Place {
    /// A buffer without bytes.
    pub const EMPTY: Self = Self(SegmentId::INLINE, 0, 0);
}

/// Lengths of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// Of the header.
    pub header_bytes: u32,
    /// Of the inline bytes after it.
    pub inline_bytes: u32,
}

impl Prefix {
    /// The lengths that a frame's first bytes say.
    #[must_use]
    pub fn read(bytes: [u8; PREFIX_BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h] = bytes;
        Self {
            header_bytes: u32::from_le_bytes([a, b, c, d]),
            inline_bytes: u32::from_le_bytes([e, f, g, h]),
        }
    }
}

/// Why a frame cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// More bytes than a frame takes.
    #[error("{what} of {bytes} bytes is more than the {limit_bytes} that a frame may have")]
    TooLarge {
        /// A header or an inline part.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// The longest that there may be.
        limit_bytes: usize,
    },
    /// What cannot be said in JSON.
    #[error("a header cannot be written")]
    Json(#[from] serde_json::Error),
}

/// A frame up to its inline bytes, of which there will be `inline_bytes`.
///
/// # Errors
/// A header over [`MAX_HEADER_BYTES`], inline bytes over what 32 bits say.
pub fn head(header: &impl Serialize, inline_bytes: usize) -> Result<Vec<u8>, FrameError> {
    let mut head = vec![0; PREFIX_BYTES];
    serde_json::to_writer(&mut head, header)?;
    let header_bytes = head.len() - PREFIX_BYTES;
    let within = |what, bytes: usize, limit_bytes: usize| {
        let fits = u32::try_from(bytes).ok().filter(|_| bytes <= limit_bytes);
        fits.ok_or(FrameError::TooLarge {
            what,
            bytes,
            limit_bytes,
        })
    };
    let limit_of_inline = usize::try_from(u32::MAX).unwrap_or(usize::MAX);
    let header_length = within("a header", header_bytes, MAX_HEADER_BYTES)?;
    let inline_length = within("an inline part", inline_bytes, limit_of_inline)?;
    head[..4].copy_from_slice(&header_length.to_le_bytes());
    head[4..PREFIX_BYTES].copy_from_slice(&inline_length.to_le_bytes());
    Ok(head)
}

/// A schema as `FlightInfo.schema` has it: an IPC message with its length in front.
///
/// # Errors
/// A schema that IPC cannot say.
pub fn schema_message(schema: &Schema) -> Result<Vec<u8>, ArrowError> {
    let options = IpcWriteOptions::default();
    let mut tracker = DictionaryTracker::new(false);
    let encoded = IpcDataGenerator::default().schema_to_bytes_with_dictionary_tracker(schema, &mut tracker, &options);
    let mut message = Vec::new();
    write_message(&mut message, encoded, &options)?;
    Ok(message)
}

/// The types of an array's children, in the order of its `ArrayData`.
#[must_use]
pub fn children(data_type: &DataType) -> Vec<&DataType> {
    match data_type {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => vec![item.data_type()],
        DataType::Struct(fields) => fields.iter().map(|field| field.data_type()).collect(),
        DataType::Union(fields, _) => fields.iter().map(|(_, field)| field.data_type()).collect(),
        DataType::Dictionary(_, values) => vec![values.as_ref()],
        DataType::RunEndEncoded(ends, values) => vec![ends.data_type(), values.data_type()],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of PROTOCOL.md.
    #[test]
    fn headers_are_written_as_the_protocol_shows_them() {
        let requests = [
            (
                Request::Get(Get {
                    ticket: "YWJj".to_owned(),
                    batch_bytes: None,
                }),
                r#"{"get":{"ticket":"YWJj"}}"#,
            ),
            (
                Request::Get(Get {
                    ticket: "YWJj".to_owned(),
                    batch_bytes: Some(2_097_152),
                }),
                r#"{"get":{"ticket":"YWJj","batch_bytes":2097152}}"#,
            ),
            (
                Request::Release(vec![SegmentId(7), SegmentId(9)]),
                r#"{"release":[7,9]}"#,
            ),
            (Request::Cancel {}, r#"{"cancel":{}}"#),
        ];
        for (request, text) in requests {
            assert_eq!(serde_json::to_string(&request).unwrap(), text);
            assert_eq!(serde_json::from_str::<Request>(text).unwrap(), request);
        }
        let column = Array {
            length: 3,
            offset: 0,
            nulls: 1,
            validity: Some(Place(SegmentId(7), 64, 1)),
            buffers: vec![Place(SegmentId(7), 0, 24)],
            children: Vec::new(),
        };
        let batch = Batch {
            index: 0,
            rows: 3,
            source: "memory".to_owned(),
            columns: vec![column],
            done: Vec::new(),
        };
        let answers = [
            (Answer::Schema("YWJj".to_owned()), r#"{"schema":"YWJj"}"#),
            (
                Answer::Segments(vec![Segment {
                    id: SegmentId(7),
                    bytes: 65,
                }]),
                r#"{"segments":[{"id":7,"bytes":65}]}"#,
            ),
            (
                Answer::Batch(batch),
                concat!(
                    r#"{"batch":{"index":0,"rows":3,"source":"memory","columns":[{"length":3,"offset":0,"nulls":1,"#,
                    r#""validity":[7,64,1],"buffers":[[7,0,24]],"children":[]}]}}"#,
                ),
            ),
            (Answer::End { batches: 1 }, r#"{"end":{"batches":1}}"#),
        ];
        for (answer, text) in answers {
            assert_eq!(serde_json::to_string(&answer).unwrap(), text);
            assert_eq!(serde_json::from_str::<Answer>(text).unwrap(), answer);
        }
    }

    #[test]
    fn a_frame_says_its_lengths() {
        let head = head(&Request::Cancel {}, 5).unwrap();
        assert_eq!(head[..PREFIX_BYTES], [13, 0, 0, 0, 5, 0, 0, 0]);
        let prefix = Prefix::read(head[..PREFIX_BYTES].try_into().unwrap());
        assert_eq!((prefix.header_bytes, prefix.inline_bytes), (13, 5));
    }

    #[test]
    fn a_header_that_is_too_long_is_refused() {
        let request = Request::Get(Get {
            ticket: "x".repeat(MAX_HEADER_BYTES),
            batch_bytes: None,
        });
        let error = head(&request, 0).unwrap_err().to_string();
        assert!(
            error.contains("a header of 167772") && error.contains("16777216"),
            "{error}"
        );
    }

    #[test]
    fn an_unknown_key_is_named() {
        for text in [r#"{"fetch":{}}"#, r#"{"get":{"ticket":"","columns":[]}}"#] {
            let error = serde_json::from_str::<Request>(text).unwrap_err().to_string();
            assert!(error.contains("`fetch`") || error.contains("`columns`"), "{error}");
        }
    }
}
