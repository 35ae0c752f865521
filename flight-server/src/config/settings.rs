//! What is true for a server: plain data, checked, without handles.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jetbridge_cache::page::PageConfig;
use jetbridge_cache::ufs::UfsLimits;
use jetbridge_cache::{CacheConfig, CacheFolder, ReadLimits};
use jetbridge_catalog::mount::Mount;
use jetbridge_catalog::path::NsPath;
use jetbridge_catalog::uri::{Scheme, UfsUri};
use serde::{Deserialize, Serialize};

use super::cluster::ClusterSettings;
use super::value::{exact_bytes, split_cache_dir};
use super::written::{MIN_MEMORY_BYTES, Written, WrittenMount};
use super::{ConfigError, address, sql};
use crate::sql::limits::SqlLimits;

/// An endpoint below this would cost more in calls than it carries.
const MIN_ENDPOINT_BYTES: u64 = 64 << 10;
/// A ticket is a key to data: it should not live for months.
const TICKET_TTL: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(7 * 24 * 3600);
/// How long jobs that are over are kept.
const JOB_HISTORY: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3600);
/// Any wait longer than this is a mistake in the unit.
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(3600);
/// As above; none at all is allowed where it means "cut at once".
const GRACE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
/// Pages are whole blocks of every disk; larger ones would be read for a few bytes.
const PAGE_BYTES: RangeInclusive<u64> = 4 << 10..=64 << 20;
/// One request of more than this takes longer than a retry is worth.
const FETCH_BYTES_LIMIT: u64 = 1 << 30;
/// Deeper schemas do not fit Arrow's IPC messages, as most programs read them.
const SCHEMA_DEPTH: RangeInclusive<u64> = 1..=60;
const STREAMS: RangeInclusive<usize> = 1..=1_000_000;
const THREADS: RangeInclusive<usize> = 1..=1024;
const STORE_CONCURRENCY: RangeInclusive<usize> = 1..=4096;

/// Settings of one server.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Folder of everything that outlives the process: the metadata store, keys, the lock; absolute. Default
    /// `$XDG_DATA_HOME/jetbridge`, else `~/.local/share/jetbridge`, else `/var/lib/jetbridge`.
    pub data_dir: PathBuf,
    /// Address of the Flight service, `host:port`; port 0 takes a free one. Default `127.0.0.1:8815`.
    pub flight: String,
    /// Address of `/livez`, `/readyz` and `/metrics`, `host:port`; port 0 takes a free one. Default `127.0.0.1:8816`.
    pub admin: String,
    /// Flight address that clients and other nodes are told, `grpc://host:port` however it was written. Default: the bound
    /// one, or none (the client's own connection) when that is a wildcard address.
    pub advertise: Option<String>,
    /// The cluster that the node is part of.
    pub cluster: ClusterSettings,
    /// Allows addresses other than loopback, though nothing is authenticated or encrypted. Default false.
    pub insecure: bool,
    /// Listens on `flight.sock` and `memory.sock` in the data folder too, for clients of this host and this user. Default true.
    pub local_sockets: bool,
    /// Mounts that exist at start, sorted by namespace path. Default none.
    pub mounts: Vec<Mount>,
    /// Folders that `file://` mounts may lie in, absolute: those written, and those of [`Settings::mounts`], since
    /// whoever writes a setting owns the machine. Default none.
    pub file_roots: Vec<PathBuf>,
    /// The byte budget of all that is held in memory. Default a third of the machine's memory, or of the cgroup's limit.
    pub memory_bytes: u64,
    /// Folders on local disks for raw pages; none keeps pages in memory. Default `cache` in the data folder.
    pub cache_dirs: Vec<CacheDir>,
    /// Sizes of pages and of requests to stores. Defaults as [`PageConfig`] has them.
    pub page: PageConfig,
    /// What a file may ask for. Defaults as [`ReadLimits`] has them.
    pub limits: ReadLimits,
    /// How long a ticket is valid. Default 10 minutes, at most 7 days.
    pub ticket_ttl: Duration,
    /// How long jobs are kept that are over. Default 1 day.
    pub job_history: Duration,
    /// Decoded bytes that one endpoint covers. Default 256 MiB.
    pub endpoint_bytes: u64,
    /// Streams of rows that may be open at once, by DoGet and shared memory together. Default 4096.
    pub max_streams: usize,
    /// How long a client may take nothing of what is ready for it before its stream is let go of. Default 5 minutes:
    /// a training job may look away from its data for a while.
    pub stall_timeout: Duration,
    /// Threads that serve sockets, ask storage and plan. Default the number of cores. Where several nodes share a machine, each
    /// wants its part of the cores: four nodes on two cores took a fifth less of the processors with one thread each than with two.
    pub serve_threads: usize,
    /// Threads that decode Parquet. Default the number of cores.
    pub decode_threads: usize,
    /// The bounds of queries. Defaults as [`SqlLimits`] has them.
    pub sql: SqlLimits,
    /// Requests in flight to one mount's store. Default 64.
    pub store_concurrency: usize,
    /// How long one request to a store may take. Default 10 s.
    pub store_request_timeout: Duration,
    /// How long connecting to a store may take. Default 3 s.
    pub store_connect_timeout: Duration,
    /// How long a request to a store is tried again. Default 30 s.
    pub store_retry_timeout: Duration,
    /// Which events are logged, as tracing filter directives. Default `info`.
    pub log: String,
    /// Form of the log lines. Default text.
    pub log_format: LogFormat,
    /// How long streams in flight may go on after SIGTERM. Default 30 s.
    pub shutdown_grace: Duration,
}

/// A folder of the disk cache.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CacheDir {
    /// Where it is, absolute.
    pub path: PathBuf,
    /// How many bytes it may hold. None: a quarter of what is free on its disk at start.
    pub capacity_bytes: Option<u64>,
}

impl Settings {
    /// Checks what was written and resolves it. `origin` tells where a key's value was written.
    pub(super) fn resolve(written: Written, origin: impl Fn(&str) -> String) -> Result<Self, ConfigError> {
        let refuse = |(key, reason): (String, String)| ConfigError::BadValue {
            origin: origin(&key),
            key,
            reason,
        };
        check(&written).map_err(refuse)?;
        let absolute =
            |key: &str, path: &Path| std::path::absolute(path).map_err(|error| (key.to_owned(), error.to_string()));
        let mounts = resolve_mounts(&written.mounts).map_err(refuse)?;
        let roots = written.file_roots.iter().map(|root| absolute("file_roots", root));
        let roots = roots.collect::<Result<Vec<_>, _>>().map_err(refuse)?;
        let data_dir = absolute("data_dir", &written.data_dir).map_err(refuse)?;
        let advertise = written.advertise.as_deref().map(address::flight_uri).transpose();
        Ok(Self {
            cluster: ClusterSettings::resolve(&written).map_err(refuse)?,
            sql: sql::resolve(&written).map_err(refuse)?,
            cache_dirs: resolve_cache_dirs(written.cache_dirs.as_deref(), &data_dir).map_err(refuse)?,
            page: PageConfig {
                page_size_bytes: written.page_bytes.as_u64(),
                max_run_bytes: written.fetch_bytes.as_u64(),
                max_gap_bytes: written.fetch_gap_bytes.as_u64(),
                ..PageConfig::default()
            },
            limits: ReadLimits {
                footer_bytes: written.max_footer_bytes.as_u64(),
                page_bytes: written.max_page_bytes.as_u64(),
                leaf_columns: written.max_columns,
                row_groups: written.max_row_groups,
                schema_depth: written.max_schema_depth,
                ..ReadLimits::default()
            },
            data_dir,
            flight: written.flight,
            admin: written.admin,
            advertise: advertise.map_err(|reason| refuse(("advertise".to_owned(), reason)))?,
            insecure: written.insecure,
            local_sockets: written.local_sockets,
            file_roots: with_mounted_folders(roots, &mounts),
            mounts,
            memory_bytes: written.memory.as_u64(),
            ticket_ttl: written.ticket_ttl,
            job_history: written.job_history,
            endpoint_bytes: written.endpoint_bytes.as_u64(),
            max_streams: written.max_streams,
            stall_timeout: written.stall_timeout,
            serve_threads: written.serve_threads,
            decode_threads: written.decode_threads,
            store_concurrency: written.store_concurrency,
            store_request_timeout: written.store_request_timeout,
            store_connect_timeout: written.store_connect_timeout,
            store_retry_timeout: written.store_retry_timeout,
            log: written.log,
            log_format: written.log_format,
            shutdown_grace: written.shutdown_grace,
        })
    }

    /// The limits on requests to one mount's store.
    pub fn store_limits(&self) -> UfsLimits {
        UfsLimits {
            concurrency: self.store_concurrency,
            connect_timeout: self.store_connect_timeout,
            request_timeout: self.store_request_timeout,
            retry_timeout: self.store_retry_timeout,
            ..UfsLimits::default()
        }
    }

    /// The cache's budget, folders, sizes, limits and threads.
    pub fn cache_config(&self) -> CacheConfig {
        let folder = |dir: &CacheDir| CacheFolder {
            path: dir.path.clone(),
            capacity_bytes: dir.capacity_bytes,
        };
        CacheConfig {
            memory_bytes: self.memory_bytes,
            decode_threads: self.decode_threads,
            folders: self.cache_dirs.iter().map(folder).collect(),
            page: self.page.clone(),
            limits: self.limits.clone(),
            ..CacheConfig::default()
        }
    }
}

/// Form of log lines.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people: time, level, message, fields.
    #[default]
    Text,
    /// For machines: one object a line.
    Json,
}

/// A key and what is wrong with its value.
pub(super) type Refused = (String, String);

fn check(written: &Written) -> Result<(), Refused> {
    let duration = |value: &Duration| humantime::format_duration(*value).to_string();
    let durations = [
        ("ticket_ttl", written.ticket_ttl, TICKET_TTL),
        ("job_history", written.job_history, JOB_HISTORY),
        ("stall_timeout", written.stall_timeout, TIMEOUT),
        ("store_request_timeout", written.store_request_timeout, TIMEOUT),
        ("store_connect_timeout", written.store_connect_timeout, TIMEOUT),
        ("store_retry_timeout", written.store_retry_timeout, TIMEOUT),
        ("shutdown_grace", written.shutdown_grace, GRACE),
    ];
    for (key, value, range) in durations {
        within(key, value, range, duration)?;
    }
    within(
        "max_schema_depth",
        written.max_schema_depth,
        SCHEMA_DEPTH,
        u64::to_string,
    )?;
    within("max_streams", written.max_streams, STREAMS, usize::to_string)?;
    within("serve_threads", written.serve_threads, THREADS, usize::to_string)?;
    within("decode_threads", written.decode_threads, THREADS, usize::to_string)?;
    within(
        "store_concurrency",
        written.store_concurrency,
        STORE_CONCURRENCY,
        usize::to_string,
    )?;
    let bytes = |value: &u64| exact_bytes(*value);
    within(
        "memory",
        written.memory.as_u64(),
        MIN_MEMORY_BYTES..=u64::MAX >> 1,
        bytes,
    )?;
    let page = written.page_bytes.as_u64();
    within("page_bytes", page, PAGE_BYTES, bytes)?;
    if !page.is_multiple_of(*PAGE_BYTES.start()) {
        let reason = format!(
            "{} is not a multiple of {}",
            exact_bytes(page),
            exact_bytes(*PAGE_BYTES.start())
        );
        return Err(("page_bytes".to_owned(), reason));
    }
    within(
        "fetch_bytes",
        written.fetch_bytes.as_u64(),
        page..=FETCH_BYTES_LIMIT,
        bytes,
    )?;
    within(
        "fetch_gap_bytes",
        written.fetch_gap_bytes.as_u64(),
        0..=FETCH_BYTES_LIMIT,
        bytes,
    )?;
    within(
        "endpoint_bytes",
        written.endpoint_bytes.as_u64(),
        MIN_ENDPOINT_BYTES..=u64::MAX >> 1,
        bytes,
    )
}

/// The one word that means no folder at all.
const NO_CACHE_DIR: &str = "none";

fn resolve_cache_dirs(written: Option<&[String]>, data_dir: &Path) -> Result<Vec<CacheDir>, Refused> {
    let Some(written) = written else {
        let path = data_dir.join("cache");
        return Ok(vec![CacheDir {
            path,
            capacity_bytes: None,
        }]);
    };
    if written.iter().any(|dir| dir == NO_CACHE_DIR) {
        let alone = written.len() == 1;
        let reason = || ("cache_dirs".to_owned(), "`none` is written beside folders".to_owned());
        return alone.then(Vec::new).ok_or_else(reason);
    }
    let resolve = |text: &String| {
        let (path, size) = split_cache_dir(text)?;
        let path = std::path::absolute(path).map_err(|error| error.to_string())?;
        Ok(CacheDir {
            path,
            capacity_bytes: size.map(|size| size.as_u64()),
        })
    };
    let dirs = written.iter().map(resolve).collect::<Result<Vec<_>, String>>();
    dirs.map_err(|reason| ("cache_dirs".to_owned(), reason))
}

fn within<T: PartialOrd>(
    key: &str,
    value: T,
    range: RangeInclusive<T>,
    text: impl Fn(&T) -> String,
) -> Result<(), Refused> {
    if range.contains(&value) {
        return Ok(());
    }
    let (value, least, most) = (text(&value), text(range.start()), text(range.end()));
    Err((key.to_owned(), format!("{value} is outside {least} to {most}")))
}

fn resolve_mounts(written: &BTreeMap<String, WrittenMount>) -> Result<Vec<Mount>, Refused> {
    let mut places = BTreeSet::new();
    let resolved = written.iter().map(|(path, mount)| {
        let mount = resolve_mount(path, mount)?;
        match places.insert(mount.path.clone()) {
            true => Ok(mount),
            false => Err((format!("mounts.{path}"), format!("{} is given twice", mount.path))),
        }
    });
    resolved.collect()
}

fn resolve_mount(path: &str, written: &WrittenMount) -> Result<Mount, Refused> {
    fn refuse<E: std::error::Error>(path: &str) -> impl Fn(E) -> Refused {
        move |error| (format!("mounts.{path}"), chain(&error))
    }
    let place = NsPath::parse(path).map_err(refuse(path))?;
    let uri = absolute_uri(&written.uri).map_err(|reason| (format!("mounts.{path}"), reason))?;
    let uri = UfsUri::parse(&uri).map_err(refuse(path))?;
    Mount::new(place, uri, written.options.clone(), written.read_only).map_err(refuse(path))
}

/// A URI as it is; a folder without a scheme as the `file://` URI of its absolute path.
fn absolute_uri(text: &str) -> Result<String, String> {
    if text.contains("://") {
        return Ok(text.to_owned());
    }
    let refused = |reason: &dyn Display| format!("{text:?} is neither a URI nor a folder: {reason}");
    let path = std::path::absolute(text).map_err(|error| refused(&error))?;
    path.to_str()
        .map(|path| format!("file://{path}"))
        .ok_or_else(|| refused(&"it is not valid UTF-8"))
}

fn with_mounted_folders(mut roots: Vec<PathBuf>, mounts: &[Mount]) -> Vec<PathBuf> {
    let local = mounts.iter().filter(|mount| mount.uri.scheme() == Scheme::File);
    for folder in local.map(|mount| Path::new("/").join(mount.uri.key())) {
        if !roots.contains(&folder) {
            roots.push(folder);
        }
    }
    roots
}

/// The error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
