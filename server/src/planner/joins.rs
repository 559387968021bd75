//! Joins that emit unmatched build rows cannot have a copy of the build side in every task: each task would emit them.
//! Where DataFusion chose a collected build side for such a join, both sides are hashed instead, so that each task
//! joins its own keys.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExprRef;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, Partitioning};
use squadron_shuffle::fragment::partition_safety::build_side_is_read_only;

/// Rewrites the joins of `plan` that would otherwise tie all their partitions to one task.
pub(crate) fn spread_joins(plan: Arc<dyn ExecutionPlan>, partitions: usize) -> Result<Arc<dyn ExecutionPlan>> {
    plan.transform_up(|node| {
        let spread = match node.downcast_ref::<HashJoinExec>() {
            Some(join) if should_spread(join)? => Some(hash_both_sides(join, partitions)?),
            Some(_) | None => None,
        };
        Ok(spread.map_or_else(|| Transformed::no(node), Transformed::yes))
    })
    .data()
}

fn should_spread(join: &HashJoinExec) -> Result<bool> {
    Ok(*join.partition_mode() == PartitionMode::CollectLeft
        && !build_side_is_read_only(*join.join_type())
        && !join.null_aware
        // With one probe partition there is nothing to spread, and the nodes above were planned for one.
        && join.right().output_partitioning().partition_count() > 1
        && keys_have_equal_types(join)?)
}

/// The hash of a value depends on its type, so both sides of a key must have the same type.
fn keys_have_equal_types(join: &HashJoinExec) -> Result<bool> {
    let (left, right) = (join.left().schema(), join.right().schema());
    for (left_key, right_key) in join.on() {
        if left_key.data_type(&left)? != right_key.data_type(&right)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn hash_both_sides(join: &HashJoinExec, partitions: usize) -> Result<Arc<dyn ExecutionPlan>> {
    let (left_keys, right_keys): (Vec<_>, Vec<_>) = join.on().iter().cloned().unzip();
    let left = repartition_by_hash(strip_coalesce(join.left()), left_keys, partitions)?;
    let right = repartition_by_hash(Arc::clone(join.right()), right_keys, partitions)?;
    join.builder()
        .with_partition_mode(PartitionMode::Partitioned)
        .with_new_children(vec![left, right])?
        .recompute_properties()
        .reset_state()
        .build_exec()
}

fn strip_coalesce(plan: &Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    match plan.downcast_ref::<CoalescePartitionsExec>() {
        Some(coalesce) if coalesce.fetch().is_none() => Arc::clone(coalesce.input()),
        Some(_) | None => Arc::clone(plan),
    }
}

fn repartition_by_hash(
    plan: Arc<dyn ExecutionPlan>,
    keys: Vec<PhysicalExprRef>,
    partitions: usize,
) -> Result<Arc<dyn ExecutionPlan>> {
    Ok(Arc::new(RepartitionExec::try_new(
        plan,
        Partitioning::Hash(keys, partitions),
    )?))
}
