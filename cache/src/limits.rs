//! What a file may ask of this process before it is believed.
//!
//! A Parquet footer is a promise made by a stranger: it names sizes, counts and depths that a decoder then allocates
//! and recurses by. Each number here is checked before the work that it bounds begins, so that a hostile or damaged
//! file costs its own reader an error and nobody else anything.
//!
//! Why plain numbers and not a share of memory: a limit that moves with the machine makes the same file readable on
//! one node and not on another, and a dataset must read the same wherever its splits are placed.

/// Bounds on what one file may make this process allocate or recurse into.
///
/// Every limit is checked before the bytes that it concerns are decoded; a file that goes over one is refused with
/// [`ReadError::LimitExceeded`](crate::ReadError::LimitExceeded).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadLimits {
    /// Longest footer (Thrift metadata) that is parsed, in bytes. Default 64 MiB.
    pub footer_bytes: u64,
    /// Most leaf columns in one file. Default 100,000.
    pub leaf_columns: u64,
    /// Deepest nesting of the Parquet schema, in groups; a list is two of them. Default 60, since readers of Arrow's IPC
    /// messages, ours among them, refuse schemas that nest deeper than about 62.
    pub schema_depth: u64,
    /// Most row groups in one file. Default 32,767, the most that the format's ordinal can number.
    pub row_groups: u64,
    /// Most elements of any one list inside the footer. Default 1,048,576.
    pub footer_list_items: u64,
    /// Largest page after decompression, in bytes. Default 2 GiB less one, the most that the format can express: honest
    /// writers stay near 1 MiB, but pyarrow puts at least 1,024 values into a page, however long they are. Set it lower
    /// where files are not trusted.
    pub page_bytes: u64,
}

impl Default for ReadLimits {
    fn default() -> Self {
        Self {
            footer_bytes: 64 << 20,
            leaf_columns: 100_000,
            schema_depth: 60,
            row_groups: 32_767,
            footer_list_items: 1 << 20,
            page_bytes: i32::MAX.unsigned_abs().into(),
        }
    }
}
