//! What the statistics of a Parquet file really say.
//!
//! DataFusion 55.2 takes the least and greatest value that the row groups tell for those of the file. They are not:
//!
//! - NaN is in no statistics, so those of floats bound nothing (apache/datafusion#24804, #15812);
//! - a row group without bounds, as for long texts, is left out (#25226);
//! - a missing number of NULLs counts as none;
//! - bounds of a file whose column is narrower than that of the table become an exact NULL.
//!
//! Filters, `min`, `max` and columns that seem constant would then give other values than the file holds.

use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::common::stats::Precision;
use datafusion::common::{Statistics, exec_err};
use datafusion::error::Result;
use datafusion::parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use datafusion::scalar::ScalarValue;

/// Takes from `statistics`, of the columns of `schema`, what `metadata` does not prove.
pub(super) fn keep_proven(statistics: &mut Statistics, schema: &Schema, metadata: &ParquetMetaData) {
    for (column, field) in statistics.column_statistics.iter_mut().zip(schema.fields()) {
        let told = Told::of(field.name(), metadata);
        if field.data_type().is_floating() || !told.bounds {
            column.min_value = Precision::Absent;
            column.max_value = Precision::Absent;
            column.sum_value = Precision::Absent;
        }
        for bound in [&mut column.min_value, &mut column.max_value] {
            let is_of_column =
                |value: &ScalarValue| !value.is_null() && value.data_type() == *unpacked(field.data_type());
            if !bound.get_value().is_some_and(is_of_column) {
                *bound = Precision::Absent;
            }
        }
        if !told.nulls {
            column.null_count = Precision::Absent;
        }
    }
}

/// Whether the numbers of rows in a footer agree: that of the file, those of its row groups, those of their columns.
/// Readers believe any of them, and leave out the other rows.
///
/// # Errors
/// When they do not.
pub(super) fn check_rows(metadata: &ParquetMetaData) -> Result<()> {
    let all = metadata.file_metadata().num_rows();
    let mut sum = 0_i64;
    for (number, group) in metadata.row_groups().iter().enumerate() {
        let rows = group.num_rows();
        sum = sum.saturating_add(rows);
        let columns = group.columns().iter();
        // A list may have any number of values.
        let mut flat = columns.filter(|column| column.column_descr().max_rep_level() == 0);
        if let Some(other) = flat.find(|column| column.num_values() != rows || rows < 0) {
            return exec_err!(
                "it is damaged: the row group {number} has {rows} rows, and its column {} {} values",
                other.column_path().string(),
                other.num_values()
            );
        }
    }
    if sum != all {
        return exec_err!("it is damaged: it has {all} rows, and its row groups {sum}");
    }
    Ok(())
}

/// The type of the values of a column.
fn unpacked(data_type: &DataType) -> &DataType {
    match data_type {
        DataType::Dictionary(_, values) => values,
        other => other,
    }
}

/// What every row group tells of a column.
struct Told {
    bounds: bool,
    nulls: bool,
}

impl Told {
    fn of(name: &str, metadata: &ParquetMetaData) -> Self {
        let columns = metadata.file_metadata().schema_descr().columns();
        let index = columns.iter().position(|column| column.path().parts() == [name]);
        // A column that the file does not have is all NULL; one with parts has no statistics.
        let Some(index) = index else {
            return Self {
                bounds: true,
                nulls: true,
            };
        };
        let mut told = Self {
            bounds: true,
            nulls: true,
        };
        for group in metadata.row_groups().iter().filter(|group| group.num_rows() > 0) {
            let (bounds, nulls) = told_by(group, index);
            told.bounds &= bounds;
            told.nulls &= nulls;
        }
        told
    }
}

fn told_by(group: &RowGroupMetaData, column: usize) -> (bool, bool) {
    let Some(statistics) = group.column(column).statistics() else {
        return (false, false);
    };
    let nulls = statistics.null_count_opt();
    let is_all_null = nulls.is_some_and(|nulls| i64::try_from(nulls) == Ok(group.num_rows()));
    let has_bounds = statistics.min_bytes_opt().is_some() && statistics.max_bytes_opt().is_some();
    (has_bounds || is_all_null, nulls.is_some())
}
