//! The schema that clients see: the logical one, without what they cannot read.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};

/// The frozen schema of a result: names, nullability and metadata of the logical schema; views and dictionaries become
/// the plain types that every client reads.
pub fn client_schema(logical: &Schema) -> SchemaRef {
    let fields: Vec<FieldRef> = logical.fields().iter().map(client_field).collect();
    Arc::new(Schema::new_with_metadata(
        fields,
        logical.metadata().clone(),
    ))
}

fn client_field(field: &FieldRef) -> FieldRef {
    let plain = client_type(field.data_type());
    if plain == *field.data_type() {
        return Arc::clone(field);
    }
    let field = Field::new(field.name(), plain, field.is_nullable())
        .with_metadata(field.metadata().clone());
    Arc::new(field)
}

fn client_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, values) => client_type(values),
        DataType::RunEndEncoded(_, values) => client_type(values.data_type()),
        DataType::List(item) | DataType::ListView(item) => DataType::List(client_field(item)),
        DataType::LargeList(item) | DataType::LargeListView(item) => {
            DataType::LargeList(client_field(item))
        }
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(client_field(item), *size),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(client_field).collect()),
        DataType::Map(entries, sorted) => DataType::Map(client_field(entries), *sorted),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_and_dictionaries_are_hidden_at_any_depth() {
        let dictionary =
            DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8View));
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
    fn what_clients_can_read_stays_as_it_is() {
        let logical = Schema::new(vec![Field::new("n", DataType::Decimal128(15, 2), false)]);
        assert_eq!(client_schema(&logical).as_ref(), &logical);
    }
}
