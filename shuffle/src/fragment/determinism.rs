//! Whether another attempt at a task gives the same rows.
//!
//! When output is lost, some of its readers may have read it, and others read what another attempt gives. That is right
//! only if both are the same rows in the same partitions, in any order. Only plans of which that is known count as
//! determinate: a node that is not listed here costs work when a worker is lost, never rows.
//!
//! Not determinate are volatile functions, anything that takes the first rows that arrive (a limit, a top of equal keys),
//! windows, aggregates whose result depends on the order of their input (floating point sums, `first_value`,
//! `array_agg`), and the names of written files.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::JoinType;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr_common::physical_expr::is_volatile;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PartitionMode, SortMergeJoinExec,
};
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::scalar_subquery::ScalarSubqueryExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::union::{InterleaveExec, UnionExec};
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, Partitioning};

use super::partition_safety::build_side_is_read_only;
use crate::{ShuffleReadExec, ShuffleWriteExec, WritePartitioning};

/// How the rows of two runs of a plan over the same input differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Difference {
    /// Each partition has the same rows, in any order.
    None,
    /// All partitions together have the same rows.
    Placement,
    /// The rows may differ.
    Rows,
}

/// Whether each attempt at a task gives the same rows in each partition, when its inputs do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Determinism {
    /// Yes.
    Determinate,
    /// Yes, if the partitions of a scan do not take files from each other; see [`FIXED_FILES`].
    WithFixedFiles,
    /// No, or not known.
    Indeterminate,
}

/// The setting under which the partitions of a scan read their own files alone.
pub const FIXED_FILES: (&str, &str) = ("datafusion.execution.enable_file_stream_work_stealing", "false");

/// Whether a stage plan, which ends in a shuffle write, gives the same rows whenever a task of it runs.
pub fn determinism(plan: &dyn ExecutionPlan) -> Determinism {
    if is_determinate(plan, Files::Stolen) {
        Determinism::Determinate
    } else if is_determinate(plan, Files::Fixed) {
        Determinism::WithFixedFiles
    } else {
        Determinism::Indeterminate
    }
}

/// Whether the partitions of a scan take files from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Files {
    Stolen,
    Fixed,
}

fn is_determinate(plan: &dyn ExecutionPlan, files: Files) -> bool {
    let Some(write) = plan.downcast_ref::<ShuffleWriteExec>() else {
        return false;
    };
    let children = plan.children();
    let [input] = children.as_slice() else {
        return false;
    };
    match (write.partitioning(), difference(input.as_ref(), files)) {
        (_, Difference::Rows) => false,
        (WritePartitioning::Hash { exprs, .. }, _) => !exprs.iter().any(is_volatile),
        (WritePartitioning::Identity, Difference::None) => true,
        (WritePartitioning::Identity, Difference::Placement) => input.output_partitioning().partition_count() == 1,
    }
}

fn difference(plan: &dyn ExecutionPlan, files: Files) -> Difference {
    // What comes first is taken, and that differs.
    if plan.fetch().is_some() || has_volatile_expression(plan) {
        return Difference::Rows;
    }
    let children = plan.children();
    let inputs = children.into_iter().map(|child| difference(child.as_ref(), files));
    let inputs = inputs.max().unwrap_or(Difference::None);
    let own = own_difference(plan, files);
    let combined = own.max(inputs);
    match combined {
        // With one partition there is one place for a row; a hash places equal rows alike.
        Difference::Placement if plan.output_partitioning().partition_count() == 1 || is_hash(plan) => Difference::None,
        other => other,
    }
}

fn is_hash(plan: &dyn ExecutionPlan) -> bool {
    let repartition = plan.downcast_ref::<RepartitionExec>();
    repartition.is_some_and(|repartition| matches!(repartition.partitioning(), Partitioning::Hash(..)))
}

fn own_difference(plan: &dyn ExecutionPlan, files: Files) -> Difference {
    if is_row_by_row(plan) || plan.is::<ShuffleReadExec>() || plan.is::<SortExec>() || is_merge(plan) || is_hash(plan) {
        return Difference::None;
    }
    if plan.is::<RepartitionExec>() {
        return Difference::Placement;
    }
    if let Some(source) = plan.downcast_ref::<DataSourceExec>() {
        let is_known = source.data_source().downcast_ref::<FileScanConfig>().is_some();
        return match files {
            _ if !is_known => Difference::Rows,
            Files::Stolen => Difference::Placement,
            Files::Fixed => Difference::None,
        };
    }
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
        let is_exact = aggregate.limit_options().is_none() && aggregate.aggr_expr().iter().all(|expr| is_exact(expr));
        return if is_exact { Difference::None } else { Difference::Rows };
    }
    join_difference(plan).unwrap_or(Difference::Rows)
}

fn is_row_by_row(plan: &dyn ExecutionPlan) -> bool {
    plan.is::<FilterExec>()
        || plan.is::<ProjectionExec>()
        || plan.is::<UnnestExec>()
        || plan.is::<CooperativeExec>()
        || plan.is::<UnionExec>()
        || plan.is::<InterleaveExec>()
        || plan.is::<EmptyExec>()
        || plan.is::<PlaceholderRowExec>()
        || plan.is::<ScalarSubqueryExec>()
}

fn is_merge(plan: &dyn ExecutionPlan) -> bool {
    plan.is::<CoalescePartitionsExec>() || plan.is::<SortPreservingMergeExec>()
}

/// Of a join that collects one side, any partition may emit the rows of that side that found no match.
fn join_difference(plan: &dyn ExecutionPlan) -> Option<Difference> {
    let collected = |join_type: JoinType| match build_side_is_read_only(join_type) {
        true => Difference::None,
        false => Difference::Placement,
    };
    if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
        return Some(match join.partition_mode() {
            PartitionMode::Partitioned => Difference::None,
            PartitionMode::CollectLeft | PartitionMode::Auto => collected(*join.join_type()),
        });
    }
    if let Some(join) = plan.downcast_ref::<NestedLoopJoinExec>() {
        return Some(collected(*join.join_type()));
    }
    (plan.is::<CrossJoinExec>() || plan.is::<SortMergeJoinExec>()).then_some(Difference::None)
}

fn is_exact(aggregate: &AggregateFunctionExpr) -> bool {
    is_exact_aggregate(aggregate.fun().name(), aggregate.field().data_type())
}

/// Whether the aggregate function of that name, whose values have that type, gives the same value in whatever order its rows
/// come.
pub fn is_exact_aggregate(function: &str, values: &DataType) -> bool {
    match function {
        "count" | "bool_and" | "bool_or" | "bit_and" | "bit_or" | "bit_xor" | "approx_distinct" | "grouping" => true,
        "sum" | "min" | "max" | "avg" => !values.is_floating() && !values.is_nested(),
        _ => false,
    }
}

fn has_volatile_expression(plan: &dyn ExecutionPlan) -> bool {
    let mut found = false;
    let mut look = |expr: &Arc<dyn PhysicalExpr>| {
        found |= is_volatile(expr);
        Ok(match found {
            true => TreeNodeRecursion::Stop,
            false => TreeNodeRecursion::Continue,
        })
    };
    let walked = plan.apply_expressions(&mut look);
    found || walked.is_err()
}
