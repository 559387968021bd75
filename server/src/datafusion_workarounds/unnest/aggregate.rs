//! Aggregates, window functions and LIMIT over a domain.

use datafusion::common::{Column, Result, not_impl_err};
use datafusion::functions_window::row_number::row_number_udwf;
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams, WindowFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::logical_plan::{Aggregate, FetchType, Limit, Projection, SkipType, Window};
use datafusion::logical_expr::{
    Expr, ExprFunctionExt, JoinType, LogicalPlan, LogicalPlanBuilder, SortExpr, WindowFunctionDefinition, lit,
};

use super::domain::{Pushed, arranged, same_values};
use super::push::Pushing;

/// Aggregates that are NULL over no row.
const NULL_OVER_NOTHING: [&str; 7] = ["single_value", "first_value", "last_value", "sum", "min", "max", "avg"];

impl Pushing<'_> {
    /// The subquery for each value for which it has a row that is not NULL; for others perhaps none. It has one column
    /// and at most one row.
    pub(super) fn at_most_one_row(&self, query: &LogicalPlan) -> Result<Pushed> {
        match query {
            LogicalPlan::Projection(Projection { input, expr, .. }) => match (input.as_ref(), expr.as_slice()) {
                (LogicalPlan::Aggregate(aggregate), [value]) if is_column(value) && is_null_over_nothing(aggregate) => {
                    let input = self.groups(aggregate)?;
                    let name = NamePreserver::new_for_projection().save(value);
                    let columns = [name.restore(value.clone())].into_iter();
                    let columns = columns.chain(input.outer.into_iter().map(Expr::Column));
                    let plan = LogicalPlanBuilder::from(input.plan).project(columns)?.build()?;
                    Ok(self.last_columns(plan))
                }
                _ => self.push(query),
            },
            _ => self.push(query),
        }
    }

    pub(super) fn aggregate(&self, aggregate: &Aggregate) -> Result<Pushed> {
        match aggregate.group_expr.as_slice() {
            [] => self.total(aggregate),
            groups if groups.iter().any(|group| matches!(group, Expr::GroupingSet(_))) => {
                not_impl_err!("grouping sets over the rows of a correlated condition are not supported; write a join")
            }
            _ => self.groups(aggregate),
        }
    }

    /// The groups of each value.
    fn groups(&self, aggregate: &Aggregate) -> Result<Pushed> {
        let input = self.push(&aggregate.input)?;
        let replaced = |expressions: &[Expr]| {
            let each = expressions.iter().map(|one| self.replaced(one.clone(), &input.outer));
            each.collect::<Result<Vec<_>>>()
        };
        let groups = replaced(&aggregate.group_expr)?;
        let (own, values) = (groups.len(), input.outer.len());
        let groups = groups.into_iter().chain(input.outer.iter().cloned().map(Expr::Column));
        let plan = LogicalPlanBuilder::from(input.plan)
            .aggregate(groups, replaced(&aggregate.aggr_expr)?)?
            .build()?;
        let positions: Vec<_> = (0..own).chain(own + values..plan.schema().fields().len()).collect();
        let plan = arranged(plan, &aggregate.schema, &positions, &input.outer)?;
        Ok(self.last_columns(plan))
    }

    /// The one row of each value, also where it has no input: such a value has a row that no aggregate counts.
    fn total(&self, aggregate: &Aggregate) -> Result<Pushed> {
        let input = self.push(&aggregate.input)?;
        let values = self.domain.values()?;
        let marker = self.domain.names.next("__row");
        let rows = LogicalPlanBuilder::from(input.plan);
        let columns = rows.schema().columns().into_iter().map(Expr::Column);
        let columns: Vec<_> = columns.chain([lit(true).alias(&marker)]).collect();
        let rows = rows.project(columns)?.build()?;
        let same = same_values(&values.outer, &input.outer, values.plan.schema());
        let is_row = Expr::Column(Column::new_unqualified(&marker)).is_not_null();
        let calls = aggregate.aggr_expr.iter().map(|call| {
            let call = self.replaced(call.clone(), &input.outer)?;
            only_where(call, is_row.clone())
        });
        let calls = calls.collect::<Result<Vec<_>>>()?;
        let plan = LogicalPlanBuilder::from(values.plan)
            .join_on(rows, JoinType::Left, same)?
            .aggregate(values.outer.iter().cloned().map(Expr::Column), calls)?
            .build()?;
        let positions: Vec<_> = (values.outer.len()..plan.schema().fields().len()).collect();
        let plan = arranged(plan, &aggregate.schema, &positions, &values.outer)?;
        Ok(self.last_columns(plan))
    }

    /// Functions over the rows of one value.
    pub(super) fn window(&self, window: &Window) -> Result<Pushed> {
        let input = self.push(&window.input)?;
        let calls = window.window_expr.iter().map(|call| {
            let call = self.replaced(call.clone(), &input.outer)?;
            Ok(within(call, &input.outer))
        });
        let calls = calls.collect::<Result<Vec<_>>>()?;
        let own = window.input.schema().fields().len();
        let plan = LogicalPlanBuilder::from(input.plan).window(calls)?.build()?;
        let first_call = own + input.outer.len();
        let positions: Vec<_> = (0..own).chain(first_call..plan.schema().fields().len()).collect();
        let plan = arranged(plan, &window.schema, &positions, &input.outer)?;
        Ok(self.last_columns(plan))
    }

    /// The first rows of each value, by numbers.
    pub(super) fn limit(&self, limit: &Limit) -> Result<Pushed> {
        match limit.input.as_ref() {
            LogicalPlan::Projection(projection) => {
                let input = Limit {
                    input: projection.input.clone(),
                    ..limit.clone()
                };
                let plan = Projection::try_new(projection.expr.clone(), LogicalPlan::Limit(input).into())?;
                self.push(&LogicalPlan::Projection(plan))
            }
            LogicalPlan::SubqueryAlias(alias) => {
                let input = Limit {
                    input: alias.input.clone(),
                    ..limit.clone()
                };
                let plan = LogicalPlanBuilder::from(LogicalPlan::Limit(input));
                self.push(&plan.alias(alias.alias.clone())?.build()?)
            }
            LogicalPlan::Sort(sort) => self.numbered(limit, &sort.input, &sort.expr),
            _ => self.numbered(limit, &limit.input, &[]),
        }
    }

    fn numbered(&self, limit: &Limit, input: &LogicalPlan, keys: &[SortExpr]) -> Result<Pushed> {
        let (SkipType::Literal(skip), FetchType::Literal(fetch)) = (limit.get_skip_type()?, limit.get_fetch_type()?)
        else {
            return not_impl_err!("LIMIT and OFFSET of a correlated subquery must be numbers");
        };
        let input = self.push(input)?;
        let name = self.domain.names.next("__number");
        let function = WindowFunctionDefinition::WindowUDF(row_number_udwf());
        let number = Expr::from(WindowFunction::new(function, Vec::new()))
            .partition_by(input.outer.iter().cloned().map(Expr::Column).collect());
        let number = match keys.is_empty() {
            true => number.build()?,
            false => {
                let keys = self.sort_keys(keys, &input.outer);
                number.order_by(keys.collect::<Result<_>>()?).build()?
            }
        };
        let columns: Vec<_> = input.plan.schema().columns().into_iter().map(Expr::Column).collect();
        let rows = LogicalPlanBuilder::from(input.plan).window([number.alias(&name)])?;
        let number = Expr::Column(Column::new_unqualified(&name));
        let mut condition = number.clone().gt(lit(skip as u64));
        if let Some(fetch) = fetch {
            condition = condition.and(number.lt_eq(lit(skip.saturating_add(fetch) as u64)));
        }
        let plan = rows.filter(condition)?.project(columns)?.build()?;
        Ok(self.last_columns(plan))
    }
}

fn is_column(expression: &Expr) -> bool {
    match expression {
        Expr::Alias(alias) => is_column(&alias.expr),
        Expr::Column(_) => true,
        _ => false,
    }
}

fn is_null_over_nothing(aggregate: &Aggregate) -> bool {
    let is_null = |call: &Expr| match call {
        Expr::AggregateFunction(call) => NULL_OVER_NOTHING.contains(&call.func.name()),
        _ => false,
    };
    aggregate.group_expr.is_empty() && aggregate.aggr_expr.iter().all(is_null)
}

/// An aggregate of the rows that meet a condition, besides its own.
fn only_where(call: Expr, condition: Expr) -> Result<Expr> {
    Ok(match call {
        Expr::Alias(alias) => only_where(*alias.expr, condition)?.alias_qualified(alias.relation, alias.name),
        Expr::AggregateFunction(AggregateFunction { func, params }) => {
            let filter = match params.filter {
                Some(filter) => condition.and(*filter),
                None => condition,
            };
            let params = AggregateFunctionParams {
                filter: Some(Box::new(filter)),
                ..params
            };
            Expr::AggregateFunction(AggregateFunction { func, params })
        }
        other => return not_impl_err!("{other} as an aggregate over the rows of a correlated condition"),
    })
}

/// A window function of the rows that have the same values in these columns.
fn within(call: Expr, columns: &[Column]) -> Expr {
    match call {
        Expr::Alias(mut alias) => {
            *alias.expr = within(*alias.expr, columns);
            Expr::Alias(alias)
        }
        Expr::WindowFunction(mut call) => {
            let columns = columns.iter().cloned().map(Expr::Column);
            call.params.partition_by.splice(0..0, columns);
            Expr::WindowFunction(call)
        }
        other => other,
    }
}
