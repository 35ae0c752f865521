//! Names: the catalog of a server, and its schemas.
//!
//! DataFusion looks tables up in a function that may wait, and asks which names there are in functions that may not. So there
//! are two answers. A table that a query names is asked of the server each time: what was mounted a moment ago is there, what is
//! gone is gone. The names for `SHOW TABLES` and `information_schema` are a snapshot, as [`RemoteCatalog::open`] or
//! [`RemoteCatalog::refresh`] last saw them, and a schema that the snapshot lacks is there all the same.
//!
//! Why not ask in the functions that may not wait: to block a thread of the runtime stops all that runs there, for ever where it
//! has but one. Why no refresh by a timer: it would ask the server whether or not anybody looks, and outlive the session.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow_flight::FlightDescriptor;
use arrow_flight::sql::{CommandGetTables, ProstMessageExt};
use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, SchemaProvider, TableProvider};
use datafusion::common::Result as DataFusionResult;
use datafusion::logical_expr::TableType;
use futures::StreamExt;
use prost::Message;

use super::carried;
use super::table::RemoteTable;
use crate::calls::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::fork::Mutex;
use crate::reader::ReadOptions;

/// Names of tables by schema, as they were last seen.
type Listed = Mutex<BTreeMap<String, BTreeSet<String>>>;

/// The datasets of a server, as a catalog.
#[derive(Debug)]
pub struct RemoteCatalog {
    client: Client,
    listed: Arc<Listed>,
}

/// A folder of a server, as a schema. It is there whether or not the folder is.
#[derive(Debug)]
pub struct RemoteSchema {
    client: Client,
    name: String,
    listed: Arc<Listed>,
}

impl RemoteCatalog {
    /// The catalog of a client's server, with the names that there are now.
    ///
    /// # Errors
    /// The server's.
    pub async fn open(client: &Client) -> Result<Self> {
        Ok(Self {
            client: client.clone(),
            listed: Arc::new(Mutex::new(listed(client).await?)),
        })
    }

    /// Asks which names there are now, for `SHOW TABLES` and `information_schema`. Queries need it not: a table that they name
    /// is asked for in any case.
    ///
    /// # Errors
    /// The server's; the names stay as they were.
    pub async fn refresh(&self) -> Result<()> {
        let now = listed(&self.client).await?;
        *self.listed.lock() = now;
        Ok(())
    }
}

impl CatalogProvider for RemoteCatalog {
    fn schema_names(&self) -> Vec<String> {
        self.listed.lock().keys().cloned().collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        Some(Arc::new(RemoteSchema {
            client: self.client.clone(),
            name: name.to_owned(),
            listed: Arc::clone(&self.listed),
        }))
    }
}

impl RemoteSchema {
    fn is_listed(&self, table: &str) -> bool {
        let listed = self.listed.lock();
        listed.get(&self.name).is_some_and(|tables| tables.contains(table))
    }
}

#[async_trait]
impl SchemaProvider for RemoteSchema {
    fn table_names(&self) -> Vec<String> {
        let listed = self.listed.lock();
        listed.get(&self.name).into_iter().flatten().cloned().collect()
    }

    async fn table(&self, name: &str) -> DataFusionResult<Option<Arc<dyn TableProvider>>> {
        match RemoteTable::named(&self.client, &self.name, name).await {
            Ok(table) => Ok(Some(Arc::new(table))),
            // Functions that give tables are asked for too, and found elsewhere.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(carried(format!("looking for the table {}.{name}", self.name), error)),
        }
    }

    async fn table_type(&self, name: &str) -> DataFusionResult<Option<TableType>> {
        if self.is_listed(name) {
            return Ok(Some(TableType::Base));
        }
        Ok(self.table(name).await?.map(|table| table.table_type()))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.is_listed(name)
    }
}

/// The names of all tables.
async fn listed(client: &Client) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let command = CommandGetTables {
        catalog: None,
        db_schema_filter_pattern: None,
        table_name_filter_pattern: None,
        table_types: Vec::new(),
        include_schema: false,
    };
    let command = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
    let plan = client.plan_of(command).await?;
    let mut reader = client.read(&plan, ReadOptions::default());
    let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    while let Some(piece) = reader.next().await {
        for (schema, table) in rows(&piece?.batch)? {
            names.entry(schema).or_default().insert(table);
        }
    }
    Ok(names)
}

/// Schema and table of each row.
fn rows(batch: &RecordBatch) -> Result<Vec<(String, String)>> {
    let texts = |name: &str| {
        let column = batch
            .column_by_name(name)
            .and_then(|column| column.as_string_opt::<i32>());
        column.ok_or_else(|| Error::protocol(format!("tables are listed without a {name}")))
    };
    let (schemas, tables) = (texts("db_schema_name")?, texts("table_name")?);
    let rows = (0..batch.num_rows()).filter(|row| schemas.is_valid(*row) && tables.is_valid(*row));
    Ok(rows
        .map(|row| (schemas.value(row).to_owned(), tables.value(row).to_owned()))
        .collect())
}
