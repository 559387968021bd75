//! `squadron-bench cancel`: thousands of queries, each stopped at a random moment in a random way.
//!
//! ```text
//! clients ── start ── at a random moment: stop
//!    └ after each batch all pause: are slots, memory, spill files and queries as before? and when had the workers
//!      released each query (system.queries.released_at)?
//! ```

mod client;
mod figures;
mod observe;
mod scenarios;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use squadron_integration::tpch;
use tokio::task::JoinSet;

use self::client::Client;
use self::figures::{CancelTally, RESULT_TTL, Stopped};
use self::observe::Observer;
use self::scenarios::{Scenario, Target, Way};
use crate::machine::Machine;
use crate::system::SystemArgs;
use crate::{JsonArgs, Result, Verdict, connection, suite, tables};

/// A batch runs at most this many statements for each cancel, SET and KILL included; the history must hold all of them.
const QUERIES_PER_CANCEL: u32 = 4;

/// `squadron-bench cancel`.
#[derive(Args, Debug, Clone, Serialize)]
pub(super) struct CancelArgs {
    /// Scale of the tables: 1 is 1 GB of raw data.
    #[arg(long, value_name = "SCALE", default_value_t = 0.1)]
    sf: f64,
    #[command(flatten)]
    #[serde(flatten)]
    system: SystemArgs,
    /// How many queries are stopped.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    cancels: u32,
    /// How many clients stop queries at the same time.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=200))]
    clients: u32,
    /// After how many cancels all clients pause, to check that nothing is left behind.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// The ways to stop a query, of which one is drawn each time [default: all].
    #[arg(long, value_name = "WAY,..", value_delimiter = ',')]
    ways: Vec<Way>,
    /// Only these queries [default: all 22], and a join that does not end.
    #[arg(long, value_name = "1,3,..", value_delimiter = ',', value_parser = clap::value_parser!(u8).range(1..=22))]
    queries: Vec<u8>,
    /// Seed of the random number generator.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    #[serde(skip)]
    json: JsonArgs,
}

pub(super) async fn run(args: &CancelArgs) -> Result<Verdict> {
    let machine = Machine::detect();
    let queries = suite::chosen(&args.queries, tpch::QUERIES);
    let ways = match args.ways.is_empty() {
        true => Way::ALL.to_vec(),
        false => args.ways.clone(),
    };
    tables::ensure_tpch(args.sf, args.system.cache_dir.as_deref()).await?;
    let system = args.system.start(&args.arguments()).await?;
    let mut own = connection::connect(&system.url).await?;
    let targets = Arc::new(scenarios::measure_targets(&mut own, &queries, args.sf).await?);
    let mut observer = Observer::start(own, &system).await?;
    let mut clients = Vec::new();
    for _ in 0..args.clients {
        clients.push(Client::connect(&system.url).await?);
    }
    let progress = progress(args.cancels);
    let mut tally = CancelTally::default();
    let begin = Instant::now();
    let mut from = 0;
    while from < args.cancels {
        let to = args.cancels.min(from + args.batch);
        let batch = Batch {
            seed: args.seed,
            targets: Arc::clone(&targets),
            ways: ways.clone().into(),
            next: Arc::new(AtomicU32::new(from)),
            end: to,
        };
        let (stopped, returned) = batch.run(clients, &progress).await?;
        clients = returned;
        let left = observer.find_leftovers(&system).await?;
        let fates = observer.fates().await?;
        let stopped = stopped.into_iter();
        stopped.for_each(|one| tally.note(one.with_fate(&fates)));
        if !left.is_empty() {
            let queries = observer.list_live_queries().await?;
            progress.suspend(|| eprintln!("left behind after {to} cancels: {left}; {queries}"));
        }
        tally.note_batch(left);
        from = to;
    }
    progress.finish_and_clear();
    let figures = tally.summarise(begin.elapsed());
    println!("{figures}");
    if figures.verdict() == Verdict::Bad {
        eprintln!("{}", system.last_log_lines());
    }
    let verdict = figures.verdict();
    let options = CancelArgs {
        system: args.system.with_defaults(),
        queries,
        ways,
        ..args.clone()
    };
    args.json.write("cancel", machine, options, figures)?;
    Ok(verdict)
}

impl CancelArgs {
    /// Arguments of the measured server.
    fn arguments(&self) -> Vec<String> {
        let queries = self.batch.saturating_mul(QUERIES_PER_CANCEL);
        let flags = [
            ("--tpch", self.sf.to_string()),
            ("--result-ttl", format!("{}s", RESULT_TTL.as_secs())),
            ("--history-queries", queries.to_string()),
        ];
        let words = flags.map(|(flag, value)| [flag.to_owned(), value]);
        words.into_iter().flatten().collect()
    }
}

fn progress(cancels: u32) -> ProgressBar {
    let bar = ProgressBar::new(u64::from(cancels));
    let template = "{elapsed_precise} {wide_bar} {pos}/{len} cancels";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// A range of the cancels, which all clients share.
#[derive(Clone)]
struct Batch {
    seed: u64,
    targets: Arc<BTreeMap<u32, Target>>,
    ways: Arc<[Way]>,
    next: Arc<AtomicU32>,
    end: u32,
}

impl Batch {
    /// Runs all cancels of the batch, and gives the clients back.
    async fn run(&self, clients: Vec<Client>, progress: &ProgressBar) -> Result<(Vec<Stopped>, Vec<Client>)> {
        let mut working = JoinSet::new();
        for client in clients {
            working.spawn(self.clone().work(client, progress.clone()));
        }
        let (mut stopped, mut clients) = (Vec::new(), Vec::new());
        while let Some(worked) = working.join_next().await {
            let (of_one, client) = worked??;
            stopped.extend(of_one);
            clients.push(client);
        }
        Ok((stopped, clients))
    }

    async fn work(self, mut client: Client, progress: ProgressBar) -> Result<(Vec<Stopped>, Client)> {
        let mut stopped = Vec::new();
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.end {
                return Ok((stopped, client));
            }
            let scenario = Scenario::draw(self.seed, number, &self.targets, &self.ways);
            stopped.push(client.run(&scenario).await?);
            progress.inc(1);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    pub(crate) use super::figures::tests::sample;
}
