//! The command line: what the user asked for, checked.
//!
//! ```text
//! flag  >  variable SQUADRON_*  >  key in --config FILE.toml  >  default
//! ```
//!
//! A refusal is one sentence that names the flag (or variable, or key), its value and the mend; the process then exits
//! with [`USAGE_EXIT_CODE`].

mod args;
mod clap_errors;
mod layers;
mod machine;
mod reference;
#[cfg(test)]
mod tests;
mod values;

use std::ffi::OsString;

pub use args::{
    Command, EndpointLocations, GenerateTpchArgs, HashPasswordArgs, OutputFormat, PolicyName, ServeArgs, SqlArgs,
    WorkArgs, WorkerArgs,
};
pub(crate) use clap_errors::nearest;
pub use machine::cores;
pub use reference::reference;
pub use values::{DataSource, SCHEMES, Secret};
pub(crate) use values::{duration, path_url, size};

/// Where generated tables are kept unless the user says otherwise.
pub fn default_cache_dir() -> std::path::PathBuf {
    layers::cache_dir(&|name| std::env::var(name).ok())
}

/// The exit code of a command line that cannot be obeyed.
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
    /// Tells the user and returns the exit code of the process.
    pub fn tell(&self) -> std::process::ExitCode {
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

/// What this process was asked to run.
pub fn from_process() -> Result<Command, Stop> {
    parse(std::env::args_os(), |name| std::env::var(name).ok())
}

/// What `argv`, with the variables that `variable` knows, asks to run.
pub fn parse(
    argv: impl IntoIterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Command, Stop> {
    let command = layers::parse(argv.into_iter().collect(), &variable)?;
    match &command {
        Command::Serve(serve) => check_serve(serve).map_err(Stop::Refuse)?,
        Command::Worker(_) | Command::Sql(_) | Command::HashPassword(_) | Command::GenerateTpch(_) => {}
    }
    Ok(command)
}

/// What no single flag can see.
fn check_serve(serve: &ServeArgs) -> Result<(), String> {
    let asks_who = serve.users.is_some() || serve.tokens.is_some();
    if !serve.listen.ip().is_loopback() && !asks_who && !serve.insecure {
        return Err(format!(
            "--listen {} would let anyone on the network read every table; add --users FILE or --tokens FILE to say who \
             may, listen on 127.0.0.1, or add --insecure if you trust the network",
            serve.listen
        ));
    }
    if let Some(cluster) = serve.cluster_listen
        && !cluster.ip().is_loopback()
        && serve.cluster_secret.is_none()
    {
        return Err(format!(
            "--cluster-listen {cluster} can be reached from other machines, so workers must prove themselves; add \
             --cluster-secret TEXT or --cluster-secret @FILE here and at the workers"
        ));
    }
    Ok(())
}
