//! Which containers (row groups, files) can hold no row that passes.
//!
//! DataFusion's `PruningPredicate` rewrites a predicate into one over the smallest value, the largest value and the number
//! of nulls of each container. A container is dropped only where that is provably false. Two things stand in front of it:
//!
//! - **Only what keeps order is rewritten.** DataFusion rewrites any cast between types that are not text, but
//!   `CAST(t AS TIME)` or `CAST(i AS BOOLEAN)` of the bounds bound nothing, and `-x` overflows at the smallest integer.
//!   A comparison that is not of a bare column, or of a cast known to keep order, with a literal counts as "may be true".
//! - **Float bounds say nothing of NaN.** Parquet leaves NaN out of its statistics, and here NaN is greater than every
//!   number. So the largest value of a float column is taken to be NaN, unless the filter as a whole shuts NaN out: by
//!   `x < 3`, `x <= 3`, `x = 3`, `x IN (1, 2)` or `NOT isnan(x)` beside the rest. `x > 3` alone drops no container;
//!   `x > 3 AND x < 9` does.
//! - **DataFusion itself orders NaN by its sign.** In its own queries a negative NaN is less than every number, so there the
//!   smallest value is not known either, unless negative NaN is shut out as well. `x < 3` alone drops no container then.
//!
//! What fails here (bounds of another length, a cast that overflows) drops nothing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float32Array, Float64Array, UInt64Array, new_null_array};
use arrow::datatypes::{DataType, Float32Type, Float64Type, SchemaRef};
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::{Column as NamedColumn, ScalarValue};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{
    BinaryExpr, CastExpr, Column, InListExpr, IsNotNullExpr, IsNullExpr, LikeExpr, Literal, NotExpr, TryCastExpr,
};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr, split_conjunction};
use datafusion::physical_optimizer::pruning::{PruningPredicate, PruningPredicateBuilder};

use super::bind::canonical_floats;

/// Longest IN list that is checked value by value against the bounds; a longer one drops nothing.
const MAX_PRUNED_LIST: usize = 256;

/// What is known about each of a row of containers without reading them.
pub trait ColumnStats {
    /// How many containers there are.
    fn containers(&self) -> usize;

    /// The smallest and the largest value and the number of nulls of a column in each container, the values as `as_type`.
    ///
    /// A null says "not known". The smallest and largest may be wider than the values are (cut short, say), never narrower.
    /// A partition column has its one value as both. `None` where nothing is known of the column.
    fn bounds(&self, column: &str, as_type: &DataType) -> Option<(ArrayRef, ArrayRef, UInt64Array)>;

    /// The number of rows of each container; null where it is not known. Containers of 0 rows are dropped.
    fn rows(&self) -> UInt64Array;
}

/// How whoever evaluates a predicate orders NaN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NanOrder {
    /// All of them are one value, above every number: floats are brought to this form first.
    Above,
    /// By their signs, below or above every number.
    BySign,
}

/// A predicate over containers, made once with the filter.
#[derive(Debug)]
pub(super) struct Pruner {
    predicate: PruningPredicate,
    schema: SchemaRef,
    nans: NanOrder,
    /// Float columns that are no NaN above all numbers in any row that passes.
    never_above: HashSet<String>,
    /// The same of NaN below all numbers.
    never_below: HashSet<String>,
}

impl Pruner {
    /// `None` when the filter says nothing about containers.
    pub(super) fn new(expr: &Arc<dyn PhysicalExpr>, schema: &SchemaRef, nans: NanOrder) -> Option<Self> {
        let predicate = PruningPredicateBuilder::new()
            .with_file_schema(Arc::clone(schema))
            .with_max_in_list_size(MAX_PRUNED_LIST)
            .try_build(only_sound(expr, schema, nans))
            .ok()?;
        let never = |end| {
            let conditions = split_conjunction(expr).into_iter();
            conditions
                .filter_map(|condition| shuts_out_nan(condition, end))
                .collect()
        };
        (!predicate.always_true()).then(|| Self {
            predicate,
            schema: Arc::clone(schema),
            nans,
            never_above: never(End::Above),
            never_below: never(End::Below),
        })
    }

    pub(super) fn prune(&self, columns: &[String], stats: &dyn ColumnStats) -> Vec<bool> {
        let containers = stats.containers();
        let known = KnownStats {
            containers,
            columns: columns
                .iter()
                .filter_map(|name| Some((name.clone(), self.bounds(name, stats)?)))
                .collect(),
            rows: Some(stats.rows()).filter(|rows| rows.len() == containers),
        };
        match self.predicate.prune(&known) {
            Ok(keep) if keep.len() == containers => keep,
            _ => vec![true; containers],
        }
    }

    fn bounds(&self, name: &str, stats: &dyn ColumnStats) -> Option<Bounds> {
        let data_type = value_type(self.schema.field_with_name(name).ok()?.data_type());
        let (min, max, nulls) = stats.bounds(name, data_type)?;
        let containers = stats.containers();
        if min.len() != containers || max.len() != containers || nulls.len() != containers {
            return None;
        }
        let (min, max) = if data_type.is_floating() {
            self.float_bounds(name, &min, &max)
        } else {
            (min, max)
        };
        Some(Bounds {
            min,
            max,
            nulls: Arc::new(nulls),
        })
    }

    fn float_bounds(&self, name: &str, min: &ArrayRef, max: &ArrayRef) -> (ArrayRef, ArrayRef) {
        let (min, max) = (without_nan(min), without_nan(max));
        let (may_be_below, may_be_above) = (!self.never_below.contains(name), !self.never_above.contains(name));
        let unknown = || new_null_array(min.data_type(), min.len());
        match self.nans {
            NanOrder::Above if may_be_above => {
                let max = nan_for_known(&max);
                (min, max)
            }
            NanOrder::Above => (min, max),
            // Not NaN in place of the largest: which of them it is counts here.
            NanOrder::BySign => {
                let max = if may_be_above { unknown() } else { max };
                (if may_be_below { unknown() } else { min }, max)
            }
        }
    }
}

/// Bounds of one column over all containers.
#[derive(Debug)]
struct Bounds {
    min: ArrayRef,
    max: ArrayRef,
    nulls: ArrayRef,
}

/// What [`ColumnStats`] gave, asked for once a column.
#[derive(Debug)]
struct KnownStats {
    containers: usize,
    columns: HashMap<String, Bounds>,
    rows: Option<UInt64Array>,
}

impl PruningStatistics for KnownStats {
    fn min_values(&self, column: &NamedColumn) -> Option<ArrayRef> {
        self.columns.get(&column.name).map(|bounds| Arc::clone(&bounds.min))
    }

    fn max_values(&self, column: &NamedColumn) -> Option<ArrayRef> {
        self.columns.get(&column.name).map(|bounds| Arc::clone(&bounds.max))
    }

    fn num_containers(&self) -> usize {
        self.containers
    }

    fn null_counts(&self, column: &NamedColumn) -> Option<ArrayRef> {
        self.columns.get(&column.name).map(|bounds| Arc::clone(&bounds.nulls))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        self.rows.clone().map(|rows| Arc::new(rows) as ArrayRef)
    }

    fn contained(&self, _column: &NamedColumn, _values: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

fn value_type(data_type: &DataType) -> &DataType {
    match data_type {
        DataType::Dictionary(_, value) => value,
        other => other,
    }
}

/// Bounds that are NaN bound nothing: null. Zeros and the rest come canonical. Half floats are not bounded at all.
fn without_nan(values: &ArrayRef) -> ArrayRef {
    let values = canonical_floats(values);
    match values.data_type() {
        DataType::Float64 => Arc::new(
            values
                .as_primitive::<Float64Type>()
                .unary_opt::<_, Float64Type>(|v| (!v.is_nan()).then_some(v)),
        ),
        DataType::Float32 => Arc::new(
            values
                .as_primitive::<Float32Type>()
                .unary_opt::<_, Float32Type>(|v| (!v.is_nan()).then_some(v)),
        ),
        other => new_null_array(other, values.len()),
    }
}

/// NaN in place of every number.
fn nan_for_known(values: &ArrayRef) -> ArrayRef {
    match values.data_type() {
        DataType::Float64 => Arc::new(
            values
                .as_primitive::<Float64Type>()
                .iter()
                .map(|v| v.map(|_| f64::NAN))
                .collect::<Float64Array>(),
        ),
        DataType::Float32 => Arc::new(
            values
                .as_primitive::<Float32Type>()
                .iter()
                .map(|v| v.map(|_| f32::NAN))
                .collect::<Float32Array>(),
        ),
        other => new_null_array(other, values.len()),
    }
}

/// The predicate with every condition that bounds cannot speak for replaced by true. Only below AND and OR: there, more
/// "may be true" never drops more.
fn only_sound(expr: &Arc<dyn PhysicalExpr>, schema: &SchemaRef, nans: NanOrder) -> Arc<dyn PhysicalExpr> {
    if let Some(binary) = expr.downcast_ref::<BinaryExpr>()
        && matches!(binary.op(), Operator::And | Operator::Or)
    {
        let (left, right) = (
            only_sound(binary.left(), schema, nans),
            only_sound(binary.right(), schema, nans),
        );
        return Arc::new(BinaryExpr::new(left, *binary.op(), right));
    }
    if is_sound(expr, schema) && !(nans == NanOrder::BySign && is_float_list_negated(expr, schema)) {
        return Arc::clone(expr);
    }
    Arc::new(Literal::new(ScalarValue::Boolean(Some(true))))
}

fn is_sound(expr: &Arc<dyn PhysicalExpr>, schema: &SchemaRef) -> bool {
    if let Some(binary) = expr.downcast_ref::<BinaryExpr>() {
        let (column, literal) = if is_literal(binary.right()) {
            (binary.left(), true)
        } else {
            (binary.right(), is_literal(binary.left()))
        };
        return literal
            && match binary.op() {
                // A cast that gives null for what it cannot cast makes nulls that no statistics count.
                Operator::IsDistinctFrom | Operator::IsNotDistinctFrom => is_column(column),
                op => is_comparison(*op) && keeps_order(column, schema),
            };
    }
    if let Some(list) = expr.downcast_ref::<InListExpr>() {
        return keeps_order(list.expr(), schema) && list.list().iter().all(is_literal);
    }
    if let Some(like) = expr.downcast_ref::<LikeExpr>() {
        return is_column(like.expr()) && is_literal(like.pattern());
    }
    if let Some(null) = expr.downcast_ref::<IsNullExpr>() {
        return is_column(null.arg());
    }
    if let Some(not_null) = expr.downcast_ref::<IsNotNullExpr>() {
        return is_column(not_null.arg());
    }
    if let Some(not) = expr.downcast_ref::<NotExpr>() {
        return is_column(not.arg());
    }
    is_column(expr) || is_literal(expr)
}

/// Whether it is a NOT IN of floats. DataFusion compares lists bit by bit, so -0.0 passes one that bounds of 0.0 fail.
fn is_float_list_negated(expr: &Arc<dyn PhysicalExpr>, schema: &SchemaRef) -> bool {
    let list = expr.downcast_ref::<InListExpr>().filter(|list| list.negated());
    list.is_some_and(|list| {
        let compared = list.expr().data_type(schema);
        compared.map_or(true, |compared| value_type(&compared).is_floating())
    })
}

fn is_comparison(op: Operator) -> bool {
    matches!(
        op,
        Operator::Eq | Operator::NotEq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq
    )
}

fn is_column(expr: &Arc<dyn PhysicalExpr>) -> bool {
    expr.is::<Column>()
}

fn is_literal(expr: &Arc<dyn PhysicalExpr>) -> bool {
    expr.is::<Literal>()
}

/// Whether the expression is a column, or casts of one that never turn two values' order around.
fn keeps_order(expr: &Arc<dyn PhysicalExpr>, schema: &SchemaRef) -> bool {
    if is_column(expr) {
        return true;
    }
    let Some((inner, target)) = as_cast(expr) else {
        return false;
    };
    let Ok(source) = inner.data_type(schema) else {
        return false;
    };
    cast_keeps_order(value_type(&source), value_type(target)) && keeps_order(inner, schema)
}

fn as_cast(expr: &Arc<dyn PhysicalExpr>) -> Option<(&Arc<dyn PhysicalExpr>, &DataType)> {
    if let Some(cast) = expr.downcast_ref::<CastExpr>() {
        return Some((cast.expr(), cast.cast_type()));
    }
    expr.downcast_ref::<TryCastExpr>()
        .map(|cast| (cast.expr(), cast.cast_type()))
}

fn cast_keeps_order(from: &DataType, to: &DataType) -> bool {
    match (from, to) {
        _ if from == to => true,
        _ if from.is_numeric() && to.is_numeric() => true,
        _ if from.is_string() && to.is_string() => true,
        _ if from.is_binary() && to.is_binary() => true,
        (DataType::Date32 | DataType::Date64, DataType::Date32 | DataType::Date64) => true,
        (DataType::Date32 | DataType::Date64, DataType::Timestamp(_, None)) => true,
        (DataType::Timestamp(_, None), DataType::Date32 | DataType::Date64) => true,
        // Other zones are other clocks: turned back in autumn, they show the same hour twice.
        (DataType::Timestamp(_, from_zone), DataType::Timestamp(_, to_zone)) => from_zone == to_zone,
        _ => false,
    }
}

/// Where NaN stands among the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Above,
    Below,
}

/// The float column that is no NaN of this end wherever this condition is true.
fn shuts_out_nan(condition: &Arc<dyn PhysicalExpr>, end: End) -> Option<String> {
    if let Some(not) = condition.downcast_ref::<NotExpr>() {
        let call = not
            .arg()
            .downcast_ref::<ScalarFunctionExpr>()
            .filter(|call| call.name() == "isnan")?;
        return call.args().first().and_then(column_name);
    }
    if let Some(list) = condition.downcast_ref::<InListExpr>() {
        let numbers = !list.negated() && list.list().iter().all(is_number);
        return numbers.then(|| column_name(list.expr())).flatten();
    }
    let binary = condition.downcast_ref::<BinaryExpr>()?;
    let (left, right) = (binary.left(), binary.right());
    // The side that `left < right` keeps from this end, by the other one.
    let (kept, bound) = match end {
        End::Above => (left, right),
        End::Below => (right, left),
    };
    match binary.op() {
        Operator::Eq if is_number(right) => column_name(left),
        Operator::Eq if is_number(left) => column_name(right),
        Operator::Lt | Operator::LtEq if is_number(bound) => column_name(kept),
        Operator::Gt | Operator::GtEq if is_number(kept) => column_name(bound),
        // A chain of equalities on one column: x = 1 OR x = 2.
        Operator::Or => {
            let (left, right) = (shuts_out_nan(left, end)?, shuts_out_nan(right, end)?);
            (left == right).then_some(left)
        }
        _ => None,
    }
}

/// The column itself, or within casts from float to float, which keep NaN.
fn column_name(expr: &Arc<dyn PhysicalExpr>) -> Option<String> {
    if let Some(column) = expr.downcast_ref::<Column>() {
        return Some(column.name().to_owned());
    }
    let (inner, target) = as_cast(expr)?;
    target.is_floating().then(|| column_name(inner)).flatten()
}

fn is_number(expr: &Arc<dyn PhysicalExpr>) -> bool {
    match expr.downcast_ref::<Literal>().map(Literal::value) {
        Some(ScalarValue::Float64(Some(value))) => !value.is_nan(),
        Some(ScalarValue::Float32(Some(value))) => !value.is_nan(),
        Some(ScalarValue::Float16(Some(value))) => !value.is_nan(),
        _ => false,
    }
}
