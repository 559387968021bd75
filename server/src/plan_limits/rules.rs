//! Checkpoints between DataFusion's passes over a plan.

use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::{AnalyzerRule, OptimizerConfig, OptimizerRule};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;

/// Ends the planning of a statement that nobody waits for, or whose time or memory is used up.
#[derive(Debug)]
struct Checkpoint;

const NAME: &str = "checkpoint";

impl AnalyzerRule for Checkpoint {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        super::check_plan(&plan)?;
        Ok(plan)
    }

    fn name(&self) -> &str {
        NAME
    }
}

impl OptimizerRule for Checkpoint {
    fn name(&self) -> &str {
        NAME
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        super::check()?;
        Ok(Transformed::no(plan))
    }
}

impl PhysicalOptimizerRule for Checkpoint {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        super::check()?;
        Ok(plan)
    }

    fn name(&self) -> &str {
        NAME
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The same rules with checkpoints.
pub(crate) fn with_analyzer_checkpoints(
    rules: Vec<Arc<dyn AnalyzerRule + Send + Sync>>,
) -> Vec<Arc<dyn AnalyzerRule + Send + Sync>> {
    between(rules, || Arc::new(Checkpoint))
}

/// The same rules with checkpoints.
pub(crate) fn with_optimizer_checkpoints(
    rules: Vec<Arc<dyn OptimizerRule + Send + Sync>>,
) -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    between(rules, || Arc::new(Checkpoint))
}

/// The same rules with checkpoints.
pub(crate) fn with_physical_checkpoints(
    rules: Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>>,
) -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    between(rules, || Arc::new(Checkpoint))
}

fn between<T>(rules: Vec<T>, checkpoint: impl Fn() -> T) -> Vec<T> {
    rules.into_iter().flat_map(|rule| [checkpoint(), rule]).collect()
}
