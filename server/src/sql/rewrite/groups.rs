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

/// The columns of a CUBE within GROUPING SETS, which makes two to that number of sets, and of a ROLLUP there.
const MAX_CUBE: usize = 10;
const MAX_ROLLUP: usize = 64;

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

/// How many sets an element of GROUPING SETS stands for.
pub(in super::super) fn sets_of(set: &[Expr]) -> u64 {
    match nested(set) {
        Some((Nested::Rollup, columns)) => columns.len() as u64 + 1,
        Some((Nested::Cube, columns)) => 1_u64.checked_shl(columns.len() as u32).unwrap_or(u64::MAX),
        None => 1,
    }
}

/// Whether two keys are one but for a cast, which DataFusion's names leave out.
pub(super) fn has_keys_that_differ_by_casts(select: &Select) -> bool {
    let GroupByExpr::Expressions(keys, _) = &select.group_by else {
        return false;
    };
    let keys = keys.iter().flat_map(|key| match key {
        Expr::GroupingSets(sets) | Expr::Rollup(sets) | Expr::Cube(sets) => sets.iter().flatten().collect(),
        key => vec![key],
    });
    let keys = keys.map(|key| match number_of(key) {
        Some(number) => column_of(number, &select.projection).unwrap_or(key),
        None => key,
    });
    let keys: Vec<&Expr> = keys.collect();
    let is_cast = |key: &&Expr| matches!(key, Expr::Cast { .. });
    keys.iter().filter(|key| is_cast(key)).any(|cast| {
        let mut others = keys.iter().filter(|other| other != &cast);
        others.any(|other| without_casts(other) == without_casts(cast))
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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Nested {
    Rollup,
    Cube,
}

/// A ROLLUP or CUBE in the place of a set, which the parser takes for a call, and its columns.
fn nested(set: &[Expr]) -> Option<(Nested, Vec<Expr>)> {
    let [Expr::Function(function)] = set else {
        return None;
    };
    let kind = match function.name.to_string().to_ascii_lowercase().as_str() {
        "rollup" => Nested::Rollup,
        "cube" => Nested::Cube,
        _ => return None,
    };
    Some((kind, plain_arguments(function)?))
}

/// Adds a set, or those that a ROLLUP or CUBE in its place stands for.
fn extend(flat: &mut Vec<Vec<Expr>>, set: Vec<Expr>) -> ControlFlow<Failure> {
    let Some((kind, columns)) = nested(&set) else {
        flat.push(set);
        return ControlFlow::Continue(());
    };
    let columns: Vec<Vec<Expr>> = columns.into_iter().map(as_set).collect();
    match kind {
        Nested::Rollup if columns.len() > MAX_ROLLUP => {
            return invalid(format!(
                "a ROLLUP within GROUPING SETS takes at most {MAX_ROLLUP} columns"
            ));
        }
        Nested::Rollup => {
            let lengths = (0..=columns.len()).rev();
            flat.extend(lengths.map(|length| columns[..length].concat()));
        }
        Nested::Cube if columns.len() > MAX_CUBE => {
            return invalid(format!("a CUBE within GROUPING SETS takes at most {MAX_CUBE} columns"));
        }
        Nested::Cube => {
            for members in (0..1_usize << columns.len()).rev() {
                let chosen = columns
                    .iter()
                    .enumerate()
                    .filter(|(index, _)| members >> index & 1 == 1);
                flat.push(chosen.flat_map(|(_, column)| column.clone()).collect());
            }
        }
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

/// The expression of this number; none behind a `*`, whose columns are not known here.
fn column_of(number: usize, columns: &[SelectItem]) -> Option<&Expr> {
    let index = number.checked_sub(1)?;
    let is_known = columns.iter().take(index).all(|item| expression_of(item).is_some());
    columns.get(index).and_then(expression_of).filter(|_| is_known)
}

fn expression_of(item: &SelectItem) -> Option<&Expr> {
    match item {
        SelectItem::UnnamedExpr(column) | SelectItem::ExprWithAlias { expr: column, .. } => Some(column),
        _ => None,
    }
}

fn invalid(message: String) -> ControlFlow<Failure> {
    ControlFlow::Break(Failure::new(FailureKind::Invalid, message))
}
