//! What is known of the tables of a query before it runs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use datafusion::arrow::datatypes::Schema;
use datafusion::catalog::TableProvider;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Column as ColumnName, ColumnStatistics, Result, ScalarValue, Statistics, TableReference};
use datafusion::datasource::source_as_provider;
use datafusion::execution::SessionState;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, LogicalPlan, TableScan};
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use futures::future::try_join_all;

use super::relation::{Column, Relation, Table, as_number};
use super::samples::{Samples, TableSamples};
use super::selectivity::is_known;
use crate::catalog::files_of;
use crate::plan_limits;
use crate::plan_limits::expressions::contains_subquery;
use crate::planner::estimate::scan_bytes;
use crate::settings::SquadronOptions;

/// How many columns of one table are sketched for a query.
const MOST_COLUMNS: usize = 32;

/// The tables that a query scans.
#[derive(Debug, Default)]
pub(super) struct Tables {
    tables: HashMap<ScanKey, Table>,
    scanned_bytes: u64,
}

/// Scans of one source under one name with equal filters read the same files.
type ScanKey = (usize, TableReference, Vec<Expr>);

impl Tables {
    /// Asks the providers of all tables of files that `plan` scans, which answer from metadata that they keep. Samples tell
    /// more of columns that rows are joined or grouped by, and of conditions of which metadata say nothing.
    ///
    /// # Errors
    /// Those of the providers, and the limits of planning.
    pub(super) async fn of(plan: &LogicalPlan, samples: &Samples, state: &SessionState) -> Result<Self> {
        let mut found = Self::default();
        let options = SquadronOptions::of(state.config_options());
        let misestimate = f64::from(options.misestimate);
        let keys = key_columns(plan)?;
        let mut described = Vec::new();
        for (key, scan) in scans(plan)? {
            plan_limits::check()?;
            let Ok(provider) = source_as_provider(&scan.scan.source) else {
                continue;
            };
            // Other tables have no metadata, and a scan of them may take as long as the query.
            if files_of(provider.as_ref()).is_none() {
                continue;
            }
            let files = provider.scan(state, None, &scan.scan.filters, None).await?;
            found.scanned_bytes += scan_bytes(files.as_ref());
            let statistics = StatisticsContext::new().compute(files.as_ref(), &StatisticsArgs::new())?;
            if let Some(table) = describe_table(&statistics, &scan.scan.source.schema()) {
                let folders = folder_conditions(&scan.scan.filters, provider.as_ref());
                described.push((key, scan, folders, files, table));
            }
        }
        let sampled = described
            .into_iter()
            .map(async |(key, scan, folders, files, mut table)| -> Result<_> {
                // The rows are those of folders that fulfil them.
                table.tried = folders.iter().map(|condition| (condition.clone(), 1.0)).collect();
                if options.samples
                    && let Some(samples) = samples.table(&scan.scan, &folders, files.as_ref(), state)
                {
                    add_samples(&mut table, &scan, &keys, &samples).await?;
                }
                table.rows *= wrong_factor(&scan.scan.table_name, misestimate);
                Ok((key, table))
            });
        found.tables = try_join_all(sampled).await?.into_iter().collect();
        Ok(found)
    }

    /// Bytes of all files that are scanned, those of a table that is scanned twice in the same way once.
    pub(super) fn scanned_bytes(&self) -> u64 {
        self.scanned_bytes
    }

    pub(super) fn get(&self, scan: &TableScan) -> Option<&Table> {
        self.tables.get(&key(scan))
    }
}

/// By what the rows of a table are multiplied to be wrong by `misestimate`: for half of all names they are too many.
fn wrong_factor(table: &TableReference, misestimate: f64) -> f64 {
    let letters: u32 = table.table().bytes().map(u32::from).sum();
    match letters % 2 {
        0 => misestimate,
        _ => misestimate.recip(),
    }
}

fn key(scan: &TableScan) -> ScanKey {
    let source = Arc::as_ptr(&scan.source).cast::<()>() as usize;
    (source, scan.table_name.clone(), scan.filters.clone())
}

/// A scan, and the conditions of filters right above it.
struct Scan {
    scan: TableScan,
    conditions: Vec<Expr>,
}

/// The different scans of `plan`.
fn scans(plan: &LogicalPlan) -> Result<HashMap<ScanKey, Scan>> {
    let mut found: HashMap<ScanKey, Scan> = HashMap::new();
    plan.apply_with_subqueries(|node| {
        let (scan, conditions) = match node {
            LogicalPlan::TableScan(scan) => (scan, Vec::new()),
            LogicalPlan::Filter(filter) => match filter.input.as_ref() {
                LogicalPlan::TableScan(scan) => (scan, split_conjunction(&filter.predicate)),
                _ => return Ok(TreeNodeRecursion::Continue),
            },
            _ => return Ok(TreeNodeRecursion::Continue),
        };
        let known = found.entry(key(scan)).or_insert_with(|| Scan {
            scan: scan.clone(),
            conditions: Vec::new(),
        });
        known.conditions.extend(conditions.into_iter().cloned());
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

/// The conditions that columns of folders alone decide: what they leave out is not read.
fn folder_conditions(conditions: &[Expr], provider: &dyn TableProvider) -> Vec<Expr> {
    let folders = files_of(provider).map_or(&[][..], |files| &files.options().table_partition_cols);
    let is_folder = |column: &&ColumnName| folders.iter().any(|(name, _)| *name == column.name);
    let of_folders = conditions.iter().filter(|condition| {
        let columns = condition.column_refs();
        !columns.is_empty() && columns.iter().all(is_folder)
    });
    of_folders.cloned().collect()
}

/// The names of columns by which rows are joined, and then of those by which they are grouped, of whatever table.
fn key_columns(plan: &LogicalPlan) -> Result<Vec<String>> {
    let (mut joined, mut grouped) = (Vec::new(), Vec::new());
    plan.apply_with_subqueries(|node| {
        match node {
            LogicalPlan::Join(join) => joined.extend(join.on.iter().flat_map(|(left, right)| [left, right]).cloned()),
            LogicalPlan::Aggregate(aggregate) => grouped.extend(aggregate.group_expr.iter().cloned()),
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    let keys = joined.iter().chain(&grouped).flat_map(Expr::column_refs);
    let mut seen = HashSet::new();
    let names = keys
        .map(|column| column.name.clone())
        .filter(|name| seen.insert(name.clone()));
    Ok(names.collect())
}

/// Adds to a table what some of its rows tell of its columns among `keys`, and of the conditions on it.
async fn add_samples(
    table: &mut Table,
    Scan { scan, conditions }: &Scan,
    keys: &[String],
    samples: &TableSamples<'_>,
) -> Result<()> {
    let schema = scan.source.schema();
    let columns = keys.iter().filter_map(|key| schema.index_of(key).ok());
    let columns: Vec<_> = columns.take(MOST_COLUMNS).collect();
    for sketch in samples.sketches(&columns, table.rows).await {
        if let Some(column) = table.columns.get_mut(&sketch.column) {
            column.learn(&sketch.sketch);
        }
    }
    let unknown = unknown_conditions(scan, table, conditions)?;
    if !unknown.is_empty() {
        table.tried.extend(samples.try_conditions(unknown).await);
    }
    Ok(())
}

/// The conditions whose part of the rows metadata do not tell, and rows do.
fn unknown_conditions(scan: &TableScan, table: &Table, conditions: &[Expr]) -> Result<Vec<Expr>> {
    let all = Relation::of_table(scan, table, conditions.iter().chain(&scan.filters));
    let mut unknown: Vec<Expr> = Vec::new();
    for condition in conditions.iter().chain(&scan.filters) {
        let is_answered =
            is_known(condition, &all) || unknown.contains(condition) || table.tried.contains_key(condition);
        if !is_answered && !condition.is_volatile() && !contains_subquery(condition)? {
            unknown.push(condition.clone());
        }
    }
    Ok(unknown)
}

fn describe_table(statistics: &Statistics, schema: &Schema) -> Option<Table> {
    let rows = number(&statistics.num_rows)?;
    let names = schema.fields().iter().map(|field| field.name().clone());
    let columns = statistics.column_statistics.iter().map(|column| describe(column, rows));
    Some(Table {
        rows,
        columns: names.zip(columns).collect(),
        tried: HashMap::new(),
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
        common: Arc::default(),
        unseen: 0.0,
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
