//! A server's datasets as tables of a DataFusion session of one's own.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use datafusion::prelude::SessionContext;
//! use jetbridge_client::{Client, ClientOptions, datafusion::register};
//!
//! let context = SessionContext::new();
//! register(&context, &Client::new("grpc://127.0.0.1:8815", ClientOptions::default())?).await?;
//! context.sql("select count(*) from jetbridge.lake.trips where fare > 100").await?.show().await?;
//! # Ok(())
//! # }
//! ```
//! ```text
//! name  --catalog--> RemoteTable: path, schema                       asked of the server each time that a query names it
//! query --table----> JSON scan: columns, filter (pushdown) or limit  planned by the server: endpoints, exact counts
//!       --scan-----> RemoteScanExec: partitions of endpoints (shares), each a Reader when it runs (rows)
//! ```
//! Names are the server's: the catalog is [`CATALOG`], a schema is a folder with dots for slashes, a table is a dataset, and in
//! any schema a quoted path (`"/lake/trips"`) or mounted URI names a dataset by itself. The server resolves them; no rule about
//! names is here. What the server's own SQL adds for lack of catalogs, `lake.sub.trips` without quotes, DataFusion reads as
//! catalog `lake`: write `jetbridge."lake.sub".trips`.
//!
//! Errors: what the server or the way to it failed with is a [`crate::Error`] inside DataFusion's; [`client_error`] finds it.
//!
//! Not here: writing, and the filters that joins and top-k queries tighten while they run, since endpoints are planned before.

mod catalog;
pub mod pushdown;
mod rows;
mod scan;
mod shares;
mod table;

use std::error::Error as StdError;
use std::sync::Arc;

use datafusion::catalog::CatalogProvider;
use datafusion::common::DataFusionError;
use datafusion::prelude::SessionContext;

pub use self::catalog::{RemoteCatalog, RemoteSchema};
pub use self::scan::RemoteScanExec;
pub use self::table::RemoteTable;
use crate::calls::Client;
use crate::error::{Error, Result};

/// The catalog that a server's datasets are in.
pub const CATALOG: &str = "jetbridge";

/// Registers a server's datasets in a session, as catalog [`CATALOG`], in place of one that has this name. Names without a
/// catalog mean them where the session's configuration has it as default catalog.
///
/// # Errors
/// The server's: it is asked for the names of its tables.
pub async fn register(context: &SessionContext, client: &Client) -> Result<Arc<RemoteCatalog>> {
    let catalog = Arc::new(RemoteCatalog::open(client).await?);
    context.register_catalog(
        CATALOG,
        Arc::<RemoteCatalog>::clone(&catalog) as Arc<dyn CatalogProvider>,
    );
    Ok(catalog)
}

/// The client's error inside one of DataFusion's, where it is one.
#[must_use]
pub fn client_error(error: &DataFusionError) -> Option<&Error> {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

/// A client's error as DataFusion passes it on, with what was being done.
fn carried(doing: impl Into<String>, error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error)).context(doing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn an_error_is_found_however_it_was_wrapped_and_is_told_in_full() {
        let error = carried(
            "reading /lake/t",
            Error::new(ErrorKind::DataLoss, "a.parquet is damaged"),
        );
        assert!(error.to_string().contains("reading /lake/t"), "{error}");
        assert!(error.to_string().contains("a.parquet is damaged"), "{error}");
        let arrow = arrow::error::ArrowError::ExternalError(Box::new(error));
        let shared = DataFusionError::Shared(Arc::new(DataFusionError::from(arrow).context("a task")));
        assert_eq!(client_error(&shared).map(Error::kind), Some(ErrorKind::DataLoss));
        assert!(client_error(&DataFusionError::Plan("no such column".to_owned())).is_none());
    }
}
