//! The sockets of this host: Flight, and [shared memory](crate::memory), as files in the data folder.
//!
//! ```text
//! flight.sock   Flight over a unix socket: grpc+unix:///data/flight.sock
//! memory.sock   shared memory:             unix:///data/memory.sock
//! ```
//! Both belong to the server's user alone. The data folder's lock says that there is one server, so a socket file that is
//! there at the start is left from a server that died, and replaced.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;
use tokio::net::{UnixListener, UnixSocket};
use url::Url;

const FLIGHT_FILE: &str = "flight.sock";
const MEMORY_FILE: &str = "memory.sock";

/// The longest path of a socket that Linux takes: 108 bytes with the zero at its end.
const MAX_PATH_BYTES: usize = 107;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;
/// For the server's user alone.
const MODE: u32 = 0o600;

/// The bound sockets.
#[derive(Debug)]
pub struct LocalSockets {
    /// For Flight.
    pub flight: UnixListener,
    /// For shared memory.
    pub memory: UnixListener,
}

/// The sockets' files, removed when this is dropped.
#[derive(Debug)]
pub struct SocketFiles {
    flight: SocketFile,
    memory: SocketFile,
}

/// Why the sockets are not there.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LocalError {
    /// The system takes only short paths for sockets.
    #[error("{} is longer than the {MAX_PATH_BYTES} bytes that the path of a socket may have", path.display())]
    TooLong {
        /// The socket's path.
        path: PathBuf,
    },
    /// Something else has the name.
    #[error("{} is there, and is no socket", path.display())]
    InTheWay {
        /// The socket's path.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot listen on {}", path.display())]
    Listen {
        /// The socket's path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl LocalSockets {
    /// Binds both sockets in `folder`, an absolute path that belongs to this process.
    ///
    /// # Errors
    /// A path that is too long, a file that is no socket, what the system refuses. Neither socket is there then.
    pub fn bind(folder: &Path) -> Result<(Self, SocketFiles), LocalError> {
        let (flight, flight_file) = bind(folder.join(FLIGHT_FILE))?;
        let (memory, memory_file) = bind(folder.join(MEMORY_FILE))?;
        let files = SocketFiles {
            flight: flight_file,
            memory: memory_file,
        };
        Ok((Self { flight, memory }, files))
    }
}

impl SocketFiles {
    /// Where Flight clients of this host connect to: `grpc+unix:///data/flight.sock`.
    #[must_use]
    pub fn flight_uri(&self) -> String {
        self.flight.uri("grpc+unix")
    }

    /// Where clients that share memory connect to: `unix:///data/memory.sock`.
    #[must_use]
    pub fn memory_uri(&self) -> String {
        self.memory.uri("unix")
    }
}

#[derive(Debug)]
struct SocketFile(PathBuf);

impl SocketFile {
    /// The file as a URI of this scheme; what a URI may not hold is escaped.
    fn uri(&self, scheme: &str) -> String {
        let path =
            Url::from_file_path(&self.0).map_or_else(|()| self.0.display().to_string(), |url| url.path().to_owned());
        format!("{scheme}://{path}")
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody may have removed it already, and the next start replaces it in any case.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn bind(path: PathBuf) -> Result<(UnixListener, SocketFile), LocalError> {
    if path.as_os_str().as_bytes().len() > MAX_PATH_BYTES {
        return Err(LocalError::TooLong { path });
    }
    let listen = |source| LocalError::Listen {
        path: path.clone(),
        source,
    };
    match std::fs::symlink_metadata(&path) {
        Ok(found) if !found.file_type().is_socket() => return Err(LocalError::InTheWay { path }),
        Ok(_left_from_a_dead_server) => std::fs::remove_file(&path).map_err(listen)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(listen(error)),
    }
    let socket = UnixSocket::new_stream().map_err(listen)?;
    socket.bind(&path).map_err(listen)?;
    let file = SocketFile(path.clone());
    // Nobody can connect before the socket listens, so nobody does so before the mode is set.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(MODE)).map_err(listen)?;
    let listener = socket.listen(BACKLOG).map_err(listen)?;
    Ok((listener, file))
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn sockets_are_private_replace_those_of_the_dead_and_go_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FLIGHT_FILE);
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(UnixStream::connect(&path).await.is_err(), "nobody listens");
        let (sockets, files) = LocalSockets::bind(folder.path()).unwrap();
        for name in [FLIGHT_FILE, MEMORY_FILE] {
            let path = folder.path().join(name);
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, MODE);
            UnixStream::connect(&path).await.unwrap();
        }
        drop((sockets, files));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_cannot_be_a_socket_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let long = folder.path().join("x".repeat(MAX_PATH_BYTES));
        std::fs::create_dir(&long).unwrap();
        let error = LocalSockets::bind(&long).unwrap_err();
        assert!(
            matches!(error, LocalError::TooLong { .. }) && error.to_string().contains("107"),
            "{error}"
        );
        std::fs::write(folder.path().join(MEMORY_FILE), "a file").unwrap();
        let error = LocalSockets::bind(folder.path()).unwrap_err();
        assert!(matches!(error, LocalError::InTheWay { .. }), "{error}");
        assert!(!folder.path().join(FLIGHT_FILE).exists(), "the other one is gone again");
        assert!(folder.path().join(MEMORY_FILE).exists());
    }

    #[test]
    fn a_path_with_odd_characters_is_escaped() {
        let file = SocketFile("/a b/%/flight.sock".into());
        assert_eq!(file.uri("grpc+unix"), "grpc+unix:///a%20b/%25/flight.sock");
        std::mem::forget(file);
    }
}
