//! A wire between client and server that can be cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Passes bytes on, and connections end when it is cut.
pub(crate) struct Wire {
    pub(crate) uri: String,
    state: Arc<State>,
    cut: CancellationToken,
    _stop: DropGuard,
}

#[derive(Default)]
struct State {
    open: AtomicUsize,
    /// Bytes that still go to the client before its connection is cut; `u64::MAX` for all.
    left: AtomicU64,
}

impl Wire {
    /// A wire to a server at `host:port`.
    pub(crate) async fn to(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("grpc://{}", listener.local_addr().unwrap());
        let state = Arc::new(State {
            left: AtomicU64::new(u64::MAX),
            ..State::default()
        });
        let cut = CancellationToken::new();
        let server = server.to_owned();
        let (shared, cutting) = (Arc::clone(&state), cut.clone());
        tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    () = cutting.cancelled() => return,
                    Ok((stream, _)) = listener.accept() => {
                        connections.spawn(pass_on(stream, server.clone(), Arc::clone(&shared)));
                    }
                }
            }
        });
        Self {
            uri,
            state,
            _stop: cut.clone().drop_guard(),
            cut,
        }
    }

    /// Cuts each connection as soon as so many more bytes went to the client, over all connections; once.
    pub(crate) fn cut_after(&self, bytes: u64) {
        self.state.left.store(bytes, Ordering::SeqCst);
    }

    /// Cuts it for good: nobody listens any more.
    pub(crate) fn cut(&self) {
        self.cut.cancel();
    }

    /// Connections that are open.
    pub(crate) fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }
}

async fn pass_on(mut client: TcpStream, server: String, state: Arc<State>) {
    struct Open(Arc<State>);
    impl Drop for Open {
        fn drop(&mut self) {
            self.0.open.fetch_sub(1, Ordering::SeqCst);
        }
    }
    state.open.fetch_add(1, Ordering::SeqCst);
    let _open = Open(Arc::clone(&state));
    let Ok(mut server) = TcpStream::connect(server).await else {
        return;
    };
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let requests = async { tokio::io::copy(&mut from_client, &mut to_server).await.map(|_| ()) };
    let answers = async {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let count = from_server.read(&mut buffer).await?;
            let left = state.left.load(Ordering::SeqCst);
            let goes = count.min(usize::try_from(left).unwrap_or(usize::MAX));
            to_client.write_all(&buffer[..goes]).await?;
            if left != u64::MAX {
                state.left.store(left - u64::try_from(goes).unwrap(), Ordering::SeqCst);
            }
            if count == 0 || goes < count {
                // What comes after the cut goes through again.
                state.left.store(u64::MAX, Ordering::SeqCst);
                return Ok::<_, std::io::Error>(());
            }
        }
    };
    tokio::select! {
        _ = requests => {}
        _ = answers => {}
    }
}
