//! `squadron-bench dispatch`: the cost of scheduling, with real workers and empty tasks.
//!
//! ```text
//! this process: Driver, Registry, ControlService <── gRPC over loopback ──> `squadron worker` processes
//!     └ graphs of empty tasks, submitted to the driver as the server's queries are
//! ```

mod figures;
mod graphs;
mod server;

use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use squadron_proto::QueryId;
use squadron_scheduler::simulate::Rng;
use tokio::task::JoinSet;

use self::figures::{DispatchFigures, Rate};
use self::graphs::Plans;
use self::server::Server;
use crate::machine::{self, Machine};
use crate::stats::Times;
use crate::{JsonArgs, Result, Verdict, isolated, usage};

/// Queries before the clock starts, so that connections, caches and branch predictors are warm.
const WARM_UP: u32 = 50;

/// The longest pause before a query on an idle cluster: long enough for all threads to sleep, and random, so that
/// queries do not run in step with a timer.
const LONGEST_PAUSE: Duration = Duration::from_millis(10);

/// `squadron-bench dispatch`.
#[derive(Args, Debug, Clone, Serialize)]
pub(super) struct DispatchArgs {
    /// Worker processes.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    /// Slots of each worker [default: cores divided by workers].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    slots: Option<u32>,
    /// How many queries of one task are sent to the idle cluster, one after the other.
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..))]
    queries: u32,
    /// Empty tasks of each of the queries that keep the cluster busy.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    tasks: u32,
    /// How many of these are there at a time.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=200))]
    in_flight: u32,
    /// How long the cluster is kept busy, in each run.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// How often the cluster is kept busy.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Seed of the random number generator.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    #[serde(skip)]
    json: JsonArgs,
}

pub(super) async fn run(args: &DispatchArgs) -> Result<Verdict> {
    let machine = Machine::detect();
    let slots = args.slots();
    let server = Server::start(args.workers, slots).await?;
    let plans = Plans::new(args.tasks)?;
    let idle = measure_idle(args, &server, &plans).await?;
    println!(
        "idle to ready    p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms of {} queries of one task",
        idle.p50_ms, idle.p99_ms, idle.max_ms, args.queries
    );
    println!("\n{}", Rate::HEAD);
    let mut runs = Vec::new();
    for run in 1..=args.runs {
        let rate = measure_busy(args, &server, &plans).await?;
        println!("{}", rate.row(run));
        runs.push(rate);
    }
    let figures = DispatchFigures::new(idle, runs);
    println!("{figures}");
    server.stop().await;
    let options = DispatchArgs {
        slots: Some(slots),
        ..args.clone()
    };
    args.json.write("dispatch", machine, options, figures)?;
    Ok(Verdict::Good)
}

impl DispatchArgs {
    fn slots(&self) -> u32 {
        let cores = u32::try_from(machine::cores()).unwrap_or(u32::MAX);
        self.slots.unwrap_or((cores / self.workers).max(1))
    }
}

/// Measures the time from submitting a query until its result can be read, which is when its task runs, on an idle
/// cluster.
async fn measure_idle(args: &DispatchArgs, server: &Server, plans: &Plans) -> Result<Times> {
    let mut rng = Rng::new(args.seed, 1);
    let mut milliseconds = Vec::new();
    for number in 0..WARM_UP + args.queries {
        tokio::time::sleep(LONGEST_PAUSE.mul_f64(rng.fraction())).await;
        let graph = plans.one_task(QueryId::new());
        let began = Instant::now();
        let query = server.submitter().submit(graph).await?;
        if number >= WARM_UP {
            milliseconds.push(began.elapsed().as_secs_f64() * 1e3);
        }
        query.finish().await?;
    }
    Ok(Times::of(&milliseconds))
}

/// Keeps `in_flight` large queries active until the time is over, and waits for the last.
async fn measure_busy(args: &DispatchArgs, server: &Server, plans: &Plans) -> Result<Rate> {
    let length = Duration::from_secs(args.seconds);
    let (own_before, workers_before) = (own_cpu_seconds(), server.worker_cpu_seconds());
    let begin = Instant::now();
    let mut running = JoinSet::new();
    let mut queries: u64 = 0;
    loop {
        while begin.elapsed() < length && running.len() < args.in_flight as usize {
            running.spawn(server.submitter().run(plans.many_tasks(QueryId::new())));
            queries += 1;
        }
        match running.join_next().await {
            Some(ended) => ended??,
            None => break,
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    Ok(Rate::new(
        queries * plans.tasks_of_many(),
        seconds,
        isolated::difference(own_before, own_cpu_seconds()),
        isolated::difference(workers_before, server.worker_cpu_seconds()),
    ))
}

fn own_cpu_seconds() -> Option<f64> {
    usage::cpu_seconds(std::process::id())
}

#[cfg(test)]
pub(super) mod tests {
    pub(crate) use super::figures::tests::sample;
}
