//! `jetbridge serve`: settings in, a running server out.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use jetbridge_cache::Cache;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::task::AbortOnDropHandle;

use super::error::CliError;
use crate::admin::Readiness;
use crate::config::{self, ConfigFlags, Machine, Settings};
use crate::data_folder::DataFolder;
use crate::flight::{FlightDoor, Places, StreamLimits};
use crate::local::{LocalSockets, SocketFiles};
use crate::memory;
use crate::node::Node;
use crate::observe;
use crate::retention;
use crate::server::{self, Drained, LISTENING, Listeners, Parts};

const EXAMPLES: &str = "\
Examples:
  jetbridge serve --mount /lake=s3://bucket/prefix
  jetbridge serve --mount /data=./folder --memory 4GiB --data-dir /var/lib/jetbridge
  jetbridge serve --config /etc/jetbridge.toml --log-format json

When the server takes requests it prints one line to stdout, with the real addresses:
  jetbridge ready flight=grpc://127.0.0.1:8815 admin=http://127.0.0.1:8816
SIGTERM or SIGINT lets streams in flight end; a second one stops at once.

Every flag is also a key of the TOML file (--data-dir is data_dir) and a variable (JETBRIDGE_DATA_DIR);
`jetbridge config show` tells each value and where it comes from.";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    config: ConfigFlags,
}

/// Runs a server until it is told to stop.
pub(super) fn run(arguments: &ServeArgs) -> Result<(), CliError> {
    serve(arguments).map_err(CliError::Serve)
}

fn serve(arguments: &ServeArgs) -> anyhow::Result<()> {
    let settings = config::load(&arguments.config, std::env::vars_os(), &Machine::probe())?.settings;
    observe::init_logging(&settings.log, settings.log_format)?;
    open_many_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("jetbridge")
        .build()
        .context("cannot start the runtime")?;
    let outcome = runtime.block_on(start(&settings));
    // What is still open after the grace is cut here; a decode that is under way is not waited for.
    runtime.shutdown_background();
    outcome
}

/// Raises the limit on open files as far as the system lets us: every decoded chunk in memory has a descriptor, and the
/// usual limit of 1024 is for programs that wait with `select`.
fn open_many_files() {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(files) => tracing::debug!(files, "limit on open files"),
        Err(error) => {
            tracing::warn!(%error, "the limit on open files stays as it is; with a low one, few chunks are kept")
        }
    }
}

/// Puts the parts of a server together, says that it is ready, and runs it. The one place that wires them.
async fn start(settings: &Settings) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let metrics = observe::metrics_recorder()?;
    let _data_folder = DataFolder::claim(&settings.data_dir)?;
    let listeners = Listeners::bind(&settings.flight, &settings.admin, settings.insecure).await?;
    let node = Arc::new(Node::open(settings).await?);
    let (sockets, files) = local_sockets(settings).unzip();
    let places = places(settings, &listeners, files.as_ref());
    let _gauges = AbortOnDropHandle::new(tokio::spawn(publish(Arc::clone(&node.cache))));
    let _retention = AbortOnDropHandle::new(tokio::spawn(retention::enforce(Arc::clone(&node.cache))));
    let limits = StreamLimits {
        max_streams: settings.max_streams,
        stall_timeout: settings.stall_timeout,
    };
    let local = sockets.map(|sockets| (sockets, memory::Door::new(Arc::clone(&node))));
    let front = FlightDoor::new(node, places, limits).into_service();
    let parts = Parts {
        flight: move |request| front.clone().answer(request),
        local,
        readiness: Readiness::new([LISTENING]),
        metrics,
        grace: settings.shutdown_grace,
    };
    announce(&listeners);
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let running = server::run(listeners, parts, async {
        // A sender that is dropped means that the signals are gone: stop as well.
        let _ = stopped.await;
    });
    let second_signal = async {
        signals.next().await;
        tracing::info!("stopping");
        let _ = stop.send(());
        signals.next().await;
    };
    let drained = tokio::select! {
        drained = running => drained?,
        () = second_signal => Drained::Cut,
    };
    match drained {
        Drained::Complete => tracing::info!("stopped"),
        Drained::Cut => tracing::warn!("stopped; streams that were still open have been cut"),
    }
    Ok(())
}

/// How often the gauges of what is held are set.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(1);

async fn publish(cache: Arc<Cache>) {
    let mut ticks = tokio::time::interval(PUBLISH_INTERVAL);
    loop {
        ticks.tick().await;
        cache.publish();
    }
}

/// SIGTERM and SIGINT, from the moment this is made.
#[derive(Debug)]
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The line that programs wait for. The sockets are bound, so a connection made now is only queued.
fn announce(listeners: &Listeners) {
    let (flight, admin) = (listeners.flight_address(), listeners.admin_address());
    let mut stdout = std::io::stdout().lock();
    // A server whose stdout is closed serves all the same.
    let _ =
        writeln!(stdout, "jetbridge ready flight=grpc://{flight} admin=http://{admin}").and_then(|()| stdout.flush());
    tracing::info!(version = env!("CARGO_PKG_VERSION"), %flight, %admin, "ready");
}

/// The sockets of this host, unless they are switched off or cannot be had, which is no reason not to start.
fn local_sockets(settings: &Settings) -> Option<(LocalSockets, SocketFiles)> {
    if !settings.local_sockets {
        return None;
    }
    let bound = LocalSockets::bind(&settings.data_dir);
    bound
        .inspect_err(|error| {
            let error = crate::error::chain(error);
            tracing::warn!(error, "no unix sockets for clients of this host; they read over TCP");
        })
        .ok()
}

fn places(settings: &Settings, listeners: &Listeners, files: Option<&SocketFiles>) -> Places {
    Places {
        network: location(settings.advertise.as_deref(), listeners.flight_address()),
        unix: files.map(SocketFiles::flight_uri),
        memory: files.map(SocketFiles::memory_uri),
    }
}

/// What clients are told: never an address that means "any of mine", since none of them could connect to it.
fn location(advertise: Option<&str>, bound: SocketAddr) -> Option<String> {
    match advertise {
        Some(address) if address.contains("://") => Some(address.to_owned()),
        Some(address) => Some(format!("grpc://{address}")),
        None => (!bound.ip().is_unspecified()).then(|| format!("grpc://{bound}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_never_told_a_wildcard_address() {
        let bound: SocketAddr = "127.0.0.1:9".parse().unwrap();
        assert_eq!(location(None, bound).unwrap(), "grpc://127.0.0.1:9");
        assert_eq!(location(None, "0.0.0.0:9".parse().unwrap()), None);
        assert_eq!(location(Some("node-1:9"), bound).unwrap(), "grpc://node-1:9");
        assert_eq!(location(Some("grpc://node-1:9"), bound).unwrap(), "grpc://node-1:9");
        assert_eq!(location(None, "[::1]:9".parse().unwrap()).unwrap(), "grpc://[::1]:9");
    }
}
