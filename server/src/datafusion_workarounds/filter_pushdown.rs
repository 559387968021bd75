//! Filters stay above nodes in which the name of a column could mean another one.
//!
//! DataFusion 55.2 pushes filters of a physical plan down by the *names* of columns, those that it makes at run time as well
//! (apache/datafusion#21246, mended by #25259; #25244, #25296). Above a join of two tables that share a name, a filter on a
//! column of one side becomes one on that of the other: rows are lost or invented. The rule runs only on the parts of a plan
//! that have no such node; filters of the logical plan, which is pushed down by the columns themselves, stand where they
//! belong by then.
//!
//! A filter whose producer and consumer are later cut into different stages is never filled, which costs pruning alone.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::arrow::datatypes::Schema;
use datafusion::common::JoinType;
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::joins::HashJoinExec;
use datafusion::physical_plan::union::{InterleaveExec, UnionExec};
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

/// Whether, anywhere in the plan, the name of an output column could find another column of an input.
fn has_ambiguous_node(plan: &dyn ExecutionPlan) -> bool {
    has_duplicate_names(&plan.schema())
        || plan.downcast_ref::<HashJoinExec>().is_some_and(semi_join_is_ambiguous)
        || plan.downcast_ref::<AggregateExec>().is_some_and(aggregate_is_ambiguous)
        || (plan.is::<UnionExec>() || plan.is::<InterleaveExec>()) && union_is_ambiguous(plan)
        || plan
            .children()
            .into_iter()
            .any(|child| has_ambiguous_node(child.as_ref()))
}

fn has_duplicate_names(schema: &Schema) -> bool {
    let mut seen = HashSet::new();
    schema.fields().iter().any(|field| !seen.insert(field.name()))
}

/// A semi join pushes filters on the keys of one side to the other side too, under the names of the first.
fn semi_join_is_ambiguous(join: &HashJoinExec) -> bool {
    join.on().iter().any(|(left, right)| match join.join_type() {
        JoinType::LeftSemi => finds_another(left, &join.right().schema(), right),
        JoinType::RightSemi => finds_another(right, &join.left().schema(), left),
        _ => false,
    })
}

fn aggregate_is_ambiguous(aggregate: &AggregateExec) -> bool {
    let input = aggregate.input().schema();
    aggregate
        .group_expr()
        .expr()
        .iter()
        .any(|(expr, name)| name_finds_another(name, &input, expr))
}

/// The columns of a union stand for those of its inputs by position.
fn union_is_ambiguous(plan: &dyn ExecutionPlan) -> bool {
    let output = plan.schema();
    plan.children().into_iter().any(|child| {
        let input = child.schema();
        output
            .fields()
            .iter()
            .enumerate()
            .any(|(position, field)| input.index_of(field.name()).is_ok_and(|found| found != position))
    })
}

fn finds_another(named: &Arc<dyn PhysicalExpr>, schema: &Schema, meant: &Arc<dyn PhysicalExpr>) -> bool {
    named
        .downcast_ref::<Column>()
        .is_some_and(|column| name_finds_another(column.name(), schema, meant))
}

/// Whether `name` exists in `schema` as a column other than `meant`.
fn name_finds_another(name: &str, schema: &Schema, meant: &Arc<dyn PhysicalExpr>) -> bool {
    schema.index_of(name).is_ok_and(|found| {
        meant
            .downcast_ref::<Column>()
            .is_none_or(|column| column.index() != found)
    })
}
