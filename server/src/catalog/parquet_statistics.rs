//! What the statistics of a Parquet file really say.
//!
//! DataFusion 55.2 takes the least and greatest value that the row groups tell for those of the file. They are not:
//!
//! - NaN is in no statistics, so those of floats bound nothing (apache/datafusion#24804, #15812);
//! - a row group without bounds, as for long texts, is left out (#25226);
//! - a missing number of NULLs counts as none;
//! - bounds of old writers compare bytes with their signs, so that texts lie outside of them;
//! - bounds of a file whose column is narrower than that of the table become an exact NULL.
//!
//! Filters, `min`, `max` and columns that seem constant would then give other values than the file holds.

use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::common::stats::Precision;
use datafusion::common::{self, exec_err};
use datafusion::error::Result;
use datafusion::parquet::basic::SortOrder;
use datafusion::parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData};
use datafusion::parquet::file::statistics::Statistics;
use datafusion::scalar::ScalarValue;

/// Takes from `statistics`, of the columns of `schema`, what `metadata` does not prove.
pub(super) fn keep_proven(statistics: &mut common::Statistics, schema: &Schema, metadata: &ParquetMetaData) {
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

/// Whether some column has bounds by which no row group may be left out.
pub(super) fn has_old_bounds(metadata: &ParquetMetaData) -> bool {
    let groups = metadata.row_groups().iter();
    groups.flat_map(RowGroupMetaData::columns).any(is_old)
}

/// Whether the bounds of a column are in the fields that were given up, where all compared as signed numbers.
fn is_old(column: &ColumnChunkMetaData) -> bool {
    let statistics = column.statistics();
    statistics.is_some_and(Statistics::is_min_max_deprecated) && column.column_descr().sort_order() != SortOrder::SIGNED
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
    let has_bounds =
        statistics.min_bytes_opt().is_some() && statistics.max_bytes_opt().is_some() && !is_old(group.column(column));
    (has_bounds || is_all_null, nulls.is_some())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::parquet::file::metadata::FileMetaData;
    use datafusion::parquet::schema::parser::parse_message_type;
    use datafusion::parquet::schema::types::SchemaDescriptor;

    use super::*;

    /// The footer of a file of `rows`, whose row groups have so many rows, and their columns so many values.
    fn footer(rows: i64, groups: &[(i64, i64)]) -> ParquetMetaData {
        let schema = parse_message_type("message m { required int64 id; }").unwrap();
        let schema = Arc::new(SchemaDescriptor::new(Arc::new(schema)));
        let groups = groups.iter().map(|(rows, values)| {
            let column = ColumnChunkMetaData::builder(schema.column(0)).set_num_values(*values);
            let group = RowGroupMetaData::builder(Arc::clone(&schema)).set_num_rows(*rows);
            group
                .set_column_metadata(vec![column.build().unwrap()])
                .build()
                .unwrap()
        });
        let groups = groups.collect();
        ParquetMetaData::new(FileMetaData::new(1, rows, None, None, schema, None), groups)
    }

    #[test]
    fn numbers_of_rows_must_agree() {
        assert!(check_rows(&footer(6, &[(2, 2), (4, 4)])).is_ok());
        assert!(check_rows(&footer(0, &[])).is_ok());
        for (wrong, part) in [
            (footer(6, &[(2, 2), (3, 3)]), "it has 6 rows, and its row groups 5"),
            (
                footer(6, &[(2, 1), (4, 4)]),
                "row group 0 has 2 rows, and its column id 1 values",
            ),
            (footer(-1, &[(-1, -1)]), "row group 0 has -1 rows"),
        ] {
            let error = check_rows(&wrong).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
