//! `squadron sql`: a shell for people and scripts, on the same Flight SQL that every other client uses.
//!
//! ```text
//! -c, -f, standard input, terminal --split--> pieces --command--> the shell itself
//!                                               '-----statement--> client --> encode --> standard output
//! ```
//!
//! Rows go to standard output while they arrive; messages go to standard error. A script stops at its first error with
//! exit code 1; at a terminal an error ends the statement only. Ctrl-C cancels the running statement.
//!
//! What only a person wants (prompts, a bound on the rows, cells cut to the terminal, a pager) is set in a `View` that
//! scripts and pipes do not have.

mod address;
mod client;
mod command;
mod encode;
mod error;
mod input;
mod interactive;
mod names;
mod pager;
mod password;
mod pending_statement;
mod poll_support;
mod progress;
mod screen;
mod script;
mod split;
mod statement;
mod table;
#[cfg(test)]
mod testing;
mod view;

use std::io::{IsTerminal, Read};
use std::path::Path;
use std::process::ExitCode;

use squadron_shuffle::Trust;

use self::address::Address;
use self::client::{Client, Login};
use self::error::Error;
pub use self::password::hash_password;
use self::script::Shell;
use self::view::View;
use crate::config::SqlArgs;

/// Runs the shell and returns the exit code of its process: 0, 1 after an SQL error, a cancelled statement or without a
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
    let trust = load_trust(args)?;
    // Read before dialling, so that a wrong file name is reported at once.
    let script = match (&args.command, &args.file) {
        (Some(command), _) => Some((command.clone(), None)),
        (None, Some(file)) => Some((read_file(file)?, Some(file.as_path()))),
        (None, None) if !std::io::stdin().is_terminal() => Some((read_input()?, None)),
        (None, None) => None,
    };
    let client = Client::connect(&address, &trust, &choose_login(args)?).await?;
    let view = match script {
        Some(_) => View::of_script(args.format),
        None => View::of_session(args.format, std::io::stdout().is_terminal()),
    };
    let mut shell = Shell { client, view };
    match script {
        Some((script, file)) => {
            let result = shell.run_script(&script, file).await.map(|_| ());
            shell.close().await;
            result
        }
        None => {
            println!(
                "squadron {}, connected to {address}; type help or \\?",
                env!("CARGO_PKG_VERSION")
            );
            interactive::run(shell).await
        }
    }
}

fn choose_login(args: &SqlArgs) -> Result<Login, Error> {
    Ok(match (&args.user, &args.token) {
        (None, None) => Login::None,
        (None, Some(token)) => Login::Token(token.reveal().to_owned()),
        (Some(user), _) => Login::Password {
            user: user.clone(),
            password: match &args.password {
                Some(password) => password.reveal().to_owned(),
                None => password::ask_for_user(user)?,
            },
        },
    })
}

fn load_trust(args: &SqlArgs) -> Result<Trust, Error> {
    match &args.tls_ca {
        Some(file) => Trust::from_file(file).map_err(|failure| Error::Usage(failure.to_string())),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreadable_file_is_usage_error() {
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
