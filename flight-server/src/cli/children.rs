//! The worker processes of `serve --workers N`, for trying a cluster on one machine.
//!
//! Each is this same program as `jetbridge worker`, with a data folder of its own below the server's, free ports, its part
//! of the memory, of the threads, of what queries may hold and of each cache folder, and the server's other settings. A child ends when its
//! standard input does, so none is left behind, however the server ends. One that dies is not started again: what happens
//! then is what one wants to try.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use jetbridge_cache::{OpenError, spare_bytes};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::error::CliError;
use super::serve::READY;
use crate::config::{CacheDir, Loaded, MIN_MEMORY_BYTES, MIN_SQL_MEMORY_BYTES, MetaPlace, Row, Settings};

/// How long a worker may take to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Settings that a worker does not have from its server as they are: its own, those of which it has its part, and what is said
/// once for the cluster. The metadata store is not among them: where that is etcd, all nodes are on it.
const NOT_INHERITED: [&str; 12] = [
    "data_dir",
    "flight",
    "admin",
    "advertise",
    "coordinator",
    "memory",
    "serve_threads",
    "decode_threads",
    "sql_memory",
    "sql_query_memory",
    "cache_dirs",
    "weight",
];

/// Worker processes; they end when this is dropped.
#[derive(Debug)]
pub(super) struct Children {
    processes: Vec<Child>,
    /// Their standard inputs, apart from them: waiting for a child closes its own.
    _inputs: Vec<ChildStdin>,
}

impl Children {
    /// Starts `count` workers of the server at `coordinator`, and waits until all are ready. `program` starts this program,
    /// where it is not the process's executable.
    ///
    /// # Errors
    /// A worker that cannot be started, or ends or stays silent instead of being ready.
    pub(super) async fn start(
        (count, program): (u16, Option<&[OsString]>),
        coordinator: &str,
        loaded: &Loaded,
    ) -> anyhow::Result<Self> {
        let rows = loaded.rows();
        let (settings, are_written) = (loaded.settings.clone(), are_folders_written(&rows));
        // A disk may hang.
        let folders = spawn_blocking(move || folders(count, &settings, are_written, spare_bytes)).await??;
        let mut children = Vec::with_capacity(usize::from(count));
        for (number, folders) in (1..=count).zip(&folders) {
            let words = Words::of((number, count), coordinator, &loaded.settings, &rows, folders);
            children.push(words.spawn(command(program)?)?);
        }
        for (number, child) in (1..).zip(&mut children) {
            match timeout(READY_TIMEOUT, ready(child)).await {
                Ok(ready) => ready.with_context(|| format!("worker {number} did not start"))?,
                Err(_elapsed) => bail!("worker {number} was not ready within {} s", READY_TIMEOUT.as_secs()),
            }
        }
        Ok(Self {
            _inputs: children.iter_mut().filter_map(|child| child.stdin.take()).collect(),
            processes: children,
        })
    }

    /// Says when a worker ends, for as long as this is polled.
    pub(super) async fn watch(&mut self) {
        let ends = self.processes.iter_mut().map(|child| async {
            let id = child.id();
            let status = child.wait().await;
            tracing::warn!(process = id, ?status, "a worker ended; the others go on");
        });
        futures::future::join_all(ends).await;
    }
}

/// Refuses what cannot hold for a server that has workers beside it.
///
/// # Errors
/// A weight: each worker has an equal part, so there is nobody whom it could be put on.
pub(super) fn check(rows: &[Row]) -> Result<(), CliError> {
    match rows.iter().find(|row| row.key == "weight" && is_written(row)) {
        None => Ok(()),
        Some(row) => Err(CliError::Usage(format!(
            "{}: weight: the workers of --workers count alike; leave it out, or start workers of other weights by \
             `jetbridge worker`",
            row.source
        ))),
    }
}

/// The settings of the server itself. With workers beside it, the cache folders that were written are theirs alone: it owns
/// nothing that it could keep there.
pub(super) fn settings_beside(workers: u16, loaded: &Loaded) -> Settings {
    let mut settings = loaded.settings.clone();
    if workers > 0 && are_folders_written(&loaded.rows()) {
        settings.cache_dirs.clear();
    }
    settings
}

fn is_written(row: &Row) -> bool {
    row.source != "default"
}

fn are_folders_written(rows: &[Row]) -> bool {
    rows.iter().any(|row| row.key == "cache_dirs" && is_written(row))
}

fn data_dir(settings: &Settings, number: u16) -> PathBuf {
    settings.data_dir.join(format!("workers/{number}"))
}

/// The cache folders of each worker: its own, since two processes cannot have one, with equal parts of what the server's may hold.
/// Without a size that is what is `spare`, which is asked once: the disk is the same for all of them.
///
/// # Errors
/// What `spare` says.
fn folders(
    count: u16,
    settings: &Settings,
    are_written: bool,
    spare: impl Fn(&[PathBuf]) -> Result<u64, OpenError>,
) -> Result<Vec<Vec<CacheDir>>, OpenError> {
    let mut workers = vec![Vec::new(); usize::from(count)];
    for dir in &settings.cache_dirs {
        let own = |number: u16| match are_written {
            true => dir.path.join(format!("worker-{number}")),
            false => data_dir(settings, number).join("cache"),
        };
        let paths: Vec<PathBuf> = (1..=count).map(own).collect();
        let bytes = match dir.capacity_bytes {
            Some(bytes) => bytes,
            None => spare(&paths)?,
        };
        for (worker, path) in workers.iter_mut().zip(paths) {
            worker.push(CacheDir {
                path,
                capacity_bytes: Some(part(bytes, count)),
            });
        }
    }
    Ok(workers)
}

fn part(bytes: u64, count: u16) -> u64 {
    bytes / u64::from(count.max(1))
}

/// What starts this program.
fn command(program: Option<&[OsString]>) -> anyhow::Result<Command> {
    if let Some([program, arguments @ ..]) = program {
        let mut command = Command::new(program);
        command.args(arguments);
        return Ok(command);
    }
    let program = std::env::current_exe().context("the program's own file is not known")?;
    Ok(Command::new(program))
}

/// What a worker is started with.
#[derive(Debug)]
struct Words {
    variables: Vec<(String, String)>,
    arguments: Vec<OsString>,
}

impl Words {
    /// Those of worker `number` of `count`, from 1, which has these cache folders.
    fn of(
        (number, count): (u16, u16),
        coordinator: &str,
        settings: &Settings,
        rows: &[Row],
        folders: &[CacheDir],
    ) -> Self {
        let written = || rows.iter().filter(|row| is_written(row));
        let inherited = written().filter(|row| !row.key.starts_with("mounts"));
        let inherited = inherited.filter(|row| !NOT_INHERITED.contains(&row.key.as_str()));
        let variable = |row: &Row| (format!("JETBRIDGE_{}", row.key.to_ascii_uppercase()), row.value.clone());
        let mut arguments: Vec<OsString> = vec!["worker".into(), "--until-stdin-closes".into()];
        let mut say = |flag: &str, value: OsString| arguments.extend([OsString::from(flag), value]);
        if !matches!(settings.cluster.meta, MetaPlace::Etcd { .. }) {
            say("--coordinator", coordinator.into());
        }
        say("--data-dir", data_dir(settings, number).into());
        say("--flight", "127.0.0.1:0".into());
        say("--admin", "127.0.0.1:0".into());
        let least_bytes = match written().any(|row| row.key == "memory") {
            true => 0,
            // Nobody is to be told that a size is too small which nobody wrote.
            false => MIN_MEMORY_BYTES,
        };
        let memory_bytes = part(settings.memory_bytes, count).max(least_bytes);
        say("--memory", memory_bytes.to_string().into());
        let threads = |of_server: usize| OsString::from((of_server / usize::from(count)).max(1).to_string());
        say("--serve-threads", threads(settings.serve_threads));
        say("--decode-threads", threads(settings.decode_threads));
        if folders.is_empty() {
            say("--cache-dir", "none".into());
        }
        folders.iter().for_each(|dir| say("--cache-dir", text_of(dir)));
        for row in written() {
            let sql_part = |bytes: u64| OsString::from(part(bytes, count).max(MIN_SQL_MEMORY_BYTES).to_string());
            match row.key.as_str() {
                "sql_memory" => say("--sql-memory", sql_part(settings.sql.memory_bytes)),
                "sql_query_memory" => say("--sql-query-memory", sql_part(settings.sql.query_memory_bytes)),
                _ => {}
            }
        }
        Self {
            variables: inherited.map(variable).collect(),
            arguments,
        }
    }

    /// Starts the worker, whose settings are these and no others.
    fn spawn(self, mut command: Command) -> anyhow::Result<Child> {
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("JETBRIDGE_")) {
                command.env_remove(name);
            }
        }
        command
            .envs(self.variables)
            .args(self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("a worker process cannot be started")
    }
}

/// `FOLDER=SIZE`.
fn text_of(dir: &CacheDir) -> OsString {
    let mut text = dir.path.clone().into_os_string();
    if let Some(bytes) = dir.capacity_bytes {
        text.push(format!("={bytes}"));
    }
    text
}

/// Waits for the line that says so.
async fn ready(child: &mut Child) -> anyhow::Result<()> {
    let stdout = child.stdout.take().context("its output is not there")?;
    let mut lines = BufReader::new(stdout).lines();
    while let Some(line) = lines.next_line().await? {
        if line.starts_with(READY) {
            // Nothing more is expected there, but a pipe that nobody reads must not block it.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return Ok(());
        }
    }
    let status = child.wait().await?;
    bail!("it ended with {status}; its log is above")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::config::{self, ConfigFlags, Machine};

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        flags: ConfigFlags,
    }

    const SPARE_BYTES: u64 = 6 << 30;

    fn loaded(arguments: Vec<OsString>, variables: Vec<(String, String)>) -> Loaded {
        on(12 << 30, arguments, variables)
    }

    /// What is loaded on a machine with so much memory.
    fn on(memory_bytes: u64, arguments: Vec<OsString>, variables: Vec<(String, String)>) -> Loaded {
        let flags = Flags::try_parse_from(arguments).unwrap().flags;
        let variables = variables
            .into_iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let machine = Machine {
            memory_bytes: Some(memory_bytes),
            cores: 2,
        };
        config::load(&flags, variables, &machine).unwrap()
    }

    fn server(words: &[&str]) -> Loaded {
        let words = ["serve", "--data-dir", "/data"].iter().chain(words);
        loaded(words.map(Into::into).collect(), Vec::new())
    }

    /// What the two workers of a server with these words make of what they are started with.
    fn workers(words: &[&str]) -> [Settings; 2] {
        workers_of(&server(words))
    }

    fn workers_of(server: &Loaded) -> [Settings; 2] {
        let (settings, rows) = (&server.settings, server.rows());
        let folders = folders(2, settings, are_folders_written(&rows), |_| Ok(SPARE_BYTES)).unwrap();
        [1_u16, 2].map(|number| {
            let own = &folders[usize::from(number) - 1];
            let Words { variables, arguments } = Words::of((number, 2), "grpc://127.0.0.1:1", settings, &rows, own);
            let settings = arguments.into_iter().filter(|word| word != "--until-stdin-closes");
            loaded(settings.collect(), variables).settings
        })
    }

    #[test]
    fn a_worker_has_its_part_of_the_threads_and_one_in_any_case() {
        let threads = |words: &[&str]| workers(words).map(|worker| (worker.serve_threads, worker.decode_threads));
        assert_eq!(threads(&[]), [(1, 1); 2], "of two cores");
        assert_eq!(threads(&["--serve-threads", "7", "--decode-threads", "1"]), [(3, 1); 2]);
    }

    #[test]
    fn a_worker_has_its_own_folder_and_its_part_of_the_memory() {
        let [first, second] = workers(&["--memory", "1GiB", "--stall-timeout", "7s"]);
        assert_eq!(first.data_dir, PathBuf::from("/data/workers/1"));
        assert_eq!(second.data_dir, PathBuf::from("/data/workers/2"));
        assert_eq!((first.memory_bytes, second.memory_bytes), (512 << 20, 512 << 20));
        assert_eq!(first.sql.memory_bytes, 128 << 20);
        assert_eq!(second.stall_timeout, Duration::from_secs(7));
        assert_eq!(
            second.cluster.meta,
            MetaPlace::Coordinator("grpc://127.0.0.1:1".to_owned())
        );
        assert_eq!(
            second.cache_dirs,
            [CacheDir {
                path: "/data/workers/2/cache".into(),
                capacity_bytes: Some(SPARE_BYTES / 2),
            }]
        );
    }

    #[test]
    fn a_worker_has_the_least_memory_where_none_was_written() {
        let server = on(
            300 << 20,
            vec!["serve".into(), "--data-dir".into(), "/data".into()],
            Vec::new(),
        );
        assert_eq!(server.settings.memory_bytes, 100 << 20);
        for worker in workers_of(&server) {
            assert_eq!(worker.memory_bytes, MIN_MEMORY_BYTES);
        }
    }

    #[test]
    fn cache_folders_are_shared_out() {
        let [first, second] = workers(&["--cache-dir", "/ssd=10GiB", "--cache-dir", "/hdd"]);
        let dir = |path: &str, capacity_bytes| CacheDir {
            path: path.into(),
            capacity_bytes: Some(capacity_bytes),
        };
        assert_eq!(
            first.cache_dirs,
            [dir("/ssd/worker-1", 5 << 30), dir("/hdd/worker-1", 3 << 30)]
        );
        assert_eq!(
            second.cache_dirs,
            [dir("/ssd/worker-2", 5 << 30), dir("/hdd/worker-2", 3 << 30)]
        );
        let server = server(&["--cache-dir", "/ssd=10GiB"]);
        assert!(settings_beside(2, &server).cache_dirs.is_empty(), "it owns nothing");
        assert_eq!(settings_beside(0, &server).cache_dirs, [dir("/ssd", 10 << 30)]);
    }

    #[test]
    fn pages_in_memory_are_so_for_the_workers_too() {
        for worker in workers(&["--cache-dir", "none"]) {
            assert!(worker.cache_dirs.is_empty());
        }
    }

    #[test]
    fn what_queries_may_hold_is_divided_as_the_memory_is() {
        let words = [
            "--memory",
            "1GiB",
            "--sql-memory",
            "400MiB",
            "--sql-query-memory",
            "300MiB",
        ];
        for worker in workers(&words) {
            assert_eq!(
                (worker.sql.memory_bytes, worker.sql.query_memory_bytes),
                (200 << 20, 150 << 20)
            );
        }
        let [first, _] = workers(&["--memory", "1GiB", "--sql-memory", "4MiB", "--sql-query-memory", "4MiB"]);
        assert_eq!(
            (first.sql.memory_bytes, first.sql.query_memory_bytes),
            (4 << 20, 4 << 20)
        );
    }

    #[test]
    fn on_etcd_the_workers_are_on_it_too() {
        let server = server(&["--meta", "etcd://h:1/blue"]);
        for worker in workers(&["--meta", "etcd://h:1/blue"]) {
            assert_eq!(worker.cluster.meta, server.settings.cluster.meta);
        }
        let [first, _] = workers(&["--meta", "embedded"]);
        assert!(matches!(first.cluster.meta, MetaPlace::Coordinator(_)));
    }

    #[test]
    fn a_weight_is_refused_in_words() {
        assert!(check(&server(&[]).rows()).is_ok());
        let refused = check(&server(&["--weight", "1TiB"]).rows()).unwrap_err();
        assert!(matches!(&refused, CliError::Usage(words) if words.starts_with("flag --weight: weight: ")));
    }
}
