//! `squadron sql`: a shell for people and scripts, on the same Flight SQL that every other client uses.
//!
//! ```text
//! -c, -f, standard input, terminal --split--> pieces --command--> the shell itself
//!                                               '-----statement--> client --> encode --> standard output
//! ```
//!
//! Rows go to standard output while they arrive; everything said about them goes to standard error. A script stops at its
//! first error with exit code 1; at a terminal an error ends the statement only. Ctrl-C cancels the statement that runs.

mod address;
mod client;
mod command;
mod encode;
mod error;
mod interactive;
mod password;
mod pending_statement;
mod progress;
mod split;
mod statement;
mod table;

use std::io::{IsTerminal, Read};
use std::path::Path;
use std::process::ExitCode;

use squadron_shuffle::Trust;

use self::address::Address;
use self::client::{Client, Login};
use self::command::Command;
use self::error::Error;
use self::split::Kind;
use crate::config::{OutputFormat, SqlArgs};

pub use self::password::hash_password;

/// Runs the shell and gives the code its process ends with: 0, 1 after an SQL error, a cancelled statement or without a
/// connection, 2 for flags that cannot be used.
pub async fn run(args: &SqlArgs) -> ExitCode {
    match start(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is_reader_gone() {
                eprintln!("error: {error}");
            }
            error.exit_code()
        }
    }
}

async fn start(args: &SqlArgs) -> Result<(), Error> {
    let address = Address::new(&args.server);
    let trust = trust(args)?;
    // Read before dialling: a wrong file name is seen at once.
    let script = match (&args.command, &args.file) {
        (Some(command), _) => Some((command.clone(), None)),
        (None, Some(file)) => Some((read_file(file)?, Some(file.as_path()))),
        (None, None) if !std::io::stdin().is_terminal() => Some((read_input()?, None)),
        (None, None) => None,
    };
    let client = Client::connect(&address, &trust, &login(args)?).await?;
    let mut shell = Shell {
        client,
        format: args.format,
        timing: script.is_none(),
    };
    match script {
        Some((script, file)) => {
            let result = shell.run_script(&script, file).await.map(|_| ());
            shell.close().await;
            result
        }
        None => {
            println!(
                "squadron {}, connected to {address}; \\? for help",
                env!("CARGO_PKG_VERSION")
            );
            interactive::run(shell).await
        }
    }
}

fn login(args: &SqlArgs) -> Result<Login, Error> {
    Ok(match (&args.user, &args.token) {
        (None, None) => Login::None,
        (None, Some(token)) => Login::Token(token.reveal().to_owned()),
        (Some(user), _) => Login::Password {
            user: user.clone(),
            password: match &args.password {
                Some(password) => password.reveal().to_owned(),
                None => password::of_user(user)?,
            },
        },
    })
}

fn trust(args: &SqlArgs) -> Result<Trust, Error> {
    match &args.tls_ca {
        Some(file) => Trust::of_file(file).map_err(|failure| Error::Usage(failure.to_string())),
        None => Ok(Trust::public()),
    }
}

fn read_file(file: &Path) -> Result<String, Error> {
    if file == Path::new("-") {
        return read_input();
    }
    std::fs::read_to_string(file)
        .map_err(|error| Error::Usage(format!("--file {:?} cannot be read: {error}", file.display())))
}

fn read_input() -> Result<String, Error> {
    let mut script = String::new();
    match std::io::stdin().read_to_string(&mut script) {
        Ok(_) => Ok(script),
        Err(error) => Err(Error::Usage(format!("standard input cannot be read: {error}"))),
    }
}

/// Whether the shell goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Go,
    Quit,
}

/// A connection and how its results are shown.
struct Shell {
    client: Client,
    format: OutputFormat,
    timing: bool,
}

impl Shell {
    /// Runs the pieces of `script` in order up to the first error, which names its line when the script is a file.
    async fn run_script(&mut self, script: &str, file: Option<&Path>) -> Result<Flow, Error> {
        for piece in split::pieces(script) {
            let done = match piece.kind {
                Kind::Sql => self.statement(piece.text).await.map(|()| Flow::Go),
                Kind::Command => self.command(piece.text).await,
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

    async fn statement(&mut self, sql: &str) -> Result<(), Error> {
        statement::run(&mut self.client, sql, self.format, self.timing).await
    }

    async fn command(&mut self, line: &str) -> Result<Flow, Error> {
        match Command::parse(line).map_err(Error::Usage)? {
            Command::Sql(sql) => self.statement(&sql).await?,
            Command::Timing(timing) => {
                self.timing = timing.unwrap_or(!self.timing);
                eprintln!("timing is {}", if self.timing { "on" } else { "off" });
            }
            Command::Help => eprint!("{}", command::HELP),
            Command::Quit => return Ok(Flow::Quit),
        }
        Ok(Flow::Go)
    }

    async fn close(&mut self) {
        self.client.close().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_read_is_a_wrong_flag() {
        let error = read_file(Path::new("/no/such/file.sql")).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("--file \"/no/such/file.sql\" cannot be read"),
            "{error}"
        );
        assert_eq!(error.exit_code(), ExitCode::from(2));
    }
}
