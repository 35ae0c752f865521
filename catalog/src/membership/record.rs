//! What nodes write about themselves, and under which keys.

use serde::{Deserialize, Serialize};

use crate::placement::NodeId;

/// Keys of the members' records begin with this; the rest is the node's id.
pub const MEMBER_PREFIX: &str = "member/";

/// Keys that live as long as their node's lease begin with this; the rest is the node's id, the value the
/// generation of the process as decimal text.
pub const ALIVE_PREFIX: &str = "alive/";

/// The key of the placement document.
pub const PLACEMENT_KEY: &str = "placement";

/// The most members, alive or not.
pub const MAX_MEMBERS: usize = 10_000;

/// The longest record, in bytes of JSON.
pub const MAX_RECORD_BYTES: usize = 8 * 1024;

/// The most addresses of a node.
pub const MAX_ADDRESSES: usize = 16;

/// What a node is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It holds data and may have a seat.
    Worker,
    /// It plans and answers; it never has a seat.
    Coordinator,
}

/// What a node says of its own readiness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Readiness {
    /// It takes reads.
    Serving,
    /// It ends what it has begun and takes nothing new. It may come back: its seat is kept for the grace period.
    Draining,
    /// As draining, and it does not come back: its seat is given up at once.
    Leaving,
}

/// A member's record: `member/<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// The node's persisted identity.
    pub id: NodeId,
    /// The number of the process under this identity; each start has a greater one.
    pub generation: u64,
    /// Where it is reached, best first, as URIs. At most [`MAX_ADDRESSES`].
    pub addresses: Vec<String>,
    /// The machine that it runs on, in words of its own: nodes that say the same see each other's files and sockets.
    #[serde(default)]
    pub host: String,
    /// Its capacity in bytes.
    pub weight: u64,
    /// What it is there for.
    pub role: Role,
    /// Whether it takes reads.
    pub state: Readiness,
    /// How long its seat is kept once it is lost or drains, in milliseconds; none is as long as is usual,
    /// [`Settings::grace`](super::Settings::grace). It is a member's own word, so that all nodes give a seat up at one time.
    /// Nodes of versions that do not know the word pass over a record that has it, so it is left out where it is as usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<u64>,
}

impl Member {
    /// The key under which it stands.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{MEMBER_PREFIX}{}", self.id)
    }

    /// The record in JSON.
    ///
    /// # Errors
    /// [`RecordError`]: it has more addresses or bytes than there may be.
    pub fn encode(&self) -> Result<Vec<u8>, RecordError> {
        let bytes = serde_json::to_vec(self)?;
        self.check(bytes.len())?;
        Ok(bytes)
    }

    /// Reads a record.
    ///
    /// # Errors
    /// [`RecordError`]: it is no such record, or larger than one may be.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() > MAX_RECORD_BYTES {
            return Err(RecordError::TooLong { bytes: bytes.len() });
        }
        let member: Self = serde_json::from_slice(bytes)?;
        member.check(bytes.len())?;
        Ok(member)
    }

    fn check(&self, bytes: usize) -> Result<(), RecordError> {
        if bytes > MAX_RECORD_BYTES {
            return Err(RecordError::TooLong { bytes });
        }
        if self.addresses.len() > MAX_ADDRESSES {
            return Err(RecordError::Addresses {
                count: self.addresses.len(),
            });
        }
        Ok(())
    }
}

/// What is wrong with a record of membership.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// It is no JSON of this kind.
    #[error("the record cannot be read")]
    Json(#[from] serde_json::Error),
    /// It is longer than it may be.
    #[error("a record of {bytes} bytes is too long")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// It has more than [`MAX_ADDRESSES`] addresses.
    #[error("{count} addresses are too many: the limit is {MAX_ADDRESSES}")]
    Addresses {
        /// How many it has.
        count: usize,
    },
    /// An earlier epoch does not fit the later ones.
    #[error("epoch {epoch} does not fit the epochs after it")]
    Past {
        /// The epoch.
        epoch: u64,
    },
}
