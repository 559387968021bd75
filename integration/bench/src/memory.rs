//! `squadron-bench memory`: peak memory of the server while a client reads a result slowly.

use std::time::{Duration, Instant};

use clap::Args;
use futures::StreamExt;
use indicatif::ProgressBar;
use serde::Serialize;

use crate::connection;
use crate::machine::Machine;
use crate::system::SystemArgs;
use crate::{JsonArgs, Result, Verdict, tables, usage};

const STATEMENT: &str = "SELECT * FROM lineitem";

/// `squadron-bench memory`.
#[derive(Args, Debug, Clone, Serialize)]
pub(super) struct MemoryArgs {
    /// Scale of the tables: 1 is 1 GB of raw data.
    #[arg(long, value_name = "SCALE", default_value_t = 1.0)]
    sf: f64,
    #[command(flatten)]
    #[serde(flatten)]
    system: SystemArgs,
    /// How fast the client reads at most, in Arrow's bytes.
    #[arg(long, value_name = "MB", default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..))]
    megabytes_per_second: u32,
    #[command(flatten)]
    #[serde(skip)]
    json: JsonArgs,
}

/// All figures.
#[derive(Debug, Serialize)]
pub(super) struct MemoryFigures {
    statement: &'static str,
    rows: u64,
    arrow_bytes: u64,
    seconds: f64,
    /// Resident memory of the server's process before the query.
    idle_memory_bytes: u64,
    /// Peak resident memory of the server's process.
    peak_memory_bytes: u64,
}

pub(super) async fn run(args: &MemoryArgs) -> Result<Verdict> {
    let machine = Machine::detect();
    // Another process generates the tables, so that the peak is that of serving.
    tables::ensure_tpch(args.sf, args.system.cache_dir.as_deref()).await?;
    let system = args.system.start(&["--tpch".to_owned(), args.sf.to_string()]).await?;
    let server = system
        .server_pid()
        .ok_or("the memory of a server on another machine cannot be read; leave out --server")?;
    let idle = usage::memory_bytes(server).ok_or("this system does not tell the memory of a process in /proc")?;
    let mut figures = MemoryFigures {
        statement: STATEMENT,
        rows: 0,
        arrow_bytes: 0,
        seconds: 0.0,
        idle_memory_bytes: idle,
        peak_memory_bytes: idle,
    };
    read_slowly(&system.url, f64::from(args.megabytes_per_second) * 1e6, &mut figures).await?;
    figures.peak_memory_bytes = usage::peak_memory_bytes(server).ok_or("the server is gone")?;
    println!(
        "{STATEMENT}: {} rows, {:.0} MB in {:.1} s; server idle {:.0} MB, peak {:.0} MB",
        figures.rows,
        figures.arrow_bytes as f64 / 1e6,
        figures.seconds,
        figures.idle_memory_bytes as f64 / 1e6,
        figures.peak_memory_bytes as f64 / 1e6,
    );
    let options = MemoryArgs {
        system: args.system.with_defaults(),
        ..args.clone()
    };
    args.json.write("memory", machine, options, figures)?;
    Ok(Verdict::Good)
}

/// Reads the result no faster than `bytes_per_second`: after each batch it waits until that many bytes are due.
async fn read_slowly(url: &str, bytes_per_second: f64, figures: &mut MemoryFigures) -> Result<()> {
    let mut connection = connection::connect(url).await?;
    let progress = ProgressBar::new_spinner();
    progress.enable_steady_tick(Duration::from_millis(200));
    let began = Instant::now();
    let info = connection::start(&mut connection, STATEMENT).await?;
    for mut stream in connection::streams(&mut connection, info).await? {
        while let Some(batch) = stream.next().await {
            let batch = batch.map_err(connection::to_error)?;
            figures.rows += batch.num_rows() as u64;
            figures.arrow_bytes += batch
                .columns()
                .iter()
                .map(|column| column.to_data().get_slice_memory_size())
                .try_fold(0, |sum, bytes| bytes.map(|bytes| sum + bytes as u64))?;
            progress.set_message(format!("{} rows", figures.rows));
            let due = Duration::from_secs_f64(figures.arrow_bytes as f64 / bytes_per_second);
            tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
        }
    }
    figures.seconds = began.elapsed().as_secs_f64();
    progress.finish_and_clear();
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Figures with every key, for the test of the documentation.
    pub(crate) fn sample() -> MemoryFigures {
        MemoryFigures {
            statement: STATEMENT,
            rows: 1,
            arrow_bytes: 1,
            seconds: 1.0,
            idle_memory_bytes: 1,
            peak_memory_bytes: 1,
        }
    }
}
