//! `jetbridge serve`, `coordinator` and `worker`: settings in, a running node out.

use std::ffi::OsString;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use jetbridge_cache::Cache;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::task::AbortOnDropHandle;

use super::children::{self, Children};
use super::error::CliError;
use crate::admin::Readiness;
use crate::cluster::{Places, Role, follow, host};
use crate::config::{self, ConfigFlags, Loaded, Machine, MetaPlace, Settings};
use crate::data_folder::DataFolder;
use crate::flight::FlightDoor;
use crate::jobs;
use crate::local::{LocalSockets, SocketFiles};
use crate::memory;
use crate::node::Node;
use crate::observe;
use crate::retention;
use crate::server::{self, Drained, LISTENING, Listeners, Parts};
use crate::streams::{StreamLimits, Streams};

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

const COORDINATOR_EXAMPLES: &str = "\
Examples:
  jetbridge coordinator --data-dir /var/lib/jetbridge --mount /lake=s3://bucket/prefix
  jetbridge coordinator --meta etcd://etcd-1:2379,etcd-2:2379/lake --cluster-key file:/etc/jetbridge.key

Workers join by --coordinator grpc://HOST:PORT, or by the same --meta. A coordinator caches nothing of its own share, since it
has none, but answers every call. With etcd there may be several of them; reads go on when all of them are gone.";

const WORKER_EXAMPLES: &str = "\
Examples:
  jetbridge worker --coordinator grpc://node-0:8815 --cache-dir /ssd/jetbridge=2TiB --memory 64GiB
  jetbridge worker --meta etcd://etcd-1:2379/lake --cluster-key file:/etc/jetbridge.key --advertise node-7:8815

A worker owns a share of the data after its weight, and has its identity and its cache in --data-dir: started again there, at
whatever address, it is the same worker. SIGTERM lets its streams end after it stopped being named to clients.";

/// What a line begins with that says that the server takes requests.
pub(super) const READY: &str = "jetbridge ready";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct ServeArgs {
    /// Start this many worker processes too, to try a cluster on one machine; this one then only coordinates. They have equal parts
    /// of --memory, --sql-memory and --sql-query-memory, and of each --cache-dir, in FOLDER/worker-N
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=64))]
    workers: u16,
    /// Stop when standard input ends: for a process that must not outlive the one that started it
    #[arg(long)]
    until_stdin_closes: bool,
    #[command(flatten)]
    config: ConfigFlags,
}

#[derive(Args, Debug)]
#[command(after_help = COORDINATOR_EXAMPLES)]
pub(super) struct NodeArgs {
    /// Stop when standard input ends: for a process that must not outlive the one that started it
    #[arg(long)]
    until_stdin_closes: bool,
    #[command(flatten)]
    config: ConfigFlags,
}

#[derive(Args, Debug)]
#[command(after_help = WORKER_EXAMPLES)]
pub(super) struct WorkerArgs {
    /// Stop when standard input ends: for a process that must not outlive the one that started it
    #[arg(long)]
    until_stdin_closes: bool,
    #[command(flatten)]
    config: ConfigFlags,
}

/// What a process is to be.
#[derive(Debug)]
struct Start {
    role: Role,
    /// Worker processes to start beside it.
    workers: u16,
    /// What starts this program again, for them; none where it is the process's executable.
    program: Option<Vec<OsString>>,
    until_stdin_closes: bool,
}

/// Runs all roles in one process until it is told to stop.
pub(super) fn serve(arguments: &ServeArgs, program: Option<Vec<OsString>>) -> Result<(), CliError> {
    let role = if arguments.workers == 0 {
        Role::All
    } else {
        Role::Coordinator
    };
    let start = Start {
        role,
        workers: arguments.workers,
        program,
        until_stdin_closes: arguments.until_stdin_closes,
    };
    run(&arguments.config, &start)
}

/// Runs a coordinator until it is told to stop.
pub(super) fn coordinator(arguments: &NodeArgs) -> Result<(), CliError> {
    let start = Start {
        role: Role::Coordinator,
        workers: 0,
        program: None,
        until_stdin_closes: arguments.until_stdin_closes,
    };
    run(&arguments.config, &start)
}

/// Runs a worker until it is told to stop.
pub(super) fn worker(arguments: &WorkerArgs) -> Result<(), CliError> {
    let start = Start {
        role: Role::Worker,
        workers: 0,
        program: None,
        until_stdin_closes: arguments.until_stdin_closes,
    };
    run(&arguments.config, &start)
}

fn run(flags: &ConfigFlags, start: &Start) -> Result<(), CliError> {
    let loaded = config::load(flags, std::env::vars_os(), &Machine::probe())?;
    check_role(start.role, &loaded.settings.cluster.meta)?;
    if start.workers > 0 {
        children::check(&loaded.rows())?;
    }
    run_loaded(&loaded, start).map_err(CliError::Serve)
}

/// A worker belongs to somebody's cluster; the others have one.
fn check_role(role: Role, meta: &MetaPlace) -> Result<(), CliError> {
    match (role, meta) {
        (Role::Worker, MetaPlace::Embedded) => Err(CliError::Usage(
            "a worker needs to know its cluster: give --coordinator grpc://HOST:PORT, or --meta etcd://HOST:PORT; \
             for one process that does everything, there is `jetbridge serve`"
                .to_owned(),
        )),
        (Role::All | Role::Coordinator, MetaPlace::Coordinator(_)) => Err(CliError::Usage(
            "--coordinator is for workers: `jetbridge worker --coordinator ...`; several coordinators share --meta etcd://..."
                .to_owned(),
        )),
        _ => Ok(()),
    }
}

fn run_loaded(loaded: &Loaded, start: &Start) -> anyhow::Result<()> {
    let settings = &loaded.settings;
    observe::init_logging(&settings.log, settings.log_format)?;
    open_many_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(settings.serve_threads)
        .enable_all()
        .thread_name("jetbridge")
        .build()
        .context("cannot start the runtime")?;
    let outcome = runtime.block_on(live(loaded, start));
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

/// Puts the parts of a node together, joins its cluster, says that it is ready, and runs it. The one place that wires them.
async fn live(loaded: &Loaded, start: &Start) -> anyhow::Result<()> {
    let settings = &children::settings_beside(start.workers, loaded);
    let mut signals = Signals::listen(start.until_stdin_closes)?;
    let metrics = observe::metrics_recorder()?;
    let _data_folder = DataFolder::claim(&settings.data_dir)?;
    let listeners = Listeners::bind(&settings.flight, &settings.admin, settings.insecure).await?;
    let (sockets, files) = local_sockets(settings).unzip();
    let places = places(settings, &listeners, files.as_ref());
    let opened = tokio::select! {
        opened = Node::open(settings, start.role, places) => opened?,
        () = signals.next() => return Ok(()),
    };
    let node = Arc::new(opened);
    let _gauges = AbortOnDropHandle::new(tokio::spawn(publish(Arc::clone(&node.cache))));
    let _retention = AbortOnDropHandle::new(tokio::spawn(retention::enforce(Arc::clone(&node.cache))));
    let streams = Streams::new(StreamLimits {
        max_streams: settings.max_streams,
        stall_timeout: settings.stall_timeout,
    });
    let local = sockets.map(|sockets| (sockets, memory::Door::new(Arc::clone(&node), streams.clone())));
    let front = FlightDoor::new(Arc::clone(&node), streams).into_service();
    let readiness = Readiness::new([LISTENING, JOINED]);
    let parts = Parts {
        flight: move |request| front.clone().answer(request),
        local,
        readiness: readiness.clone(),
        metrics,
        grace: settings.shutdown_grace,
    };
    let addresses = (listeners.flight_address(), listeners.admin_address());
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let running = server::run(listeners, parts, async {
        // A sender that is dropped means that the signals are gone: stop as well.
        let _ = stopped.await;
    });
    let membership = async {
        let joined = follow::join(&node).await?;
        let _jobs = jobs::start(&node);
        let mut children = start_workers(loaded, start, addresses.0).await?;
        joined.workers_seated(usize::from(start.workers)).await;
        readiness.set(JOINED, true);
        announce(addresses);
        let (stayed, ()) = tokio::join!(joined.stay(), children.watch());
        stayed
    };
    let second_signal = async {
        signals.next().await;
        tracing::info!("stopping");
        node.cluster.drain().await;
        let _ = stop.send(());
        signals.next().await;
    };
    let drained = tokio::select! {
        drained = running => drained?,
        failed = membership => {
            failed?;
            Drained::Cut
        }
        () = second_signal => Drained::Cut,
    };
    node.cluster.leave().await;
    settle(&node.cache, &mut signals).await;
    match drained {
        Drained::Complete => tracing::info!("stopped"),
        Drained::Cut => tracing::warn!("stopped; streams that were still open have been cut"),
    }
    Ok(())
}

/// Keeps what was read last, so that the next start finds it, unless that takes too long, or somebody does not want to wait for it.
async fn settle(cache: &Cache, signals: &mut Signals) {
    tokio::select! {
        () = cache.settle() => {}
        () = tokio::time::sleep(SETTLE_LIMIT) => {}
        () = signals.next() => {}
    }
}

/// The condition of `/readyz` that the node has joined its cluster.
const JOINED: &str = "joined";

async fn start_workers(loaded: &Loaded, start: &Start, flight: SocketAddr) -> anyhow::Result<Children> {
    let coordinator = format!("grpc://{flight}");
    Children::start((start.workers, start.program.as_deref()), &coordinator, loaded).await
}

/// How long what waits to be kept may take at the end.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

/// How often the gauges of what is held are set.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(1);

async fn publish(cache: Arc<Cache>) {
    let mut ticks = tokio::time::interval(PUBLISH_INTERVAL);
    loop {
        ticks.tick().await;
        cache.publish();
    }
}

/// SIGTERM and SIGINT, from the moment this is made; and the end of standard input, where that is to end the process.
#[derive(Debug)]
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    stdin: Option<tokio::sync::oneshot::Receiver<()>>,
}

impl Signals {
    fn listen(until_stdin_closes: bool) -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            stdin: until_stdin_closes.then(end_of_stdin),
        })
    }

    async fn next(&mut self) {
        let stdin = async {
            match &mut self.stdin {
                // A thread that is gone without a word counts as the end, too.
                Some(ended) => drop(ended.await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            () = stdin => self.stdin = None,
        }
    }
}

/// Told when standard input ends. A thread of its own, since a blocked read cannot be taken back.
fn end_of_stdin() -> tokio::sync::oneshot::Receiver<()> {
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // Whatever comes there is nothing to us, and an error is an end.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = tell.send(());
    });
    told
}

/// The line that programs wait for. The sockets are bound, so a connection made now is only queued.
fn announce((flight, admin): (SocketAddr, SocketAddr)) {
    let mut stdout = std::io::stdout().lock();
    // A server whose stdout is closed serves all the same.
    let _ = writeln!(stdout, "{READY} flight=grpc://{flight} admin=http://{admin}").and_then(|()| stdout.flush());
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
        host: host::name_of_this(),
    }
}

/// What clients are told: never an address that means "any of mine", since none of them could connect to it.
fn location(advertise: Option<&str>, bound: SocketAddr) -> Option<String> {
    let own = || (!bound.ip().is_unspecified()).then(|| format!("grpc://{bound}"));
    advertise.map(str::to_owned).or_else(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_never_told_a_wildcard_address() {
        let bound: SocketAddr = "127.0.0.1:9".parse().unwrap();
        assert_eq!(location(None, bound).unwrap(), "grpc://127.0.0.1:9");
        assert_eq!(location(None, "0.0.0.0:9".parse().unwrap()), None);
        assert_eq!(location(Some("grpc://node-1:9"), bound).unwrap(), "grpc://node-1:9");
        assert_eq!(location(None, "[::1]:9".parse().unwrap()).unwrap(), "grpc://[::1]:9");
    }
}
