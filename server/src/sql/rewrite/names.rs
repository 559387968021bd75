//! The names of a query's columns.
//!
//! A column without a name gets its text, as it stands in the statement: `sum(x)`, `a + 1`. DataFusion would name it by
//! its own form of the expression (`sum(t.x)`, `t.a + Int64(1)`), and without brackets.
//!
//! Two columns of one name are right in the standard, where nothing refers to them by it, but DataFusion's plans have no
//! such columns. They get a mark behind the name, which is taken off where the result is described ([`crate::planner::schema::without_mark`]).
//! Nothing that a user writes has the mark, so what refers to such a name finds no column.

use std::collections::{HashMap, HashSet};
use std::fmt::{self, Write};

use datafusion::sql::sqlparser::ast::{Distinct, Expr, Function, Ident, OrderByKind, Query, SelectItem, SetExpr};

use super::normalized;
use super::text::as_written;
use crate::planner::schema::DUPLICATE_MARK;

/// A longer text is cut.
const MAX_NAME_BYTES: usize = 200;

/// Names the columns of one SELECT.
pub(super) fn name_columns(items: &mut [SelectItem]) {
    for item in items.iter_mut() {
        if let SelectItem::UnnamedExpr(expression) = item
            && !names_itself(expression)
        {
            let alias = Ident::with_quote('"', text(expression));
            let expr = std::mem::replace(expression, Expr::Identifier(Ident::new("")));
            *item = SelectItem::ExprWithAlias { expr, alias };
        }
    }
    mark_duplicates(items);
}

/// Orders by a column where ORDER BY repeats its expression: after SELECT DISTINCT there is nothing else to order by.
pub(super) fn name_order(query: &mut Query) {
    let (SetExpr::Select(select), Some(order)) = (query.body.as_mut(), &mut query.order_by) else {
        return;
    };
    let OrderByKind::Expressions(order) = &mut order.kind else {
        return;
    };
    if !matches!(select.distinct, Some(Distinct::Distinct)) {
        return;
    }
    name_columns(&mut select.projection);
    for by in order.iter_mut().filter(|by| !names_itself(&by.expr)) {
        let written = text(&by.expr);
        let column = select.projection.iter().find_map(|item| match item {
            SelectItem::ExprWithAlias { expr, alias } if text(expr) == written => Some(alias.clone()),
            _ => None,
        });
        if let Some(column) = column {
            by.expr = Expr::Identifier(column);
        }
    }
}

/// Columns keep their names, with what tells from which table they are; and several columns may come of UNNEST.
fn names_itself(expression: &Expr) -> bool {
    match expression {
        Expr::Identifier(_) | Expr::CompoundIdentifier(_) => true,
        Expr::Function(Function { name, .. }) => name.to_string().eq_ignore_ascii_case("unnest"),
        _ => false,
    }
}

/// Columns of two tables are told apart by the tables, unless another column has their name alone.
fn mark_duplicates(items: &mut [SelectItem]) {
    let mut columns = HashMap::<String, Vec<usize>>::new();
    for (number, item) in items.iter().enumerate() {
        if let Some(name) = name_of(item).filter(|name| !name.contains(DUPLICATE_MARK)) {
            columns.entry(name).or_default().push(number);
        }
    }
    for (name, numbers) in columns.into_iter().filter(|(_, numbers)| numbers.len() > 1) {
        let paths: HashSet<_> = numbers.iter().filter_map(|number| path_of(&items[*number])).collect();
        if paths.len() == numbers.len() {
            continue;
        }
        for number in numbers {
            let (SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = &items[number] else {
                continue;
            };
            let alias = Ident::with_quote('"', format!("{name}{DUPLICATE_MARK}{number}"));
            items[number] = SelectItem::ExprWithAlias {
                expr: expr.clone(),
                alias,
            };
        }
    }
}

/// The name of a column of the result.
fn name_of(item: &SelectItem) -> Option<String> {
    match item {
        SelectItem::UnnamedExpr(Expr::Identifier(name)) => Some(normalized(name)),
        SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => parts.last().map(normalized),
        SelectItem::ExprWithAlias { alias, .. } => Some(normalized(alias)),
        _ => None,
    }
}

/// The name of a table's column, with the table.
fn path_of(item: &SelectItem) -> Option<Vec<String>> {
    match item {
        SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => Some(parts.iter().map(normalized).collect()),
        _ => None,
    }
}

/// The expression as SQL, cut where it is long.
fn text(expression: &Expr) -> String {
    let mut text = Cut(String::new());
    let text = match write!(text, "{expression}") {
        Ok(()) => text.0,
        Err(fmt::Error) => text.0 + "...",
    };
    as_written(text)
}

/// A text that takes no more than [`MAX_NAME_BYTES`], so that long expressions are not written out at each level.
struct Cut(String);

impl Write for Cut {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        for character in part.chars() {
            if self.0.len() + character.len_utf8() > MAX_NAME_BYTES {
                return Err(fmt::Error);
            }
            self.0.push(character);
        }
        Ok(())
    }
}
