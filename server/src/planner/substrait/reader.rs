//! DataFusion's consumer of Substrait, with tables, columns and parameters resolved by our own rules.
//!
//! Relations hold expressions and expressions hold relations, so [`Reader`] calls `read` and `functions`, and both call
//! it again: the one circle of imports here, and a real recursion.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::catalog::TableProvider;
use datafusion::common::{Column, DFSchema, TableReference};
use datafusion::error::Result;
use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::logical_expr::expr::Placeholder;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion_substrait::extensions::Extensions;
use datafusion_substrait::logical_plan::consumer::{
    DefaultSubstraitConsumer, SubstraitConsumer, from_field_reference, from_project_rel, from_substrait_type,
};
use datafusion_substrait::substrait::proto::expression::field_reference::{ReferenceType, RootType};
use datafusion_substrait::substrait::proto::expression::{FieldReference, Literal, ScalarFunction, reference_segment};
use datafusion_substrait::substrait::proto::{
    DynamicParameter, DynamicParameterBinding, ExchangeRel, ProjectRel, ReadRel, Type,
};

use super::declarations::{Declarations, Dialect};
use super::errors::{invalid, unsupported};
use super::{functions, read};

/// Parameters of a plan.
const MAX_PARAMETERS: u32 = 10_000;

/// Reads one plan.
pub(super) struct Reader<'a> {
    pub(super) state: &'a SessionState,
    pub(super) declarations: &'a Declarations,
    /// Values that the plan binds to its parameters.
    bindings: HashMap<u32, &'a Literal>,
    /// How often each table was read so far.
    reads: Mutex<HashMap<TableReference, usize>>,
    /// Keeps the stacks of outer schemas and of lambda parameters.
    inner: DefaultSubstraitConsumer<'a>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        state: &'a SessionState,
        declarations: &'a Declarations,
        bindings: &'a [DynamicParameterBinding],
    ) -> Result<Self> {
        let value = |binding: &'a DynamicParameterBinding| {
            let anchor = binding.parameter_anchor;
            let value = binding.value.as_ref();
            value
                .map(|value| (anchor, value))
                .ok_or_else(|| invalid(format!("the Substrait plan binds its parameter {anchor} to nothing")))
        };
        Ok(Self {
            state,
            declarations,
            bindings: bindings.iter().map(value).collect::<Result<_>>()?,
            reads: Mutex::default(),
            inner: DefaultSubstraitConsumer::new(&declarations.extensions, state),
        })
    }

    /// Another name for a table that was read before. Plans distinguish columns by number and DataFusion by name, so
    /// that without it a column and the same column of an outer query would be one.
    pub(super) fn alias(&self, table: &TableReference) -> Option<TableReference> {
        let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        let count = reads.entry(table.clone()).or_default();
        *count += 1;
        (*count > 1).then(|| TableReference::bare(format!("{}#{count}", table.table())))
    }

    /// Finds a table by its name: as it is written, else in lower case, as SQL treats names without quotes.
    pub(super) async fn table(&self, written: &TableReference) -> Result<(TableReference, Arc<dyn TableProvider>)> {
        for name in [written.clone(), to_lower_case(written)] {
            if let Some(table) = self.resolve_table_ref(&name).await? {
                return Ok((name, table));
            }
        }
        Err(invalid(format!("table '{written}' not found")))
    }
}

impl Reader<'_> {
    /// Refuses a column of an outer query whose name is also one of `input`: DataFusion distinguishes them by name
    /// alone.
    fn refuse_ambiguous(&self, reference: &FieldReference, field: i32, input: &DFSchema) -> Result<()> {
        let Some(RootType::OuterReference(outer)) = &reference.root_type else {
            return Ok(());
        };
        let Some(schema) = self.get_outer_schema(outer.steps_out as usize) else {
            return Ok(());
        };
        let column = schema.qualified_field(usize::try_from(field).unwrap_or_default());
        let column = Column::from(column);
        if !input.has_column(&column) {
            return Ok(());
        }
        Err(unsupported(format!(
            "the Substrait plan refers to column '{column}' of an outer query where there is a column of the same \
             name, which is not supported; give one of them another name in a project relation, or read it from a table"
        )))
    }
}

fn to_lower_case(name: &TableReference) -> TableReference {
    let lower = |part: &str| part.to_lowercase();
    match name {
        TableReference::Bare { table } => TableReference::bare(lower(table)),
        TableReference::Partial { schema, table } => TableReference::partial(lower(schema), lower(table)),
        TableReference::Full { catalog, schema, table } => {
            TableReference::full(lower(catalog), lower(schema), lower(table))
        }
    }
}

#[async_trait]
impl SubstraitConsumer for Reader<'_> {
    async fn resolve_table_ref(&self, name: &TableReference) -> Result<Option<Arc<dyn TableProvider>>> {
        match self.state.schema_for_ref(name.clone()) {
            Ok(schema) => schema.table(name.table()).await,
            Err(_) => Ok(None),
        }
    }

    fn get_extensions(&self) -> &Extensions {
        &self.declarations.extensions
    }

    fn get_function_registry(&self) -> &impl FunctionRegistry {
        self.state
    }

    async fn consume_read(&self, relation: &ReadRel) -> Result<LogicalPlan> {
        read::read(self, relation).await
    }

    async fn consume_project(&self, relation: &ProjectRel) -> Result<LogicalPlan> {
        let plan = from_project_rel(self, relation).await?;
        let kind = relation.common.as_ref().and_then(|it| it.emit_kind.as_ref());
        match (self.declarations.dialect, kind) {
            (Dialect::DuckDb, None) => read::keep_last_columns(plan, relation.expressions.len()),
            _ => Ok(plan),
        }
    }

    /// Skips the exchange: the server decides itself where rows go.
    async fn consume_exchange(&self, relation: &ExchangeRel) -> Result<LogicalPlan> {
        match relation.input.as_deref() {
            Some(input) => self.consume_rel(input).await,
            None => Err(invalid("the Substrait plan has an exchange without an input")),
        }
    }

    async fn consume_field_reference(&self, reference: &FieldReference, input: &DFSchema) -> Result<Expr> {
        if let Some(field) = struct_field(reference) {
            let fields = match &reference.root_type {
                None | Some(RootType::RootReference(_)) => Some(input.fields().len()),
                Some(RootType::OuterReference(outer)) => self
                    .get_outer_schema(outer.steps_out as usize)
                    .map(|schema| schema.fields().len()),
                _ => None,
            };
            check_field(field, fields)?;
            self.refuse_ambiguous(reference, field, input)?;
        }
        from_field_reference(self, reference, input).await
    }

    async fn consume_scalar_function(&self, function: &ScalarFunction, input: &DFSchema) -> Result<Expr> {
        functions::scalar(self, function, input).await
    }

    async fn consume_dynamic_parameter(&self, parameter: &DynamicParameter, _: &DFSchema) -> Result<Expr> {
        let reference = parameter.parameter_reference;
        if let Some(value) = self.bindings.get(&reference) {
            return self.consume_literal(value).await;
        }
        if reference >= MAX_PARAMETERS {
            return Err(invalid(format!(
                "the Substrait plan has a parameter {reference}; they are counted from 0 to {}",
                MAX_PARAMETERS - 1
            )));
        }
        let name = format!("${}", reference + 1);
        let known = parameter.r#type.as_ref();
        let known = known.map(|of| from_substrait_type(self, of, &[], &mut 0));
        let field = known.transpose()?.map(|of: DataType| {
            let nullable = true;
            Arc::new(Field::new(&name, of, nullable))
        });
        Ok(Expr::Placeholder(Placeholder::new_with_field(name, field)))
    }

    fn push_outer_schema(&self, schema: Arc<DFSchema>) {
        self.inner.push_outer_schema(schema);
    }

    fn pop_outer_schema(&self) {
        self.inner.pop_outer_schema();
    }

    fn get_outer_schema(&self, steps_out: usize) -> Option<Arc<DFSchema>> {
        self.inner.get_outer_schema(steps_out)
    }

    fn push_lambda_parameters(&self, types: &[Type], input: &DFSchema) -> Result<Vec<String>> {
        self.inner.push_lambda_parameters(types, input)
    }

    fn pop_lambda_parameters(&self) {
        self.inner.pop_lambda_parameters();
    }

    fn lambda_variable(&self, steps_out: usize, field: usize) -> Result<Expr> {
        self.inner.lambda_variable(steps_out, field)
    }
}

/// The number of the field that a reference begins with.
fn struct_field(reference: &FieldReference) -> Option<i32> {
    let Some(ReferenceType::DirectReference(segment)) = &reference.reference_type else {
        return None;
    };
    match &segment.reference_type {
        Some(reference_segment::ReferenceType::StructField(field)) => Some(field.field),
        _ => None,
    }
}

/// Refuses the number of a field that its input does not have. Without `fields` nothing is checked: DataFusion does it.
pub(super) fn check_field(field: i32, fields: Option<usize>) -> Result<()> {
    let Some(fields) = fields else { return Ok(()) };
    if usize::try_from(field).is_ok_and(|field| field < fields) {
        return Ok(());
    }
    Err(invalid(format!(
        "the Substrait plan refers to field {field} of an input with {fields} fields, which are counted from 0"
    )))
}
