//! The benchmark harness behind `squadron-bench`; `docs/benchmarks.md` says what each command measures, and how.
//!
//! ```text
//! tpch      22 queries, checked against single-process DataFusion and timed beside it and DuckDB
//! tpcds     the same for 99 queries
//! ssb       the same for 13 queries over a star, or over one wide table
//! latency   SELECT 1, prepared and not, for 1 and 16 clients
//! stream    one large scan through DoGet, beside a plain Flight server
//! mixed     short and long queries arrive at random, policies side by side: slowdowns
//! burst     all queries at once, policies side by side, with and without priority
//! cancel    thousands of queries stopped at random moments: time until the workers have released them
//! dispatch  empty tasks through real workers: the cost of scheduling
//! simulate  the scheduler under virtual time with up to thousands of workers, policies side by side
//! soak      clients of every kind for minutes, then nothing of them may be left
//! chaos     workers die, hang and leave while clients check every row
//! memory    the server's peak memory while a client reads a large result slowly
//! ```
//!
//! Contenders run in turns, A B A B, in one run of the harness on one machine, and their medians are compared.

mod answers;
mod burst;
mod cancel;
mod chaos;
mod connection;
mod dispatch;
mod duckdb;
mod isolated;
mod latency;
mod machine;
mod memory;
mod mixed;
mod plain;
mod policies;
mod simulate;
mod slowdowns;
mod soak;
mod ssb;
pub mod stats;
mod stream;
mod suite;
mod system;
mod tables;
#[cfg(test)]
mod tests;
mod timing;
mod tpcds;
mod tpch;
mod usage;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;

use self::machine::{Machine, Versions};

/// An error that ends a measurement.
type Error = Box<dyn std::error::Error + Send + Sync>;

type Result<T> = std::result::Result<T, Error>;

/// Measures Squadron: exactness and speed beside DataFusion, latency, throughput, memory, and how queries share it.
///
/// Build with `cargo build --release --workspace`; it starts the `squadron` that stands beside it.
#[derive(Parser, Debug)]
#[command(name = "squadron-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// The 22 TPC-H queries: each result is checked, each time stands beside those of DataFusion and DuckDB.
    Tpch(tpch::TpchArgs),
    /// The 99 TPC-DS queries, as `tpch`; DuckDB's extension generates tables and texts.
    Tpcds(tpcds::TpcdsArgs),
    /// The 13 queries of the Star Schema Benchmark, as `tpch`, over a star or over one wide table.
    Ssb(ssb::SsbArgs),
    /// SELECT 1, prepared and not: percentiles and queries per second.
    Latency(latency::LatencyArgs),
    /// One large scan through DoGet, beside a plain Flight server that sends the same batches from memory.
    Stream(stream::StreamArgs),
    /// Peak memory of the server while a client reads SELECT * FROM lineitem slowly.
    Memory(memory::MemoryArgs),
    /// Short and long queries arrive at random: slowdowns at several loads, policies side by side.
    Mixed(mixed::MixedArgs),
    /// All TPC-H queries at once: makespan, slowdowns and fairness, policies side by side, and what priority is worth.
    Burst(burst::BurstArgs),
    /// Queries stopped at random moments, in every way: how long until nothing of them is left, and what stays.
    Cancel(cancel::CancelArgs),
    /// Clients of every kind for minutes: rows, and what the processes hold afterwards.
    Soak(soak::SoakArgs),
    /// Workers die, hang and leave at random moments while clients check every row.
    Chaos(chaos::ChaosArgs),
    /// Empty tasks through real workers: how fast they start, and what the scheduler costs.
    Dispatch(dispatch::DispatchArgs),
    /// The server's own scheduler under virtual time: slowdowns, fairness and its cost, policies side by side.
    Simulate(simulate::SimulateArgs),
    /// The plain Flight server of `stream`.
    #[command(hide = true)]
    Plain(plain::PlainArgs),
}

/// The file for the figures.
#[derive(Args, Debug, Clone)]
struct JsonArgs {
    /// Write all figures to this file as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The content of every JSON file.
#[derive(Debug, Serialize)]
struct Report<Options, Figures> {
    benchmark: &'static str,
    machine: Machine,
    versions: Versions,
    options: Options,
    #[serde(flatten)]
    figures: Figures,
}

/// The outcome of a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Every result was right.
    Good,
    /// Some result was wrong.
    Bad,
}

/// Runs the harness: exit code 1 when a result was wrong or nothing could be measured, 2 for bad flags.
pub fn main() -> ExitCode {
    let command = Cli::parse().command;
    let measured = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Error::from)
        .and_then(|runtime| runtime.block_on(run(command)));
    match measured {
        Ok(Verdict::Good) => ExitCode::SUCCESS,
        Ok(Verdict::Bad) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("squadron-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<Verdict> {
    match command {
        Command::Tpch(args) => tpch::run(&args).await,
        Command::Ssb(args) => ssb::run(&args).await,
        Command::Tpcds(args) => tpcds::run(&args).await,
        Command::Latency(args) => latency::run(&args).await,
        Command::Stream(args) => stream::run(&args).await,
        Command::Memory(args) => memory::run(&args).await,
        Command::Mixed(args) => mixed::run(&args).await,
        Command::Burst(args) => burst::run(&args).await,
        Command::Cancel(args) => cancel::run(&args).await,
        Command::Soak(args) => soak::run(&args).await,
        Command::Chaos(args) => chaos::run(&args).await,
        Command::Dispatch(args) => dispatch::run(&args).await,
        Command::Simulate(args) => simulate::run(&args).await,
        Command::Plain(args) => plain::run(&args).await,
    }
}

impl JsonArgs {
    fn write<Options: Serialize, Figures: Serialize>(
        &self,
        benchmark: &'static str,
        machine: Machine,
        options: Options,
        figures: Figures,
    ) -> Result<()> {
        let Some(file) = &self.json else {
            return Ok(());
        };
        let report = Report {
            benchmark,
            machine,
            versions: Versions::detect(),
            options,
            figures,
        };
        write_json(file, &report).map_err(|error| format!("--json {}: {error}", file.display()).into())
    }
}

fn write_json(file: &Path, report: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(report)?;
    text.push('\n');
    Ok(fs::write(file, text)?)
}
