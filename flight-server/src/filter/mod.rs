//! Filters: the text of a SQL predicate in, two things out: the rows that pass it, and the containers that cannot hold any.
//!
//! ```text
//! text --syntax--> SQL tree --types--> typed expression --bind--> RowFilter   (which rows of a batch)
//!                                                       `-prune-> Vec<bool>   (which files, row groups and pages to read)
//! ```
//!
//! # What a filter may say
//! One boolean expression over the columns of one dataset, in DataFusion's SQL: comparisons, AND, OR, NOT, IN, BETWEEN,
//! LIKE, IS NULL, CASE, arithmetic, casts, and those scalar functions that give the same answer on every node at every time.
//! Names are matched exactly as the schema writes them, quoted or not: `L_TAX` is not `l_tax`. Without quotes `a.b` is the
//! column of that very name if there is one, else the field `b` of the struct `a`.
//!
//! # What compares with what
//! - Like with like: text with text (plain, large, view and dictionary alike), numbers with numbers, moments (dates and
//!   timestamps) with moments. Text against a number, a boolean or a moment is refused, never cast in silence.
//! - A *quoted literal* stands for a value of the other side's type where that side is a date, a timestamp, a time, a
//!   decimal, binary or a UUID, provided that it reads as one when the filter is planned: `d < '1998-12-01'`.
//! - A number literal beside a decimal is taken digit for digit: `0.07` is seven hundredths, not the nearest double.
//! - Floats: every NaN is one value, equal to itself and greater than every number, and -0.0 equals 0.0 (as in PostgreSQL
//!   and DuckDB). arrow's kernels order floats by their bits, so float columns and literals are brought to this form first.
//! - A row passes when the filter is true: neither false nor null.
//!
//! # Why this, why not that
//! Why not DataFusion's coercion alone: it compares text with an integer by casting the text, which turns a typing
//! mistake into an empty answer. Why not DataFusion's pruning alone: Parquet's float bounds leave NaN out and some casts do
//! not keep order, and a container that is pruned in error is rows lost in silence; see the module `prune`.

mod bind;
mod nearest;
mod prune;
mod runs;
mod syntax;
mod types;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, DataFusionError, ScalarValue};
use datafusion::execution::SessionState;
use datafusion::execution::SessionStateDefaults;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, ExprSchemable};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::prelude::SessionConfig;
use jetbridge_cache::scan::RowFilter;

pub(crate) use nearest::nearest;
pub use prune::ColumnStats;
use prune::NanOrder;
pub(crate) use runs::{PageSieve, Runs};

/// Longest filter text, in bytes. A longer list of values belongs into a join, not into a predicate.
pub const MAX_FILTER_BYTES: usize = 64 * 1024;

/// Why a filter was refused: what the client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterError {
    /// What is wrong, in words that name the column, function or literal.
    pub message: String,
    /// Line and column of the text where it went wrong, both from 1, where known.
    pub position: Option<(u64, u64)>,
}

impl FilterError {
    fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            position: None,
        }
    }

    fn at(mut self, position: Option<(u64, u64)>) -> Self {
        self.position = self.position.or(position);
        self
    }

    fn from_datafusion(error: &DataFusionError) -> Self {
        let root = error.find_root();
        match root {
            DataFusionError::SQL(parse, _) => syntax::parse_error(&parse.to_string()),
            DataFusionError::SchemaError(reason, _) => Self::new(reason.to_string()),
            DataFusionError::Internal(_) => Self::new("it is more than the SQL planner can handle"),
            other => Self::new(first_line(&other.message())),
        }
    }
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match self.position {
            Some((line, column)) => write!(f, " (line {line}, column {column})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for FilterError {}

/// A filter that was parsed, checked and typed against one dataset's schema. Cheap to clone and to share.
#[derive(Debug, Clone)]
pub struct Predicate {
    sql: Arc<str>,
    expr: Arc<Expr>,
    columns: Arc<[String]>,
    schema: SchemaRef,
    pruning: Pruning,
}

/// What a condition says about containers. Cheap to clone and to share.
#[derive(Debug, Clone)]
pub struct Pruning {
    columns: Arc<[String]>,
    /// None where it says nothing.
    pruner: Option<Arc<prune::Pruner>>,
}

impl Pruning {
    /// What this boolean expression over columns of `schema` says, where DataFusion evaluates it over floats as they are.
    #[must_use]
    pub fn of(condition: &Arc<dyn PhysicalExpr>, schema: &SchemaRef) -> Self {
        let columns = collect_columns(condition);
        let mut columns: Vec<String> = columns.into_iter().map(|column| column.name().to_owned()).collect();
        columns.sort_unstable();
        columns.dedup();
        let nans = NanOrder::BySign;
        let pruner = catch_unwind(AssertUnwindSafe(|| prune::Pruner::new(condition, schema, nans)));
        Self {
            columns: columns.into(),
            pruner: pruner.ok().flatten().map(Arc::new),
        }
    }

    /// The columns that it looks at.
    pub(crate) fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Whether it keeps every container, whatever is known of it.
    #[must_use]
    pub fn says_nothing(&self) -> bool {
        self.pruner.is_none()
    }

    /// For each container whether it must be read: `false` only where the condition is true for no row of it.
    /// What is not known about a container keeps it.
    pub fn prune(&self, stats: &dyn ColumnStats) -> Vec<bool> {
        let keep_all = || vec![true; stats.containers()];
        match &self.pruner {
            Some(pruner) => {
                catch_unwind(AssertUnwindSafe(|| pruner.prune(&self.columns, stats))).unwrap_or_else(|_| keep_all())
            }
            None => keep_all(),
        }
    }
}

impl Predicate {
    /// Reads the text of a filter over a dataset of this schema.
    ///
    /// # Errors
    /// A [`FilterError`] for text that is too long or does not parse, names no column of the schema, compares what does
    /// not compare, calls a function that no filter may call, or is not boolean.
    pub fn parse(sql: &str, schema: &SchemaRef) -> Result<Self, FilterError> {
        guarded("planning it", || Self::plan(sql, schema))
    }

    /// The filter's text, as it was given.
    pub fn sql(&self) -> &str {
        &self.sql
    }

    /// The top-level columns it reads, in the schema's order, each once. Empty for a constant such as `1 = 1`.
    pub fn columns(&self) -> Vec<String> {
        self.columns.to_vec()
    }

    /// The filter bound to the batches that a scan hands it.
    ///
    /// # Errors
    /// A [`FilterError`] when `read` lacks a column of [`Predicate::columns`] or holds it with another type.
    pub fn row_filter(&self, read: &SchemaRef) -> Result<Arc<dyn RowFilter>, FilterError> {
        guarded("binding it", || {
            bind::bind(&self.expr, &self.columns, &self.schema, read)
        })
    }

    /// What it says about containers.
    pub fn pruning(&self) -> &Pruning {
        &self.pruning
    }

    /// For each container whether it must be read: `false` only where no row of it can pass the filter.
    /// What is not known about a container keeps it.
    pub fn prune(&self, stats: &dyn ColumnStats) -> Vec<bool> {
        self.pruning.prune(stats)
    }

    fn plan(sql: &str, schema: &SchemaRef) -> Result<Self, FilterError> {
        let tree = syntax::parse(sql, schema)?;
        let df_schema = df_schema(schema)?;
        let state = session();
        let raw = state
            .create_logical_expr_from_sql_expr(tree, &df_schema)
            .map_err(|e| FilterError::from_datafusion(&e))?;
        // A function called by another of its names comes with that name as an alias.
        let raw = raw.unalias_nested().data;
        types::check_allowed(&raw)?;
        let typed = types::settle(raw, &df_schema)?;
        let expr = coerce(state, typed, &df_schema)?;
        let columns = columns_of(&expr, schema);
        let physical = state
            .create_physical_expr(expr.clone(), &df_schema)
            .map_err(|e| FilterError::from_datafusion(&e))?;
        let pruning = Pruning {
            columns: Arc::clone(&columns),
            pruner: prune::Pruner::new(&physical, schema, NanOrder::Above).map(Arc::new),
        };
        Ok(Self {
            sql: sql.into(),
            expr: Arc::new(expr),
            columns,
            schema: Arc::clone(schema),
            pruning,
        })
    }
}

/// The one session that plans filters: scalar functions and nothing else, so that no other name resolves.
fn session() -> &'static SessionState {
    static SESSION: LazyLock<SessionState> = LazyLock::new(|| {
        let mut config = SessionConfig::new().with_create_default_catalog_and_schema(false);
        let parser = &mut config.options_mut().sql_parser;
        parser.enable_ident_normalization = false;
        parser.collect_spans = true;
        SessionStateBuilder::new()
            .with_config(config)
            .with_expr_planners(SessionStateDefaults::default_expr_planners())
            .with_scalar_functions(SessionStateDefaults::default_scalar_functions())
            .build()
    });
    &SESSION
}

fn df_schema(schema: &SchemaRef) -> Result<DFSchema, FilterError> {
    DFSchema::try_from(Arc::clone(schema)).map_err(|e| FilterError::from_datafusion(&e))
}

/// Brings both sides of each operator to one type and folds constants; the result is boolean.
fn coerce(state: &SessionState, expr: Expr, schema: &DFSchema) -> Result<Expr, FilterError> {
    let context = SimplifyContext::builder()
        .with_schema(Arc::new(schema.clone()))
        .with_config_options(Arc::clone(state.config_options()))
        .build();
    let simplifier = ExprSimplifier::new(context);
    let failed = |e: DataFusionError| FilterError::from_datafusion(&e);
    let coerced = simplifier.coerce(expr, schema).map_err(failed)?;
    types::check_boolean(&coerced, &coerced.get_type(schema).map_err(failed)?)?;
    let simple = simplifier.simplify(coerced).map_err(failed)?;
    match simple {
        // A filter that is null for every row passes no row.
        Expr::Literal(value, _) if value.is_null() => Ok(Expr::Literal(ScalarValue::Boolean(Some(false)), None)),
        other => types::canonical_floats(other),
    }
}

fn columns_of(expr: &Expr, schema: &SchemaRef) -> Arc<[String]> {
    let used = expr.column_refs();
    let is_used = |name: &str| used.iter().any(|column| column.name == name);
    schema
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .filter(|name| is_used(name))
        .collect()
}

/// Runs a step of the planner so that a panic in it is an error to this one request.
fn guarded<T>(step: &str, run: impl FnOnce() -> Result<T, FilterError>) -> Result<T, FilterError> {
    catch_unwind(AssertUnwindSafe(run))
        .unwrap_or_else(|_| Err(FilterError::new(format!("{step} failed inside the SQL planner"))))
}

fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().trim().to_owned()
}

/// Calls `visit` for each node of an expression, parents first.
fn for_each_node(expr: &Expr, mut visit: impl FnMut(&Expr) -> Result<(), FilterError>) -> Result<(), FilterError> {
    let mut outcome = Ok(());
    let walked = expr.apply(|node| {
        outcome = visit(node);
        Ok(if outcome.is_ok() {
            TreeNodeRecursion::Continue
        } else {
            TreeNodeRecursion::Stop
        })
    });
    walked.map_err(|e| FilterError::from_datafusion(&e))?;
    outcome
}

#[cfg(test)]
mod tests;
