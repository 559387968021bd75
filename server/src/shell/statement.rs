//! Runs one statement: starts it, prints its rows while they arrive, and cancels it on Ctrl-C or once enough is shown.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_flight::FlightInfo;
use futures::StreamExt;

use super::client::Client;
use super::error::Error;
use super::pager::Output;
use super::pending_statement::PendingStatement;
use super::progress::Progress;
use super::screen::{Screen, Shown};
use super::view::View;

/// How long rows are held back to find the widths of a table when no further rows arrive.
const PREVIEW_TIMEOUT: Duration = Duration::from_millis(300);

/// How far a result was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// To its last row.
    Read,
    /// Rows are left on the server.
    RowsLeft,
}

/// Runs one statement and writes its result to standard output or the pager.
///
/// Ctrl-C ends the statement with [`Error::Cancelled`]: the query is cancelled on the server and the stream is dropped.
/// A statement of whose result enough is shown ends in the same way, without an error.
pub(super) async fn run(client: &mut Client, sql: &str, view: &View) -> Result<(), Error> {
    let started = Instant::now();
    let shown = Shown {
        format: view.format,
        style: view.style(),
        limit: view.row_limit(sql),
    };
    let mut output = if view.uses_pager() {
        Output::paged()
    } else {
        Output::standard()
    };
    let result = show(client, sql, shown, &mut output).await;
    let elapsed = started.elapsed();
    output.close().await;
    match result {
        // The user has left the pager, and goes on in the shell.
        Err(error) if view.uses_pager() && error.is_reader_gone() => {}
        other => other?,
    }
    if view.timing {
        eprintln!("Time: {:.3} s", elapsed.as_secs_f64());
    }
    Ok(())
}

/// Runs one statement and writes its result to `output`.
async fn show(client: &mut Client, sql: &str, shown: Shown, output: impl Write) -> Result<(), Error> {
    let progress = Progress::start();
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let mut statement = tokio::select! {
        statement = client.begin(sql) => statement?,
        _ = &mut interrupt => return Err(Error::Cancelled),
        never = progress.appear() => match never {},
    };
    let mut reader = client.clone();
    let printed = tokio::select! {
        printed = print_result(&mut reader, &mut statement, shown, &progress, output) => printed,
        _ = &mut interrupt => Err(Error::Cancelled),
        never = progress.appear() => match never {},
    };
    let is_left = match &printed {
        Ok(end) => *end == End::RowsLeft,
        Err(Error::Cancelled) => true,
        // The pager was left, or the program that reads standard output has ended; nobody reads the other rows.
        Err(error) => error.is_reader_gone(),
    };
    if is_left {
        client.cancel(statement.info).await;
    }
    printed.map(|_| ())
}

/// Waits for the result of a statement and prints it.
async fn print_result(
    client: &mut Client,
    statement: &mut PendingStatement,
    shown: Shown,
    progress: &Progress,
    output: impl Write,
) -> Result<End, Error> {
    while !statement.is_complete() {
        if let Some(done) = statement.progress {
            progress.set_done(done);
        }
        client.poll(statement).await?;
    }
    progress.set_ready();
    print_rows(client, &statement.info, shown, progress, output).await
}

/// Fetches every endpoint in order and writes the rows to `output`, until enough are shown.
async fn print_rows(
    client: &mut Client,
    info: &FlightInfo,
    shown: Shown,
    progress: &Progress,
    output: impl Write,
) -> Result<End, Error> {
    let schema = info
        .clone()
        .try_decode_schema()
        .map_err(|error| Error::Answer(error.to_string()))?;
    let mut screen = Screen::new(shown, Arc::new(schema), output, progress);
    for ticket in info.endpoint.iter().filter_map(|endpoint| endpoint.ticket.clone()) {
        let mut stream = client.fetch(ticket).await?;
        loop {
            match tokio::time::timeout(PREVIEW_TIMEOUT, stream.next()).await {
                Ok(Some(batch)) => {
                    screen.write_batch(&batch?)?;
                    if screen.is_cut_short() {
                        screen.finish()?;
                        return Ok(End::RowsLeft);
                    }
                    // A fast server always has a next batch ready: yield, so that Ctrl-C is noticed.
                    tokio::task::yield_now().await;
                }
                Ok(None) => break,
                Err(_) => screen.end_preview()?,
            }
        }
    }
    screen.finish()?;
    Ok(End::Read)
}

#[cfg(test)]
mod tests;
