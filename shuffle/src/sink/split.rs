//! Splits rows by their folders: `k=v` for each partition column.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{CastOptions, cast_with_options, take_record_batch};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::{Result, internal_datafusion_err};
use object_store::path::Path;
use squadron_proto::{Failure, FailureKind};

use crate::failure::into_datafusion;

/// The folder of NULL, by Hive's convention, which other programs follow.
pub const NULL_FOLDER: &str = "__HIVE_DEFAULT_PARTITION__";

/// Splits batches by the values of some columns.
pub(super) struct Splitter {
    columns: Vec<(String, usize)>,
    file_columns: Vec<usize>,
}

impl Splitter {
    /// `partition_by` are columns of `schema`; those of `file_schema` stay in the batches.
    pub(super) fn new(schema: &SchemaRef, file_schema: &SchemaRef, partition_by: &[String]) -> Result<Self> {
        let columns = partition_by
            .iter()
            .map(|name| Ok((name.clone(), schema.index_of(name)?)))
            .collect::<Result<_>>()?;
        let file_columns = file_schema
            .fields()
            .iter()
            .map(|field| Ok(schema.index_of(field.name())?))
            .collect::<Result<_>>()?;
        Ok(Self { columns, file_columns })
    }

    /// The folder of each part and its rows, in their order in `batch`, which must not be empty.
    ///
    /// # Errors
    /// When a value cannot be the name of a folder.
    pub(super) fn split(&self, batch: &RecordBatch) -> Result<Vec<(Path, RecordBatch)>> {
        let values = self
            .columns
            .iter()
            .map(|(name, index)| folder_values(name, batch.column(*index)))
            .collect::<Result<Vec<_>>>()?;
        let mut places: HashMap<Vec<&str>, usize> = HashMap::new();
        let mut parts: Vec<(Path, Vec<u32>)> = Vec::new();
        for row in 0..batch.num_rows() {
            let key: Vec<&str> = values.iter().map(|values| values.value(row)).collect();
            let place = match places.get(&key) {
                Some(place) => *place,
                None => {
                    parts.push((self.folder(&key), Vec::new()));
                    places.insert(key, parts.len() - 1);
                    parts.len() - 1
                }
            };
            let number =
                u32::try_from(row).map_err(|error| internal_datafusion_err!("row {row} of a batch: {error}"))?;
            parts[place].1.push(number);
        }
        let rows = batch.project(&self.file_columns)?;
        if let [(folder, _)] = parts.as_slice() {
            return Ok(vec![(folder.clone(), rows)]);
        }
        parts
            .into_iter()
            .map(|(folder, numbers)| Ok((folder, take_record_batch(&rows, &UInt32Array::from(numbers))?)))
            .collect()
    }

    fn folder(&self, values: &[&str]) -> Path {
        let pairs = self.columns.iter().zip(values);
        pairs.fold(Path::default(), |path, ((name, _), value)| {
            path.join(format!("{name}={value}"))
        })
    }
}

fn folder_values(name: &str, column: &ArrayRef) -> Result<Arc<StringArray>> {
    let refused = |why: &str| {
        into_datafusion(Failure::new(
            FailureKind::Invalid,
            format!("the partition column {name} {why}"),
        ))
    };
    let options = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    let texts = cast_with_options(column, &DataType::Utf8, &options).map_err(|_| {
        refused(&format!(
            "is of type {}, which makes no folder names; cast it to text",
            column.data_type()
        ))
    })?;
    let texts: Option<&StringArray> = texts.as_any().downcast_ref();
    let texts = texts.ok_or_else(|| internal_datafusion_err!("a cast gave no text"))?;
    let is_null_folder = |text: Option<&str>| text == Some(NULL_FOLDER);
    if texts.iter().any(is_null_folder) {
        return Err(refused(&format!(
            "holds the text {NULL_FOLDER}, which is the name of the folder of NULL"
        )));
    }
    let names = texts.iter().map(|text| text.unwrap_or(NULL_FOLDER));
    Ok(Arc::new(StringArray::from_iter_values(names)))
}
