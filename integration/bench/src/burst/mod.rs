//! `squadron-bench burst`: all TPC-H queries at once, policy beside policy, and the effect of priority.
//!
//! ```text
//! each query alone ──> for each run, for each policy: plain, then with some queries prioritised
//! ```

mod figures;

use std::collections::BTreeMap;
use std::time::Instant;

use clap::Args;
use serde::Serialize;
use squadron_integration::tpch;
use tokio::task::JoinSet;
use tonic::Status;

use self::figures::{Burst, BurstFigures, PLAIN, PRIORITISED, PolicyFigures, Runs};
use crate::answers::{self, Answer};
use crate::connection::{self, Connection, describe};
use crate::isolated::{self, Isolated};
use crate::machine::Machine;
use crate::policies::{Contender, PolicyArgs};
use crate::suite;
use crate::system::SystemArgs;
use crate::{JsonArgs, Result, Verdict};

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
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 100,
        value_parser = clap::value_parser!(i32).range(-100..=100),
        allow_negative_numbers = true
    )]
    priority: i32,
    /// How often each burst is measured.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    #[command(flatten)]
    #[serde(skip)]
    json: JsonArgs,
}

pub(super) async fn run(args: &BurstArgs) -> Result<Verdict> {
    let machine = Machine::detect();
    let queries = args.queries()?;
    let mut contenders = args.policies.start(&args.system, args.sf).await?;
    let isolated = isolated::measure(&mut contenders, &queries, args.sf).await?;
    println!("{}", Isolated::HEAD);
    isolated.values().for_each(|one| println!("{}", one.row()));
    println!("\n{}", Burst::HEAD);
    let mut measured: Vec<_> = contenders.iter().map(|_| Runs::default()).collect();
    for run in 1..=args.runs {
        for (contender, runs) in contenders.iter().zip(&mut measured) {
            for prioritised in args.bursts() {
                let burst = measure(contender, &isolated, prioritised, args.priority).await?;
                let (kind, bursts) = match prioritised {
                    [] => (PLAIN, &mut runs.plain),
                    _ => (PRIORITISED, &mut runs.prioritised),
                };
                println!("{}", burst.row(run, contender.policy, kind, &isolated));
                bursts.push(burst);
            }
        }
    }
    let policies = contenders.iter().zip(&measured);
    let policies =
        policies.map(|(contender, runs)| PolicyFigures::new(contender.policy, runs, &isolated, &args.prioritised));
    let figures = BurstFigures {
        policies: policies.collect(),
        isolated: isolated.into_values().collect(),
    };
    println!("\n{figures}");
    let verdict = figures.verdict();
    let options = BurstArgs {
        system: args.system.with_defaults(),
        queries,
        ..args.clone()
    };
    args.json.write("burst", machine, options, figures)?;
    Ok(verdict)
}

impl BurstArgs {
    /// The queries of a burst, each once.
    fn queries(&self) -> Result<Vec<u8>> {
        let mut queries = suite::chosen(&self.queries, tpch::QUERIES);
        queries.sort_unstable();
        queries.dedup();
        let is_missing = |query: &&u8| !queries.contains(query);
        match self.prioritised.iter().find(is_missing) {
            Some(query) => Err(format!("--prioritised {query} is not among --queries").into()),
            None => Ok(queries),
        }
    }

    /// The prioritised queries of each burst of a round; none in the plain burst.
    fn bursts(&self) -> impl Iterator<Item = &[u8]> {
        let plain: &[u8] = &[];
        let prioritised = (!self.prioritised.is_empty()).then_some(&self.prioritised[..]);
        [plain].into_iter().chain(prioritised)
    }
}

/// The outcome of one query.
struct Outcome {
    query: u8,
    /// From the start of the burst to the last row.
    seconds: f64,
    answer: std::result::Result<Answer, Status>,
}

/// Starts all queries at once, each over its own connection and so in its own session.
async fn measure(
    contender: &Contender,
    isolated: &BTreeMap<u8, Isolated>,
    prioritised: &[u8],
    priority: i32,
) -> Result<Burst> {
    let mut clients = Vec::with_capacity(isolated.len());
    for &query in isolated.keys() {
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
        running.spawn(ask(query, connection, isolated[&query].sql.clone(), begin));
    }
    let mut burst = Burst::default();
    while let Some(ended) = running.join_next().await {
        note(&mut burst, ended?, isolated);
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

fn note(burst: &mut Burst, outcome: Outcome, isolated: &BTreeMap<u8, Isolated>) {
    let query = outcome.query;
    match outcome.answer {
        Ok(answer) if answer == isolated[&query].answer => {
            burst.seconds.insert(query, outcome.seconds);
        }
        Ok(_) => {
            eprintln!("q{query:02} gave other rows than alone");
            burst.wrong += 1;
        }
        Err(status) => {
            eprintln!("q{query:02} failed: {}", describe(&status));
            burst.failed += 1;
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) use super::figures::tests::sample;

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
    fn prioritised_queries_must_be_listed() {
        assert_eq!(args("").queries().unwrap().len(), 22);
        let some = args("--queries 16,1,16 --prioritised 16");
        assert_eq!(some.queries().unwrap(), [1, 16]);
        let error = args("--queries 1 --prioritised 16").queries().unwrap_err();
        assert!(error.to_string().contains("--prioritised 16"), "{error}");
    }

    #[test]
    fn plain_and_prioritised_bursts_alternate() {
        let bursts: Vec<Vec<u8>> = args("--prioritised 16,20").bursts().map(<[u8]>::to_vec).collect();
        assert_eq!(bursts, [vec![], vec![16, 20]]);
        assert_eq!(args("").bursts().count(), 1);
    }
}
