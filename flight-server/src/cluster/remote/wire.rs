//! Calls, answers and events of the metadata store as they go over the wire: JSON, with values in base64.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jetbridge_catalog::meta::{Entry, Expect, LeaseId, MetaError, WatchEvent};
use serde::{Deserialize, Serialize};

/// One operation, for a node of a cluster.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// The cluster that the caller is bound to.
    pub(super) cluster: Option<String>,
    pub(super) operation: Operation,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Operation {
    Get {
        key: String,
    },
    List {
        prefix: String,
    },
    Put {
        key: String,
        value: Base64,
        expect: WireExpect,
        lease: Option<u64>,
    },
    Delete {
        key: String,
        expect: WireExpect,
    },
    Grant {
        ttl_ms: u64,
    },
    KeepAlive {
        lease: u64,
    },
    Revoke {
        lease: u64,
    },
}

/// What is to be watched.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchCall {
    pub(super) cluster: Option<String>,
    pub(super) prefix: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    Entry(Option<WireEntry>),
    Entries(Vec<(String, WireEntry)>),
    Revision(u64),
    Lease(u64),
    Done,
    Failed(WireError),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum WireEvent {
    Reset {
        entries: Vec<(String, WireEntry)>,
        revision: u64,
    },
    Put {
        key: String,
        entry: WireEntry,
    },
    Delete {
        key: String,
        revision: u64,
    },
    Away(WireError),
    Foreign(WireError),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WireEntry {
    value: Base64,
    revision: u64,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum WireExpect {
    Any,
    Absent,
    Revision(u64),
}

/// Errors of the store that its callers tell apart; the others are words.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum WireError {
    Conflict {
        key: String,
        expected: WireExpect,
        found: Option<u64>,
    },
    Key,
    ValueTooLong {
        bytes: usize,
    },
    Lease {
        lease: u64,
    },
    LeaseTtl {
        ttl_ms: u64,
    },
    Foreign {
        cluster: String,
        found: Option<String>,
    },
    Unavailable {
        words: String,
    },
    Other {
        words: String,
    },
}

/// Bytes that are base64 in JSON.
#[derive(Debug)]
pub(super) struct Base64(pub(super) Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64.decode(text).map(Self).map_err(serde::de::Error::custom)
    }
}

pub(super) fn entries(entries: Vec<(String, Entry)>) -> Vec<(String, WireEntry)> {
    entries.into_iter().map(|(key, entry)| (key, entry.into())).collect()
}

impl From<Entry> for WireEntry {
    fn from(entry: Entry) -> Self {
        Self {
            value: Base64(entry.value),
            revision: entry.revision,
        }
    }
}

impl From<WireEntry> for Entry {
    fn from(entry: WireEntry) -> Self {
        Self {
            value: entry.value.0,
            revision: entry.revision,
        }
    }
}

impl From<Expect> for WireExpect {
    fn from(expect: Expect) -> Self {
        match expect {
            Expect::Any => Self::Any,
            Expect::Absent => Self::Absent,
            Expect::Revision(revision) => Self::Revision(revision),
        }
    }
}

impl From<WireExpect> for Expect {
    fn from(expect: WireExpect) -> Self {
        match expect {
            WireExpect::Any => Self::Any,
            WireExpect::Absent => Self::Absent,
            WireExpect::Revision(revision) => Self::Revision(revision),
        }
    }
}

impl WireEvent {
    pub(super) fn of(event: WatchEvent) -> Self {
        match event {
            WatchEvent::Reset { entries, revision } => Self::Reset {
                entries: self::entries(entries),
                revision,
            },
            WatchEvent::Put { key, entry } => Self::Put {
                key,
                entry: entry.into(),
            },
            WatchEvent::Delete { key, revision } => Self::Delete { key, revision },
            WatchEvent::Away(error) => Self::Away(WireError::of(&error)),
            WatchEvent::Foreign(error) => Self::Foreign(WireError::of(&error)),
        }
    }

    pub(super) fn into_event(self) -> WatchEvent {
        match self {
            Self::Reset { entries, revision } => WatchEvent::Reset {
                entries: entries.into_iter().map(|(key, entry)| (key, entry.into())).collect(),
                revision,
            },
            Self::Put { key, entry } => WatchEvent::Put {
                key,
                entry: entry.into(),
            },
            Self::Delete { key, revision } => WatchEvent::Delete { key, revision },
            Self::Away(error) => WatchEvent::Away(error.into_error("watch")),
            Self::Foreign(error) => WatchEvent::Foreign(error.into_error("watch")),
        }
    }
}

impl WireError {
    pub(super) fn of(error: &MetaError) -> Self {
        let words = || crate::error::chain(error);
        match error {
            MetaError::Conflict { key, expected, found } => Self::Conflict {
                key: key.clone(),
                expected: (*expected).into(),
                found: *found,
            },
            MetaError::Key => Self::Key,
            MetaError::ValueTooLong { bytes } => Self::ValueTooLong { bytes: *bytes },
            MetaError::Lease { lease } => Self::Lease { lease: lease.number() },
            MetaError::LeaseTtl { ttl } => Self::LeaseTtl {
                ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
            },
            MetaError::Foreign { cluster, found } => Self::Foreign {
                cluster: cluster.clone(),
                found: found.clone(),
            },
            MetaError::Unavailable { .. } => Self::Unavailable { words: words() },
            _ => Self::Other { words: words() },
        }
    }

    pub(super) fn into_error(self, operation: &'static str) -> MetaError {
        match self {
            Self::Conflict { key, expected, found } => MetaError::Conflict {
                key,
                expected: expected.into(),
                found,
            },
            Self::Key => MetaError::Key,
            Self::ValueTooLong { bytes } => MetaError::ValueTooLong { bytes },
            Self::Lease { lease } => MetaError::Lease {
                lease: LeaseId::from_number(lease),
            },
            Self::LeaseTtl { ttl_ms } => MetaError::LeaseTtl {
                ttl: Duration::from_millis(ttl_ms),
            },
            Self::Foreign { cluster, found } => MetaError::Foreign { cluster, found },
            Self::Unavailable { words } => MetaError::Unavailable {
                operation,
                source: words.into(),
            },
            Self::Other { words } => MetaError::Store {
                operation,
                source: words.into(),
            },
        }
    }
}
