//! Errors of the shell, each as one sentence for standard error.

use std::error::Error as _;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use arrow::error::ArrowError;
use arrow_flight::error::FlightError;
use tonic::Status;

use super::address::Address;

/// Why the shell, or a statement in it, failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// A flag or a file that cannot be used.
    #[error("{0}")]
    Usage(String),
    /// No server answers at the address.
    #[error(
        "cannot reach a server at {address} ({reason}); start one with `squadron serve`, or name another with --server"
    )]
    Connect {
        /// Where the shell dialled.
        address: Address,
        /// The innermost cause.
        reason: String,
    },
    /// The server answered with an error.
    #[error("{}", describe(.0))]
    Server(Box<Status>),
    /// The server's answer cannot be decoded.
    #[error("the server's answer cannot be read: {0}")]
    Answer(String),
    /// The rows cannot be encoded in the chosen format.
    #[error("the rows cannot be written in this format: {0}")]
    Format(ArrowError),
    /// Standard output or the terminal failed.
    #[error("cannot write the result: {0}")]
    Output(io::Error),
    /// The user pressed Ctrl-C.
    #[error("cancelled")]
    Cancelled,
    /// The error of a statement in a file.
    #[error("{}:{line}: {error}", file.display())]
    In {
        /// The file.
        file: PathBuf,
        /// The line on which the statement starts.
        line: usize,
        /// The error.
        error: Box<Error>,
    },
}

impl Error {
    /// Whether the reader of standard output is gone, as behind `| head`: an end, not a failure.
    pub(super) fn is_reader_gone(&self) -> bool {
        match self {
            Self::Output(error) => error.kind() == io::ErrorKind::BrokenPipe,
            Self::In { error, .. } => error.is_reader_gone(),
            _ => false,
        }
    }

    /// The same error, with the file and line of its statement.
    pub(super) fn at(self, file: &Path, line: usize) -> Self {
        Self::In {
            file: file.to_owned(),
            line,
            error: Box::new(self),
        }
    }

    /// The exit code of the process.
    pub(super) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            error if error.is_reader_gone() => ExitCode::SUCCESS,
            _ => ExitCode::from(1),
        }
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::Server(Box::new(status))
    }
}

impl From<FlightError> for Error {
    fn from(error: FlightError) -> Self {
        match error {
            FlightError::Tonic(status) => Self::Server(status),
            other => Self::Answer(other.to_string()),
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<ArrowError> for Error {
    fn from(error: ArrowError) -> Self {
        Self::Format(error)
    }
}

/// The innermost cause of an error.
pub(super) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// The message of a status that the server sent. A status with a source was made by the client for a lost connection.
fn describe(status: &Status) -> String {
    match status.source() {
        Some(cause) => format!("the connection to the server is lost ({})", root_cause(cause)),
        None if status.message().is_empty() => {
            format!("the server answered {:?} without a reason", status.code())
        }
        None => status.message().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_prints_its_message() {
        assert_eq!(
            Error::from(Status::not_found("no table named x")).to_string(),
            "no table named x"
        );
        assert!(Error::from(Status::internal("")).to_string().contains("Internal"));
        assert_eq!(
            Error::from(FlightError::from(Status::cancelled("gone"))).to_string(),
            "gone"
        );
    }

    #[test]
    fn lost_connection_error_is_named() {
        let status = Status::from_error(Box::new(io::Error::new(
            io::ErrorKind::ConnectionReset,
            "reset by peer",
        )));
        assert!(
            Error::from(status)
                .to_string()
                .starts_with("the connection to the server is lost")
        );
    }

    #[test]
    fn file_statement_error_names_line() {
        let error = Error::Cancelled.at(Path::new("x.sql"), 7);
        assert_eq!(error.to_string(), "x.sql:7: cancelled");
        assert_eq!(error.exit_code(), ExitCode::from(1));
    }

    #[test]
    fn closed_pipe_is_no_failure() {
        let closed = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(Error::from(closed()).is_reader_gone());
        assert!(Error::from(closed()).at(Path::new("x.sql"), 1).is_reader_gone());
        assert!(!Error::Cancelled.is_reader_gone());
    }
}
