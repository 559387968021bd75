//! Read relations: tables of the catalog, and rows that the plan brings along.
//!
//! DataFusion's consumer hands the filter of a read to the table alone, which may apply only a part of it, ignores the
//! filter and the mask of a virtual table, and refuses a plan that declares a column as required where the table may
//! hold NULL. Here the filter becomes a filter node, the mask a projection, and a declared schema is matched by name
//! and type; whether a column may hold NULL follows from the table.
//!
//! A filter is an expression, which may hold subqueries with reads: this file and `reader` import each other, the
//! recursion of the reader.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion::common::{Column, DFSchema, TableReference};
use datafusion::datasource::provider_as_source;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion_substrait::logical_plan::consumer::{SubstraitConsumer, from_read_rel, from_substrait_named_struct};
use datafusion_substrait::substrait::proto::expression::MaskExpression;
use datafusion_substrait::substrait::proto::read_rel::{NamedTable, ReadType};
use datafusion_substrait::substrait::proto::{NamedStruct, ReadRel};

use super::errors::{invalid, unsupported};
use super::reader::{Reader, check_field};
use crate::config::nearest;

/// Reads a read relation.
pub(super) async fn read(reader: &Reader<'_>, relation: &ReadRel) -> Result<LogicalPlan> {
    let declared = relation
        .base_schema
        .as_ref()
        .ok_or_else(|| invalid("the Substrait plan has a read relation without a base schema"))?;
    let plan = match &relation.read_type {
        Some(ReadType::NamedTable(table)) => scan_table(reader, table, declared).await?,
        _ => virtual_rows(from_read_rel(reader, relation).await?)?,
    };
    let plan = match &relation.filter {
        Some(filter) => {
            let predicate = reader.consume_expression(filter, plan.schema()).await?;
            LogicalPlanBuilder::from(plan).filter(predicate)?.build()?
        }
        None => plan,
    };
    match &relation.projection {
        Some(mask) => apply_mask(plan, mask),
        None => Ok(plan),
    }
}

async fn scan_table(reader: &Reader<'_>, table: &NamedTable, declared: &NamedStruct) -> Result<LogicalPlan> {
    let (name, provider) = reader.table(&table_reference(&table.names)?).await?;
    let declared = from_substrait_named_struct(reader, declared)?;
    let schema = provider.schema();
    let columns = declared
        .fields()
        .iter()
        .map(|field| find_column(&schema, field, &name))
        .collect::<Result<Vec<_>>>()?;
    let alias = reader.alias(&name);
    let scan = LogicalPlanBuilder::scan(name, provider_as_source(provider), Some(columns))?;
    match alias {
        Some(alias) => scan.alias(alias)?.build(),
        None => scan.build(),
    }
}

fn table_reference(names: &[String]) -> Result<TableReference> {
    match names {
        [table] => Ok(TableReference::bare(table.as_str())),
        [schema, table] => Ok(TableReference::partial(schema.as_str(), table.as_str())),
        [catalog, schema, table] => Ok(TableReference::full(catalog.as_str(), schema.as_str(), table.as_str())),
        [] => Err(invalid("the Substrait plan reads a table without a name")),
        more => Err(invalid(format!(
            "the Substrait plan names a table by {} parts; they are at most catalog, schema and table",
            more.len()
        ))),
    }
}

/// The index of a declared column in the table: the column of the same name, else the only one that differs in case
/// alone.
fn find_column(schema: &Schema, declared: &Field, table: &TableReference) -> Result<usize> {
    let name = declared.name();
    let same = |exact: bool| {
        let mut matching = schema.fields().iter().enumerate().filter(move |(_, field)| {
            field.name() == name || (!exact && field.name().to_lowercase() == name.to_lowercase())
        });
        let first = matching.next();
        first.filter(|_| matching.next().is_none())
    };
    let Some((index, field)) = same(true).or_else(|| same(false)) else {
        let names = schema.fields().iter().map(|field| field.name().as_str());
        let hint = match nearest(name, names) {
            Some(nearest) => format!("; did you mean '{nearest}'?"),
            None => String::new(),
        };
        return Err(invalid(format!(
            "the Substrait plan reads a column '{name}', which table '{table}' does not have{hint}"
        )));
    };
    if is_same_kind(field.data_type(), declared.data_type()) {
        return Ok(index);
    }
    Err(invalid(format!(
        "the Substrait plan declares column '{name}' of table '{table}' as {}, but it is {}",
        declared.data_type(),
        field.data_type()
    )))
}

/// Whether both types hold the same values, in whatever layout.
fn is_same_kind(one: &DataType, other: &DataType) -> bool {
    let both = |kind: fn(&DataType) -> bool| kind(one) && kind(other);
    DFSchema::datatype_is_logically_equal(one, other) || both(DataType::is_string) || both(DataType::is_binary)
}

/// The virtual table with the types that the plan declares for its columns, each nullable.
fn virtual_rows(plan: LogicalPlan) -> Result<LogicalPlan> {
    let LogicalPlan::Values(rows) = plan else {
        return Ok(plan);
    };
    let columns = rows.schema.fields().len();
    if let Some(row) = rows.values.iter().find(|row| row.len() != columns) {
        return Err(invalid(format!(
            "the Substrait plan has a virtual table of {columns} columns with a row of {}",
            row.len()
        )));
    }
    let fields: Vec<FieldRef> = rows.schema.fields().iter().map(to_nullable).collect();
    let schema = Arc::new(DFSchema::from_unqualified_fields(fields.into(), Default::default())?);
    LogicalPlanBuilder::values_with_schema(rows.values, &schema)?.build()
}

/// The field as nullable: the rows of a virtual table are not checked for NULL.
fn to_nullable(field: &FieldRef) -> FieldRef {
    Arc::new(field.as_ref().clone().with_nullable(true))
}

/// Drops all but the last `count` columns of a projection.
pub(super) fn keep_last_columns(plan: LogicalPlan, count: usize) -> Result<LogicalPlan> {
    let LogicalPlan::Projection(mut projection) = plan else {
        return Ok(plan);
    };
    let first = projection.expr.len().saturating_sub(count);
    let last = projection.expr.split_off(first);
    let input = Arc::unwrap_or_clone(projection.input);
    LogicalPlanBuilder::from(input).project(last)?.build()
}

fn apply_mask(plan: LogicalPlan, mask: &MaskExpression) -> Result<LogicalPlan> {
    let Some(select) = &mask.select else {
        return Ok(plan);
    };
    let schema = Arc::clone(plan.schema());
    let columns = select
        .struct_items
        .iter()
        .map(|item| {
            if item.child.is_some() {
                return Err(unsupported(
                    "the Substrait plan masks fields inside a column: it is not supported",
                ));
            }
            check_field(item.field, Some(schema.fields().len()))?;
            let field = schema.qualified_field(usize::try_from(item.field).unwrap_or_default());
            Ok(Expr::Column(Column::from(field)))
        })
        .collect::<Result<Vec<_>>>()?;
    LogicalPlanBuilder::from(plan).project(columns)?.build()
}
