//! Statements that change the catalog, each in one step.
//!
//! DataFusion's own DDL checks, removes and adds in separate steps, so that two concurrent statements may both succeed,
//! and a replacement that fails loses the old table. Here the new table is made first and then put in place under one
//! lock. Statements that only touch the session (functions, `CREATE TABLE AS`, schemas) stay DataFusion's.

use std::sync::Arc;

use datafusion::catalog::information_schema::INFORMATION_SCHEMA;
use datafusion::catalog::{SchemaProvider, TableProvider, TableProviderFactory};
use datafusion::common::{TableReference, not_impl_err, plan_err};
use datafusion::config::ConfigOptions;
use datafusion::datasource::{TableType, ViewTable};
use datafusion::error::Result;
use datafusion::execution::context::SessionContext;
use datafusion::logical_expr::{CreateExternalTable, CreateView, DdlStatement, LogicalPlan};
use datafusion::optimizer::Analyzer;
use datafusion::optimizer::analyzer::type_coercion::TypeCoercion;
use squadron_proto::{Failure, FailureKind};
use squadron_shuffle::failure::into_datafusion;

use super::external::{ExternalTableFactory, already_exists};
use super::names::SYSTEM_SCHEMA;
use super::schema::{OnConflict, SharedSchema};

pub(super) async fn execute(
    context: &SessionContext,
    factory: &ExternalTableFactory,
    statement: DdlStatement,
) -> Result<()> {
    match statement {
        DdlStatement::CreateExternalTable(create) => create_external(context, factory, &create).await,
        DdlStatement::CreateView(create) => create_view(context, create).await,
        DdlStatement::DropTable(drop) => remove(context, &drop.name, TableType::Base, drop.if_exists).await,
        DdlStatement::DropView(drop) => remove(context, &drop.name, TableType::View, drop.if_exists).await,
        DdlStatement::DropCatalogSchema(drop)
            if [SYSTEM_SCHEMA, INFORMATION_SCHEMA].contains(&drop.name.schema_name()) =>
        {
            plan_err!(
                "the schema {} is the server's own and cannot be dropped",
                drop.name.schema_name()
            )
        }
        other => {
            // DDL of DataFusion runs when it is planned; the frame is empty.
            context.execute_logical_plan(LogicalPlan::Ddl(other)).await?;
            Ok(())
        }
    }
}

async fn create_external(
    context: &SessionContext,
    factory: &ExternalTableFactory,
    create: &CreateExternalTable,
) -> Result<()> {
    if create.temporary {
        return not_impl_err!("temporary tables are not supported; leave the word out");
    }
    let on_conflict = match (create.if_not_exists, create.or_replace) {
        (true, true) => {
            return plan_err!("IF NOT EXISTS and OR REPLACE exclude each other; leave one out");
        }
        (true, false) => OnConflict::Keep,
        (false, true) => OnConflict::Replace,
        (false, false) => OnConflict::Refuse,
    };
    let state = context.state();
    let schema = state.schema_for_ref(create.name.clone())?;
    if schema.table_exist(create.name.table()) {
        match on_conflict {
            OnConflict::Keep => return Ok(()),
            OnConflict::Refuse => return Err(already_exists(create.name.table())),
            OnConflict::Replace => {}
        }
    }
    let table = factory.create(&state, create).await?;
    put(schema.as_ref(), create.name.table(), table, on_conflict)
}

async fn create_view(context: &SessionContext, create: CreateView) -> Result<()> {
    if create.temporary {
        return not_impl_err!("temporary views are not supported; leave the word out");
    }
    let plan = Analyzer::with_rules(vec![Arc::new(TypeCoercion::new())]).execute_and_check(
        Arc::unwrap_or_clone(create.input),
        &ConfigOptions::default(),
        |_, _| {},
    )?;
    let mut names = std::collections::HashSet::new();
    if let Some(twice) = plan
        .schema()
        .fields()
        .iter()
        .find(|field| !names.insert(field.name().clone()))
    {
        return plan_err!(
            "the view would have two columns named {}; give one an alias",
            twice.name()
        );
    }
    let view = Arc::new(ViewTable::new(plan, create.definition));
    let on_conflict = if create.or_replace {
        OnConflict::Replace
    } else {
        OnConflict::Refuse
    };
    let schema = context.state().schema_for_ref(create.name.clone())?;
    put(schema.as_ref(), create.name.table(), view, on_conflict)
}

fn put(schema: &dyn SchemaProvider, name: &str, table: Arc<dyn TableProvider>, on_conflict: OnConflict) -> Result<()> {
    if let Some(shared) = schema.downcast_ref::<SharedSchema>() {
        return shared.put(name, table, on_conflict);
    }
    // A schema made by CREATE SCHEMA cannot do this in a single step.
    match on_conflict {
        OnConflict::Keep if schema.table_exist(name) => return Ok(()),
        OnConflict::Replace => drop(schema.deregister_table(name)?),
        OnConflict::Keep | OnConflict::Refuse => {}
    }
    schema.register_table(name.to_string(), table)?;
    Ok(())
}

async fn remove(context: &SessionContext, name: &TableReference, kind: TableType, if_exists: bool) -> Result<()> {
    let schema = match context.state().schema_for_ref(name.clone()) {
        Ok(schema) => schema,
        Err(_) if if_exists => return Ok(()),
        Err(error) => return Err(error),
    };
    let removed = match schema.downcast_ref::<SharedSchema>() {
        Some(shared) => shared.remove(name.table(), kind)?,
        None => match schema.table(name.table()).await? {
            Some(table) if table.table_type() == kind => schema.deregister_table(name.table())?.is_some(),
            Some(_) | None => false,
        },
    };
    if !removed && !if_exists {
        let what = if kind == TableType::View { "view" } else { "table" };
        return Err(into_datafusion(Failure::new(
            FailureKind::NotFound,
            format!("there is no {what} {name} to drop; SHOW TABLES lists what there is"),
        )));
    }
    forget_statistics(context, name)
}

/// Drops cached statistics: they are kept by the table's name, and a later table of that name has its own.
fn forget_statistics(context: &SessionContext, name: &TableReference) -> Result<()> {
    let runtime = context.runtime_env();
    match runtime.cache_manager.get_file_statistic_cache() {
        Some(cache) => cache.drop_table_entries(name),
        None => Ok(()),
    }
}
