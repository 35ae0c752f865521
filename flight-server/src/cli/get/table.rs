//! A table for people that is written as it is read.
//!
//! The first rows decide how wide the columns are; a later value that is wider pushes its line out of step, but is never
//! cut. So a table of any length needs the memory of one block.

use std::io::{self, Write};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use comfy_table::{ColumnConstraint, Table, Width};

use crate::cli::output::{COLUMN_PADDING, cell, lines, plain_table};

/// Rows that are laid out together.
const BLOCK_ROWS: usize = 1024;

/// Writes batches as aligned columns.
pub(in crate::cli) struct TableWriter<W> {
    sink: W,
    schema: SchemaRef,
    block: Option<Table>,
    widths: Option<Vec<u16>>,
}

impl<W: Write> TableWriter<W> {
    /// A writer of batches with this schema.
    pub(super) fn new(sink: W, schema: &SchemaRef) -> Self {
        Self {
            sink,
            schema: schema.clone(),
            block: None,
            widths: None,
        }
    }

    /// Adds rows; whole blocks are written.
    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        let options = FormatOptions::new().with_null("null");
        let columns = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column.as_ref(), &options));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        for row in 0..batch.num_rows() {
            let texts = columns.iter().map(|column| column.value(row).try_to_string());
            self.add_row(&texts.collect::<Result<Vec<_>, _>>()?)?;
        }
        Ok(())
    }

    /// Writes the last block, or the header alone, and gives the sink back.
    pub(super) fn finish(mut self) -> Result<W, ArrowError> {
        if self.widths.is_none() && self.block.is_none() {
            self.block = Some(plain_table());
        }
        self.write_block()?;
        Ok(self.sink)
    }

    fn add_row(&mut self, texts: &[String]) -> io::Result<()> {
        let numeric = self.schema.fields().iter().map(|field| field.data_type().is_numeric());
        let block = self.block.get_or_insert_with(plain_table);
        block.add_row(texts.iter().zip(numeric).map(|(text, numeric)| cell(text, numeric)));
        if block.row_count() >= BLOCK_ROWS {
            self.write_block()
        } else {
            Ok(())
        }
    }

    fn write_block(&mut self) -> io::Result<()> {
        let Some(mut block) = self.block.take() else {
            return Ok(());
        };
        match &self.widths {
            Some(widths) => {
                let bounds = widths
                    .iter()
                    .map(|width| ColumnConstraint::LowerBoundary(Width::Fixed(*width)));
                block.set_constraints(bounds);
            }
            None => {
                let fields = self.schema.fields().iter();
                block.set_header(fields.map(|field| cell(field.name(), field.data_type().is_numeric())));
                block.discover_columns();
                // The bound is that of a column with its padding.
                let padding = COLUMN_PADDING.0 + COLUMN_PADDING.1;
                let widths = block.column_max_content_widths();
                self.widths = Some(widths.iter().map(|width| width.saturating_add(padding)).collect());
            }
        }
        for line in lines(&mut block) {
            writeln!(self.sink, "{line}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    fn rows(names: Vec<Option<&str>>) -> RecordBatch {
        let schema = Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("name", DataType::Utf8, true),
        ]);
        let ids = 0..i64::try_from(names.len()).unwrap();
        let columns: Vec<arrow::array::ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(ids)),
            Arc::new(StringArray::from(names)),
        ];
        RecordBatch::try_new(Arc::new(schema), columns).unwrap()
    }

    fn text(batches: &[RecordBatch]) -> String {
        let mut writer = TableWriter::new(Vec::new(), &rows(vec![]).schema());
        batches.iter().for_each(|batch| writer.write(batch).unwrap());
        String::from_utf8(writer.finish().unwrap()).unwrap()
    }

    #[test]
    fn a_small_table_is_aligned() {
        let text = text(&[rows(vec![Some("x"), None, Some("line\nbreak")])]);
        let lines: Vec<Vec<_>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            lines,
            [["id", "name"], ["0", "x"], ["1", "null"], ["2", "line\\nbreak"]]
        );
        let name_column = text.lines().next().unwrap().find("name").unwrap();
        assert_eq!(text.lines().nth(1).unwrap().find('x'), Some(name_column));
    }

    #[test]
    fn the_header_stands_without_rows_and_once_with_many() {
        assert_eq!(text(&[]).split_whitespace().collect::<Vec<_>>(), ["id", "name"]);
        let many = text(&[rows(vec![Some("abc"); 3000])]);
        assert_eq!(many.lines().count(), 3001);
        assert_eq!(many.matches("name").count(), 1);
        let column = many.lines().nth(1).unwrap().find("abc");
        assert_eq!(many.lines().nth(2900).unwrap().find("abc").map(|at| at > 0), Some(true));
        assert_eq!(many.lines().nth(500).unwrap().find("abc"), column);
    }
}
