//! Where connections come from: the network, or this host's unix sockets. Accepted, counted, bounded.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// A connection that says nothing for so long after it was made is dropped.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause after a failed accept: what fails (file handles, mostly) fails again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who is at the other end; in the extensions of every request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Peer {
    /// Somebody at an address, which may be this host's own.
    Network(SocketAddr),
    /// A process of this host, over a unix socket.
    Unix,
}

impl Peer {
    /// Whether it runs on this host, as far as the connection tells.
    #[must_use]
    pub fn is_this_host(&self) -> bool {
        match self {
            Self::Network(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix => true,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// A bound socket.
pub(crate) trait Listen: Send + Sync + 'static {
    /// Its connections.
    type Stream: Socket;

    /// The next connection.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Peer)>> + Send;
}

/// A connection.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static {
    /// Prepares it, and waits until the client has sent something.
    fn first_bytes(&self) -> impl Future<Output = io::Result<()>> + Send;
}

impl Listen for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Peer)> {
        let (stream, address) = Self::accept(self).await?;
        Ok((stream, Peer::Network(address)))
    }
}

impl Listen for UnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, Peer)> {
        let (stream, _) = Self::accept(self).await?;
        Ok((stream, Peer::Unix))
    }
}

impl Socket for TcpStream {
    async fn first_bytes(&self) -> io::Result<()> {
        // Small messages (a FlightInfo, a trailer) must not wait for more to come.
        self.set_nodelay(true)?;
        self.readable().await
    }
}

impl Socket for UnixStream {
    async fn first_bytes(&self) -> io::Result<()> {
        // A new unix socket is reported readable before anything has come, so its bytes are looked at.
        let looked = self.async_io(Interest::READABLE, || {
            recv(self, &mut [0_u8; 1], RecvFlags::PEEK)?;
            Ok(())
        });
        looked.await
    }
}

/// Serves each connection by a task of its own, `most` at once (further ones wait to be accepted), until `stop`; then waits
/// for those that are left.
pub(crate) async fn serve_each<L, F>(
    listener: L,
    most: usize,
    stop: &CancellationToken,
    serve: impl Fn(L::Stream, Peer) -> F,
) where
    L: Listen,
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept(), if connections.len() < most => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(serve(stream, peer));
                }
                Err(error) => pause_after(&error).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Waits for the client's first bytes, not for ever.
pub(crate) async fn greeted(stream: &impl Socket) -> io::Result<()> {
    let timed = tokio::time::timeout(FIRST_BYTE_TIMEOUT, stream.first_bytes()).await;
    timed.unwrap_or_else(|elapsed| Err(io::Error::new(io::ErrorKind::TimedOut, elapsed)))
}

async fn pause_after(error: &io::Error) {
    tracing::warn!(%error, "a connection was not accepted");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn a_unix_socket_is_not_taken_to_have_spoken_before_it_has() {
        let (mut client, server) = UnixStream::pair().unwrap();
        let mut first = std::pin::pin!(server.first_bytes());
        let early = tokio::time::timeout(Duration::from_millis(50), first.as_mut()).await;
        assert!(early.is_err(), "nothing has come");
        client.write_all(b"x").await.unwrap();
        first.await.unwrap();
        let mut byte = [0];
        assert_eq!(server.try_read(&mut byte).unwrap(), 1, "it is left to be read");
    }

    #[test]
    fn only_loopback_and_unix_sockets_are_this_host() {
        let network = |address: &str| Peer::Network(address.parse().unwrap());
        for local in [
            network("127.0.0.1:1"),
            network("[::1]:1"),
            network("[::ffff:127.0.0.9]:1"),
            Peer::Unix,
        ] {
            assert!(local.is_this_host(), "{local}");
        }
        for remote in [network("10.0.0.1:1"), network("[::ffff:10.0.0.1]:1")] {
            assert!(!remote.is_this_host(), "{remote}");
        }
    }
}
