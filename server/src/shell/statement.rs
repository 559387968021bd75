//! Runs one statement: starts it, prints its rows while they arrive, and cancels it on Ctrl-C.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::FlightInfo;
use futures::StreamExt;

use super::client::Client;
use super::encode::Encoder;
use super::error::Error;
use super::pending_statement::PendingStatement;
use super::progress::Progress;
use crate::config::OutputFormat;

/// How long rows are held back to find the widths of a table when no further rows arrive.
const PREVIEW_TIMEOUT: Duration = Duration::from_millis(300);

/// Runs one statement and writes its result to standard output.
///
/// Ctrl-C ends the statement with [`Error::Cancelled`]: the query is cancelled on the server and the stream is dropped.
pub(super) async fn run(client: &mut Client, sql: &str, format: OutputFormat, timing: bool) -> Result<(), Error> {
    let started = Instant::now();
    let progress = Progress::start();
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let mut statement = tokio::select! {
        statement = client.begin(sql) => statement?,
        _ = &mut interrupt => return Err(Error::Cancelled),
        never = progress.appear() => match never {},
    };
    let mut reader = client.clone();
    let printed = tokio::select! {
        printed = print_result(&mut reader, &mut statement, format, &progress) => printed,
        _ = &mut interrupt => {
            client.cancel(statement.info).await;
            Err(Error::Cancelled)
        }
        never = progress.appear() => match never {},
    };
    drop(progress);
    printed?;
    if timing {
        eprintln!("Time: {:.3} s", started.elapsed().as_secs_f64());
    }
    Ok(())
}

/// Waits for the result of a statement and prints it.
async fn print_result(
    client: &mut Client,
    statement: &mut PendingStatement,
    format: OutputFormat,
    progress: &Progress,
) -> Result<(), Error> {
    while !statement.is_complete() {
        if let Some(done) = statement.progress {
            progress.set_done(done);
        }
        client.poll(statement).await?;
    }
    progress.set_ready();
    print_rows(client, &statement.info, format, progress, io::stdout()).await
}

/// Fetches every endpoint in order and writes the rows to `output`.
async fn print_rows(
    client: &mut Client,
    info: &FlightInfo,
    format: OutputFormat,
    progress: &Progress,
    output: impl Write,
) -> Result<(), Error> {
    let schema = info
        .clone()
        .try_decode_schema()
        .map_err(|error| Error::Answer(error.to_string()))?;
    let mut screen = Screen {
        rows: 0,
        encoder: None,
        format,
        schema: Arc::new(schema),
        pending: Vec::new(),
        output,
        progress,
    };
    for ticket in info.endpoint.iter().filter_map(|endpoint| endpoint.ticket.clone()) {
        let mut stream = client.fetch(ticket).await?;
        loop {
            match tokio::time::timeout(PREVIEW_TIMEOUT, stream.next()).await {
                Ok(Some(batch)) => {
                    screen.write_batch(&batch?)?;
                    // A fast server always has a next batch ready: yield, so that Ctrl-C is noticed.
                    tokio::task::yield_now().await;
                }
                Ok(None) => break,
                Err(_) => screen.end_preview()?,
            }
        }
    }
    screen.finish()
}

/// Writes the rows of one result.
struct Screen<'a, W: Write> {
    rows: u64,
    /// Made with the schema of the first batch, which may differ from that of the FlightInfo.
    encoder: Option<Encoder>,
    format: OutputFormat,
    schema: SchemaRef,
    pending: Vec<u8>,
    output: W,
    progress: &'a Progress,
}

impl<W: Write> Screen<'_, W> {
    fn write_batch(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        self.rows += batch.num_rows() as u64;
        self.progress.set_rows(self.rows);
        let encoder = match &mut self.encoder {
            Some(encoder) => encoder,
            None => self.encoder.insert(Encoder::new(self.format, &batch.schema())?),
        };
        encoder.write_batch(batch, &mut self.pending)?;
        self.write_out()
    }

    fn end_preview(&mut self) -> Result<(), Error> {
        if let Some(encoder) = &mut self.encoder {
            encoder.end_preview(&mut self.pending)?;
        }
        self.write_out()
    }

    fn finish(mut self) -> Result<(), Error> {
        let columns = self.schema.fields().len();
        if columns > 0 || self.rows > 0 {
            let mut encoder = match self.encoder.take() {
                Some(encoder) => encoder,
                None => Encoder::new(self.format, &self.schema)?,
            };
            encoder.finish(&mut self.pending)?;
        }
        if self.format == OutputFormat::Table {
            let _ = match (columns, self.rows) {
                // A statement that has no result.
                (0, 0) => writeln!(self.pending, "OK"),
                (_, 1) => writeln!(self.pending, "(1 row)"),
                (_, rows) => writeln!(self.pending, "({rows} rows)"),
            };
        }
        self.write_out()
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
    use arrow::array::{ArrayRef, Int64Array};
    use arrow::datatypes::Schema;

    use super::*;

    fn batch(rows: i64) -> RecordBatch {
        let numbers: ArrayRef = Arc::new((0..rows).collect::<Int64Array>());
        RecordBatch::try_from_iter([("n", numbers)]).unwrap()
    }

    fn print_text(format: OutputFormat, schema: SchemaRef, batches: &[RecordBatch]) -> String {
        String::from_utf8(print_bytes(format, schema, batches)).unwrap()
    }

    fn print_bytes(format: OutputFormat, schema: SchemaRef, batches: &[RecordBatch]) -> Vec<u8> {
        let progress = Progress::start();
        let mut output = Vec::new();
        let mut screen = Screen {
            rows: 0,
            encoder: None,
            format,
            schema,
            pending: Vec::new(),
            output: &mut output,
            progress: &progress,
        };
        for batch in batches {
            screen.write_batch(batch).unwrap();
        }
        screen.finish().unwrap();
        output
    }

    #[test]
    fn table_output_counts_its_rows() {
        assert!(print_text(OutputFormat::Table, batch(0).schema(), &[batch(1)]).ends_with("+---+\n(1 row)\n"));
        assert!(print_text(OutputFormat::Table, batch(0).schema(), &[batch(1), batch(2)]).ends_with("(3 rows)\n"));
        assert!(print_text(OutputFormat::Table, batch(0).schema(), &[]).ends_with("+---+\n(0 rows)\n"));
    }

    #[test]
    fn missing_result_prints_ok_in_tables() {
        let nothing = Arc::new(Schema::empty());
        assert_eq!(print_text(OutputFormat::Table, Arc::clone(&nothing), &[]), "OK\n");
        for format in [OutputFormat::Csv, OutputFormat::Json, OutputFormat::Arrow] {
            assert_eq!(print_text(format, Arc::clone(&nothing), &[]), "");
        }
    }

    #[test]
    fn empty_result_still_has_header() {
        assert_eq!(print_text(OutputFormat::Csv, batch(0).schema(), &[]), "n\n");
        assert!(!print_bytes(OutputFormat::Arrow, batch(0).schema(), &[]).is_empty());
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
        let mut screen = Screen {
            rows: 0,
            encoder: None,
            format: OutputFormat::Csv,
            schema: batch(0).schema(),
            pending: Vec::new(),
            output: Closed,
            progress: &progress,
        };
        assert!(screen.write_batch(&batch(1)).unwrap_err().is_reader_gone());
    }
}
