//! `squadron-bench chaos`: workers die, hang and leave, links and disks fail at random moments while clients check every row.
//!
//! ```text
//! clients ── TPC-H, cut into tiny splits ──> server ──> workers <── one fault after the other, from a seed
//! writer ─── INSERT and COPY ─────────────────^
//! ```
//!
//! The expected answers come from the same cluster before the first fault.

mod client;
mod faults;
mod figures;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::Serialize;
use squadron_integration::cluster::{Cluster, cluster};
use tokio::task::JoinSet;
use tokio::time::sleep;

use self::client::Client;
use self::faults::{Faults, GRACE};
#[cfg(test)]
pub(crate) use self::figures::tests;
use self::figures::{ChaosFigures, Queries};
use self::writer::Writer;
use crate::connection::Connection;
use crate::machine::Machine;
use crate::{JsonArgs, Result, Verdict, answers, connection};

/// Queries whose rows go out while they are computed, in an order that is known and in one that is not.
const STREAMS: [&str; 2] = [
    "SELECT l_orderkey, l_partkey, l_comment FROM lineitem",
    "SELECT l_orderkey, o_comment FROM lineitem JOIN orders ON o_orderkey = l_orderkey",
];

/// How long nothing of any query may be left after the last one.
const PATIENCE: Duration = Duration::from_secs(60);
/// So little that rows go to disk.
const MEMORY_MIB: u64 = 64;
const PAUSE: Duration = Duration::from_millis(250);

/// `squadron-bench chaos`.
#[derive(Args, Debug, Clone, Serialize)]
pub(super) struct ChaosArgs {
    /// Scale of the tables: 1 is 1 GB of raw data.
    #[arg(long, value_name = "SCALE", default_value_t = 0.05)]
    sf: f64,
    /// How long faults happen.
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Worker processes.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..=50))]
    workers: u32,
    /// How many clients work at the same time.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=200))]
    clients: u32,
    /// Seed of the random number generator.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    #[serde(skip)]
    json: JsonArgs,
}

pub(super) async fn run(args: &ChaosArgs) -> Result<Verdict> {
    let machine = Machine::detect();
    let mut cluster = cluster()
        .workers(args.workers as usize)
        .slots(1)
        .tpch(args.sf)
        .tiny_splits()
        .links()
        .faulty_disks()
        .memory_mib(MEMORY_MIB)
        .serve_arg(format!("--worker-grace={}s", GRACE.as_secs()))
        .serve_arg("--history-queries=100000")
        .start()
        .await;
    let url = cluster.url().to_owned();
    let mut targets = answers::tpch_targets(&url, args.sf).await?;
    targets.extend(answers::targets(&url, STREAMS.map(str::to_owned)).await?);
    let targets = Arc::new(targets);
    let began = Instant::now();
    let end = began + Duration::from_secs(args.seconds.into());
    let mut clients = JoinSet::new();
    for number in 0..args.clients {
        let random = StdRng::seed_from_u64(args.seed.wrapping_mul(1_000).wrapping_add(number.into()));
        let client = Client::connect(&url, Arc::clone(&targets), random).await?;
        clients.spawn(client.work_until(end));
    }
    let random = StdRng::seed_from_u64(args.seed.wrapping_mul(1_000).wrapping_add(999));
    let writer = Writer::connect(&url, random).await?;
    clients.spawn(writer.work_until(end));
    let mut faults = Faults::new(&url, args.seed).await?;
    while Instant::now() < end {
        faults.inject(&mut cluster).await?;
    }
    let mut queries = clients
        .join_all()
        .await
        .into_iter()
        .fold(Queries::default(), Queries::merge);
    let mut connection = connection::connect(&url).await?;
    queries.recovered = connection::number(&mut connection, RECOVERED).await?;
    let left = left(&cluster, &mut connection).await?;
    let figures = ChaosFigures::new(began.elapsed().as_secs_f64(), faults.counts, queries, left);
    println!("{figures}");
    let verdict = figures.verdict();
    args.json.write("chaos", machine, args.clone(), figures)?;
    Ok(verdict)
}

const RECOVERED: &str = "SELECT count(*) FROM system.queries WHERE recoveries > 0 AND state = 'finished'";
/// Slots, attempts and rows that workers hold.
const HELD: &str =
    "SELECT CAST(coalesce(sum(used_slots + stopping_attempts + shuffle_bytes), 0) AS BIGINT) FROM system.workers";

/// The files of the processes that are there: one that was killed leaves its own.
fn spilled_files(cluster: &Cluster) -> Vec<PathBuf> {
    let folders: Vec<_> = (0..cluster.workers())
        .map(|worker| cluster.spill_folder(worker))
        .collect();
    let is_of = |file: &PathBuf| folders.iter().any(|folder| file.starts_with(folder));
    let mut files = cluster.spilled_files();
    files.retain(is_of);
    files
}

/// What is left of the queries once nothing is, and at the latest when patience ends.
async fn left(cluster: &Cluster, connection: &mut Connection) -> Result<u64> {
    let began = Instant::now();
    loop {
        let files = spilled_files(cluster);
        let left = connection::number(connection, HELD).await? + files.len() as u64;
        if left > 0 && began.elapsed() >= PATIENCE {
            connection::show(connection, "SELECT * FROM system.workers").await;
            eprintln!("{files:?}");
        }
        if left == 0 || began.elapsed() >= PATIENCE {
            return Ok(left);
        }
        sleep(PAUSE).await;
    }
}
