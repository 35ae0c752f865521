//! Sockets that are closed when the other end has read what it was sent.
//!
//! TCP answers bytes that nobody will read with a reset, and a reset throws away what was still to be sent. A client that
//! reads an answer sends window updates all the while, so one that is closed right after the last byte of its answer was
//! handed to the kernel can lose the end of it. So the way to close is RFC 9112's (section 9.6): say that nothing more
//! comes, read on until the other end has closed too, then close.
//!
//! ```text
//! open -- shutdown --> shut for writing -- the other end closes, is silent for SILENCE, or talks for LONGEST --> closed
//! ```

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// How long the other end may send nothing, after it was told that nothing more comes, before it is taken for gone.
const SILENCE: Duration = Duration::from_secs(10);
/// How long it may go on without closing, whatever it sends.
const LONGEST: Duration = Duration::from_secs(60);
/// What is read, and thrown away, at a time.
const READ_BYTES: usize = 8 << 10;

/// A stream whose shutdown lasts until the other end has closed.
#[derive(Debug)]
pub(crate) struct Lingering<T> {
    stream: T,
    silence: Duration,
    longest: Duration,
    /// From the moment that the other end was told.
    left: Option<Left>,
}

/// The time that the other end has.
#[derive(Debug)]
struct Left {
    /// Until something more comes of it.
    sleep: Pin<Box<Sleep>>,
    /// In any case.
    until: Instant,
}

impl<T> Lingering<T> {
    pub(crate) fn new(stream: T) -> Self {
        Self {
            stream,
            silence: SILENCE,
            longest: LONGEST,
            left: None,
        }
    }
}

impl<T: AsyncRead + Unpin> Lingering<T> {
    /// Reads until there is no more; an end that breaks has ended too.
    fn poll_closed(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let (silence, longest) = (self.silence, self.longest);
        let left = self.left.get_or_insert_with(|| Left {
            sleep: Box::pin(tokio::time::sleep(silence)),
            until: Instant::now() + longest,
        });
        let mut unread = [0; READ_BYTES];
        loop {
            let mut into = ReadBuf::new(&mut unread);
            match Pin::new(&mut self.stream).poll_read(context, &mut into) {
                Poll::Ready(Ok(())) if !into.filled().is_empty() && Instant::now() < left.until => {
                    left.sleep.as_mut().reset(left.until.min(Instant::now() + silence));
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return left.sleep.as_mut().poll(context),
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Lingering<T> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.left.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
        }
        self.poll_closed(context).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// More than the two ends' kernel buffers hold.
    const ANSWER_BYTES: usize = 32 << 20;

    async fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn a_client_that_talks_while_it_reads_gets_the_whole_answer() {
        let (client, server) = connected().await;
        let (mut answers, mut updates) = client.into_split();
        let serving = tokio::spawn(async move {
            let mut server = Lingering::new(server);
            server.write_all(&vec![7; ANSWER_BYTES]).await.unwrap();
            server.shutdown().await.unwrap();
        });
        let (mut received, mut piece) = (0, vec![0; 64 << 10]);
        loop {
            let read = answers.read(&mut piece).await.unwrap();
            if read == 0 {
                break;
            }
            received += read;
            updates.write_all(b"window update").await.unwrap();
        }
        assert_eq!(received, ANSWER_BYTES);
        drop((answers, updates));
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_is_silent_is_not_waited_for_for_ever() {
        let (near, mut far) = tokio::io::duplex(64);
        let silence = Duration::from_millis(200);
        let mut near = Lingering {
            silence,
            ..Lingering::new(near)
        };
        let started = Instant::now();
        let talking = async {
            tokio::time::sleep(silence / 2).await;
            far.write_all(b"still here").await.unwrap();
        };
        let (shut, ()) = tokio::join!(near.shutdown(), talking);
        shut.unwrap();
        assert!(started.elapsed() >= silence + silence / 2);
    }

    #[tokio::test]
    async fn a_client_that_never_ends_is_not_listened_to_for_ever() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut near = Lingering {
            longest: Duration::from_millis(200),
            ..Lingering::new(near)
        };
        let talking = async { while far.write_all(b"and another thing").await.is_ok() {} };
        let closing = async {
            near.shutdown().await.unwrap();
            drop(near);
        };
        tokio::join!(closing, talking);
    }

    #[tokio::test]
    async fn a_client_that_closes_is_closed_at_once() {
        let (near, far) = tokio::io::duplex(64);
        let started = Instant::now();
        drop(far);
        Lingering::new(near).shutdown().await.unwrap();
        assert!(started.elapsed() < SILENCE);
    }
}
