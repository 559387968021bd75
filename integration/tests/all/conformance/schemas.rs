//! The schemas of the metadata commands as `FlightSql.proto` defines them: names, types, nullability, order.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, UnionFields, UnionMode};

fn text(name: &str, nullable: bool) -> Field {
    Field::new(name, DataType::Utf8, nullable)
}

fn int32(name: &str, nullable: bool) -> Field {
    Field::new(name, DataType::Int32, nullable)
}

fn byte(name: &str) -> Field {
    Field::new(name, DataType::UInt8, false)
}

pub(super) fn catalogs() -> Schema {
    Schema::new(vec![text("catalog_name", false)])
}

pub(super) fn db_schemas() -> Schema {
    Schema::new(vec![text("catalog_name", true), text("db_schema_name", false)])
}

pub(super) fn tables(with_schema: bool) -> Schema {
    let mut fields = vec![
        text("catalog_name", true),
        text("db_schema_name", true),
        text("table_name", false),
        text("table_type", false),
    ];
    if with_schema {
        fields.push(Field::new("table_schema", DataType::Binary, false));
    }
    Schema::new(fields)
}

pub(super) fn table_types() -> Schema {
    Schema::new(vec![text("table_type", false)])
}

pub(super) fn primary_keys() -> Schema {
    Schema::new(vec![
        text("catalog_name", true),
        text("db_schema_name", true),
        text("table_name", false),
        text("column_name", false),
        text("key_name", true),
        int32("key_sequence", false),
    ])
}

pub(super) fn foreign_keys() -> Schema {
    Schema::new(vec![
        text("pk_catalog_name", true),
        text("pk_db_schema_name", true),
        text("pk_table_name", false),
        text("pk_column_name", false),
        text("fk_catalog_name", true),
        text("fk_db_schema_name", true),
        text("fk_table_name", false),
        text("fk_column_name", false),
        int32("key_sequence", false),
        text("fk_key_name", true),
        text("pk_key_name", true),
        byte("update_rule"),
        byte("delete_rule"),
    ])
}

pub(super) fn type_info() -> Schema {
    let params = Field::new("item", DataType::Utf8, false);
    Schema::new(vec![
        text("type_name", false),
        int32("data_type", false),
        int32("column_size", true),
        text("literal_prefix", true),
        text("literal_suffix", true),
        Field::new("create_params", DataType::List(Arc::new(params)), true),
        int32("nullable", false),
        Field::new("case_sensitive", DataType::Boolean, false),
        int32("searchable", false),
        Field::new("unsigned_attribute", DataType::Boolean, true),
        Field::new("fixed_prec_scale", DataType::Boolean, false),
        Field::new("auto_increment", DataType::Boolean, true),
        text("local_type_name", true),
        int32("minimum_scale", true),
        int32("maximum_scale", true),
        int32("sql_data_type", false),
        int32("datetime_subcode", true),
        int32("num_prec_radix", true),
        int32("interval_precision", true),
    ])
}

/// Type ids and names of the children; the item names of the lists inside are left to the implementation.
pub(super) fn sql_info_children(schema: &Schema) -> Vec<(i8, String)> {
    let DataType::Union(children, UnionMode::Dense) = schema.field(1).data_type() else {
        panic!("not a dense union: {schema}");
    };
    let children: &UnionFields = children;
    let names = children.iter().map(|(id, field)| (id, field.name().clone()));
    names.collect()
}
