//! The command line, with variables and configuration file: parsed and checked.
//!
//! ```text
//! flag  >  variable SQUADRON_*  >  key in --config FILE.toml  >  default
//! ```
//!
//! A refusal is one sentence that names the flag (or variable, or key), its value and the remedy; the process then
//! exits with [`USAGE_EXIT_CODE`].

mod args;
mod clap_errors;
mod layers;
mod machine;
mod origins;
mod reference;
mod stop;
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
pub use stop::{Stop, USAGE_EXIT_CODE};
pub use values::{DataSource, SCHEMES, Secret};
pub(crate) use values::{parse_duration, parse_size, path_url};

/// Where generated tables are kept without `--cache-dir`.
pub fn default_cache_dir() -> std::path::PathBuf {
    layers::cache_dir(&|name| std::env::var(name).ok())
}

/// Parses the arguments and variables of this process.
pub fn from_process() -> Result<Command, Stop> {
    parse(std::env::args_os(), |name| std::env::var(name).ok())
}

/// Parses the command line `argv`, with the variables that `variable` returns.
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

/// Checks what depends on several flags.
fn check_serve(serve: &ServeArgs) -> Result<(), String> {
    let has_authentication = serve.users.is_some() || serve.tokens.is_some();
    if !serve.listen.ip().is_loopback() && !has_authentication && !serve.insecure {
        return Err(format!(
            "--listen {} would let anyone on the network read every table; add --users FILE or --tokens FILE to say \
             who may, listen on 127.0.0.1, or add --insecure if you trust the network",
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
