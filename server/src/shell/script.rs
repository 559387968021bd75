//! Runs scripts over a connection: statements on the server, commands in the shell.

use std::path::Path;

use super::client::Client;
use super::command::{self, Command};
use super::error::Error;
use super::split::{self, Kind};
use super::statement;
use super::view::View;

/// Whether the shell goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    Go,
    Quit,
}

/// A connection and how its results are printed.
pub(super) struct Shell {
    pub(super) client: Client,
    pub(super) view: View,
}

impl Shell {
    /// Runs the pieces of `script` in order up to the first error, which names its line when the script is a file.
    pub(super) async fn run_script(&mut self, script: &str, file: Option<&Path>) -> Result<Flow, Error> {
        for piece in split::pieces(script) {
            let done = match piece.kind {
                Kind::Sql => self.run_statement(piece.text).await.map(|()| Flow::Go),
                Kind::Command => self.run_command(piece.text).await,
            };
            match (done, file) {
                (Ok(Flow::Go), _) => {}
                (Ok(Flow::Quit), _) => return Ok(Flow::Quit),
                (Err(error), Some(file)) => return Err(error.at(file, piece.line)),
                (Err(error), None) => return Err(error),
            }
        }
        Ok(Flow::Go)
    }

    async fn run_statement(&mut self, sql: &str) -> Result<(), Error> {
        statement::run(&mut self.client, sql, &self.view).await
    }

    async fn run_command(&mut self, line: &str) -> Result<Flow, Error> {
        match Command::parse(line).map_err(Error::Usage)? {
            Command::Sql(sql) => self.run_statement(&sql).await?,
            Command::Expanded(expanded) => eprintln!("{}", self.view.set_expanded(expanded)),
            Command::Rows(rows) => eprintln!("{}", self.view.set_rows(rows)),
            Command::Pager(pager) => eprintln!("{}", self.view.set_pager(pager)),
            Command::Timing(timing) => eprintln!("{}", self.view.set_timing(timing)),
            Command::Help => eprint!("{}", command::HELP),
            Command::Quit => return Ok(Flow::Quit),
        }
        Ok(Flow::Go)
    }

    pub(super) async fn close(&mut self) {
        self.client.close().await;
    }
}
