//! SQL in this process over the datasets of a server: `jetbridge` as a catalog of a DataFusion session.
//!
//! `cargo run --release -p jetbridge-client --features datafusion --example datafusion -- grpc://HOST:PORT 'SELECT ...'` prints
//! the rows; `EXPLAIN ANALYZE SELECT ...` shows what each scan was asked for, and which workers served it. Names may be written
//! without the catalog: `lake.trips`, `"/lake/trips"`.

use std::error::Error;

use datafusion::prelude::{SessionConfig, SessionContext};
use jetbridge_client::datafusion::{CATALOG, register};
use jetbridge_client::{Client, ClientOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let (Some(uri), Some(sql)) = (words.next(), words.next()) else {
        return Err("usage: datafusion grpc://HOST:PORT 'SELECT ...'".into());
    };
    let config = SessionConfig::new()
        .with_default_catalog_and_schema(CATALOG, "public")
        .with_information_schema(true);
    let context = SessionContext::new_with_config(config);
    let client = Client::new(&uri, ClientOptions::default())?;
    register(&context, &client).await?;
    context.sql(&sql).await?.show().await?;
    Ok(())
}
