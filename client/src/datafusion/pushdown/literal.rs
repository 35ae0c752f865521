//! Literals, so that the server reads the very value.

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::Expr;

use super::place::{Kind, Place};

/// Length of a date whose year has four digits, and the place of its first dash.
const DATE_CHARS: usize = 10;
const YEAR_CHARS: usize = 4;

/// A value in a server's words.
#[derive(Debug)]
pub(super) struct Literal {
    pub(super) sql: String,
    /// Whether it is a float's zero, of either sign.
    pub(super) is_zero: bool,
}

/// The literal beside a place; none for null, for another type than the place's, and for what the words would not give back.
pub(super) fn literal(expr: &Expr, place: &Place<'_>) -> Option<Literal> {
    let Expr::Literal(value, _) = expr else { return None };
    let value = match value {
        ScalarValue::Dictionary(_, value) => value.as_ref(),
        other => other,
    };
    let float = |value: f64| {
        value.is_finite().then(|| Literal {
            // The shortest digits that are read back as this value.
            sql: format!("{value:?}"),
            is_zero: value == 0.0,
        })
    };
    let sql = match (place.kind, value) {
        (Kind::Text, text) => quoted(text.try_as_str()??),
        _ if value.is_null() || value.data_type() != *place.data_type => return None,
        (Kind::Float, ScalarValue::Float64(Some(number))) => return float(*number),
        (Kind::Float, ScalarValue::Float32(Some(number))) => return float(f64::from(*number)),
        (Kind::Number, number) => number.to_string(),
        (Kind::Boolean, ScalarValue::Boolean(Some(value))) => value.to_string(),
        (Kind::Moment, moment) => quoted(&moment_text(moment)?),
        (Kind::Decimal, number) => quoted(&read_back(number, as_text(number)?)?),
        _ => return None,
    };
    Some(Literal { sql, is_zero: false })
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A date or timestamp of a year with four digits, the moment of a time zone in UTC.
fn moment_text(moment: &ScalarValue) -> Option<String> {
    let local = match moment.clone() {
        ScalarValue::TimestampSecond(value, Some(_)) => ScalarValue::TimestampSecond(value, None),
        ScalarValue::TimestampMillisecond(value, Some(_)) => ScalarValue::TimestampMillisecond(value, None),
        ScalarValue::TimestampMicrosecond(value, Some(_)) => ScalarValue::TimestampMicrosecond(value, None),
        ScalarValue::TimestampNanosecond(value, Some(_)) => ScalarValue::TimestampNanosecond(value, None),
        other => other,
    };
    let mut text = as_text(&local)?;
    let is_plain = text.len() >= DATE_CHARS && text.find('-') == Some(YEAR_CHARS);
    // Of two timestamps, one with a zone and one without, equality sees the number alone.
    if local.data_type() != moment.data_type() {
        text.push('Z');
    }
    if is_plain { read_back(moment, text) } else { None }
}

fn as_text(value: &ScalarValue) -> Option<String> {
    let text = value.cast_to(&DataType::Utf8).ok()?;
    text.try_as_str()?.map(str::to_owned)
}

/// The text, where it is read as the same value again.
fn read_back(value: &ScalarValue, text: String) -> Option<String> {
    let read = ScalarValue::Utf8(Some(text.clone())).cast_to(&value.data_type()).ok()?;
    (read == *value).then_some(text)
}
