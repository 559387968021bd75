//! Takes a domain down a subquery, operator by operator.

use datafusion::common::{Column, Result, not_impl_err};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::logical_plan::{DistinctOn, Projection, Values};
use datafusion::logical_expr::{Distinct, Expr, LogicalPlan, LogicalPlanBuilder, SortExpr, Union};

use super::domain::{Domain, Pushed, arranged};
use super::{references, replaced};

/// Computes a subquery for all values of a domain.
pub(super) struct Pushing<'a> {
    pub(super) domain: &'a Domain<'a>,
}

impl<'a> Pushing<'a> {
    pub(super) fn new(domain: &'a Domain<'a>) -> Self {
        Self { domain }
    }

    /// `query` with the values of the domain beside its rows: for each value, the rows that the subquery has for it.
    pub(super) fn push(&self, query: &LogicalPlan) -> Result<Pushed> {
        if !self.depends(query)? {
            return self.beside(query);
        }
        match query {
            LogicalPlan::Projection(projection) => self.projection(projection),
            LogicalPlan::Filter(filter) => {
                let input = self.push(&filter.input)?;
                let condition = self.replaced(filter.predicate.clone(), &input.outer)?;
                let plan = LogicalPlanBuilder::from(input.plan).filter(condition)?.build()?;
                Ok(Pushed { plan, ..input })
            }
            LogicalPlan::SubqueryAlias(alias) => {
                let input = self.push(&alias.input)?;
                let plan = LogicalPlanBuilder::from(input.plan)
                    .alias(alias.alias.clone())?
                    .build()?;
                Ok(self.last_columns(plan))
            }
            LogicalPlan::Distinct(Distinct::All(input)) => {
                let input = self.push(input)?;
                let plan = LogicalPlanBuilder::from(input.plan).distinct()?.build()?;
                Ok(Pushed { plan, ..input })
            }
            LogicalPlan::Distinct(Distinct::On(distinct)) => self.distinct_on(distinct),
            // The order of a subquery's rows means nothing, but for LIMIT.
            LogicalPlan::Sort(sort) if sort.fetch.is_none() => self.push(&sort.input),
            LogicalPlan::Limit(limit) => self.limit(limit),
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Window(window) => self.window(window),
            LogicalPlan::Join(join) => self.join(join),
            LogicalPlan::Union(union) => self.union(union),
            LogicalPlan::Values(values) => self.push(&rows_of(values)?),
            LogicalPlan::Unnest(unnest) => {
                let input = self.push(&unnest.input)?;
                let columns = unnest.exec_columns.clone();
                let plan = LogicalPlanBuilder::from(input.plan)
                    .unnest_columns_with_options(columns, unnest.options.clone())?
                    .build()?;
                Ok(self.last_columns(plan))
            }
            LogicalPlan::Subquery(subquery) => self.push(&subquery.subquery),
            LogicalPlan::Repartition(repartition) => self.push(&repartition.input),
            other => not_impl_err!(
                "{} over the rows of a correlated condition is not supported; write a join",
                name_of(other)
            ),
        }
    }

    /// Whether `query` names a column of the domain.
    pub(super) fn depends(&self, query: &LogicalPlan) -> Result<bool> {
        let references = references(query)?;
        let is_one = |reference: &Expr| matches!(reference, Expr::OuterReferenceColumn(_, column) if self.domain.columns.contains(column));
        Ok(references.iter().any(is_one))
    }

    /// An expression over rows that have `outer` beside them.
    pub(super) fn replaced(&self, expression: Expr, outer: &[Column]) -> Result<Expr> {
        replaced(expression, &self.domain.columns, outer)
    }

    /// Rows that are the same for all values.
    pub(super) fn beside(&self, query: &LogicalPlan) -> Result<Pushed> {
        let values = self.domain.values()?;
        if values.outer.is_empty() {
            return Ok(Pushed {
                plan: query.clone(),
                outer: Vec::new(),
            });
        }
        let plan = LogicalPlanBuilder::from(query.clone())
            .cross_join(values.plan)?
            .build()?;
        Ok(Pushed {
            plan,
            outer: values.outer,
        })
    }

    /// The values in the last columns of a plan.
    pub(super) fn last_columns(&self, plan: LogicalPlan) -> Pushed {
        let schema = plan.schema();
        let all = schema.fields().len();
        let positions = all.saturating_sub(self.domain.columns.len())..all;
        let outer = positions.map(|position| Column::from(schema.qualified_field(position)));
        let outer = outer.collect();
        Pushed { plan, outer }
    }

    fn projection(&self, projection: &Projection) -> Result<Pushed> {
        let input = self.push(&projection.input)?;
        let names = NamePreserver::new_for_projection();
        let mut columns = Vec::with_capacity(projection.expr.len() + input.outer.len());
        for expression in &projection.expr {
            let name = names.save(expression);
            columns.push(name.restore(self.replaced(expression.clone(), &input.outer)?));
        }
        columns.extend(input.outer.iter().cloned().map(Expr::Column));
        let plan = LogicalPlanBuilder::from(input.plan).project(columns)?.build()?;
        Ok(self.last_columns(plan))
    }

    fn distinct_on(&self, distinct: &DistinctOn) -> Result<Pushed> {
        let input = self.push(&distinct.input)?;
        let names = NamePreserver::new_for_projection();
        let outer = || input.outer.iter().cloned().map(Expr::Column);
        let replaced = |expressions: &[Expr]| {
            let each = expressions.iter().map(|expression| {
                let name = names.save(expression);
                Ok(name.restore(self.replaced(expression.clone(), &input.outer)?))
            });
            each.collect::<Result<Vec<_>>>()
        };
        let on = outer().chain(replaced(&distinct.on_expr)?).collect();
        let select = replaced(&distinct.select_expr)?.into_iter().chain(outer()).collect();
        let order_by = distinct.sort_expr.as_ref().map(|keys| {
            let first = outer().map(|column| column.sort(true, false)).map(Ok);
            first
                .chain(self.sort_keys(keys, &input.outer))
                .collect::<Result<Vec<_>>>()
        });
        let plan = LogicalPlanBuilder::from(input.plan)
            .distinct_on(on, select, order_by.transpose()?)?
            .build()?;
        Ok(self.last_columns(plan))
    }

    pub(super) fn sort_keys<'k>(
        &'k self,
        keys: &'k [SortExpr],
        outer: &'k [Column],
    ) -> impl Iterator<Item = Result<SortExpr>> + 'k {
        keys.iter()
            .map(|key| Ok(key.with_expr(self.replaced(key.expr.clone(), outer)?)))
    }

    fn union(&self, union: &Union) -> Result<Pushed> {
        let name = self.domain.names.next("__outer");
        let inputs = union.inputs.iter().map(|input| {
            let pushed = self.push(input)?;
            // Its columns, then the values, under the same names in all inputs.
            let schema = pushed.plan.schema();
            let own = schema.iter().take(input.schema().fields().len());
            let own = own.map(Column::from).map(Expr::Column);
            let values = pushed.outer.iter().cloned().map(Expr::Column).enumerate();
            let values = values.map(|(number, value)| value.alias(format!("{name}_{number}")));
            let columns: Vec<_> = own.chain(values).collect();
            LogicalPlanBuilder::from(pushed.plan)
                .project(columns)?
                .build()
                .map(Into::into)
        });
        let inputs = inputs.collect::<Result<Vec<_>>>()?;
        let pushed = self.last_columns(LogicalPlan::Union(Union::try_new_with_loose_types(inputs)?));
        let positions: Vec<_> = (0..union.schema.fields().len()).collect();
        let plan = arranged(pushed.plan, &union.schema, &positions, &pushed.outer)?;
        Ok(self.last_columns(plan))
    }
}

/// `VALUES` as a union of its rows, which have names for what they hold.
fn rows_of(values: &Values) -> Result<LogicalPlan> {
    let names = values.schema.fields().iter().map(|field| field.name());
    let row = |row: &Vec<Expr>| {
        let columns = row.iter().cloned().zip(names.clone());
        let columns: Vec<_> = columns.map(|(value, name)| value.alias(name)).collect();
        LogicalPlanBuilder::empty(true).project(columns)?.build()
    };
    let mut rows = values.values.iter().map(row).collect::<Result<Vec<_>>>()?;
    if rows.len() == 1 {
        return Ok(rows.remove(0));
    }
    let rows = rows.into_iter().map(Into::into).collect();
    Ok(LogicalPlan::Union(Union::try_new_with_loose_types(rows)?))
}

/// What people call a node.
fn name_of(node: &LogicalPlan) -> &'static str {
    match node {
        LogicalPlan::RecursiveQuery(_) => "WITH RECURSIVE",
        _ => "this operation",
    }
}
