//! `squadron-bench burst`: all TPC-H queries at once, policy beside policy, and what priority is worth.
//!
//! ```text
//! each query alone ──> for each run, for each policy: plain, then with some queries prioritised
//! ```

mod figures;

use std::collections::BTreeMap;
use std::time::Instant;

use clap::Args;
use serde::Serialize;
use tokio::task::JoinSet;
use tonic::Status;

use self::figures::{Burst, BurstFigures, PLAIN, PRIORITISED, PolicyFigures, Runs};
use super::answers::{self, Answer};
use super::connection::{self, Connection, words};
use super::isolated::{self, Alone};
use super::machine::Machine;
use super::policies::{Contender, PolicyArgs};
use super::system::SystemArgs;
use super::{JsonArgs, Result, Verdict};
use squadron_integration::tpch;

/// `squadron-bench burst`.
#[derive(Args, Debug, Clone, Serialize)]
pub(super) struct BurstArgs {
    /// Scale of the tables: 1 is 1 GB of raw data.
    #[arg(long, value_name = "SCALE", default_value_t = 1.0)]
    sf: f64,
    #[command(flatten)]
    #[serde(flatten)]
    system: SystemArgs,
    #[command(flatten)]
    #[serde(flatten)]
    policies: PolicyArgs,
    /// Only these queries [default: all 22].
    #[arg(long, value_name = "1,3,..", value_delimiter = ',', value_parser = clap::value_parser!(u8).range(1..=22))]
    queries: Vec<u8>,
    /// Let these queries of the burst have priority in every other burst, and tell what that is worth.
    #[arg(long, value_name = "16,20", value_delimiter = ',', value_parser = clap::value_parser!(u8).range(1..=22))]
    prioritised: Vec<u8>,
    /// Their squadron.priority.
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(i32).range(-100..=100), allow_negative_numbers = true)]
    priority: i32,
    /// How often each burst is measured.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    #[command(flatten)]
    #[serde(skip)]
    json: JsonArgs,
}

pub(super) async fn run(args: &BurstArgs) -> Result<Verdict> {
    let machine = Machine::here();
    let queries = args.queries()?;
    let mut contenders = args.policies.start(&args.system, args.sf).await?;
    let alone = isolated::measure(&mut contenders, &queries, args.sf).await?;
    println!("{}", Alone::HEAD);
    alone.values().for_each(|one| println!("{}", one.line()));
    println!("\n{}", Burst::HEAD);
    let mut measured: Vec<_> = contenders.iter().map(|_| Runs::default()).collect();
    for run in 1..=args.runs {
        for (contender, runs) in contenders.iter().zip(&mut measured) {
            for prioritised in args.bursts() {
                let burst = measure(contender, &alone, prioritised, args.priority).await?;
                let (kind, bursts) = match prioritised {
                    [] => (PLAIN, &mut runs.plain),
                    _ => (PRIORITISED, &mut runs.prioritised),
                };
                println!("{}", burst.row(run, contender.policy, kind, &alone));
                bursts.push(burst);
            }
        }
    }
    let policies = contenders.iter().zip(&measured);
    let policies =
        policies.map(|(contender, runs)| PolicyFigures::new(contender.policy, runs, &alone, &args.prioritised));
    let figures = BurstFigures {
        policies: policies.collect(),
        alone: alone.into_values().collect(),
    };
    println!("\n{figures}");
    let verdict = figures.verdict();
    let options = BurstArgs {
        system: args.system.resolved(),
        queries,
        ..args.clone()
    };
    args.json.write("burst", machine, options, figures)?;
    Ok(verdict)
}

impl BurstArgs {
    /// Each query once.
    fn queries(&self) -> Result<Vec<u8>> {
        let mut queries = match self.queries.is_empty() {
            true => (1..=tpch::QUERIES).collect(),
            false => self.queries.clone(),
        };
        queries.sort_unstable();
        queries.dedup();
        let is_missing = |query: &&u8| !queries.contains(query);
        match self.prioritised.iter().find(is_missing) {
            Some(query) => Err(format!("--prioritised {query} is not among --queries").into()),
            None => Ok(queries),
        }
    }

    /// Which queries have priority in each burst of a round.
    fn bursts(&self) -> impl Iterator<Item = &[u8]> {
        let plain: &[u8] = &[];
        let prioritised = (!self.prioritised.is_empty()).then_some(&self.prioritised[..]);
        [plain].into_iter().chain(prioritised)
    }
}

/// What became of one query.
struct Outcome {
    query: u8,
    /// From the start of the burst to the last row.
    seconds: f64,
    answer: std::result::Result<Answer, Status>,
}

/// Starts all queries at once, each over a connection, hence in a session, of its own.
async fn measure(
    contender: &Contender,
    alone: &BTreeMap<u8, Alone>,
    prioritised: &[u8],
    priority: i32,
) -> Result<Burst> {
    let mut clients = Vec::with_capacity(alone.len());
    for &query in alone.keys() {
        let mut connection = connection::connect(&contender.system.url).await?;
        if prioritised.contains(&query) {
            let set = format!("SET squadron.priority = {priority}");
            connection::update(&mut connection, &set).await?;
        }
        clients.push((query, connection));
    }
    let mut running = JoinSet::new();
    let begin = Instant::now();
    for (query, connection) in clients {
        running.spawn(ask(query, connection, alone[&query].sql.clone(), begin));
    }
    let mut burst = Burst::default();
    while let Some(ended) = running.join_next().await {
        note(&mut burst, ended?, alone);
    }
    Ok(burst)
}

async fn ask(query: u8, mut connection: Connection, sql: String, begin: Instant) -> Outcome {
    let answer = answers::ask(&mut connection, &sql).await;
    Outcome {
        query,
        seconds: begin.elapsed().as_secs_f64(),
        answer,
    }
}

fn note(burst: &mut Burst, outcome: Outcome, alone: &BTreeMap<u8, Alone>) {
    let query = outcome.query;
    match outcome.answer {
        Ok(answer) if answer == alone[&query].answer => {
            burst.seconds.insert(query, outcome.seconds);
        }
        Ok(_) => {
            eprintln!("q{query:02} gave other rows than alone");
            burst.wrong += 1;
        }
        Err(status) => {
            eprintln!("q{query:02} failed: {}", words(&status));
            burst.failed += 1;
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) use super::figures::tests::sample;

    fn args(flags: &str) -> BurstArgs {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            args: BurstArgs,
        }
        let words = std::iter::once("burst").chain(flags.split_whitespace());
        <Cli as clap::Parser>::parse_from(words).args
    }

    #[test]
    fn prioritised_queries_are_part_of_the_burst() {
        assert_eq!(args("").queries().unwrap().len(), 22);
        let some = args("--queries 16,1,16 --prioritised 16");
        assert_eq!(some.queries().unwrap(), [1, 16]);
        let error = args("--queries 1 --prioritised 16").queries().unwrap_err();
        assert!(error.to_string().contains("--prioritised 16"), "{error}");
    }

    #[test]
    fn plain_and_prioritised_bursts_take_turns() {
        let bursts: Vec<Vec<u8>> = args("--prioritised 16,20").bursts().map(<[u8]>::to_vec).collect();
        assert_eq!(bursts, [vec![], vec![16, 20]]);
        assert_eq!(args("").bursts().count(), 1);
    }
}
