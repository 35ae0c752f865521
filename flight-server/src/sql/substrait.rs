//! Substrait plans: statements that were planned elsewhere, read into plans of ours.
//!
//! ```text
//! bytes --decoded--> Plan --Reader--> LogicalPlan --as of a text: check, bind, optimize, spread, run-->
//!                              '--session: a table for each name, as a text's names have it
//! ```
//! DataFusion's reader does the work; what it is given here are the tables, and bounds. A plan is as long as a text may be, as
//! deep as its decoder lets a message be (100 within one another, so that the threads of queries have the stack to walk it),
//! and has as many relations as a text. What chains are made of, and what is compared with all others, is counted too: a list
//! of a hundred thousand conditions would come back from the optimizer as a tree that is as deep as it is long.
//!
//! A plan in which something is missing, or refers to what is not there, has DataFusion's reader panic in some places. Such a
//! panic ends here, and is the plan's fault.

use std::collections::HashMap;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::datatypes::DataType;
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use datafusion::common::{DFSchema, DataFusionError, Result, TableReference};
use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan};
use datafusion_substrait::extensions::Extensions;
use datafusion_substrait::logical_plan::consumer::{
    DefaultSubstraitConsumer, SubstraitConsumer, from_cast, from_field_reference, from_literal, from_read_rel,
    from_scalar_function, from_substrait_func_args, from_substrait_plan_with_consumer, from_substrait_rel,
    substrait_fun_name,
};
use datafusion_substrait::substrait::proto::exchange_rel::ExchangeKind;
use datafusion_substrait::substrait::proto::expression::{Cast, FieldReference, Literal, ScalarFunction};
use datafusion_substrait::substrait::proto::read_rel::ReadType;
use datafusion_substrait::substrait::proto::rel::RelType;
use datafusion_substrait::substrait::proto::rel_common::EmitKind;
use datafusion_substrait::substrait::proto::{
    AggregateRel, ExchangeRel, Plan, ProjectRel, ReadRel, Rel, RelCommon, Type,
};
use datafusion_substrait::substrait::version;
use futures::FutureExt;
use parking_lot::Mutex;
use prost::Message;

use super::catalog::Names;
use super::errors::{SqlError, carried, in_short, of_datafusion};
use super::text::{MAX_DEPTH, MAX_RELATIONS, reads_only};
use super::{MAX_SQL_BYTES, SessionOptions, session};
use crate::error::ServiceError;
use crate::node::Node;

/// The version from which on producers write plans as they are read here. No plan is refused for being older: it is taken where
/// it can be read.
pub const MIN_VERSION: &str = "0.32.0";
/// Most columns that the relations of a plan list: each is compared by name with those of the same list.
const MAX_COLUMNS: usize = 32 << 10;
/// How often one relation may list the same column: each is given a name of its own, which is compared with those before.
const MAX_REPEATS: usize = 256;
/// Most bytes of names and expressions, each time that a relation has them. A column is named by its expression written out, and
/// a few bytes refer to it, or list it again.
const MAX_COPIED_BYTES: usize = 16 << 20;
/// Widest value of a type of fixed size: a null takes as much.
const MAX_WIDTH_BYTES: u64 = 1 << 20;
/// Names that a table has at most: catalog, schema, and its own.
const MAX_TABLE_NAMES: usize = 3;

/// The version of Substrait that plans are read as. A newer one is taken where it can be read.
#[must_use]
pub fn max_version() -> String {
    format!(
        "{}.{}.{}",
        version::SUBSTRAIT_MAJOR_VERSION,
        version::SUBSTRAIT_MINOR_VERSION,
        version::SUBSTRAIT_PATCH_VERSION
    )
}

/// The logical plan of the bytes of a Substrait plan, with the tables that it names.
///
/// # Errors
/// INVALID_ARGUMENT for bytes that are no plan, or too long, too deep or too wide a one, and for what does not fit the tables;
/// NOT_FOUND for a table that is not there; UNIMPLEMENTED for what would write, and for relations and functions that there are not.
pub(super) async fn plan(
    node: &Arc<Node>,
    names: &Names,
    state: &SessionState,
    options: &SessionOptions,
    bytes: &[u8],
) -> Result<LogicalPlan, ServiceError> {
    let plan = decoded(bytes)?;
    let extensions = Extensions::try_from(&plan.extensions).map_err(|error| refused(&error))?;
    if !extensions.type_variations.is_empty() {
        return Err(not_read("a variation of a type that is none of its own"));
    }
    let reader = Reader {
        inner: DefaultSubstraitConsumer::new(&extensions, state),
        tables: Tables {
            node,
            names,
            state,
            options,
            found: Mutex::default(),
        },
        relations: Allowance::of(MAX_RELATIONS, "relations"),
        columns: Allowance::of(MAX_COLUMNS, "columns in the lists of its relations"),
        copied: Allowance::of(
            MAX_COPIED_BYTES,
            "bytes of names and expressions, copied as often as they are listed,",
        ),
        conditions: Allowance::of(MAX_DEPTH, "conditions joined by `and` and `or`"),
    };
    let reading = AssertUnwindSafe(from_substrait_plan_with_consumer(&reader, &plan)).catch_unwind();
    match reading.await {
        Ok(read) => read.map_err(|error| refused(&error)),
        Err(_) => Err(SqlError::new("the Substrait plan lacks a part, or refers to one that it does not have").into()),
    }
}

fn decoded(bytes: &[u8]) -> Result<Plan, ServiceError> {
    if bytes.len() > MAX_SQL_BYTES {
        let message = format!("{} bytes are more than the {MAX_SQL_BYTES} of a statement", bytes.len());
        return Err(SqlError::new(message).into());
    }
    let plan = Plan::decode(bytes).map_err(|error| {
        let reason = error.to_string();
        if reason.contains("recursion limit") {
            return SqlError::new("the Substrait plan nests deeper than 100 messages of protobuf");
        }
        SqlError::new(format!("the bytes are no Substrait plan: {}", in_short(&reason)))
    })?;
    match plan.relations.len() {
        0 => Err(SqlError::new("the Substrait plan has no relation").into()),
        1 => Ok(plan),
        more => Err(not_read(&format!(
            "more than one tree of relations, of which there are {more},"
        ))),
    }
}

/// What is wrong with a plan. What DataFusion takes for a fault of its own while it reads one is the plan's.
fn refused(error: &DataFusionError) -> ServiceError {
    match of_datafusion(error) {
        ServiceError::Internal { what } => SqlError::new(format!("the Substrait plan does not fit: {what}")).into(),
        error => error,
    }
}

/// UNIMPLEMENTED for a part of Substrait that is not read here.
fn not_read(what: &str) -> ServiceError {
    ServiceError::Unimplemented {
        what: format!("{what} in a Substrait plan"),
    }
}

/// Reads one plan.
struct Reader<'a> {
    /// Keeps track of functions, and of what subqueries and lambdas refer to.
    inner: DefaultSubstraitConsumer<'a>,
    tables: Tables<'a>,
    relations: Allowance,
    columns: Allowance,
    copied: Allowance,
    conditions: Allowance,
}

impl Reader<'_> {
    /// Refuses a relation that lists a column over and over, and counts what its lists copy.
    fn check_lists(&self, rel: &ProjectRel) -> Result<()> {
        let emitted = match rel.common.as_ref().and_then(|common| common.emit_kind.as_ref()) {
            Some(EmitKind::Emit(emit)) => most_often(emit.output_mapping.iter().copied()),
            _ => 1,
        };
        if emitted.max(most_often(rel.expressions.iter().map(Message::encode_to_vec))) > MAX_REPEATS {
            let message = format!("a relation of the Substrait plan lists one column more than {MAX_REPEATS} times");
            return Err(carried(SqlError::new(message).into()));
        }
        let bytes: usize = rel.expressions.iter().map(Message::encoded_len).sum();
        self.copied.take(bytes.saturating_mul(emitted))
    }
}

#[async_trait]
impl SubstraitConsumer for Reader<'_> {
    async fn resolve_table_ref(&self, name: &TableReference) -> Result<Option<Arc<dyn TableProvider>>> {
        self.tables.find(name).await.map(Some).map_err(carried)
    }

    fn get_extensions(&self) -> &Extensions {
        self.inner.get_extensions()
    }

    fn get_function_registry(&self) -> &impl FunctionRegistry {
        self.tables.state
    }

    async fn consume_rel(&self, rel: &Rel) -> Result<LogicalPlan> {
        if let Some(kind) = &rel.rel_type {
            check_kind(kind).map_err(carried)?;
            self.relations.take(1)?;
            self.columns.take(columns(kind))?;
            if let RelType::Project(rel) = kind {
                self.check_lists(rel)?;
            }
        }
        let plan = from_substrait_rel(self, rel).await?;
        for field in plan.schema().fields() {
            self.copied.take(field.name().len())?;
            check_width(field.data_type())?;
        }
        Ok(plan)
    }

    async fn consume_field_reference(&self, reference: &FieldReference, schema: &DFSchema) -> Result<Expr> {
        let read = from_field_reference(self, reference, schema).await?;
        if let Expr::Column(column) | Expr::OuterReferenceColumn(_, column) = &read {
            self.copied.take(column.name.len())?;
        }
        Ok(read)
    }

    async fn consume_literal(&self, literal: &Literal) -> Result<Expr> {
        let read = from_literal(self, literal).await?;
        if let Expr::Literal(value, _) = &read {
            check_width(&value.data_type())?;
        }
        Ok(read)
    }

    async fn consume_cast(&self, cast: &Cast, schema: &DFSchema) -> Result<Expr> {
        let read = from_cast(self, cast, schema).await?;
        check_width(&read.get_type(schema)?)?;
        Ok(read)
    }

    async fn consume_read(&self, rel: &ReadRel) -> Result<LogicalPlan> {
        match &rel.read_type {
            Some(ReadType::LocalFiles(_)) => {
                Err(carried(not_read("files by their paths, and not a table by its name,")))
            }
            Some(ReadType::IcebergTable(_)) => Err(carried(not_read("a table of Iceberg's own"))),
            Some(ReadType::ExtensionTable(_)) => Err(carried(not_read("a table of an extension"))),
            Some(ReadType::NamedTable(table)) if table.names.len() > MAX_TABLE_NAMES => {
                let message = format!(
                    "the table {} has more names than a catalog's, a schema's and its own",
                    table.names.join(".")
                );
                Err(carried(SqlError::new(message).into()))
            }
            _ => from_read_rel(self, rel).await,
        }
    }

    /// How rows are spread is the server's affair, and changes none of them.
    async fn consume_exchange(&self, rel: &ExchangeRel) -> Result<LogicalPlan> {
        match (&rel.input, &rel.exchange_kind) {
            (Some(input), Some(ExchangeKind::ScatterByFields(_) | ExchangeKind::RoundRobin(_))) => {
                self.consume_rel(input).await
            }
            _ => Err(carried(not_read("an ExchangeRel of this kind"))),
        }
    }

    async fn consume_scalar_function(&self, call: &ScalarFunction, schema: &DFSchema) -> Result<Expr> {
        let functions = &self.get_extensions().functions;
        let name = functions.get(&call.function_reference);
        match name.map(|name| substrait_fun_name(name)) {
            // DataFusion's reader writes out both sides of it twice, and so makes twice as much of each level.
            Some("xor") => {
                let sides = from_substrait_func_args(self, &call.arguments, schema).await?;
                let sides = <[Expr; 2]>::try_from(sides);
                let [one, other] = sides.map_err(|_| DataFusionError::Substrait("xor has two arguments".to_owned()))?;
                Ok(one.not_eq(other))
            }
            Some("and" | "or") => {
                self.conditions.take(call.arguments.len())?;
                from_scalar_function(self, call, schema).await
            }
            _ => from_scalar_function(self, call, schema).await,
        }
    }

    fn push_outer_schema(&self, schema: Arc<DFSchema>) {
        self.inner.push_outer_schema(schema);
    }

    fn pop_outer_schema(&self) {
        self.inner.pop_outer_schema();
    }

    fn get_outer_schema(&self, steps_out: usize) -> Option<Arc<DFSchema>> {
        self.inner.get_outer_schema(steps_out)
    }

    fn push_lambda_parameters(&self, parameters: &[Type], schema: &DFSchema) -> Result<Vec<String>> {
        self.inner.push_lambda_parameters(parameters, schema)
    }

    fn pop_lambda_parameters(&self) {
        self.inner.pop_lambda_parameters();
    }

    fn lambda_variable(&self, steps_out: usize, field: usize) -> Result<Expr> {
        self.inner.lambda_variable(steps_out, field)
    }
}

/// The tables that a plan has named so far: one version of each, however often it is read.
struct Tables<'a> {
    node: &'a Arc<Node>,
    names: &'a Names,
    state: &'a SessionState,
    options: &'a SessionOptions,
    found: Mutex<HashMap<TableReference, Arc<dyn TableProvider>>>,
}

impl Tables<'_> {
    async fn find(&self, name: &TableReference) -> Result<Arc<dyn TableProvider>, ServiceError> {
        if let Some(table) = self.found.lock().get(name) {
            return Ok(Arc::clone(table));
        }
        let table = session::table(self.node, self.names, self.state, name, self.options).await?;
        self.found.lock().insert(name.clone(), Arc::clone(&table));
        Ok(table)
    }
}

/// How many more of something a plan may have.
struct Allowance {
    left: AtomicUsize,
    most: usize,
    what: &'static str,
}

impl Allowance {
    fn of(most: usize, what: &'static str) -> Self {
        Self {
            left: AtomicUsize::new(most),
            most,
            what,
        }
    }

    fn take(&self, count: usize) -> Result<()> {
        let left = |left: usize| left.checked_sub(count);
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
        taken.map(drop).map_err(|_| {
            let message = format!("more than {} {} in one Substrait plan", self.most, self.what);
            carried(SqlError::new(message).into())
        })
    }
}

/// Refuses relations that write, and names those that are not read.
fn check_kind(kind: &RelType) -> Result<(), ServiceError> {
    let name = match kind {
        RelType::Write(_) => return Err(reads_only("WriteRel")),
        RelType::Ddl(_) => return Err(reads_only("DdlRel")),
        RelType::Update(_) => return Err(reads_only("UpdateRel")),
        RelType::Reference(_) => "a ReferenceRel",
        RelType::HashJoin(_) => "a HashJoinRel",
        RelType::MergeJoin(_) => "a MergeJoinRel",
        RelType::NestedLoopJoin(_) => "a NestedLoopJoinRel",
        RelType::Window(_) => "a ConsistentPartitionWindowRel",
        RelType::Expand(_) => "an ExpandRel",
        RelType::ExtensionSingle(_) => "an ExtensionSingleRel",
        RelType::ExtensionMulti(_) => "an ExtensionMultiRel",
        RelType::ExtensionLeaf(_) => "an ExtensionLeafRel",
        _ => return Ok(()),
    };
    Err(not_read(name))
}

/// The columns that a relation lists, computed or emitted.
fn columns(kind: &RelType) -> usize {
    let (common, computed): (&Option<RelCommon>, usize) = match kind {
        RelType::Read(rel) => (&rel.common, 0),
        RelType::Filter(rel) => (&rel.common, 0),
        RelType::Fetch(rel) => (&rel.common, 0),
        RelType::Aggregate(rel) => (&rel.common, grouped(rel) + rel.measures.len()),
        RelType::Sort(rel) => (&rel.common, 0),
        RelType::Join(rel) => (&rel.common, 0),
        RelType::Project(rel) => (&rel.common, rel.expressions.len()),
        RelType::Set(rel) => (&rel.common, 0),
        RelType::Cross(rel) => (&rel.common, 0),
        RelType::Exchange(rel) => (&rel.common, 0),
        _ => return 0,
    };
    match common.as_ref().and_then(|common| common.emit_kind.as_ref()) {
        Some(EmitKind::Emit(emit)) => computed.max(emit.output_mapping.len()),
        _ => computed,
    }
}

/// What an aggregate groups by, in all its sets, each of which says of all expressions whether it has them.
#[expect(
    deprecated,
    reason = "plans of older versions list the expressions of each set there"
)]
fn grouped(rel: &AggregateRel) -> usize {
    let sets = rel.groupings.iter();
    let listed: usize = sets
        .map(|set| set.grouping_expressions.len() + set.expression_references.len())
        .sum();
    match rel.groupings.len() {
        0 | 1 => listed,
        sets => sets.saturating_mul(listed.max(rel.grouping_expressions.len()) + 1),
    }
}

/// How often the commonest of them is there.
fn most_often<T: Eq + Hash>(items: impl Iterator<Item = T>) -> usize {
    let mut counts: HashMap<T, usize> = HashMap::new();
    for item in items {
        *counts.entry(item).or_default() += 1;
    }
    counts.into_values().max().unwrap_or(1)
}

/// Refuses types of which a single null would take much memory.
fn check_width(data_type: &DataType) -> Result<()> {
    if width_bytes(data_type) <= MAX_WIDTH_BYTES {
        return Ok(());
    }
    let message = format!("a value of the Substrait plan is wider than the {MAX_WIDTH_BYTES} bytes that one may be");
    Err(carried(SqlError::new(message).into()))
}

/// Bytes that a value takes whatever it is, about.
fn width_bytes(data_type: &DataType) -> u64 {
    let length = |length: &i32| u64::try_from(*length).unwrap_or_default();
    match data_type {
        DataType::FixedSizeBinary(bytes) => length(bytes),
        DataType::FixedSizeList(item, items) => length(items).saturating_mul(width_bytes(item.data_type())),
        DataType::Struct(fields) => fields
            .iter()
            .map(|field| width_bytes(field.data_type()))
            .fold(0, u64::saturating_add),
        _ => 16,
    }
}
