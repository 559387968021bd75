//! Gives a batch exactly the schema that its plan declares.
//!
//! The batches of an operator may deviate from the schema of its plan: in nullability, metadata, names, view types, and
//! placeholder columns without a type. Readers of a shuffle and clients rely on the declared schema.

mod reshape;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
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
        .map(|(column, field)| reshape::reshape(column, field.data_type()))
        .collect::<Result<Vec<ArrayRef>, _>>()
        .map_err(|error| failure::arrow(&error))?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
        .map_err(|error| Failure::internal(format!("a batch is not what was declared: {error}")))
}
