//! The list of plan nodes whose partitions may safely run in several tasks.
//!
//! A task runs some partitions of its own instance of a stage plan. The result is exact only for nodes whose partitions
//! share no state, or whose shared state is complete in each instance. A node that is not listed here runs with all its
//! partitions in one task, so that a new DataFusion node costs speed, never rows.

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

/// How the partitions of one node may be spread over tasks. A fragment is as restricted as its most restricted node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PartitionSafety {
    /// Its partitions may run in different instances.
    Independent,
    /// All its partitions run in one task; the plan below it may be cut off.
    OneTask,
    /// Unknown: the node and the plan below it run in one task, uncut.
    Opaque,
}

/// How much of a node's child a task needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildShare {
    /// The partitions that the task runs.
    Share,
    /// All partitions, in every task.
    Whole,
}

/// How the partitions of `node` may be spread over tasks.
pub fn partition_safety(node: &dyn ExecutionPlan) -> PartitionSafety {
    if is_row_by_row(node) || node.is::<ShuffleReadExec>() {
        return PartitionSafety::Independent;
    }
    if let Some(aggregate) = node.downcast_ref::<AggregateExec>() {
        return aggregate_safety(aggregate.mode());
    }
    if let Some(join) = node.downcast_ref::<HashJoinExec>() {
        return hash_join_safety(join);
    }
    if let Some(join) = node.downcast_ref::<NestedLoopJoinExec>() {
        return independent_if(build_side_is_read_only(*join.join_type()));
    }
    if let Some(sort) = node.downcast_ref::<SortExec>() {
        return independent_if(sort.preserve_partitioning());
    }
    if let Some(window) = node.downcast_ref::<BoundedWindowAggExec>() {
        return independent_if(!window.partition_keys().is_empty());
    }
    if let Some(window) = node.downcast_ref::<WindowAggExec>() {
        return independent_if(!window.partition_keys().is_empty());
    }
    if let Some(source) = node.downcast_ref::<DataSourceExec>() {
        return independent_if(source.data_source().downcast_ref::<FileScanConfig>().is_some());
    }
    if is_known_single(node) {
        return PartitionSafety::OneTask;
    }
    PartitionSafety::Opaque
}

/// How much a task needs of each child of `node`, in the order of its children.
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

/// Whether a join of this type only reads its build side, so that every task may hold all of it. The other types emit
/// build rows at the end, for which they must know the matches of all probe partitions.
pub fn build_side_is_read_only(join_type: JoinType) -> bool {
    match join_type {
        JoinType::Inner | JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => true,
        JoinType::Left | JoinType::Full | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => false,
    }
}

fn independent_if(is_independent: bool) -> PartitionSafety {
    if is_independent {
        PartitionSafety::Independent
    } else {
        PartitionSafety::OneTask
    }
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

fn aggregate_safety(mode: &AggregateMode) -> PartitionSafety {
    match mode {
        AggregateMode::Partial
        | AggregateMode::PartialReduce
        | AggregateMode::FinalPartitioned
        | AggregateMode::SinglePartitioned => PartitionSafety::Independent,
        AggregateMode::Final | AggregateMode::Single => PartitionSafety::OneTask,
    }
}

fn hash_join_safety(join: &HashJoinExec) -> PartitionSafety {
    if join.null_aware {
        return PartitionSafety::OneTask;
    }
    match join.partition_mode() {
        PartitionMode::Partitioned => PartitionSafety::Independent,
        PartitionMode::CollectLeft => independent_if(build_side_is_read_only(*join.join_type())),
        PartitionMode::Auto => PartitionSafety::OneTask,
    }
}
