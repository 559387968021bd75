//! Comparisons of rows, such as `(a, b) = (c, d)` and `(a, b) IN (SELECT c, d ...)`, value by value.
//!
//! A comparison of rows is NULL where NULLs decide it: `(1, NULL) = (1, 2)` is NULL, `(1, NULL) = (2, 2)` is false.

use datafusion::sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CaseWhen, Expr, Query, Select, SetExpr, TableFactor, UnaryOperator, Value,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

use super::{binary, null};

/// Replaces the rows of `(a, b) IN (SELECT ...)` in WHERE where NULL means the same as false, so that a join answers it.
pub(super) fn join_members(select: &mut Select) {
    if let Some(condition) = &mut select.selection {
        join_member(condition);
    }
}

fn join_member(condition: &mut Expr) {
    match condition {
        Expr::BinaryOp {
            left,
            op: BinaryOperator::And,
            right,
        } => {
            join_member(left);
            join_member(right);
        }
        Expr::Nested(inner) => join_member(inner),
        Expr::InSubquery {
            expr,
            subquery,
            negated: false,
        } => {
            if let Expr::Tuple(values) = expr.as_ref()
                && let Some(exists) = exists(values, subquery, std::convert::identity)
            {
                *condition = exists;
            }
        }
        _ => {}
    }
}

/// A comparison of rows as comparisons of their values; none where `expression` is something else.
pub(super) fn compared(expression: &mut Expr) -> Option<Expr> {
    match expression {
        Expr::BinaryOp { left, op, right } => match (left.as_mut(), right.as_mut()) {
            (Expr::Tuple(left), Expr::Tuple(right)) => compare(left, op, right),
            _ => None,
        },
        Expr::InList { expr, list, negated } => {
            let Expr::Tuple(values) = expr.as_ref() else {
                return None;
            };
            let equal = list.iter().map(|row| match row {
                Expr::Tuple(row) => compare(values, &BinaryOperator::Eq, row),
                _ => None,
            });
            let equal = equal.collect::<Option<Vec<_>>>()?.into_iter();
            let any = equal.reduce(|left, right| binary(left, BinaryOperator::Or, right))?;
            Some(negated_if(*negated, nested(any)))
        }
        Expr::InSubquery {
            expr,
            subquery,
            negated,
        } => {
            let Expr::Tuple(values) = expr.as_ref() else {
                return None;
            };
            let found = exists(values, subquery, std::convert::identity)?;
            let unknown = exists(values, subquery, |equal| Expr::IsNull(Box::new(equal)))?;
            let case = |condition, result| CaseWhen { condition, result };
            Some(Expr::Case {
                case_token: AttachedToken::empty(),
                end_token: AttachedToken::empty(),
                operand: None,
                conditions: vec![case(found, boolean(!*negated)), case(unknown, null())],
                else_result: Some(Box::new(boolean(*negated))),
            })
        }
        _ => None,
    }
}

fn compare(left: &[Expr], op: &BinaryOperator, right: &[Expr]) -> Option<Expr> {
    if left.len() != right.len() || left.is_empty() {
        return None;
    }
    let pairs = || left.iter().cloned().zip(right.iter().cloned());
    let equal = |(left, right)| binary(nested(left), BinaryOperator::Eq, nested(right));
    let all = || {
        pairs()
            .map(equal)
            .reduce(|left, right| binary(left, BinaryOperator::And, right))
    };
    Some(match op {
        BinaryOperator::Eq => nested(all()?),
        BinaryOperator::NotEq => negated_if(true, nested(all()?)),
        BinaryOperator::Lt | BinaryOperator::LtEq => ordered(pairs().collect(), &BinaryOperator::Lt, op)?,
        BinaryOperator::Gt | BinaryOperator::GtEq => ordered(pairs().collect(), &BinaryOperator::Gt, op)?,
        _ => return None,
    })
}

/// `a < c OR (a = c AND (b < d ...))`, with `last` between the last values.
fn ordered(pairs: Vec<(Expr, Expr)>, op: &BinaryOperator, last: &BinaryOperator) -> Option<Expr> {
    let mut ordered: Option<Expr> = None;
    for (left, right) in pairs.into_iter().rev() {
        let (left, right) = (nested(left), nested(right));
        ordered = Some(nested(match ordered {
            None => binary(left, last.clone(), right),
            Some(rest) => {
                let before = binary(left.clone(), op.clone(), right.clone());
                let same = binary(binary(left, BinaryOperator::Eq, right), BinaryOperator::And, rest);
                binary(before, BinaryOperator::Or, nested(same))
            }
        }));
    }
    ordered
}

/// `EXISTS (SELECT 1 FROM (subquery) AS t(x, y) WHERE ...)`, with what `condition` makes of the row being equal.
fn exists(values: &[Expr], subquery: &Query, condition: impl Fn(Expr) -> Expr) -> Option<Expr> {
    let names: Vec<_> = (0..values.len()).map(|number| format!("__row_{number}")).collect();
    let template = format!("SELECT 1 FROM (SELECT 1) AS __row({})", names.join(", "));
    let mut query = Parser::new(&GenericDialect {})
        .try_with_sql(&template)
        .ok()?
        .parse_query()
        .ok()?;
    let SetExpr::Select(select) = query.body.as_mut() else {
        return None;
    };
    let TableFactor::Derived { subquery: rows, .. } = &mut select.from.first_mut()?.relation else {
        return None;
    };
    **rows = subquery.clone();
    let columns: Vec<_> = names
        .into_iter()
        .map(|name| Expr::Identifier(name.as_str().into()))
        .collect();
    select.selection = Some(condition(compare(&columns, &BinaryOperator::Eq, values)?));
    Some(Expr::Exists {
        subquery: query,
        negated: false,
    })
}

fn negated_if(negated: bool, condition: Expr) -> Expr {
    match negated {
        true => Expr::UnaryOp {
            op: UnaryOperator::Not,
            expr: Box::new(condition),
        },
        false => condition,
    }
}

fn nested(expression: Expr) -> Expr {
    match expression {
        plain @ (Expr::Identifier(_) | Expr::CompoundIdentifier(_) | Expr::Value(_) | Expr::Nested(_)) => plain,
        other => Expr::Nested(Box::new(other)),
    }
}

fn boolean(value: bool) -> Expr {
    Expr::Value(Value::Boolean(value).into())
}
