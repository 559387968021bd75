//! Joins and groups are estimated, and the sides of joins are marked with the rows that are expected of them, by which the
//! physical plan builds the smaller one.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::logical_expr::{Join, LogicalPlan};

use super::cardinality::{Estimator, is_filtered_scan};
use super::expected::Expected;
use super::relation::Relation;
use crate::plan_marks::{Mark, mark};
use crate::planner::estimate::row_bytes;

/// Estimates a plan from its scans upwards, each node once.
pub(super) struct Estimates<'a> {
    estimator: Estimator<'a>,
    marks_sides: bool,
    /// What is expected of joins and groups, in no order that matters.
    pub(super) expected: Vec<Expected>,
}

impl<'a> Estimates<'a> {
    /// With `marks_sides`, both sides of each join are marked where both can be estimated: an estimate is only good beside
    /// another of its kind.
    pub(super) fn new(estimator: Estimator<'a>, marks_sides: bool) -> Self {
        Self {
            estimator,
            marks_sides,
            expected: Vec::new(),
        }
    }

    /// Gives the plan with its marks, and its own estimate.
    ///
    /// # Errors
    /// Those of building plans.
    pub(super) fn add(&mut self, plan: LogicalPlan) -> Result<(LogicalPlan, Option<Relation>)> {
        let plan = plan
            .map_subqueries(|subquery| Ok(Transformed::yes(self.add(subquery)?.0)))
            .data()?;
        let mut inputs = Vec::new();
        let plan = match is_filtered_scan(&plan) {
            true => plan,
            false => self.add_inputs(plan, &mut inputs)?,
        };
        let plan = match plan {
            LogicalPlan::Join(join) if self.marks_sides => LogicalPlan::Join(with_marks(join, &inputs)),
            other => other,
        };
        let relation = self.estimator.relation_of(&plan, inputs);
        let expected = relation.as_ref().and_then(|relation| Expected::of(&plan, relation));
        self.expected.extend(expected);
        Ok((plan, relation))
    }

    fn add_inputs(&mut self, plan: LogicalPlan, inputs: &mut Vec<Option<Relation>>) -> Result<LogicalPlan> {
        let added = plan.map_children(|input| {
            let (input, relation) = self.add(input)?;
            inputs.push(relation);
            Ok(Transformed::yes(input))
        });
        added.data()
    }
}

fn with_marks(join: Join, sides: &[Option<Relation>]) -> Join {
    let [Some(left), Some(right)] = sides else {
        return join;
    };
    let marked = |side: Arc<LogicalPlan>, relation: &Relation| {
        let estimate = Mark::estimated(relation.rows, row_bytes(side.schema().as_arrow()));
        Arc::new(mark(estimate, Arc::unwrap_or_clone(side)))
    };
    Join {
        left: marked(join.left, left),
        right: marked(join.right, right),
        ..join
    }
}
