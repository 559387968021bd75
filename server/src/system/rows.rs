//! Builds a record batch from rows of any type, column by column.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use datafusion::arrow::array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::error::Result;

/// A batch whose columns are added one after the other.
pub(super) struct Columns<'a, Row> {
    rows: &'a [Row],
    fields: Vec<Field>,
    columns: Vec<ArrayRef>,
}

impl<'a, Row> Columns<'a, Row> {
    pub(super) fn new(rows: &'a [Row]) -> Self {
        Self {
            rows,
            fields: Vec::new(),
            columns: Vec::new(),
        }
    }

    pub(super) fn text<T: AsRef<str>>(self, name: &str, of: impl Fn(&'a Row) -> T) -> Self {
        let column = StringArray::from_iter_values(self.rows.iter().map(of));
        self.with(name, Arc::new(column), false)
    }

    pub(super) fn maybe_text<T: AsRef<str>>(self, name: &str, of: impl Fn(&'a Row) -> Option<T>) -> Self {
        let column: StringArray = self.rows.iter().map(of).collect();
        self.with(name, Arc::new(column), true)
    }

    pub(super) fn count(self, name: &str, of: impl Fn(&Row) -> u64) -> Self {
        let column = Int64Array::from_iter_values(self.rows.iter().map(|row| to_signed(of(row))));
        self.with(name, Arc::new(column), false)
    }

    pub(super) fn maybe_count(self, name: &str, of: impl Fn(&Row) -> Option<u64>) -> Self {
        let column: Int64Array = self.rows.iter().map(|row| of(row).map(to_signed)).collect();
        self.with(name, Arc::new(column), true)
    }

    pub(super) fn number(self, name: &str, of: impl Fn(&Row) -> i64) -> Self {
        let column = Int64Array::from_iter_values(self.rows.iter().map(of));
        self.with(name, Arc::new(column), false)
    }

    pub(super) fn fraction(self, name: &str, of: impl Fn(&Row) -> f64) -> Self {
        let column = Float64Array::from_iter_values(self.rows.iter().map(of));
        self.with(name, Arc::new(column), false)
    }

    pub(super) fn maybe_fraction(self, name: &str, of: impl Fn(&Row) -> Option<f64>) -> Self {
        let column: Float64Array = self.rows.iter().map(of).collect();
        self.with(name, Arc::new(column), true)
    }

    /// In milliseconds.
    pub(super) fn duration(self, name: &str, of: impl Fn(&Row) -> Duration) -> Self {
        self.fraction(name, |row| milliseconds(of(row)))
    }

    /// In milliseconds.
    pub(super) fn maybe_duration(self, name: &str, of: impl Fn(&Row) -> Option<Duration>) -> Self {
        self.maybe_fraction(name, |row| of(row).map(milliseconds))
    }

    pub(super) fn time(self, name: &str, of: impl Fn(&Row) -> SystemTime) -> Self {
        let column = self.rows.iter().map(|row| microseconds(of(row)));
        let column = TimestampMicrosecondArray::from_iter_values(column);
        self.with(name, Arc::new(column.with_timezone("UTC")), false)
    }

    pub(super) fn maybe_time(self, name: &str, of: impl Fn(&Row) -> Option<SystemTime>) -> Self {
        let column = self.rows.iter().map(|row| of(row).map(microseconds));
        let column: TimestampMicrosecondArray = column.collect();
        self.with(name, Arc::new(column.with_timezone("UTC")), true)
    }

    pub(super) fn batch(self) -> Result<RecordBatch> {
        let schema = Arc::new(Schema::new(self.fields));
        Ok(RecordBatch::try_new(schema, self.columns)?)
    }

    fn with(mut self, name: &str, column: ArrayRef, is_nullable: bool) -> Self {
        let data_type: DataType = column.data_type().clone();
        self.fields.push(Field::new(name, data_type, is_nullable));
        self.columns.push(column);
        self
    }
}

/// A signed number, since most clients have no unsigned numbers.
fn to_signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn microseconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
