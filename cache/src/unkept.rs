//! Why something that was to be kept is not.

use std::fmt;

/// Why what was asked to be kept is not held, for people to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unkept {
    /// A rule of its mount says that nothing of the file is kept.
    Rule,
    /// Its mount's quota is full of what is pinned or was demanded before it.
    Quota {
        /// The quota.
        quota_bytes: u64,
    },
    /// It is larger than a decoded chunk may be.
    TooLarge {
        /// Bytes of the chunk, as far as they were counted.
        bytes: u64,
        /// The largest chunk that is kept.
        largest_bytes: u64,
    },
    /// The tier is full of what is pinned or was demanded before it.
    Full {
        /// What the tier has room for.
        capacity_bytes: u64,
    },
    /// The memory budget is in use by reads.
    Memory,
    /// The cache's disk cannot be written to, or has no space left.
    Disk,
    /// The file was dropped from the cache meanwhile.
    Dropped,
}

impl fmt::Display for Unkept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule => f.write_str("a rule of its mount keeps nothing of it"),
            Self::Quota { quota_bytes } => write!(
                f,
                "its mount's quota of {quota_bytes} bytes is full of what is pinned or was preloaded before it"
            ),
            Self::TooLarge { bytes, largest_bytes } => write!(
                f,
                "a decoded column takes {bytes} bytes, and no more than {largest_bytes} of one are kept"
            ),
            Self::Full { capacity_bytes } => write!(
                f,
                "the tier of {capacity_bytes} bytes is full of what is pinned or was preloaded before it"
            ),
            Self::Memory => f.write_str("the memory budget is in use by reads"),
            Self::Disk => f.write_str("the cache's disk cannot be written to, or is full"),
            Self::Dropped => f.write_str("it was dropped from the cache meanwhile"),
        }
    }
}
