//! Filters stay above what has two columns of one name.
//!
//! DataFusion 55.2 pushes filters of a physical plan down by the *names* of columns (apache/datafusion#21246, mended by
//! #25259). Above a join of two tables that share a name, a filter on a column of one side becomes one on that of the
//! other: rows are lost or invented. The rule runs only on the parts of a plan that have no such node; filters of the
//! logical plan, which is pushed down by the columns themselves, stand where they belong by then.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::{ChildrenPropertiesMode, ExecutionPlan, ReplaceChildrenOptions};

use super::Rule;

/// DataFusion's rule, kept away from ambiguous names.
#[derive(Debug)]
pub(super) struct PushDownByUniqueNames {
    pub(super) inner: Rule,
}

impl PhysicalOptimizerRule for PushDownByUniqueNames {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        if !has_ambiguous_node(plan.as_ref()) {
            return self.inner.optimize(plan, config);
        }
        let children = plan.children().into_iter().cloned();
        let children = children
            .map(|child| self.optimize(child, config))
            .collect::<Result<Vec<_>>>()?;
        plan.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn name(&self) -> &str {
        self.inner.name()
    }

    fn schema_check(&self) -> bool {
        self.inner.schema_check()
    }
}

fn has_ambiguous_node(plan: &dyn ExecutionPlan) -> bool {
    let mut seen = HashSet::new();
    plan.schema()
        .fields()
        .iter()
        .any(|field| !seen.insert(field.name().clone()))
        || plan
            .children()
            .into_iter()
            .any(|child| has_ambiguous_node(child.as_ref()))
}
