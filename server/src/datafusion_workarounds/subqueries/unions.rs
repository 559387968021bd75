//! Types of columns before subqueries compare them.
//!
//! A UNION of different types gets the type of its columns when types are coerced, and a subquery that names such a column
//! has compared it with the type of the first input by then.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DFSchema, ExprSchema, Result};
use datafusion::logical_expr::expr_rewriter::coerce_plan_expr_for_schema;
use datafusion::logical_expr::{Expr, LogicalPlan, Union};
use datafusion::optimizer::analyzer::type_coercion::coerce_union_schema;

use crate::plan_limits::expressions::{has_subquery, rewrite_types};

/// `plan` with casts where the inputs of a UNION have different types, if it has subqueries.
pub(super) fn coerced(plan: LogicalPlan) -> Result<LogicalPlan> {
    let is_concerned = |node: &LogicalPlan| Ok(matches!(node, LogicalPlan::Subquery(_)) || has_subquery(node)?);
    if !plan.exists(is_concerned)? {
        return Ok(plan);
    }
    rewrite_types(plan, coerce_union)
}

fn coerce_union(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let LogicalPlan::Union(union) = &node else {
        return Ok(Transformed::no(node));
    };
    let first = union.inputs[0].schema();
    let is_same = |input: &Arc<LogicalPlan>| {
        let types = |schema: &DFSchema| -> Vec<_> {
            let fields = schema.fields().iter();
            fields.map(|field| field.data_type().clone()).collect()
        };
        types(input.schema()) == types(first)
    };
    if union.inputs.iter().all(is_same) {
        return Ok(Transformed::no(node));
    }
    let schema = coerce_union_schema(&union.inputs)?;
    let inputs = union.inputs.iter().map(|input| {
        let input = coerce_plan_expr_for_schema(LogicalPlan::clone(input), &schema)?;
        Ok(Arc::new(input))
    });
    let inputs = inputs.collect::<Result<Vec<_>>>()?;
    let schema = Arc::new(schema);
    Ok(Transformed::yes(LogicalPlan::Union(Union { inputs, schema })))
}

/// A subquery whose names of columns around it have the types of these columns.
pub(super) fn with_types_of(query: LogicalPlan, schema: &DFSchema) -> Result<LogicalPlan> {
    let retyped = |part: Expr| {
        let Expr::OuterReferenceColumn(known, column) = &part else {
            return Ok(Transformed::no(part));
        };
        let field = match schema.field_from_column(column) {
            Ok(field) if field.data_type() != known.data_type() => Arc::clone(field),
            _ => return Ok(Transformed::no(part)),
        };
        Ok(Transformed::yes(Expr::OuterReferenceColumn(field, column.clone())))
    };
    query
        .transform_up(|node| {
            let node = node.map_expressions(|expression| expression.transform_up(retyped))?;
            match node.transformed {
                true => node.map_data(LogicalPlan::recompute_schema),
                false => Ok(node),
            }
        })
        .data()
}
