//! What is known of the tables of a query before it runs.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{ColumnStatistics, Result, ScalarValue, Statistics};
use datafusion::datasource::source_as_provider;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, TableScan};
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};

/// A column of rows that are estimated.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Column {
    /// The least and the greatest value, as numbers of the column's unit.
    pub(super) range: Option<(f64, f64)>,
    /// How many different values there are, where it is known or follows from the range.
    pub(super) distinct: Option<f64>,
    /// The part of the rows that is NULL, from 0 to 1.
    pub(super) nulls: f64,
    /// Whether it is known for certain that no value is NULL.
    pub(super) never_null: bool,
}

/// A table as a query scans it.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) rows: f64,
    /// By name.
    pub(super) columns: HashMap<String, Column>,
}

/// The tables that a query scans.
#[derive(Debug, Default)]
pub(super) struct Tables(HashMap<ScanKey, Table>);

/// Scans of one source with equal filters read the same files.
type ScanKey = (usize, Vec<Expr>);

impl Tables {
    /// Asks the providers of all tables that `plan` scans. They answer from metadata that they keep.
    ///
    /// # Errors
    /// Those of the providers.
    pub(super) async fn of(plan: &LogicalPlan, state: &SessionState) -> Result<Self> {
        let mut tables = HashMap::new();
        for scan in scans(plan)? {
            if let std::collections::hash_map::Entry::Vacant(place) = tables.entry(key(&scan))
                && let Some(table) = table(&scan, state).await?
            {
                place.insert(table);
            }
        }
        Ok(Self(tables))
    }

    pub(super) fn get(&self, scan: &TableScan) -> Option<&Table> {
        self.0.get(&key(scan))
    }
}

fn key(scan: &TableScan) -> ScanKey {
    (Arc::as_ptr(&scan.source).cast::<()>() as usize, scan.filters.clone())
}

fn scans(plan: &LogicalPlan) -> Result<Vec<TableScan>> {
    let mut found = Vec::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            found.push(scan.clone());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

async fn table(scan: &TableScan, state: &SessionState) -> Result<Option<Table>> {
    // What is not of files has no metadata, and a scan of it may have an effect.
    let Ok(provider) = source_as_provider(&scan.source) else {
        return Ok(None);
    };
    let physical = provider.scan(state, None, &scan.filters, None).await?;
    let statistics = StatisticsContext::new().compute(physical.as_ref(), &StatisticsArgs::new())?;
    Ok(described(&statistics, &scan.source.schema()))
}

fn described(statistics: &Statistics, schema: &datafusion::arrow::datatypes::Schema) -> Option<Table> {
    let rows = number(&statistics.num_rows)?;
    let names = schema.fields().iter().map(|field| field.name().clone());
    let columns = statistics.column_statistics.iter().map(|column| describe(column, rows));
    Some(Table {
        rows,
        columns: names.zip(columns).collect(),
    })
}

fn describe(column: &ColumnStatistics, rows: f64) -> Column {
    let bound = |value: &Precision<ScalarValue>| value.get_value().and_then(as_number);
    let range = bound(&column.min_value).zip(bound(&column.max_value));
    let nulls = number(&column.null_count).map_or(0.0, |nulls| (nulls / rows.max(1.0)).clamp(0.0, 1.0));
    let steps = column.min_value.get_value().and_then(|least| {
        let (least_number, greatest) = range?;
        is_discrete(least).then_some(greatest - least_number + 1.0)
    });
    let most = rows * (1.0 - nulls);
    Column {
        range,
        distinct: number(&column.distinct_count)
            .or(steps)
            .map(|distinct| distinct.clamp(1.0, most.max(1.0))),
        nulls,
        never_null: column.null_count == Precision::Exact(0),
    }
}

fn number(precision: &Precision<usize>) -> Option<f64> {
    precision.get_value().map(|number| *number as f64)
}

/// Whether values of the type are whole numbers of a unit that neighbours differ by.
fn is_discrete(value: &ScalarValue) -> bool {
    value.data_type().is_integer() || matches!(value, ScalarValue::Date32(_) | ScalarValue::Boolean(_))
}

/// A value on the scale of its type; none of types without one.
pub(super) fn as_number(value: &ScalarValue) -> Option<f64> {
    use ScalarValue::*;
    Some(match value {
        Int8(Some(value)) => f64::from(*value),
        Int16(Some(value)) => f64::from(*value),
        Int32(Some(value)) | Date32(Some(value)) => f64::from(*value),
        Int64(Some(value)) | Date64(Some(value)) => *value as f64,
        UInt8(Some(value)) => f64::from(*value),
        UInt16(Some(value)) => f64::from(*value),
        UInt32(Some(value)) => f64::from(*value),
        UInt64(Some(value)) => *value as f64,
        Float32(Some(value)) => f64::from(*value),
        Float64(Some(value)) => *value,
        Boolean(Some(value)) => f64::from(u8::from(*value)),
        Decimal128(Some(value), _, scale) => *value as f64 / 10_f64.powi(i32::from(*scale)),
        TimestampSecond(Some(value), _) => *value as f64,
        TimestampMillisecond(Some(value), _) => *value as f64 / 1e3,
        TimestampMicrosecond(Some(value), _) => *value as f64 / 1e6,
        TimestampNanosecond(Some(value), _) => *value as f64 / 1e9,
        _ => return None,
    })
}
