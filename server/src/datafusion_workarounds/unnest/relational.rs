//! Joins over a domain.

use std::sync::Arc;

use datafusion::common::{Column, JoinType, Result};
use datafusion::functions::core::expr_fn::coalesce;
use datafusion::logical_expr::logical_plan::Join;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};

use super::domain::{Pushed, arranged, kept_sides, same_values};
use super::push::Pushing;

impl Pushing<'_> {
    /// A join for each value: the sides that depend on it, or whose rows it keeps, have the value beside them, and rows
    /// match where theirs is the same.
    pub(super) fn join(&self, join: &Join) -> Result<Pushed> {
        let (left_depends, right_depends) = (self.depends(&join.left)?, self.depends(&join.right)?);
        let (keeps_left, keeps_right) = kept_sides(join.join_type);
        let left_has_values = left_depends || keeps_left || (!right_depends && !keeps_right);
        let right_has_values = right_depends || keeps_right;
        let side = |plan: &Arc<LogicalPlan>, has_values| match has_values {
            true => self.push(plan),
            false => Ok(Pushed {
                plan: LogicalPlan::clone(plan),
                outer: Vec::new(),
            }),
        };
        let left = side(&join.left, left_has_values)?;
        let right = side(&join.right, right_has_values)?;
        let visible = match left_has_values {
            true => &left.outer,
            false => &right.outer,
        };
        let same = match left_has_values && right_has_values {
            true => same_values(&left.outer, &right.outer, left.plan.schema()),
            false => None,
        };
        let filter = join.filter.clone().map(|filter| self.replaced(filter, visible));
        let filter = [filter.transpose()?, same].into_iter().flatten().reduce(Expr::and);
        let on = join.on.iter().map(|(left, right)| {
            let replaced = |side: &Expr| self.replaced(side.clone(), visible);
            Ok((replaced(left)?, replaced(right)?))
        });
        let on = on.collect::<Result<Vec<_>>>()?;
        let sides = Sides {
            left_columns: join.left.schema().fields().len(),
            left_values: left.outer.len(),
            right_columns: join.right.schema().fields().len(),
        };
        let joined = LogicalPlan::Join(Join::try_new(
            Arc::new(left.plan),
            Arc::new(right.plan),
            on,
            filter,
            join.join_type,
            join.join_constraint,
            join.null_equality,
            join.null_aware,
        )?);
        let positions = sides.positions(&joined, join.join_type);
        match join.join_type {
            JoinType::Full => self.either_value(joined, join, &positions, &left.outer, &right.outer),
            _ => {
                let outer = if keeps_right { &right.outer } else { visible };
                let plan = arranged(joined, &join.schema, &positions, outer)?;
                Ok(self.last_columns(plan))
            }
        }
    }

    /// The value of the side that has a row.
    fn either_value(
        &self,
        joined: LogicalPlan,
        join: &Join,
        positions: &[usize],
        left: &[Column],
        right: &[Column],
    ) -> Result<Pushed> {
        let name = self.domain.names.next("__outer");
        let own = positions.iter().enumerate().map(|(number, position)| {
            let column = Expr::Column(Column::from(joined.schema().qualified_field(*position)));
            let (qualifier, field) = join.schema.qualified_field(number);
            column.alias_qualified(qualifier.cloned(), field.name())
        });
        let values = left.iter().zip(right).enumerate().map(|(number, (left, right))| {
            let either = coalesce(vec![Expr::Column(left.clone()), Expr::Column(right.clone())]);
            either.alias(format!("{name}_{number}"))
        });
        let columns: Vec<_> = own.chain(values).collect();
        let plan = LogicalPlanBuilder::from(joined).project(columns)?.build()?;
        Ok(self.last_columns(plan))
    }
}

/// How many columns the sides of a join have.
struct Sides {
    left_columns: usize,
    left_values: usize,
    right_columns: usize,
}

impl Sides {
    /// Where the columns of the planned join are among those of the join with values.
    fn positions(&self, joined: &LogicalPlan, join_type: JoinType) -> Vec<usize> {
        let last = joined.schema().fields().len().checked_sub(1);
        let left = 0..self.left_columns;
        let after_left = self.left_columns + self.left_values;
        let right = after_left..after_left + self.right_columns;
        match join_type {
            JoinType::LeftSemi | JoinType::LeftAnti => left.collect(),
            JoinType::LeftMark => left.chain(last).collect(),
            JoinType::RightSemi | JoinType::RightAnti => (0..self.right_columns).collect(),
            JoinType::RightMark => (0..self.right_columns).chain(last).collect(),
            JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full => left.chain(right).collect(),
        }
    }
}
