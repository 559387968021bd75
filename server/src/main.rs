//! The `squadron` binary: parse, run, exit code.

use std::io::IsTerminal;
use std::process::ExitCode;

use squadron::catalog::tpch;
use squadron::config::{self, Command};
use squadron::{app, shell, signals};
use squadron_proto::Failure;
use tracing_subscriber::EnvFilter;

/// Its options are in `.cargo/config.toml`.
#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Statements and plans are handed on and dropped here, however deeply they nest; the untouched part of a stack costs
/// address space alone.
const STACK_BYTES: usize = 64 * 1024 * 1024;

fn main() -> ExitCode {
    let command = match config::from_process() {
        Ok(command) => command,
        Err(stop) => return stop.print(),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .thread_name("squadron-io")
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("squadron: cannot start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run(command));
    // What still blocks, such as a read of standard input, must not hold up the exit.
    runtime.shutdown_background();
    code
}

async fn run(command: Command) -> ExitCode {
    match command {
        Command::Serve(args) => {
            log_to_stderr();
            ended(app::serve(&args, signals::shutdown()).await)
        }
        Command::Worker(args) => {
            log_to_stderr();
            ended(app::work(&args, signals::shutdown()).await)
        }
        Command::Sql(args) => shell::run(&args).await,
        Command::HashPassword(args) => shell::hash_password(&args),
        Command::GenerateTpch(args) => {
            log_to_stderr();
            tpch::run(&args)
        }
    }
}

fn ended(outcome: Result<(), Failure>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("squadron: {failure}");
            ExitCode::from(config::USAGE_EXIT_CODE)
        }
    }
}

/// `RUST_LOG` chooses what is logged; the default is what an operator wants to see.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,datafusion=warn,h2=warn,hyper=warn,tower=warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}
