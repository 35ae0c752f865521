//! The forms of the output, one writer each.

use std::error::Error;
use std::path::Path;

use arrow::array::RecordBatch;
use arrow::csv;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::ipc::writer::StreamWriter;
use arrow::json::writer::{LineDelimited, Writer as JsonWriter, WriterBuilder as JsonBuilder};
use clap::ValueEnum;
use jetbridge_cache::export::ParquetFile;

use super::sink::Sink;
use super::table::TableWriter;
use crate::cli::error::CliError;

/// Form of the output.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(in crate::cli) enum Format {
    /// Aligned columns, for people
    Table,
    /// Comma-separated values with a header
    Csv,
    /// One object a line
    Json,
    /// Arrow IPC stream
    Arrow,
    /// One Parquet file
    Parquet,
}

impl Format {
    /// The form that a file's ending names.
    pub(in crate::cli) fn of_file(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "csv" => Some(Self::Csv),
            "json" | "jsonl" | "ndjson" => Some(Self::Json),
            "arrow" | "arrows" => Some(Self::Arrow),
            "parquet" | "parq" | "pq" => Some(Self::Parquet),
            "txt" => Some(Self::Table),
            _ => None,
        }
    }

    /// Whether the form would garble a terminal.
    pub(in crate::cli) fn is_binary(self) -> bool {
        matches!(self, Self::Arrow | Self::Parquet)
    }
}

/// Writes batches in one form.
pub(in crate::cli) enum Writer {
    Table(TableWriter<Sink>),
    Csv(Box<csv::Writer<Sink>>),
    Json(JsonWriter<Sink, LineDelimited>),
    Arrow(StreamWriter<Sink>),
    Parquet(Box<ParquetFile<Sink>>),
}

impl Writer {
    /// A writer of batches with this schema.
    pub(in crate::cli) fn new(format: Format, sink: Sink, schema: &SchemaRef) -> Result<Self, CliError> {
        Ok(match format {
            Format::Table => Self::Table(TableWriter::new(sink, schema)),
            Format::Csv => csv_writer(sink, schema)?,
            // A key that is missing from some lines makes readers guess; null is written out.
            Format::Json => Self::Json(JsonBuilder::new().with_explicit_nulls(true).build(sink)),
            Format::Arrow => Self::Arrow(StreamWriter::try_new(sink, schema).map_err(failed)?),
            Format::Parquet => Self::Parquet(Box::new(ParquetFile::create(sink, schema).map_err(failed)?)),
        })
    }

    /// Writes a batch.
    pub(in crate::cli) fn write(&mut self, batch: &RecordBatch) -> Result<(), CliError> {
        match self {
            Self::Table(writer) => writer.write(batch).map_err(failed),
            Self::Csv(writer) => writer.write(batch).map_err(failed),
            Self::Json(writer) => writer.write(batch).map_err(failed),
            Self::Arrow(writer) => writer.write(batch).map_err(failed),
            Self::Parquet(writer) => writer.write(batch).map_err(failed),
        }
    }

    /// Writes what comes last and gives the sink back.
    pub(in crate::cli) fn finish(self) -> Result<Sink, CliError> {
        match self {
            Self::Table(writer) => writer.finish().map_err(failed),
            Self::Csv(writer) => Ok(writer.into_inner()),
            Self::Json(mut writer) => {
                writer.finish().map_err(failed)?;
                Ok(writer.into_inner())
            }
            Self::Arrow(writer) => writer.into_inner().map_err(failed),
            Self::Parquet(writer) => writer.finish().map_err(failed),
        }
    }
}

fn csv_writer(sink: Sink, schema: &SchemaRef) -> Result<Writer, CliError> {
    if let Some((name, data_type)) = nested_column(schema) {
        let reason =
            format!("csv cannot hold column {name:?} of type {data_type}; use -o json, or leave the column out");
        return Err(CliError::Usage(reason));
    }
    let mut writer = csv::WriterBuilder::new().with_header(true).build(sink);
    // The header stands even where there is no row: it is written with the first batch, be that empty.
    writer.write(&RecordBatch::new_empty(schema.clone())).map_err(failed)?;
    Ok(Writer::Csv(Box::new(writer)))
}

fn nested_column(schema: &Schema) -> Option<(&str, &DataType)> {
    let nested = schema.fields().iter().find(|field| field.data_type().is_nested());
    nested.map(|field| (field.name().as_str(), field.data_type()))
}

fn failed(error: impl Error + Send + Sync + 'static) -> CliError {
    CliError::Output {
        target: "the output".to_owned(),
        source: error.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, ListArray, StringArray};
    use arrow::datatypes::{Field, Int32Type};

    use super::*;

    fn batch() -> RecordBatch {
        let schema = Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("name", DataType::Utf8, true),
        ]);
        let columns: Vec<arrow::array::ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![1, 2])),
            Arc::new(StringArray::from(vec![Some("a,b"), None])),
        ];
        RecordBatch::try_new(Arc::new(schema), columns).unwrap()
    }

    fn written(format: Format, batches: &[RecordBatch], schema: &SchemaRef) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let mut writer = Writer::new(format, Sink::open(Some(&path)).unwrap(), schema).unwrap();
        batches.iter().for_each(|batch| writer.write(batch).unwrap());
        writer.finish().unwrap().commit().unwrap();
        std::fs::read(path).unwrap()
    }

    fn text(format: Format, batches: &[RecordBatch]) -> String {
        String::from_utf8(written(format, batches, &batch().schema())).unwrap()
    }

    #[test]
    fn csv_has_a_header_even_without_rows() {
        assert_eq!(text(Format::Csv, &[batch()]), "id,name\n1,\"a,b\"\n2,\n");
        assert_eq!(text(Format::Csv, &[]), "id,name\n");
    }

    #[test]
    fn json_is_one_object_a_line_with_nulls() {
        assert_eq!(
            text(Format::Json, &[batch()]),
            "{\"id\":1,\"name\":\"a,b\"}\n{\"id\":2,\"name\":null}\n"
        );
        assert_eq!(text(Format::Json, &[]), "");
    }

    #[test]
    fn arrow_is_an_ipc_stream() {
        for batches in [vec![], vec![batch(), batch()]] {
            let bytes = written(Format::Arrow, &batches, &batch().schema());
            let reader = arrow::ipc::reader::StreamReader::try_new(bytes.as_slice(), None).unwrap();
            assert_eq!(reader.schema(), batch().schema());
            assert_eq!(reader.map(Result::unwrap).collect::<Vec<_>>(), batches);
        }
    }

    #[test]
    fn parquet_begins_and_ends_with_its_magic() {
        let bytes = written(Format::Parquet, &[batch()], &batch().schema());
        assert!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"));
    }

    #[test]
    fn csv_refuses_what_it_cannot_hold_before_anything_is_read() {
        let list = ListArray::from_iter_primitive::<Int32Type, _, _>([Some([Some(1)])]);
        let schema = Arc::new(Schema::new(vec![Field::new("tags", list_type(&list), true)]));
        let folder = tempfile::tempdir().unwrap();
        let sink = Sink::open(Some(&folder.path().join("x"))).unwrap();
        let Err(error) = Writer::new(Format::Csv, sink, &schema) else {
            panic!("a list in csv")
        };
        assert!(
            matches!(&error, CliError::Usage(text) if text.contains("\"tags\"")),
            "{error}"
        );
    }

    fn list_type(list: &ListArray) -> DataType {
        arrow::array::Array::data_type(list).clone()
    }
}
