//! A server's names, as the other library has them.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, SchemaProvider, TableProvider};
use datafusion::common::Result;
use jetbridge_client::datafusion::RemoteCatalog;

use super::home::{Guest, Home};
use super::table::Table;

/// The datasets of a server. A table that a query names is asked for each time; the names alone are as they were when the
/// catalog was registered.
#[derive(Debug)]
pub(super) struct Catalog {
    home: Home,
    catalog: Guest<RemoteCatalog>,
}

#[derive(Debug)]
struct Schema {
    home: Home,
    schema: Guest<Arc<dyn SchemaProvider>>,
}

impl Catalog {
    pub(super) fn new(home: &Home, catalog: RemoteCatalog) -> Self {
        Self {
            home: home.clone(),
            catalog: home.keep(catalog),
        }
    }
}

impl CatalogProvider for Catalog {
    fn schema_names(&self) -> Vec<String> {
        let names = self.catalog.with(|catalog| Ok(catalog.schema_names()));
        names.unwrap_or_default()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        let schema = self.catalog.with(|catalog| Ok(catalog.schema(name))).ok()??;
        Some(Arc::new(Schema {
            home: self.home.clone(),
            schema: self.home.keep(schema),
        }))
    }
}

#[async_trait]
impl SchemaProvider for Schema {
    fn table_names(&self) -> Vec<String> {
        let names = self.schema.with(|schema| Ok(schema.table_names()));
        names.unwrap_or_default()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let schema = self.schema.get()?;
        let table = self.home.wait(schema.table(name)).await?;
        Ok(table.map(|table| Arc::new(Table::new(&self.home, table)) as Arc<dyn TableProvider>))
    }

    fn table_exist(&self, name: &str) -> bool {
        let is_there = self.schema.with(|schema| Ok(schema.table_exist(name)));
        is_there.unwrap_or_default()
    }
}
