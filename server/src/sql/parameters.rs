//! Which parameters a statement has, and of which types.
//!
//! DataFusion knows the type of a placeholder that is compared with a column, calculated with, or inserted. This adds
//! the places it leaves out, settles what several uses say of one parameter, and takes what is still unknown for text,
//! which every client can bind.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{Between, Case, InList, Placeholder};
use datafusion::logical_expr::type_coercion::binary::type_union_resolution;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan};
use squadron_proto::{Failure, FailureKind};
use squadron_shuffle::failure;

use crate::planner::schema::client_type;

/// The parameters `$1`, `$2`, ... of a statement.
#[derive(Clone, Debug)]
pub(crate) struct Parameters {
    /// In the order of their numbers, nullable.
    pub(crate) schema: SchemaRef,
    /// Which of them are text only because nothing tells their types. They take values of any type.
    pub(crate) guessed: Vec<bool>,
}

impl Parameters {
    /// Of a statement without any.
    pub(crate) fn none() -> Self {
        Self {
            schema: Arc::new(Schema::empty()),
            guessed: Vec::new(),
        }
    }
}

/// The plan with every placeholder typed whose type can be told.
pub(crate) fn infer_types(plan: LogicalPlan) -> Result<LogicalPlan> {
    if plan.get_parameter_names()?.is_empty() {
        return Ok(plan);
    }
    plan.transform_up_with_subqueries(|node| {
        let is_limit = matches!(node, LogicalPlan::Limit(_));
        let schema = inputs_schema(&node)?;
        node.map_expressions(|expression| {
            if !has_placeholder(&expression)? {
                return Ok(Transformed::no(expression));
            }
            let expression = match is_limit {
                true => typed(expression, &DataType::Int64),
                false => expression,
            };
            // Where DataFusion cannot tell what a placeholder is compared with, its type is told by its value.
            let known = expression.clone().infer_placeholder_types(&schema);
            let expression = known.map_or(expression, |(known, _)| known);
            expression.transform_up(|inner| Ok(Transformed::yes(infer(inner, &schema))))
        })
    })
    .data()?
    .recompute()
}

fn has_placeholder(expression: &Expr) -> Result<bool> {
    expression.exists(|inner| Ok(matches!(inner, Expr::Placeholder(_))))
}

/// Types that follow from nodes below, now that those have theirs.
pub(super) trait Recompute {
    /// The plan with the types of its nodes worked out anew.
    fn recompute(self) -> Result<LogicalPlan>;
}

impl Recompute for LogicalPlan {
    fn recompute(self) -> Result<LogicalPlan> {
        self.transform_up_with_subqueries(|node| match node {
            // Their schema is what the statement says, not what their expressions are.
            LogicalPlan::Dml(_) | LogicalPlan::Copy(_) | LogicalPlan::Values(_) => Ok(Transformed::no(node)),
            other => Ok(Transformed::yes(other.recompute_schema()?)),
        })
        .data()
    }
}

fn inputs_schema(node: &LogicalPlan) -> Result<DFSchema> {
    let mut schema = node.schema().as_ref().clone();
    for input in node.inputs() {
        schema.merge(input.schema());
    }
    Ok(schema)
}

/// The places that DataFusion's own inference leaves out.
fn infer(expression: Expr, schema: &DFSchema) -> Expr {
    match expression {
        Expr::InList(list) => in_list(list, schema),
        Expr::Between(between) => self::between(between, schema),
        Expr::Case(case) => self::case(case, schema),
        Expr::Cast(mut cast) => {
            *cast.expr = typed(*cast.expr, cast.field.data_type());
            Expr::Cast(cast)
        }
        other => other,
    }
}

/// `$1 IN (1, 2)`
fn in_list(mut list: InList, schema: &DFSchema) -> Expr {
    if let Some(known) = first_type(list.list.iter(), schema) {
        *list.expr = typed(*list.expr, &known);
    }
    Expr::InList(list)
}

/// `$1 BETWEEN low AND high`
fn between(mut between: Between, schema: &DFSchema) -> Expr {
    let bounds = [between.low.as_ref(), between.high.as_ref()];
    if let Some(known) = first_type(bounds.into_iter(), schema) {
        *between.expr = typed(*between.expr, &known);
        *between.low = typed(*between.low, &known);
        *between.high = typed(*between.high, &known);
    }
    Expr::Between(between)
}

/// Results have the type of the other results, values that are compared that of what they are compared with.
fn case(mut case: Case, schema: &DFSchema) -> Expr {
    let results = case.when_then_expr.iter().map(|(_, then)| then.as_ref());
    let results = results.chain(case.else_expr.as_deref());
    if let Some(known) = first_type(results, schema) {
        for (_, then) in &mut case.when_then_expr {
            **then = typed(std::mem::take(then.as_mut()), &known);
        }
        if let Some(otherwise) = &mut case.else_expr {
            **otherwise = typed(std::mem::take(otherwise.as_mut()), &known);
        }
    }
    if let Some(compared) = &mut case.expr {
        let whens = case.when_then_expr.iter().map(|(when, _)| when.as_ref());
        let all = std::iter::once(compared.as_ref()).chain(whens);
        if let Some(known) = first_type(all, schema) {
            **compared = typed(std::mem::take(compared.as_mut()), &known);
            for (when, _) in &mut case.when_then_expr {
                **when = typed(std::mem::take(when.as_mut()), &known);
            }
        }
    }
    Expr::Case(case)
}

/// The type of the first expression that has one.
fn first_type<'a>(mut expressions: impl Iterator<Item = &'a Expr>, schema: &DFSchema) -> Option<DataType> {
    expressions.find_map(|expression| {
        let known = expression.get_type(schema).ok();
        known.filter(|known| *known != DataType::Null)
    })
}

/// A placeholder without a type gets this one.
fn typed(expression: Expr, known: &DataType) -> Expr {
    match expression {
        Expr::Placeholder(Placeholder { id, field: None }) => {
            let field = Field::new("", known.clone(), true);
            Expr::Placeholder(Placeholder::new_with_field(id, Some(field.into())))
        }
        other => other,
    }
}

/// The plan as if every parameter were bound to a value of its type: what its rows look like.
pub(crate) fn settle(plan: LogicalPlan, parameters: &Parameters) -> Result<LogicalPlan> {
    if parameters.schema.fields().is_empty() {
        return Ok(plan);
    }
    plan.transform_up_with_subqueries(|node| {
        node.map_expressions(|expression| {
            expression.transform_up(|inner| match &inner {
                Expr::Placeholder(Placeholder { id, field: None }) => {
                    let known = parameters.schema.field_with_name(id).ok();
                    let known = known.map_or(DataType::Utf8, |field| field.data_type().clone());
                    Ok(Transformed::yes(typed(inner, &known)))
                }
                _ => Ok(Transformed::no(inner)),
            })
        })
    })
    .data()?
    .recompute()
}

/// The parameters of a plan that went through [`infer_types`].
///
/// # Errors
/// `Invalid` for a placeholder that is no number from 1.
pub(crate) fn parameters_of(plan: &LogicalPlan) -> std::result::Result<Parameters, Failure> {
    let mut uses: BTreeMap<u32, (String, Vec<DataType>)> = BTreeMap::new();
    let mut unnumbered = None;
    let walked = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expression| {
            expression.apply(|inner| {
                if let Expr::Placeholder(Placeholder { id, field }) = inner {
                    match id.trim_start_matches('$').parse() {
                        Ok(number) if number > 0 => {
                            let entry = uses.entry(number).or_insert((id.clone(), Vec::new()));
                            let known = field.as_ref().map(|field| field.data_type().clone());
                            entry.1.extend(known.filter(|known| *known != DataType::Null));
                        }
                        _ => unnumbered = Some(id.clone()),
                    }
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    walked.map_err(|error| failure::of(&error))?;
    if let Some(id) = unnumbered {
        return Err(Failure::new(
            FailureKind::Invalid,
            format!("the placeholder {id} is not a number; write ? or $1, $2, ..."),
        ));
    }
    let mut fields = Vec::new();
    let mut guessed = Vec::new();
    for (name, types) in uses.into_values() {
        let known = common_type(&types);
        guessed.push(known.is_none());
        fields.push(Field::new(name, known.unwrap_or(DataType::Utf8), true));
    }
    Ok(Parameters {
        schema: Schema::new(fields).into(),
        guessed,
    })
}

/// One type for all uses of a parameter, such that no value that fits a use is lost on the way.
fn common_type(types: &[DataType]) -> Option<DataType> {
    let mut plain: Vec<DataType> = types.iter().map(client_type).collect();
    plain.dedup();
    match plain.as_slice() {
        [] => None,
        [only] => Some(only.clone()),
        several => type_union_resolution(several).map(|common| client_type(&common)),
    }
}
