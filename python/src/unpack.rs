//! Row groups that come as they are stored: decoded here by the server's own code, so that rows are the same either way.

use arrow::array::ArrayRef;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use jetbridge_client::{Unpack, UnpackError, Unpacked};
use jetbridge_flight_server::raw::RawRows;

/// What decodes them.
pub(crate) const UNPACK: Unpack = Unpack::new(unpack);

fn unpack(
    file: Bytes,
    schema: &SchemaRef,
    constants: &[(String, ArrayRef)],
    memory_bytes: u64,
) -> Result<Unpacked, UnpackError> {
    let rows = RawRows::open(file, schema, constants, memory_bytes)?;
    Ok(Box::new(rows.map(|batch| batch.map_err(UnpackError::from))))
}
