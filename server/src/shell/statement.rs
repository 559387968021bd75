//! One statement: start it, show its rows while they arrive, and stop it when the user says so.

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
use super::pending_statement::Begun;
use super::progress::Progress;
use crate::config::OutputFormat;

/// How long rows are held back for the widths of a table when no more of them come.
const SETTLE_AFTER: Duration = Duration::from_millis(300);

/// Runs one statement and writes its result to standard output.
///
/// Ctrl-C ends the statement with [`Error::Cancelled`]: the server is told and the stream is dropped.
pub(super) async fn run(client: &mut Client, sql: &str, format: OutputFormat, timing: bool) -> Result<(), Error> {
    let began = Instant::now();
    let progress = Progress::start();
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let mut begun = tokio::select! {
        begun = client.begin(sql) => begun?,
        _ = &mut interrupt => return Err(Error::Cancelled),
        never = progress.appear() => match never {},
    };
    let mut reader = client.clone();
    let shown = tokio::select! {
        shown = result(&mut reader, &mut begun, format, &progress) => shown,
        _ = &mut interrupt => {
            client.cancel(begun.info).await;
            Err(Error::Cancelled)
        }
        never = progress.appear() => match never {},
    };
    drop(progress);
    shown?;
    if timing {
        eprintln!("Time: {:.3} s", began.elapsed().as_secs_f64());
    }
    Ok(())
}

/// Waits for the result of a statement that was begun, and shows it.
async fn result(
    client: &mut Client,
    begun: &mut Begun,
    format: OutputFormat,
    progress: &Progress,
) -> Result<(), Error> {
    while !begun.is_whole() {
        if let Some(share) = begun.progress {
            progress.share(share);
        }
        client.poll(begun).await?;
    }
    progress.ready();
    show(client, &begun.info, format, progress, io::stdout()).await
}

/// Fetches every endpoint in order and writes the rows to `output`.
async fn show(
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
            match tokio::time::timeout(SETTLE_AFTER, stream.next()).await {
                Ok(Some(batch)) => {
                    screen.batch(&batch?)?;
                    // A fast server always has a next batch ready; Ctrl-C must get its turn.
                    tokio::task::yield_now().await;
                }
                Ok(None) => break,
                Err(_) => screen.settle()?,
            }
        }
    }
    screen.finish()
}

/// Where the rows of one result are written.
struct Screen<'a, W: Write> {
    rows: u64,
    /// Made with the first batch, whose schema is the one that counts.
    encoder: Option<Encoder>,
    format: OutputFormat,
    schema: SchemaRef,
    pending: Vec<u8>,
    output: W,
    progress: &'a Progress,
}

impl<W: Write> Screen<'_, W> {
    fn batch(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        self.rows += batch.num_rows() as u64;
        self.progress.rows(self.rows);
        let encoder = match &mut self.encoder {
            Some(encoder) => encoder,
            None => self.encoder.insert(Encoder::new(self.format, &batch.schema())?),
        };
        encoder.batch(batch, &mut self.pending)?;
        self.write_out()
    }

    fn settle(&mut self) -> Result<(), Error> {
        if let Some(encoder) = &mut self.encoder {
            encoder.settle(&mut self.pending)?;
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
            self.progress.before_output();
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

    fn shown(format: OutputFormat, schema: SchemaRef, batches: &[RecordBatch]) -> String {
        String::from_utf8(written(format, schema, batches)).unwrap()
    }

    fn written(format: OutputFormat, schema: SchemaRef, batches: &[RecordBatch]) -> Vec<u8> {
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
            screen.batch(batch).unwrap();
        }
        screen.finish().unwrap();
        output
    }

    #[test]
    fn a_table_counts_its_rows() {
        assert!(shown(OutputFormat::Table, batch(0).schema(), &[batch(1)]).ends_with("+---+\n(1 row)\n"));
        assert!(shown(OutputFormat::Table, batch(0).schema(), &[batch(1), batch(2)]).ends_with("(3 rows)\n"));
        assert!(shown(OutputFormat::Table, batch(0).schema(), &[]).ends_with("+---+\n(0 rows)\n"));
    }

    #[test]
    fn a_statement_without_a_result_says_so_to_people_only() {
        let nothing = Arc::new(Schema::empty());
        assert_eq!(shown(OutputFormat::Table, Arc::clone(&nothing), &[]), "OK\n");
        for format in [OutputFormat::Csv, OutputFormat::Json, OutputFormat::Arrow] {
            assert_eq!(shown(format, Arc::clone(&nothing), &[]), "");
        }
    }

    #[test]
    fn an_empty_result_still_has_a_head() {
        assert_eq!(shown(OutputFormat::Csv, batch(0).schema(), &[]), "n\n");
        assert!(!written(OutputFormat::Arrow, batch(0).schema(), &[]).is_empty());
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
    fn a_closed_output_ends_the_statement() {
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
        assert!(screen.batch(&batch(1)).unwrap_err().is_reader_gone());
    }
}
