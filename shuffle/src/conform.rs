//! Gives a batch exactly the schema that was promised for it.
//!
//! What an operator yields may deviate from what its plan declares: nullability, metadata, names, view types, and
//! placeholder columns without a type. Readers of a shuffle and clients rely on the declared schema.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{Field, SchemaRef};
use squadron_proto::Failure;

use crate::failure;

/// `batch` with exactly `schema`: columns are cast to its types, names, nullability and metadata are replaced.
///
/// # Errors
/// When the number of columns differs, a value cannot be cast, or a null stands in a column declared without nulls.
pub fn conform(batch: RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, Failure> {
    if Arc::ptr_eq(batch.schema_ref(), schema) || batch.schema_ref() == schema {
        return Ok(batch);
    }
    if batch.num_columns() != schema.fields().len() {
        return Err(Failure::internal(format!(
            "a batch has {} columns where {} were declared",
            batch.num_columns(),
            schema.fields().len()
        )));
    }
    let columns = batch.columns().iter().zip(schema.fields());
    let columns = columns
        .map(|(column, field)| cast(column, field))
        .collect::<Result<_, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
        .map_err(|error| Failure::internal(format!("a batch is not what was declared: {error}")))
}

fn cast(column: &ArrayRef, field: &Field) -> Result<ArrayRef, Failure> {
    if column.data_type() == field.data_type() {
        return Ok(Arc::clone(column));
    }
    let options = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    cast_with_options(column, field.data_type(), &options).map_err(|error| failure::arrow(&error))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray, Int32Array, NullArray, StringViewArray};
    use arrow::datatypes::{DataType, Schema};
    use squadron_proto::FailureKind;

    use super::*;

    fn batch() -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable([
            (
                "a",
                Arc::new(Int32Array::from(vec![1, 2])) as ArrayRef,
                true,
            ),
            ("b", Arc::new(StringViewArray::from(vec!["x", "y"])), true),
            ("c", Arc::new(NullArray::new(2)), true),
        ])
        .unwrap()
    }

    fn schema(fields: Vec<Field>) -> SchemaRef {
        Arc::new(Schema::new(fields))
    }

    #[test]
    fn an_equal_schema_changes_nothing() {
        let batch = batch();
        let same = conform(batch.clone(), &Arc::new(batch.schema().as_ref().clone())).unwrap();
        assert!(Arc::ptr_eq(batch.column(1), same.column(1)));
    }

    #[test]
    fn names_types_nullability_and_metadata_are_replaced() {
        let wanted = schema(vec![
            Field::new("k", DataType::Int64, false)
                .with_metadata([("unit".to_string(), "m".to_string())].into()),
            Field::new("name", DataType::Utf8, true),
            Field::new("none", DataType::Int32, true),
        ]);
        let conformed = conform(batch(), &wanted).unwrap();
        assert_eq!(conformed.schema(), wanted);
        assert_eq!(conformed.column(1).as_string::<i32>().value(1), "y");
        assert_eq!(conformed.column(2).null_count(), 2);
    }

    #[test]
    fn a_null_where_none_was_promised_is_an_error() {
        let wanted = schema(vec![
            Field::new("a", DataType::Int32, true),
            Field::new("b", DataType::Utf8View, true),
            Field::new("c", DataType::Int32, false),
        ]);
        let failure = conform(batch(), &wanted).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Internal);
    }

    #[test]
    fn without_columns_the_row_count_stays() {
        let options = RecordBatchOptions::new().with_row_count(Some(7));
        let batch = RecordBatch::try_new_with_options(schema(vec![]), vec![], &options).unwrap();
        let wanted = Arc::new(Schema::empty().with_metadata([("a".into(), "b".into())].into()));
        assert_eq!(conform(batch, &wanted).unwrap().num_rows(), 7);
    }

    #[test]
    fn another_number_of_columns_is_an_error() {
        assert!(conform(batch(), &schema(vec![])).is_err());
    }
}
