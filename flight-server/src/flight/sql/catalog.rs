//! What there is: catalogs, schemas, tables, types, keys, and what the server says of itself.
//!
//! Each of these commands is its own ticket. Its rows are made when they are asked for, and say what there is then.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::SchemaRef;
use arrow_flight::error::FlightError;
use arrow_flight::sql::metadata::{GetCatalogsBuilder, GetDbSchemasBuilder, GetTablesBuilder};
use arrow_flight::sql::{
    Command, CommandGetDbSchemas, CommandGetSqlInfo, CommandGetTableTypes, CommandGetTables, CommandGetXdbcTypeInfo,
};
use futures::{StreamExt, stream};
use jetbridge_catalog::path::NsPath;

use super::keys::Keys;
use super::{info, xdbc};
use crate::error::ServiceError;
use crate::node::Node;
use crate::sql::{CATALOG, Query, Text};

/// The one type of tables that there is.
const TABLE: &str = "TABLE";
/// Tables that are described at once where their columns are asked for.
const DESCRIBED_AT_ONCE: usize = 16;

/// A command that asks what there is.
#[derive(Debug)]
pub(super) enum Listing {
    SqlInfo(CommandGetSqlInfo),
    Types(CommandGetXdbcTypeInfo),
    Catalogs,
    Schemas(CommandGetDbSchemas),
    Tables(CommandGetTables),
    TableTypes,
    Keys(Keys),
}

impl Listing {
    /// The listing that a command asks for.
    ///
    /// # Errors
    /// The command back, where it asks for something else.
    pub(super) fn of(command: Command) -> Result<Self, Box<Command>> {
        Ok(match command {
            Command::CommandGetSqlInfo(asked) => Self::SqlInfo(asked),
            Command::CommandGetXdbcTypeInfo(asked) => Self::Types(asked),
            Command::CommandGetCatalogs(_) => Self::Catalogs,
            Command::CommandGetDbSchemas(asked) => Self::Schemas(asked),
            Command::CommandGetTables(asked) => Self::Tables(asked),
            Command::CommandGetTableTypes(_) => Self::TableTypes,
            Command::CommandGetPrimaryKeys(_) => Self::Keys(Keys::Primary),
            Command::CommandGetExportedKeys(_)
            | Command::CommandGetImportedKeys(_)
            | Command::CommandGetCrossReference(_) => Self::Keys(Keys::Foreign),
            other => return Err(Box::new(other)),
        })
    }

    /// The schema of its rows.
    pub(super) fn schema(&self) -> SchemaRef {
        match self {
            Self::SqlInfo(_) => info::schema(),
            Self::Types(_) => xdbc::schema(),
            Self::Catalogs => GetCatalogsBuilder::new().schema(),
            Self::Schemas(asked) => GetDbSchemasBuilder::from(asked.clone()).schema(),
            Self::Tables(asked) => GetTablesBuilder::from(asked.clone()).schema(),
            Self::TableTypes => CommandGetTableTypes {}.into_builder().schema(),
            Self::Keys(keys) => keys.schema(),
        }
    }

    /// Its rows.
    ///
    /// # Errors
    /// A namespace that cannot be listed; what of it cannot be read is left out, in the log's words.
    pub(super) async fn rows(self, node: &Arc<Node>) -> Result<RecordBatch, ServiceError> {
        match self {
            Self::SqlInfo(asked) => info::rows(&asked.info),
            Self::Types(asked) => xdbc::rows(asked.data_type),
            Self::Catalogs => {
                let mut builder = GetCatalogsBuilder::new();
                builder.append(CATALOG);
                built(builder.build())
            }
            Self::Schemas(asked) => {
                let mut builder = GetDbSchemasBuilder::from(asked);
                let schemas = node.sql.schemas(node).await?;
                schemas.iter().for_each(|schema| builder.append(CATALOG, schema));
                built(builder.build())
            }
            Self::Tables(asked) => tables(node, asked).await,
            Self::TableTypes => {
                let mut builder = CommandGetTableTypes {}.into_builder();
                builder.append(TABLE);
                built(builder.build())
            }
            Self::Keys(keys) => Ok(RecordBatch::new_empty(keys.schema())),
        }
    }
}

/// The tables that pass the filters; only these are described, where their columns are asked for.
async fn tables(node: &Arc<Node>, asked: CommandGetTables) -> Result<RecordBatch, ServiceError> {
    let with_schemas = asked.include_schema;
    let mut names = GetTablesBuilder::from(CommandGetTables {
        include_schema: false,
        table_types: the_types(asked.table_types),
        ..asked
    });
    let mut paths = BTreeMap::new();
    let no_schema = arrow::datatypes::Schema::empty();
    for table in node.sql.tables(node, None).await? {
        let appended = names.append(CATALOG, &table.schema, &table.name, TABLE, &no_schema);
        built(appended)?;
        paths.insert((table.schema, table.name), table.path);
    }
    let names = built(names.build())?;
    if !with_schemas {
        return Ok(names);
    }
    let wanted = wanted(&names, paths);
    let described = stream::iter(wanted).map({
        let node = Arc::clone(node);
        move |(name, path)| described(Arc::clone(&node), name, path)
    });
    let described: Vec<_> = described.buffered(DESCRIBED_AT_ONCE).collect().await;
    let mut builder = GetTablesBuilder::new(None::<String>, None::<String>, None::<String>, [""; 0], true);
    for ((schema, table), columns) in described.into_iter().flatten() {
        built(builder.append(CATALOG, schema, table, TABLE, &columns))?;
    }
    built(builder.build())
}

/// Schema and name of a table.
type Name = (String, String);

/// The tables of a listing, with their paths.
fn wanted(names: &RecordBatch, mut paths: BTreeMap<Name, NsPath>) -> Vec<(Name, NsPath)> {
    let (schemas, tables) = (names.column(1).as_string::<i32>(), names.column(2).as_string::<i32>());
    let names = (0..names.num_rows()).map(|row| (schemas.value(row).to_owned(), tables.value(row).to_owned()));
    names
        .filter_map(|name| paths.remove(&name).map(|path| (name, path)))
        .collect()
}

/// A filter of types that selects the same. A request may name millions of types, and there is one.
fn the_types(asked: Vec<String>) -> Vec<String> {
    match asked.iter().position(|name| name == TABLE) {
        Some(_) => vec![TABLE.to_owned()],
        None => asked.into_iter().take(1).collect(),
    }
}

/// A table with its columns, as a query for all of them gives them. One bad file must not hide the other tables.
async fn described(node: Arc<Node>, name: Name, path: NsPath) -> Option<(Name, SchemaRef)> {
    let query = Query {
        text: Text::Sql(format!("SELECT * FROM \"{}\"", path.to_string().replace('"', "\"\""))),
        ..Query::default()
    };
    match node.sql.describe(&node, &query).await {
        Ok(described) => Some((name, described.schema)),
        Err(error) => {
            tracing::warn!(table = %path, error = crate::error::chain(&error), "left out of GetTables");
            None
        }
    }
}

fn built<T>(result: Result<T, FlightError>) -> Result<T, ServiceError> {
    result.map_err(|error| ServiceError::Internal {
        what: format!("a listing: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_of_types_selects_tables_or_nothing() {
        let of = |names: &[&str]| the_types(names.iter().map(|&name| name.to_owned()).collect());
        assert_eq!(of(&[]), [""; 0]);
        assert_eq!(of(&["VIEW", "TABLE", "TABLE"]), ["TABLE"]);
        assert_eq!(of(&["VIEW", "INDEX"]), ["VIEW"]);
    }
}
