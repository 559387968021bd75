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
//! In the first form `safe` stays a condition of its own, by which scans prune. What comes first among risky parts guards
//! the others. No part with AND or OR in it is copied, so that nested conditions do not grow. The rule runs once, after the
//! optimizer, which would take such a `CASE` apart.

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::expr::{Case, Cast, ScalarFunction};
use datafusion::logical_expr::utils::{merge_schema, split_conjunction_owned};
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, TableScan, lit};

use super::balance::{conditions_of, tree};
use super::opaque::is_narrower;
use crate::plan_limits::expressions::{contains_subquery, rewrite_node};

/// With more risky parts than this, none guards another.
const GUARDED_PARTS: usize = 8;

/// Functions of which no value of their types is refused.
const NEVER_FAIL: [&str; 36] = [
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
    "isnan",
    "left",
    "lower",
    "ltrim",
    "make_array",
    "named_struct",
    "nearest",
    "nullif",
    "octet_length",
    "reverse",
    "right",
    "row_key",
    "rtrim",
    "start_of_minute",
    "starts_with",
    "strpos",
    "struct",
    "translate",
    "upper",
];

/// Functions that fail for their later arguments alone: lengths, places and patterns.
const FAIL_BY_ARGUMENTS: [&str; 7] = ["lpad", "regexp_like", "repeat", "replace", "round", "rpad", "substr"];

/// The optimized plan with guarded conditions.
///
/// # Errors
/// Those of DataFusion about types.
pub(crate) fn guard(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_down_with_subqueries(|node| match node {
        LogicalPlan::TableScan(scan) => guard_scan(scan),
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

/// A scan may evaluate its filters for the values of partition folders, one by one.
fn guard_scan(mut scan: TableScan) -> Result<Transformed<LogicalPlan>> {
    let schema = DFSchema::try_from_qualified_schema(scan.table_name.clone(), &scan.source.schema())?;
    let filters = std::mem::take(&mut scan.filters);
    let predicate = filters.iter().cloned().reduce(Expr::and);
    let guarded = match predicate {
        Some(predicate) => condition(predicate, &schema)?,
        None => Transformed::no(lit(true)),
    };
    scan.filters = match guarded.transformed {
        true => split_conjunction_owned(guarded.data),
        false => filters,
    };
    Ok(Transformed::new_transformed(
        LogicalPlan::TableScan(scan),
        guarded.transformed,
    ))
}

/// A condition that rows pass where it is true: false and NULL are one.
fn condition(predicate: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let parts = Parts::of(predicate, Operator::And, schema)?;
    if !parts.need_guards() {
        return Ok(parts.together());
    }
    let Split { single, guard, risky } = parts.split();
    let otherwise = || lit(false);
    let risky = risky
        .into_iter()
        .rev()
        .reduce(|then, first| when(first, then, otherwise()));
    let guarded = match (guard, risky) {
        (Some(guard), Some(risky)) => Some(guard.clone().and(when(guard, risky, otherwise()))),
        (all, None) | (None, all) => all,
    };
    Ok(Transformed::yes(joined(single, guarded, Operator::And)))
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
    if !parts.need_guards() {
        return Ok(parts.together());
    }
    let decided = |first: Expr, then: Expr| match op {
        Operator::And => when(first.clone().is_false(), lit(false), first.and(then)),
        _ => when(first.clone().is_true(), lit(true), first.or(then)),
    };
    let Split { single, guard, risky } = parts.split();
    let (leaves, nested): (Vec<_>, Vec<_>) = risky.into_iter().partition(is_leaf);
    let nested = (!nested.is_empty()).then(|| tree(nested, op));
    let guarded = guard.into_iter().chain(leaves).chain(nested).rev();
    let guarded = guarded.reduce(|then, first| decided(first, then));
    Ok(Transformed::yes(joined(single, guarded, op)))
}

/// Whether the condition may be copied: it is repeatable and has no other conditions in it.
fn is_leaf(condition: &Expr) -> bool {
    let is_nested = condition.exists(|part| {
        Ok(matches!(
            part,
            Expr::Case(_)
                | Expr::BinaryExpr(BinaryExpr {
                    op: Operator::And | Operator::Or,
                    ..
                })
        ))
    });
    !is_nested.unwrap_or(true) && is_repeatable(condition).unwrap_or(false)
}

/// Whether it is not seen that the condition is evaluated twice.
fn is_repeatable(condition: &Expr) -> Result<bool> {
    Ok(!condition.is_volatile() && !contains_subquery(condition)?)
}

/// A chain of these parts, of which there is one.
fn joined(mut parts: Vec<Expr>, last: Option<Expr>, op: Operator) -> Expr {
    parts.extend(last);
    tree(parts, op)
}

fn when(condition: Expr, then: Expr, otherwise: Expr) -> Expr {
    Expr::Case(Case {
        expr: None,
        when_then_expr: vec![(Box::new(condition), Box::new(then))],
        else_expr: Some(Box::new(otherwise)),
    })
}

/// The operands of a chain of one operator, what is in them guarded.
struct Parts {
    op: Operator,
    parts: Vec<Part>,
    is_new: bool,
}

struct Part {
    condition: Expr,
    may_fail: bool,
    /// Whether it may be evaluated twice: a guard is.
    is_repeatable: bool,
}

/// The operands by what becomes of them.
struct Split {
    /// Neither guards nor guarded.
    single: Vec<Expr>,
    /// All that cannot fail.
    guard: Option<Expr>,
    /// All that may fail, in order, but divisions last.
    risky: Vec<Expr>,
}

impl Parts {
    fn of(chain: Expr, op: Operator, schema: &DFSchema) -> Result<Self> {
        let mut parts = Vec::new();
        let mut is_new = false;
        for part in conditions_of(chain, op) {
            let part = within(part, schema)?;
            is_new |= part.transformed;
            parts.push(Part {
                may_fail: may_fail(&part.data, schema)?,
                is_repeatable: is_repeatable(&part.data)?,
                condition: part.data,
            });
        }
        Ok(Self { op, parts, is_new })
    }

    /// Whether one part can guard another.
    fn need_guards(&self) -> bool {
        let guards = self.parts.iter().filter(|part| part.is_repeatable).count();
        let risky = self.parts.iter().filter(|part| part.may_fail).count();
        self.parts.len() > 1 && guards > 0 && risky > 0
    }

    /// The chain as it was.
    fn together(self) -> Transformed<Expr> {
        let parts = self.parts.into_iter().map(|part| part.condition).collect();
        Transformed::new_transformed(tree(parts, self.op), self.is_new)
    }

    fn split(self) -> Split {
        let (mut risky, safe): (Vec<_>, Vec<_>) = self.parts.into_iter().partition(|part| part.may_fail);
        // `x::INT > 0` guards `10 / x::INT > 4`, whichever comes first.
        risky.sort_by_key(|part| divides(&part.condition));
        let (guards, single): (Vec<_>, Vec<_>) = safe.into_iter().partition(|part| part.is_repeatable);
        let is_one = risky.len() > GUARDED_PARTS;
        let conditions = |parts: Vec<Part>| parts.into_iter().map(|part| part.condition).collect::<Vec<_>>();
        let (guards, mut risky) = (conditions(guards), conditions(risky));
        if is_one {
            risky = vec![tree(risky, self.op)];
        }
        Split {
            single: conditions(single),
            guard: (!guards.is_empty()).then(|| tree(guards, self.op)),
            risky,
        }
    }
}

fn divides(condition: &Expr) -> bool {
    let is_division = |part: &Expr| {
        matches!(
            part,
            Expr::BinaryExpr(BinaryExpr {
                op: Operator::Divide | Operator::Modulo,
                ..
            })
        )
    };
    condition.exists(|part| Ok(is_division(part))).unwrap_or(false)
}

/// Whether the expression may be an error for values of its columns.
fn may_fail(expression: &Expr, schema: &DFSchema) -> Result<bool> {
    expression.exists(|part| {
        Ok(match part {
            Expr::BinaryExpr(BinaryExpr { op, right, .. }) => match op {
                Operator::Divide | Operator::Modulo => !is_divisor(right) && !part.get_type(schema)?.is_floating(),
                // Those of numbers that may overflow are calls by now; others move times.
                Operator::Plus | Operator::Minus | Operator::Multiply => !part.get_type(schema)?.is_numeric(),
                Operator::RegexMatch | Operator::RegexIMatch | Operator::RegexNotMatch | Operator::RegexNotIMatch => {
                    !is_literal(right)
                }
                _ => false,
            },
            Expr::Cast(Cast { expr, field }) => cast_may_fail(&expr.get_type(schema)?, field.data_type()),
            Expr::ScalarFunction(call) => call_may_fail(call),
            _ => false,
        })
    })
}

fn cast_may_fail(from: &DataType, to: &DataType) -> bool {
    match (from, to) {
        (DataType::Dictionary(_, values), to) => cast_may_fail(values, to),
        (from, to) if from.is_floating() && to.is_floating() => false,
        (from, to) if from.is_string() => !to.is_string(),
        (from, to) if from.is_binary() => to.is_string(),
        // A finer unit reaches less far.
        (DataType::Date32 | DataType::Date64, DataType::Timestamp(unit, _)) => *unit == TimeUnit::Nanosecond,
        (DataType::Timestamp(coarse, _), DataType::Timestamp(fine, _)) => coarse < fine,
        (from, to) => is_narrower(from, to),
    }
}

fn call_may_fail(call: &ScalarFunction) -> bool {
    match call.name() {
        name if NEVER_FAIL.contains(&name) => false,
        name if FAIL_BY_ARGUMENTS.contains(&name) => !call.args.iter().skip(1).all(is_literal),
        _ => !call.args.iter().all(is_literal),
    }
}

fn is_literal(expression: &Expr) -> bool {
    matches!(expression, Expr::Literal(..))
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

    use datafusion::arrow::datatypes::Field;
    use datafusion::functions::expr_fn::{random, substr};
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
            substr(col("t"), col("n")).eq(lit("x")),
        ];
        let safe = [
            col("n").not_eq(lit(0_i64)),
            (col("n") / lit(3_i64)).eq(lit(1_i64)),
            (lit(1.0) / col("x")).gt(lit(1.0)),
            cast(col("n"), DataType::Float64).eq(col("x")),
            col("t").like(lit("1%")),
            substr(col("t"), lit(1_i64)).eq(lit("x")),
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
    fn only_what_may_be_evaluated_twice_is_a_guard() {
        let coin = random().lt(lit(0.5));
        let guarded = condition(coin.clone().and(quotient()), &schema()).unwrap();
        assert_eq!(guarded.data, coin.clone().and(quotient()));
        let safe = col("n").not_eq(lit(0_i64));
        let guarded = condition(coin.clone().and(quotient()).and(safe.clone()), &schema()).unwrap();
        let expected = tree(
            vec![coin, safe.clone().and(when(safe, quotient(), lit(false)))],
            Operator::And,
        );
        assert_eq!(guarded.data, expected);
    }

    #[test]
    fn nested_conditions_grow_by_their_guards_alone() {
        let count = |expression: &Expr| {
            let mut count = 0;
            expression
                .apply(|_| {
                    count += 1;
                    Ok(TreeNodeRecursion::Continue)
                })
                .unwrap();
            count
        };
        let mut nested = quotient();
        for level in 0..40_i64 {
            let (safe, risky) = (col("n").not_eq(lit(level)), (lit(level) / col("n")).gt(lit(1_i64)));
            nested = match level % 2 {
                0 => nested.or(safe).or(risky),
                _ => nested.and(safe).and(risky),
            };
        }
        let guarded = within(nested.clone(), &schema()).unwrap();
        assert!(guarded.transformed && count(&guarded.data) < 4 * count(&nested));
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
