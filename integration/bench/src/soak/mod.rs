//! `squadron-bench soak`: clients of every kind for minutes, then nothing of them may be left.
//!
//! ```text
//! clients for a while (warm-up) ── pause: footprint ── clients for minutes ── pause: footprint again
//! ```

mod client;
mod figures;
#[cfg(test)]
pub(crate) use figures::tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::sleep;

use self::client::Client;
use self::figures::{Footprint, SoakFigures, Tally};
use crate::answers::{self, Target};
use crate::machine::Machine;
use crate::system::{System, SystemArgs};
use crate::{JsonArgs, Result, Verdict, tables};

/// Results that nobody fetches are gone after this time.
const RESULT_TTL: &str = "5s";
/// How long the first load lasts: caches fill, and threads start.
const WARM_UP: Duration = Duration::from_secs(30);
/// How long the processes may take to give everything back.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(250);

/// `squadron-bench soak`.
#[derive(Args, Debug, Clone, Serialize)]
pub(super) struct SoakArgs {
    /// Scale of the tables: 1 is 1 GB of raw data.
    #[arg(long, value_name = "SCALE", default_value_t = 0.1)]
    sf: f64,
    #[command(flatten)]
    #[serde(flatten)]
    system: SystemArgs,
    /// How long the clients work.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    minutes: u32,
    /// How many clients work at the same time.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=200))]
    clients: u32,
    /// Seed of the random number generator.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    #[serde(skip)]
    json: JsonArgs,
}

pub(super) async fn run(args: &SoakArgs) -> Result<Verdict> {
    let machine = Machine::detect();
    tables::ensure_tpch(args.sf, args.system.cache_dir.as_deref()).await?;
    let arguments = ["--tpch", &args.sf.to_string(), "--result-ttl", RESULT_TTL].map(ToOwned::to_owned);
    let system = args.system.start(&arguments).await?;
    let targets = Arc::new(answers::tpch_targets(&system.url, args.sf).await?);
    let mut load = Load {
        targets,
        url: system.url.clone(),
        clients: args.clients,
        seed: args.seed,
    };
    load.run(WARM_UP).await?;
    let before = settle(&system, None).await?;
    let began = Instant::now();
    let tally = load.run(Duration::from_secs(60) * args.minutes).await?;
    let seconds = began.elapsed().as_secs_f64();
    let after = settle(&system, Some(&before)).await?;
    let figures = SoakFigures::new(seconds, tally, before, after);
    println!("{figures}");
    if figures.verdict() == Verdict::Bad {
        eprintln!("{}", system.last_log_lines());
    }
    let verdict = figures.verdict();
    let options = SoakArgs {
        system: args.system.with_defaults(),
        ..args.clone()
    };
    args.json.write("soak", machine, options, figures)?;
    Ok(verdict)
}

/// What the processes hold without clients: once it is that of `before`, and at the latest when patience ends.
async fn settle(system: &System, before: Option<&Footprint>) -> Result<Footprint> {
    let began = Instant::now();
    loop {
        let footprint = system
            .footprint()
            .ok_or("this system does not tell what a process holds in /proc")?;
        let is_settled = before.is_some_and(|before| footprint.growth(before).is_empty());
        if is_settled || began.elapsed() >= PATIENCE {
            return Ok(footprint);
        }
        sleep(PAUSE).await;
    }
}

struct Load {
    targets: Arc<Vec<Target>>,
    url: String,
    clients: u32,
    seed: u64,
}

impl Load {
    /// Lets all clients work for `time`.
    async fn run(&mut self, time: Duration) -> Result<Tally> {
        let end = Instant::now() + time;
        let mut running = JoinSet::new();
        for _ in 0..self.clients {
            self.seed = self.seed.wrapping_add(1);
            let random = StdRng::seed_from_u64(self.seed);
            let mut client = Client::connect(&self.url, Arc::clone(&self.targets), random).await?;
            running.spawn(async move {
                let mut tally = Tally::default();
                while Instant::now() < end {
                    let (action, end) = client.act().await;
                    tally.note(action, end);
                }
                tally
            });
        }
        let tallies = running.join_all().await;
        Ok(tallies.into_iter().fold(Tally::default(), Tally::merge))
    }
}

impl System {
    /// What all processes hold together; not known for a server that was not started here.
    fn footprint(&self) -> Option<Footprint> {
        let mut sum = BTreeMap::new();
        for pid in self.pids() {
            for (name, amount) in Footprint::of_process(pid)? {
                *sum.entry(name).or_insert(0) += amount;
            }
        }
        sum.insert("spilled_files", self.spilled_files()? as u64);
        Some(Footprint(sum))
    }
}
