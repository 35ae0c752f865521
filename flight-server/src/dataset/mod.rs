//! Datasets: a namespace file or folder that reads as one table.
//!
//! ```text
//! path --listing--> files --catalog::layout--> order, partition values --footers--> schemas, row groups --merge--> Dataset
//! ```
//! A [`Dataset`] is an immutable snapshot: every file with its generation, so that whatever is planned from it reads one
//! version of the data. [`Datasets`] keeps the snapshots and decides, by the mounts' freshness, when to look again.
//!
//! A file whose footer cannot be read stays in the snapshot with its error: a request that does not touch it (another
//! partition, say) is answered, one that does fails and names it.

mod discover;
mod fingerprint;
mod listing;
mod load;
mod parts;
mod snapshots;

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, SchemaRef};
use jetbridge_cache::ReadError;
use jetbridge_cache::RowGroupInfo;
use jetbridge_cache::page::OpenFile;
use jetbridge_catalog::dataset::{PartitionColumn, PartitionKind, PartitionValue};
use jetbridge_catalog::path::NsPath;

pub use fingerprint::Fingerprint;
pub use listing::{Entry, EntryKind, Listed, Place, Tree};
pub use snapshots::Datasets;

/// One version of a dataset.
#[derive(Debug)]
pub struct Dataset {
    /// The namespace file or folder.
    pub path: NsPath,
    /// Columns of all files merged, then the partition columns.
    pub schema: SchemaRef,
    /// Columns that come from `key=value` folders.
    pub partitions: Vec<PartitionColumn>,
    /// The files in reading order: by path, byte order.
    pub files: Vec<DataFile>,
    /// What this version is called; to be made as [`Fingerprint::default`].
    pub fingerprint: Fingerprint,
}

/// One file of a dataset, at one generation.
#[derive(Debug, Clone)]
pub struct DataFile {
    /// Where the namespace has it.
    pub path: NsPath,
    /// How to read it.
    pub open: OpenFile,
    /// One value per partition column of the dataset.
    pub values: Vec<PartitionValue>,
    /// What its footer says, or why it could not be read.
    pub summary: Result<FileSummary, Arc<ReadError>>,
}

/// What a plan needs of a footer, small enough to keep for every file of a dataset.
#[derive(Debug, Clone)]
pub struct FileSummary {
    /// The file's own schema; files with equal schemas share it.
    pub schema: SchemaRef,
    /// Rows and sizes of its row groups, ascending.
    pub row_groups: Arc<[RowGroupInfo]>,
}

impl Dataset {
    /// The partition column of this name, with its position among the partition values.
    #[must_use]
    pub fn partition(&self, column: &str) -> Option<(usize, &PartitionColumn)> {
        self.partitions
            .iter()
            .enumerate()
            .find(|(_, known)| known.name == column)
    }
}

/// The Arrow field of a partition column: 64-bit integers or strings, nullable.
#[must_use]
pub fn partition_field(column: &PartitionColumn) -> Field {
    let data_type = match column.kind {
        PartitionKind::Int => DataType::Int64,
        PartitionKind::Text => DataType::Utf8,
    };
    Field::new(&column.name, data_type, true)
}

/// Partition values as an array of the column's type, in the order given.
#[must_use]
pub fn partition_array<'a>(kind: PartitionKind, values: impl Iterator<Item = &'a PartitionValue>) -> ArrayRef {
    match kind {
        PartitionKind::Int => Arc::new(
            values
                .map(|value| match value {
                    PartitionValue::Int(number) => Some(*number),
                    PartitionValue::Text(_) | PartitionValue::Null => None,
                })
                .collect::<Int64Array>(),
        ),
        PartitionKind::Text => Arc::new(
            values
                .map(|value| match value {
                    PartitionValue::Int(number) => Some(number.to_string()),
                    PartitionValue::Text(text) => Some(text.clone()),
                    PartitionValue::Null => None,
                })
                .collect::<StringArray>(),
        ),
    }
}
