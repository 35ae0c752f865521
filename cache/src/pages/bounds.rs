//! The bounds of pages as arrays, in the way in which those of row groups are read.
//!
//! What a column index says of a page is written down as the statistics of a row group of one column, so that one place
//! knows what bounds mean: which types have them, how text, times and decimals are stored.

use std::sync::Arc;

use arrow::datatypes::DataType;
use parquet::basic::Type as PhysicalType;
use parquet::data_type::{ByteArray, FixedLenByteArray};
use parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};
use parquet::file::statistics::Statistics;
use parquet::schema::types::{SchemaDescriptor, Type};

use super::index::{PageBounds, PageLayout};
use crate::footer::{ColumnStatistics, Footer, bounds_of};

impl PageBounds {
    /// Bounds of the pages of a top-level column at `root`, one value a page, as values of `as_type`; none where the column is
    /// nested, or where they cannot be had in that type.
    pub(crate) fn statistics(
        &self,
        layout: &PageLayout,
        (footer, root): (&Footer, usize),
        as_type: &DataType,
    ) -> Option<ColumnStatistics> {
        let field = footer.schema.field(root);
        if field.data_type().is_nested() || self.values.len() != layout.pages.len() {
            return None;
        }
        let file = footer.metadata.file_metadata().schema_descr();
        let leaf = file.columns().get(footer.first_leaf(root))?;
        let of_one = Type::group_type_builder("page")
            .with_fields(vec![leaf.self_type_ptr()])
            .build();
        let descriptor = Arc::new(SchemaDescriptor::new(Arc::new(of_one.ok()?)));
        let groups = layout.pages.iter().enumerate().map(|(at, page)| {
            let statistics = self.of_page(at, leaf.physical_type())?;
            let column = ColumnChunkMetaData::builder(descriptor.column(0)).set_statistics(statistics);
            let group = RowGroupMetaData::builder(Arc::clone(&descriptor))
                .set_num_rows(i64::try_from(page.rows.len()).ok()?)
                .set_column_metadata(vec![column.build().ok()?]);
            group.build().ok()
        });
        let groups = groups.collect::<Option<Vec<_>>>()?;
        bounds_of(&groups, (0, field, &descriptor), as_type)
    }

    /// None of a type that has no bounds.
    fn of_page(&self, at: usize, physical: PhysicalType) -> Option<Statistics> {
        let nulls = self.nulls.get(at).copied().flatten();
        let (min, max) = match self.values.get(at)? {
            Some((min, max)) => (Some(min.as_ref()), Some(max.as_ref())),
            None => (None, None),
        };
        let bytes = |value: Option<&[u8]>| value.map(|value| ByteArray::from(value.to_vec()));
        let fixed = |value| bytes(value).map(FixedLenByteArray::from);
        Some(match physical {
            PhysicalType::BOOLEAN => {
                let flag = |value: Option<&[u8]>| value?.first().map(|byte| *byte != 0);
                Statistics::boolean(flag(min), flag(max), None, nulls, false)
            }
            PhysicalType::INT32 => {
                let number = |value: Option<&[u8]>| Some(i32::from_le_bytes(value?.try_into().ok()?));
                Statistics::int32(number(min), number(max), None, nulls, false)
            }
            PhysicalType::INT64 => {
                let number = |value: Option<&[u8]>| Some(i64::from_le_bytes(value?.try_into().ok()?));
                Statistics::int64(number(min), number(max), None, nulls, false)
            }
            PhysicalType::BYTE_ARRAY => Statistics::byte_array(bytes(min), bytes(max), None, nulls, false),
            PhysicalType::FIXED_LEN_BYTE_ARRAY => {
                Statistics::fixed_len_byte_array(fixed(min), fixed(max), None, nulls, false)
            }
            PhysicalType::INT96 | PhysicalType::FLOAT | PhysicalType::DOUBLE => return None,
        })
    }
}
