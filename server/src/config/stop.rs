//! Command lines that run nothing: help, version and refusals.

/// The exit code of a refused command line.
pub const USAGE_EXIT_CODE: u8 = 2;

/// Why there is nothing to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Help or version, for standard output; exit code 0.
    Show(String),
    /// A sentence for standard error; exit code [`USAGE_EXIT_CODE`].
    Refuse(String),
}

impl Stop {
    /// Prints the text for the user and returns the exit code of the process.
    pub fn print(&self) -> std::process::ExitCode {
        match self {
            Self::Show(text) => {
                print!("{text}");
                std::process::ExitCode::SUCCESS
            }
            Self::Refuse(sentence) => {
                eprintln!("squadron: {sentence}");
                std::process::ExitCode::from(USAGE_EXIT_CODE)
            }
        }
    }
}
