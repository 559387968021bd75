//! Draws the frame, the header and the rows of a table.

use std::borrow::Cow;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::error::ArrowError;

use super::{cells, fit};

/// A table whose columns have their widths.
pub(super) struct Grid {
    widths: Vec<usize>,
    /// The width that no row may exceed; without it values are never cut.
    screen: Option<usize>,
    /// Whether a value was cut.
    pub(super) has_cut: bool,
}

impl Grid {
    pub(super) fn new(widths: Vec<usize>, screen: Option<usize>) -> Self {
        Self {
            widths,
            screen,
            has_cut: false,
        }
    }

    pub(super) fn write_header(&mut self, schema: &Schema, out: &mut String) {
        self.write_rule(out);
        let names: Vec<_> = schema.fields().iter().map(|field| cells::lines(field.name())).collect();
        self.write_row(&names, &vec![false; names.len()], out);
        self.write_rule(out);
    }

    pub(super) fn write_rows(&mut self, batch: &RecordBatch, out: &mut String) -> Result<(), ArrowError> {
        let formatters = cells::formatters(batch)?;
        let right: Vec<_> = batch
            .columns()
            .iter()
            .map(|column| column.data_type().is_numeric())
            .collect();
        for row in 0..batch.num_rows() {
            let values: Vec<_> = formatters
                .iter()
                .map(|formatter| cells::lines(&formatter.value(row).to_string()))
                .collect();
            self.write_row(&values, &right, out);
        }
        Ok(())
    }

    pub(super) fn write_rule(&self, out: &mut String) {
        for column in &self.widths {
            out.push('+');
            out.extend(std::iter::repeat_n('-', column + 2));
        }
        out.push_str("+\n");
    }

    /// Writes one row, with as many lines as its highest cell has.
    fn write_row(&mut self, values: &[Vec<String>], right: &[bool], out: &mut String) {
        let height = values.iter().map(Vec::len).max().unwrap_or(1);
        for line in 0..height {
            let texts: Vec<_> = values
                .iter()
                .map(|value| value.get(line).map_or("", String::as_str))
                .collect();
            let texts = self.cut(&texts);
            for ((text, column), right) in texts.iter().zip(&self.widths).zip(right) {
                write_cell(text, *column, *right, out);
            }
            out.push_str("|\n");
        }
    }

    /// The texts of a line, cut if the line would be wider than the screen. A text that is wider than its column and
    /// still fits shifts the frame.
    fn cut<'a>(&mut self, texts: &[&'a str]) -> Vec<Cow<'a, str>> {
        let wanted: Vec<_> = texts
            .iter()
            .zip(&self.widths)
            .map(|(text, column)| cells::width(text).max(*column))
            .collect();
        match self.screen {
            Some(screen) if fit::framed(&wanted) > screen => {
                self.has_cut = true;
                let most = fit::shrink(&wanted, screen).unwrap_or_else(|| self.widths.clone());
                let cut = texts.iter().zip(&most).map(|(text, most)| cells::cut(text, *most));
                cut.collect()
            }
            _ => texts.iter().map(|text| Cow::Borrowed(*text)).collect(),
        }
    }
}

fn write_cell(text: &str, column: usize, right: bool, out: &mut String) {
    let padding = column.saturating_sub(cells::width(text));
    let (before, after) = if right { (padding, 0) } else { (0, padding) };
    out.push_str("| ");
    out.extend(std::iter::repeat_n(' ', before));
    out.push_str(text);
    out.extend(std::iter::repeat_n(' ', after + 1));
}
