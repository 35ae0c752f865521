//! GetSqlInfo: what this server says of itself. Every value that drivers ask for is here, for some fail on one that is missing.
//!
//! What JDBC means by conversions is its CONVERT function, which there is not; CAST is no part of that. The levels of the SQL
//! standard all ask for statements that write, so none is claimed. 0 as a greatest length says that there is no bound
//! besides that of the whole statement.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::error::FlightError;
use arrow_flight::sql::metadata::{SqlInfoData, SqlInfoDataBuilder};
use arrow_flight::sql::{
    SqlInfo, SqlNullOrdering, SqlOuterJoinsSupportLevel, SqlSupportedCaseSensitivity, SqlSupportedGroupBy,
    SqlSupportedResultSetConcurrency, SqlSupportedResultSetType, SqlSupportedSubqueries, SqlSupportedTransaction,
    SqlSupportedUnions, SqlTransactionIsolationLevel,
};
use datafusion::functions::{core, datetime, math, string, unicode};
use datafusion::logical_expr::ScalarUDF;

use super::prepared::PREPARED_TTL;
use crate::error::ServiceError;
use crate::sql::{MAX_SQL_BYTES, substrait};

/// What can be said with yes or no.
const FLAGS: &[(SqlInfo, bool)] = &[
    (SqlInfo::FlightSqlServerReadOnly, true),
    (SqlInfo::FlightSqlServerSql, true),
    (SqlInfo::FlightSqlServerSubstrait, true),
    (SqlInfo::FlightSqlServerCancel, true),
    (SqlInfo::FlightSqlServerBulkIngestion, false),
    (SqlInfo::FlightSqlServerIngestTransactionsSupported, false),
    (SqlInfo::SqlDdlCatalog, false),
    (SqlInfo::SqlDdlSchema, false),
    (SqlInfo::SqlDdlTable, false),
    (SqlInfo::SqlAllTablesAreSelectable, true),
    (SqlInfo::SqlSupportsColumnAliasing, true),
    (SqlInfo::SqlNullPlusNullIsNull, true),
    (SqlInfo::SqlSupportsTableCorrelationNames, true),
    (SqlInfo::SqlSupportsDifferentTableCorrelationNames, false),
    (SqlInfo::SqlSupportsExpressionsInOrderBy, true),
    (SqlInfo::SqlSupportsOrderByUnrelated, true),
    (SqlInfo::SqlSupportsLikeEscapeClause, true),
    (SqlInfo::SqlSupportsNonNullableColumns, true),
    (SqlInfo::SqlSupportsIntegrityEnhancementFacility, false),
    (SqlInfo::SqlCatalogAtStart, true),
    (SqlInfo::SqlSelectForUpdateSupported, false),
    (SqlInfo::SqlStoredProceduresSupported, false),
    (SqlInfo::SqlCorrelatedSubqueriesSupported, true),
    (SqlInfo::SqlMaxRowSizeIncludesBlobs, true),
    (SqlInfo::SqlTransactionsSupported, false),
    (SqlInfo::SqlDataDefinitionCausesTransactionCommit, false),
    (SqlInfo::SqlDataDefinitionsInTransactionsIgnored, false),
    (SqlInfo::SqlBatchUpdatesSupported, false),
    (SqlInfo::SqlSavepointsSupported, false),
    (SqlInfo::SqlNamedParametersSupported, false),
    (SqlInfo::SqlLocatorsUpdateCopy, false),
    (SqlInfo::SqlStoredFunctionsUsingCallSyntaxSupported, false),
];

/// One of an enumeration, or bits of one.
const NUMBERS: &[(SqlInfo, i32)] = &[
    (
        SqlInfo::FlightSqlServerTransaction,
        SqlSupportedTransaction::None as i32,
    ),
    (SqlInfo::FlightSqlServerTransactionTimeout, 0),
    (
        SqlInfo::SqlIdentifierCase,
        SqlSupportedCaseSensitivity::SqlCaseSensitivityLowercase as i32,
    ),
    // Quoted names are taken as they are written, for which the enumeration has no other word.
    (
        SqlInfo::SqlQuotedIdentifierCase,
        SqlSupportedCaseSensitivity::SqlCaseSensitivityUnknown as i32,
    ),
    (SqlInfo::SqlNullOrdering, SqlNullOrdering::SqlNullsSortedHigh as i32),
    (
        SqlInfo::SqlSupportedGroupBy,
        bit(SqlSupportedGroupBy::SqlGroupByUnrelated as i32) | bit(SqlSupportedGroupBy::SqlGroupByBeyondSelect as i32),
    ),
    (SqlInfo::SqlSupportedGrammar, 0),
    (SqlInfo::SqlAnsi92SupportedLevel, 0),
    (
        SqlInfo::SqlOuterJoinsSupportLevel,
        SqlOuterJoinsSupportLevel::SqlFullOuterJoins as i32,
    ),
    (SqlInfo::SqlSchemasSupportedActions, 0),
    (SqlInfo::SqlCatalogsSupportedActions, 0),
    (SqlInfo::SqlSupportedPositionedCommands, 0),
    (
        SqlInfo::SqlSupportedSubqueries,
        bit(SqlSupportedSubqueries::SqlSubqueriesInComparisons as i32)
            | bit(SqlSupportedSubqueries::SqlSubqueriesInExists as i32)
            | bit(SqlSupportedSubqueries::SqlSubqueriesInIns as i32),
    ),
    (
        SqlInfo::SqlSupportedUnions,
        bit(SqlSupportedUnions::SqlUnion as i32) | bit(SqlSupportedUnions::SqlUnionAll as i32),
    ),
    (
        SqlInfo::SqlSupportedTransactionsIsolationLevels,
        bit(SqlTransactionIsolationLevel::SqlTransactionNone as i32),
    ),
    (
        SqlInfo::SqlSupportedResultSetTypes,
        bit(SqlSupportedResultSetType::SqlResultSetTypeForwardOnly as i32),
    ),
    (SqlInfo::SqlSupportedConcurrenciesForResultSetUnspecified, 0),
    (
        SqlInfo::SqlSupportedConcurrenciesForResultSetForwardOnly,
        bit(SqlSupportedResultSetConcurrency::SqlResultSetConcurrencyReadOnly as i32),
    ),
    (SqlInfo::SqlSupportedConcurrenciesForResultSetScrollSensitive, 0),
    (SqlInfo::SqlSupportedConcurrenciesForResultSetScrollInsensitive, 0),
];

const TEXTS: &[(SqlInfo, &str)] = &[
    (SqlInfo::FlightSqlServerName, "Jetbridge"),
    (SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION")),
    (SqlInfo::FlightSqlServerArrowVersion, arrow::ARROW_VERSION),
    (SqlInfo::FlightSqlServerSubstraitMinVersion, substrait::MIN_VERSION),
    (SqlInfo::SqlIdentifierQuoteChar, "\""),
    (SqlInfo::SqlSearchStringEscape, "\\"),
    (SqlInfo::SqlExtraNameCharacters, ""),
    (SqlInfo::SqlSchemaTerm, "schema"),
    (SqlInfo::SqlProcedureTerm, "procedure"),
    (SqlInfo::SqlCatalogTerm, "catalog"),
];

/// Greatest lengths and counts that have no bound of their own.
const UNBOUNDED: &[SqlInfo] = &[
    SqlInfo::SqlMaxBinaryLiteralLength,
    SqlInfo::SqlMaxCharLiteralLength,
    SqlInfo::SqlMaxColumnNameLength,
    SqlInfo::SqlMaxColumnsInGroupBy,
    SqlInfo::SqlMaxColumnsInIndex,
    SqlInfo::SqlMaxColumnsInOrderBy,
    SqlInfo::SqlMaxColumnsInSelect,
    SqlInfo::SqlMaxColumnsInTable,
    SqlInfo::SqlMaxConnections,
    SqlInfo::SqlMaxCursorNameLength,
    SqlInfo::SqlMaxIndexLength,
    SqlInfo::SqlDbSchemaNameLength,
    SqlInfo::SqlMaxProcedureNameLength,
    SqlInfo::SqlMaxCatalogNameLength,
    SqlInfo::SqlMaxRowSize,
    SqlInfo::SqlMaxStatements,
    SqlInfo::SqlMaxTableNameLength,
    SqlInfo::SqlMaxTablesInSelect,
    SqlInfo::SqlMaxUsernameLength,
];

/// Words of the dialect that the standard of 2003 does not have.
const KEYWORDS: &[&str] = &[
    "ANTI", "DESCRIBE", "EXPLAIN", "ILIKE", "LIMIT", "OFFSET", "QUALIFY", "SEMI", "SHOW",
];

/// The schema of the answer.
pub(super) fn schema() -> SchemaRef {
    SqlInfoDataBuilder::schema().clone().into()
}

/// The values of these numbers, or all where none is asked for. A number that means nothing here is left out.
///
/// # Errors
/// None of a client's making.
pub(super) fn rows(asked: &[u32]) -> Result<RecordBatch, ServiceError> {
    let internal = |error: FlightError| ServiceError::Internal {
        what: format!("GetSqlInfo: {error}"),
    };
    let data = data().map_err(internal)?;
    if asked.is_empty() {
        return data.record_batch([]).map_err(internal);
    }
    // A request may name millions of numbers; those that are there are few.
    let asked: BTreeSet<u32> = asked.iter().copied().collect();
    let known = numbers().filter(|number| asked.contains(number)).collect::<Vec<_>>();
    if known.is_empty() {
        return Ok(RecordBatch::new_empty(data.schema()));
    }
    data.record_batch(known).map_err(internal)
}

fn data() -> Result<SqlInfoData, FlightError> {
    let mut builder = SqlInfoDataBuilder::new();
    FLAGS.iter().for_each(|&(name, flag)| builder.append(name, flag));
    NUMBERS.iter().for_each(|&(name, number)| builder.append(name, number));
    TEXTS.iter().for_each(|&(name, text)| builder.append(name, text));
    UNBOUNDED.iter().for_each(|&name| builder.append(name, 0_i64));
    let handle_ms = i32::try_from(PREPARED_TTL.as_millis()).unwrap_or(i32::MAX);
    builder.append(SqlInfo::FlightSqlServerStatementTimeout, handle_ms);
    let newest = substrait::max_version();
    builder.append(SqlInfo::FlightSqlServerSubstraitMaxVersion, newest.as_str());
    let statement_bytes = i64::try_from(MAX_SQL_BYTES).unwrap_or(i64::MAX);
    builder.append(SqlInfo::SqlMaxStatementLength, statement_bytes);
    // The standard has a number of 32 bits here; JDBC's driver takes no other than one of 64.
    let isolation = i64::from(i32::from(SqlTransactionIsolationLevel::SqlTransactionNone));
    builder.append(SqlInfo::SqlDefaultTransactionIsolation, isolation);
    builder.append(SqlInfo::SqlSupportsConvert, BTreeMap::<i32, Vec<i32>>::new());
    builder.append(SqlInfo::SqlKeywords, KEYWORDS);
    builder.append(SqlInfo::SqlNumericFunctions, names(math::functions()));
    let strings = string::functions().into_iter().chain(unicode::functions());
    builder.append(SqlInfo::SqlStringFunctions, names(strings));
    builder.append(SqlInfo::SqlSystemFunctions, names(core::functions()));
    builder.append(SqlInfo::SqlDatetimeFunctions, names(datetime::functions()));
    builder.build()
}

/// The numbers of all values.
fn numbers() -> impl Iterator<Item = u32> {
    let flags = FLAGS.iter().map(|&(name, _)| name);
    let others = NUMBERS.iter().map(|&(name, _)| name);
    let texts = TEXTS.iter().map(|&(name, _)| name);
    let named = flags.chain(others).chain(texts).chain(UNBOUNDED.iter().copied());
    let rest = [
        SqlInfo::FlightSqlServerSubstraitMaxVersion,
        SqlInfo::FlightSqlServerStatementTimeout,
        SqlInfo::SqlMaxStatementLength,
        SqlInfo::SqlDefaultTransactionIsolation,
        SqlInfo::SqlSupportsConvert,
        SqlInfo::SqlKeywords,
        SqlInfo::SqlNumericFunctions,
        SqlInfo::SqlStringFunctions,
        SqlInfo::SqlSystemFunctions,
        SqlInfo::SqlDatetimeFunctions,
    ];
    named.chain(rest).filter_map(|name| u32::try_from(i32::from(name)).ok())
}

/// Names of functions, in order.
fn names(functions: impl IntoIterator<Item = std::sync::Arc<ScalarUDF>>) -> Vec<String> {
    let names: BTreeSet<String> = functions
        .into_iter()
        .map(|function| function.name().to_owned())
        .collect();
    names.into_iter().collect()
}

const fn bit(number: i32) -> i32 {
    1 << number
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, UInt32Array};
    use arrow::datatypes::UInt32Type;

    use super::*;

    fn told(asked: &[u32]) -> Vec<u32> {
        let batch = rows(asked).unwrap();
        assert_eq!(batch.schema(), schema());
        let names: &UInt32Array = batch.column(0).as_primitive::<UInt32Type>();
        names.values().to_vec()
    }

    #[test]
    fn all_numbers_are_told_once_and_in_order() {
        let all = told(&[]);
        assert!(all.is_sorted_by(|one, next| one < next), "{all:?}");
        let mut numbers: Vec<u32> = numbers().collect();
        numbers.sort_unstable();
        assert_eq!(all, numbers, "each is in one list");
        // All that JDBC's metadata may ask for is there: the two ranges without a gap.
        let wanted = (0..12).chain([100, 101]).chain(500..=576);
        assert_eq!(all, wanted.collect::<Vec<_>>());
    }

    #[test]
    fn what_is_asked_for_is_told_and_what_means_nothing_is_left_out() {
        assert_eq!(told(&[8, 0, 8, 4_000_000_000]), [0, 8]);
        assert_eq!(told(&[77]), [0; 0]);
        assert_eq!(told(&(0..1_000_000).collect::<Vec<_>>()).len(), told(&[]).len());
    }
}
