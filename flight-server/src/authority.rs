//! Unix sockets as gRPC's C core names them.
//!
//! Clients that are built on it (pyarrow, C++, Python, Ruby) send the percent-escaped path of the socket as `:authority`, as in
//! `data%2Fflight.sock`. A `%` is no valid authority, and the HTTP/2 library here resets the stream before anybody can look at it.
//! So the bytes that come over a unix socket pass through here on their way there: in the header block of each request, `%` in
//! the value of `:authority` becomes `-`. Nothing else is touched, and nothing gets longer or shorter, so that both ends agree on
//! what is in the compression table.
//!
//! Finding the value needs no table: a header block is a row of fields whose lengths are said (RFC 7541, section 6), and C core
//! sends this one as it is, without Huffman coding.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};

use crate::listen::{Listen, Peer, Socket};

/// What a connection begins with, before its first frame.
const PREFACE_BYTES: usize = 24;
const FRAME_HEADER_BYTES: usize = 9;
/// Longer header frames pass as they are; the HTTP/2 library refuses them.
const MAX_HEADER_FRAME_BYTES: usize = 64 << 10;
const HEADERS: u8 = 1;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;
/// The field, by its name and by its place in the static table. C core writes the name out.
const AUTHORITY: &[u8] = b":authority";
const AUTHORITY_INDEX: usize = 1;
/// What is read at once: requests are small.
const READ_BYTES: usize = 16 << 10;

/// A unix socket for gRPC.
#[derive(Debug)]
pub(crate) struct GrpcUnixListener(pub(crate) UnixListener);

/// A connection of one.
#[derive(Debug)]
pub(crate) struct GrpcUnixStream {
    stream: UnixStream,
    rewriter: Rewriter,
    scratch: Box<[u8]>,
    /// Rewritten bytes, of which `given` have been read.
    ready: Vec<u8>,
    given: usize,
}

impl Listen for GrpcUnixListener {
    type Stream = GrpcUnixStream;

    async fn accept(&self) -> io::Result<(GrpcUnixStream, Peer)> {
        let (stream, peer) = Listen::accept(&self.0).await?;
        let stream = GrpcUnixStream {
            stream,
            rewriter: Rewriter::default(),
            scratch: vec![0; READ_BYTES].into(),
            ready: Vec::new(),
            given: 0,
        };
        Ok((stream, peer))
    }
}

impl Socket for GrpcUnixStream {
    async fn first_bytes(&self) -> io::Result<()> {
        self.stream.first_bytes().await
    }
}

impl AsyncRead for GrpcUnixStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.given == this.ready.len() {
            this.ready.clear();
            this.given = 0;
            let mut scratch = ReadBuf::new(&mut this.scratch);
            std::task::ready!(Pin::new(&mut this.stream).poll_read(context, &mut scratch))?;
            if scratch.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.rewriter.push(scratch.filled(), &mut this.ready);
        }
        let left = &this.ready[this.given..];
        let some = left.len().min(buffer.remaining());
        buffer.put_slice(&left[..some]);
        this.given += some;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for GrpcUnixStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Rewrites the bytes of one direction of a connection, in whatever pieces they come.
#[derive(Debug)]
struct Rewriter {
    /// Bytes that pass before the next frame begins.
    passing: usize,
    /// What has come of a frame's header, and of the whole frame where it holds headers.
    held: Vec<u8>,
}

impl Default for Rewriter {
    fn default() -> Self {
        Self {
            passing: PREFACE_BYTES,
            held: Vec::new(),
        }
    }
}

impl Rewriter {
    fn push(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let wanted = match self.passing {
                0 => self.wanted() - self.held.len(),
                passing => passing,
            };
            let (some, rest) = bytes.split_at(wanted.min(bytes.len()));
            bytes = rest;
            if self.passing > 0 {
                out.extend_from_slice(some);
                self.passing -= some.len();
                continue;
            }
            self.held.extend_from_slice(some);
            if self.held.len() == self.wanted() {
                self.end_held(out);
            }
        }
    }

    /// How much is to be held before it can be given.
    fn wanted(&self) -> usize {
        match self.frame() {
            Some((HEADERS, bytes)) if bytes <= MAX_HEADER_FRAME_BYTES => FRAME_HEADER_BYTES + bytes,
            _ => FRAME_HEADER_BYTES,
        }
    }

    /// Type and length of the frame that is held.
    fn frame(&self) -> Option<(u8, usize)> {
        let [a, b, c, kind, ..] = *self.held.first_chunk::<FRAME_HEADER_BYTES>()?;
        let bytes = [a, b, c].iter().fold(0, |sum, byte| (sum << 8) | usize::from(*byte));
        Some((kind, bytes))
    }

    fn end_held(&mut self, out: &mut Vec<u8>) {
        let Some((_, bytes)) = self.frame() else { return };
        self.passing = FRAME_HEADER_BYTES + bytes - self.held.len();
        if self.passing == 0 && bytes > 0 {
            rewrite(&mut self.held);
        }
        out.append(&mut self.held);
    }
}

/// Rewrites the header block of a frame with headers.
fn rewrite(frame: &mut [u8]) {
    let flags = frame.get(4).copied().unwrap_or(0);
    let priority_bytes = if flags & PRIORITY > 0 { 5 } else { 0 };
    let padded_bytes = usize::from(flags & PADDED > 0);
    let mut block = Block {
        bytes: frame,
        at: FRAME_HEADER_BYTES + padded_bytes + priority_bytes,
    };
    while block.field().is_some() {}
}

/// A header block, read field by field.
struct Block<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Block<'_> {
    /// Passes one field, rewritten where it is the authority; none at the end, or where the bytes make no sense.
    fn field(&mut self) -> Option<()> {
        let first = *self.bytes.get(self.at)?;
        let name = match first {
            0x80.. => return self.number(7).map(|_| ()),
            0x40.. => self.number(6)?,
            0x20.. => return self.number(5).map(|_| ()),
            _ => self.number(4)?,
        };
        let is_authority = match name {
            0 => {
                let (from, to, is_plain) = self.text()?;
                is_plain && self.bytes.get(from..to)? == AUTHORITY
            }
            index => index == AUTHORITY_INDEX,
        };
        let (from, to, is_plain) = self.text()?;
        if is_authority && is_plain {
            let value = self.bytes.get_mut(from..to)?;
            value
                .iter_mut()
                .filter(|byte| **byte == b'%')
                .for_each(|byte| *byte = b'-');
        }
        Some(())
    }

    /// A number whose first byte has so many bits of it.
    fn number(&mut self, bits: u32) -> Option<usize> {
        let most = (1_usize << bits) - 1;
        let mut number = usize::from(self.next()?) & most;
        if number < most {
            return Some(number);
        }
        for shift in [0, 7, 14, 21] {
            let byte = self.next()?;
            number += usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    /// Where a text begins and ends, and whether it is written as it is.
    fn text(&mut self) -> Option<(usize, usize, bool)> {
        let is_plain = *self.bytes.get(self.at)? < 0x80;
        let bytes = self.number(7)?;
        let from = self.at;
        self.at = from.checked_add(bytes).filter(|end| *end <= self.bytes.len())?;
        Some((from, self.at, is_plain))
    }

    fn next(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// A header block: what C core begins its own with (the path and the authority by name, then indexed fields), and the
    /// authority by its index, never to be indexed, as others write it.
    fn block(authority: &str) -> Vec<u8> {
        let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        [
            vec![0x40],
            text(":path"),
            text("/arrow.flight.protocol.FlightService/50%"),
            vec![0x40],
            text(":authority"),
            text(authority),
            vec![0x83, 0x86, 0x3f, 0xe1, 0x1f, 0x0f, 0x2f],
            text("100%"),
            vec![0x11],
            text(authority),
        ]
        .concat()
    }

    fn rewritten(bytes: &[u8], piece: usize) -> Vec<u8> {
        let (mut rewriter, mut out) = (Rewriter::default(), Vec::new());
        bytes.chunks(piece).for_each(|some| rewriter.push(some, &mut out));
        out
    }

    proptest! {
        /// In whatever pieces the bytes come, the authority alone changes.
        #[test]
        fn only_the_authority_changes(piece in 1usize..100, padded: bool, priority: bool) {
            let flags = if padded { PADDED } else { 0 } | if priority { PRIORITY } else { 0 } | 4;
            let connection = |authority: &str| {
                let before = [vec![0; usize::from(padded)], vec![9; if priority { 5 } else { 0 }]].concat();
                let headers = frame(HEADERS, flags, &[before, block(authority)].concat());
                let data = frame(0, 0, b"tmp%2Fa.sock");
                let settings = frame(4, 0, b"");
                let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
                [&preface[..], &settings, &headers, &data, &frame(HEADERS, 4, b""), &headers].concat()
            };
            prop_assert_eq!(rewritten(&connection("tmp%2Fa.sock"), piece), connection("tmp-2Fa.sock"));
        }

        /// Bytes that are no HTTP/2 at all pass, all of them but for what a frame still lacks.
        #[test]
        fn nonsense_passes(bytes in prop::collection::vec(any::<u8>(), 0..300), piece in 1usize..100) {
            let out = rewritten(&bytes, piece);
            prop_assert!(out.len() <= bytes.len());
            prop_assert!(out.iter().zip(&bytes).all(|(out, byte)| out == byte || (*out, *byte) == (b'-', b'%')));
        }
    }
}
