//! `GROUP BY` in forms that DataFusion 55.2's planner does not take.
//!
//! | as written | becomes |
//! |---|---|
//! | `GROUP BY ()`, `HAVING` without aggregates | `GROUP BY GROUPING SETS (())` |
//! | `GROUPING SETS (ROLLUP (a, b), c)` | `GROUPING SETS ((a, b), (a), (), (c))`, and so for `CUBE` |
//! | `ROLLUP (1)` | `ROLLUP (a)`, with the first column of the select list |

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, GroupByExpr, Select, SelectItem, Value, Visit, Visitor};
use squadron_proto::{Failure, FailureKind};

use super::plain_arguments;

/// The columns of a CUBE within GROUPING SETS, which makes two to that number of sets.
const MAX_CUBE: usize = 10;

/// Rewrites the groups of one SELECT.
pub(super) fn rewrite_groups(select: &mut Select) -> ControlFlow<Failure> {
    let GroupByExpr::Expressions(keys, _) = &mut select.group_by else {
        return ControlFlow::Continue(());
    };
    if keys.is_empty() {
        let is_one_group = select.having.is_some() && !calls(&select.projection) && !calls(&select.having);
        if is_one_group {
            keys.push(Expr::GroupingSets(vec![Vec::new()]));
        }
        return ControlFlow::Continue(());
    }
    for key in keys {
        match key {
            Expr::Tuple(columns) if columns.is_empty() => *key = Expr::GroupingSets(vec![Vec::new()]),
            Expr::GroupingSets(sets) => {
                let mut flat = Vec::with_capacity(sets.len());
                for set in std::mem::take(sets) {
                    extend(&mut flat, set)?;
                }
                *sets = flat;
                by_name(sets, &select.projection)?;
            }
            Expr::Rollup(sets) | Expr::Cube(sets) => by_name(sets, &select.projection)?,
            _ => {}
        }
    }
    ControlFlow::Continue(())
}

/// Whether two keys are one but for a cast, which DataFusion's names leave out.
pub(super) fn has_keys_that_differ_by_casts(select: &Select) -> bool {
    let GroupByExpr::Expressions(keys, _) = &select.group_by else {
        return false;
    };
    let keys = keys.iter().map(|key| match number_of(key) {
        Some(number) => column_of(number, &select.projection).unwrap_or(key),
        None => key,
    });
    let keys: Vec<&Expr> = keys.collect();
    let is_cast = |key: &&Expr| matches!(key, Expr::Cast { .. });
    keys.iter().filter(|key| is_cast(key)).any(|cast| {
        let others = keys.iter().filter(|other| other != &cast);
        others
            .into_iter()
            .any(|other| without_casts(other) == without_casts(cast))
    })
}

fn without_casts(expression: &Expr) -> &Expr {
    match expression {
        Expr::Cast { expr, .. } | Expr::Nested(expr) => without_casts(expr),
        other => other,
    }
}

/// Whether something calls a function, which may be an aggregate.
fn calls(part: &impl Visit) -> bool {
    struct Calls;
    impl Visitor for Calls {
        type Break = ();

        fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<()> {
            match expression {
                Expr::Function(_) => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        }
    }
    part.visit(&mut Calls).is_break()
}

/// Adds a set, or those that a ROLLUP or CUBE in its place stands for.
fn extend(flat: &mut Vec<Vec<Expr>>, set: Vec<Expr>) -> ControlFlow<Failure> {
    let [Expr::Function(function)] = set.as_slice() else {
        flat.push(set);
        return ControlFlow::Continue(());
    };
    let name = function.name.to_string().to_ascii_lowercase();
    let columns = match name.as_str() {
        "rollup" | "cube" => plain_arguments(function),
        _ => None,
    };
    let Some(columns) = columns else {
        flat.push(set);
        return ControlFlow::Continue(());
    };
    let columns: Vec<Vec<Expr>> = columns.into_iter().map(as_set).collect();
    let together = |columns: &[Vec<Expr>]| columns.iter().flatten().cloned().collect::<Vec<_>>();
    if name == "rollup" {
        flat.extend((0..=columns.len()).rev().map(|length| together(&columns[..length])));
        return ControlFlow::Continue(());
    }
    if columns.len() > MAX_CUBE {
        return invalid(format!("a CUBE within GROUPING SETS takes at most {MAX_CUBE} columns"));
    }
    for members in (0..1_usize << columns.len()).rev() {
        let chosen = columns
            .iter()
            .enumerate()
            .filter(|(index, _)| members >> index & 1 == 1);
        flat.push(chosen.flat_map(|(_, column)| column.clone()).collect());
    }
    ControlFlow::Continue(())
}

fn as_set(column: Expr) -> Vec<Expr> {
    match column {
        Expr::Tuple(columns) => columns,
        column => vec![column],
    }
}

/// Puts columns of the select list in the place of their numbers.
fn by_name(sets: &mut [Vec<Expr>], columns: &[SelectItem]) -> ControlFlow<Failure> {
    for column in sets.iter_mut().flatten() {
        let Some(number) = number_of(column) else {
            continue;
        };
        match column_of(number, columns) {
            Some(named) => *column = named.clone(),
            None => {
                return invalid(format!(
                    "GROUP BY {column} is no expression of the select list; write the column itself"
                ));
            }
        }
    }
    ControlFlow::Continue(())
}

/// The number by which a key names a column of the select list.
fn number_of(key: &Expr) -> Option<usize> {
    match key {
        Expr::Value(value) => match &value.value {
            Value::Number(number, _) => number.parse().ok(),
            _ => None,
        },
        _ => None,
    }
}

fn column_of(number: usize, columns: &[SelectItem]) -> Option<&Expr> {
    match columns.get(number.checked_sub(1)?)? {
        SelectItem::UnnamedExpr(column) | SelectItem::ExprWithAlias { expr: column, .. } => Some(column),
        _ => None,
    }
}

fn invalid(message: String) -> ControlFlow<Failure> {
    ControlFlow::Break(Failure::new(FailureKind::Invalid, message))
}
