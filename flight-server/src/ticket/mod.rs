//! Tickets: what one endpoint reads, sealed so that any node of the cluster can serve it without asking anybody.
//!
//! ```text
//! planner --Ticket--> TicketKeys::seal --bytes--> client --bytes--> TicketKeys::open --Ticket--> reader
//! ```
//! A ticket names everything that decides the answer: the files with their generations, the row groups, the types that are
//! read, the filter, the limit, and until when. So the reader lists nothing, plans nothing, and never mixes two versions.
//! The bytes are described in `TICKET.md` beside this crate's manifest.
//!
//! The same keys seal what the SQL door hands out: queries, prepared statements and sessions ([`Statement`], [`Session`]).
//!
//! # States
//! A key is current, then previous (tickets signed with it still open), then gone. [`KeyRing::rotated`] moves each one on.
//! For some seconds a current key opens and does not seal yet ([`SETTLING`]), since nodes do not hear of it at once.
//!
//! # Why this, why not that
//! A sealed ticket and not a handle into a table of plans: any node serves any ticket, and a restart loses none.
//! Signed and not encrypted: a client that may hold a ticket may know what it reads, and a support engineer can look into it.
//! The seal is checked before the content is decoded, so that the decoder only ever sees what a node of ours wrote.

mod keys;
mod statement;
mod wire;

use bytes::Bytes;

pub use keys::{KeyError, KeyRing, Kind, SETTLING, TicketKeys};
pub use statement::{Session, SqlOptions, Statement, StatementId};
pub use wire::{schema_fingerprint, schema_from_ipc, schema_to_ipc};

/// Longest ticket, in bytes. gRPC servers take requests of up to 4 MiB; tickets of a plan share one such answer.
pub const MAX_TICKET_BYTES: usize = 1024 * 1024;
/// Longest ticket of a query and longest handle of a prepared statement, in bytes: a statement of the greatest length and its
/// parameters.
pub const MAX_STATEMENT_BYTES: usize = 2 * 1024 * 1024;
/// Most files in one ticket.
pub const MAX_TICKET_FILES: usize = 16 * 1024;
/// Most partition columns of a dataset.
pub const MAX_TICKET_PARTITIONS: usize = 256;
/// Most row groups in one ticket, over all its files.
pub const MAX_TICKET_ROW_GROUPS: usize = 256 * 1024;
/// Most nodes that one ticket names.
pub const MAX_TICKET_HOLDERS: usize = 8;

/// What one endpoint reads.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ticket {
    /// When the ticket ceases to be valid, in milliseconds since 1970 UTC.
    pub expires_unix_ms: u64,
    /// The cluster that it was issued for.
    pub audience: String,
    /// The dataset's namespace path.
    pub dataset: String,
    /// The dataset's canonical storage URI when the ticket was made: another mount at the same path is not the same data.
    pub uri: String,
    /// The columns as asked for; `None` = all, empty = rows without columns.
    pub columns: Option<Vec<String>>,
    /// The filter's SQL text.
    pub filter: Option<String>,
    /// Most rows of this endpoint's answer.
    pub limit: Option<u64>,
    /// Whether the answer must come in the dataset's order.
    pub ordered: bool,
    /// [`schema_fingerprint`] of the schema that was advertised for the answer.
    pub schema_fingerprint: u64,
    /// The columns read, those of the filter included, as [`schema_to_ipc`] writes them.
    pub schema_ipc: Bytes,
    /// The names of the answer's columns, in order; each is one of the columns read.
    pub output: Vec<String>,
    /// The dataset's partition columns, which no file holds.
    pub partitions: Vec<TicketPartition>,
    /// The files to read, in reading order.
    pub files: Vec<TicketFile>,
    /// The epoch of the placement that it was planned with. A hint: tickets of every epoch are served.
    pub epoch: u64,
    /// The ids of the nodes that may hold these row groups, the likeliest first: owner, replicas, owners under earlier
    /// epochs. A hint: who reads the ticket asks them before storage. At most [`MAX_TICKET_HOLDERS`].
    pub holders: Vec<String>,
    /// The numbers of the splits that it reads, by which reads are counted. A hint.
    pub splits: Vec<u64>,
    /// Whether its reader will read the same again. A hint.
    pub reread: bool,
}

/// A partition column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TicketPartition {
    /// Its name.
    pub name: String,
    /// The type of its values.
    pub kind: TicketPartitionKind,
}

/// The type of a partition column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TicketPartitionKind {
    /// Whole numbers of 64 bits.
    Int,
    /// Text.
    Text,
}

/// One value of a partition column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TicketValue {
    /// A whole number.
    Int(i64),
    /// Text.
    Text(String),
    /// No value.
    Null,
}

/// One file and what to read of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TicketFile {
    /// Its path below the dataset, raw text; empty where the dataset is the file itself.
    pub path: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its generation, as the cache's text form.
    pub generation: String,
    /// The row groups to read, in this order.
    pub row_groups: Vec<u32>,
    /// The values of [`Ticket::partitions`], in their order.
    pub values: Vec<TicketValue>,
}

/// Why a ticket does not open, or cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// Bytes that no Jetbridge node wrote as a ticket, or of a format of another version.
    #[error("this is not a ticket of this server")]
    NotOurs,
    /// A ticket whose seal does not fit its content, or was made with a key that is not known here (any more).
    #[error("the ticket is altered, or signed with a key that is not known here; ask for a new one")]
    Forged,
    /// A ticket whose time is over.
    #[error("the ticket expired {seconds_ago} s ago; ask for a new one")]
    Expired {
        /// How long ago, in seconds.
        seconds_ago: u64,
    },
    /// A ticket of another cluster.
    #[error("the ticket was issued by another cluster")]
    OtherAudience,
    /// A sealed ticket whose content this version cannot read.
    #[error("the ticket was sealed here but cannot be read: {reason}")]
    Unreadable {
        /// What is wrong with it.
        reason: String,
    },
    /// More than one ticket holds.
    #[error("the ticket would have {found} {what}, and at most {limit} are allowed")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        found: usize,
        /// How much is allowed.
        limit: usize,
    },
}

impl Ticket {
    /// Refuses what no reader would take, when the ticket is made and again when it is opened.
    fn check(&self) -> Result<(), TicketError> {
        let row_groups = self.files.iter().map(|file| file.row_groups.len()).sum();
        at_most("files", self.files.len(), MAX_TICKET_FILES)?;
        at_most("partition columns", self.partitions.len(), MAX_TICKET_PARTITIONS)?;
        at_most("row groups", row_groups, MAX_TICKET_ROW_GROUPS)?;
        at_most("holders", self.holders.len(), MAX_TICKET_HOLDERS)?;
        let values_fit = self.files.iter().all(|file| file.values.len() == self.partitions.len());
        if values_fit {
            Ok(())
        } else {
            Err(unreadable("a file has not one value for each partition column"))
        }
    }
}

fn at_most(what: &'static str, found: usize, limit: usize) -> Result<(), TicketError> {
    if found > limit {
        Err(TicketError::TooLarge { what, found, limit })
    } else {
        Ok(())
    }
}

fn unreadable(reason: impl Into<String>) -> TicketError {
    TicketError::Unreadable { reason: reason.into() }
}

#[cfg(test)]
mod tests;
