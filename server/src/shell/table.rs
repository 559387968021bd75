//! Rows as a table for terminals, written while they arrive.
//!
//! ```text
//! +-------------+-------+
//! | name        | count |
//! +-------------+-------+
//! | FURNITURE   |    12 |
//! ```
//!
//! The widths of the columns come from a bounded preview of the first rows, so that a large result is never held in
//! memory. A later, wider value is written whole and shifts the frame: values are never cut.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};

/// How many rows decide the widths.
const PREVIEW_ROWS: usize = 1000;

/// The greatest width of a column; a wider value shifts the frame instead of padding every other row.
const MAX_COLUMN_WIDTH: usize = 120;

const OPTIONS: FormatOptions<'static> = FormatOptions::new().with_null("NULL").with_display_error(true);

/// A table that is being written.
pub(super) struct Table {
    schema: SchemaRef,
    preview: Vec<RecordBatch>,
    /// Set once the header is written.
    widths: Option<Vec<usize>>,
}

impl Table {
    pub(super) fn new(schema: SchemaRef) -> Self {
        Self {
            schema,
            preview: Vec::new(),
            widths: None,
        }
    }

    /// Takes the next rows, and appends them to `out` once the preview has ended.
    pub(super) fn push(&mut self, batch: &RecordBatch, out: &mut String) -> Result<(), ArrowError> {
        if let Some(widths) = &self.widths {
            return write_rows(batch, widths, out);
        }
        self.preview.push(batch.clone());
        if self.preview.iter().map(RecordBatch::num_rows).sum::<usize>() >= PREVIEW_ROWS {
            self.end_preview(out)?;
        }
        Ok(())
    }

    /// Ends the preview, if it has not ended: writes the header and the rows held so far.
    pub(super) fn end_preview(&mut self, out: &mut String) -> Result<(), ArrowError> {
        if self.widths.is_none() {
            let widths = self.measure()?;
            self.write_header(&widths, out);
            for batch in self.preview.drain(..) {
                write_rows(&batch, &widths, out)?;
            }
            self.widths = Some(widths);
        }
        Ok(())
    }

    /// Closes the table.
    pub(super) fn finish(&mut self, out: &mut String) -> Result<(), ArrowError> {
        self.end_preview(out)?;
        if let Some(widths) = &self.widths {
            write_rule(widths, out);
        }
        Ok(())
    }

    fn measure(&self) -> Result<Vec<usize>, ArrowError> {
        let mut widths: Vec<usize> = self
            .schema
            .fields()
            .iter()
            .map(|field| lines(field.name()).iter().map(|line| width(line)).max().unwrap_or(0))
            .collect();
        let mut left = PREVIEW_ROWS;
        for batch in &self.preview {
            let rows = batch.num_rows().min(left);
            left -= rows;
            for (column, widest) in batch.columns().iter().zip(&mut widths) {
                let formatter = ArrayFormatter::try_new(column, &OPTIONS)?;
                for row in 0..rows {
                    for line in lines(&formatter.value(row).to_string()) {
                        *widest = (*widest).max(width(&line).min(MAX_COLUMN_WIDTH));
                    }
                }
            }
        }
        Ok(widths)
    }

    fn write_header(&self, widths: &[usize], out: &mut String) {
        write_rule(widths, out);
        let names: Vec<_> = self.schema.fields().iter().map(|field| lines(field.name())).collect();
        write_row(&names, widths, &vec![false; widths.len()], out);
        write_rule(widths, out);
    }
}

fn write_rows(batch: &RecordBatch, widths: &[usize], out: &mut String) -> Result<(), ArrowError> {
    let formatters = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column, &OPTIONS))
        .collect::<Result<Vec<_>, _>>()?;
    let right: Vec<_> = batch
        .columns()
        .iter()
        .map(|column| column.data_type().is_numeric())
        .collect();
    for row in 0..batch.num_rows() {
        let cells: Vec<_> = formatters
            .iter()
            .map(|formatter| lines(&formatter.value(row).to_string()))
            .collect();
        write_row(&cells, widths, &right, out);
    }
    Ok(())
}

/// Writes one row, with as many lines as its highest cell has.
fn write_row(cells: &[Vec<String>], widths: &[usize], right: &[bool], out: &mut String) {
    let height = cells.iter().map(Vec::len).max().unwrap_or(1);
    for line in 0..height {
        for ((cell, column), right) in cells.iter().zip(widths).zip(right) {
            let text = cell.get(line).map_or("", String::as_str);
            let padding = column.saturating_sub(width(text));
            let (before, after) = if *right { (padding, 0) } else { (0, padding) };
            out.push_str("| ");
            out.extend(std::iter::repeat_n(' ', before));
            out.push_str(text);
            out.extend(std::iter::repeat_n(' ', after + 1));
        }
        out.push_str("|\n");
    }
}

fn write_rule(widths: &[usize], out: &mut String) {
    for column in widths {
        out.push('+');
        out.extend(std::iter::repeat_n('-', column + 2));
    }
    out.push_str("+\n");
}

/// The lines of a cell, safe for a terminal: tabs as blanks, other control characters as escapes.
fn lines(text: &str) -> Vec<String> {
    let clean = |line: &str| {
        let mut clean = String::with_capacity(line.len());
        for character in line.chars() {
            match character {
                '\t' => clean.push_str("    "),
                control if control.is_control() => clean.extend(control.escape_default()),
                plain => clean.push(plain),
            }
        }
        clean
    };
    text.trim_end_matches('\n')
        .split('\n')
        .map(|line| clean(line.trim_end_matches('\r')))
        .collect()
}

/// How many columns a text takes in a terminal.
fn width(text: &str) -> usize {
    text.chars().map(character_width).sum()
}

/// Unicode Standard Annex 11, in ranges coarse enough for a table: combining marks take no column, East Asian wide
/// characters and pictographs two.
fn character_width(character: char) -> usize {
    match u32::from(character) {
        0x0300..=0x036F | 0x200B..=0x200F | 0xFE00..=0xFE0F => 0,
        0x1100..=0x115F | 0x2E80..=0xA4CF | 0xAC00..=0xD7A3 | 0xF900..=0xFAFF | 0xFE30..=0xFE6F => 2,
        0xFF00..=0xFF60 | 0xFFE0..=0xFFE6 | 0x1F300..=0x1FAFF | 0x20000..=0x3FFFD => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    fn batch(names: &[Option<&str>], counts: &[i64]) -> RecordBatch {
        let schema = Schema::new(vec![
            Field::new("name", DataType::Utf8, true),
            Field::new("n", DataType::Int64, false),
        ]);
        let columns: Vec<arrow::array::ArrayRef> = vec![
            Arc::new(StringArray::from(names.to_vec())),
            Arc::new(Int64Array::from(counts.to_vec())),
        ];
        RecordBatch::try_new(Arc::new(schema), columns).unwrap()
    }

    fn table(batches: &[RecordBatch]) -> String {
        let mut out = String::new();
        let mut table = Table::new(batches[0].schema());
        for batch in batches {
            table.push(batch, &mut out).unwrap();
        }
        table.finish(&mut out).unwrap();
        out
    }

    #[test]
    fn table_aligns_numbers_right() {
        let drawn = table(&[batch(&[Some("chair"), None], &[7, 1234])]);
        let expected = "\
+-------+------+
| name  | n    |
+-------+------+
| chair |    7 |
| NULL  | 1234 |
+-------+------+
";
        assert_eq!(drawn, expected);
    }

    #[test]
    fn empty_result_keeps_its_header() {
        assert_eq!(
            table(&[batch(&[], &[])]),
            "+------+---+\n| name | n |\n+------+---+\n+------+---+\n"
        );
    }

    #[test]
    fn cell_may_have_several_lines() {
        let drawn = table(&[batch(&[Some("a\nbcdef")], &[1])]);
        assert!(drawn.contains("| a     | 1 |\n| bcdef |   |\n"), "{drawn}");
    }

    #[test]
    fn control_characters_are_always_escaped() {
        let drawn = table(&[batch(&[Some("a\u{1b}[2Jb\tc")], &[1])]);
        assert!(drawn.contains("a\\u{1b}[2Jb    c"), "{drawn}");
    }

    #[test]
    fn wide_characters_take_two_columns() {
        let drawn = table(&[batch(&[Some("日本"), Some("abcd")], &[1, 2])]);
        assert!(drawn.contains("| 日本 | 1 |\n| abcd | 2 |"), "{drawn}");
    }

    #[test]
    fn rows_flow_after_full_preview() {
        let rows = |text: &'static str, count: usize| batch(&vec![Some(text); count], &vec![1; count]);
        let mut out = String::new();
        let mut table = Table::new(rows("a", 0).schema());
        table.push(&rows("a", PREVIEW_ROWS - 1), &mut out).unwrap();
        assert!(out.is_empty(), "held for the widths");
        table.push(&rows("a", 1), &mut out).unwrap();
        assert_eq!(out.lines().count(), 3 + PREVIEW_ROWS);
        table.push(&rows("wider than the preview", 1), &mut out).unwrap();
        assert!(
            out.ends_with("| wider than the preview | 1 |\n"),
            "a later value is whole"
        );
        assert!(table.preview.is_empty());
    }

    #[test]
    fn huge_value_does_not_pad_others() {
        let huge = "x".repeat(10_000);
        let drawn = table(&[batch(&[Some(&huge), Some("y")], &[1, 2])]);
        assert!(drawn.contains(&huge));
        assert!(drawn.lines().last().unwrap().len() < 200);
    }
}
