//! Floats are compared by their values where DataFusion 55.2 compares their bits: as keys of ORDER BY and of windows, in
//! lists, in `CASE x WHEN`, in `nullif` and in DISTINCT aggregates. What divides makes no NaN with a sign.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DFSchema, Result};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, ScalarUDF};
use datafusion::optimizer::AnalyzerRule;
use squadron_shuffle::functions::canonical;

use crate::plan_limits::expressions::rewrite_node;

/// Makes floats canonical where that matters.
#[derive(Debug)]
pub(crate) struct CanonicalFloats {
    canonical: Arc<ScalarUDF>,
}

impl Default for CanonicalFloats {
    fn default() -> Self {
        Self { canonical: canonical() }
    }
}

impl AnalyzerRule for CanonicalFloats {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_down_with_subqueries(|node| {
            let is_sort = matches!(node, LogicalPlan::Sort(_));
            rewrite_node(node, |expression, schema| {
                let within = expression.transform_up(|part| Ok(self.within(part, schema)))?;
                within.transform_data(|expression| {
                    Ok(match is_sort {
                        true => self.key(expression, schema),
                        false => Transformed::no(expression),
                    })
                })
            })
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "canonical_floats"
    }
}

impl CanonicalFloats {
    /// The expression as a key.
    fn key(&self, expression: Expr, schema: &DFSchema) -> Transformed<Expr> {
        let is_canonical = matches!(&expression, Expr::ScalarFunction(call) if call.func == self.canonical);
        let is_float = || {
            expression
                .get_type(schema)
                .is_ok_and(|data_type| data_type.is_floating())
        };
        if is_canonical || !is_float() {
            return Transformed::no(expression);
        }
        let call = ScalarFunction::new_udf(Arc::clone(&self.canonical), vec![expression]);
        Transformed::yes(Expr::ScalarFunction(call))
    }

    fn each<'a>(&self, expressions: impl IntoIterator<Item = &'a mut Expr>, schema: &DFSchema) -> bool {
        let mut is_new = false;
        for expression in expressions {
            let key = self.key(std::mem::take(expression), schema);
            is_new |= key.transformed;
            *expression = key.data;
        }
        is_new
    }

    fn within(&self, part: Expr, schema: &DFSchema) -> Transformed<Expr> {
        match part {
            Expr::InList(mut list) => {
                let operands = std::iter::once(list.expr.as_mut()).chain(&mut list.list);
                let is_new = self.each(operands, schema);
                Transformed::new_transformed(Expr::InList(list), is_new)
            }
            Expr::Case(mut case) => {
                let Some(base) = &mut case.expr else {
                    return Transformed::no(Expr::Case(case));
                };
                let whens = case.when_then_expr.iter_mut().map(|(when, _)| when.as_mut());
                let is_new = self.each(std::iter::once(base.as_mut()).chain(whens), schema);
                Transformed::new_transformed(Expr::Case(case), is_new)
            }
            Expr::ScalarFunction(mut call) if call.name() == "nullif" => {
                let is_new = self.each(&mut call.args, schema);
                Transformed::new_transformed(Expr::ScalarFunction(call), is_new)
            }
            Expr::AggregateFunction(mut aggregate) if aggregate.params.distinct => {
                let is_new = self.each(&mut aggregate.params.args, schema);
                Transformed::new_transformed(Expr::AggregateFunction(aggregate), is_new)
            }
            Expr::WindowFunction(mut window) => {
                let order = window.params.order_by.iter_mut().map(|key| &mut key.expr);
                let keys = window.params.partition_by.iter_mut().chain(order);
                let is_new = self.each(keys, schema);
                Transformed::new_transformed(Expr::WindowFunction(window), is_new)
            }
            Expr::BinaryExpr(BinaryExpr {
                op: Operator::Divide | Operator::Modulo,
                ..
            }) => self.key(part, schema),
            other => Transformed::no(other),
        }
    }
}
