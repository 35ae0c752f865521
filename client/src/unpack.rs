//! What reads the small Parquet files of the form `raw`. Whoever makes a client hands it in: there is no Parquet in this crate.

use std::error::Error;
use std::fmt;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use bytes::Bytes;

/// Why a small file cannot be read.
pub type UnpackError = Box<dyn Error + Send + Sync>;

/// The rows of a small file in their order, batch after batch. Each batch is decoded when it is asked for.
pub type Unpacked = Box<dyn Iterator<Item = Result<RecordBatch, UnpackError>> + Send>;

type UnpackFn = fn(Bytes, &SchemaRef, &[(String, ArrayRef)], u64) -> Result<Unpacked, UnpackError>;

/// A function that reads a small file, which is one row group. It is given the file; the schema that the rows are to have;
/// those columns that have one value in all of the file, as arrays of length one, to be cast to the types of their fields; and
/// the bytes that its large pages may take unpacked, all that are there at once together. A page beyond that is to be an error.
///
/// It reads nothing else, and is called where it may take its time. Where it panics, the file counts as damaged.
#[derive(Clone, Copy)]
pub struct Unpack(UnpackFn);

impl Unpack {
    /// What reads small files by this function.
    #[must_use]
    pub const fn new(read: UnpackFn) -> Self {
        Self(read)
    }

    pub(crate) fn open(
        self,
        file: Bytes,
        schema: &SchemaRef,
        constants: &[(String, ArrayRef)],
        memory_bytes: u64,
    ) -> Result<Unpacked, UnpackError> {
        (self.0)(file, schema, constants, memory_bytes)
    }
}

impl fmt::Debug for Unpack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unpack")
    }
}

/// The same function; two that do the same may be told apart, or two that are compiled to the same not be.
impl PartialEq for Unpack {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::fn_addr_eq(self.0, other.0)
    }
}

impl Eq for Unpack {}
