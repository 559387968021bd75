//! `squadron-bench stream`: how fast a large scan reaches its client, beside a server that has nothing to do but send.

use std::process::Command;
use std::time::Instant;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use arrow_flight::Ticket;
use clap::Args;
use futures::TryStreamExt;
use serde::Serialize;
use tempfile::TempDir;

use super::connection::{self, Connection};
use super::machine::Machine;
use super::stats::median;
use super::system::{System, SystemArgs};
use super::tables::{self, ARROW_TABLE, PARQUET_TABLE, Scan};
use super::{JsonArgs, Result, Verdict, plain};
use crate::process::Process;

/// `squadron-bench stream`.
#[derive(Args, Debug, Clone, Serialize)]
pub(super) struct StreamArgs {
    #[command(flatten)]
    #[serde(flatten)]
    system: SystemArgs,
    /// Size of the scanned table in Arrow's memory.
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..))]
    mebibytes: u64,
    /// How often each of the three streams is read.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    #[command(flatten)]
    #[serde(skip)]
    json: JsonArgs,
}

/// All figures.
#[derive(Debug, Serialize)]
pub(super) struct StreamFigures {
    rows: u64,
    arrow_bytes: u64,
    plain: Stream,
    arrow: Stream,
    parquet: Stream,
    /// Squadron's rate over the plain server's.
    arrow_ratio: f64,
    parquet_ratio: f64,
}

/// One stream, read several times.
#[derive(Debug, Serialize)]
pub(super) struct Stream {
    runs_seconds: Vec<f64>,
    /// Of the median run, a megabyte being 1,000,000 bytes.
    megabytes_per_second: f64,
}

pub(super) async fn run(args: &StreamArgs) -> Result<Verdict> {
    let machine = Machine::here();
    let cache = tables::cache_folder(args.system.cache_dir.as_deref())?;
    let scan = tables::scan(&cache, args.mebibytes << 20)?;
    let data = scan.folder.display().to_string();
    let system = args.system.start(&["--data".to_owned(), data]).await?;
    let mut streams = Streams::open(scan, &system).await?;
    let mut seconds = [Vec::new(), Vec::new(), Vec::new()];
    println!(
        "{:>5} {:>12} {:>12} {:>12}",
        "run", "plain s", "arrow s", "parquet s"
    );
    // The first round fills the page cache and is not counted.
    for run in 0..=args.runs {
        let round = streams.round().await?;
        if run > 0 {
            println!(
                "{run:>5} {:>12.3} {:>12.3} {:>12.3}",
                round[0], round[1], round[2]
            );
            seconds
                .iter_mut()
                .zip(round)
                .for_each(|(all, one)| all.push(one));
        }
    }
    let figures = StreamFigures::new(streams.scan.rows, seconds);
    println!(
        "{:>5} {:>7.0} MB/s {:>7.0} MB/s {:>7.0} MB/s\nratio {:>12} {:>12.3} {:>12.3}",
        "",
        figures.plain.megabytes_per_second,
        figures.arrow.megabytes_per_second,
        figures.parquet.megabytes_per_second,
        "",
        figures.arrow_ratio,
        figures.parquet_ratio,
    );
    let options = StreamArgs {
        system: args.system.resolved(),
        ..args.clone()
    };
    args.json.write("stream", machine, options, figures)?;
    Ok(Verdict::Good)
}

/// The servers, each with its connection.
struct Streams {
    scan: Scan,
    squadron: Connection,
    plain: Connection,
    _plain_process: Process,
    _logs: TempDir,
}

impl Streams {
    async fn open(scan: Scan, system: &System) -> Result<Self> {
        let logs = TempDir::with_prefix("squadron-bench-")?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("plain").arg(scan.folder.join(ARROW_TABLE));
        let mut process = Process::start("plain", command, logs.path().join("plain.log"));
        let url = process.line(plain::READY).await;
        Ok(Self {
            scan,
            squadron: connection::connect(&system.url).await?,
            plain: connection::connect(&url).await?,
            _plain_process: process,
            _logs: logs,
        })
    }

    /// Reads each stream once; gives the seconds from the question to the last row.
    async fn round(&mut self) -> Result<[f64; 3]> {
        Ok([
            self.read_plain().await?,
            self.read_table(ARROW_TABLE).await?,
            self.read_table(PARQUET_TABLE).await?,
        ])
    }

    async fn read_plain(&mut self) -> Result<f64> {
        let mut received = Received::default();
        let began = Instant::now();
        let mut stream = self.plain.do_get(Ticket::new("all")).await?;
        while let Some(batch) = stream.try_next().await? {
            received.take(&batch);
        }
        let seconds = began.elapsed().as_secs_f64();
        received.check(&self.scan)?;
        Ok(seconds)
    }

    async fn read_table(&mut self, table: &str) -> Result<f64> {
        let mut received = Received::default();
        let began = Instant::now();
        let info = connection::start(&mut self.squadron, &format!("SELECT * FROM {table}")).await?;
        connection::drain(&mut self.squadron, info, |batch| received.take(&batch)).await?;
        let seconds = began.elapsed().as_secs_f64();
        received.check(&self.scan)?;
        Ok(seconds)
    }
}

/// What arrived.
#[derive(Default)]
struct Received {
    rows: u64,
    id_sum: i64,
}

impl Received {
    fn take(&mut self, batch: &RecordBatch) {
        self.rows += batch.num_rows() as u64;
        if let Some(ids) = batch.column(0).as_primitive_opt::<Int64Type>() {
            self.id_sum += ids.values().iter().sum::<i64>();
        }
    }

    fn check(&self, scan: &Scan) -> Result<()> {
        match (self.rows, self.id_sum) == (scan.rows, scan.id_sum) {
            true => Ok(()),
            false => Err(format!(
                "{} rows arrived instead of {}, or others",
                self.rows, scan.rows
            )
            .into()),
        }
    }
}

impl StreamFigures {
    fn new(rows: u64, [plain, arrow, parquet]: [Vec<f64>; 3]) -> Self {
        let arrow_bytes = rows * tables::ROW_BYTES;
        let stream = |runs_seconds: Vec<f64>| Stream {
            megabytes_per_second: arrow_bytes as f64 / 1e6 / median(&runs_seconds),
            runs_seconds,
        };
        let (plain, arrow, parquet) = (stream(plain), stream(arrow), stream(parquet));
        Self {
            rows,
            arrow_bytes,
            arrow_ratio: arrow.megabytes_per_second / plain.megabytes_per_second,
            parquet_ratio: parquet.megabytes_per_second / plain.megabytes_per_second,
            plain,
            arrow,
            parquet,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Figures with every key, also for the test of the documentation.
    pub(in super::super) fn sample() -> StreamFigures {
        StreamFigures::new(2_000_000, [vec![0.1, 0.2, 9.0], vec![0.25], vec![0.5, 0.3]])
    }

    #[test]
    fn rates_are_those_of_the_median_run() {
        let figures = sample();
        assert_eq!(figures.arrow_bytes, 130_000_000);
        assert_eq!(figures.plain.megabytes_per_second, 650.0);
        assert_eq!(figures.arrow_ratio, 0.8);
        assert_eq!(figures.parquet_ratio, 0.5);
    }

    #[test]
    fn what_arrived_is_checked() {
        let scan = Scan {
            folder: "".into(),
            rows: 2,
            id_sum: 1,
        };
        assert!(Received { rows: 2, id_sum: 1 }.check(&scan).is_ok());
        assert!(Received { rows: 2, id_sum: 2 }.check(&scan).is_err());
        assert!(Received { rows: 1, id_sum: 1 }.check(&scan).is_err());
    }
}
