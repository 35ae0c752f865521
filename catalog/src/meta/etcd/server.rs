//! An etcd of a test's own: a child process on free ports of the loopback interface, with its data in a folder that
//! goes with it.
//!
//! The program is the one that `JETBRIDGE_TEST_ETCD_BINARY` names, which must be there then; or `etcd` in the PATH; or
//! the one that the Python tests have fetched into the environment beside the build. Without any, the tests that
//! need it say that they are skipped.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{EtcdSettings, EtcdStore};
use crate::meta::MetaStore;

const BINARY_VARIABLE: &str = "JETBRIDGE_TEST_ETCD_BINARY";
const START_TRIES: usize = 3;
const START_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

pub(super) struct Etcd {
    program: Program,
    folder: tempfile::TempDir,
    child: Child,
}

/// What is started: a member by its number, and where all members of its cluster listen (clients, peers).
#[derive(Clone)]
struct Program {
    binary: PathBuf,
    member: usize,
    ports: Vec<(u16, u16)>,
}

impl Etcd {
    /// A new one that answers; `None`, said aloud, where there is no program to start.
    pub(super) async fn start() -> Option<Self> {
        Self::start_members(1).await?.pop()
    }

    /// A cluster of so many members, which answers; `None` as with [`Self::start`].
    pub(super) async fn start_members(count: usize) -> Option<Vec<Self>> {
        let Some(binary) = binary() else {
            // Not by `eprintln!`, which the test runner keeps to itself when a test passes.
            let missing =
                format!("there is no etcd ({BINARY_VARIABLE}, PATH, target/venv/etcd); `make test` fetches one");
            writeln!(std::io::stderr(), "skipped: {missing}").unwrap();
            return None;
        };
        for _ in 0..START_TRIES {
            let ports: Vec<_> = (0..count).map(|_| (free_port(), free_port())).collect();
            let program = |member| Program {
                binary: binary.clone(),
                member,
                ports: ports.clone(),
            };
            let mut members: Vec<_> = (0..count).map(|member| Self::run(program(member))).collect();
            let mut ready = true;
            for member in &mut members {
                ready = ready && member.is_ready().await;
            }
            if ready {
                return Some(members);
            }
        }
        panic!("{} did not start", binary.display());
    }

    fn run(program: Program) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let child = program.spawn(folder.path());
        Self { program, folder, child }
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }

    fn port(&self) -> u16 {
        self.program.ports[self.program.member].0
    }

    /// A store in it, with a connection of its own.
    pub(super) fn store(&self, limit: Duration) -> EtcdStore {
        let mut settings = EtcdSettings::new(vec![self.endpoint()], "test");
        settings.time_limit = limit;
        EtcdStore::open(settings).unwrap()
    }

    /// Ends it without warning.
    pub(super) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again on the same ports, after it was killed.
    pub(super) async fn start_again(&mut self) {
        self.child = self.program.spawn(self.folder.path());
        assert!(self.is_ready().await, "etcd did not start again");
    }

    /// Removes all that it holds, after it was killed.
    pub(super) fn empty(&self) {
        std::fs::remove_dir_all(self.folder.path().join("data")).unwrap();
    }

    /// Stops it in its tracks: connections stay, and nothing is answered.
    pub(super) fn pause(&self) {
        self.signal("-STOP");
    }

    pub(super) fn resume(&self) {
        self.signal("-CONT");
    }

    /// A call of its JSON interface, for what the store itself never does.
    pub(super) fn post(&self, path: &str, body: &str) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port())).unwrap();
        let length = body.len();
        write!(
            stream,
            "POST {path} HTTP/1.0\r\nHost: etcd\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.split(' ').nth(1) == Some("200"), "{path}: {answer}");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Waits until it answers; false when it ended instead.
    async fn is_ready(&mut self) -> bool {
        let store = self.store(Duration::from_secs(2));
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline {
            match store.get("ready").await {
                Ok(_) => return true,
                // It asks for a user, and so it answers.
                Err(crate::meta::MetaError::Store { .. }) => return true,
                Err(_) => {}
            }
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        false
    }
}

impl Program {
    fn spawn(&self, folder: &Path) -> Child {
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let (client, peer) = self.ports[self.member];
        let (client, peer) = (url(client), url(peer));
        let members = self.ports.iter().enumerate();
        let members: Vec<_> = members
            .map(|(member, (_, peer))| format!("member-{member}={}", url(*peer)))
            .collect();
        Command::new(&self.binary)
            .arg(format!("--name=member-{}", self.member))
            .arg(format!("--data-dir={}", folder.join("data").display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster={}", members.join(",")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn binary() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os(BINARY_VARIABLE) {
        let named = PathBuf::from(named);
        assert!(
            named.is_file(),
            "{BINARY_VARIABLE} names {}, which is no file",
            named.display()
        );
        return Some(named);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|folder| folder.join("etcd"));
    let test = std::env::current_exe().unwrap();
    let fetched = test.ancestors().map(|folder| folder.join("venv/etcd/etcd"));
    in_path.chain(fetched).find(|file| file.is_file())
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}
