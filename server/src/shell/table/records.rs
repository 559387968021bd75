//! Expanded display: every row as a record, with one line per column.
//!
//! ```text
//! -[ RECORD 1 ]---
//! name  | FURNITURE
//! count | 12
//! ```

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::error::ArrowError;

use super::cells;

/// Writes rows as records. Values are written whole.
pub(super) struct Records {
    names: Vec<String>,
    /// The width of the widest name.
    widest: usize,
    written: u64,
}

impl Records {
    pub(super) fn new(schema: &Schema) -> Self {
        let names: Vec<_> = schema
            .fields()
            .iter()
            .map(|field| cells::lines(field.name()).join(" "))
            .collect();
        Self {
            widest: names.iter().map(|name| cells::width(name)).max().unwrap_or(0),
            names,
            written: 0,
        }
    }

    pub(super) fn write_rows(&mut self, batch: &RecordBatch, out: &mut String) -> Result<(), ArrowError> {
        let formatters = cells::formatters(batch)?;
        for row in 0..batch.num_rows() {
            self.written += 1;
            self.write_title(out);
            for (name, formatter) in self.names.iter().zip(&formatters) {
                let value = cells::lines(&formatter.value(row).to_string());
                write_value(name, &value, self.widest, out);
            }
        }
        Ok(())
    }

    fn write_title(&self, out: &mut String) {
        let title = format!("-[ RECORD {} ]---", self.written);
        out.push_str(&title);
        // Up to the bar behind the names.
        out.extend(std::iter::repeat_n('-', (self.widest + 3).saturating_sub(title.len())));
        out.push('\n');
    }
}

/// Writes a value; its further lines stand below the first.
fn write_value(name: &str, value: &[String], widest: usize, out: &mut String) {
    for (index, line) in value.iter().enumerate() {
        let name = if index == 0 { name } else { "" };
        out.push_str(name);
        out.extend(std::iter::repeat_n(' ', widest.saturating_sub(cells::width(name))));
        out.push_str(if line.is_empty() { " |" } else { " | " });
        out.push_str(line);
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};

    use super::*;

    fn write(batches: &[RecordBatch]) -> String {
        let mut out = String::new();
        let mut records = Records::new(&batches[0].schema());
        for batch in batches {
            records.write_rows(batch, &mut out).unwrap();
        }
        out
    }

    #[test]
    fn records_have_a_line_per_column() {
        let names: ArrayRef = Arc::new(StringArray::from(vec![Some("chair\nred"), None, Some("")]));
        let counts: ArrayRef = Arc::new(Int64Array::from(vec![7, 1234, 5]));
        let batch = RecordBatch::try_from_iter_with_nullable([("name", names, true), ("n", counts, true)]).unwrap();
        let expected = "\
-[ RECORD 1 ]---
name | chair
     | red
n    | 7
-[ RECORD 2 ]---
name | NULL
n    | 1234
-[ RECORD 3 ]---
name |
n    | 5
";
        assert_eq!(write(&[batch.slice(0, 1), batch.slice(1, 2)]), expected);
    }

    #[test]
    fn values_are_whole_and_safe() {
        let long = format!("\u{1b}[2J{}", "x".repeat(500));
        let column: ArrayRef = Arc::new(StringArray::from(vec![long.as_str()]));
        let written = write(&[RecordBatch::try_from_iter([("a_name_as_long_as_a_title", column)]).unwrap()]);
        assert!(
            written.ends_with(&format!(" | \\u{{1b}}[2J{}\n", "x".repeat(500))),
            "{written}"
        );
        assert!(written.starts_with("-[ RECORD 1 ]---------------\n"), "{written}");
    }
}
