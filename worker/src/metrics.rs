//! The metrics of an attempt, operator by operator.

use std::collections::BTreeSet;

use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::physical_plan::display::DisplayableExecutionPlan;
use datafusion::physical_plan::metrics::{MetricValue, MetricsSet};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use squadron_proto::control::OperatorMetrics;
use squadron_shuffle::FETCHED_BYTES;
use squadron_shuffle::plan_nodes::file_scan;

use crate::meter::Meter;
use crate::spilling::{LateInputExec, SpillingJoinExec};
use crate::yielding::YieldExec;

/// Limit of each text about an operator, in characters: IN lists and file lists would get longer.
const TEXT_LIMIT: usize = 1_000;

/// Limit of the operators of a plan.
const OPERATORS_LIMIT: usize = 500;

/// The metrics of a plan that has run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct PlanMetrics {
    /// In pre-order.
    pub(crate) operators: Vec<OperatorMetrics>,
    /// Bytes that operators wrote to disk.
    pub(crate) spilled_bytes: u64,
    /// Bytes that scans read from files.
    pub(crate) scanned_bytes: u64,
    /// Bytes fetched from other workers.
    pub(crate) fetched_bytes: u64,
}

/// Collects the metrics of `plan`.
pub(crate) fn collect(plan: &dyn ExecutionPlan) -> PlanMetrics {
    let mut metrics = PlanMetrics::default();
    visit(Metered { plan, meter: None }, 0, &mut metrics);
    metrics
}

/// An operator, and what was counted of the rows that it gave out.
#[derive(Clone, Copy)]
struct Metered<'a> {
    plan: &'a dyn ExecutionPlan,
    meter: Option<&'a Meter>,
}

impl<'a> Metered<'a> {
    /// Skips the nodes that the attempt added and that only pass rows on.
    fn new(mut plan: &'a dyn ExecutionPlan) -> Self {
        let mut meter = None;
        loop {
            if let Some(yielding) = plan.downcast_ref::<YieldExec>() {
                meter = Some(yielding.meter());
                plan = yielding.input().as_ref();
            } else if let Some(input) = plan.downcast_ref::<LateInputExec>().and_then(LateInputExec::input) {
                plan = input.as_ref();
            } else {
                return Self { plan, meter };
            }
        }
    }

    fn inputs(self) -> impl Iterator<Item = Metered<'a>> {
        self.plan
            .children()
            .into_iter()
            .map(|child| Metered::new(child.as_ref()))
    }

    /// The rows of each partition.
    fn rows(self, counted: &MetricsSet) -> Vec<u64> {
        if let Some(meter) = self.meter {
            return meter.rows();
        }
        let mut rows = vec![0; self.plan.output_partitioning().partition_count()];
        for metric in counted.iter() {
            let partition = metric.partition().and_then(|partition| rows.get_mut(partition));
            if let (MetricValue::OutputRows(count), Some(partition)) = (metric.value(), partition) {
                *partition += count.value() as u64;
            }
        }
        rows
    }

    /// Its own part of the polls, or what it has measured itself: operators compute in tasks of their own, too, which
    /// nobody above them polls.
    fn busy_ns(self, counted: &MetricsSet) -> u64 {
        let inputs: u64 = self.inputs().map(Metered::polled_ns).sum();
        let measured = counted.elapsed_compute().unwrap_or(0) as u64;
        self.polled_ns().saturating_sub(inputs).max(measured)
    }

    fn polled_ns(self) -> u64 {
        self.meter.map_or(0, Meter::polled_ns)
    }
}

fn visit(operator: Metered<'_>, depth: u32, metrics: &mut PlanMetrics) {
    let counted = operator.plan.metrics().unwrap_or_default();
    let spilled = counted.spilled_bytes().unwrap_or(0) as u64;
    let scanned = scanned_bytes(operator.plan, &counted);
    let fetched = count(&counted, FETCHED_BYTES).unwrap_or(0);
    metrics.spilled_bytes += spilled;
    metrics.scanned_bytes += scanned;
    metrics.fetched_bytes += fetched;
    if metrics.operators.len() < OPERATORS_LIMIT {
        let rows = operator.rows(&counted);
        metrics.operators.push(OperatorMetrics {
            depth,
            operator: one_line(&describe(operator.plan)),
            rows: rows.iter().sum(),
            busy_ns: operator.busy_ns(&counted),
            read_bytes: scanned + fetched,
            spilled_bytes: spilled,
            partitions: u32::try_from(rows.len()).unwrap_or(u32::MAX),
            largest_partition_rows: rows.iter().copied().max().unwrap_or(0),
            details: one_line(&details(operator.plan, counted)),
        });
    }
    for input in operator.inputs() {
        visit(input, depth + 1, metrics);
    }
}

/// The bytes that a Parquet scan has counted itself; for other formats, the sizes of the scan's files.
fn scanned_bytes(plan: &dyn ExecutionPlan, counted: &MetricsSet) -> u64 {
    let files = || {
        let groups = &file_scan(plan)?.file_groups;
        let files = groups.iter().flat_map(|group| group.files());
        Some(files.map(|file| file.effective_size()).sum())
    };
    count(counted, "bytes_scanned").or_else(files).unwrap_or(0)
}

/// The metric called `name`, summed over all partitions.
fn count(set: &MetricsSet, name: &str) -> Option<u64> {
    set.sum_by_name(name).map(|sum| sum.as_usize() as u64)
}

/// What an operator does. Scans name the format, the folder, the columns and the condition; their files are a detail.
fn describe(plan: &dyn ExecutionPlan) -> String {
    match (file_scan(plan), plan.downcast_ref::<SpillingJoinExec>()) {
        (Some(scan), _) => describe_scan(scan),
        (None, Some(spilling)) => displayed(spilling.join()),
        (None, None) => displayed(plan),
    }
}

fn displayed(plan: &dyn ExecutionPlan) -> String {
    DisplayableExecutionPlan::new(plan).one_line().to_string()
}

fn describe_scan(scan: &FileScanConfig) -> String {
    let source = scan.file_source();
    let mut text = format!("DataSourceExec: {} {}", source.file_type(), location(scan));
    if let Ok(schema) = scan.projected_schema() {
        let columns: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        text.push_str(&format!(", columns=[{}]", columns.join(", ")));
    }
    if let Some(filter) = source.filter() {
        text.push_str(&format!(", filter={filter}"));
    }
    if let Some(limit) = scan.limit {
        text.push_str(&format!(", limit={limit}"));
    }
    text
}

/// The folder of a scan and its file, `*` for several, and nothing of the folders above: `lineitem/*`.
fn location(scan: &FileScanConfig) -> String {
    let files = scan.file_groups.iter().flat_map(|group| group.files());
    let paths: BTreeSet<&str> = files.map(|file| file.object_meta.location.as_ref()).collect();
    let Some(first) = paths.first() else {
        return "no file".into();
    };
    let (folder, file) = first.rsplit_once('/').unwrap_or(("", first));
    let in_folder = |path: &&str| path.rsplit_once('/').map_or("", |(folder, _)| folder) == folder;
    let file = if paths.len() == 1 { file } else { "*" };
    match folder.rsplit('/').next() {
        Some(folder) if !folder.is_empty() && paths.iter().all(in_folder) => format!("{folder}/{file}"),
        _ => file.into(),
    }
}

/// What an operator has counted itself, after what its description left out.
fn details(plan: &dyn ExecutionPlan, counted: MetricsSet) -> String {
    let shown = |counted: MetricsSet| {
        counted
            .aggregate_by_name()
            .sorted_for_display()
            .timestamps_removed()
            .to_string()
    };
    let counted = match plan.downcast_ref::<SpillingJoinExec>().map(SpillingJoinExec::join) {
        Some(join) => format!("{}, {}", shown(join.metrics().unwrap_or_default()), shown(counted)),
        None => shown(counted),
    };
    match file_scan(plan) {
        Some(_) => format!("{}, {counted}", displayed(plan).trim_end()),
        None => counted,
    }
}

/// A bounded text without line breaks, which names and constants may hold.
fn one_line(text: &str) -> String {
    let printable = |character: char| if character.is_control() { ' ' } else { character };
    text.trim_end().chars().take(TEXT_LIMIT).map(printable).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{Int64Array, RecordBatch};
    use datafusion::arrow::datatypes::{DataType, Field, Schema};
    use datafusion::common::ScalarValue;
    use datafusion::datasource::memory::MemorySourceConfig;
    use datafusion::execution::TaskContext;
    use datafusion::logical_expr::Operator;
    use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};
    use datafusion::physical_plan::empty::EmptyExec;
    use datafusion::physical_plan::execute_stream;
    use datafusion::physical_plan::filter::FilterExec;
    use futures::TryStreamExt;

    use super::*;
    use crate::yielding::with_yields;

    #[test]
    fn operator_prints_one_bounded_line() {
        let schema = Arc::new(Schema::new(vec![Field::new("name", DataType::Utf8, true)]));
        let long = format!("two\nlines {}", "x".repeat(2 * TEXT_LIMIT));
        let predicate = BinaryExpr::new(
            Arc::new(Column::new("name", 0)),
            Operator::Eq,
            Arc::new(Literal::new(ScalarValue::Utf8(Some(long)))),
        );
        let empty = Arc::new(EmptyExec::new(schema));
        let plan = FilterExec::try_new(Arc::new(predicate), empty).unwrap();

        let operators = collect(&plan).operators;

        assert_eq!(operators.len(), 2);
        assert!(operators[0].operator.starts_with("FilterExec: name@0 = two lines"));
        assert_eq!(operators[0].operator.chars().count(), TEXT_LIMIT);
        assert!(operators[1].operator.starts_with("EmptyExec"));
        assert_eq!((operators[0].depth, operators[1].depth), (0, 1));
    }

    /// Also for operators that count nothing themselves, such as a source in memory.
    #[tokio::test]
    async fn rows_are_counted_by_partition() {
        let rows = |count: i64| {
            let numbers = Int64Array::from_iter_values(0..count);
            RecordBatch::try_from_iter([("n", Arc::new(numbers) as _)]).unwrap()
        };
        let partitions = [vec![rows(30), rows(10)], vec![rows(2)]];
        let source = MemorySourceConfig::try_new_exec(&partitions, rows(0).schema(), None).unwrap();
        let below_20 = BinaryExpr::new(
            Arc::new(Column::new("n", 0)),
            Operator::Lt,
            Arc::new(Literal::new(ScalarValue::Int64(Some(20)))),
        );
        let filter = FilterExec::try_new(Arc::new(below_20), source).unwrap();
        let plan = with_yields(Arc::new(filter)).unwrap();
        let stream = execute_stream(Arc::clone(&plan), Arc::new(TaskContext::default())).unwrap();
        let _: Vec<_> = stream.try_collect().await.unwrap();

        let operators = collect(plan.as_ref()).operators;

        let counted =
            |operator: &OperatorMetrics| (operator.rows, operator.partitions, operator.largest_partition_rows);
        let counted: Vec<_> = operators.iter().map(counted).collect();
        assert_eq!(counted, [(32, 2, 30), (42, 2, 40)]);
        assert!(operators[1].busy_ns > 0);
    }
}
