//! The values that a subquery takes from the rows around it.

use std::cell::Cell;

use datafusion::common::tree_node::TreeNode;
use datafusion::common::{Column, DFSchema, ExprSchema, JoinType, Result};
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Operator, binary_expr};

use super::repeatable::require_repeatable;
use crate::plan_limits::expressions::contains_subquery;

/// Makes names that no other part of a plan has.
#[derive(Debug, Default)]
pub(in super::super) struct Names {
    made: Cell<usize>,
}

impl Names {
    /// `prefix` with a number.
    pub(in super::super) fn next(&self, prefix: &str) -> String {
        self.made.set(self.made.get() + 1);
        format!("{prefix}_{}", self.made.get())
    }
}

/// The rows around a subquery, and the columns of them that it names.
pub(super) struct Domain<'a> {
    rows: LogicalPlan,
    pub(super) columns: Vec<Column>,
    pub(super) names: &'a Names,
}

/// A plan that computes a subquery for all values of a domain at once.
pub(super) struct Pushed {
    /// The columns of the subquery, then those of `outer`.
    pub(super) plan: LogicalPlan,
    /// The columns that hold the values that a row was computed for, in the order of the domain.
    pub(super) outer: Vec<Column>,
}

impl<'a> Domain<'a> {
    /// # Errors
    /// When `rows` might be others when they are computed once more.
    pub(super) fn of(rows: &LogicalPlan, columns: Vec<Column>, names: &'a Names) -> Result<Self> {
        let rows = with_columns(rows, &columns)?;
        if !columns.is_empty() {
            require_repeatable(&rows, &columns)?;
        }
        Ok(Self { rows, columns, names })
    }

    /// The distinct values, under names of their own each time; one row without columns where there are none.
    pub(super) fn values(&self) -> Result<Pushed> {
        let alias = self.names.next("__outer");
        let names: Vec<_> = (0..self.columns.len())
            .map(|number| format!("{alias}_{number}"))
            .collect();
        if names.is_empty() {
            let plan = LogicalPlanBuilder::empty(true).build()?;
            return Ok(Pushed {
                plan,
                outer: Vec::new(),
            });
        }
        let columns = self.columns.iter().cloned().map(Expr::Column);
        let columns = columns.zip(&names).map(|(column, name)| column.alias(name));
        let plan = LogicalPlanBuilder::from(self.rows.clone())
            .project(columns)?
            .distinct()?
            .alias(alias.as_str())?
            .build()?;
        let outer = names.into_iter().map(|name| Column::new(Some(alias.clone()), name));
        Ok(Pushed {
            plan,
            outer: outer.collect(),
        })
    }
}

/// The part of `rows` that has the columns, with all values that they have in `rows`, and perhaps more: of a join one side,
/// so that no other is computed twice.
fn with_columns(rows: &LogicalPlan, columns: &[Column]) -> Result<LogicalPlan> {
    let has_all = |side: &LogicalPlan| columns.iter().all(|column| side.schema().has_column(column));
    match rows {
        LogicalPlan::Join(join) => {
            // Beside rows that are kept, those of the other side may be NULL, which that side by itself does not have.
            let (keeps_left, keeps_right) = kept_sides(join.join_type);
            match () {
                () if !keeps_right && has_all(&join.left) => with_columns(&join.left, columns),
                // A LATERAL subquery is no table by itself.
                () if !keeps_left && has_all(&join.right) && !has_lateral(&join.right)? => {
                    with_columns(&join.right, columns)
                }
                () => Ok(rows.clone()),
            }
        }
        LogicalPlan::Filter(filter) if matches!(*filter.input, LogicalPlan::Join(_)) => {
            let part = with_columns(&filter.input, columns)?;
            if part.schema().fields().len() == filter.input.schema().fields().len() {
                return Ok(rows.clone());
            }
            let mut conditions = Vec::new();
            for condition in split_conjunction(&filter.predicate) {
                let mut names = condition.column_refs().into_iter();
                if names.all(|column| part.schema().has_column(column)) && !contains_subquery(condition)? {
                    conditions.push(condition.clone());
                }
            }
            match conjunction(conditions) {
                Some(condition) => LogicalPlanBuilder::from(part).filter(condition)?.build(),
                None => Ok(part),
            }
        }
        _ => Ok(rows.clone()),
    }
}

/// The sides whose rows a join keeps where no row matches, or of which alone it gives rows.
pub(super) fn kept_sides(join_type: JoinType) -> (bool, bool) {
    match join_type {
        JoinType::Inner => (false, false),
        JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => (true, false),
        JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => (false, true),
        JoinType::Full => (true, true),
    }
}

fn has_lateral(side: &LogicalPlan) -> Result<bool> {
    side.exists(|node| Ok(matches!(node, LogicalPlan::Subquery(_))))
}

/// The condition that two lists of columns hold the same values, NULL included. `schema` has the first list.
pub(super) fn same_values(columns: &[Column], others: &[Column], schema: &DFSchema) -> Option<Expr> {
    let same = columns.iter().zip(others).map(|(column, other)| {
        // Plain equality makes better plans.
        let is_nullable = schema
            .field_from_column(column)
            .map_or(true, |field| field.is_nullable());
        let op = if is_nullable {
            Operator::IsNotDistinctFrom
        } else {
            Operator::Eq
        };
        binary_expr(Expr::Column(column.clone()), op, Expr::Column(other.clone()))
    });
    same.reduce(Expr::and)
}

/// The columns of `plan` at `positions` under the names of `original`, then `outer`.
pub(super) fn arranged(
    plan: LogicalPlan,
    original: &DFSchema,
    positions: &[usize],
    outer: &[Column],
) -> Result<LogicalPlan> {
    let mut columns = Vec::with_capacity(positions.len() + outer.len());
    for (number, position) in positions.iter().enumerate() {
        let column = Column::from(plan.schema().qualified_field(*position));
        let (qualifier, field) = original.qualified_field(number);
        let is_named = column.relation.as_ref() == qualifier && column.name == *field.name();
        let expression = Expr::Column(column);
        columns.push(match is_named {
            true => expression,
            false => expression.alias_qualified(qualifier.cloned(), field.name()),
        });
    }
    columns.extend(outer.iter().cloned().map(Expr::Column));
    let is_in_place = positions
        .iter()
        .enumerate()
        .all(|(number, position)| number == *position);
    let has_all = columns.len() == plan.schema().fields().len();
    if is_in_place && has_all && columns.iter().all(|column| matches!(column, Expr::Column(_))) {
        return Ok(plan);
    }
    LogicalPlanBuilder::from(plan).project(columns)?.build()
}
