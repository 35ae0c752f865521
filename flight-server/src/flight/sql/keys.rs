//! Keys of tables. Parquet files have none, so every answer is empty, with the columns that the standard gives it.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

/// Which keys are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keys {
    /// A table's own.
    Primary,
    /// Those by which tables refer to each other: exported, imported, or between two tables.
    Foreign,
}

impl Keys {
    /// The schema of the answer.
    pub(super) fn schema(self) -> SchemaRef {
        let fields = match self {
            Self::Primary => vec![
                maybe("catalog_name"),
                maybe("db_schema_name"),
                text("table_name"),
                text("column_name"),
                maybe("key_name"),
                Field::new("key_sequence", DataType::Int32, false),
            ],
            Self::Foreign => vec![
                maybe("pk_catalog_name"),
                maybe("pk_db_schema_name"),
                text("pk_table_name"),
                text("pk_column_name"),
                maybe("fk_catalog_name"),
                maybe("fk_db_schema_name"),
                text("fk_table_name"),
                text("fk_column_name"),
                Field::new("key_sequence", DataType::Int32, false),
                maybe("fk_key_name"),
                maybe("pk_key_name"),
                Field::new("update_rule", DataType::UInt8, false),
                Field::new("delete_rule", DataType::UInt8, false),
            ],
        };
        Arc::new(Schema::new(fields))
    }
}

fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, false)
}

fn maybe(name: &str) -> Field {
    Field::new(name, DataType::Utf8, true)
}
