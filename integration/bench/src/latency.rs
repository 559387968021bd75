//! `squadron-bench latency`: how long the smallest query takes, for one client and for many.

use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use arrow_flight::sql::client::PreparedStatement;
use clap::Args;
use serde::Serialize;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::connection::{self, Connection};
use crate::machine::Machine;
use crate::stats::Times;
use crate::system::SystemArgs;
use crate::{JsonArgs, Result, Verdict};

const STATEMENT: &str = "SELECT 1";

/// Numbers of concurrent clients, one measurement each.
const CLIENTS: [usize; 2] = [1, 16];

/// Clients run before the clock starts, so that connections, caches and branch predictors are warm.
const WARM_UP: Duration = Duration::from_millis(500);

/// `squadron-bench latency`.
#[derive(Args, Debug, Clone, Serialize)]
pub(super) struct LatencyArgs {
    #[command(flatten)]
    #[serde(flatten)]
    system: SystemArgs,
    /// How long each of the four measurements takes.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    #[command(flatten)]
    #[serde(skip)]
    json: JsonArgs,
}

/// All figures.
#[derive(Debug, Serialize)]
pub(super) struct LatencyFigures {
    statement: &'static str,
    measurements: Vec<Measurement>,
}

/// The figures of one statement kind and number of clients.
#[derive(Debug, Serialize)]
pub(super) struct Measurement {
    prepared: bool,
    clients: usize,
    requests: usize,
    queries_per_second: f64,
    #[serde(flatten)]
    times: Times,
}

pub(super) async fn run(args: &LatencyArgs) -> Result<Verdict> {
    let machine = Machine::detect();
    let system = args.system.start(&[]).await?;
    let mut measurements = Vec::new();
    println!(
        "{:>8} {:>7} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "prepared", "clients", "requests", "q/s", "p50 ms", "p99 ms", "max ms"
    );
    for clients in CLIENTS {
        for prepared in [false, true] {
            let measured = measure(&system.url, prepared, clients, Duration::from_secs(args.seconds)).await?;
            println!(
                "{:>8} {:>7} {:>9} {:>9.0} {:>9.3} {:>9.3} {:>9.3}",
                if prepared { "yes" } else { "no" },
                clients,
                measured.requests,
                measured.queries_per_second,
                measured.times.p50_ms,
                measured.times.p99_ms,
                measured.times.max_ms,
            );
            measurements.push(measured);
        }
    }
    let options = LatencyArgs {
        system: args.system.with_defaults(),
        ..args.clone()
    };
    args.json.write(
        "latency",
        machine,
        options,
        LatencyFigures {
            statement: STATEMENT,
            measurements,
        },
    )?;
    Ok(Verdict::Good)
}

/// Runs `clients` clients; each sends its next request as soon as it has the answer to the last.
async fn measure(url: &str, prepared: bool, clients: usize, length: Duration) -> Result<Measurement> {
    let mut connected = Vec::new();
    for _ in 0..clients {
        connected.push(Client::connect(url, prepared).await?);
    }
    let begin = Instant::now() + WARM_UP;
    let end = begin + length;
    let mut tasks = JoinSet::new();
    for client in connected {
        tasks.spawn(ask_until(client, begin, end));
    }
    let mut answers = Vec::new();
    while let Some(task) = tasks.join_next().await {
        answers.extend(task??);
    }
    Ok(Measurement::new(prepared, clients, &answers, length))
}

/// Sends requests until `end`; gives the milliseconds of each answer whose request was sent after `begin`.
async fn ask_until(mut client: Client, begin: Instant, end: Instant) -> Result<Vec<f64>> {
    let mut answers = Vec::new();
    loop {
        let asked = Instant::now();
        if asked >= end {
            return Ok(answers);
        }
        client.ask().await?;
        if asked >= begin {
            answers.push(asked.elapsed().as_secs_f64() * 1e3);
        }
    }
}

/// One client with one connection.
struct Client {
    connection: Connection,
    statement: Option<PreparedStatement<Channel>>,
}

impl Client {
    async fn connect(url: &str, prepared: bool) -> Result<Self> {
        let mut connection = connection::connect(url).await?;
        let statement = match prepared {
            true => Some(
                connection
                    .prepare(STATEMENT.to_owned(), None)
                    .await
                    .map_err(connection::to_error)?,
            ),
            false => None,
        };
        Ok(Self { connection, statement })
    }

    /// One request: from the statement to its last row.
    async fn ask(&mut self) -> Result<()> {
        let info = match &mut self.statement {
            Some(statement) => statement.execute().await.map_err(connection::to_error)?,
            None => connection::start(&mut self.connection, STATEMENT).await?,
        };
        let mut answers = Vec::new();
        connection::for_each_batch(&mut self.connection, info, |batch| answers.push(batch)).await?;
        let is_one = |column: &dyn arrow::array::Array| {
            column
                .as_primitive_opt::<Int64Type>()
                .is_some_and(|values| values.len() == 1 && values.value(0) == 1)
        };
        match answers.as_slice() {
            [answer] if answer.num_columns() == 1 && is_one(answer.column(0)) => Ok(()),
            other => Err(format!("{STATEMENT} answered {other:?}").into()),
        }
    }
}

impl Measurement {
    fn new(prepared: bool, clients: usize, milliseconds: &[f64], length: Duration) -> Self {
        Self {
            prepared,
            clients,
            requests: milliseconds.len(),
            queries_per_second: milliseconds.len() as f64 / length.as_secs_f64(),
            times: Times::of(milliseconds),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Figures with every key, also for the test of the documentation.
    pub(crate) fn sample() -> LatencyFigures {
        let answers: Vec<f64> = (1..=100).map(f64::from).collect();
        let measured = Measurement::new(true, 16, &answers, Duration::from_secs(10));
        LatencyFigures {
            statement: STATEMENT,
            measurements: vec![measured],
        }
    }

    #[test]
    fn measurement_summarises_its_answers() {
        let measured = &sample().measurements[0];
        assert_eq!((measured.requests, measured.queries_per_second), (100, 10.0));
        assert_eq!(
            (measured.times.p50_ms, measured.times.p99_ms, measured.times.max_ms),
            (50.0, 99.0, 100.0)
        );
    }
}
