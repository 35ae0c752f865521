//! The protocol by hand, for what the client would not say.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A frame whose prefix announces so many inline bytes.
pub(super) fn frame(header: &[u8], inline_bytes: u32) -> Vec<u8> {
    let header_bytes = u32::try_from(header.len()).unwrap();
    [&header_bytes.to_le_bytes(), &inline_bytes.to_le_bytes(), header].concat()
}

/// The request for a ticket.
pub(super) fn get(ticket: &[u8]) -> String {
    let ticket = STANDARD.encode(ticket);
    format!(r#"{{"get":{{"ticket":"{ticket}"}}}}"#)
}

/// Sends one header.
pub(super) fn say(stream: &mut UnixStream, header: &str) {
    stream.write_all(&frame(header.as_bytes(), 0)).unwrap();
}

/// The next header; descriptors and inline bytes are dropped. None where the connection ends.
pub(super) fn hear(stream: &mut UnixStream) -> Option<String> {
    let mut prefix = [0; 8];
    stream.read_exact(&mut prefix).ok()?;
    let length = |at: usize| {
        u32::from_le_bytes(prefix[at..at + 4].try_into().unwrap())
            .try_into()
            .unwrap()
    };
    let (mut header, mut inline) = (vec![0; length(0)], vec![0; length(4)]);
    stream.read_exact(&mut header).ok()?;
    stream.read_exact(&mut inline).ok()?;
    Some(String::from_utf8(header).unwrap())
}

/// The headers up to the end of a stream, or of the connection.
pub(super) fn hear_stream(stream: &mut UnixStream) -> Vec<String> {
    let mut headers = Vec::new();
    while let Some(header) = hear(stream) {
        let is_last = header.starts_with(r#"{"end""#) || header.starts_with(r#"{"error""#);
        headers.push(header);
        if is_last {
            break;
        }
    }
    headers
}
