//! What may fail is evaluated of the rows for which the rest of the condition has not decided yet.
//!
//! DataFusion 55.2 evaluates both sides of AND and OR for whole batches (apache/datafusion#8927), merges the conditions of
//! views and of those who read them, and makes AND and OR of a `CASE` of booleans. `WHERE n <> 0 AND 10 / n > 4` then
//! divides by zero. Here the parts of a condition that cannot fail come first, and guard those that can:
//!
//! | where | condition | becomes |
//! |---|---|---|
//! | WHERE, ON | `safe AND risky` | `safe AND CASE WHEN safe THEN risky ELSE false END` |
//! | elsewhere | `safe AND risky` | `CASE WHEN safe IS FALSE THEN false ELSE safe AND risky END` |
//! | everywhere | `safe OR risky` | `CASE WHEN safe IS TRUE THEN true ELSE safe OR risky END` |
//!
//! In the first form `safe` stays a condition of its own, by which scans prune. The rule runs once, after the optimizer,
//! which would take such a `CASE` apart.

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::expr::{Case, Cast, ScalarFunction};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, lit};

use super::balance::{conditions_of, tree};
use super::opaque::is_narrower;
use crate::plan_limits::expressions::{contains_subquery, rewrite_node};

/// With more risky parts than this, none guards another.
const GUARDED_PARTS: usize = 8;

/// Functions of which no value of their types is refused.
const NEVER_FAIL: [&str; 35] = [
    "array_has",
    "array_length",
    "btrim",
    "canonical",
    "cardinality",
    "ceil",
    "character_length",
    "clean",
    "coalesce",
    "concat",
    "contains",
    "date_part",
    "date_trunc",
    "ends_with",
    "floor",
    "get_field",
    "hold",
    "in_zone",
    "isnan",
    "left",
    "lower",
    "ltrim",
    "make_array",
    "named_struct",
    "nullif",
    "octet_length",
    "regexp_like",
    "reverse",
    "right",
    "row_key",
    "rtrim",
    "starts_with",
    "strpos",
    "struct",
    "upper",
];

/// The optimized plan with guarded conditions.
///
/// # Errors
/// Those of DataFusion about types.
pub(crate) fn guard(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_down_with_subqueries(|node| match node {
        // What a scan is asked to leave out is a condition above it too.
        LogicalPlan::TableScan(_) => Ok(Transformed::no(node)),
        LogicalPlan::Filter(_) => rewrite_node(node, condition),
        LogicalPlan::Join(mut join) => {
            let Some(filter) = join.filter.take() else {
                return Ok(Transformed::no(LogicalPlan::Join(join)));
            };
            let schema = merge_schema(&[join.left.as_ref(), join.right.as_ref()]);
            let filter = condition(filter, &schema)?;
            Ok(filter.update_data(|filter| {
                join.filter = Some(filter);
                LogicalPlan::Join(join)
            }))
        }
        other => rewrite_node(other, within),
    })
    .data()
}

/// A condition that rows pass where it is true: false and NULL are one.
fn condition(predicate: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let parts = Parts::of(predicate, Operator::And, schema)?;
    if !parts.need_guards()? {
        return Ok(parts.together());
    }
    let (safe, risky) = parts.split();
    let otherwise = || lit(false);
    let risky = risky
        .into_iter()
        .rev()
        .reduce(|then, first| when(first, then, otherwise()));
    Ok(Transformed::yes(match (safe, risky) {
        (Some(safe), Some(risky)) => safe.clone().and(when(safe, risky, otherwise())),
        (all, None) | (None, all) => all.unwrap_or_else(|| lit(true)),
    }))
}

/// The expression with the chains of AND and OR in it guarded.
fn within(expression: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    expression.transform_down(|part| match part {
        Expr::BinaryExpr(BinaryExpr {
            op: op @ (Operator::And | Operator::Or),
            ..
        }) => {
            let chain = chain(part, op, schema)?;
            Ok(Transformed::new(chain.data, chain.transformed, TreeNodeRecursion::Jump))
        }
        other => Ok(Transformed::no(other)),
    })
}

fn chain(expression: Expr, op: Operator, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let parts = Parts::of(expression, op, schema)?;
    if !parts.need_guards()? {
        return Ok(parts.together());
    }
    let decided = |first: Expr, then: Expr| match op {
        Operator::And => when(first.clone().is_false(), lit(false), first.and(then)),
        _ => when(first.clone().is_true(), lit(true), first.or(then)),
    };
    let (safe, risky) = parts.split();
    let guarded = safe
        .into_iter()
        .chain(risky)
        .rev()
        .reduce(|then, first| decided(first, then));
    Ok(Transformed::yes(guarded.unwrap_or_else(|| lit(op == Operator::And))))
}

fn when(condition: Expr, then: Expr, otherwise: Expr) -> Expr {
    Expr::Case(Case {
        expr: None,
        when_then_expr: vec![(Box::new(condition), Box::new(then))],
        else_expr: Some(Box::new(otherwise)),
    })
}

/// The operands of a chain of one operator, what is in them guarded, and whether they may fail.
struct Parts {
    op: Operator,
    parts: Vec<(Expr, bool)>,
    is_new: bool,
}

impl Parts {
    fn of(chain: Expr, op: Operator, schema: &DFSchema) -> Result<Self> {
        let mut parts = Vec::new();
        let mut is_new = false;
        for part in conditions_of(chain, op) {
            let part = within(part, schema)?;
            is_new |= part.transformed;
            let may_fail = may_fail(&part.data, schema)?;
            parts.push((part.data, may_fail));
        }
        Ok(Self { op, parts, is_new })
    }

    /// Whether one part can guard another. It is evaluated twice then, which must not be seen.
    fn need_guards(&self) -> Result<bool> {
        if self.parts.len() < 2 || !self.parts.iter().any(|(_, may_fail)| *may_fail) {
            return Ok(false);
        }
        for (part, _) in &self.parts {
            if part.is_volatile() || contains_subquery(part)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The chain as it was.
    fn together(self) -> Transformed<Expr> {
        let parts = self.parts.into_iter().map(|(part, _)| part).collect();
        Transformed::new_transformed(tree(parts, self.op), self.is_new)
    }

    /// Those that cannot fail in one, and the others: one by one where they are few.
    fn split(self) -> (Option<Expr>, Vec<Expr>) {
        let (risky, safe): (Vec<_>, Vec<_>) = self.parts.into_iter().partition(|(_, may_fail)| *may_fail);
        let parts = |parts: Vec<(Expr, bool)>| parts.into_iter().map(|(part, _)| part).collect::<Vec<_>>();
        let (safe, mut risky) = (parts(safe), parts(risky));
        if risky.len() > GUARDED_PARTS {
            risky = vec![tree(risky, self.op)];
        }
        ((!safe.is_empty()).then(|| tree(safe, self.op)), risky)
    }
}

/// Whether the expression may be an error for values of its columns.
fn may_fail(expression: &Expr, schema: &DFSchema) -> Result<bool> {
    expression.exists(|part| {
        Ok(match part {
            Expr::BinaryExpr(BinaryExpr {
                op: Operator::Divide | Operator::Modulo,
                right,
                ..
            }) => !is_divisor(right) && !part.get_type(schema)?.is_floating(),
            Expr::Cast(Cast { expr, field }) => {
                let (from, to) = (expr.get_type(schema)?, field.data_type());
                (from.is_string() && !to.is_string()) || is_narrower(&from, to)
            }
            Expr::ScalarFunction(ScalarFunction { func, args }) => {
                let is_constant = args.iter().all(|arg| matches!(arg, Expr::Literal(..)));
                !is_constant && !NEVER_FAIL.contains(&func.name())
            }
            _ => false,
        })
    })
}

/// Whether the literal divides every number.
fn is_divisor(expression: &Expr) -> bool {
    match expression {
        Expr::Literal(value, _) => {
            !value.is_null() && ScalarValue::new_zero(&value.data_type()).is_ok_and(|zero| *value != zero)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use datafusion::arrow::datatypes::{DataType, Field};
    use datafusion::logical_expr::{cast, col};

    use super::*;

    fn schema() -> DFSchema {
        let fields = [("n", DataType::Int64), ("x", DataType::Float64), ("t", DataType::Utf8)];
        let fields = fields.map(|(name, data_type)| Field::new(name, data_type, true));
        DFSchema::from_unqualified_fields(fields.to_vec().into(), HashMap::new()).unwrap()
    }

    fn quotient() -> Expr {
        (lit(10_i64) / col("n")).gt(lit(4_i64))
    }

    #[test]
    fn what_may_fail_is_known() {
        let risky = [
            quotient(),
            (col("n") % col("n")).eq(lit(1_i64)),
            cast(col("t"), DataType::Int64).eq(lit(1_i64)),
            cast(col("n"), DataType::Int8).eq(lit(1_i8)),
        ];
        let safe = [
            col("n").not_eq(lit(0_i64)),
            (col("n") / lit(3_i64)).eq(lit(1_i64)),
            (lit(1.0) / col("x")).gt(lit(1.0)),
            cast(col("n"), DataType::Float64).eq(col("x")),
            col("t").like(lit("1%")),
        ];
        for expression in risky {
            assert!(may_fail(&expression, &schema()).unwrap(), "{expression}");
        }
        for expression in safe {
            assert!(!may_fail(&expression, &schema()).unwrap(), "{expression}");
        }
    }

    #[test]
    fn safe_parts_of_filters_stay_conditions_of_their_own() {
        let safe = col("n").not_eq(lit(0_i64));
        let guarded = condition(quotient().and(safe.clone()), &schema()).unwrap();
        let expected = safe.clone().and(when(safe.clone(), quotient(), lit(false)));
        assert_eq!(guarded.data, expected);
        let unchanged = condition(safe.clone().and(col("t").like(lit("1%"))), &schema()).unwrap();
        assert!(!unchanged.transformed);
        let chains = within(col("n").eq(lit(0_i64)).or(quotient()), &schema()).unwrap();
        assert_eq!(
            chains.data.to_string(),
            "CASE WHEN n = Int64(0) IS TRUE THEN Boolean(true) ELSE n = Int64(0) OR Int64(10) / n > Int64(4) END"
        );
    }

    #[test]
    fn long_chains_stay_flat() {
        let parts = (0..1000_i64).map(|number| (lit(number) / col("n")).eq(lit(1_i64)));
        let long = tree(parts.chain([col("n").gt(lit(0_i64))]).collect(), Operator::Or);
        let guarded = within(long, &schema()).unwrap();
        let Expr::Case(case) = guarded.data else {
            panic!("{} has no guard", guarded.data);
        };
        assert_eq!(conditions_of(*case.else_expr.unwrap(), Operator::Or).len(), 1001);
    }
}
