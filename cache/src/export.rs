//! Arrow to one Parquet file, for those who take data away (`jetbridge get -o parquet`).
//!
//! It stands in this crate because nothing outside may import parquet. It takes no part in reading.
//!
//! Row groups end at a number of rows or at a number of buffered bytes, whichever comes first, so that a writer's memory
//! is bounded whatever the rows hold.

use std::fmt;
use std::io::Write;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

/// Rows of one row group, at most.
const ROW_GROUP_ROWS: usize = 1 << 20;
/// Encoded bytes of one row group, about.
const ROW_GROUP_BYTES: usize = 128 << 20;

/// A Parquet file that is being written, compressed with zstd. It is complete only after [`ParquetFile::finish`].
pub struct ParquetFile<W: Write + Send> {
    writer: ArrowWriter<W>,
}

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write Parquet")]
pub struct ExportError(#[from] ParquetError);

impl<W: Write + Send> ParquetFile<W> {
    /// Begins a file whose columns are those of `schema`.
    ///
    /// # Errors
    /// A type that Parquet cannot hold, a sink that does not take bytes.
    pub fn create(sink: W, schema: &SchemaRef) -> Result<Self, ExportError> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_created_by(concat!("jetbridge version ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
            .build();
        Ok(Self {
            writer: ArrowWriter::try_new(sink, SchemaRef::clone(schema), Some(properties))?,
        })
    }

    /// Adds rows; they reach the sink at the end of their row group.
    ///
    /// # Errors
    /// A batch of another schema, a sink that does not take bytes.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), ExportError> {
        Ok(self.writer.write(batch)?)
    }

    /// Writes the last row group and the footer, and gives the sink back.
    ///
    /// # Errors
    /// A sink that does not take bytes.
    pub fn finish(self) -> Result<W, ExportError> {
        Ok(self.writer.into_inner()?)
    }
}

impl<W: Write + Send> fmt::Debug for ParquetFile<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParquetFile")
            .field("buffered_bytes", &self.writer.memory_size())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Array, ArrayRef, Int64Array, ListArray, StringArray};
    use arrow::datatypes::{DataType, Field, Int32Type, Schema};
    use bytes::Bytes;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;

    fn batch() -> RecordBatch {
        let list = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None]), None]);
        let schema = Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("name", DataType::Utf8, true),
            Field::new("tags", list.data_type().clone(), true),
        ]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![1, 2])),
            Arc::new(StringArray::from(vec![Some("a"), None])),
            Arc::new(list),
        ];
        RecordBatch::try_new(Arc::new(schema), columns).unwrap()
    }

    #[test]
    fn what_is_written_reads_back_equal() {
        let mut file = ParquetFile::create(Vec::new(), &batch().schema()).unwrap();
        file.write(&batch()).unwrap();
        file.write(&batch()).unwrap();
        let bytes = Bytes::from(file.finish().unwrap());
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
        assert_eq!(reader.schema().fields(), batch().schema().fields());
        let read: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
        let read = arrow::compute::concat_batches(&batch().schema(), &read).unwrap();
        assert_eq!(
            read,
            arrow::compute::concat_batches(&batch().schema(), &[batch(), batch()]).unwrap()
        );
    }

    #[test]
    fn a_file_without_rows_has_its_schema() {
        let bytes = Bytes::from(
            ParquetFile::create(Vec::new(), &batch().schema())
                .unwrap()
                .finish()
                .unwrap(),
        );
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
        assert_eq!(reader.schema().fields(), batch().schema().fields());
        assert_eq!(reader.metadata().file_metadata().num_rows(), 0);
    }
}
