//! The metadata commands: each has the same schema in every RPC, and rows that follow its filters.

use arrow::array::{Array, AsArray, RecordBatch, UnionArray};
use arrow::datatypes::{DataType, Int32Type, Schema, UInt32Type};
use arrow::ipc::convert::try_schema_from_ipc_buffer;
use arrow_flight::sql::{
    CommandGetCatalogs, CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys, CommandGetImportedKeys,
    CommandGetPrimaryKeys, CommandGetSqlInfo, CommandGetTableTypes, CommandGetTables, CommandGetXdbcTypeInfo,
};

use super::schemas;
use super::wire::pack;
use super::world::{World, texts};
use super::{Entry, Rpc, check, example, served};

const RPCS: &[Rpc] = &[Rpc::GetFlightInfo, Rpc::PollFlightInfo, Rpc::GetSchema, Rpc::DoGet];

/// One metadata command.
macro_rules! command {
    ($message:ident, $value:expr, $what:expr, $used_by:expr, $($check:path),+) => {
        served(stringify!($message), RPCS, $what)
            .used_by($used_by)
            .example(example!(pack(&$value)))
            $(.check(check!($check)))+
    };
}

pub(super) fn entries() -> Vec<Entry> {
    [
        command!(
            CommandGetCatalogs,
            CommandGetCatalogs {},
            "all catalogs, by name",
            "ADBC `get_objects`; JDBC, ODBC metadata",
            catalogs
        ),
        command!(
            CommandGetDbSchemas,
            CommandGetDbSchemas::default(),
            "by exact catalog and schema pattern",
            "ADBC `get_objects`; JDBC `getSchemas`; ODBC",
            db_schemas
        ),
        command!(
            CommandGetTables,
            tables_like("%"),
            "both shapes; patterns with `%`, `_` and `\\`; columns with TYPE_NAME, PRECISION, SCALE",
            "ADBC `get_objects`, `get_table_schema`; JDBC `getTables`, `getColumns`; ODBC",
            tables_follow_their_filters,
            tables_with_schema
        ),
        command!(
            CommandGetTableTypes,
            CommandGetTableTypes {},
            "the types that CommandGetTables filters by",
            "ADBC `get_table_types`; JDBC, ODBC",
            table_types
        ),
    ]
    .into_iter()
    .chain(key_entries())
    .chain([type_info_entry()])
    .chain(sql_info_entries())
    .collect()
}

fn key_entries() -> Vec<Entry> {
    vec![
        command!(
            CommandGetPrimaryKeys,
            CommandGetPrimaryKeys {
                table: "nation".into(),
                ..Default::default()
            },
            "the declared keys of a table, often none",
            "ADBC `get_objects`; JDBC `getPrimaryKeys`",
            primary_keys
        ),
        command!(
            CommandGetExportedKeys,
            CommandGetExportedKeys {
                table: "nation".into(),
                ..Default::default()
            },
            "well-formed; tables declare no foreign keys",
            "JDBC `getExportedKeys`",
            foreign_keys
        ),
        command!(
            CommandGetImportedKeys,
            CommandGetImportedKeys {
                table: "nation".into(),
                ..Default::default()
            },
            "well-formed; tables declare no foreign keys",
            "ADBC `get_objects`; JDBC `getImportedKeys`",
            foreign_keys
        ),
        command!(
            CommandGetCrossReference,
            CommandGetCrossReference {
                pk_table: "region".into(),
                fk_table: "nation".into(),
                ..Default::default()
            },
            "well-formed; tables declare no foreign keys",
            "JDBC `getCrossReference`",
            foreign_keys
        ),
    ]
}

fn type_info_entry() -> Entry {
    command!(
        CommandGetXdbcTypeInfo,
        CommandGetXdbcTypeInfo { data_type: None },
        "every type, or those of one JDBC/ODBC number",
        "ODBC SQLGetTypeInfo; Power BI; JDBC `getTypeInfo`",
        type_info
    )
}

/// The child of the union that holds a key's value, as JDBC and ODBC drivers cast it.
const TEXT: i8 = 0;
const FLAG: i8 = 1;
const NUMBER: i8 = 2;
const BITS: i8 = 3;
const LIST: i8 = 4;
const MAP: i8 = 5;

fn sql_info_entries() -> Vec<Entry> {
    let example = |entry: Entry| entry.example(example!(pack(&CommandGetSqlInfo::default())));
    let sql_info = |detail, what, used_by| {
        let entry = served("CommandGetSqlInfo", RPCS, what);
        example(entry.detail(detail).used_by(used_by))
    };
    vec![
        sql_info(
            "all keys, some, unknown ones",
            "exactly the known keys among those asked for; all for none",
            "JDBC and ODBC at their first metadata call",
        )
        .check(check!(sql_info_by_key)),
        sql_info(
            "keys 0 to 11, 100, 101",
            "the server: name, versions, SQL, Substrait, transactions, cancel, ingestion, timeouts",
            "ADBC at connect (8) and `get_info`",
        )
        .check(check!(sql_info_of_the_server)),
        sql_info(
            "keys 500 to 506",
            "DDL, case and quoting of identifiers",
            "JDBC, ODBC; DBeaver, Tableau",
        )
        .check(check!(sql_info_of_names)),
        sql_info(
            "keys 507 to 576",
            "null ordering, keywords, functions, limits, joins, grammar, conversions",
            "JDBC, ODBC; DBeaver, Tableau",
        )
        .check(check!(sql_info_of_the_grammar)),
    ]
}

/// Checks names, types and nullability; the schema may have further metadata.
#[track_caller]
fn assert_schema(batch: &RecordBatch, expected: &Schema) {
    assert_eq!(batch.schema().fields(), expected.fields());
}

fn assert_sorted(batch: &RecordBatch, columns: &[&str]) {
    let columns: Vec<_> = columns.iter().map(|column| texts(batch, column)).collect();
    let rows: Vec<Vec<_>> = (0..batch.num_rows())
        .map(|row| columns.iter().map(|column| column[row].clone()).collect())
        .collect();
    assert!(rows.is_sorted(), "{rows:?}");
}

async fn catalogs(world: &World) {
    let batch = world.batch(&CommandGetCatalogs {}).await;
    assert_schema(&batch, &schemas::catalogs());
    assert_sorted(&batch, &["catalog_name"]);
    assert!(texts(&batch, "catalog_name").contains(&Some("datafusion".into())));
}

async fn db_schemas(world: &World) {
    let all = world.batch(&CommandGetDbSchemas::default()).await;
    assert_schema(&all, &schemas::db_schemas());
    assert_sorted(&all, &["catalog_name", "db_schema_name"]);
    let ask = |catalog: Option<&str>, pattern: Option<&str>| CommandGetDbSchemas {
        catalog: catalog.map(Into::into),
        db_schema_filter_pattern: pattern.map(Into::into),
    };
    for (catalog, pattern, expected) in [
        (Some("datafusion"), Some("public"), &["public"][..]),
        (None, Some("publi_"), &["public"]),
        (None, Some("PUBLIC"), &[]),
        (Some("data%"), None, &[]),
        (Some("nowhere"), None, &[]),
        // An empty catalog asks for schemas without one, and every schema has one.
        (Some(""), None, &[]),
    ] {
        let batch = world.batch(&ask(catalog, pattern)).await;
        let found: Vec<_> = texts(&batch, "db_schema_name").into_iter().flatten().collect();
        assert_eq!(found, expected, "{catalog:?} {pattern:?}");
    }
}

fn tables_like(pattern: &str) -> CommandGetTables {
    CommandGetTables {
        table_name_filter_pattern: Some(pattern.into()),
        ..Default::default()
    }
}

/// Filters of CommandGetTables, and the tables that each finds.
fn table_filters() -> Vec<(CommandGetTables, &'static [&'static str])> {
    vec![
        (tables_like("region"), &["region"]),
        (tables_like("part%"), &["part", "partsupp"]),
        (tables_like("_ation"), &["nation"]),
        (tables_like("\\_ation"), &[]),
        (tables_like("REGION"), &[]),
        (tables_like(""), &[]),
        (
            CommandGetTables {
                catalog: Some("nowhere".into()),
                ..tables_like("region")
            },
            &[],
        ),
        (
            CommandGetTables {
                catalog: Some("data%".into()),
                ..tables_like("region")
            },
            &[],
        ),
        (
            CommandGetTables {
                catalog: Some("".into()),
                ..tables_like("region")
            },
            &[],
        ),
        (
            CommandGetTables {
                db_schema_filter_pattern: Some("pub%".into()),
                ..tables_like("region")
            },
            &["region"],
        ),
        (
            CommandGetTables {
                db_schema_filter_pattern: Some("other".into()),
                ..tables_like("region")
            },
            &[],
        ),
        (
            CommandGetTables {
                table_types: vec!["TABLE".into()],
                ..tables_like("region")
            },
            &["region"],
        ),
        (
            CommandGetTables {
                table_types: vec!["VIEW".into()],
                ..tables_like("region")
            },
            &[],
        ),
        (
            CommandGetTables {
                table_types: vec!["VIEW".into(), "TABLE".into()],
                ..tables_like("region")
            },
            &["region"],
        ),
    ]
}

async fn tables_follow_their_filters(world: &World) {
    let all = world.batch(&CommandGetTables::default()).await;
    assert_schema(&all, &schemas::tables(false));
    assert_sorted(&all, &["catalog_name", "db_schema_name", "table_name", "table_type"]);
    for (command, expected) in table_filters() {
        let batch = world.batch(&command).await;
        let found: Vec<_> = texts(&batch, "table_name").into_iter().flatten().collect();
        assert_eq!(found, expected, "{command:?}");
    }
}

async fn tables_with_schema(world: &World) {
    let command = CommandGetTables {
        include_schema: true,
        ..tables_like("lineitem")
    };
    let batch = world.batch(&command).await;
    assert_schema(&batch, &schemas::tables(true));
    assert_eq!(batch.num_rows(), 1);
    let bytes = batch.column(4).as_binary::<i32>().value(0);
    let columns = try_schema_from_ipc_buffer(bytes).expect("an encapsulated schema");
    let metadata = |column: &str, key: &str| {
        let field = columns.field_with_name(column).expect("the column is there");
        let key = format!("ARROW:FLIGHT:SQL:{key}");
        let value = field.metadata().get(&key);
        value
            .cloned()
            .unwrap_or_else(|| panic!("{column} has no {key}: {field:?}"))
    };
    assert_eq!(columns.fields().len(), 16);
    for field in columns.fields() {
        assert!(!metadata(field.name(), "TYPE_NAME").is_empty());
        assert_eq!(metadata(field.name(), "TABLE_NAME"), "lineitem");
        assert!(!matches!(
            field.data_type(),
            DataType::Utf8View | DataType::Dictionary(..)
        ));
    }
    assert_eq!(metadata("l_extendedprice", "PRECISION"), "15");
    assert_eq!(metadata("l_extendedprice", "SCALE"), "2");
}

async fn table_types(world: &World) {
    let batch = world.batch(&CommandGetTableTypes {}).await;
    assert_schema(&batch, &schemas::table_types());
    assert_sorted(&batch, &["table_type"]);
    let kinds = texts(&batch, "table_type");
    // The type of every table is listed.
    let tables = world.batch(&CommandGetTables::default()).await;
    for kind in texts(&tables, "table_type") {
        assert!(kinds.contains(&kind), "{kind:?} is not in {kinds:?}");
    }
}

async fn primary_keys(world: &World) {
    for table in ["nation", "no_such_table", ""] {
        let command = CommandGetPrimaryKeys {
            table: table.into(),
            ..Default::default()
        };
        let batch = world.batch(&command).await;
        assert_schema(&batch, &schemas::primary_keys());
        assert_eq!(batch.num_rows(), 0, "TPC-H tables declare no keys");
    }
}

async fn foreign_keys(world: &World) {
    let exported = CommandGetExportedKeys {
        table: "region".into(),
        ..Default::default()
    };
    let imported = CommandGetImportedKeys {
        table: "nation".into(),
        ..Default::default()
    };
    let crossed = CommandGetCrossReference {
        pk_table: "region".into(),
        fk_table: "nation".into(),
        ..Default::default()
    };
    for batch in [
        world.batch(&exported).await,
        world.batch(&imported).await,
        world.batch(&crossed).await,
    ] {
        assert_schema(&batch, &schemas::foreign_keys());
        assert_eq!(batch.num_rows(), 0);
    }
}

async fn type_info(world: &World) {
    let all = world.batch(&CommandGetXdbcTypeInfo { data_type: None }).await;
    assert_schema(&all, &schemas::type_info());
    let numbers = |batch: &RecordBatch| {
        let column = batch.column(1).as_primitive::<Int32Type>();
        column.values().to_vec()
    };
    let types = numbers(&all);
    assert!(types.is_sorted(), "{types:?}");
    let names: Vec<_> = texts(&all, "type_name").into_iter().flatten().collect();
    assert_eq!(names.len(), types.len());
    for wanted in types.iter().copied().chain([9_999]) {
        let command = CommandGetXdbcTypeInfo {
            data_type: Some(wanted),
        };
        let found = numbers(&world.batch(&command).await);
        let expected: Vec<_> = types.iter().copied().filter(|it| *it == wanted).collect();
        assert_eq!(found, expected, "of type {wanted}");
    }
}

/// Asks for keys of SqlInfo; gives each key with the child that holds its value, and the values.
async fn sql_info(world: &World, keys: &[u32]) -> (Vec<(u32, i8)>, UnionArray) {
    let batch = world.batch(&CommandGetSqlInfo { info: keys.to_vec() }).await;
    let field = batch.schema().field(0).clone();
    assert_eq!(
        (field.name().as_str(), field.data_type(), field.is_nullable()),
        ("info_name", &DataType::UInt32, false)
    );
    let children = schemas::sql_info_children(&batch.schema());
    let expected = [
        (TEXT, "string_value"),
        (FLAG, "bool_value"),
        (NUMBER, "bigint_value"),
        (BITS, "int32_bitmask"),
        (LIST, "string_list"),
        (MAP, "int32_to_int32_list_map"),
    ];
    assert_eq!(children, expected.map(|(id, name)| (id, name.to_owned())));
    let names = batch.column(0).as_primitive::<UInt32Type>();
    let values = batch.column(1).as_any().downcast_ref::<UnionArray>();
    let values = values.expect("a union").clone();
    let keys = (0..batch.num_rows()).map(|row| (names.value(row), values.type_id(row)));
    (keys.collect(), values)
}

async fn sql_info_by_key(world: &World) {
    let (all, _) = sql_info(world, &[]).await;
    let keys: Vec<_> = all.iter().map(|(key, _)| *key).collect();
    let expected: Vec<_> = (0..=11).chain([100, 101]).chain(500..=576).collect();
    assert_eq!(keys, expected, "none missing: DBeaver and Tableau fail on a null");
    let (some, _) = sql_info(world, &[8, 0, 99_999]).await;
    assert_eq!(some, [(0, TEXT), (8, BITS)]);
    let (none, _) = sql_info(world, &[99_999]).await;
    assert!(none.is_empty());
}

async fn assert_types(world: &World, keys: impl IntoIterator<Item = u32>, expected: impl Fn(u32) -> i8) {
    let keys: Vec<_> = keys.into_iter().collect();
    let (found, values) = sql_info(world, &keys).await;
    let expected: Vec<_> = keys.iter().map(|key| (*key, expected(*key))).collect();
    assert_eq!(found, expected);
    for (row, (key, _)) in found.iter().enumerate() {
        assert!(!values.value(row).is_null(0), "key {key} is null");
    }
}

async fn sql_info_of_the_server(world: &World) {
    assert_types(world, (0..=11).chain([100, 101]), |key| match key {
        0..=2 | 6 | 7 => TEXT,
        8 | 100 | 101 => BITS,
        _ => FLAG,
    })
    .await;
    let (_, values) = sql_info(world, &[0, 2, 4, 5, 8]).await;
    assert_eq!(values.value(0).as_string::<i32>().value(0), "Squadron");
    assert!(!values.value(1).as_string::<i32>().value(0).is_empty());
    assert!(values.value(2).as_boolean().value(0), "it speaks SQL");
    assert!(values.value(3).as_boolean().value(0), "and Substrait");
    // For any other value, ADBC opens a transaction when it connects.
    assert_eq!(values.value(4).as_primitive::<Int32Type>().value(0), 0);
}

async fn sql_info_of_names(world: &World) {
    assert_types(world, 500..=506, |key| match key {
        503 | 505 => NUMBER,
        504 => TEXT,
        _ => FLAG,
    })
    .await;
    let (_, values) = sql_info(world, &[504]).await;
    assert_eq!(values.value(0).as_string::<i32>().value(0), "\"");
}

async fn sql_info_of_the_grammar(world: &World) {
    assert_types(world, 507..=576, |key| match key {
        513 | 514 | 529..=531 => TEXT,
        507 | 541..=555 | 557..=562 => NUMBER,
        522 | 525 | 526 | 528 | 533..=535 | 538 | 540 | 564 | 567..=571 => BITS,
        508..=512 => LIST,
        517 => MAP,
        _ => FLAG,
    })
    .await;
    let (_, values) = sql_info(world, &[509]).await;
    let functions = values.value(0);
    let functions = functions.as_list::<i32>().value(0);
    assert!(functions.len() > 10, "numeric functions: {functions:?}");
}
