//! CommandGetSqlInfo: what the server is and can do.
//!
//! Every key of Flight SQL is served with the type that the drivers cast to, since JDBC casts without a check and some
//! tools fail on a missing key: flags are bool, bit masks int32, limits and ordinals int64, function lists string
//! lists. No other key is served, because JDBC stores the keys in a map of those that it knows.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use arrow::array::RecordBatch;
use arrow::compute::can_cast_types;
use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use arrow_flight::sql::metadata::{SqlInfoData, SqlInfoDataBuilder};
use arrow_flight::sql::{
    SqlInfo, SqlNullOrdering, SqlOuterJoinsSupportLevel, SqlSupportedCaseSensitivity, SqlSupportedGroupBy,
    SqlSupportedResultSetConcurrency, SqlSupportedResultSetType, SqlSupportedSubqueries, SqlSupportedTransaction,
    SqlSupportedUnions, SqlSupportsConvert, SqlTransactionIsolationLevel, SupportedSqlGrammar,
};
use datafusion::logical_expr::ScalarUDF;
use datafusion::{functions, functions_nested};
use squadron_proto::Failure;
use squadron_shuffle::conform::conform;

use super::failure::from_builder;
use crate::flight::limits::FlightOptions;
use crate::planner::schema::client_schema;
use crate::planner::substrait;

/// `SupportedAnsi92SqlGrammarLevel.ANSI92_ENTRY_SQL`, an enumeration that arrow-flight does not export.
const ANSI92_ENTRY_SQL: i32 = 0;

/// No limit, or none that is known.
const NO_LIMIT: i64 = 0;

/// Keywords of DataFusion's SQL that SQL:2003 does not reserve.
const KEYWORDS: &[&str] = &[
    "ANALYZE",
    "ANTI",
    "DATABASE",
    "DESCRIBE",
    "EXCLUDE",
    "EXPLAIN",
    "EXTERNAL",
    "IF",
    "IGNORE",
    "ILIKE",
    "LIMIT",
    "LOCATION",
    "NULLS",
    "OFFSET",
    "PARTITIONED",
    "QUALIFY",
    "REPLACE",
    "RESPECT",
    "SEMI",
    "SHOW",
    "STORED",
    "TEMPORARY",
    "TRY_CAST",
    "UNNEST",
    "VERBOSE",
    "VIEW",
];

/// The types of SQL's CONVERT, and the types they are here.
const CONVERTIBLE: &[(SqlSupportsConvert, DataType)] = &[
    (SqlSupportsConvert::SqlConvertBigint, DataType::Int64),
    (SqlSupportsConvert::SqlConvertBinary, DataType::Binary),
    (SqlSupportsConvert::SqlConvertBit, DataType::Boolean),
    (SqlSupportsConvert::SqlConvertChar, DataType::Utf8),
    (SqlSupportsConvert::SqlConvertDate, DataType::Date32),
    (SqlSupportsConvert::SqlConvertDecimal, DataType::Decimal128(38, 10)),
    (SqlSupportsConvert::SqlConvertFloat, DataType::Float32),
    (SqlSupportsConvert::SqlConvertInteger, DataType::Int32),
    (SqlSupportsConvert::SqlConvertLongvarbinary, DataType::Binary),
    (SqlSupportsConvert::SqlConvertLongvarchar, DataType::Utf8),
    (SqlSupportsConvert::SqlConvertNumeric, DataType::Decimal128(38, 10)),
    (SqlSupportsConvert::SqlConvertReal, DataType::Float32),
    (SqlSupportsConvert::SqlConvertSmallint, DataType::Int16),
    (
        SqlSupportsConvert::SqlConvertTime,
        DataType::Time64(TimeUnit::Nanosecond),
    ),
    (
        SqlSupportsConvert::SqlConvertTimestamp,
        DataType::Timestamp(TimeUnit::Nanosecond, None),
    ),
    (SqlSupportsConvert::SqlConvertTinyint, DataType::Int8),
    (SqlSupportsConvert::SqlConvertVarbinary, DataType::Binary),
    (SqlSupportsConvert::SqlConvertVarchar, DataType::Utf8),
];

/// The schema of the rows.
pub(super) fn schema() -> SchemaRef {
    SchemaRef::clone(&SCHEMA)
}

/// The rows of `keys`; all rows when it is empty.
pub(super) fn rows(keys: &[u32]) -> Result<RecordBatch, Failure> {
    let rows = INFO.record_batch(keys.iter().copied()).map_err(from_builder)?;
    conform(rows, &SCHEMA)
}

/// arrow-flight's schema, but with the names by which JDBC finds the columns of a map.
static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| client_schema(&INFO.schema()));

static INFO: LazyLock<SqlInfoData> = LazyLock::new(|| {
    let mut builder = SqlInfoDataBuilder::new();
    server(&mut builder);
    names(&mut builder);
    grammar(&mut builder);
    limits(&mut builder);
    transactions(&mut builder);
    result_sets(&mut builder);
    builder.build().expect("every value has its child of the union")
});

/// Keys 0 to 11, 100 and 101.
fn server(builder: &mut SqlInfoDataBuilder) {
    builder.append(SqlInfo::FlightSqlServerName, "Squadron");
    builder.append(SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
    builder.append(SqlInfo::FlightSqlServerArrowVersion, arrow::ARROW_VERSION);
    builder.append(SqlInfo::FlightSqlServerReadOnly, false);
    builder.append(SqlInfo::FlightSqlServerSql, true);
    builder.append(SqlInfo::FlightSqlServerSubstrait, true);
    builder.append(SqlInfo::FlightSqlServerSubstraitMinVersion, substrait::OLDEST_VERSION);
    builder.append(
        SqlInfo::FlightSqlServerSubstraitMaxVersion,
        substrait::newest_version().as_str(),
    );
    let transaction = SqlSupportedTransaction::None as i32;
    builder.append(SqlInfo::FlightSqlServerTransaction, transaction);
    builder.append(SqlInfo::FlightSqlServerCancel, true);
    builder.append(SqlInfo::FlightSqlServerBulkIngestion, false);
    builder.append(SqlInfo::FlightSqlServerIngestTransactionsSupported, false);
    let idle = FlightOptions::default().session_idle_timeout.as_millis();
    let idle = i32::try_from(idle).unwrap_or(i32::MAX);
    builder.append(SqlInfo::FlightSqlServerStatementTimeout, idle);
    builder.append(SqlInfo::FlightSqlServerTransactionTimeout, 0_i32);
}

/// Naming and definition of catalogs, schemas, tables and identifiers, and the functions.
fn names(builder: &mut SqlInfoDataBuilder) {
    builder.append(SqlInfo::SqlDdlCatalog, false);
    builder.append(SqlInfo::SqlDdlSchema, true);
    builder.append(SqlInfo::SqlDdlTable, true);
    let lower = SqlSupportedCaseSensitivity::SqlCaseSensitivityLowercase as i64;
    builder.append(SqlInfo::SqlIdentifierCase, lower);
    builder.append(SqlInfo::SqlIdentifierQuoteChar, "\"");
    // Quoted identifiers are case sensitive; the enumeration has no closer value.
    let as_written = SqlSupportedCaseSensitivity::SqlCaseSensitivityUnknown as i64;
    builder.append(SqlInfo::SqlQuotedIdentifierCase, as_written);
    builder.append(SqlInfo::SqlAllTablesAreSelectable, true);
    let nulls = SqlNullOrdering::SqlNullsSortedHigh as i64;
    builder.append(SqlInfo::SqlNullOrdering, nulls);
    builder.append(SqlInfo::SqlKeywords, KEYWORDS);
    builder.append(SqlInfo::SqlNumericFunctions, list_names(functions::math::functions()));
    let mut text = functions::string::functions();
    text.extend(functions::unicode::functions());
    text.extend(functions::regex::functions());
    text.extend(functions::encoding::functions());
    text.extend(functions::crypto::functions());
    builder.append(SqlInfo::SqlStringFunctions, list_names(text));
    let mut system = functions::core::functions();
    system.extend(functions_nested::all_default_nested_functions());
    builder.append(SqlInfo::SqlSystemFunctions, list_names(system));
    builder.append(
        SqlInfo::SqlDatetimeFunctions,
        list_names(functions::datetime::functions()),
    );
    builder.append(SqlInfo::SqlSearchStringEscape, "\\");
    builder.append(SqlInfo::SqlExtraNameCharacters, "");
    builder.append(SqlInfo::SqlSchemaTerm, "schema");
    builder.append(SqlInfo::SqlProcedureTerm, "procedure");
    builder.append(SqlInfo::SqlCatalogTerm, "catalog");
    builder.append(SqlInfo::SqlCatalogAtStart, true);
}

/// The supported SQL grammar.
fn grammar(builder: &mut SqlInfoDataBuilder) {
    builder.append(SqlInfo::SqlSupportsColumnAliasing, true);
    builder.append(SqlInfo::SqlNullPlusNullIsNull, true);
    builder.append(SqlInfo::SqlSupportsConvert, conversions());
    builder.append(SqlInfo::SqlSupportsTableCorrelationNames, true);
    builder.append(SqlInfo::SqlSupportsDifferentTableCorrelationNames, false);
    builder.append(SqlInfo::SqlSupportsExpressionsInOrderBy, true);
    builder.append(SqlInfo::SqlSupportsOrderByUnrelated, true);
    let group_by = mask([
        SqlSupportedGroupBy::SqlGroupByUnrelated as i32,
        SqlSupportedGroupBy::SqlGroupByBeyondSelect as i32,
    ]);
    builder.append(SqlInfo::SqlSupportedGroupBy, group_by);
    builder.append(SqlInfo::SqlSupportsLikeEscapeClause, true);
    builder.append(SqlInfo::SqlSupportsNonNullableColumns, true);
    let grammar = mask([
        SupportedSqlGrammar::SqlMinimumGrammar as i32,
        SupportedSqlGrammar::SqlCoreGrammar as i32,
    ]);
    builder.append(SqlInfo::SqlSupportedGrammar, grammar);
    builder.append(SqlInfo::SqlAnsi92SupportedLevel, mask([ANSI92_ENTRY_SQL]));
    builder.append(SqlInfo::SqlSupportsIntegrityEnhancementFacility, false);
    let outer_joins = mask([
        SqlOuterJoinsSupportLevel::SqlLimitedOuterJoins as i32,
        SqlOuterJoinsSupportLevel::SqlFullOuterJoins as i32,
    ]);
    builder.append(SqlInfo::SqlOuterJoinsSupportLevel, outer_joins);
    builder.append(SqlInfo::SqlSchemasSupportedActions, mask([]));
    builder.append(SqlInfo::SqlCatalogsSupportedActions, mask([]));
    builder.append(SqlInfo::SqlSupportedPositionedCommands, mask([]));
    builder.append(SqlInfo::SqlSelectForUpdateSupported, false);
    builder.append(SqlInfo::SqlStoredProceduresSupported, false);
    let subqueries = mask([
        SqlSupportedSubqueries::SqlSubqueriesInComparisons as i32,
        SqlSupportedSubqueries::SqlSubqueriesInExists as i32,
        SqlSupportedSubqueries::SqlSubqueriesInIns as i32,
    ]);
    builder.append(SqlInfo::SqlSupportedSubqueries, subqueries);
    builder.append(SqlInfo::SqlCorrelatedSubqueriesSupported, true);
    let unions = mask([
        SqlSupportedUnions::SqlUnion as i32,
        SqlSupportedUnions::SqlUnionAll as i32,
    ]);
    builder.append(SqlInfo::SqlSupportedUnions, unions);
}

fn limits(builder: &mut SqlInfoDataBuilder) {
    for key in [
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
        SqlInfo::SqlMaxStatementLength,
        SqlInfo::SqlMaxStatements,
        SqlInfo::SqlMaxTableNameLength,
        SqlInfo::SqlMaxTablesInSelect,
        SqlInfo::SqlMaxUsernameLength,
    ] {
        builder.append(key, NO_LIMIT);
    }
    builder.append(SqlInfo::SqlMaxRowSizeIncludesBlobs, false);
}

fn transactions(builder: &mut SqlInfoDataBuilder) {
    let none = SqlTransactionIsolationLevel::SqlTransactionNone;
    builder.append(SqlInfo::SqlDefaultTransactionIsolation, none as i64);
    builder.append(SqlInfo::SqlTransactionsSupported, false);
    let levels = mask([none as i32]);
    builder.append(SqlInfo::SqlSupportedTransactionsIsolationLevels, levels);
    builder.append(SqlInfo::SqlDataDefinitionCausesTransactionCommit, false);
    builder.append(SqlInfo::SqlDataDefinitionsInTransactionsIgnored, false);
    builder.append(SqlInfo::SqlSavepointsSupported, false);
}

/// Results are read once, forwards.
fn result_sets(builder: &mut SqlInfoDataBuilder) {
    let forward = SqlSupportedResultSetType::SqlResultSetTypeForwardOnly as i32;
    builder.append(SqlInfo::SqlSupportedResultSetTypes, mask([forward]));
    for key in [
        SqlInfo::SqlSupportedConcurrenciesForResultSetUnspecified,
        SqlInfo::SqlSupportedConcurrenciesForResultSetScrollSensitive,
        SqlInfo::SqlSupportedConcurrenciesForResultSetScrollInsensitive,
    ] {
        builder.append(key, mask([]));
    }
    let read_only = SqlSupportedResultSetConcurrency::SqlResultSetConcurrencyReadOnly as i32;
    let key = SqlInfo::SqlSupportedConcurrenciesForResultSetForwardOnly;
    builder.append(key, mask([read_only]));
    builder.append(SqlInfo::SqlBatchUpdatesSupported, true);
    builder.append(SqlInfo::SqlNamedParametersSupported, false);
    builder.append(SqlInfo::SqlLocatorsUpdateCopy, false);
    builder.append(SqlInfo::SqlStoredFunctionsUsingCallSyntaxSupported, false);
}

/// A bit for each ordinal of an enumeration.
fn mask<const N: usize>(ordinals: [i32; N]) -> i32 {
    ordinals.iter().fold(0, |mask, ordinal| mask | 1 << ordinal)
}

/// The types that CAST converts each type to, by the cast kernel.
fn conversions() -> BTreeMap<i32, Vec<i32>> {
    let targets = |from: &DataType| {
        let castable = CONVERTIBLE.iter().filter(|(_, to)| can_cast_types(from, to));
        castable.map(|(kind, _)| *kind as i32).collect()
    };
    CONVERTIBLE
        .iter()
        .map(|(kind, from)| (*kind as i32, targets(from)))
        .collect()
}

/// The names of functions, with their aliases.
fn list_names(functions: Vec<Arc<ScalarUDF>>) -> Vec<String> {
    let mut names: Vec<String> = functions
        .iter()
        .flat_map(|function| std::iter::once(function.name()).chain(function.aliases().iter().map(String::as_str)))
        .map(str::to_uppercase)
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray, UnionArray};
    use arrow::datatypes::UInt32Type;
    use datafusion::prelude::SessionContext;

    use super::*;

    const TEXT: i8 = 0;
    const FLAG: i8 = 1;
    const BIGINT: i8 = 2;
    const BITMASK: i8 = 3;
    const LIST: i8 = 4;
    const MAP: i8 = 5;

    /// Which child of the union the JDBC and ODBC drivers cast each key to.
    fn expected(key: u32) -> i8 {
        match key {
            0..=2 | 6 | 7 | 504 | 513 | 514 | 529..=531 => TEXT,
            503 | 505 | 507 | 541..=555 | 557..=562 => BIGINT,
            8 | 100 | 101 => BITMASK,
            522 | 525 | 526 | 528 | 533..=535 | 538 | 540 | 564 | 567..=571 => BITMASK,
            508..=512 => LIST,
            517 => MAP,
            _ => FLAG,
        }
    }

    fn keys_and_types(batch: &RecordBatch) -> Vec<(u32, i8)> {
        let keys = batch.column(0).as_primitive::<UInt32Type>();
        let values = batch.column(1).as_any().downcast_ref::<UnionArray>().unwrap();
        (0..batch.num_rows())
            .map(|row| (keys.value(row), values.type_id(row)))
            .collect()
    }

    #[test]
    fn keys_have_types_drivers_cast_to() {
        let all = keys_and_types(&rows(&[]).unwrap());
        let expected: Vec<_> = (0..=11)
            .chain(100..=101)
            .chain(500..=576)
            .map(|key| (key, expected(key)))
            .collect();
        assert_eq!(all, expected);
    }

    #[test]
    fn union_children_follow_the_specification() {
        let DataType::Union(fields, _) = schema().field(1).data_type().clone() else {
            panic!("not a union");
        };
        let children: Vec<_> = fields.iter().map(|(id, field)| (id, field.name().as_str())).collect();
        assert_eq!(
            children,
            [
                (TEXT, "string_value"),
                (FLAG, "bool_value"),
                (BIGINT, "bigint_value"),
                (BITMASK, "int32_bitmask"),
                (LIST, "string_list"),
                (MAP, "int32_to_int32_list_map"),
            ]
        );
    }

    #[test]
    fn filter_drops_unknown_keys() {
        let some = keys_and_types(&rows(&[8, 0, 999_999]).unwrap());
        assert_eq!(some, [(0, TEXT), (8, BITMASK)]);
        assert_eq!(rows(&[999_999]).unwrap().num_rows(), 0);
    }

    #[test]
    fn adbc_sees_no_transactions() {
        let batch = rows(&[8]).unwrap();
        let values = batch.column(1).as_any().downcast_ref::<UnionArray>().unwrap();
        let value = values.value(0);
        assert_eq!(value.as_primitive::<arrow::datatypes::Int32Type>().value(0), 0);
    }

    fn strings(key: SqlInfo) -> Vec<String> {
        let batch = rows(&[key as u32]).unwrap();
        let values = batch.column(1).as_union().value(0);
        let list = values.as_list::<i32>().value(0);
        list.as_string::<i32>().iter().flatten().map(str::to_owned).collect()
    }

    #[test]
    fn listed_functions_exist_in_sql() {
        let known = SessionContext::new().state();
        for (key, some) in [
            (SqlInfo::SqlNumericFunctions, "CEIL"),
            (SqlInfo::SqlStringFunctions, "CHAR_LENGTH"),
            (SqlInfo::SqlSystemFunctions, "ARRAY_LENGTH"),
            (SqlInfo::SqlDatetimeFunctions, "DATE_TRUNC"),
        ] {
            let names = strings(key);
            assert!(names.contains(&some.to_owned()), "{names:?}");
            for name in names {
                let function = known.scalar_functions().get(&name.to_lowercase());
                assert!(function.is_some(), "{name} is no function");
            }
        }
    }

    #[test]
    fn conversions_match_the_cast_kernel() {
        let conversions = conversions();
        let to = |from: SqlSupportsConvert| &conversions[&(from as i32)];
        let (number, text) = (
            SqlSupportsConvert::SqlConvertInteger,
            SqlSupportsConvert::SqlConvertVarchar,
        );
        assert!(to(number).contains(&(text as i32)));
        assert!(to(text).contains(&(SqlSupportsConvert::SqlConvertTimestamp as i32)));
        assert!(!to(SqlSupportsConvert::SqlConvertBit).contains(&(SqlSupportsConvert::SqlConvertDate as i32)));
    }
}
