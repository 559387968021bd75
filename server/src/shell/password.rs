//! Passwords: read without an echo, and hashed for `serve --users`.

use std::io::{self, BufRead, IsTerminal};
use std::process::ExitCode;

use super::error::Error;
use crate::auth;
use crate::config::HashPasswordArgs;

/// Runs `squadron hash-password`: prints the hash alone and returns the exit code of the process.
pub fn hash_password(args: &HashPasswordArgs) -> ExitCode {
    let password = match &args.password {
        Some(password) => Ok(password.reveal().to_owned()),
        None if io::stdin().is_terminal() => ask_twice(),
        None => read_first_line(io::stdin().lock()),
    };
    let hash = password.and_then(|password| auth::hash(&password).map_err(|failure| Error::Usage(failure.to_string())));
    match hash {
        Ok(hash) => {
            println!("{hash}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            error.exit_code()
        }
    }
}

/// Asks for the password of `user` at the terminal.
pub(super) fn ask_for_user(user: &str) -> Result<String, Error> {
    if !io::stdin().is_terminal() {
        return Err(Error::Usage(format!(
            "--user {user} needs a password; give --password @FILE, since there is no terminal to ask at"
        )));
    }
    ask(&format!("Password of {user}: "))
}

fn ask_twice() -> Result<String, Error> {
    let password = ask("Password: ")?;
    if password.is_empty() {
        return Err(empty_password());
    }
    if ask("Once more: ")? != password {
        return Err(Error::Usage("the two passwords differ; try again".to_owned()));
    }
    Ok(password)
}

fn ask(prompt: &str) -> Result<String, Error> {
    rpassword::prompt_password(prompt).map_err(|error| Error::Usage(format!("the password cannot be read: {error}")))
}

fn read_first_line(mut input: impl BufRead) -> Result<String, Error> {
    let mut line = String::new();
    input
        .read_line(&mut line)
        .map_err(|error| Error::Usage(format!("standard input cannot be read: {error}")))?;
    let password = line.trim_end_matches(['\r', '\n']);
    match password.is_empty() {
        true => Err(empty_password()),
        false => Ok(password.to_owned()),
    }
}

fn empty_password() -> Error {
    Error::Usage("the password is empty; give one, or --password @FILE".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn password_is_the_first_line() {
        for (input, password) in [("a b \nc\n", "a b "), ("x\r\n", "x"), ("y", "y")] {
            assert_eq!(read_first_line(input.as_bytes()).unwrap(), password);
        }
        for input in ["", "\n", "\nx"] {
            let error = read_first_line(input.as_bytes()).unwrap_err();
            assert!(error.to_string().contains("--password"), "{error}");
        }
    }
}
