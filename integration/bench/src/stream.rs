//! `squadron-bench stream`: how fast a large scan reaches its client, beside a plain Flight server that only sends.

use std::collections::{BTreeMap, HashMap};
use std::process::Command;
use std::time::Instant;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use arrow_flight::{Action, CancelFlightInfoRequest, FlightEndpoint, Ticket};
use clap::{Args, ValueEnum};
use futures::TryStreamExt;
use prost::Message;
use serde::Serialize;
use squadron_integration::process::Process;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::connection::{self, Connection, to_error};
use crate::machine::Machine;
use crate::stats::median;
use crate::system::{System, SystemArgs};
use crate::tables::{self, ARROW_TABLE, PARQUET_TABLE, Scan};
use crate::{JsonArgs, Result, Verdict, plain};

/// `squadron-bench stream`.
#[derive(Args, Debug, Clone, Serialize)]
pub(super) struct StreamArgs {
    #[command(flatten)]
    #[serde(flatten)]
    system: SystemArgs,
    /// Size of the scanned table in Arrow's memory.
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..))]
    mebibytes: u64,
    /// How often each of the streams is read.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Whether the results have one endpoint, several that are read together, or are read both ways in turns.
    #[arg(long, value_name = "HOW", default_value = "one")]
    endpoints: Endpoints,
    #[command(flatten)]
    #[serde(skip)]
    json: JsonArgs,
}

/// How many endpoints the results of Squadron have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Endpoints {
    /// One stream through the server.
    One,
    /// One stream for each partition, from the workers.
    Parallel,
    /// Both, in turns.
    Both,
}

/// One stream of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Plain,
    One(&'static str),
    Parallel(&'static str),
}

impl Endpoints {
    fn sources(self) -> Vec<Source> {
        let tables = [ARROW_TABLE, PARQUET_TABLE];
        let one = tables.map(Source::One);
        let parallel = tables.map(Source::Parallel);
        let read: &[&[Source]] = match self {
            Self::One => &[&one],
            Self::Parallel => &[&parallel],
            Self::Both => &[&one, &parallel],
        };
        [&[Source::Plain], read.concat().as_slice()].concat()
    }
}

impl Source {
    fn label(self) -> String {
        match self {
            Self::Plain => "plain".into(),
            Self::One(table) => short_name(table).into(),
            Self::Parallel(table) => format!("{}_parallel", short_name(table)),
        }
    }
}

/// A table's name without the common prefix.
fn short_name(table: &str) -> &str {
    table.trim_start_matches("scan_")
}

/// All figures.
#[derive(Debug, Serialize)]
pub(super) struct StreamFigures {
    rows: u64,
    arrow_bytes: u64,
    #[serde(flatten)]
    streams: BTreeMap<String, Stream>,
    /// Squadron's rates divided by the plain server's.
    #[serde(flatten)]
    ratios: BTreeMap<String, f64>,
}

/// One stream, read several times.
#[derive(Debug, Serialize)]
pub(super) struct Stream {
    runs_seconds: Vec<f64>,
    /// Of the median run, a megabyte being 1,000,000 bytes.
    megabytes_per_second: f64,
}

pub(super) async fn run(args: &StreamArgs) -> Result<Verdict> {
    let machine = Machine::detect();
    let cache = tables::cache_folder(args.system.cache_dir.as_deref())?;
    let scan = tables::ensure_scan(&cache, args.mebibytes << 20)?;
    let data = scan.folder.display().to_string();
    let system = args.system.start(&["--data".to_owned(), data]).await?;
    let mut streams = Streams::open(scan, &system).await?;
    let sources = args.endpoints.sources();
    let mut seconds = vec![Vec::new(); sources.len()];
    let labels = sources.iter().map(|source| source.label() + " s");
    println!("{:>5}{}", "run", columns(labels));
    // The first round fills the page cache and is not counted.
    for run in 0..=args.runs {
        let round = streams.round(&sources).await?;
        if run > 0 {
            println!("{run:>5}{}", columns(round.iter().map(|one| format!("{one:.3}"))));
            for (all, one) in seconds.iter_mut().zip(round) {
                all.push(one);
            }
        }
    }
    let measured = sources.iter().map(|source| source.label()).zip(seconds);
    let figures = StreamFigures::new(streams.scan.rows, measured.collect());
    let rate = |label: &String| figures.streams[label].megabytes_per_second;
    let labels: Vec<_> = sources.iter().map(|source| source.label()).collect();
    let rates = labels.iter().map(|label| format!("{:.0} MB/s", rate(label)));
    println!("{:>5}{}", "", columns(rates));
    let ratios = labels.iter().map(|label| {
        let ratio = figures.ratios.get(&ratio_key(label));
        ratio.map_or_else(String::new, |ratio| format!("{ratio:.3}"))
    });
    println!("ratio{}", columns(ratios));
    let options = StreamArgs {
        system: args.system.with_defaults(),
        ..args.clone()
    };
    args.json.write("stream", machine, options, figures)?;
    Ok(Verdict::Good)
}

fn columns(cells: impl Iterator<Item = String>) -> String {
    cells.map(|cell| format!(" {cell:>18}")).collect()
}

fn ratio_key(label: &str) -> String {
    format!("{label}_ratio")
}

/// The connections to both servers, and the process of the plain one.
struct Streams {
    scan: Scan,
    squadron: Connection,
    /// A connection whose session asks for several endpoints.
    parallel: Connection,
    /// Connections to the locations of endpoints.
    locations: HashMap<String, Connection>,
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
        let url = process.wait_for_line(plain::READY).await;
        let mut parallel = connection::connect(&system.url).await?;
        connection::update(&mut parallel, "SET squadron.endpoints = parallel").await?;
        Ok(Self {
            scan,
            squadron: connection::connect(&system.url).await?,
            parallel,
            locations: HashMap::new(),
            plain: connection::connect(&url).await?,
            _plain_process: process,
            _logs: logs,
        })
    }

    /// Reads each stream once; gives the seconds from the request to the last row.
    async fn round(&mut self, sources: &[Source]) -> Result<Vec<f64>> {
        let mut seconds = Vec::with_capacity(sources.len());
        for source in sources {
            seconds.push(match source {
                Source::Plain => self.read_plain().await?,
                Source::One(table) => self.read_table(table).await?,
                Source::Parallel(table) => self.read_in_parallel(table).await?,
            });
        }
        Ok(seconds)
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
        connection::for_each_batch(&mut self.squadron, info, |batch| received.take(&batch)).await?;
        let seconds = began.elapsed().as_secs_f64();
        received.check(&self.scan)?;
        Ok(seconds)
    }

    /// Reads all endpoints at once, each from its first location. The result is released after the time was taken.
    async fn read_in_parallel(&mut self, table: &str) -> Result<f64> {
        let mut received = Received::default();
        let began = Instant::now();
        let info = connection::start(&mut self.parallel, &format!("SELECT * FROM {table}")).await?;
        let mut readers = JoinSet::new();
        for endpoint in &info.endpoint {
            let connection = self.connect_to_location(endpoint).await?;
            readers.spawn(read_endpoint(connection, endpoint.ticket.clone()));
        }
        while let Some(read) = readers.join_next().await {
            received.add(&read??);
        }
        let seconds = began.elapsed().as_secs_f64();
        received.check(&self.scan)?;
        let request = CancelFlightInfoRequest::new(info).encode_to_vec();
        let action = Action::new("CancelFlightInfo", request);
        let mut results = self.parallel.inner_mut().do_action(action).await?.into_inner();
        while results.message().await?.is_some() {}
        Ok(seconds)
    }

    async fn connect_to_location(&mut self, endpoint: &FlightEndpoint) -> Result<Connection> {
        let Some(location) = endpoint.location.first() else {
            return Ok(self.parallel.clone());
        };
        if let Some(known) = self.locations.get(&location.uri) {
            return Ok(known.clone());
        }
        let connection = connection::connect(&location.uri).await?;
        self.locations.insert(location.uri.clone(), connection.clone());
        Ok(connection)
    }
}

async fn read_endpoint(mut connection: Connection, ticket: Option<Ticket>) -> Result<Received> {
    let mut received = Received::default();
    let ticket = ticket.ok_or("an endpoint without a ticket")?;
    let mut stream = connection.do_get(ticket).await.map_err(to_error)?;
    while let Some(batch) = stream.try_next().await.map_err(to_error)? {
        received.take(&batch);
    }
    Ok(received)
}

/// The rows that arrived.
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

    fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.id_sum += other.id_sum;
    }

    fn check(&self, scan: &Scan) -> Result<()> {
        match (self.rows, self.id_sum) == (scan.rows, scan.id_sum) {
            true => Ok(()),
            false => Err(format!("{} rows arrived instead of {}, or others", self.rows, scan.rows).into()),
        }
    }
}

impl StreamFigures {
    fn new(rows: u64, measured: BTreeMap<String, Vec<f64>>) -> Self {
        let arrow_bytes = rows * tables::ROW_BYTES;
        let stream = |runs_seconds: Vec<f64>| Stream {
            megabytes_per_second: arrow_bytes as f64 / 1e6 / median(&runs_seconds),
            runs_seconds,
        };
        let streams: BTreeMap<_, _> = measured
            .into_iter()
            .map(|(label, seconds)| (label, stream(seconds)))
            .collect();
        let plain = streams["plain"].megabytes_per_second;
        let ratios = streams
            .iter()
            .filter(|(label, _)| *label != "plain")
            .map(|(label, stream)| (ratio_key(label), stream.megabytes_per_second / plain));
        Self {
            rows,
            arrow_bytes,
            ratios: ratios.collect(),
            streams,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Figures with every key, also for the test of the documentation.
    pub(crate) fn sample() -> StreamFigures {
        let sources = Endpoints::Both.sources();
        let seconds = [vec![0.1, 0.2, 9.0], vec![0.25], vec![0.5, 0.3], vec![0.1], vec![0.2]];
        let labels = sources.iter().map(|source| source.label());
        StreamFigures::new(2_000_000, labels.zip(seconds).collect())
    }

    #[test]
    fn rates_come_from_median_run() {
        let figures = sample();
        assert_eq!(figures.arrow_bytes, 130_000_000);
        assert_eq!(figures.streams["plain"].megabytes_per_second, 650.0);
        assert_eq!(figures.ratios["arrow_ratio"], 0.8);
        assert_eq!(figures.ratios["parquet_ratio"], 0.5);
        assert_eq!(figures.ratios["arrow_parallel_ratio"], 2.0);
        assert!(!figures.ratios.contains_key("plain_ratio"));
    }

    #[test]
    fn every_mode_includes_plain_server() {
        for (endpoints, sources) in [(Endpoints::One, 3), (Endpoints::Parallel, 3), (Endpoints::Both, 5)] {
            assert_eq!(endpoints.sources().len(), sources);
            assert_eq!(endpoints.sources()[0], Source::Plain);
        }
    }

    #[test]
    fn received_rows_must_match_scan() {
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
