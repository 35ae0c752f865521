//! One Flight message as it goes out: a header and the arrays' own buffers.
//!
//! arrow-ipc's [`StreamEncoder`] gives the bytes of an IPC stream as a list of buffers, the arrays' by reference. Here they are
//! cut into messages again, still by reference, and framed for gRPC:
//!
//! ```text
//! 00 | length u32 BE | 12 varint header, zero-padded | 1A varint app_metadata | C2 3E varint | body buffers, padding
//! ```
//! The header's padding makes the body begin at a multiple of 64 within the message: a client that keeps the message in an
//! aligned buffer then has aligned arrays without a copy. Flatbuffers do not mind what follows them.
//!
//! [`StreamEncoder`]: arrow::ipc::writer::StreamEncoder

use std::collections::VecDeque;

use arrow::buffer::Buffer;
use arrow::error::ArrowError;
use arrow::ipc::root_as_message;
use arrow_flight::FlightData;
use bytes::{BufMut, Bytes, BytesMut};
use jetbridge_cache::scan::Charge;

use super::buffers::Buffers;

/// What an encapsulated IPC message begins with: a continuation mark and the header's length, 4 bytes each.
const IPC_PREFIX_BYTES: usize = 8;

/// The gRPC message prefix: a compression flag and the length, big endian.
const GRPC_PREFIX_BYTES: usize = 5;

/// Where the body begins, relative to the message, is a multiple of this many bytes.
const BODY_ALIGNMENT_BYTES: usize = 64;

/// Neighbouring pieces smaller than this are copied together: a vectored write takes sixteen buffers, and one more write
/// costs more than the copy. Not so for larger ones: a message of a hundred columns of 17 KiB cost the server 9 to 20 % more
/// CPU a GB where they were merged into blocks of 64, 128 or 256 KiB, though it took a quarter of the writes.
const MERGE_BELOW_BYTES: usize = 4 << 10;

const HEADER_TAG: u8 = 0x12;
const METADATA_TAG: u8 = 0x1A;
const BODY_TAG: [u8; 2] = [0xC2, 0x3E];

/// A Flight message before it is framed.
#[derive(Debug, Clone, Default)]
pub(super) struct Message {
    /// The IPC message's flatbuffer.
    pub(super) header: Bytes,
    /// Flight's `app_metadata`.
    pub(super) metadata: Bytes,
    /// The body, in order.
    pub(super) body: Vec<Bytes>,
    /// What the body is charged to.
    pub(super) charge: Charge,
}

impl Message {
    /// Bytes of header and body.
    pub(super) fn bytes(&self) -> usize {
        self.header.len() + self.body_bytes()
    }

    /// The message as tonic's generated code has it, its body copied into one piece.
    pub(super) fn into_flight_data(self) -> FlightData {
        let mut body = BytesMut::with_capacity(self.body_bytes());
        self.body.iter().for_each(|piece| body.put_slice(piece));
        FlightData::new()
            .with_data_header(self.header)
            .with_app_metadata(self.metadata)
            .with_data_body(body.freeze())
    }

    /// The message as gRPC sends it: pieces in order, buffers by reference.
    ///
    /// # Errors
    /// A message of 4 GiB or more, which gRPC cannot say.
    pub(super) fn into_buffers(self) -> Result<Buffers, ArrowError> {
        let body_bytes = self.body_bytes();
        let padding = self.header_padding(body_bytes);
        let header_bytes = self.header.len() + padding;
        let length = 1
            + varint_bytes(header_bytes)
            + header_bytes
            + self.metadata_and_body_prefix_bytes(body_bytes)
            + body_bytes;
        let length = u32::try_from(length).map_err(|_| ArrowError::IpcError(format!("a message of {length} bytes")))?;
        let mut prefix = BytesMut::with_capacity(GRPC_PREFIX_BYTES + header_bytes + self.metadata.len() + 32);
        prefix.put_u8(0);
        prefix.put_u32(length);
        prefix.put_u8(HEADER_TAG);
        put_varint(&mut prefix, header_bytes);
        prefix.put_slice(&self.header);
        prefix.put_bytes(0, padding);
        if !self.metadata.is_empty() {
            prefix.put_u8(METADATA_TAG);
            put_varint(&mut prefix, self.metadata.len());
            prefix.put_slice(&self.metadata);
        }
        if body_bytes > 0 {
            prefix.put_slice(&BODY_TAG);
            put_varint(&mut prefix, body_bytes);
        }
        Ok(merged(prefix, self.body).charged(self.charge))
    }

    fn body_bytes(&self) -> usize {
        self.body.iter().map(Bytes::len).sum()
    }

    /// Bytes between the padded header and the body.
    fn metadata_and_body_prefix_bytes(&self, body_bytes: usize) -> usize {
        let metadata = match self.metadata.len() {
            0 => 0,
            bytes => 1 + varint_bytes(bytes) + bytes,
        };
        let body = if body_bytes == 0 {
            0
        } else {
            BODY_TAG.len() + varint_bytes(body_bytes)
        };
        metadata + body
    }

    /// Zeros after the header that bring the body to its alignment. The header's length is written before it, and may itself
    /// grow by the padding: the second look settles that.
    fn header_padding(&self, body_bytes: usize) -> usize {
        let after = self.metadata_and_body_prefix_bytes(body_bytes);
        let padding_for = |length_bytes: usize| {
            let begins = 1 + length_bytes + self.header.len() + after;
            begins.next_multiple_of(BODY_ALIGNMENT_BYTES) - begins
        };
        let first = padding_for(varint_bytes(self.header.len()));
        padding_for(varint_bytes(self.header.len() + first))
    }
}

/// Cuts the bytes of an IPC stream into messages.
///
/// # Errors
/// Bytes that are no IPC stream.
pub(super) fn split(buffers: Vec<Buffer>) -> Result<Vec<Message>, ArrowError> {
    // An array without rows has buffers without bytes, which belong to no message.
    let mut pieces: VecDeque<Bytes> = buffers
        .into_iter()
        .filter(|buffer| !buffer.is_empty())
        .map(by_reference)
        .collect();
    let mut messages = Vec::with_capacity(1);
    while !pieces.is_empty() {
        let prefix = joined(take(&mut pieces, IPC_PREFIX_BYTES)?);
        let length = prefix.last_chunk::<4>().map_or(0, |length| u32::from_le_bytes(*length));
        let length = usize::try_from(length).map_err(|error| ArrowError::IpcError(error.to_string()))?;
        let header = joined(take(&mut pieces, length)?);
        let message = root_as_message(&header).map_err(|error| ArrowError::IpcError(error.to_string()))?;
        let body_bytes =
            usize::try_from(message.bodyLength()).map_err(|error| ArrowError::IpcError(error.to_string()))?;
        messages.push(Message {
            body: take(&mut pieces, body_bytes)?,
            header,
            ..Message::default()
        });
    }
    Ok(messages)
}

/// An Arrow buffer as bytes that keep it alive.
fn by_reference(buffer: Buffer) -> Bytes {
    struct Owner(Buffer);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            self.0.as_slice()
        }
    }
    Bytes::from_owner(Owner(buffer))
}

/// The next `count` bytes.
fn take(pieces: &mut VecDeque<Bytes>, mut count: usize) -> Result<Vec<Bytes>, ArrowError> {
    let mut taken = Vec::new();
    while count > 0 {
        let piece = pieces
            .front_mut()
            .ok_or_else(|| ArrowError::IpcError("the stream ends within a message".to_owned()))?;
        let part = piece.split_to(count.min(piece.len()));
        count -= part.len();
        taken.push(part);
        if piece.is_empty() {
            pieces.pop_front();
        }
    }
    Ok(taken)
}

fn joined(mut pieces: Vec<Bytes>) -> Bytes {
    if pieces.len() == 1 {
        return pieces.swap_remove(0);
    }
    pieces.concat().into()
}

/// The pieces after `prefix`, small neighbours copied together.
fn merged(prefix: BytesMut, body: Vec<Bytes>) -> Buffers {
    let mut buffers = Buffers::default();
    let mut open = prefix;
    for piece in body {
        if piece.len() < MERGE_BELOW_BYTES {
            open.put_slice(&piece);
            continue;
        }
        buffers.push(open.split().freeze());
        buffers.push(piece);
    }
    buffers.push(open.freeze());
    buffers
}

fn varint_bytes(value: usize) -> usize {
    let bits = usize::BITS - value.leading_zeros();
    usize::try_from(bits.div_ceil(7)).unwrap_or(10).max(1)
}

fn put_varint(out: &mut BytesMut, mut value: usize) {
    while value >= 0x80 {
        out.put_u8(u8::try_from(value & 0x7F).unwrap_or(0) | 0x80);
        value >>= 7;
    }
    out.put_u8(u8::try_from(value).unwrap_or(0));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    fn message(header: usize, metadata: usize, body: &[usize]) -> Message {
        Message {
            header: vec![7; header].into(),
            metadata: vec![8; metadata].into(),
            body: body.iter().map(|&bytes| vec![9; bytes].into()).collect(),
            ..Message::default()
        }
    }

    proptest! {
        #[test]
        fn buffers_are_what_protobuf_says(
            header in 0usize..40_000,
            metadata in 0usize..200,
            body in prop::collection::vec(0usize..9_000, 0..6),
        ) {
            let message = message(header, metadata, &body);
            let expected = message.clone().into_flight_data();
            let body_bytes = message.body_bytes();
            let bytes: Vec<u8> = message.into_buffers().unwrap().iter().flatten().copied().collect();
            let length = u32::from_be_bytes(bytes[1..5].try_into().unwrap());
            prop_assert_eq!(usize::try_from(length).unwrap(), bytes.len() - GRPC_PREFIX_BYTES);
            let decoded = FlightData::decode(&bytes[GRPC_PREFIX_BYTES..]).unwrap();
            prop_assert_eq!(&decoded.data_body, &expected.data_body);
            prop_assert_eq!(&decoded.app_metadata, &expected.app_metadata);
            prop_assert_eq!(&decoded.data_header[..header], &expected.data_header[..]);
            prop_assert!(decoded.data_header[header..].iter().all(|&byte| byte == 0));
            prop_assert_eq!((bytes.len() - GRPC_PREFIX_BYTES - body_bytes) % BODY_ALIGNMENT_BYTES, 0);
        }
    }

    #[test]
    fn large_buffers_are_not_copied_and_small_ones_are_merged() {
        let large = Bytes::from(vec![1; MERGE_BELOW_BYTES]);
        let body = vec![
            vec![2; 10].into(),
            large.clone(),
            vec![3; 10].into(),
            vec![4; 10].into(),
        ];
        let buffers = Message {
            header: vec![0; 64].into(),
            body,
            ..Message::default()
        }
        .into_buffers()
        .unwrap();
        assert_eq!(buffers.iter().len(), 3);
        assert_eq!(buffers.iter().nth(1).unwrap().as_ptr(), large.as_ptr());
    }
}
