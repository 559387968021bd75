//! Expressions, subqueries and nested values.

use datafusion::error::Result;
use datafusion_substrait::substrait::proto::expression::field_reference::RootType;
use datafusion_substrait::substrait::proto::expression::nested::NestedType;
use datafusion_substrait::substrait::proto::expression::subquery::SubqueryType;
use datafusion_substrait::substrait::proto::expression::{Nested, RexType, Subquery, nested};
use datafusion_substrait::substrait::proto::{Expression, SortField};

use super::functions::settle_arguments;
use super::limits::Walk;
use super::refusals::not_supported;
use crate::planner::substrait::errors::invalid;

impl Walk<'_> {
    pub(super) fn check_expressions(&mut self, all: &mut [Expression]) -> Result<()> {
        all.iter_mut().try_for_each(|one| self.check_expression(one))
    }

    pub(super) fn check_optional(&mut self, expression: Option<&mut Expression>) -> Result<()> {
        expression.map_or(Ok(()), |expression| self.check_expression(expression))
    }

    pub(super) fn check_required(&mut self, expression: Option<&mut Expression>, otherwise: &str) -> Result<()> {
        match expression {
            Some(expression) => self.check_expression(expression),
            None => Err(invalid(format!("the Substrait plan has {otherwise}"))),
        }
    }

    pub(super) fn check_sorts(&mut self, sorts: &mut [SortField]) -> Result<()> {
        sorts
            .iter_mut()
            .try_for_each(|sort| self.check_required(sort.expr.as_mut(), "a sort field without an expression"))
    }

    pub(super) fn check_expression(&mut self, expression: &mut Expression) -> Result<()> {
        self.count_expression()?;
        let Some(kind) = expression.rex_type.as_mut() else {
            return Err(invalid(
                "the Substrait plan has an expression of no kind, or of one that this server does not know",
            ));
        };
        match kind {
            RexType::Literal(literal) => self.check_literal(literal),
            RexType::Selection(reference) => match reference.root_type.as_mut() {
                Some(RootType::Expression(root)) => self.check_expression(root),
                _ => Ok(()),
            },
            RexType::ScalarFunction(function) => {
                #[expect(deprecated, reason = "older producers write arguments here")]
                settle_arguments(&mut function.arguments, &mut function.args);
                self.declarations.function(function.function_reference)?;
                self.check_arguments(&mut function.arguments)
            }
            RexType::WindowFunction(function) => self.check_window_function(function),
            RexType::IfThen(if_then) => {
                for (number, clause) in if_then.ifs.iter_mut().enumerate() {
                    self.check_required(clause.r#if.as_mut(), "an if-then without a condition")?;
                    // The first clause may hold the value that the others are compared with.
                    match clause.then.as_mut() {
                        None if number == 0 => (),
                        then => self.check_required(then, "an if-then without a result")?,
                    }
                }
                self.check_optional(if_then.r#else.as_deref_mut())
            }
            RexType::SingularOrList(list) => {
                self.check_required(list.value.as_deref_mut(), "a list of options without a value")?;
                self.check_expressions(&mut list.options)
            }
            RexType::Cast(cast) => {
                let Some(to) = cast.r#type.as_ref() else {
                    return Err(invalid("the Substrait plan has a cast without a type"));
                };
                self.check_type(to)?;
                self.check_required(cast.input.as_deref_mut(), "a cast without a value")
            }
            RexType::Subquery(subquery) => self.check_subquery(subquery),
            RexType::Nested(nested) => self.check_nested(nested),
            RexType::DynamicParameter(parameter) => match parameter.r#type.as_ref() {
                Some(of) => self.check_type(of),
                None => Ok(()),
            },
            RexType::Lambda(lambda) => {
                let parameters = lambda.parameters.as_ref().map(|it| it.types.as_slice());
                for parameter in parameters.unwrap_or_default() {
                    self.check_type(parameter)?;
                }
                self.check_required(lambda.body.as_deref_mut(), "a lambda without a body")
            }
            RexType::SwitchExpression(_) => Err(not_supported("a switch expression; send if-then")),
            RexType::MultiOrList(_) => Err(not_supported("a list of options for several values (MultiOrList)")),
            RexType::LambdaInvocation(_) => Err(not_supported("the invocation of a lambda")),
            #[expect(deprecated, reason = "it has to be refused by name")]
            RexType::Enum(_) => Err(not_supported("an enumeration as an expression")),
        }
    }

    fn check_subquery(&mut self, subquery: &mut Subquery) -> Result<()> {
        match subquery.subquery_type.as_mut() {
            Some(SubqueryType::Scalar(scalar)) => self.check_input(scalar.input.as_deref_mut(), "subquery"),
            Some(SubqueryType::InPredicate(predicate)) => {
                self.check_expressions(&mut predicate.needles)?;
                self.check_input(predicate.haystack.as_deref_mut(), "subquery")
            }
            Some(SubqueryType::SetPredicate(predicate)) => {
                self.check_input(predicate.tuples.as_deref_mut(), "subquery")
            }
            Some(SubqueryType::SetComparison(comparison)) => {
                self.check_required(comparison.left.as_deref_mut(), "a comparison without a value")?;
                self.check_input(comparison.right.as_deref_mut(), "subquery")
            }
            None => Err(invalid("the Substrait plan has a subquery of no kind")),
        }
    }

    fn check_nested(&mut self, value: &mut Nested) -> Result<()> {
        match value.nested_type.as_mut() {
            Some(NestedType::Struct(fields)) => self.check_expressions(&mut fields.fields),
            Some(NestedType::List(list)) => self.check_expressions(&mut list.values),
            Some(NestedType::Map(map)) => {
                map.key_values
                    .iter_mut()
                    .try_for_each(|nested::map::KeyValue { key, value }| {
                        self.check_required(key.as_mut(), "a map entry without a key")?;
                        self.check_required(value.as_mut(), "a map entry without a value")
                    })
            }
            None => Err(invalid("the Substrait plan has a nested value of no kind")),
        }
    }
}
