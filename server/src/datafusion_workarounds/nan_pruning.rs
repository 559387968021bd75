//! Row groups are not left out for a condition that NaN may fulfil.
//!
//! The statistics of a Parquet file leave NaN out, as the format says, and DataFusion 55.2 compares with them as if they
//! bounded every value: `x > 1.5` skips row groups whose NaN is greater than all numbers (apache/datafusion#24804, #15812).
//! The filter above the scan reads such rows, so the scan's own copy of the condition goes; where rows are filtered within
//! the scan, it keeps the condition and prunes nothing.

use std::sync::Arc;

use datafusion::arrow::datatypes::Schema;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::datasource::memory::DataSourceExec;
use datafusion::datasource::physical_plan::{FileScanConfigBuilder, FileSource, ParquetSource};
use datafusion::error::Result;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::{PhysicalExpr, conjunction, split_conjunction};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::scalar::ScalarValue;

/// Takes conditions that NaN may fulfil from the scans of a plan.
#[derive(Debug)]
pub(super) struct PruneWithoutNan;

impl PhysicalOptimizerRule for PruneWithoutNan {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            let safe = node.downcast_ref::<DataSourceExec>().and_then(without_nan);
            Ok(match safe {
                Some(scan) => Transformed::yes(scan),
                None => Transformed::no(node),
            })
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "PruneWithoutNan"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The scan with the conditions that are safe; none where all are.
fn without_nan(scan: &DataSourceExec) -> Option<Arc<dyn ExecutionPlan>> {
    let (config, source) = scan.downcast_to_file_source::<ParquetSource>()?;
    let predicate = source.filter()?;
    let schema = config.file_source().table_schema().table_schema();
    let conditions = split_conjunction(&predicate);
    let safe: Vec<_> = conditions
        .iter()
        .filter(|condition| is_safe(condition, schema))
        .collect();
    if safe.len() == conditions.len() {
        return None;
    }
    let mut options = source.table_parquet_options().clone();
    let source = if options.global.pushdown_filters {
        options.global.pruning = false;
        options.global.enable_page_index = false;
        options.global.bloom_filter_on_read = false;
        source.clone().with_table_parquet_options(options)
    } else {
        source.with_predicate(conjunction(safe.into_iter().map(|condition| Arc::clone(condition))))
    };
    let config = FileScanConfigBuilder::from(config.clone())
        .with_source(Arc::new(source))
        .build();
    Some(DataSourceExec::from_data_source(config))
}

/// Whether NaN does not fulfil the condition, or no float is in it. NaN is greater than every number.
fn is_safe(condition: &Arc<dyn PhysicalExpr>, schema: &Schema) -> bool {
    let is_float = |column: &Column| {
        let field = schema.fields().get(column.index());
        field.is_none_or(|field| field.data_type().is_floating())
    };
    if !collect_columns(condition).iter().any(is_float) {
        return true;
    }
    let Some(comparison) = condition.downcast_ref::<BinaryExpr>() else {
        return false;
    };
    let is_column = |side: &Arc<dyn PhysicalExpr>| side.is::<Column>();
    match comparison.op() {
        Operator::Lt | Operator::LtEq | Operator::Eq => is_column(comparison.left()) && is_number(comparison.right()),
        Operator::Gt | Operator::GtEq => is_number(comparison.left()) && is_column(comparison.right()),
        _ => false,
    }
}

fn is_number(side: &Arc<dyn PhysicalExpr>) -> bool {
    side.downcast_ref::<Literal>()
        .is_some_and(|literal| match literal.value() {
            ScalarValue::Float64(Some(value)) => !value.is_nan(),
            ScalarValue::Float32(Some(value)) => !value.is_nan(),
            ScalarValue::Float16(Some(value)) => !value.is_nan(),
            _ => false,
        })
}
