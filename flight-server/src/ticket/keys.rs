//! The keys that seal tickets: where they live, how they rotate, and the envelope around a ticket's content.
//!
//! Lock order: `rotating` before `ring`. Sealing and opening take `ring` only, for reading.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bytes::{BufMut, Bytes, BytesMut};
use hmac::{Hmac, KeyInit, Mac};
use parking_lot::{Mutex, RwLock};
use sha2::Sha256;

use super::{MAX_TICKET_BYTES, Ticket, TicketError, at_most, wire};

/// What every ticket begins with; the fourth byte is the version of the format.
const MAGIC: &[u8; 4] = b"JBT1";
const KEY_ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 32;
const SEAL_BYTES: usize = 32;
const HASH_BLOCK_BYTES: usize = 64;
const HEADER_BYTES: usize = MAGIC.len() + KEY_ID_BYTES;
/// First line of the key file; the number is the version of its format.
const FILE_TITLE: &str = "jetbridge ticket keys 1";
/// Longest key file that is read, in bytes.
const MAX_KEY_FILE_BYTES: u64 = 4096;
/// What is signed to give a key its id.
const ID_LABEL: &[u8] = b"jetbridge ticket key id";
/// Only the owner reads and writes the key file.
const KEY_FILE_MODE: u32 = 0o600;

/// Why the keys cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The key file cannot be read or written.
    #[error("the ticket keys in {} cannot be {action}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What failed.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The key file is not one, or is damaged.
    #[error("{} is not a file of ticket keys: {reason}; remove it to have new keys made", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random(#[source] getrandom::Error),
}

/// The current and the previous key of a node. Shared by reference; rotation is seen by all.
pub struct TicketKeys {
    /// Where the keys are kept; `None` = in this process only.
    file: Option<PathBuf>,
    rotating: Mutex<()>,
    ring: RwLock<Ring>,
}

impl TicketKeys {
    /// The keys kept in `file`, which is made with a new key, readable by its owner only, if it is not there.
    ///
    /// # Errors
    /// A file that cannot be read or made, or does not hold keys; a system without random bytes.
    pub fn open(file: &Path) -> Result<Self, KeyError> {
        let ring = match read_ring(file)? {
            Some(ring) => ring,
            None => {
                let ring = Ring {
                    current: Key::random()?,
                    previous: None,
                };
                write_ring(file, &ring)?;
                ring
            }
        };
        Ok(Self {
            file: Some(file.to_owned()),
            rotating: Mutex::new(()),
            ring: RwLock::new(ring),
        })
    }

    /// A new key that is kept nowhere: its tickets end with the process.
    ///
    /// # Errors
    /// A system without random bytes.
    pub fn in_memory() -> Result<Self, KeyError> {
        let ring = Ring {
            current: Key::random()?,
            previous: None,
        };
        Ok(Self {
            file: None,
            rotating: Mutex::new(()),
            ring: RwLock::new(ring),
        })
    }

    /// Seals with a new key from now on. Tickets of the key before still open; those of the one before that no longer do.
    ///
    /// # Errors
    /// A key file that cannot be written; then nothing has changed.
    pub fn rotate(&self) -> Result<(), KeyError> {
        let _one_at_a_time = self.rotating.lock();
        let ring = Ring {
            current: Key::random()?,
            previous: Some(self.ring.read().current.clone()),
        };
        if let Some(file) = &self.file {
            write_ring(file, &ring)?;
        }
        *self.ring.write() = ring;
        Ok(())
    }

    /// The ticket as the bytes that a client is given.
    ///
    /// # Errors
    /// [`TicketError::TooLarge`] for a ticket that would not open again.
    pub fn seal(&self, ticket: &Ticket) -> Result<Bytes, TicketError> {
        ticket.check()?;
        let key = self.ring.read().current.clone();
        let body = wire::encode(ticket);
        let length = HEADER_BYTES + body.len() + SEAL_BYTES;
        at_most("bytes", length, MAX_TICKET_BYTES)?;
        let mut bytes = BytesMut::with_capacity(length);
        bytes.put_slice(MAGIC);
        bytes.put_slice(&key.id);
        bytes.put_slice(&body);
        let seal = key.sign(&bytes);
        bytes.put_slice(&seal);
        Ok(bytes.freeze())
    }

    /// Opens what [`TicketKeys::seal`] gave, for the cluster `audience`, at `now_unix_ms` (milliseconds since 1970 UTC).
    ///
    /// # Errors
    /// A [`TicketError`] for anything that was not sealed here, was altered, has expired or is another cluster's.
    pub fn open_ticket(&self, bytes: &[u8], audience: &str, now_unix_ms: u64) -> Result<Ticket, TicketError> {
        let (signed, id, seal) = split(bytes).ok_or(TicketError::NotOurs)?;
        let key = self.ring.read().find(id).ok_or(TicketError::Forged)?;
        if !key.verifies(signed, seal) {
            return Err(TicketError::Forged);
        }
        let ticket = wire::decode(&signed[HEADER_BYTES..])?;
        ticket.check()?;
        if ticket.audience != audience {
            return Err(TicketError::OtherAudience);
        }
        match now_unix_ms.checked_sub(ticket.expires_unix_ms) {
            Some(late_ms) => Err(TicketError::Expired {
                seconds_ago: late_ms / 1000,
            }),
            None => Ok(ticket),
        }
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ring = self.ring.read();
        let previous = ring.previous.as_ref().map(|key| hex::encode(key.id));
        f.debug_struct("TicketKeys")
            .field("file", &self.file)
            .field("current", &hex::encode(ring.current.id))
            .field("previous", &previous)
            .finish_non_exhaustive()
    }
}

/// Signed bytes, key id, seal; `None` for what is no ticket by its length or its first bytes.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    if bytes.len() > MAX_TICKET_BYTES || !bytes.starts_with(MAGIC) {
        return None;
    }
    let (signed, seal) = bytes.split_at_checked(bytes.len().checked_sub(SEAL_BYTES)?)?;
    let id = signed.get(MAGIC.len()..HEADER_BYTES)?;
    Some((signed, id, seal))
}

#[derive(Clone)]
struct Key {
    id: [u8; KEY_ID_BYTES],
    secret: [u8; SECRET_BYTES],
}

impl Key {
    fn random() -> Result<Self, KeyError> {
        let mut secret = [0u8; SECRET_BYTES];
        getrandom::fill(&mut secret).map_err(KeyError::Random)?;
        Ok(Self::from_secret(secret))
    }

    /// The id follows from the secret, so a damaged key file shows.
    fn from_secret(secret: [u8; SECRET_BYTES]) -> Self {
        let mut key = Self {
            id: [0; KEY_ID_BYTES],
            secret,
        };
        let label = key.sign(ID_LABEL);
        key.id.copy_from_slice(&label[..KEY_ID_BYTES]);
        key
    }

    fn sign(&self, message: &[u8]) -> [u8; SEAL_BYTES] {
        self.mac(message).finalize().into_bytes().into()
    }

    /// Compares in constant time.
    fn verifies(&self, message: &[u8], seal: &[u8]) -> bool {
        self.mac(message).verify_slice(seal).is_ok()
    }

    fn mac(&self, message: &[u8]) -> Hmac<Sha256> {
        // HMAC pads a shorter key with zeros to one block of the hash.
        let mut block = [0u8; HASH_BLOCK_BYTES];
        block[..SECRET_BYTES].copy_from_slice(&self.secret);
        Hmac::<Sha256>::new(&block.into()).chain_update(message)
    }

    fn line(&self, role: &str) -> String {
        format!("{role} {} {}\n", hex::encode(self.id), hex::encode(self.secret))
    }
}

struct Ring {
    current: Key,
    previous: Option<Key>,
}

impl Ring {
    fn find(&self, id: &[u8]) -> Option<Key> {
        std::iter::once(&self.current)
            .chain(&self.previous)
            .find(|key| key.id == id)
            .cloned()
    }
}

fn read_ring(file: &Path) -> Result<Option<Ring>, KeyError> {
    let failed = |source| KeyError::File {
        path: file.to_owned(),
        action: "read",
        source,
    };
    let damaged = |reason| KeyError::Damaged {
        path: file.to_owned(),
        reason,
    };
    let metadata = match fs::metadata(file) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if metadata.len() > MAX_KEY_FILE_BYTES {
        return Err(damaged("it is too long"));
    }
    let text = fs::read(file).map_err(failed)?;
    let text = String::from_utf8(text).map_err(|_| damaged("it is not text"))?;
    let ring = parse_ring(&text).map_err(damaged)?;
    if metadata.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(file, fs::Permissions::from_mode(KEY_FILE_MODE)).map_err(failed)?;
        tracing::warn!(file = %file.display(), "the ticket keys were open to other users of this machine; they no longer are");
    }
    Ok(Some(ring))
}

fn parse_ring(text: &str) -> Result<Ring, &'static str> {
    let mut lines = text.lines();
    if lines.next() != Some(FILE_TITLE) {
        return Err("the first line is not its title");
    }
    let current = lines
        .next()
        .ok_or("there is no current key")
        .and_then(|line| parse_key(line, "current"))?;
    let previous = lines.next().map(|line| parse_key(line, "previous")).transpose()?;
    match lines.next() {
        Some(_) => Err("there are more than two keys"),
        None => Ok(Ring { current, previous }),
    }
}

fn parse_key(line: &str, role: &str) -> Result<Key, &'static str> {
    let mut words = line.split(' ');
    let (found, id, secret) = (words.next(), words.next(), words.next());
    if found != Some(role) || words.next().is_some() {
        return Err("a line is not a role, an id and a key");
    }
    let mut bytes = [0u8; SECRET_BYTES];
    hex::decode_to_slice(secret.unwrap_or_default(), &mut bytes).map_err(|_| "a key is not 64 hexadecimal digits")?;
    let key = Key::from_secret(bytes);
    if id == Some(hex::encode(key.id).as_str()) {
        Ok(key)
    } else {
        Err("a key does not fit its id")
    }
}

/// Writes beside the file, then renames, so that a crash leaves the old keys or the new ones.
fn write_ring(file: &Path, ring: &Ring) -> Result<(), KeyError> {
    let failed = |source| KeyError::File {
        path: file.to_owned(),
        action: "written",
        source,
    };
    let mut text = format!("{FILE_TITLE}\n{}", ring.current.line("current"));
    if let Some(previous) = &ring.previous {
        text.push_str(&previous.line("previous"));
    }
    let new = file.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut out = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(KEY_FILE_MODE)
        .open(&new)
        .map_err(failed)?;
    out.write_all(text.as_bytes())
        .and_then(|()| out.sync_all())
        .map_err(failed)?;
    fs::rename(&new, file).map_err(failed)?;
    sync_folder(file).map_err(failed)
}

fn sync_folder(file: &Path) -> io::Result<()> {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => fs::File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}
