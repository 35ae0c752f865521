//! GetXdbcTypeInfo: the types of SQL by their names, as ODBC and JDBC list them.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::error::FlightError;
use arrow_flight::sql::metadata::{XdbcTypeInfo, XdbcTypeInfoData, XdbcTypeInfoDataBuilder};
use arrow_flight::sql::{Nullable, Searchable, XdbcDataType, XdbcDatetimeSubcode};

use crate::error::ServiceError;

/// One type: its name, its number, how many bits, digits or characters it has at most, and what it is written between.
struct Type {
    name: &'static str,
    number: XdbcDataType,
    size: Option<i32>,
    kind: Kind,
}

/// What types have in common.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Flag,
    Whole,
    Float,
    Decimal,
    Text,
    Bytes,
    Time(XdbcDatetimeSubcode),
}

/// The types, by the names that CAST takes. A text or a row of bytes has no greatest length.
const TYPES: &[Type] = &[
    of("BOOLEAN", XdbcDataType::XdbcBit, Some(1), Kind::Flag),
    of("TINYINT", XdbcDataType::XdbcTinyint, Some(8), Kind::Whole),
    of("SMALLINT", XdbcDataType::XdbcSmallint, Some(16), Kind::Whole),
    of("INTEGER", XdbcDataType::XdbcInteger, Some(32), Kind::Whole),
    of("BIGINT", XdbcDataType::XdbcBigint, Some(64), Kind::Whole),
    of("REAL", XdbcDataType::XdbcReal, Some(24), Kind::Float),
    of("DOUBLE", XdbcDataType::XdbcDouble, Some(53), Kind::Float),
    of("DECIMAL", XdbcDataType::XdbcDecimal, Some(76), Kind::Decimal),
    of("VARCHAR", XdbcDataType::XdbcVarchar, None, Kind::Text),
    of("BYTEA", XdbcDataType::XdbcVarbinary, None, Kind::Bytes),
    of(
        "DATE",
        XdbcDataType::XdbcDate,
        Some(10),
        // The enumeration begins with what ODBC calls the date's own.
        Kind::Time(XdbcDatetimeSubcode::XdbcSubcodeYear),
    ),
    of(
        "TIME",
        XdbcDataType::XdbcTime,
        Some(18),
        Kind::Time(XdbcDatetimeSubcode::XdbcSubcodeTime),
    ),
    of(
        "TIMESTAMP",
        XdbcDataType::XdbcTimestamp,
        Some(29),
        Kind::Time(XdbcDatetimeSubcode::XdbcSubcodeTimestamp),
    ),
];

/// The schema of the answer.
pub(super) fn schema() -> SchemaRef {
    XdbcTypeInfoDataBuilder::new().schema()
}

/// The types of this number, or all where none is asked for.
///
/// # Errors
/// None of a client's making.
pub(super) fn rows(number: Option<i32>) -> Result<RecordBatch, ServiceError> {
    let rows = data().and_then(|data| data.record_batch(number));
    rows.map_err(|error| ServiceError::Internal {
        what: format!("GetXdbcTypeInfo: {error}"),
    })
}

fn data() -> Result<XdbcTypeInfoData, FlightError> {
    let mut builder = XdbcTypeInfoDataBuilder::new();
    TYPES.iter().for_each(|described| builder.append(described.info()));
    builder.build()
}

const fn of(name: &'static str, number: XdbcDataType, size: Option<i32>, kind: Kind) -> Type {
    Type {
        name,
        number,
        size,
        kind,
    }
}

impl Type {
    fn info(&self) -> XdbcTypeInfo {
        let (prefix, suffix) = self.quotes();
        let is_number = matches!(self.kind, Kind::Whole | Kind::Float | Kind::Decimal);
        let subcode = match self.kind {
            Kind::Time(subcode) => Some(subcode),
            _ => None,
        };
        XdbcTypeInfo {
            type_name: self.name.to_owned(),
            data_type: self.number,
            column_size: self.size,
            literal_prefix: prefix.map(str::to_owned),
            literal_suffix: suffix.map(str::to_owned),
            create_params: (self.kind == Kind::Decimal).then(|| vec!["precision".to_owned(), "scale".to_owned()]),
            nullable: Nullable::NullabilityNullable,
            case_sensitive: self.kind == Kind::Text,
            searchable: if self.kind == Kind::Text {
                Searchable::Full
            } else {
                Searchable::Basic
            },
            unsigned_attribute: is_number.then_some(false),
            fixed_prec_scale: false,
            auto_increment: is_number.then_some(false),
            local_type_name: None,
            minimum_scale: (self.kind == Kind::Decimal).then_some(0),
            maximum_scale: (self.kind == Kind::Decimal).then_some(76),
            sql_data_type: if subcode.is_some() {
                XdbcDataType::XdbcDatetime
            } else {
                self.number
            },
            datetime_subcode: subcode,
            num_prec_radix: match self.kind {
                Kind::Whole | Kind::Float => Some(2),
                Kind::Decimal => Some(10),
                _ => None,
            },
            interval_precision: None,
        }
    }

    /// What a literal stands between.
    fn quotes(&self) -> (Option<&'static str>, Option<&'static str>) {
        match self.kind {
            Kind::Text => (Some("'"), Some("'")),
            Kind::Bytes => (Some("X'"), Some("'")),
            Kind::Time(XdbcDatetimeSubcode::XdbcSubcodeYear) => (Some("DATE '"), Some("'")),
            Kind::Time(XdbcDatetimeSubcode::XdbcSubcodeTime) => (Some("TIME '"), Some("'")),
            Kind::Time(_) => (Some("TIMESTAMP '"), Some("'")),
            Kind::Flag | Kind::Whole | Kind::Float | Kind::Decimal => (None, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_types_are_listed_or_those_of_a_number() {
        let all = rows(None).unwrap();
        assert_eq!((all.num_rows(), all.schema()), (TYPES.len(), schema()));
        assert_eq!(rows(Some(XdbcDataType::XdbcDate as i32)).unwrap().num_rows(), 1);
        assert_eq!(rows(Some(12345)).unwrap().num_rows(), 0);
    }
}
