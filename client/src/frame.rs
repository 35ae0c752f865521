//! Flight messages out of the bytes of a DoGet, however these are cut: no I/O here.
//!
//! ```text
//! gRPC message:  00 | length u32 BE | FlightData
//! FlightData:    tag varint | length varint | bytes, field after field: 2 header, 3 app_metadata, 1000 body
//! ```
//! A body is copied once, from the transport's bytes to where its arrays will lie. Its length is known before it comes, so that
//! whoever drives this can wait for room first: [`Step::Body`].

use arrow::buffer::Buffer;
use bytes::{Buf, Bytes};

use crate::error::{Error, Result};
use crate::pool::Filling;

/// The gRPC message prefix: a compression flag and the length.
const PREFIX_BYTES: usize = 5;
/// The longest header, and the longest metadata: a header has some 16 bytes a buffer.
const MAX_FIELD_BYTES: usize = 64 << 20;

const HEADER_FIELD: u64 = 2;
const METADATA_FIELD: u64 = 3;
const BODY_FIELD: u64 = 1000;

/// A Flight message.
#[derive(Debug, Default)]
pub(crate) struct FlightMessage {
    /// The IPC message's flatbuffer.
    pub(crate) header: Vec<u8>,
    /// Flight's `app_metadata`.
    pub(crate) metadata: Vec<u8>,
    /// The IPC message's body.
    pub(crate) body: Option<Buffer>,
}

/// What to do next.
#[derive(Debug)]
pub(crate) enum Step {
    /// All bytes are used; more are needed.
    More,
    /// Memory for a body of so many bytes is needed: [`Parser::give`].
    Body(usize),
    /// A message is complete.
    Message(FlightMessage),
}

/// Where in the bytes of a stream one is.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    state: State,
    message: FlightMessage,
    /// Bytes of the message that are still to come.
    left: usize,
}

#[derive(Debug)]
enum State {
    /// Before or within the message's prefix.
    Prefix(Vec<u8>),
    /// Before or within a field's tag.
    Tag(Varint),
    /// Before or within the length of a field of bytes.
    Length(u64, Varint),
    /// Within the bytes of a header or metadata, so many to come.
    Field(u64, usize),
    /// Before a body of so many bytes.
    Waiting(usize),
    /// Within a body.
    Body(Filling),
    /// Within something else, so many bytes to come.
    Skip(usize),
    /// Within a number of no interest.
    Number(Varint),
}

#[derive(Debug, Clone, Copy, Default)]
struct Varint {
    value: u64,
    shift: u32,
}

impl Default for State {
    fn default() -> Self {
        Self::Prefix(Vec::with_capacity(PREFIX_BYTES))
    }
}

impl Parser {
    /// Uses bytes up to the next thing that somebody has to do. What is left of `data` is for the next call.
    ///
    /// # Errors
    /// Bytes that are no Flight messages; the stream is then over.
    pub(crate) fn step(&mut self, data: &mut Bytes) -> Result<Step> {
        loop {
            if self.left == 0 && matches!(&self.state, State::Tag(tag) if tag.shift == 0) {
                self.state = State::default();
                return Ok(Step::Message(std::mem::take(&mut self.message)));
            }
            if let State::Waiting(bytes) = self.state {
                return Ok(Step::Body(bytes));
            }
            if data.is_empty() {
                return Ok(Step::More);
            }
            self.take(data)?;
        }
    }

    /// Gives the memory for the body that [`Step::Body`] asked for.
    pub(crate) fn give(&mut self, memory: Filling) -> Result<()> {
        self.state = State::Body(memory);
        self.finish_body()
    }

    /// Whether the stream may end here.
    pub(crate) fn is_between_messages(&self) -> bool {
        matches!(&self.state, State::Prefix(prefix) if prefix.is_empty())
    }

    /// Uses some of `data`, which is not empty.
    fn take(&mut self, data: &mut Bytes) -> Result<()> {
        match &mut self.state {
            State::Prefix(prefix) => {
                prefix.push(data.get_u8());
                if prefix.len() == PREFIX_BYTES {
                    self.begin()?;
                }
                return Ok(());
            }
            _ if self.left == 0 => return Err(Error::protocol("a field that goes on after its message")),
            State::Tag(tag) => {
                self.left -= 1;
                if let Some(tag) = tag.push(data.get_u8())? {
                    self.state = after_tag(tag)?;
                }
            }
            State::Number(number) => {
                self.left -= 1;
                if number.push(data.get_u8())?.is_some() {
                    self.state = State::Tag(Varint::default());
                }
            }
            State::Length(field, length) => {
                self.left -= 1;
                let field = *field;
                if let Some(length) = length.push(data.get_u8())? {
                    self.field(field, length)?;
                }
            }
            State::Field(field, left) => {
                let count = data.len().min(*left);
                let into = if *field == HEADER_FIELD {
                    &mut self.message.header
                } else {
                    &mut self.message.metadata
                };
                into.extend_from_slice(&data[..count]);
                *left -= count;
                let is_done = *left == 0;
                self.used(data, count, is_done);
            }
            State::Body(body) => {
                let count = body.fill(data);
                self.used(data, count, false);
                self.finish_body()?;
            }
            State::Skip(left) => {
                let count = data.len().min(*left);
                *left -= count;
                let is_done = *left == 0;
                self.used(data, count, is_done);
            }
            State::Waiting(_) => {}
        }
        Ok(())
    }

    /// The prefix is complete.
    fn begin(&mut self) -> Result<()> {
        let State::Prefix(prefix) = &self.state else {
            return Ok(());
        };
        let &[compressed, a, b, c, d] = prefix.as_slice() else {
            return Err(Error::protocol("a message without a prefix"));
        };
        if compressed != 0 {
            return Err(Error::protocol("a message that is compressed as a whole"));
        }
        self.left = usize::try_from(u32::from_be_bytes([a, b, c, d])).map_err(Error::protocol)?;
        self.state = State::Tag(Varint::default());
        Ok(())
    }

    /// A field of bytes begins.
    fn field(&mut self, field: u64, length: u64) -> Result<()> {
        let length = usize::try_from(length).ok().filter(|length| *length <= self.left);
        let length = length.ok_or_else(|| Error::protocol("a field that is longer than its message"))?;
        self.state = match field {
            HEADER_FIELD | METADATA_FIELD if length > MAX_FIELD_BYTES => {
                return Err(Error::protocol(format!("a header of {length} bytes")));
            }
            HEADER_FIELD => {
                // Of fields that come again the last one counts.
                self.message.header = Vec::with_capacity(length);
                within(length, State::Field(field, length))
            }
            METADATA_FIELD => {
                self.message.metadata = Vec::with_capacity(length);
                within(length, State::Field(field, length))
            }
            BODY_FIELD => within(length, State::Waiting(length)),
            _ => within(length, State::Skip(length)),
        };
        Ok(())
    }

    fn used(&mut self, data: &mut Bytes, count: usize, is_done: bool) {
        data.advance(count);
        self.left -= count;
        if is_done {
            self.state = State::Tag(Varint::default());
        }
    }

    /// Keeps the body if all of it is there.
    fn finish_body(&mut self) -> Result<()> {
        if !matches!(&self.state, State::Body(body) if body.missing() == 0) {
            return Ok(());
        }
        let state = std::mem::replace(&mut self.state, State::Tag(Varint::default()));
        if let State::Body(body) = state {
            let body = body
                .finish()
                .ok_or_else(|| Error::protocol("a body that is not whole"))?;
            self.message.body = Some(body);
        }
        Ok(())
    }
}

/// The state for a field's bytes, if there are any.
fn within(length: usize, state: State) -> State {
    if length == 0 {
        State::Tag(Varint::default())
    } else {
        state
    }
}

/// What follows a tag: a field's number and how its value is written.
fn after_tag(tag: u64) -> Result<State> {
    match tag & 7 {
        0 => Ok(State::Number(Varint::default())),
        1 => Ok(State::Skip(8)),
        2 => Ok(State::Length(tag >> 3, Varint::default())),
        5 => Ok(State::Skip(4)),
        other => Err(Error::protocol(format!("a field of the wire type {other}"))),
    }
}

impl Varint {
    /// Adds a byte; the number if it is complete.
    fn push(&mut self, byte: u8) -> Result<Option<u64>> {
        if self.shift > 63 {
            return Err(Error::protocol("a number of more than 64 bits"));
        }
        self.value |= u64::from(byte & 0x7f) << self.shift;
        self.shift += 7;
        Ok((byte < 0x80).then_some(self.value))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_flight::{FlightData, FlightDescriptor};
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::pool::Pool;

    /// A message as gRPC sends it.
    fn framed(message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[0], &length[..], message].concat()
    }

    /// Feeds pieces of the bytes, and gives what came out.
    fn parsed(parser: &mut Parser, pool: &Arc<Pool>, pieces: &[&[u8]]) -> Result<Vec<FlightMessage>> {
        let mut messages = Vec::new();
        for piece in pieces {
            let mut data = Bytes::copy_from_slice(piece);
            loop {
                match parser.step(&mut data)? {
                    Step::More => break,
                    Step::Body(bytes) => parser.give(pool.take(bytes)?)?,
                    Step::Message(message) => messages.push(message),
                }
            }
            assert!(data.is_empty());
        }
        Ok(messages)
    }

    fn pieces<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let ends = cuts.iter().copied().chain([bytes.len()]);
        let begins = std::iter::once(0).chain(cuts.iter().copied());
        begins.zip(ends).map(|(begin, end)| &bytes[begin..end]).collect()
    }

    fn data() -> impl Strategy<Value = FlightData> {
        let field = || prop::collection::vec(any::<u8>(), 0..300);
        (field(), field(), field(), any::<bool>()).prop_map(|(header, metadata, body, described)| FlightData {
            flight_descriptor: described.then(|| FlightDescriptor::new_path(vec!["a".to_owned()])),
            data_header: header.into(),
            app_metadata: metadata.into(),
            data_body: body.into(),
        })
    }

    /// A field with a number that FlightData does not have.
    fn unknown() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            Just(vec![0x20, 0xff, 0x01]),
            Just([&[0x29][..], &[7; 8]].concat()),
            Just(vec![0x32, 3, 1, 2, 3]),
            Just([&[0x3d][..], &[9; 4]].concat()),
            Just(Vec::new()),
        ]
    }

    proptest! {
        #[test]
        fn messages_come_out_however_their_bytes_are_cut(
            sent in prop::collection::vec((unknown(), data(), unknown()), 0..5),
            cuts in prop::collection::vec(any::<usize>(), 0..60),
        ) {
            let pool = Pool::new(1 << 20);
            let mut bytes = Vec::new();
            for (before, data, after) in &sent {
                bytes.extend(framed(&[&before[..], &data.encode_to_vec(), after].concat()));
            }
            let mut parser = Parser::default();
            let messages = parsed(&mut parser, &pool, &pieces(&bytes, &cuts)).unwrap();
            prop_assert!(parser.is_between_messages());
            prop_assert_eq!(messages.len(), sent.len());
            for (message, (_, data, _)) in messages.iter().zip(&sent) {
                prop_assert_eq!(&message.header, &data.data_header);
                prop_assert_eq!(&message.metadata, &data.app_metadata);
                let body = message.body.as_ref().map_or(&[][..], |body| body.as_slice());
                prop_assert_eq!(body, &data.data_body[..]);
            }
        }

        #[test]
        fn any_bytes_are_messages_or_an_error(bytes: Vec<u8>, cuts in prop::collection::vec(any::<usize>(), 0..9)) {
            // Lengths that are not there need memory that is not touched; short ones will do.
            let bytes = framed(&bytes);
            let _ = parsed(&mut Parser::default(), &Pool::new(1 << 20), &pieces(&bytes, &cuts));
        }

        #[test]
        fn a_stream_that_is_cut_off_is_not_between_messages(data in data(), at in any::<usize>()) {
            let bytes = framed(&data.encode_to_vec());
            let cut = 1 + at % (bytes.len() - 1);
            let mut parser = Parser::default();
            prop_assert!(parser.is_between_messages());
            let messages = parsed(&mut parser, &Pool::new(1 << 20), &[&bytes[..cut]]).unwrap();
            prop_assert!(messages.is_empty() && !parser.is_between_messages());
        }
    }

    #[test]
    fn what_is_no_flight_message_is_refused() {
        let refused = |bytes: &[u8]| {
            let error = parsed(&mut Parser::default(), &Pool::new(1 << 20), &[bytes]).unwrap_err();
            error.message().to_owned()
        };
        assert!(refused(&[1, 0, 0, 0, 0]).contains("compressed"));
        assert!(refused(&framed(&[0x12, 2, 0])).contains("longer than its message"));
        assert!(refused(&framed(&[0x13, 2, 0])).contains("wire type 3"));
        assert!(refused(&framed(&[0xff; 11])).contains("more than 64 bits"));
        assert!(refused(&[&framed(&[0x12])[..], &[0]].concat()).contains("after its message"));
    }
}
