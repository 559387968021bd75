//! Rows are sorted once more where DataFusion 55.2 cannot tell that they are in order.
//!
//! It moves a sort below `UNION ALL`, and leaves out keys that are constants on one side or columns that are equal on the
//! other; of the union it then knows the first key alone, and its last check refuses the plan.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::physical_expr::LexOrdering;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, ExecutionPlan, ExecutionPlanProperties, ReplaceChildrenOptions,
};

/// Sorts the inputs of nodes whose order is not known to be the one that they need.
#[derive(Debug)]
pub(super) struct SortAgain;

impl PhysicalOptimizerRule for SortAgain {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            let mut is_new = false;
            let mut inputs = Vec::new();
            for (child, needed) in node.children().into_iter().zip(node.required_input_ordering()) {
                let needed = needed.map(|needed| needed.into_single());
                let input = match needed {
                    Some(needed)
                        if !child
                            .equivalence_properties()
                            .ordering_satisfy_requirement(needed.clone())? =>
                    {
                        is_new = true;
                        sorted(child, LexOrdering::from(needed))
                    }
                    _ => Arc::clone(child),
                };
                inputs.push(input);
            }
            if !is_new {
                return Ok(Transformed::no(node));
            }
            let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
            node.replace_children(inputs, options).map(Transformed::yes)
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "SortAgain"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn sorted(input: &Arc<dyn ExecutionPlan>, order: LexOrdering) -> Arc<dyn ExecutionPlan> {
    let has_partitions = input.output_partitioning().partition_count() > 1;
    Arc::new(SortExec::new(order, Arc::clone(input)).with_preserve_partitioning(has_partitions))
}
