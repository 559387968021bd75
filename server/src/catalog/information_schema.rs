//! `information_schema`: DataFusion's, with types by their SQL names, positions that begin with 1, and views only in `views`.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, BooleanArray, Int32Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::catalog::information_schema::{
    INFORMATION_SCHEMA, INFORMATION_SCHEMA_TABLES, InformationSchemaProvider,
};
use datafusion::catalog::{CatalogProviderList, SchemaProvider, Session, TableFunction, TableProvider};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::Result;
use datafusion::logical_expr::{Documentation, Expr, Signature, TableType, Volatility};
use datafusion::physical_plan::ExecutionPlan;
use squadron_shuffle::type_names::catalog_name;

/// The schema; it is one of those in its list of catalogs, and so does not keep the list.
pub(super) struct InformationSchema {
    catalogs: Weak<dyn CatalogProviderList>,
    functions: HashMap<String, Arc<TableFunction>>,
}

impl fmt::Debug for InformationSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(INFORMATION_SCHEMA)
    }
}

impl InformationSchema {
    pub(super) fn new(catalogs: &Arc<dyn CatalogProviderList>, functions: HashMap<String, Arc<TableFunction>>) -> Self {
        Self {
            catalogs: Arc::downgrade(catalogs),
            functions,
        }
    }
}

#[async_trait]
impl SchemaProvider for InformationSchema {
    fn table_names(&self) -> Vec<String> {
        INFORMATION_SCHEMA_TABLES.iter().map(ToString::to_string).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let Some(catalogs) = self.catalogs.upgrade() else {
            return Ok(None);
        };
        let about = match name {
            "columns" => About::Columns,
            "views" => About::Views,
            "routines" => About::Routines,
            other => {
                let others = InformationSchemaProvider::new(catalogs).with_table_functions(self.functions.clone());
                return others.table(other).await;
            }
        };
        Ok(Some(Arc::new(Listing {
            about,
            schema: about.schema(),
            catalogs: Weak::clone(&self.catalogs),
            functions: sorted(self.functions.keys().cloned().collect()),
        })))
    }

    async fn table_type(&self, name: &str) -> Result<Option<TableType>> {
        Ok(self.table_exist(name).then_some(TableType::View))
    }

    fn table_exist(&self, name: &str) -> bool {
        INFORMATION_SCHEMA_TABLES.contains(&name)
    }
}

/// What a listing of all tables tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About {
    Columns,
    Views,
    Routines,
}

impl About {
    fn schema(self) -> SchemaRef {
        let text = |name, is_nullable| Field::new(name, DataType::Utf8, is_nullable);
        let number = |name, is_nullable| Field::new(name, DataType::Int32, is_nullable);
        let names = match self {
            Self::Columns | Self::Views => ["table_catalog", "table_schema", "table_name"],
            Self::Routines => ["routine_catalog", "routine_schema", "routine_name"],
        };
        let mut fields = names.map(|name| text(name, false)).to_vec();
        fields.extend(match self {
            Self::Routines => vec![
                text("routine_type", false),
                text("function_type", false),
                Field::new("is_deterministic", DataType::Boolean, false),
                text("description", true),
                text("syntax_example", true),
            ],
            Self::Views => vec![text("definition", true)],
            Self::Columns => vec![
                text("column_name", false),
                number("ordinal_position", false),
                text("column_default", true),
                text("is_nullable", false),
                text("data_type", false),
                number("character_maximum_length", true),
                number("character_octet_length", true),
                number("numeric_precision", true),
                number("numeric_precision_radix", true),
                number("numeric_scale", true),
                number("datetime_precision", true),
                text("interval_type", true),
            ],
        });
        Arc::new(Schema::new(fields))
    }
}

/// A table about all tables or functions, filled when a query is planned.
#[derive(Debug)]
struct Listing {
    about: About,
    schema: SchemaRef,
    catalogs: Weak<dyn CatalogProviderList>,
    /// The names of functions that make rows.
    functions: Vec<String>,
}

impl Listing {
    async fn rows(&self, session: &dyn Session) -> Result<RecordBatch> {
        let tables = match self.catalogs.upgrade() {
            Some(catalogs) if self.about != About::Routines => all_tables(catalogs.as_ref()).await,
            Some(_) | None => Vec::new(),
        };
        let columns = match self.about {
            About::Columns => columns(&tables),
            About::Views => views(&tables),
            About::Routines => routines(session, &self.functions),
        };
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

#[async_trait]
impl TableProvider for Listing {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let rows = [vec![self.rows(state).await?]];
        let schema = Arc::clone(&self.schema);
        Ok(MemorySourceConfig::try_new_exec(&rows, schema, projection.cloned())?)
    }
}

/// A table with the names of its catalog and schema.
struct Named {
    catalog: String,
    schema: String,
    name: String,
    table: Arc<dyn TableProvider>,
}

/// All tables in the order of their names. One that cannot be read must not hide the others.
async fn all_tables(catalogs: &dyn CatalogProviderList) -> Vec<Named> {
    let mut tables = Vec::new();
    for catalog_name in sorted(catalogs.catalog_names()) {
        let Some(catalog) = catalogs.catalog(&catalog_name) else {
            continue;
        };
        for schema_name in sorted(catalog.schema_names()) {
            let Some(schema) = catalog.schema(&schema_name) else {
                continue;
            };
            for name in sorted(schema.table_names()) {
                match schema.table(&name).await {
                    Ok(Some(table)) => tables.push(Named {
                        catalog: catalog_name.clone(),
                        schema: schema_name.clone(),
                        name,
                        table,
                    }),
                    // Dropped since its name was read.
                    Ok(None) => {}
                    Err(error) => tracing::warn!(table = name, "a table cannot be described: {error}"),
                }
            }
        }
    }
    tables
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort_unstable();
    names
}

fn views(tables: &[Named]) -> Vec<ArrayRef> {
    let views = tables
        .iter()
        .filter(|table| table.table.table_type() == TableType::View);
    let views: Vec<_> = views.filter(|view| view.schema != INFORMATION_SCHEMA).collect();
    let texts = |of: fn(&Named) -> &str| texts(views.iter().map(|view| Some(of(view))));
    vec![
        texts(|view| &view.catalog),
        texts(|view| &view.schema),
        texts(|view| &view.name),
        self::texts(views.iter().map(|view| view.table.get_table_definition())),
    ]
}

/// The functions of the session. DataFusion would list those of the process that runs the plan.
fn routines(session: &dyn Session, of_rows: &[String]) -> Vec<ArrayRef> {
    let mut rows: Vec<Routine<'_>> = Vec::new();
    for (name, function) in session.scalar_functions() {
        rows.push(Routine::new(
            name,
            "SCALAR",
            function.signature(),
            function.documentation(),
        ));
    }
    for (name, function) in session.aggregate_functions() {
        rows.push(Routine::new(
            name,
            "AGGREGATE",
            function.signature(),
            function.documentation(),
        ));
    }
    for (name, function) in session.window_functions() {
        rows.push(Routine::new(
            name,
            "WINDOW",
            function.signature(),
            function.documentation(),
        ));
    }
    rows.extend(of_rows.iter().map(|name| Routine {
        name,
        kind: "TABLE",
        is_deterministic: true,
        documentation: None,
    }));
    // What begins so is no function for users.
    rows.retain(|row| !row.name.starts_with('_'));
    rows.sort_by_key(|row| (row.name, row.kind));
    let defaults = &session.config_options().catalog;
    let same = |text: &str| self::texts(rows.iter().map(|_| Some(text)));
    let documented = |text: fn(&Documentation) -> &str| self::texts(rows.iter().map(|row| row.documentation.map(text)));
    vec![
        same(&defaults.default_catalog),
        same(&defaults.default_schema),
        self::texts(rows.iter().map(|row| Some(row.name))),
        same("FUNCTION"),
        self::texts(rows.iter().map(|row| Some(row.kind))),
        Arc::new(
            rows.iter()
                .map(|row| Some(row.is_deterministic))
                .collect::<BooleanArray>(),
        ),
        documented(|documentation| &documentation.description),
        documented(|documentation| &documentation.syntax_example),
    ]
}

/// One function.
struct Routine<'a> {
    name: &'a str,
    kind: &'static str,
    is_deterministic: bool,
    documentation: Option<&'a Documentation>,
}

impl<'a> Routine<'a> {
    fn new(name: &'a str, kind: &'static str, signature: &Signature, documentation: Option<&'a Documentation>) -> Self {
        Self {
            name,
            kind,
            is_deterministic: signature.volatility == Volatility::Immutable,
            documentation,
        }
    }
}

fn columns(tables: &[Named]) -> Vec<ArrayRef> {
    let schemas: Vec<_> = tables.iter().map(|table| table.table.schema()).collect();
    let rows: Vec<(&Named, usize, &Field)> = tables
        .iter()
        .zip(&schemas)
        .flat_map(|(table, schema)| {
            let fields = schema.fields().iter().enumerate();
            fields.map(move |(index, field)| (table, index, field.as_ref()))
        })
        .collect();
    let types = || rows.iter().map(|(_, _, field)| values_of(field.data_type()));
    let position = |index: usize| i32::try_from(index + 1).ok();
    let numbers =
        |numbers: &mut dyn Iterator<Item = Option<i32>>| Arc::new(numbers.collect::<Int32Array>()) as ArrayRef;
    let names = types().map(catalog_name);
    let sizes: Vec<_> = types().map(numeric).collect();
    vec![
        texts(rows.iter().map(|(table, ..)| Some(table.catalog.as_str()))),
        texts(rows.iter().map(|(table, ..)| Some(table.schema.as_str()))),
        texts(rows.iter().map(|(table, ..)| Some(table.name.as_str()))),
        texts(rows.iter().map(|(.., field)| Some(field.name().as_str()))),
        numbers(&mut rows.iter().map(|(_, index, _)| position(*index))),
        texts(rows.iter().map(|_| None)),
        texts(
            rows.iter()
                .map(|(.., field)| Some(if field.is_nullable() { "YES" } else { "NO" })),
        ),
        Arc::new(StringArray::from_iter_values(names)),
        numbers(&mut rows.iter().map(|_| None)),
        numbers(&mut types().map(|data_type| is_text(data_type).then_some(i32::MAX))),
        numbers(&mut sizes.iter().map(|size| size.precision)),
        numbers(&mut sizes.iter().map(|size| size.radix)),
        numbers(&mut sizes.iter().map(|size| size.scale)),
        numbers(&mut types().map(fraction_digits)),
        texts(rows.iter().map(|_| None)),
    ]
}

fn texts<'a>(texts: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(texts.collect::<StringArray>())
}

/// The type of the values, which is what queries compute with.
fn values_of(data_type: &DataType) -> &DataType {
    match data_type {
        DataType::Dictionary(_, values) => values_of(values),
        DataType::RunEndEncoded(_, values) => values_of(values.data_type()),
        other => other,
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// How large numbers of a type may be; nothing for other types.
#[derive(Default)]
struct Numeric {
    precision: Option<i32>,
    radix: Option<i32>,
    scale: Option<i32>,
}

/// As PostgreSQL counts: bits of binary numbers, digits of decimals.
fn numeric(data_type: &DataType) -> Numeric {
    let of = |precision: i32, radix: i32, scale: Option<i32>| Numeric {
        precision: Some(precision),
        radix: Some(radix),
        scale,
    };
    match data_type {
        DataType::Int8 | DataType::UInt8 => of(8, 2, Some(0)),
        DataType::Int16 | DataType::UInt16 => of(16, 2, Some(0)),
        DataType::Int32 | DataType::UInt32 => of(32, 2, Some(0)),
        DataType::Int64 | DataType::UInt64 => of(64, 2, Some(0)),
        DataType::Float16 => of(11, 2, None),
        DataType::Float32 => of(24, 2, None),
        DataType::Float64 => of(53, 2, None),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => of((*precision).into(), 10, Some((*scale).into())),
        _ => Numeric::default(),
    }
}

/// The digits of a second's fraction; none for what has no time.
fn fraction_digits(data_type: &DataType) -> Option<i32> {
    let unit = match data_type {
        DataType::Time32(unit) | DataType::Time64(unit) | DataType::Timestamp(unit, _) | DataType::Duration(unit) => {
            unit
        }
        _ => return None,
    };
    Some(match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    })
}
