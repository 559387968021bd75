//! Statements that show what there is: SHOW TABLES, COLUMNS, VIEWS, SCHEMAS, DATABASES, FUNCTIONS and CREATE, and DESCRIBE.
//!
//! DataFusion plans SHOW without its filters, and names the types of columns as Arrow does. Most become a query of
//! `information_schema`, so that a filter may speak of all its columns.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::catalog::SchemaProvider;
use datafusion::common::TableReference;
use datafusion::config::Dialect;
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{DescribeTable, LogicalPlan, LogicalPlanBuilder, col};
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::{
    ObjectName, ShowCreateObject, ShowStatementFilter, ShowStatementFilterPosition, ShowStatementInParentType,
    ShowStatementOptions, Statement,
};
use squadron_proto::{Failure, FailureKind};
use squadron_shuffle::failure::into_datafusion;
use squadron_shuffle::type_names::{quoted, sql_name, text_literal};

use super::rewrite::normalized;
use crate::catalog::stored_name;
use crate::config::nearest;
use crate::planner::schema::without_mark;

/// The schemas that describe the server; they are shown where they are named.
const OWN_SCHEMAS: &str = "('information_schema', 'system')";

/// The plan of a SHOW; none for other statements.
///
/// # Errors
/// For what is not there, and for a clause that means nothing here.
pub(super) async fn plan(state: &SessionState, statement: &DfStatement) -> DataFusionResult<Option<LogicalPlan>> {
    let DfStatement::Statement(statement) = statement else {
        return Ok(None);
    };
    let query = match statement.as_ref() {
        Statement::ShowTables { show_options, .. } => tables(state, show_options, "")?,
        Statement::ShowViews { show_options, .. } => tables(state, show_options, " AND table_type = 'VIEW'")?,
        Statement::ShowColumns {
            full,
            extended,
            show_options,
        } => columns(state, show_options, *full || *extended).await?,
        Statement::ShowSchemas { show_options, .. } => schemas(state, show_options)?,
        Statement::ShowDatabases { show_options, .. } | Statement::ShowCatalogs { show_options, .. } => {
            let shown = "SELECT DISTINCT catalog_name AS database_name FROM information_schema.schemata";
            filtered(shown, "database_name", filter_of(show_options)?, "1")
        }
        Statement::ShowFunctions { filter } => functions(filter.as_ref()),
        Statement::ShowCreate {
            obj_type: ShowCreateObject::Table | ShowCreateObject::View,
            obj_name,
        } => return created(state, obj_name).await.map(Some),
        _ => return Ok(None),
    };
    // The session may have a dialect that quotes names in another way.
    let query = state.sql_to_statement(&query, &Dialect::Generic)?;
    state.statement_to_plan(query).await.map(Some)
}

/// A query of a query, with a filter on one column or a condition on any.
fn filtered(query: &str, column: &str, filter: Option<&ShowStatementFilter>, order: &str) -> String {
    let condition = match filter {
        None => String::new(),
        Some(ShowStatementFilter::Where(condition)) => format!(" WHERE {condition}"),
        // Names are written in small letters, and patterns are often not.
        Some(
            ShowStatementFilter::Like(pattern)
            | ShowStatementFilter::ILike(pattern)
            | ShowStatementFilter::NoKeyword(pattern),
        ) => format!(" WHERE {column} ILIKE {}", text_literal(pattern)),
    };
    format!("SELECT * FROM ({query}) AS shown{condition} ORDER BY {order}")
}

fn filter_of(options: &ShowStatementOptions) -> DataFusionResult<Option<&ShowStatementFilter>> {
    if options.starts_with.is_some() || options.limit.is_some() || options.limit_from.is_some() {
        return Err(refused(
            FailureKind::Unsupported,
            "SHOW takes LIKE 'pattern' or WHERE condition, not STARTS WITH or LIMIT; information_schema can be queried freely",
        ));
    }
    Ok(options.filter_position.as_ref().map(|position| match position {
        ShowStatementFilterPosition::Infix(filter) | ShowStatementFilterPosition::Suffix(filter) => filter,
    }))
}

fn tables(state: &SessionState, options: &ShowStatementOptions, kind: &str) -> DataFusionResult<String> {
    let place = match place_of(state, options)? {
        None => format!("table_schema NOT IN {OWN_SCHEMAS}"),
        Some(Place { catalog, schema: None }) => {
            format!(
                "table_catalog = {} AND table_schema NOT IN {OWN_SCHEMAS}",
                text_literal(&catalog)
            )
        }
        Some(Place {
            catalog,
            schema: Some(schema),
        }) => {
            format!(
                "table_catalog = {} AND table_schema = {}",
                text_literal(&catalog),
                text_literal(&schema)
            )
        }
    };
    let query = format!("SELECT * FROM information_schema.tables WHERE {place}{kind}");
    Ok(filtered(&query, "table_name", filter_of(options)?, "1, 2, 3"))
}

fn schemas(state: &SessionState, options: &ShowStatementOptions) -> DataFusionResult<String> {
    let place = match place_of(state, options)? {
        Some(place) => format!(" WHERE catalog_name = {}", text_literal(&place.catalog)),
        None => String::new(),
    };
    // `schemata` does not list its own schema.
    let query = format!(
        "SELECT DISTINCT catalog_name, schema_name FROM (SELECT catalog_name, schema_name FROM information_schema.schemata \
         UNION ALL SELECT catalog_name, 'information_schema' FROM information_schema.schemata) AS listed{place}"
    );
    Ok(filtered(&query, "schema_name", filter_of(options)?, "1, 2"))
}

fn functions(filter: Option<&ShowStatementFilter>) -> String {
    let query = "SELECT DISTINCT routine_name AS function_name, function_type, syntax_example, description \
                 FROM information_schema.routines";
    filtered(query, "function_name", filter, "1, 2")
}

async fn columns(state: &SessionState, options: &ShowStatementOptions, full: bool) -> DataFusionResult<String> {
    let named = options.show_in.as_ref();
    let table = named.and_then(|named| match named.parent_type {
        None | Some(ShowStatementInParentType::Table | ShowStatementInParentType::View) => named.parent_name.as_ref(),
        Some(_) => None,
    });
    let Some(table) = table else {
        return Err(refused(FailureKind::Invalid, "write SHOW COLUMNS FROM table"));
    };
    let table = find(state, table).await?;
    let shown = match full {
        true => "*",
        false => "table_catalog, table_schema, table_name, column_name, data_type, is_nullable, ordinal_position",
    };
    let query = format!(
        "SELECT {shown} FROM information_schema.columns WHERE table_catalog = {} AND table_schema = {} AND table_name = {}",
        text_literal(&table.catalog),
        text_literal(&table.schema),
        text_literal(&table.name)
    );
    Ok(filtered(&query, "column_name", filter_of(options)?, "ordinal_position"))
}

/// A schema, or a catalog with all its schemas.
struct Place {
    catalog: String,
    schema: Option<String>,
}

/// What SHOW ... FROM names; none where it names nothing.
fn place_of(state: &SessionState, options: &ShowStatementOptions) -> DataFusionResult<Option<Place>> {
    let Some(name) = options.show_in.as_ref().and_then(|named| named.parent_name.as_ref()) else {
        return Ok(None);
    };
    let catalogs = state.catalog_list();
    let schemas_of = |catalog: &str| catalogs.catalog(catalog).map(|catalog| catalog.schema_names());
    let default = state.config_options().catalog.default_catalog.clone();
    let (catalog, schema) = match parts_of(name).as_slice() {
        [schema] => {
            let schemas = schemas_of(&default).unwrap_or_default();
            if !schemas.contains(schema) && catalogs.catalog(schema).is_some() {
                return Ok(Some(Place {
                    catalog: schema.clone(),
                    schema: None,
                }));
            }
            (default, schema.clone())
        }
        [catalog, schema] => (catalog.clone(), schema.clone()),
        _ => {
            return Err(refused(
                FailureKind::Invalid,
                "write SHOW ... FROM schema, or FROM catalog.schema",
            ));
        }
    };
    let schemas = schemas_of(&catalog).unwrap_or_default();
    if schemas.contains(&schema) {
        return Ok(Some(Place {
            catalog,
            schema: Some(schema),
        }));
    }
    let hint = match nearest(&schema, schemas.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {}?", quoted(near)),
        None => "SHOW SCHEMAS lists those there are".to_owned(),
    };
    let message = format!("there is no schema {}; {hint}", quoted(&schema));
    Err(refused(FailureKind::NotFound, &message))
}

/// A table that is there, by the names under which it is listed.
struct Found {
    catalog: String,
    schema: String,
    name: String,
    provider: Arc<dyn SchemaProvider>,
}

async fn find(state: &SessionState, name: &ObjectName) -> DataFusionResult<Found> {
    let reference = match parts_of(name).as_slice() {
        [table] => TableReference::bare(table.as_str()),
        [schema, table] => TableReference::partial(schema.as_str(), table.as_str()),
        [catalog, schema, table] => TableReference::full(catalog.as_str(), schema.as_str(), table.as_str()),
        _ => {
            return Err(refused(
                FailureKind::Invalid,
                "a table has at most three names: catalog.schema.table",
            ));
        }
    };
    let defaults = &state.config_options().catalog;
    let resolved = reference.resolve(&defaults.default_catalog, &defaults.default_schema);
    let unknown = format!("table '{}' not found", TableReference::from(resolved.clone()));
    let catalog = state.catalog_list().catalog(&resolved.catalog);
    let provider = catalog.and_then(|catalog| catalog.schema(&resolved.schema));
    let Some(provider) = provider else {
        return Err(refused(FailureKind::NotFound, &unknown));
    };
    if provider.table(&resolved.table).await?.is_none() {
        return Err(refused(FailureKind::NotFound, &unknown));
    }
    Ok(Found {
        catalog: resolved.catalog.to_string(),
        schema: resolved.schema.to_string(),
        name: stored_name(provider.as_ref(), &resolved.table),
        provider,
    })
}

/// SHOW CREATE TABLE: a statement that makes the table again.
async fn created(state: &SessionState, name: &ObjectName) -> DataFusionResult<LogicalPlan> {
    let found = find(state, name).await?;
    let table = found.provider.table(&found.name).await?;
    let statement = table.as_ref().and_then(|table| table.get_table_definition());
    let Some(statement) = statement else {
        let message = format!(
            "no statement makes {}.{}: it is the server's own",
            quoted(&found.schema),
            quoted(&found.name)
        );
        return Err(refused(FailureKind::Unsupported, &message));
    };
    rows(&[
        ("table_catalog", vec![found.catalog.as_str()]),
        ("table_schema", vec![found.schema.as_str()]),
        ("table_name", vec![found.name.as_str()]),
        ("definition", vec![statement]),
    ])
}

/// The plan of DESCRIBE, with the columns that it asks for; other plans as they are.
pub(super) fn described(plan: LogicalPlan) -> DataFusionResult<LogicalPlan> {
    let LogicalPlan::DescribeTable(DescribeTable { schema, .. }) = plan else {
        return Ok(plan);
    };
    let fields = schema.fields().iter();
    let types: Vec<_> = fields.clone().map(|field| sql_name(field.data_type())).collect();
    rows(&[
        (
            "column_name",
            fields.clone().map(|field| without_mark(field.name())).collect(),
        ),
        ("data_type", types.iter().map(String::as_str).collect()),
        (
            "is_nullable",
            fields
                .map(|field| if field.is_nullable() { "YES" } else { "NO" })
                .collect(),
        ),
    ])
}

/// A plan of rows that are there, all of them texts.
fn rows(columns: &[(&str, Vec<&str>)]) -> DataFusionResult<LogicalPlan> {
    let arrays = columns
        .iter()
        .map(|(name, texts)| (*name, Arc::new(StringArray::from(texts.clone())) as ArrayRef, false));
    let batch = RecordBatch::try_from_iter_with_nullable(arrays)?;
    let table = MemTable::try_new(batch.schema(), vec![vec![batch]])?;
    // Columns of no table: the name of this one means nothing.
    let names = columns.iter().map(|(name, _)| col(*name).alias(*name));
    LogicalPlanBuilder::scan("shown", provider_as_source(Arc::new(table)), None)?
        .project(names)?
        .build()
}

fn parts_of(name: &ObjectName) -> Vec<String> {
    let parts = name.0.iter();
    parts
        .map(|part| part.as_ident().map_or_else(|| part.to_string(), normalized))
        .collect()
}

fn refused(kind: FailureKind, sentence: &str) -> datafusion::error::DataFusionError {
    into_datafusion(Failure::new(kind, sentence))
}
