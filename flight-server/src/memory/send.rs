//! Frames on their way out, with descriptors.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use jetbridge_cache::chunk::Segment;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::describe::Inline;
use super::wire::MAX_SEGMENTS_PER_FRAME;

/// Pieces of one system call, the most that Linux takes.
const MAX_PIECES: usize = 1024;
/// Where too many descriptors are on their way on this host, how long to wait for clients to take theirs.
const CROWDED_PAUSE: Duration = Duration::from_millis(10);

/// Sends a frame: its head, what follows by reference, and the descriptors of `segments` with its first byte. Gives up when the
/// client takes nothing for as long as `patience`.
pub(super) async fn send(
    stream: &UnixStream,
    head: &[u8],
    inline: &Inline,
    segments: &[Arc<Segment>],
    patience: Duration,
) -> io::Result<()> {
    let filled = inline.pieces().filter(|piece| !piece.is_empty()).map(IoSlice::new);
    let mut pieces: Vec<IoSlice<'_>> = std::iter::once(IoSlice::new(head)).chain(filled).collect();
    let mut left = pieces.as_mut_slice();
    let mut descriptors: Vec<BorrowedFd<'_>> = segments.iter().map(|segment| segment.descriptor()).collect();
    while !left.is_empty() {
        let some = &left[..left.len().min(MAX_PIECES)];
        let sending = send_when_writable(stream, some, &descriptors);
        let sent = tokio::time::timeout(patience, sending).await??;
        descriptors.clear();
        IoSlice::advance_slices(&mut left, sent);
    }
    Ok(())
}

async fn send_when_writable(
    stream: &UnixStream,
    pieces: &[IoSlice<'_>],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    loop {
        let sent = stream.async_io(Interest::WRITABLE, || send_now(stream, pieces, descriptors));
        match sent.await {
            Err(error) if is_crowded(&error) => tokio::time::sleep(CROWDED_PAUSE).await,
            sent => return sent,
        }
    }
}

fn send_now(stream: &UnixStream, pieces: &[IoSlice<'_>], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SEGMENTS_PER_FRAME))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors for one frame"));
    }
    Ok(sendmsg(stream.as_fd(), pieces, &mut control, SendFlags::NOSIGNAL)?)
}

/// Whether this user has as many descriptors on their way as it may have files open.
fn is_crowded(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::TOOMANYREFS.raw_os_error())
}
