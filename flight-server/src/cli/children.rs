//! The worker processes of `serve --workers N`, for trying a cluster on one machine.
//!
//! Each is this same program as `jetbridge worker`, with a data folder of its own below the server's, free ports, its part
//! of the memory, and the server's other settings. A child ends when its standard input does, so none is left behind,
//! however the server ends. One that dies is not started again: what happens then is what one wants to try.

use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

use super::serve::READY;
use crate::config::{Row, Settings};

/// How long a worker may take to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Settings that a worker does not have from its server: its own, and those that are said once for the cluster.
const NOT_INHERITED: [&str; 9] = [
    "data_dir",
    "flight",
    "admin",
    "advertise",
    "coordinator",
    "meta",
    "memory",
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
        (count, program): (usize, Option<&[OsString]>),
        coordinator: &str,
        settings: &Settings,
        rows: &[Row],
    ) -> anyhow::Result<Self> {
        let mut children = Vec::with_capacity(count);
        for number in 1..=count {
            let folder = settings.data_dir.join(format!("workers/{number}"));
            let memory_bytes = settings.memory_bytes / (count as u64).max(1);
            children.push(spawn(command(program)?, &folder, coordinator, memory_bytes, rows)?);
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

fn spawn(
    mut command: Command,
    folder: &Path,
    coordinator: &str,
    memory_bytes: u64,
    rows: &[Row],
) -> anyhow::Result<Child> {
    let written = rows
        .iter()
        .filter(|row| row.source != "default" && !row.key.starts_with("mounts"));
    let inherited = written.filter(|row| !NOT_INHERITED.contains(&row.key.as_str()));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("JETBRIDGE_")) {
            command.env_remove(name);
        }
    }
    for row in inherited {
        command.env(format!("JETBRIDGE_{}", row.key.to_ascii_uppercase()), &row.value);
    }
    command
        .arg("worker")
        .arg("--until-stdin-closes")
        .args(["--coordinator", coordinator])
        .arg("--data-dir")
        .arg(folder)
        .args(["--flight", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .args(["--memory", &memory_bytes.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("a worker process cannot be started")
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
