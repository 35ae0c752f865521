//! The server as a library function: bound listeners and parts in, runs until told to stop.
//!
//! ```text
//! Listeners::bind -> run: listening -> (shutdown) draining -> stopped
//! ```
//! Draining: `/readyz` answers 503 at once, the Flight port is closed, open connections are told to go away (GOAWAY), and
//! their streams may end within the grace; then whatever is left is cut. The admin port answers until the very end.
//!
//! The sockets of this host, where there are any, are served and drained as the Flight port is.
//!
//! Why addresses other than loopback are refused: today nothing is authenticated or encrypted, and whoever reaches the
//! port can read every mount. `--insecure` is for networks that are trusted as a whole.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::Response;
use metrics_exporter_prometheus::PrometheusHandle;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Readiness};
use crate::authority::GrpcUnixListener;
use crate::connections::{self, Answer};
use crate::flight::AnswerBody;
use crate::local::LocalSockets;
use crate::memory;
use crate::observe::METRICS_UPKEEP_INTERVAL;

/// What the admin address may take to finish its last answers.
const ADMIN_GRACE: Duration = Duration::from_secs(1);

/// The readiness condition that [`run`] sees to.
pub const LISTENING: &str = "listening";

/// Bound sockets.
#[derive(Debug)]
pub struct Listeners {
    flight: (TcpListener, SocketAddr),
    admin: (TcpListener, SocketAddr),
}

impl Listeners {
    /// Binds both addresses (`host:port`, port 0 takes a free one). Loopback addresses only, unless `insecure`.
    ///
    /// # Errors
    /// An address that does not resolve, is not loopback, or cannot be bound; each names the setting.
    pub async fn bind(flight: &str, admin: &str, insecure: bool) -> Result<Self, BindError> {
        let flight = bind("flight", flight, insecure).await?;
        let admin = bind("admin", admin, insecure).await?;
        Ok(Self { flight, admin })
    }

    /// The address that the Flight port is really bound to.
    pub fn flight_address(&self) -> SocketAddr {
        self.flight.1
    }

    /// The address that the admin port is really bound to.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.1
    }
}

/// Why an address cannot be listened on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BindError {
    /// Not `host:port`, or the host is unknown.
    #[error("--{setting} {address}: not an address; write HOST:PORT, as in 127.0.0.1:0")]
    Resolve {
        /// `flight` or `admin`.
        setting: &'static str,
        /// The address as given.
        address: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// The address can be reached from other machines, and nobody said that this is wanted.
    #[error(
        "--{setting} {address}: {ip} is not a loopback address, and anyone who reaches it could read every mount; \
         use 127.0.0.1, or add --insecure on a network that is trusted as a whole"
    )]
    NotLoopback {
        /// `flight` or `admin`.
        setting: &'static str,
        /// The address as given.
        address: String,
        /// What it resolved to.
        ip: IpAddr,
    },
    /// The system refused.
    #[error(
        "--{setting} {address}: cannot listen there{}",
        if source.kind() == io::ErrorKind::AddrInUse { ", another server does; choose another port, or 0 for a free one" } else { "" }
    )]
    Listen {
        /// `flight` or `admin`.
        setting: &'static str,
        /// The address as given.
        address: String,
        /// What the system said.
        source: io::Error,
    },
}

/// What a server is made of, besides its sockets.
#[derive(Debug)]
pub struct Parts<A> {
    /// What answers on the Flight port.
    pub flight: A,
    /// The sockets of this host, and what shares memory there; [`Parts::flight`] answers there too.
    pub local: Option<(LocalSockets, memory::Door)>,
    /// The handle that `/readyz` reads. [`run`] sets [`LISTENING`] and drains it.
    pub readiness: Readiness,
    /// Renders `/metrics`.
    pub metrics: PrometheusHandle,
    /// How long streams may go on after the shutdown began.
    pub grace: Duration,
}

/// How a shutdown went.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Drained {
    /// Every stream came to its end.
    Complete,
    /// Some streams were still open when the grace was over, and were cut.
    Cut,
}

/// Why a running server stopped by itself.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServeError {
    /// A task of ours panicked or ended early.
    #[error("the {0} task ended before the server did")]
    Task(&'static str),
}

/// Serves until `shutdown` completes, then drains.
///
/// # Errors
/// When the Flight service or the admin address stops without having been told to.
pub async fn run<A, F>(
    listeners: Listeners,
    parts: Parts<A>,
    shutdown: impl Future<Output = ()>,
) -> Result<Drained, ServeError>
where
    A: Answer<F>,
    F: Future<Output = Response<AnswerBody>> + Send + 'static,
{
    let (stop_flight, stop_admin) = (CancellationToken::new(), CancellationToken::new());
    let upkeep = spawn_upkeep(parts.metrics.clone(), stop_admin.clone());
    let router = admin::router(parts.readiness.clone(), parts.metrics);
    let mut admin = spawn_admin(listeners.admin.0, router, stop_admin.clone());
    let flight = serve_all(listeners.flight.0, parts.flight, parts.local, stop_flight.clone());
    let mut flight = tokio::spawn(flight);
    parts.readiness.set(LISTENING, true);

    let outcome = tokio::select! {
        () = shutdown => {
            parts.readiness.drain();
            stop_flight.cancel();
            drain(&mut flight, parts.grace).await
        }
        _ = &mut flight => Err(ServeError::Task("Flight")),
        _ = &mut admin => Err(ServeError::Task("admin")),
    };
    flight.abort();
    stop_admin.cancel();
    // Whatever the last scrape or probe is doing, it does not hold up the end.
    let _ = tokio::time::timeout(ADMIN_GRACE, admin).await;
    upkeep.abort();
    outcome
}

/// Serves every socket that clients read rows from.
async fn serve_all<A, F>(
    listener: TcpListener,
    answer: A,
    local: Option<(LocalSockets, memory::Door)>,
    stop: CancellationToken,
) where
    A: Answer<F>,
    F: Future<Output = Response<AnswerBody>> + Send + 'static,
{
    let network = connections::serve(listener, answer.clone(), stop.clone());
    let Some((sockets, door)) = local else {
        return network.await;
    };
    tokio::join!(
        network,
        connections::serve(GrpcUnixListener(sockets.flight), answer, stop.clone()),
        memory::serve(sockets.memory, door, stop),
    );
}

/// Whether only this machine reaches the address.
fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

async fn bind(setting: &'static str, address: &str, insecure: bool) -> Result<(TcpListener, SocketAddr), BindError> {
    let resolve = |source| BindError::Resolve {
        setting,
        address: address.to_owned(),
        source,
    };
    let listen = |source| BindError::Listen {
        setting,
        address: address.to_owned(),
        source,
    };
    let found: Vec<SocketAddr> = tokio::net::lookup_host(address).await.map_err(resolve)?.collect();
    if found.is_empty() {
        return Err(resolve(io::Error::from(io::ErrorKind::NotFound)));
    }
    if let Some(open) = found.iter().find(|found| !insecure && !is_loopback(found.ip())) {
        return Err(BindError::NotLoopback {
            setting,
            address: address.to_owned(),
            ip: open.ip(),
        });
    }
    let listener = TcpListener::bind(found.as_slice()).await.map_err(listen)?;
    let bound = listener.local_addr().map_err(listen)?;
    Ok((listener, bound))
}

fn spawn_admin(listener: TcpListener, router: axum::Router, stop: CancellationToken) -> JoinHandle<io::Result<()>> {
    tokio::spawn(
        axum::serve(listener, router)
            .with_graceful_shutdown(stop.cancelled_owned())
            .into_future(),
    )
}

fn spawn_upkeep(metrics: PrometheusHandle, stop: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(METRICS_UPKEEP_INTERVAL);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            metrics.run_upkeep();
        }
    })
}

async fn drain(flight: &mut JoinHandle<()>, grace: Duration) -> Result<Drained, ServeError> {
    tracing::info!(grace_seconds = grace.as_secs_f64(), "draining");
    match tokio::time::timeout(grace, flight).await {
        Ok(Ok(())) => Ok(Drained::Complete),
        Ok(Err(_panicked)) => Err(ServeError::Task("Flight")),
        Err(_elapsed) => Ok(Drained::Cut),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;

    use super::*;

    fn parts(readiness: &Readiness) -> Parts<impl Answer<std::future::Ready<Response<AnswerBody>>>> {
        Parts {
            flight: |_| std::future::ready(Response::default()),
            local: None,
            readiness: readiness.clone(),
            metrics: crate::observe::metrics_recorder().unwrap(),
            grace: Duration::from_secs(5),
        }
    }

    async fn readyz(admin: SocketAddr) -> String {
        let mut stream = TcpStream::connect(admin).await.unwrap();
        stream
            .write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text.lines().next().unwrap().to_owned()
    }

    #[tokio::test]
    async fn only_loopback_is_bound_unless_insecure() {
        for address in ["0.0.0.0:0", "[::]:0"] {
            let error = Listeners::bind(address, "127.0.0.1:0", false).await.unwrap_err();
            assert!(
                matches!(error, BindError::NotLoopback { setting: "flight", .. }),
                "{error}"
            );
            let error = Listeners::bind("127.0.0.1:0", address, false).await.unwrap_err();
            assert!(
                matches!(error, BindError::NotLoopback { setting: "admin", .. }),
                "{error}"
            );
            assert!(error.to_string().contains("--insecure"));
        }
        assert!(Listeners::bind("localhost:0", "127.0.0.1:0", false).await.is_ok());
        assert!(Listeners::bind("0.0.0.0:0", "127.0.0.1:0", true).await.is_ok());
    }

    #[test]
    fn a_mapped_address_is_judged_by_what_it_maps() {
        assert!(is_loopback("::ffff:127.0.0.1".parse().unwrap()));
        assert!(is_loopback("127.1.2.3".parse().unwrap()));
        assert!(!is_loopback("::ffff:10.0.0.1".parse().unwrap()));
    }

    #[tokio::test]
    async fn a_port_in_use_is_named_with_a_way_out() {
        let first = Listeners::bind("127.0.0.1:0", "127.0.0.1:0", false).await.unwrap();
        let taken = first.flight_address().to_string();
        let error = Listeners::bind(&taken, "127.0.0.1:0", false)
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(&taken) && error.contains("another server does"),
            "{error}"
        );
        let error = Listeners::bind("nonsense", "127.0.0.1:0", false).await.unwrap_err();
        assert!(matches!(error, BindError::Resolve { .. }));
    }

    #[tokio::test]
    async fn a_server_is_ready_once_it_listens_and_stops_when_told() {
        let listeners = Listeners::bind("127.0.0.1:0", "127.0.0.1:0", false).await.unwrap();
        let admin = listeners.admin_address();
        let readiness = Readiness::new([LISTENING]);
        assert!(!readiness.is_ready());
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(run(listeners, parts(&readiness), async {
            let _ = stopped.await;
        }));
        assert_eq!(readyz(admin).await, "HTTP/1.1 200 OK");
        stop.send(()).unwrap();
        assert_eq!(server.await.unwrap().unwrap(), Drained::Complete);
        assert!(!readiness.is_ready());
        assert!(TcpStream::connect(admin).await.is_err());
    }
}
