//! `squadron-bench mixed`: how long short queries take behind long ones, policy beside policy.
//!
//! ```text
//! each query alone ──> seconds, processor seconds ──> arrivals for each load (schedule)
//!                                                        │ the same for each policy
//!                      run 1: load 0.5: stride, fair, fifo; load 0.7: ...; run 2: ...
//! ```
//!
//! The load is an open loop: a query arrives at its scheduled time, however many queries are active, and its latency
//! counts from that time, so that a server that accepts queries slowly gains nothing.

mod classes;
mod figures;
mod schedule;

use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use squadron_scheduler::simulate::Rng;
use tokio::task::JoinSet;
use tonic::{Code, Status};

use self::classes::{Classes, Connections, mean_cpu};
use self::figures::{Cell, MixedFigures, Tally};
use self::schedule::{Arrival, Mix};
use crate::answers::{self, Answer};
use crate::connection::{Connection, describe};
use crate::isolated::{self, Isolated};
use crate::machine::Machine;
use crate::policies::{Contender, PolicyArgs};
use crate::system::SystemArgs;
use crate::{JsonArgs, Result, Verdict};

/// How long active queries may take after the last arrival. Queries that run longer count as unfinished.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(300);

/// Time before the first arrival, so that all clients are ready.
const LEAD: Duration = Duration::from_millis(50);

/// `squadron-bench mixed`.
#[derive(Args, Debug, Clone, Serialize)]
pub(super) struct MixedArgs {
    /// Scale of the tables: 1 is 1 GB of raw data.
    #[arg(long, value_name = "SCALE", default_value_t = 1.0)]
    sf: f64,
    /// Scale of the tables that the long queries read [default: the same tables].
    #[arg(long, value_name = "SCALE")]
    long_sf: Option<f64>,
    #[command(flatten)]
    #[serde(flatten)]
    system: SystemArgs,
    #[command(flatten)]
    #[serde(flatten)]
    policies: PolicyArgs,
    /// The work that arrives, as a part of what all slots can do; queries arrive as a Poisson process.
    #[arg(
        long,
        value_name = "PART,..",
        value_delimiter = ',',
        default_value = "0.5,0.7,0.9",
        value_parser = parse_load
    )]
    loads: Vec<f64>,
    /// The part of arrivals that are short queries.
    #[arg(long, value_name = "PART", default_value_t = 0.9, value_parser = parse_part)]
    short: f64,
    /// The short queries, of which one is drawn each time.
    #[arg(
        long,
        value_name = "6,14,..",
        value_delimiter = ',',
        default_value = "2,6,11,14,16,22",
        value_parser = clap::value_parser!(u8).range(1..=22)
    )]
    short_queries: Vec<u8>,
    /// The long queries, of which one is drawn each time.
    #[arg(
        long,
        value_name = "9,18,..",
        value_delimiter = ',',
        default_value = "9,18,21",
        value_parser = clap::value_parser!(u8).range(1..=22)
    )]
    long_queries: Vec<u8>,
    /// How long queries arrive, for each load, policy and run.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// How often everything is measured; each run has arrivals of its own, the same for all policies.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Seed of the random number generator.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    #[serde(skip)]
    json: JsonArgs,
}

fn parse_load(text: &str) -> std::result::Result<f64, String> {
    let load = text.parse().ok();
    load.filter(|load| (0.01..=2.0).contains(load))
        .ok_or_else(|| "is not a load from 0.01 to 2".to_owned())
}

fn parse_part(text: &str) -> std::result::Result<f64, String> {
    let part = text.parse().ok();
    part.filter(|part| (0.0..=1.0).contains(part))
        .ok_or_else(|| "is not a part from 0 to 1".to_owned())
}

pub(super) async fn run(args: &MixedArgs) -> Result<Verdict> {
    let machine = Machine::detect();
    let mut contenders = args.policies.start(&args.system, args.sf).await?;
    let classes = args.measure_classes(&mut contenders).await?;
    println!("{}", Isolated::HEAD);
    classes.all().for_each(|one| println!("{}", one.row()));
    let mix = args.mix(&classes)?;
    let mut cells: Vec<_> = args
        .loads
        .iter()
        .flat_map(|&load| contenders.iter().map(move |it| Tally::new(load, it.policy)))
        .collect();
    println!("\n{}", Cell::HEAD);
    for run in 1..=args.runs {
        for (number, &load) in (0..).zip(&args.loads) {
            let arrivals = args.arrivals(&mix, run, number, load);
            for contender in &contenders {
                let measured = measure(args, contender, load, &arrivals, &classes).await?;
                let cell = measured.cell(args.system.total_slots());
                println!("{}", cell.row(&run.to_string()));
                let of = |it: &&mut Tally| (it.load, it.policy) == (load, contender.policy);
                if let Some(all) = cells.iter_mut().find(of) {
                    all.add(measured);
                }
            }
        }
    }
    let cells = cells.iter().map(|it| it.cell(args.system.total_slots()));
    let figures = MixedFigures {
        isolated: classes.all().cloned().collect(),
        cells: cells.collect(),
    };
    if args.runs > 1 {
        let rows = figures.cells.iter().map(|cell| cell.row("all"));
        rows.for_each(|row| println!("{row}"));
    }
    let verdict = figures.verdict();
    let options = MixedArgs {
        system: args.system.with_defaults(),
        ..args.clone()
    };
    args.json.write("mixed", machine, options, figures)?;
    Ok(verdict)
}

impl MixedArgs {
    /// Measures each query with a server to itself, the long queries over their own tables.
    async fn measure_classes(&self, contenders: &mut [Contender]) -> Result<Classes> {
        let short = isolated::measure(contenders, &self.short_queries, self.sf).await?;
        if let Some(scale) = self.long_sf {
            classes::add_large_tables(contenders, scale, &self.system).await?;
        }
        let scale = self.long_sf.unwrap_or(self.sf);
        let long = isolated::measure(contenders, &self.long_queries, scale).await?;
        Ok(Classes { short, long })
    }

    fn mix(&self, classes: &Classes) -> Result<Mix> {
        let (short_cpu, long_cpu) = mean_cpu(&classes.short, &self.short_queries)
            .zip(mean_cpu(&classes.long, &self.long_queries))
            .ok_or("this system does not tell the processor time of a process in /proc")?;
        Ok(Mix {
            short: self.short_queries.clone(),
            long: self.long_queries.clone(),
            short_part: self.short,
            mean_cpu: self.short * short_cpu + (1.0 - self.short) * long_cpu,
        })
    }

    /// The arrivals of one run and load.
    fn arrivals(&self, mix: &Mix, run: u32, number: u64, load: f64) -> Vec<Arrival> {
        let mut rng = Rng::new(self.seed, u64::from(run) << 32 | number);
        let span = Duration::from_secs(self.seconds);
        mix.arrivals(&mut rng, self.system.total_slots(), load, span)
    }
}

/// The outcome of one arrival.
struct Outcome {
    number: usize,
    /// From the intended arrival to the last row.
    seconds: f64,
    answer: std::result::Result<Answer, Status>,
}

/// Sends the arrivals to one server, and waits until the last has ended.
async fn measure(
    args: &MixedArgs,
    contender: &Contender,
    load: f64,
    arrivals: &[Arrival],
    classes: &Classes,
) -> Result<Tally> {
    let connections = Connections::open(&contender.system.url, args.long_sf.is_some()).await?;
    let cpu_before = contender.system.server_cpu_seconds();
    let begin = Instant::now() + LEAD;
    let mut clients = JoinSet::new();
    for (number, arrival) in arrivals.iter().enumerate() {
        let connection = connections.of(number, arrival);
        let sql = classes.of(arrival).sql.clone();
        clients.spawn(arrive(number, connection, sql, begin + arrival.at));
    }
    let mut tally = Tally::new(load, contender.policy);
    tally.note_arrivals(arrivals, classes);
    let deadline = begin + Duration::from_secs(args.seconds) + DRAIN_TIMEOUT;
    while let Ok(Some(ended)) = tokio::time::timeout_at(deadline.into(), clients.join_next()).await {
        let outcome = ended?;
        let arrival = &arrivals[outcome.number];
        note(&mut tally, arrival, &outcome, classes.of(arrival));
    }
    let cpu_after = contender.system.server_cpu_seconds();
    let cpu = isolated::difference(cpu_before, cpu_after);
    tally.add_time(begin.elapsed().as_secs_f64(), cpu);
    Ok(tally)
}

async fn arrive(number: usize, mut connection: Connection, sql: String, at: Instant) -> Outcome {
    tokio::time::sleep_until(at.into()).await;
    let answer = answers::ask(&mut connection, &sql).await;
    Outcome {
        number,
        seconds: at.elapsed().as_secs_f64(),
        answer,
    }
}

fn note(tally: &mut Tally, arrival: &Arrival, outcome: &Outcome, isolated: &Isolated) {
    match &outcome.answer {
        Ok(answer) if *answer == isolated.answer => {
            tally.note_finished(arrival.is_long, outcome.seconds / isolated.seconds);
        }
        Ok(_) => {
            eprintln!("q{:02} gave other rows than alone", arrival.query);
            tally.wrong += 1;
        }
        Err(status) if status.code() == Code::Unavailable => tally.refused += 1,
        Err(status) => {
            eprintln!("q{:02} failed: {}", arrival.query, describe(status));
            tally.failed += 1;
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) use super::figures::tests::sample;

    fn sample_classes() -> Classes {
        Classes {
            short: [(6, 0.05), (14, 0.15)].map(sample_of).into(),
            long: [(18, 2.0)].map(sample_of).into(),
        }
    }

    fn sample_of((query, seconds): (u8, f64)) -> (u8, Isolated) {
        (query, isolated::sample(query, seconds))
    }

    fn args(flags: &str) -> MixedArgs {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            args: MixedArgs,
        }
        let words = std::iter::once("mixed").chain(flags.split_whitespace());
        <Cli as clap::Parser>::parse_from(words).args
    }

    #[test]
    fn mean_work_is_weighted_by_frequency() {
        let args = args("--short 0.8 --short-queries 6,14 --long-queries 18");
        let mix = args.mix(&sample_classes()).unwrap();
        assert!((mix.mean_cpu - (0.8 * 0.1 + 0.2 * 2.0)).abs() < 1e-9, "{mix:?}");
    }

    #[test]
    fn arrivals_differ_by_run_and_load() {
        let args = args("--short-queries 6 --long-queries 18");
        let mix = args.mix(&sample_classes()).unwrap();
        let first = args.arrivals(&mix, 1, 0, 0.5);
        assert_eq!(first, args.arrivals(&mix, 1, 0, 0.5));
        assert_ne!(first, args.arrivals(&mix, 2, 0, 0.5));
        assert_ne!(first, args.arrivals(&mix, 1, 1, 0.5));
    }

    #[test]
    fn outcomes_are_counted_by_kind() {
        let classes = sample_classes();
        let isolated = &classes.short[&6];
        let arrival = Arrival {
            at: Duration::ZERO,
            query: 6,
            is_long: false,
        };
        let mut tally = Tally::new(0.5, Default::default());
        let mut end = |answer| {
            let outcome = Outcome {
                number: 0,
                seconds: 0.1,
                answer,
            };
            note(&mut tally, &arrival, &outcome, isolated);
        };
        end(Ok(isolated.answer));
        end(Ok(answers::sample(7)));
        end(Err(Status::unavailable("full")));
        end(Err(Status::internal("bug")));
        assert_eq!((tally.wrong, tally.refused, tally.failed), (1, 1, 1));
        assert_eq!(tally.short, [2.0]);
    }
}
