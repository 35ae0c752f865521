//! What compares with what: refuses pairs that DataFusion would cast in silence, and gives literals their exact type.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, DataFusionError, ScalarValue};
use datafusion::logical_expr::expr::{Between, Case, Cast, InList, Like, ScalarFunction};
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, Operator, Volatility};

use super::{FilterError, first_line, for_each_node};

/// Digits that a decimal literal may have: those of the widest type that DataFusion compares without overflow.
const MAX_DECIMAL_DIGITS: usize = 38;
/// Longest expression repeated in a message, in characters.
const MAX_SHOWN_CHARS: usize = 80;
/// Functions that compare their arguments with each other.
const COMPARING_FUNCTIONS: [&str; 4] = ["coalesce", "greatest", "least", "nullif"];

/// Functions whose result may be far larger than what they are given: a filter that nests them takes all memory.
const GROWING_FUNCTIONS: [&str; 10] = [
    "array_repeat",
    "array_resize",
    "array_to_string",
    "generate_series",
    "lpad",
    "range",
    "regexp_replace",
    "repeat",
    "replace",
    "rpad",
];

/// Kinds of values that compare among themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Text,
    Number,
    Boolean,
    Moment,
    TimeOfDay,
    Span,
    Bytes,
    Nested,
    Null,
}

impl Class {
    fn of(data_type: &DataType) -> Self {
        match data_type {
            DataType::Dictionary(_, value) => Self::of(value),
            DataType::RunEndEncoded(_, value) => Self::of(value.data_type()),
            DataType::Null => Self::Null,
            DataType::Boolean => Self::Boolean,
            DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => Self::Moment,
            DataType::Time32(_) | DataType::Time64(_) => Self::TimeOfDay,
            DataType::Interval(_) | DataType::Duration(_) => Self::Span,
            other if other.is_string() => Self::Text,
            other if other.is_numeric() => Self::Number,
            other if other.is_binary() => Self::Bytes,
            _ => Self::Nested,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Number => "a number",
            Self::Boolean => "true or false",
            Self::Moment => "a date or timestamp",
            Self::TimeOfDay => "a time of day",
            Self::Span => "an interval",
            Self::Bytes => "binary",
            Self::Nested => "a nested value",
            Self::Null => "null",
        }
    }
}

/// Refuses expressions that no filter may hold: other than scalar, or different from one node or moment to the next.
pub(super) fn check_allowed(expr: &Expr) -> Result<(), FilterError> {
    for_each_node(expr, |node| match node {
        Expr::ScalarFunction(call) => check_function(call).map_err(|error| error.at(place_of(node))),
        Expr::Placeholder(placeholder) => Err(FilterError::new(format!(
            "{} stands for a value that a filter is not given; write the value",
            placeholder.id
        ))),
        Expr::Column(_)
        | Expr::Literal(..)
        | Expr::BinaryExpr(_)
        | Expr::Like(_)
        | Expr::SimilarTo(_)
        | Expr::Not(_)
        | Expr::IsNotNull(_)
        | Expr::IsNull(_)
        | Expr::IsTrue(_)
        | Expr::IsFalse(_)
        | Expr::IsUnknown(_)
        | Expr::IsNotTrue(_)
        | Expr::IsNotFalse(_)
        | Expr::IsNotUnknown(_)
        | Expr::Negative(_)
        | Expr::Between(_)
        | Expr::Case(_)
        | Expr::Cast(_)
        | Expr::TryCast(_)
        | Expr::InList(_) => Ok(()),
        other => Err(FilterError::new(format!("{} has no place in a filter", show(other)))),
    })
}

/// Refuses a predicate that is not true, false or null.
pub(super) fn check_boolean(expr: &Expr, data_type: &DataType) -> Result<(), FilterError> {
    match Class::of(data_type) {
        Class::Boolean | Class::Null => Ok(()),
        class => Err(FilterError::new(format!(
            "a filter must be true or false, and {} is {} ({data_type})",
            show(expr),
            class.words()
        ))
        .at(place_of(expr))),
    }
}

/// Checks every comparison of an expression as it was written, and gives its literals the type of what they stand beside.
pub(super) fn settle(expr: Expr, schema: &DFSchema) -> Result<Expr, FilterError> {
    let mut refusal = None;
    let settled = expr.transform_up(|node| {
        settle_node(node, schema).map(Transformed::yes).map_err(|error| {
            refusal = Some(error);
            DataFusionError::Plan(String::new())
        })
    });
    match (settled, refusal) {
        (_, Some(refusal)) => Err(refusal),
        (Ok(settled), None) => Ok(settled.data),
        (Err(error), None) => Err(FilterError::from_datafusion(&error)),
    }
}

/// Makes every NaN literal the one NaN, and every zero positive, as `bind` does for columns.
pub(super) fn canonical_floats(expr: Expr) -> Result<Expr, FilterError> {
    let canonical = expr.transform_up(|node| {
        Ok(match node {
            Expr::Literal(ScalarValue::Float64(Some(value)), meta) => {
                let value = if value.is_nan() { f64::NAN } else { value + 0.0 };
                Transformed::yes(Expr::Literal(ScalarValue::Float64(Some(value)), meta))
            }
            Expr::Literal(ScalarValue::Float32(Some(value)), meta) => {
                let value = if value.is_nan() { f32::NAN } else { value + 0.0 };
                Transformed::yes(Expr::Literal(ScalarValue::Float32(Some(value)), meta))
            }
            other => Transformed::no(other),
        })
    });
    canonical
        .map(|done| done.data)
        .map_err(|e| FilterError::from_datafusion(&e))
}

fn check_function(call: &ScalarFunction) -> Result<(), FilterError> {
    let name = call.func.name();
    if GROWING_FUNCTIONS.contains(&name) {
        let message = format!("{name}() may grow its argument without bound and cannot be called in a filter");
        return Err(FilterError::new(message));
    }
    match call.func.signature().volatility {
        Volatility::Immutable => Ok(()),
        Volatility::Stable | Volatility::Volatile => Err(FilterError::new(format!(
            "{}() gives another answer on another node or at another time; write the value itself",
            call.func.name()
        ))),
    }
}

fn settle_node(node: Expr, schema: &DFSchema) -> Result<Expr, FilterError> {
    match node {
        Expr::BinaryExpr(binary) => settle_binary(binary, schema),
        Expr::Between(Between {
            expr,
            negated,
            low,
            high,
        }) => {
            let (expr, low) = settle_pair(*expr, *low, schema)?;
            let (expr, high) = settle_pair(expr, *high, schema)?;
            Ok(Expr::Between(Between::new(
                Box::new(expr),
                negated,
                Box::new(low),
                Box::new(high),
            )))
        }
        Expr::InList(list) => settle_list(list, schema),
        Expr::Like(like) => check_like(&like, schema).map(|()| Expr::Like(like)),
        Expr::SimilarTo(like) => check_like(&like, schema).map(|()| Expr::SimilarTo(like)),
        Expr::Case(case) => settle_case(case, schema),
        Expr::ScalarFunction(call) if COMPARING_FUNCTIONS.contains(&call.func.name()) => settle_call(call, schema),
        other => Ok(other),
    }
}

fn settle_binary(binary: BinaryExpr, schema: &DFSchema) -> Result<Expr, FilterError> {
    let BinaryExpr { left, op, right } = binary;
    let (left, right) = match op {
        Operator::Eq
        | Operator::NotEq
        | Operator::Lt
        | Operator::LtEq
        | Operator::Gt
        | Operator::GtEq
        | Operator::IsDistinctFrom
        | Operator::IsNotDistinctFrom => {
            let (left, right) = settle_pair(*left, *right, schema)?;
            (Box::new(left), Box::new(right))
        }
        Operator::Plus | Operator::Minus | Operator::Multiply | Operator::Divide | Operator::Modulo => {
            check_not_text(&left, op, schema)?;
            check_not_text(&right, op, schema)?;
            (left, right)
        }
        _ => (left, right),
    };
    Ok(Expr::BinaryExpr(BinaryExpr { left, op, right }))
}

fn settle_list(list: InList, schema: &DFSchema) -> Result<Expr, FilterError> {
    let InList { expr, list, negated } = list;
    let mut subject = *expr;
    let mut settled = Vec::with_capacity(list.len());
    for item in list {
        let (left, right) = settle_pair(subject, item, schema)?;
        subject = left;
        settled.push(right);
    }
    Ok(Expr::InList(InList::new(Box::new(subject), settled, negated)))
}

fn settle_case(case: Case, schema: &DFSchema) -> Result<Expr, FilterError> {
    let Case {
        expr,
        when_then_expr,
        else_expr,
    } = case;
    let Some(operand) = expr else {
        return Ok(Expr::Case(Case {
            expr: None,
            when_then_expr,
            else_expr,
        }));
    };
    let mut operand = *operand;
    let mut arms = Vec::with_capacity(when_then_expr.len());
    for (when, then) in when_then_expr {
        let (left, right) = settle_pair(operand, *when, schema)?;
        operand = left;
        arms.push((Box::new(right), then));
    }
    Ok(Expr::Case(Case {
        expr: Some(Box::new(operand)),
        when_then_expr: arms,
        else_expr,
    }))
}

fn settle_call(call: ScalarFunction, schema: &DFSchema) -> Result<Expr, FilterError> {
    let ScalarFunction { func, args } = call;
    let mut args = args.into_iter();
    let mut settled = Vec::with_capacity(args.len());
    if let Some(mut first) = args.next() {
        for arg in args {
            let (left, right) = settle_pair(first, arg, schema)?;
            first = left;
            settled.push(right);
        }
        settled.insert(0, first);
    }
    Ok(Expr::ScalarFunction(ScalarFunction { func, args: settled }))
}

fn check_like(like: &Like, schema: &DFSchema) -> Result<(), FilterError> {
    for side in [&like.expr, &like.pattern] {
        let data_type = type_of(side, schema)?;
        let class = Class::of(&data_type);
        if !matches!(class, Class::Text | Class::Null) {
            let message = format!(
                "LIKE compares text, and {} is {} ({data_type})",
                show(side),
                class.words()
            );
            return Err(FilterError::new(message).at(place_of(side)));
        }
    }
    Ok(())
}

fn check_not_text(side: &Expr, op: Operator, schema: &DFSchema) -> Result<(), FilterError> {
    let data_type = type_of(side, schema)?;
    if Class::of(&data_type) != Class::Text {
        return Ok(());
    }
    let hint = if matches!(side, Expr::Literal(..)) {
        "; write a number without quotes, a span as INTERVAL '1 day'"
    } else {
        ""
    };
    Err(FilterError::new(format!(
        "{} is text ({data_type}) and {op} does not take text{hint}",
        show(side)
    ))
    .at(place_of(side)))
}

/// Checks that two sides compare, and gives a literal on either the type that it stands for.
fn settle_pair(left: Expr, right: Expr, schema: &DFSchema) -> Result<(Expr, Expr), FilterError> {
    let (left_type, right_type) = (type_of(&left, schema)?, type_of(&right, schema)?);
    let (left_class, right_class) = (Class::of(&left_type), Class::of(&right_type));
    if left_class == Class::Null || right_class == Class::Null {
        return Ok((left, right));
    }
    if left_class == right_class {
        let (left, right) = (exact_number(left, &right_type), exact_number(right, &left_type));
        return Ok(if left_type.is_decimal() && reads_floats(&right, &right_type) {
            (as_float(left), right)
        } else if right_type.is_decimal() && reads_floats(&left, &left_type) {
            (left, as_float(right))
        } else {
            (left, right)
        });
    }
    if let Some(literal) = read_text(&right, &left_type)? {
        return Ok((left, literal));
    }
    if let Some(literal) = read_text(&left, &right_type)? {
        return Ok((literal, right));
    }
    Err(mismatch((&left, &left_type), (&right, &right_type)))
}

fn mismatch(left: (&Expr, &DataType), right: (&Expr, &DataType)) -> FilterError {
    let (left_class, right_class) = (Class::of(left.1), Class::of(right.1));
    let hint = hint_for(left, right)
        .or_else(|| hint_for(right, left))
        .unwrap_or_default();
    let message = format!(
        "{} is {} ({}) and {} is {} ({}): they do not compare{hint}",
        show(left.0),
        left_class.words(),
        left.1,
        show(right.0),
        right_class.words(),
        right.1
    );
    FilterError::new(message).at(place_of(left.0).or_else(|| place_of(right.0)))
}

/// How the literal on one side would be written for the other.
fn hint_for(side: (&Expr, &DataType), literal: (&Expr, &DataType)) -> Option<String> {
    let Expr::Literal(value, _) = literal.0 else {
        return None;
    };
    match (Class::of(side.1), Class::of(literal.1)) {
        (Class::Number, Class::Text) => {
            let text = value.try_as_str().flatten()?;
            text.trim()
                .parse::<f64>()
                .ok()
                .map(|_| format!("; write {} without quotes", text.trim()))
        }
        (Class::Text, Class::Number) => Some(format!("; write '{value}' in quotes")),
        (Class::Moment, Class::Number) => Some("; write '2024-01-31' or '2024-01-31 12:00:00' in quotes".to_owned()),
        (Class::Boolean, _) => Some("; write it alone, or with NOT".to_owned()),
        _ => None,
    }
}

/// A number literal beside a decimal becomes the decimal of the same digits; everything else stays.
fn exact_number(expr: Expr, beside: &DataType) -> Expr {
    let Expr::Literal(value, meta) = &expr else { return expr };
    if !beside.is_decimal() {
        return expr;
    }
    let digits = match value {
        ScalarValue::Int64(Some(number)) => number.to_string(),
        ScalarValue::UInt64(Some(number)) => number.to_string(),
        ScalarValue::Float64(Some(number)) if number.is_finite() => number.to_string(),
        _ => return expr,
    };
    match decimal(&digits) {
        Some(exact) => Expr::Literal(exact, meta.clone()),
        None => expr,
    }
}

/// Whether a decimal beside this expression has to become a float: the other way round, NaN and infinity are errors.
fn reads_floats(expr: &Expr, data_type: &DataType) -> bool {
    data_type.is_floating() && expr.any_column_refs()
}

fn as_float(expr: Expr) -> Expr {
    Expr::Cast(Cast::new(Box::new(expr), DataType::Float64))
}

/// The decimal of exactly these digits, in the narrowest type that holds them.
fn decimal(text: &str) -> Option<ScalarValue> {
    let text = text.trim();
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let fraction = fraction.trim_end_matches('0');
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_start_matches('0');
    let precision = significant.len().max(fraction.len()).max(1);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) || precision > MAX_DECIMAL_DIGITS {
        return None;
    }
    let magnitude: i128 = if significant.is_empty() {
        0
    } else {
        significant.parse().ok()?
    };
    let value = if text.starts_with('-') { -magnitude } else { magnitude };
    Some(ScalarValue::Decimal128(
        Some(value),
        u8::try_from(precision).ok()?,
        i8::try_from(fraction.len()).ok()?,
    ))
}

/// Reads a text literal as a value of `target`, where a quoted literal may stand for one.
fn read_text(expr: &Expr, target: &DataType) -> Result<Option<Expr>, FilterError> {
    let Expr::Literal(value, meta) = expr else {
        return Ok(None);
    };
    let Some(text) = value.try_as_str().flatten() else {
        return Ok(None);
    };
    let (read, wanted) = match target {
        DataType::Dictionary(_, value_type) => return read_text(expr, value_type),
        DataType::Date32 | DataType::Date64 => (date(text, target), "a date such as '2024-01-31'"),
        DataType::Timestamp(unit, zone) => (
            timestamp(text, *unit, zone.as_ref()),
            "a timestamp such as '2024-01-31 12:00:00', no finer than the other side",
        ),
        DataType::Time32(_) | DataType::Time64(_) => (cast(text, target), "a time such as '12:30:00'"),
        other if other.is_decimal() => (decimal(text), "a decimal number of at most 38 digits"),
        DataType::FixedSizeBinary(length) => (fixed_bytes(text, *length), "binary of that length, or a UUID"),
        other if other.is_binary() => (cast(text, target), "binary"),
        _ => return Ok(None),
    };
    match read {
        Some(read) => Ok(Some(Expr::Literal(read, meta.clone()))),
        None => Err(FilterError::new(format!(
            "'{}' does not read as {wanted} ({target})",
            clip(text)
        ))),
    }
}

fn cast(text: &str, target: &DataType) -> Option<ScalarValue> {
    ScalarValue::Utf8(Some(text.trim().to_owned()))
        .cast_to(target)
        .ok()
        .filter(|value| !value.is_null())
}

/// A text with a time of day beside a date stays a timestamp, so that the day is not rounded.
fn date(text: &str, target: &DataType) -> Option<ScalarValue> {
    let Some(moment) = timestamp(text, TimeUnit::Microsecond, None) else {
        return if text.contains(':') { None } else { cast(text, target) };
    };
    let day = moment.cast_to(target).ok()?;
    let exact = day
        .cast_to(&moment.data_type())
        .is_ok_and(|midnight| midnight == moment);
    Some(if exact { day } else { moment })
}

/// A moment in the column's unit; `None` too where that unit would round it, since the rounded one is another moment.
fn timestamp(text: &str, unit: TimeUnit, zone: Option<&std::sync::Arc<str>>) -> Option<ScalarValue> {
    let read = cast(text, &DataType::Timestamp(unit, zone.cloned()))?;
    let finest = DataType::Timestamp(TimeUnit::Nanosecond, zone.cloned());
    match cast(text, &finest) {
        Some(exact) if read.cast_to(&finest).is_ok_and(|rounded| rounded != exact) => None,
        _ => Some(read),
    }
}

fn fixed_bytes(text: &str, length: i32) -> Option<ScalarValue> {
    let bytes = match uuid::Uuid::parse_str(text.trim()) {
        Ok(id) if length == 16 => id.as_bytes().to_vec(),
        _ => text.as_bytes().to_vec(),
    };
    (usize::try_from(length) == Ok(bytes.len())).then_some(ScalarValue::FixedSizeBinary(length, Some(bytes)))
}

fn type_of(expr: &Expr, schema: &DFSchema) -> Result<DataType, FilterError> {
    expr.get_type(schema)
        .map_err(|e| FilterError::from_datafusion(&e).at(place_of(expr)))
}

/// Where the first column of an expression stands in the text.
fn place_of(expr: &Expr) -> Option<(u64, u64)> {
    let mut place = None;
    let _ = for_each_node(expr, |node| {
        if let (None, Expr::Column(column)) = (place, node) {
            place = column.spans().first().map(|span| (span.start.line, span.start.column));
        }
        Ok(())
    });
    place
}

fn show(expr: &Expr) -> String {
    match expr {
        Expr::Column(column) => column.name.clone(),
        Expr::Literal(value, _) => match value.try_as_str().flatten() {
            Some(text) => format!("'{}'", clip(text)),
            None => clip(&value.to_string()),
        },
        other => clip(&first_line(&other.human_display().to_string())),
    }
}

fn clip(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
