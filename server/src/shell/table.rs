//! Rows as text for people, written while they arrive: a table, or records with one line per column.
//!
//! ```text
//! +-------------+-------+
//! | name        | count |
//! +-------------+-------+
//! | FURNITURE   |    12 |
//! ```
//!
//! The widths of the columns come from a bounded preview of the first rows, so that a large result is never held in
//! memory. A later, wider value shifts the frame. Values are cut only where a person at a terminal reads them and a row
//! would be wider than the terminal; then [`Table::note`] says so.

mod cells;
mod fit;
mod grid;
mod records;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;

use self::grid::Grid;
use self::records::Records;
use super::view::{Expanded, Style};

/// How many rows decide the widths.
const PREVIEW_ROWS: usize = 1000;

/// The greatest width of a column; a wider value shifts the frame instead of padding every other row.
const MAX_COLUMN_WIDTH: usize = 120;

const CUT: &str = "(cut to the width of the terminal; \\x on shows values whole)";
const TOO_WIDE: &str = "(wider than the terminal, so shown with one line per column; \\x off draws a table)";
const TOO_MANY_COLUMNS: &str = "(too many columns for this terminal, so shown with one line per column)";

/// A table that is being written.
pub(super) struct Table {
    schema: SchemaRef,
    style: Style,
    preview: Vec<RecordBatch>,
    /// Set once the preview has ended.
    layout: Option<Layout>,
    /// Why the layout is not the one that the user may expect.
    note: Option<&'static str>,
}

enum Layout {
    Grid(Grid),
    Records(Records),
}

impl Table {
    pub(super) fn new(schema: SchemaRef, style: Style) -> Self {
        Self {
            schema,
            style,
            preview: Vec::new(),
            layout: None,
            note: None,
        }
    }

    /// Takes the next rows, and appends them to `out` once the preview has ended.
    pub(super) fn push(&mut self, batch: &RecordBatch, out: &mut String) -> Result<(), ArrowError> {
        if let Some(layout) = &mut self.layout {
            return layout.write_rows(batch, out);
        }
        self.preview.push(batch.clone());
        if self.preview.iter().map(RecordBatch::num_rows).sum::<usize>() >= PREVIEW_ROWS {
            self.end_preview(out)?;
        }
        Ok(())
    }

    /// Ends the preview, if it has not ended: writes the header and the rows held so far.
    pub(super) fn end_preview(&mut self, out: &mut String) -> Result<(), ArrowError> {
        if self.layout.is_none() {
            let mut layout = self.choose_layout()?;
            if let Layout::Grid(grid) = &mut layout {
                grid.write_header(&self.schema, out);
            }
            for batch in self.preview.drain(..) {
                layout.write_rows(&batch, out)?;
            }
            self.layout = Some(layout);
        }
        Ok(())
    }

    /// Closes the table.
    pub(super) fn finish(&mut self, out: &mut String) -> Result<(), ArrowError> {
        self.end_preview(out)?;
        if let Some(Layout::Grid(grid)) = &self.layout {
            grid.write_rule(out);
        }
        Ok(())
    }

    /// A sentence for the line below, if the rows are not shown as the user may expect.
    pub(super) fn note(&self) -> Option<&'static str> {
        match &self.layout {
            Some(Layout::Grid(grid)) if grid.has_cut => Some(CUT),
            _ => self.note,
        }
    }

    fn choose_layout(&mut self) -> Result<Layout, ArrowError> {
        if self.style.expanded == Expanded::On {
            return Ok(Layout::Records(Records::new(&self.schema)));
        }
        let widths = self.measure()?;
        let screen = self.style.cut.then_some(self.style.screen).flatten();
        let Some(too_narrow) = self.style.screen.filter(|screen| fit::framed(&widths) > *screen) else {
            return Ok(Layout::Grid(Grid::new(widths, screen)));
        };
        let (fitting, otherwise) = match self.style.expanded {
            Expanded::Auto => (None, TOO_WIDE),
            _ if !self.style.cut => (Some(widths), ""),
            _ => (fit::shrink(&widths, too_narrow), TOO_MANY_COLUMNS),
        };
        Ok(match fitting {
            Some(widths) => Layout::Grid(Grid::new(widths, screen)),
            None => {
                self.note = Some(otherwise);
                Layout::Records(Records::new(&self.schema))
            }
        })
    }

    fn measure(&self) -> Result<Vec<usize>, ArrowError> {
        let widest = self.style.screen.unwrap_or(0).max(MAX_COLUMN_WIDTH);
        let mut widths: Vec<usize> = self
            .schema
            .fields()
            .iter()
            .map(|field| widest_line(field.name()))
            .collect();
        let mut left = PREVIEW_ROWS;
        for batch in &self.preview {
            let rows = batch.num_rows().min(left);
            left -= rows;
            for (formatter, width) in cells::formatters(batch)?.iter().zip(&mut widths) {
                for row in 0..rows {
                    *width = (*width).max(widest_line(&formatter.value(row).to_string()).min(widest));
                }
            }
        }
        Ok(widths)
    }
}

impl Layout {
    fn write_rows(&mut self, batch: &RecordBatch, out: &mut String) -> Result<(), ArrowError> {
        match self {
            Self::Grid(grid) => grid.write_rows(batch, out),
            Self::Records(records) => records.write_rows(batch, out),
        }
    }
}

fn widest_line(text: &str) -> usize {
    cells::lines(text)
        .iter()
        .map(|line| cells::width(line))
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests;
