//! Writes the rows of one result, as many as its reader wants, and the lines below them.

use std::io::Write;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::encode::Encoder;
use super::error::Error;
use super::progress::Progress;
use super::view::Style;
use crate::config::OutputFormat;

/// What is shown of a result, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown {
    pub(super) format: OutputFormat,
    pub(super) style: Style,
    /// The most rows; none for all.
    pub(super) limit: Option<u64>,
}

/// Writes the rows of one result.
pub(super) struct Screen<'a, W: Write> {
    rows: u64,
    /// Whether rows were left out.
    is_cut_short: bool,
    /// Made with the schema of the first batch, which may differ from that of the FlightInfo.
    encoder: Option<Encoder>,
    shown: Shown,
    schema: SchemaRef,
    pending: Vec<u8>,
    output: W,
    progress: &'a Progress,
}

impl<'a, W: Write> Screen<'a, W> {
    pub(super) fn new(shown: Shown, schema: SchemaRef, output: W, progress: &'a Progress) -> Self {
        Self {
            rows: 0,
            is_cut_short: false,
            encoder: None,
            shown,
            schema,
            pending: Vec::new(),
            output,
            progress,
        }
    }

    /// Whether the result has more rows than are shown, so that the rest need not be read.
    pub(super) fn is_cut_short(&self) -> bool {
        self.is_cut_short
    }

    pub(super) fn write_batch(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        let batch = self.take_wanted(batch);
        self.rows += batch.num_rows() as u64;
        self.progress.set_rows(self.rows);
        let encoder = match &mut self.encoder {
            Some(encoder) => encoder,
            None => self
                .encoder
                .insert(Encoder::new(self.shown.format, &batch.schema(), self.shown.style)?),
        };
        encoder.write_batch(&batch, &mut self.pending)?;
        self.write_out()
    }

    /// The rows of `batch` that are still to be shown. A result that ends exactly at the limit is not cut short: only a
    /// further row tells that there is more.
    fn take_wanted(&mut self, batch: &RecordBatch) -> RecordBatch {
        let left = self
            .shown
            .limit
            .map_or(u64::MAX, |limit| limit.saturating_sub(self.rows));
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(batch.num_rows());
        if wanted == batch.num_rows() {
            return batch.clone();
        }
        self.is_cut_short = true;
        batch.slice(0, wanted)
    }

    pub(super) fn end_preview(&mut self) -> Result<(), Error> {
        if let Some(encoder) = &mut self.encoder {
            encoder.end_preview(&mut self.pending)?;
        }
        self.write_out()
    }

    pub(super) fn finish(mut self) -> Result<(), Error> {
        let columns = self.schema.fields().len();
        let mut note = None;
        if columns > 0 || self.rows > 0 {
            let mut encoder = match self.encoder.take() {
                Some(encoder) => encoder,
                None => Encoder::new(self.shown.format, &self.schema, self.shown.style)?,
            };
            encoder.finish(&mut self.pending)?;
            note = encoder.note();
        }
        if self.shown.format == OutputFormat::Table {
            self.write_count(columns);
        }
        if let Some(note) = note {
            let _ = writeln!(self.pending, "{note}");
        }
        self.write_out()
    }

    fn write_count(&mut self, columns: usize) {
        let rows = self.rows;
        // Writing to a vector cannot fail.
        let _ = match (columns, rows) {
            // A statement that has no result.
            (0, 0) => writeln!(self.pending, "OK"),
            _ if self.is_cut_short => {
                let unit = if rows == 1 { "row" } else { "rows" };
                writeln!(
                    self.pending,
                    "(first {rows} {unit}; \\rows N, \\rows all or a LIMIT shows more)"
                )
            }
            (_, 1) => writeln!(self.pending, "(1 row)"),
            (_, rows) => writeln!(self.pending, "({rows} rows)"),
        };
    }

    fn write_out(&mut self) -> Result<(), Error> {
        if !self.pending.is_empty() {
            self.progress.clear_for_output();
            self.output.write_all(&self.pending)?;
            self.output.flush()?;
            self.pending.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};
    use arrow::datatypes::Schema;

    use super::super::view::Expanded;
    use super::*;

    fn batch(rows: i64) -> RecordBatch {
        let numbers: ArrayRef = Arc::new((0..rows).collect::<Int64Array>());
        RecordBatch::try_from_iter([("n", numbers)]).unwrap()
    }

    fn whole(format: OutputFormat) -> Shown {
        Shown {
            format,
            style: Style::WHOLE,
            limit: None,
        }
    }

    fn print_text(shown: Shown, schema: SchemaRef, batches: &[RecordBatch]) -> String {
        String::from_utf8(print_bytes(shown, schema, batches)).unwrap()
    }

    fn print_bytes(shown: Shown, schema: SchemaRef, batches: &[RecordBatch]) -> Vec<u8> {
        let progress = Progress::start();
        let mut output = Vec::new();
        let mut screen = Screen::new(shown, schema, &mut output, &progress);
        for batch in batches {
            screen.write_batch(batch).unwrap();
        }
        screen.finish().unwrap();
        output
    }

    #[test]
    fn table_output_counts_its_rows() {
        let print = |batches: &[RecordBatch]| print_text(whole(OutputFormat::Table), batch(0).schema(), batches);
        assert!(print(&[batch(1)]).ends_with("+---+\n(1 row)\n"));
        assert!(print(&[batch(1), batch(2)]).ends_with("(3 rows)\n"));
        assert!(print(&[]).ends_with("+---+\n(0 rows)\n"));
    }

    #[test]
    fn missing_result_prints_ok_in_tables() {
        let nothing = Arc::new(Schema::empty());
        assert_eq!(
            print_text(whole(OutputFormat::Table), Arc::clone(&nothing), &[]),
            "OK\n"
        );
        for format in [OutputFormat::Csv, OutputFormat::Json, OutputFormat::Arrow] {
            assert_eq!(print_text(whole(format), Arc::clone(&nothing), &[]), "");
        }
    }

    #[test]
    fn empty_result_still_has_header() {
        assert_eq!(print_text(whole(OutputFormat::Csv), batch(0).schema(), &[]), "n\n");
        assert!(!print_bytes(whole(OutputFormat::Arrow), batch(0).schema(), &[]).is_empty());
    }

    #[test]
    fn rows_above_the_limit_are_left_out() {
        let shown = Shown {
            limit: Some(3),
            ..whole(OutputFormat::Table)
        };
        let print = |batches: &[RecordBatch]| print_text(shown, batch(0).schema(), batches);
        assert!(print(&[batch(2), batch(1)]).ends_with("| 0 |\n+---+\n(3 rows)\n"));
        assert!(print(&[batch(3), batch(0)]).ends_with("(3 rows)\n"));
        for more in [&[batch(2), batch(2)][..], &[batch(3), batch(1)], &[batch(9)]] {
            let printed = print(more);
            assert_eq!(printed.matches("| ").count(), 4, "a header and three rows: {printed}");
            assert!(printed.contains("(first 3 rows; \\rows N, \\rows all"), "{printed}");
        }
    }

    #[test]
    fn row_after_the_limit_tells_that_there_is_more() {
        let progress = Progress::start();
        let shown = Shown {
            limit: Some(3),
            ..whole(OutputFormat::Table)
        };
        let mut screen = Screen::new(shown, batch(0).schema(), Vec::<u8>::new(), &progress);
        screen.write_batch(&batch(3)).unwrap();
        assert!(!screen.is_cut_short());
        screen.write_batch(&batch(1)).unwrap();
        assert!(screen.is_cut_short());
    }

    #[test]
    fn cut_table_has_a_line_that_says_so() {
        let wide: ArrayRef = Arc::new(arrow::array::StringArray::from(vec!["0123456789abcdef"]));
        let rows = RecordBatch::try_from_iter([("text", wide)]).unwrap();
        let style = Style {
            expanded: Expanded::Off,
            screen: Some(12),
            cut: true,
        };
        let shown = Shown {
            style,
            ..whole(OutputFormat::Table)
        };
        let printed = print_text(shown, rows.schema(), &[rows]);
        assert!(printed.contains("| 0123456… |\n"), "{printed}");
        assert!(printed.contains("\n(1 row)\n(cut to the width"), "{printed}");
    }

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn closed_output_ends_the_statement() {
        let progress = Progress::start();
        let mut screen = Screen::new(whole(OutputFormat::Csv), batch(0).schema(), Closed, &progress);
        assert!(screen.write_batch(&batch(1)).unwrap_err().is_reader_gone());
    }
}
