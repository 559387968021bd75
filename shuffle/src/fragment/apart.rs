//! The list of plan nodes known to be safe in several tasks.
//!
//! A task runs some partitions of its own instance of a stage plan. That is exact only for nodes whose partitions share
//! no state, or share state in a way that each instance holds alone. Everything that is not listed here runs with all
//! its partitions in one task, so that a new DataFusion node costs speed, never rows.

use datafusion::common::JoinType;
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PartitionMode, SortMergeJoinExec,
};
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::scalar_subquery::ScalarSubqueryExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::union::{InterleaveExec, UnionExec};
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};

use crate::{ShuffleReadExec, WriteFilesExec};

/// How a node may be spread over tasks, by itself; a fragment is as free as its least free node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Apart {
    /// Its partitions may run in different instances.
    Free,
    /// All its partitions run in one task; what is below it may be cut off.
    OneTask,
    /// Unknown: it and all below it run in one task, uncut.
    Opaque,
}

/// Which children of a node every task needs whole, and which it needs its share of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildShare {
    /// The partitions that the task runs.
    Share,
    /// All partitions, in every task.
    Whole,
}

/// The verdict on one node.
pub fn apart(node: &dyn ExecutionPlan) -> Apart {
    if is_row_by_row(node) || node.is::<ShuffleReadExec>() {
        return Apart::Free;
    }
    if let Some(aggregate) = node.downcast_ref::<AggregateExec>() {
        return aggregate_apart(aggregate.mode());
    }
    if let Some(join) = node.downcast_ref::<HashJoinExec>() {
        return hash_join_apart(join);
    }
    if let Some(join) = node.downcast_ref::<NestedLoopJoinExec>() {
        return free_if(build_side_is_read_only(*join.join_type()));
    }
    if let Some(sort) = node.downcast_ref::<SortExec>() {
        return free_if(sort.preserve_partitioning());
    }
    if let Some(window) = node.downcast_ref::<BoundedWindowAggExec>() {
        return free_if(!window.partition_keys().is_empty());
    }
    if let Some(window) = node.downcast_ref::<WindowAggExec>() {
        return free_if(!window.partition_keys().is_empty());
    }
    if let Some(source) = node.downcast_ref::<DataSourceExec>() {
        return free_if(source.data_source().downcast_ref::<FileScanConfig>().is_some());
    }
    if is_known_single(node) {
        return Apart::OneTask;
    }
    Apart::Opaque
}

/// What a task needs of each child of `node`, in the order of its children.
pub fn child_shares(node: &dyn ExecutionPlan) -> Vec<ChildShare> {
    let children = node.children().len();
    let first_is_whole = node.is::<CrossJoinExec>()
        || node.is::<NestedLoopJoinExec>()
        || node
            .downcast_ref::<HashJoinExec>()
            .is_some_and(|join| *join.partition_mode() == PartitionMode::CollectLeft);
    (0..children)
        .map(|child| {
            let subquery = child > 0 && node.is::<ScalarSubqueryExec>();
            if subquery || (first_is_whole && child == 0) {
                ChildShare::Whole
            } else {
                ChildShare::Share
            }
        })
        .collect()
}

/// Whether a join of this type only reads its build side, so that every task may hold the whole of it. The other types
/// emit build rows at the end, which needs to know what all probe partitions matched.
pub fn build_side_is_read_only(join_type: JoinType) -> bool {
    match join_type {
        JoinType::Inner | JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => true,
        JoinType::Left | JoinType::Full | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => false,
    }
}

fn free_if(free: bool) -> Apart {
    if free { Apart::Free } else { Apart::OneTask }
}

fn is_row_by_row(node: &dyn ExecutionPlan) -> bool {
    node.is::<FilterExec>()
        || node.is::<ProjectionExec>()
        || node.is::<UnnestExec>()
        || node.is::<CooperativeExec>()
        || node.is::<LocalLimitExec>()
        || node.is::<UnionExec>()
        || node.is::<InterleaveExec>()
        || node.is::<CrossJoinExec>()
        || node.is::<SortMergeJoinExec>()
        || node.is::<EmptyExec>()
        || node.is::<ScalarSubqueryExec>()
        // Each partition writes files of its own.
        || node.is::<WriteFilesExec>()
}

fn is_known_single(node: &dyn ExecutionPlan) -> bool {
    node.is::<CoalescePartitionsExec>()
        || node.is::<SortPreservingMergeExec>()
        || node.is::<GlobalLimitExec>()
        || node.is::<RepartitionExec>()
        || node.is::<PlaceholderRowExec>()
}

fn aggregate_apart(mode: &AggregateMode) -> Apart {
    match mode {
        AggregateMode::Partial
        | AggregateMode::PartialReduce
        | AggregateMode::FinalPartitioned
        | AggregateMode::SinglePartitioned => Apart::Free,
        AggregateMode::Final | AggregateMode::Single => Apart::OneTask,
    }
}

fn hash_join_apart(join: &HashJoinExec) -> Apart {
    if join.null_aware {
        return Apart::OneTask;
    }
    match join.partition_mode() {
        PartitionMode::Partitioned => Apart::Free,
        PartitionMode::CollectLeft => free_if(build_side_is_read_only(*join.join_type())),
        PartitionMode::Auto => Apart::OneTask,
    }
}
