//! Conditions that DataFusion 55.2 simplifies to others.
//!
//! | condition | becomes in DataFusion | here |
//! |---|---|---|
//! | `x IN (1, NULL)` beside other lists of `x` | a list without the NULL (apache/datafusion#24246) | `x IN (1) OR NULL` |
//! | two lists of one nullable `x` | true or false where `x` is NULL (#24246) | the second `x` is hidden |
//! | `array_has([i, 1], 2)` | `2 IN (i, 1)`, which is NULL where `i` is | the list is hidden |
//! | `x ^ x` | 0, also for NULL (#24246) | one `x` is hidden |
//! | `x ~ '.*'` | `x IS NOT NULL`, which is false, not NULL (#24379) | another pattern of the same meaning |
//! | `a = b` beside a join with `c IS NOT DISTINCT FROM d` | NULL equals NULL in both | the second becomes two equalities |
//! | `array_agg(x ORDER BY t, t)`, `DISTINCT ON` with a key twice | a panic | the key once |
//! | a condition on `random() < 0.5` of GROUP BY | moved below the aggregate, and evaluated again (#25415) | the key is a column of a projection |
//! | `random() BETWEEN 0 AND 1`, `coalesce(random(), 0)` | evaluated twice (#25457, #25477) | refused |

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, DFSchema, Result, ScalarValue, not_impl_err};
use datafusion::config::ConfigOptions;
use datafusion::functions::core::expr_fn::coalesce;
use datafusion::logical_expr::expr::{Between, InList, Sort as SortKey};
use datafusion::logical_expr::type_coercion::binary::comparison_coercion;
use datafusion::logical_expr::{
    Aggregate, BinaryExpr, Distinct, Expr, ExprSchemable, LogicalPlan, Operator, Projection, cast, lit,
};
use datafusion::optimizer::AnalyzerRule;
use squadron_shuffle::functions::held;

use crate::plan_limits::expressions::{rewrite_named, rewrite_node};

/// Rewrites the conditions of a plan.
#[derive(Debug)]
pub(crate) struct KeepConditions;

impl AnalyzerRule for KeepConditions {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_down_with_subqueries(|node| {
            let node = rewrite_named(node, |expression| expression.transform_up(keep))?;
            let node = node.transform_data(|node| Ok(distinct_on(node)))?;
            let node = node.transform_data(keep_kinds_of_equality)?;
            node.transform_data(compute_volatile_keys)
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "keep_conditions"
    }
}

fn keep(part: Expr) -> Result<Transformed<Expr>> {
    match part {
        Expr::InList(list) => {
            refuse_volatile(&list.expr, "IN")?;
            Ok(without_null(list))
        }
        Expr::Between(Between { ref expr, .. }) => {
            refuse_volatile(expr, "BETWEEN")?;
            Ok(Transformed::no(part))
        }
        Expr::ScalarFunction(ref call) if call.name() == "coalesce" => {
            let all_but_last = call.args.split_last().map_or(&[][..], |(_, others)| others);
            for value in all_but_last {
                refuse_volatile(value, "coalesce")?;
            }
            Ok(Transformed::no(part))
        }
        Expr::ScalarFunction(mut call) if call.name() == "array_has" => {
            let is_list =
                matches!(call.args.first(), Some(Expr::ScalarFunction(list)) if list.func.name() == "make_array");
            if is_list {
                call.args[0] = held(vec![std::mem::take(&mut call.args[0])]);
            }
            Ok(Transformed::new_transformed(Expr::ScalarFunction(call), is_list))
        }
        Expr::AggregateFunction(mut aggregate) => {
            let is_new = keep_first(&mut aggregate.params.order_by);
            Ok(Transformed::new_transformed(Expr::AggregateFunction(aggregate), is_new))
        }
        Expr::BinaryExpr(binary) => Ok(keep_binary(binary)),
        other => Ok(Transformed::no(other)),
    }
}

fn keep_binary(binary: BinaryExpr) -> Transformed<Expr> {
    let BinaryExpr { left, op, right } = binary;
    match op {
        Operator::And | Operator::Or => {
            let listed = lists(&left, op);
            let (right, is_new) = hide_lists(*right, op, &listed);
            let both = Expr::BinaryExpr(BinaryExpr::new(left, op, Box::new(right)));
            Transformed::new_transformed(both, is_new)
        }
        Operator::BitwiseXor if left == right => {
            let hidden = held(vec![*left]);
            Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(Box::new(hidden), op, right)))
        }
        Operator::RegexMatch | Operator::RegexNotMatch | Operator::RegexIMatch | Operator::RegexNotIMatch => {
            let is_special = matches!(&*right, Expr::Literal(value, _) if value.try_as_str() == Some(Some(".*")));
            let pattern = match is_special {
                true => Box::new(lit("(?:.*)")),
                false => right,
            };
            let binary = Expr::BinaryExpr(BinaryExpr::new(left, op, pattern));
            Transformed::new_transformed(binary, is_special)
        }
        _ => Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })),
    }
}

/// Hides the operands of lists that `listed` has too from the rules that put two lists together.
fn hide_lists(condition: Expr, op: Operator, listed: &[Expr]) -> (Expr, bool) {
    match condition {
        Expr::InList(list) if listed.contains(&list.expr) => {
            let expr = Box::new(held(vec![*list.expr]));
            (Expr::InList(InList { expr, ..list }), true)
        }
        Expr::BinaryExpr(BinaryExpr { left, op: own, right }) if own == op => {
            let (left, is_left_new) = hide_lists(*left, op, listed);
            let (right, is_right_new) = hide_lists(*right, op, listed);
            let both = BinaryExpr::new(Box::new(left), own, Box::new(right));
            (Expr::BinaryExpr(both), is_left_new || is_right_new)
        }
        other => (other, false),
    }
}

/// `a IS NOT DISTINCT FROM b` between rows as two equalities. DataFusion makes a join of it in which NULL equals NULL in
/// every key, also in those of other conditions.
fn keep_kinds_of_equality(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    match node {
        LogicalPlan::Join(_) | LogicalPlan::Filter(_) => rewrite_node(node, |expression, schema| {
            expression.transform_up(|part| two_equalities(part, schema))
        }),
        other => Ok(Transformed::no(other)),
    }
}

fn two_equalities(part: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let Expr::BinaryExpr(BinaryExpr {
        left,
        op: Operator::IsNotDistinctFrom,
        right,
    }) = &part
    else {
        return Ok(Transformed::no(part));
    };
    let is_of_rows = |side: &Expr| !side.column_refs().is_empty() || side.contains_outer();
    if !is_of_rows(left) || !is_of_rows(right) {
        return Ok(Transformed::no(part));
    }
    if left.is_volatile() || right.is_volatile() {
        return Ok(Transformed::yes(held(vec![part])));
    }
    if !left.nullable(schema)? && !right.nullable(schema)? {
        return Ok(Transformed::yes(left.as_ref().clone().eq(right.as_ref().clone())));
    }
    let types = (left.get_type(schema)?, right.get_type(schema)?);
    let common = comparison_coercion(&types.0, &types.1);
    let default = common.as_ref().and_then(|common| ScalarValue::new_default(common).ok());
    let (Some(common), Some(default)) = (common, default) else {
        return Ok(Transformed::yes(held(vec![part])));
    };
    // What stands for NULL is equal to some value, but that one is not NULL.
    let value = |side: &Expr, own: &DataType| {
        let side = match *own == common {
            true => side.clone(),
            false => cast(side.clone(), common.clone()),
        };
        coalesce(vec![side, lit(default.clone())])
    };
    let nulls = left.as_ref().clone().is_null().eq(right.as_ref().clone().is_null());
    let values = value(left, &types.0).eq(value(right, &types.1));
    Ok(Transformed::yes(nulls.and(values)))
}

/// Computes the volatile keys of groups below the aggregate, where no condition on them is moved.
fn compute_volatile_keys(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let LogicalPlan::Aggregate(aggregate) = node else {
        return Ok(Transformed::no(node));
    };
    let is_plain = |key: &Expr| key.is_volatile() && !matches!(key, Expr::GroupingSet(_));
    if !aggregate.group_expr.iter().any(is_plain) {
        return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
    }
    let Aggregate {
        input,
        group_expr,
        aggr_expr,
        ..
    } = aggregate;
    let mut columns: Vec<_> = input.schema().columns().into_iter().map(Expr::Column).collect();
    let mut keys = Vec::new();
    for (index, key) in group_expr.into_iter().enumerate() {
        if !is_plain(&key) {
            keys.push(key);
            continue;
        }
        let (computed, shown) = (format!("__key_{index}"), key.schema_name().to_string());
        columns.push(key.unalias().alias(&computed));
        keys.push(Expr::Column(Column::new_unqualified(computed)).alias(shown));
    }
    let input = Arc::new(LogicalPlan::Projection(Projection::try_new(columns, input)?));
    let aggregate = Aggregate::try_new(input, keys, aggr_expr)?;
    Ok(Transformed::yes(LogicalPlan::Aggregate(aggregate)))
}

fn distinct_on(node: LogicalPlan) -> Transformed<LogicalPlan> {
    match node {
        LogicalPlan::Distinct(Distinct::On(mut on)) => {
            let is_new = on.sort_expr.as_mut().is_some_and(keep_first);
            Transformed::new_transformed(LogicalPlan::Distinct(Distinct::On(on)), is_new)
        }
        other => Transformed::no(other),
    }
}

/// Leaves out keys that are there before; DataFusion's accumulators count them and its orders do not.
fn keep_first(keys: &mut Vec<SortKey>) -> bool {
    let all = std::mem::take(keys);
    let count = all.len();
    for key in all {
        if !keys.iter().any(|known| known.expr == key.expr) {
            keys.push(key);
        }
    }
    keys.len() < count
}

/// The operands of the lists among the conditions of a chain.
fn lists(condition: &Expr, op: Operator) -> Vec<Expr> {
    let mut operands = Vec::new();
    let mut open = vec![condition];
    while let Some(next) = open.pop() {
        match next {
            Expr::BinaryExpr(binary) if binary.op == op => open.extend([binary.left.as_ref(), binary.right.as_ref()]),
            Expr::InList(list) => operands.push(list.expr.as_ref().clone()),
            _ => {}
        }
    }
    operands
}

/// `x IN (a, NULL)` is true where `x IN (a)` is, and NULL everywhere else.
fn without_null(list: InList) -> Transformed<Expr> {
    let is_null = |item: &Expr| matches!(item, Expr::Literal(value, _) if value.is_null());
    let InList { expr, list, negated } = list;
    let (nulls, others): (Vec<_>, Vec<_>) = list.into_iter().partition(is_null);
    if nulls.is_empty() || others.is_empty() {
        let list = nulls.into_iter().chain(others).collect();
        return Transformed::no(Expr::InList(InList { expr, list, negated }));
    }
    let others = Expr::InList(InList {
        expr,
        list: others,
        negated,
    });
    let null = lit(ScalarValue::Boolean(None));
    Transformed::yes(match negated {
        true => others.and(null),
        false => others.or(null),
    })
}

fn refuse_volatile(operand: &Expr, what: &str) -> Result<()> {
    if operand.is_volatile() {
        return not_impl_err!(
            "{what} of {operand} would be evaluated more than once for each row; compute it in a subquery, and use its column"
        );
    }
    Ok(())
}
