//! SQL over the namespace: DataFusion plans and runs it, the cache's chunk tier is what it reads.
//!
//! ```text
//! text --text--> one statement --catalog--> datasets --DataFusion--> plan --DatasetScanExec--> Cache::scan
//! Substrait plan --substrait--> relations --'                          '--answer--> batches, bounded and timed
//! ```
//! | module | part |
//! |---|---|
//! | `text` | what may be asked: length, depth, one statement, nothing that changes anything |
//! | [`substrait`] | the same of a plan that was made elsewhere, and its way into one of ours |
//! | `catalog`, `session` | names: schema = folder, table = dataset; looked up when a query is planned |
//! | `engine`, `parameters`, `star` | from a statement to a plan, and to its answer |
//! | [`table`], [`scan`] | a dataset as a table; its scan: projection, filters, limit |
//! | `pieces`, `statistics` | what a scan reads, for whom, and what is known of it before |
//! | `reading`, `predicate`, `sieve` | a partition of a scan while it runs |
//! | [`limits`], `pool`, `functions` | how many queries, how long, how much memory |
//! | [`distributed`] | queries of several nodes |
//! | `stop` | the end of an operator that nobody waits for |
//! | `answer` | the advertised schema forced onto the rows, cut to size, ended by time or by who goes away |
//!
//! Queries run on threads of their own ([`SqlEngine::handle`]): work of seconds at a stretch must not hold up what the other
//! threads do for members and clients.
//!
//! # For the Flight SQL service
//! A statement is described with [`SqlEngine::describe`] (parsed and planned, nothing runs) when its flight is asked for, and run
//! with [`SqlEngine::run`] when its ticket is redeemed. Both give one schema, equal to the bit, as long as the dataset is
//! the same; parameters given to one are to be given to the other. [`Described::scan`] is set where the query is no more than
//! a scan of one dataset that [`Node::plan`] answers with endpoints on the owners; its schema is then that of the plan.
//! [`Query::cancel`] ends a query from elsewhere.
//! Dropping the [`Answer`]'s stream ends the query and frees all that it holds.
//!
//! # For queries of several nodes
//! [`scan::DatasetScanExec`] is the only leaf that reads. It has partitions of pieces; a piece is row groups of one list
//! of owners, can be sealed into a ticket ([`scan::ScanPiece::seal`]) and made from one on another node
//! ([`scan::ScanPiece::redeem`]); [`scan::ScanShape`] is the rest of what another node needs. Whoever spreads plans over nodes
//! does it as a [`Spread`], set once ([`SqlEngine::set_spread`]): it is handed each plan that is about to run.
//!
//! Architecture invariant: nothing here but [`distributed`] knows the protocol; DataFusion reads no file and opens no store.

mod answer;
mod bare;
mod catalog;
pub mod distributed;
mod engine;
mod errors;
mod functions;
mod guess;
pub mod limits;
mod needs;
mod parameters;
mod pieces;
mod pool;
mod predicate;
mod reading;
pub mod scan;
mod session;
mod sieve;
mod star;
mod statistics;
mod stop;
pub mod substrait;
pub mod table;
#[cfg(test)]
mod tests;
mod text;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;
use futures::stream::BoxStream;
use jetbridge_catalog::path::NsPath;
use tokio_util::sync::CancellationToken;

pub use jetbridge_client::datafusion::CATALOG;

pub use self::engine::SqlEngine;
pub use self::errors::SqlError;
use crate::error::ServiceError;
use crate::node::Node;
use crate::request::ScanSpec;

/// The schema of datasets at the top of the namespace.
pub const PUBLIC: &str = "public";
/// Longest statement, text or plan, in bytes.
pub const MAX_SQL_BYTES: usize = 1 << 20;

/// What a session asks for besides its queries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionOptions {
    /// The catalog of names without one. Default [`CATALOG`].
    pub catalog: String,
    /// The schema of names without one. Default [`PUBLIC`].
    pub schema: String,
    /// Most rows of a batch of the answer. Default 65,536.
    pub batch_rows: usize,
    /// How long a query may take; never longer than the node's own bound, which holds where none is given.
    pub timeout: Option<Duration>,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            catalog: CATALOG.to_owned(),
            schema: PUBLIC.to_owned(),
            batch_rows: 64 << 10,
            timeout: None,
        }
    }
}

/// What a statement is written in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Text {
    /// SQL.
    Sql(String),
    /// A Substrait plan, as protobuf has it.
    Substrait(Bytes),
}

impl Default for Text {
    fn default() -> Self {
        Self::Sql(String::new())
    }
}

/// One statement to describe or to run.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Its text, or its plan.
    pub text: Text,
    /// What its session asks for.
    pub options: SessionOptions,
    /// The values of `$1`, `$2` ... (or of the `?`s, in order): one row, one column each.
    pub parameters: Option<RecordBatch>,
    /// Ends the query with CANCELLED when it is cancelled, at any time.
    pub cancel: CancellationToken,
}

/// What a query will give, found out without running it.
#[derive(Debug, Clone)]
pub struct Described {
    /// The columns of the answer.
    pub schema: SchemaRef,
    /// The parameters, one field each, named `$1`, `$2` ...; of type Null where the query does not tell.
    pub parameters: SchemaRef,
    /// The same as a scan of one dataset, where it is nothing more.
    pub scan: Option<ScanSpec>,
}

/// The rows of a query.
pub struct Answer {
    /// The schema of the batches: the one that was described.
    pub schema: SchemaRef,
    /// The rows; ends after the first error. Dropping it ends the query.
    pub batches: BoxStream<'static, Result<RecordBatch, ServiceError>>,
}

/// A table of the catalog.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableEntry {
    /// Its schema: the folder, with dots.
    pub schema: String,
    /// Its name: the dataset's, without the ending of a file.
    pub name: String,
    /// The dataset.
    pub path: NsPath,
}

/// A query that was planned and not begun.
#[derive(Clone)]
pub struct Planned {
    /// The session: its configuration, its memory, its spill folder.
    pub context: SessionContext,
    /// The statement, as it was planned before it was optimized, with its parameters' values.
    pub statement: LogicalPlan,
    /// What to run.
    pub plan: Arc<dyn ExecutionPlan>,
    /// The schema of the answer, forced onto the rows.
    pub schema: SchemaRef,
    /// What the query's session asked for.
    pub options: SessionOptions,
}

/// Makes a plan of one node one of several, or leaves it as it is.
#[async_trait]
pub trait Spread: fmt::Debug + Send + Sync {
    /// The plan to run in place of one; called before every run, on the threads of queries. What
    /// [`datafusion::physical_plan::ExecutionPlan`] it gives is run on this node, under the bounds of all queries.
    ///
    /// # Errors
    /// What the client is to be told; nothing has been run by then.
    async fn spread(&self, node: &Arc<Node>, planned: Planned) -> Result<Planned, ServiceError>;
}
