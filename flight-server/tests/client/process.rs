//! A real `jetbridge` process on free ports, killed when it is dropped.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// A server, coordinator or worker that is ready.
pub(crate) struct Process {
    child: Child,
    pub(crate) uri: String,
}

impl Process {
    /// Starts a role with its data in a folder, and waits until it is ready.
    pub(crate) fn start(role: &str, folder: &Path, more: &[&str]) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let log = folder.join("log");
        let output = File::create(&log).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_jetbridge"));
        command.arg(role).arg("--data-dir").arg(folder);
        command
            .args(["--flight", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(more);
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        let mut child = command.spawn().unwrap();
        let began = Instant::now();
        loop {
            let text = std::fs::read_to_string(&log).unwrap();
            let ready = text.lines().find_map(|line| line.split_once("jetbridge ready flight="));
            if let Some((_, addresses)) = ready {
                let uri = addresses.split_whitespace().next().unwrap().to_owned();
                return Self { child, uri };
            }
            if child.try_wait().unwrap().is_some() || began.elapsed() > PATIENCE {
                let _ = child.kill();
                panic!("{role} is not ready: {text}");
            }
            std::thread::sleep(POLL);
        }
    }

    /// kill -9.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < PATIENCE, "not so: {what}");
        tokio::time::sleep(POLL).await;
    }
}
