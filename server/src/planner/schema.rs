//! The schema that clients see: the logical schema, without the types that they cannot read.
//!
//! ```text
//! Utf8View, BinaryView        -> Utf8, Binary            many clients know no views
//! ListView, LargeListView     -> List, LargeList
//! Dictionary, RunEndEncoded   -> their values            the encoder sends no dictionaries to clients
//! Float16                     -> Float32                 JDBC refuses the whole result otherwise
//! Decimal32, Decimal64        -> Decimal128              the same
//! the columns of a Map        -> named key and value     JDBC finds them by these names
//! ```
//!
//! Every value stays exactly the same.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::DFSchema;

use super::columns;

/// Stands between a name that two columns of one SELECT have and the number of the column.
pub(crate) const DUPLICATE_MARK: char = '\u{1f}';

/// The name as the user knows it.
pub fn without_mark(name: &str) -> &str {
    name.split_once(DUPLICATE_MARK).map_or(name, |(name, _)| name)
}

/// The frozen schema of a statement's rows: [`client_schema`], and each column described for drivers.
pub fn result_schema(logical: &DFSchema) -> SchemaRef {
    let origins: Vec<_> = logical.iter().map(|(origin, _)| origin).collect();
    let plain = client_schema(logical.as_arrow());
    Arc::new(columns::describe(&plain, |index| origins[index]))
}

/// A schema as clients read it: names (without marks), nullability and metadata of the logical schema; views, dictionaries and run-ends
/// become the plain types that every client reads, at any depth.
pub fn client_schema(logical: &Schema) -> SchemaRef {
    let fields: Vec<FieldRef> = logical.fields().iter().map(client_field).collect();
    Arc::new(Schema::new_with_metadata(fields, logical.metadata().clone()))
}

/// `schema` with plain types for views at the top level, as most programs write them to files; nested types stay.
pub fn without_views(schema: &Schema) -> SchemaRef {
    let fields: Vec<FieldRef> = schema
        .fields()
        .iter()
        .map(|field| match field.data_type() {
            DataType::Utf8View | DataType::BinaryView => client_field(field),
            _ => Arc::clone(field),
        })
        .collect();
    let metadata = schema.metadata().clone();
    Arc::new(Schema::new_with_metadata(fields, metadata))
}

fn client_field(field: &FieldRef) -> FieldRef {
    let plain = client_type(field.data_type());
    let name = without_mark(field.name());
    if plain == *field.data_type() && name == field.name() {
        return Arc::clone(field);
    }
    let field = Field::new(name, plain, is_nullable(field)).with_metadata(field.metadata().clone());
    Arc::new(field)
}

/// Run-end encoded arrays hold their nulls in their values.
fn is_nullable(field: &Field) -> bool {
    match field.data_type() {
        DataType::RunEndEncoded(_, values) => field.is_nullable() || is_nullable(values),
        _ => field.is_nullable(),
    }
}

/// The type that every client reads.
pub fn client_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Float16 => DataType::Float32,
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::Dictionary(_, values) => client_type(values),
        DataType::RunEndEncoded(_, values) => client_type(values.data_type()),
        DataType::List(item) | DataType::ListView(item) => DataType::List(client_field(item)),
        DataType::LargeList(item) | DataType::LargeListView(item) => DataType::LargeList(client_field(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(client_field(item), *size),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(client_field).collect()),
        DataType::Map(entries, sorted) => DataType::Map(client_entries(entries), *sorted),
        DataType::Union(members, mode) => {
            let members = members.iter().map(|(id, member)| (id, client_field(member)));
            DataType::Union(members.collect(), *mode)
        }
        other => other.clone(),
    }
}

/// JDBC finds the two columns of a map by the names that Arrow recommends; under other names it reads only nulls.
fn client_entries(entries: &FieldRef) -> FieldRef {
    let DataType::Struct(columns) = entries.data_type() else {
        return client_field(entries);
    };
    let named = |(column, name): (&FieldRef, &str)| Arc::new(client_field(column).as_ref().clone().with_name(name));
    let columns = columns.iter().zip(["key", "value"]).map(named);
    let plain = DataType::Struct(columns.collect());
    let plain = Field::new("entries", plain, entries.is_nullable());
    Arc::new(plain.with_metadata(entries.metadata().clone()))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::UnionMode;

    use super::*;

    #[test]
    fn views_become_plain_at_any_depth() {
        let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8View));
        let nested = DataType::Struct(vec![Field::new("inner", DataType::Utf8View, false)].into());
        let logical = Schema::new(vec![
            Field::new("a", dictionary, true),
            Field::new("b", DataType::new_list(nested, true), true),
        ]);
        let seen = client_schema(&logical);
        assert_eq!(seen.field(0).data_type(), &DataType::Utf8);
        let plain = DataType::Struct(vec![Field::new("inner", DataType::Utf8, false)].into());
        assert_eq!(seen.field(1).data_type(), &DataType::new_list(plain, true));
    }

    #[test]
    fn readable_types_stay_unchanged() {
        let logical = Schema::new(vec![Field::new("n", DataType::Decimal128(15, 2), false)]);
        assert_eq!(client_schema(&logical).as_ref(), &logical);
    }

    #[test]
    fn map_columns_are_named_for_jdbc() {
        let entries = |key: &str, value: &str, text| {
            let columns = vec![Field::new(key, DataType::Int32, false), Field::new(value, text, true)];
            let entries = DataType::Struct(columns.into());
            Field::new("entries", entries, false)
        };
        let map = |entries| DataType::Map(Arc::new(entries), false);
        let logical = map(entries("keys", "values", DataType::Utf8View));
        let union = |map: DataType| {
            let member = Arc::new(Field::new("map", map, true));
            DataType::Union([(0, member)].into_iter().collect(), UnionMode::Dense)
        };
        let plain = map(entries("key", "value", DataType::Utf8));
        assert_eq!(client_type(&logical), plain);
        assert_eq!(client_type(&union(logical)), union(plain));
    }
}
