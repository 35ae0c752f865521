//! Small writes of a connection gathered into large ones.
//!
//! h2 writes each frame by itself and flushes after it. For a client whose frames are 16 KiB (grpc-go, grpc-java) that is a
//! system call and a wake-up of the client for every 16 KiB, and an answer of one small batch is five of them: headers,
//! schema, batch, trailers. Here what is small is copied into one buffer, and written when the connection has said all
//! that it had to say, or the buffer is full.
//!
//! ```text
//! small write -> gathered -- full, large write, connection polled to its end --> socket
//! large write -> socket, behind what is gathered, in one vectored write
//! ```
//! Lock order: one lock, held for the length of a call; only the connection's own task takes it, so it is never waited for.
//!
//! Why not `BufWriter`: h2's flush after each frame would empty it each time. Why deferring a flush is right: whoever polls
//! the connection polls [`Gathered`] after it, so nothing waits longer than the connection's own poll takes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Writes from this size on are not copied.
const LARGE_WRITE_BYTES: usize = 32 << 10;
/// What is gathered at most before it is written.
const GATHERED_BYTES: usize = 256 << 10;
/// A buffer that has grown beyond this is given back once it is empty, as most connections are idle most of the time.
const KEPT_BYTES: usize = 16 << 10;

/// A stream whose small writes are gathered, and what writes them.
pub(crate) fn gathering<T>(stream: T) -> (Gathering<T>, Gathered<T>) {
    let shared = Arc::new(Mutex::new(Shared {
        stream,
        gathered: BytesMut::new(),
        broken: None,
    }));
    (Gathering(Arc::clone(&shared)), Gathered(shared))
}

/// The stream, as the connection has it.
#[derive(Debug)]
pub(crate) struct Gathering<T>(Arc<Mutex<Shared<T>>>);

/// What was gathered, for whoever polls the connection.
#[derive(Debug)]
pub(crate) struct Gathered<T>(Arc<Mutex<Shared<T>>>);

impl<T: AsyncWrite + Unpin> Gathered<T> {
    /// The connection, and after each poll of it what it wrote.
    pub(crate) async fn driven<F: Future>(&self, mut connection: Pin<&mut F>) -> F::Output {
        std::future::poll_fn(|context| {
            let polled = connection.as_mut().poll(context);
            let mut shared = self.0.lock();
            if let Poll::Ready(Err(error)) = shared.poll_write_gathered(context) {
                // The connection learns of it by its next write.
                shared.broken = Some(error.kind());
                context.waker().wake_by_ref();
            }
            polled
        })
        .await
    }
}

#[derive(Debug)]
struct Shared<T> {
    stream: T,
    gathered: BytesMut,
    /// A write that failed after the connection was told that it had not.
    broken: Option<io::ErrorKind>,
}

impl<T: AsyncWrite + Unpin> Shared<T> {
    fn poll_write(&mut self, context: &mut Context<'_>, buffers: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Some(kind) = self.broken {
            return Poll::Ready(Err(kind.into()));
        }
        let bytes = buffers.iter().map(|buffer| buffer.len()).sum::<usize>();
        if bytes >= LARGE_WRITE_BYTES {
            return self.poll_write_large(context, buffers);
        }
        if self.gathered.len() + bytes > GATHERED_BYTES {
            ready!(self.poll_write_gathered(context))?;
        }
        self.make_room(bytes);
        buffers
            .iter()
            .for_each(|buffer| self.gathered.extend_from_slice(buffer));
        Poll::Ready(Ok(bytes))
    }

    fn poll_write_large(&mut self, context: &mut Context<'_>, buffers: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        while !self.gathered.is_empty() {
            let before = self.gathered.len();
            let mut slices = Vec::with_capacity(buffers.len() + 1);
            slices.push(IoSlice::new(&self.gathered));
            slices.extend_from_slice(buffers);
            let written = written(ready!(
                Pin::new(&mut self.stream).poll_write_vectored(context, &slices)
            )?)?;
            self.gathered.advance(written.min(before));
            if written > before {
                self.give_back();
                return Poll::Ready(Ok(written - before));
            }
        }
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn poll_write_gathered(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.gathered.is_empty() {
            let polled = Pin::new(&mut self.stream).poll_write(context, &self.gathered);
            let written = written(ready!(polled)?)?;
            self.gathered.advance(written);
        }
        self.give_back();
        Poll::Ready(Ok(()))
    }

    /// Room for so many bytes more. A buffer that outgrows what is kept gets all of its room at once: to double it again and
    /// again is to copy everything twice.
    fn make_room(&mut self, bytes: usize) {
        let length = self.gathered.len() + bytes;
        let wanted = if length > KEPT_BYTES {
            length.max(GATHERED_BYTES)
        } else {
            length
        };
        if self.gathered.capacity() < length {
            self.gathered.reserve(wanted - self.gathered.len());
        }
    }

    fn give_back(&mut self) {
        if self.gathered.capacity() > KEPT_BYTES {
            self.gathered = BytesMut::new();
        }
    }
}

/// A write of nothing would be tried forever.
fn written(bytes: usize) -> io::Result<usize> {
    if bytes == 0 {
        return Err(io::ErrorKind::WriteZero.into());
    }
    Ok(bytes)
}

impl<T: AsyncRead + Unpin> AsyncRead for Gathering<T> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().stream).poll_read(context, into)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gathering<T> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().poll_write(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().poll_write(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.lock().stream.is_write_vectored()
    }

    /// Left to [`Gathered::driven`].
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.0.lock();
        ready!(shared.poll_write_gathered(context))?;
        Pin::new(&mut shared.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Writes pieces of these sizes over a pipe of so many bytes, with a flush after each; what came out.
    fn sent(sizes: &[usize], pipe_bytes: usize) -> Vec<u8> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (near, mut far) = tokio::io::duplex(pipe_bytes);
            let (mut stream, gathered) = gathering(near);
            let writing = async move {
                for (number, &size) in sizes.iter().enumerate() {
                    stream
                        .write_all(&vec![u8::try_from(number).unwrap(); size])
                        .await
                        .unwrap();
                    stream.flush().await.unwrap();
                    if number % 3 == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                stream.shutdown().await.unwrap();
            };
            let mut received = Vec::new();
            let writing = std::pin::pin!(writing);
            let (_, read) = tokio::join!(gathered.driven(writing), far.read_to_end(&mut received));
            read.unwrap();
            received
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_written_comes_out_in_order(
            sizes in prop::collection::vec(prop_oneof![0usize..2_000, 20_000usize..100_000], 0..20),
            pipe_bytes in 1_000usize..300_000,
        ) {
            let expected: Vec<u8> = sizes.iter().enumerate().flat_map(|(number, &size)| vec![u8::try_from(number).unwrap(); size]).collect();
            prop_assert!(sent(&sizes, pipe_bytes) == expected);
        }
    }

    #[tokio::test]
    async fn small_writes_of_one_poll_are_one_write() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let (mut stream, gathered) = gathering(near);
        let mut read = [0; 100];
        {
            let writing = std::pin::pin!(async {
                for _ in 0..10 {
                    stream.write_all(b"frame").await.unwrap();
                    stream.flush().await.unwrap();
                }
                let nothing_yet = far.read(&mut read).now_or_never();
                assert!(nothing_yet.is_none(), "written before the connection was done");
            });
            gathered.driven(writing).await;
        }
        assert_eq!(far.read(&mut read).await.unwrap(), 50);
    }

    #[tokio::test]
    async fn a_write_that_fails_later_is_told_at_the_next() {
        let (near, far) = tokio::io::duplex(64);
        let (mut stream, gathered) = gathering(near);
        drop(far);
        let writing = std::pin::pin!(async {
            stream.write_all(b"frame").await.unwrap();
            tokio::task::yield_now().await;
            stream.write_all(b"frame").await.unwrap_err();
        });
        gathered.driven(writing).await;
    }
}
