//! `squadron-bench simulate`: the scheduler under virtual time, in the virtual cluster of the scheduler's crate.
//!
//! The only measured time is the scheduler's own processor time, taken by a second scheduler: see [`meter`].

mod figures;
mod meter;
mod recorded;
#[cfg(test)]
pub(super) mod tests;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use squadron_scheduler::Policy;
use squadron_scheduler::simulate::{ClusterSpec, Estimates, Faults, Mix, VirtualCluster, arrivals};

use self::figures::Figures;
use self::meter::Meter;
use crate::machine::Machine;
use crate::policies::PolicyArgs;
use crate::{JsonArgs, Result, Verdict};

/// `squadron-bench simulate`.
#[derive(Args, Debug, Clone, Serialize)]
pub(super) struct SimulateArgs {
    /// How many workers, one simulation each; e.g. 10,100,1000.
    #[arg(
        long,
        value_name = "N,..",
        value_delimiter = ',',
        default_value = "10",
        value_parser = clap::value_parser!(u32).range(1..=10_000)
    )]
    workers: Vec<u32>,
    /// Slots of each worker.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    slots: u32,
    #[command(flatten)]
    #[serde(flatten)]
    policies: PolicyArgs,
    /// The power of a query's size with which its weight falls under stride.
    #[arg(long, value_name = "N", default_value_t = 2)]
    priority_decay: u32,
    /// How many queries arrive.
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..))]
    queries: u32,
    /// The work that arrives, as a part of what all slots can do; queries arrive as a Poisson process.
    #[arg(long, value_name = "PART", default_value_t = 0.9)]
    load: f64,
    /// All queries arrive at once.
    #[arg(long)]
    burst: bool,
    /// The part of short queries, of about 100 ms of work; the others have about 10 s.
    #[arg(long, value_name = "PART", default_value_t = 0.9)]
    short: f64,
    /// How long a task of a long query takes, on average.
    #[arg(long, value_name = "MS", default_value_t = 250)]
    task_ms: u64,
    /// Take queries from this file instead: a JSON list of queries, each a list of stages
    /// {"inputs": [0], "tasks_ms": [12.5, 13]}; the last stage is the result.
    #[arg(long, value_name = "FILE.json")]
    recorded: Option<PathBuf>,
    /// Give this many queries, the last to arrive, priority 100.
    #[arg(long, value_name = "N", default_value_t = 0)]
    prioritised: u32,
    /// What the scheduler knows of a query's size beforehand.
    #[arg(long, value_name = "HOW", default_value = "rough", value_parser = parse_estimates)]
    #[serde(serialize_with = "serialize_estimates")]
    estimates: Estimates,
    /// The part of workers that are four times slower.
    #[arg(long, value_name = "PART", default_value_t = 0.0)]
    slow_workers: f64,
    /// How often a worker dies, per worker and hour; it is missed after 2 s and back after 10 s.
    #[arg(long, value_name = "N", default_value_t = 0.0)]
    deaths: f64,
    /// The part of reports whose connection breaks: they and all behind them come late, and some twice.
    #[arg(long, value_name = "PART", default_value_t = 0.0)]
    breaks: f64,
    /// How often a worker hangs, per worker and hour, for 5 s on average; it is suspected after 2 s and lost after its grace
    /// of 10 s.
    #[arg(long, value_name = "N", default_value_t = 0.0)]
    pauses: f64,
    /// Slow tasks get no second attempts.
    #[arg(long)]
    no_speculation: bool,
    /// Seed of the random number generator.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    #[serde(skip)]
    json: JsonArgs,
}

/// All figures.
#[derive(Debug, Serialize)]
struct Simulated {
    runs: Vec<Run>,
}

/// One policy on one cluster.
#[derive(Debug, Serialize)]
struct Run {
    workers: u32,
    policy: String,
    #[serde(flatten)]
    figures: Figures,
}

pub(super) async fn run(args: &SimulateArgs) -> Result<Verdict> {
    let machine = Machine::detect();
    let mut runs = Vec::new();
    let mut verdict = Verdict::Good;
    println!("{}", Figures::HEAD);
    for &workers in &args.workers {
        for &policy in &args.policies.policies {
            let figures = simulate(args, workers, policy)?;
            println!("{}", figures.row(workers, policy));
            if figures.unfinished > 0 {
                verdict = Verdict::Bad;
            }
            runs.push(Run {
                workers,
                policy: policy.to_string(),
                figures,
            });
        }
    }
    args.json.write("simulate", machine, args.clone(), Simulated { runs })?;
    Ok(verdict)
}

fn parse_estimates(text: &str) -> std::result::Result<Estimates, String> {
    text.parse()
}

fn serialize_estimates<S: serde::Serializer>(
    estimates: &Estimates,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(estimates)
}

fn simulate(args: &SimulateArgs, workers: u32, policy: Policy) -> Result<Figures> {
    let spec = ClusterSpec {
        workers,
        slots: args.slots,
        policy,
        priority_decay: args.priority_decay,
        estimates: args.estimates,
        faults: Faults {
            slow_workers: args.slow_workers,
            deaths_per_hour: args.deaths,
            breaks: args.breaks,
            pauses_per_hour: args.pauses,
        },
        speculation: !args.no_speculation,
    };
    let mix = Mix {
        short: args.short,
        task: Duration::from_millis(args.task_ms.max(1)),
        recorded: args.recorded.as_deref().map(recorded::read).transpose()?,
    };
    let slots = spec.total_slots();
    let queries = mix.queries(args.seed, args.queries, args.prioritised);
    let load = (!args.burst).then_some(args.load);
    let arrivals = arrivals(args.seed, &queries, slots, load);
    let mut meter = Meter::new(spec.limits());
    let observer = |now, event: &_| meter.take(now, Clone::clone(event));
    let outcome = VirtualCluster::new(&spec, args.seed, queries, arrivals, observer).run();
    let (scheduler, replayed) = meter.result();
    assert_eq!(outcome.digest, replayed, "the same events gave other effects");
    Ok(Figures::of(outcome, slots, scheduler))
}
