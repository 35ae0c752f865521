//! The keys that seal tickets: how they rotate, their text form, and the envelope around a sealed content.
//!
//! Where the text is kept is not known here: the nodes of a cluster share it through the metadata store.

use std::fmt;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use hmac::{Hmac, KeyInit, Mac};
use parking_lot::RwLock;
use sha2::Sha256;

use super::{MAX_STATEMENT_BYTES, MAX_TICKET_BYTES, Ticket, TicketError, at_most, wire};

const MAGIC_BYTES: usize = 4;
const KEY_ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 32;
const SEAL_BYTES: usize = 32;
const HASH_BLOCK_BYTES: usize = 64;
const HEADER_BYTES: usize = MAGIC_BYTES + KEY_ID_BYTES;
/// How long a new key seals nothing after a node heard of it: other nodes hear of it later, and open what it seals.
pub const SETTLING: Duration = Duration::from_secs(10);
/// First line of the text of a ring; the number is the version of its format.
const TITLE: &str = "jetbridge ticket keys 1";
/// What is signed to give a key its id.
const ID_LABEL: &[u8] = b"jetbridge ticket key id";

/// What was sealed. The first bytes tell, and are sealed with the rest: one kind never opens as another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A run of a scan.
    Scan,
    /// A query that runs when its ticket is redeemed.
    Query,
    /// A prepared statement.
    Prepared,
    /// The options of a session.
    Session,
}

impl Kind {
    /// Whether the bytes claim to be of this kind.
    #[must_use]
    pub fn is_claimed_by(self, bytes: &[u8]) -> bool {
        bytes.starts_with(self.magic())
    }

    /// Most bytes of it, sealed.
    fn max_bytes(self) -> usize {
        match self {
            Self::Scan | Self::Session => MAX_TICKET_BYTES,
            Self::Query | Self::Prepared => MAX_STATEMENT_BYTES,
        }
    }

    /// What the sealed bytes begin with; the fourth byte is the version of the format.
    fn magic(self) -> &'static [u8; MAGIC_BYTES] {
        match self {
            Self::Scan => b"JBT1",
            Self::Query => b"JBQ1",
            Self::Prepared => b"JBP1",
            Self::Session => b"JBS1",
        }
    }
}

/// Why the keys cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The text is not one of keys, or is damaged.
    #[error("the ticket keys in the metadata store are damaged: {reason}")]
    Damaged {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random(#[source] getrandom::Error),
}

/// The current and the previous key of a cluster.
#[derive(Clone)]
pub struct KeyRing {
    current: Key,
    previous: Option<Key>,
}

impl KeyRing {
    /// A new key.
    ///
    /// # Errors
    /// A system without random bytes.
    pub fn random() -> Result<Self, KeyError> {
        Ok(Self {
            current: Key::random()?,
            previous: None,
        })
    }

    /// A ring with a new current key; the one that was current is the previous one.
    ///
    /// # Errors
    /// A system without random bytes.
    pub fn rotated(&self) -> Result<Self, KeyError> {
        Ok(Self {
            current: Key::random()?,
            previous: Some(self.current.clone()),
        })
    }

    /// Whether a rotation lets go of a key.
    #[must_use]
    pub fn has_previous(&self) -> bool {
        self.previous.is_some()
    }

    /// The ring as text, secrets included.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!("{TITLE}\n{}", self.current.line("current"));
        if let Some(previous) = &self.previous {
            text.push_str(&previous.line("previous"));
        }
        text
    }

    /// Reads what [`KeyRing::to_text`] wrote.
    ///
    /// # Errors
    /// [`KeyError::Damaged`].
    pub fn parse(text: &[u8]) -> Result<Self, KeyError> {
        let text = std::str::from_utf8(text).map_err(|_| "it is not text");
        text.and_then(parse_ring).map_err(|reason| KeyError::Damaged { reason })
    }

    fn find(&self, id: &[u8]) -> Option<Key> {
        std::iter::once(&self.current)
            .chain(&self.previous)
            .find(|key| key.id == id)
            .cloned()
    }
}

impl fmt::Debug for KeyRing {
    /// Names the keys and shows no secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let previous = self.previous.as_ref().map(|key| hex::encode(key.id));
        f.debug_struct("KeyRing")
            .field("current", &hex::encode(self.current.id))
            .field("previous", &previous)
            .finish_non_exhaustive()
    }
}

/// The ring in use. Shared by reference; a new ring is seen by all.
#[derive(Debug)]
pub struct TicketKeys {
    in_use: RwLock<InUse>,
}

#[derive(Debug)]
struct InUse {
    ring: KeyRing,
    /// When the current key begins to seal; the previous one does until then.
    settled: Instant,
}

impl InUse {
    fn sealing(&self) -> &Key {
        let previous = self.ring.previous.as_ref();
        previous
            .filter(|_| Instant::now() < self.settled)
            .unwrap_or(&self.ring.current)
    }
}

impl TicketKeys {
    /// Seals and opens with this ring until it is told another one.
    #[must_use]
    pub fn new(ring: KeyRing) -> Self {
        Self::aged(ring, SETTLING)
    }

    /// The same of a ring whose current key was made so long ago.
    #[must_use]
    pub fn aged(ring: KeyRing, age: Duration) -> Self {
        Self {
            in_use: RwLock::new(InUse {
                ring,
                settled: Instant::now() + SETTLING.saturating_sub(age),
            }),
        }
    }

    /// Opens with another ring from now on, and seals with its current key once that has [settled](SETTLING).
    pub fn set(&self, ring: KeyRing) {
        let mut in_use = self.in_use.write();
        if in_use.ring.current.id != ring.current.id {
            in_use.settled = Instant::now() + SETTLING;
        }
        in_use.ring = ring;
    }

    /// The ticket as the bytes that a client is given.
    ///
    /// # Errors
    /// [`TicketError::TooLarge`] for a ticket that would not open again.
    pub fn seal(&self, ticket: &Ticket) -> Result<Bytes, TicketError> {
        ticket.check()?;
        self.seal_content(Kind::Scan, &wire::encode(ticket))
    }

    /// Opens what [`TicketKeys::seal`] gave, for the cluster `audience`, at `now_unix_ms` (milliseconds since 1970 UTC).
    ///
    /// # Errors
    /// A [`TicketError`] for anything that was not sealed here, was altered, has expired or is another cluster's.
    pub fn open_ticket(&self, bytes: &[u8], audience: &str, now_unix_ms: u64) -> Result<Ticket, TicketError> {
        let ticket = wire::decode(self.open_content(Kind::Scan, bytes)?)?;
        ticket.check()?;
        check_validity(&ticket.audience, ticket.expires_unix_ms, audience, now_unix_ms)?;
        Ok(ticket)
    }

    /// A content in its envelope.
    pub(super) fn seal_content(&self, kind: Kind, content: &[u8]) -> Result<Bytes, TicketError> {
        let key = self.in_use.read().sealing().clone();
        let length = HEADER_BYTES + content.len() + SEAL_BYTES;
        at_most("bytes", length, kind.max_bytes())?;
        let mut bytes = BytesMut::with_capacity(length);
        bytes.put_slice(kind.magic());
        bytes.put_slice(&key.id);
        bytes.put_slice(content);
        let seal = key.sign(&bytes);
        bytes.put_slice(&seal);
        Ok(bytes.freeze())
    }

    /// The content of an envelope whose seal is good.
    pub(super) fn open_content<'a>(&self, kind: Kind, bytes: &'a [u8]) -> Result<&'a [u8], TicketError> {
        let (signed, id, seal) = split(kind, bytes).ok_or(TicketError::NotOurs)?;
        let key = self.in_use.read().ring.find(id).ok_or(TicketError::Forged)?;
        if key.verifies(signed, seal) {
            Ok(&signed[HEADER_BYTES..])
        } else {
            Err(TicketError::Forged)
        }
    }
}

/// Refuses what was sealed for another cluster, or is too old.
pub(super) fn check_validity(
    found: &str,
    expires_unix_ms: u64,
    audience: &str,
    now_unix_ms: u64,
) -> Result<(), TicketError> {
    if found != audience {
        return Err(TicketError::OtherAudience);
    }
    match now_unix_ms.checked_sub(expires_unix_ms) {
        Some(late_ms) => Err(TicketError::Expired {
            seconds_ago: late_ms / 1000,
        }),
        None => Ok(()),
    }
}

/// Signed bytes, key id, seal; `None` for what is no ticket by its length or its first bytes.
fn split(kind: Kind, bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    if bytes.len() > kind.max_bytes() || !kind.is_claimed_by(bytes) {
        return None;
    }
    let (signed, seal) = bytes.split_at_checked(bytes.len().checked_sub(SEAL_BYTES)?)?;
    let id = signed.get(MAGIC_BYTES..HEADER_BYTES)?;
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

    /// The id follows from the secret, so damage shows.
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

fn parse_ring(text: &str) -> Result<KeyRing, &'static str> {
    let mut lines = text.lines();
    if lines.next() != Some(TITLE) {
        return Err("the first line is not its title");
    }
    let current = lines
        .next()
        .ok_or("there is no current key")
        .and_then(|line| parse_key(line, "current"))?;
    let previous = lines.next().map(|line| parse_key(line, "previous")).transpose()?;
    match lines.next() {
        Some(_) => Err("there are more than two keys"),
        None => Ok(KeyRing { current, previous }),
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
