//! What a condition is about: a column, or a field of a struct.

use arrow::datatypes::{DataType, Schema};
use datafusion::common::ScalarValue;
use datafusion::functions::core::get_field;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::expr::{Cast, ScalarFunction};

/// Digits of the widest decimal that a filter reads.
const MAX_DECIMAL_DIGITS: u8 = 38;

/// What kind of values a place has: those of one kind are said alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Number,
    Text,
    Boolean,
    Moment,
    Decimal,
    Float,
}

/// A column or a field of one, in a server's words.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pub(super) sql: String,
    pub(super) kind: Kind,
    /// The type of its values, without a dictionary around them.
    pub(super) data_type: &'a DataType,
}

impl<'a> Place<'a> {
    /// The place that an expression is, where its values are of a kind that both sides compare.
    pub(super) fn of(expr: &Expr, schema: &'a Schema) -> Option<Self> {
        let (sql, data_type) = named(expr, schema)?;
        let data_type = plain(data_type);
        let kind = Kind::of(data_type)?;
        // In a struct a server compares floats by their bits, and with its own form of the literal.
        let is_known = kind != Kind::Float || matches!(expr, Expr::Column(_));
        is_known.then_some(Self { sql, kind, data_type })
    }

    /// Whether both sides compare its values with those of another place in the same way.
    pub(super) fn compares_with(&self, other: &Self) -> bool {
        match self.kind {
            Kind::Text => other.kind == Kind::Text,
            Kind::Float => false,
            _ => self.data_type == other.data_type,
        }
    }
}

impl Kind {
    fn of(data_type: &DataType) -> Option<Self> {
        Some(match data_type {
            whole if whole.is_integer() => Self::Number,
            text if text.is_string() => Self::Text,
            DataType::Boolean => Self::Boolean,
            DataType::Date32 | DataType::Timestamp(..) => Self::Moment,
            DataType::Decimal128(digits, scale) if *digits <= MAX_DECIMAL_DIGITS && *scale >= 0 => Self::Decimal,
            DataType::Float32 | DataType::Float64 => Self::Float,
            _ => return None,
        })
    }
}

/// Name and type of a place.
fn named<'a>(expr: &Expr, schema: &'a Schema) -> Option<(String, &'a DataType)> {
    match expr {
        Expr::Column(column) => {
            let field = schema.field_with_name(&column.name).ok()?;
            Some((quoted(&column.name), field.data_type()))
        }
        Expr::ScalarFunction(call) => field(call, schema),
        // From one form of text to another nothing changes.
        Expr::Cast(Cast { expr, field }) if is_text(field.data_type()) => {
            named(expr, schema).filter(|(_, data_type)| is_text(data_type))
        }
        _ => None,
    }
}

/// A field of a struct, however deep.
fn field<'a>(call: &ScalarFunction, schema: &'a Schema) -> Option<(String, &'a DataType)> {
    if call.func != get_field() {
        return None;
    }
    let (base, names) = call.args.split_first()?;
    let (mut sql, mut data_type) = named(base, schema)?;
    for name in names {
        let (Expr::Literal(name, _), DataType::Struct(fields)) = (name, data_type) else {
            return None;
        };
        let name: &str = ScalarValue::try_as_str(name)??;
        let field = fields.iter().find(|field| field.name() == name)?;
        sql = format!("{sql}.{}", quoted(name));
        data_type = field.data_type();
    }
    Some((sql, data_type))
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The type of the values, where text may be in a dictionary.
fn plain(data_type: &DataType) -> &DataType {
    match data_type {
        DataType::Dictionary(_, values) if values.is_string() => values,
        other => other,
    }
}

fn is_text(data_type: &DataType) -> bool {
    plain(data_type).is_string()
}
