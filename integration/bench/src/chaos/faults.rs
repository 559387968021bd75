//! Faults of workers, one after the other. Each is asserted to have happened.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use squadron_integration::cluster::Cluster;
use squadron_integration::faulty_disk::{DiskCondition, FaultyDisk};
use squadron_integration::link::{Condition, Link};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::Result;
use crate::connection::{self, Connection};

/// How long a silent worker may take to return here.
pub(super) const GRACE: Duration = Duration::from_secs(4);
/// How long a fault may take to be seen.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a worker may have nothing to write.
const DISK_PATIENCE: Duration = Duration::from_secs(5);

/// What happens to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fault {
    /// SIGKILL; another one takes its place.
    Kill,
    /// SIGSTOP for less than its silence is noticed.
    Stutter,
    /// SIGSTOP for longer than that, and shorter than its grace.
    Pause,
    /// SIGSTOP until it is lost.
    Freeze,
    /// SIGTERM, after another one has joined.
    Leave,
    /// Its connection to the server is cut, with the messages on their way, and new ones too, for up to longer than its
    /// grace. What was not acknowledged comes twice.
    CutControl,
    /// Messages between it and the server are late.
    SlowControl,
    /// Nothing passes between it and the server, over connections that stay.
    SilentControl,
    /// Connections from those that fetch its rows are cut, and refused.
    CutData,
    /// Its rows come slowly.
    SlowData,
    /// Nothing passes between it and those that fetch its rows, over connections that stay.
    SilentData,
    /// Its disk takes no new files; then another one takes its place.
    Disk,
    /// Its disk is full.
    FullDisk,
    /// Its disk takes long for each write and each removal.
    SlowDisk,
}

const FAULTS: [(Fault, u32); 14] = [
    (Fault::Kill, 20),
    (Fault::Stutter, 15),
    (Fault::Pause, 5),
    (Fault::Freeze, 3),
    (Fault::Leave, 8),
    (Fault::CutControl, 10),
    (Fault::SlowControl, 8),
    (Fault::SilentControl, 6),
    (Fault::CutData, 10),
    (Fault::SlowData, 8),
    (Fault::SilentData, 6),
    (Fault::Disk, 6),
    (Fault::FullDisk, 8),
    (Fault::SlowDisk, 8),
];

/// Draws faults, carries them out and counts them.
pub(super) struct Faults {
    random: StdRng,
    connection: Connection,
    pub(super) counts: BTreeMap<Fault, u64>,
}

impl Faults {
    pub(super) async fn new(url: &str, seed: u64) -> Result<Self> {
        Ok(Self {
            random: StdRng::seed_from_u64(seed),
            connection: connection::connect(url).await?,
            counts: BTreeMap::new(),
        })
    }

    /// Lets one fault happen to one worker, after a pause. The worker, or another in its place, is there afterwards.
    pub(super) async fn inject(&mut self, cluster: &mut Cluster) -> Result<()> {
        sleep(self.milliseconds(0..1_000)).await;
        let fault = FAULTS.choose_weighted(&mut self.random, |(_, weight)| *weight);
        let fault = fault.map_or(Fault::Kill, |(fault, _)| *fault);
        let worker = self.random.random_range(0..cluster.workers());
        if self.carry_out(fault, worker, cluster).await? {
            *self.counts.entry(fault).or_insert(0) += 1;
        }
        Ok(())
    }

    /// Returns whether the fault was felt: nothing may have passed a link, and nothing may have been written.
    async fn carry_out(&mut self, fault: Fault, worker: usize, cluster: &mut Cluster) -> Result<bool> {
        match fault {
            Fault::Kill => {
                cluster.worker(worker).kill();
                if cluster.worker(worker).is_running() {
                    return Err("a killed worker runs".into());
                }
                cluster.forget_worker(worker);
                sleep(self.milliseconds(0..1_000)).await;
                cluster.add_worker().await;
            }
            Fault::Stutter => {
                let time = self.milliseconds(100..1_800);
                stop(cluster, worker)?;
                sleep(time).await;
                cluster.worker(worker).signal("CONT");
            }
            Fault::Pause => {
                let until = Instant::now() + self.milliseconds(2_500..3_500);
                stop(cluster, worker)?;
                self.wait_for(&fewer_than(cluster, HEARD)).await?;
                sleep(until.saturating_duration_since(Instant::now())).await;
                cluster.worker(worker).signal("CONT");
                self.wait_for_all(cluster).await?;
            }
            Fault::Freeze => {
                stop(cluster, worker)?;
                self.wait_for(&fewer_than(cluster, KNOWN)).await?;
                cluster.worker(worker).signal("CONT");
                self.wait_for_all(cluster).await?;
            }
            Fault::Leave => self.replace(cluster, worker).await?,
            Fault::CutControl => {
                let time = self.milliseconds(100..6_000);
                let link = &cluster.links(worker).control;
                let before = link.broken();
                link.set(Condition::Cut);
                sleep(time).await;
                if link.broken() == before {
                    return Err("a cut broke no connection".into());
                }
                link.set(Condition::Open);
                self.wait_for_all(cluster).await?;
            }
            Fault::SlowControl => {
                let delay = self.milliseconds(5..200);
                let link = &cluster.links(worker).control;
                let was_felt = self.disturb(link, Condition::Slow(delay), 1_000..4_000).await;
                self.wait_for_all(cluster).await?;
                return Ok(was_felt);
            }
            Fault::SilentControl => {
                let link = &cluster.links(worker).control;
                let was_felt = self.disturb(link, Condition::Silent, 500..3_500).await;
                self.wait_for_all(cluster).await?;
                return Ok(was_felt);
            }
            Fault::CutData => {
                let link = &cluster.links(worker).data;
                link.set(Condition::Cut);
                let before = link.broken();
                let refused = TcpStream::connect(link.address()).await?.read_u8().await;
                let time = self.milliseconds(300..3_000);
                sleep(time).await;
                if refused.is_ok() || link.broken() == before {
                    return Err("a cut link lets through".into());
                }
                link.set(Condition::Open);
            }
            Fault::SlowData => {
                let delay = self.milliseconds(5..100);
                let link = &cluster.links(worker).data;
                return Ok(self.disturb(link, Condition::Slow(delay), 1_000..4_000).await);
            }
            Fault::SilentData => {
                let link = &cluster.links(worker).data;
                return Ok(self.disturb(link, Condition::Silent, 500..5_000).await);
            }
            Fault::Disk => {
                let folder = cluster.spill_folder(worker);
                let aside = folder.with_extension("aside");
                fs::rename(&folder, &aside)?;
                fs::write(&folder, "in the way")?;
                if fs::File::create(folder.join("x")).is_ok() {
                    return Err("a disk that fails takes a file".into());
                }
                let time = self.milliseconds(500..3_000);
                sleep(time).await;
                fs::remove_file(&folder)?;
                fs::rename(&aside, &folder)?;
                self.replace(cluster, worker).await?;
            }
            Fault::FullDisk => {
                return Ok(self.spoil(&cluster.disk(worker), DiskCondition::Full).await);
            }
            Fault::SlowDisk => {
                let delay = self.milliseconds(5..200);
                return Ok(self.spoil(&cluster.disk(worker), DiskCondition::Slow(delay)).await);
            }
        }
        Ok(true)
    }

    /// Another worker joins, and this one leaves.
    async fn replace(&mut self, cluster: &mut Cluster, worker: usize) -> Result<()> {
        cluster.add_worker().await;
        cluster.worker(worker).terminate();
        let status = cluster.worker(worker).wait_for_exit(PATIENCE + GRACE).await;
        if !status.success() {
            return Err(format!("a worker that left ended with {status}").into());
        }
        cluster.forget_worker(worker);
        Ok(())
    }

    /// Lets a link behave differently for a while. Returns whether that was felt: nothing may have passed.
    async fn disturb(&mut self, link: &Link, condition: Condition, milliseconds: std::ops::Range<u64>) -> bool {
        let time = self.milliseconds(milliseconds);
        let before = link.delayed();
        link.set(condition);
        sleep(time).await;
        link.set(Condition::Open);
        link.delayed() > before
    }

    /// Lets a disk behave differently until that was felt, and for a while longer. Returns whether it was felt at all: the
    /// worker may have had nothing to write.
    async fn spoil(&mut self, disk: &FaultyDisk, condition: DiskCondition) -> bool {
        let before = disk.hits();
        let began = Instant::now();
        disk.set(condition);
        while disk.hits() == before && began.elapsed() < DISK_PATIENCE {
            sleep(Duration::from_millis(20)).await;
        }
        sleep(self.milliseconds(100..2_000)).await;
        disk.set(DiskCondition::Good);
        disk.hits() > before
    }

    /// Waits until all workers are heard.
    async fn wait_for_all(&mut self, cluster: &Cluster) -> Result<()> {
        let sql = format!("SELECT CAST(({HEARD}) >= {} AS BIGINT)", cluster.workers());
        self.wait_for(&sql).await
    }

    fn milliseconds(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.random.random_range(range))
    }

    /// Waits until `sql` gives a number other than 0.
    async fn wait_for(&mut self, sql: &str) -> Result<()> {
        let began = Instant::now();
        while connection::number(&mut self.connection, sql).await? == 0 {
            if began.elapsed() > PATIENCE {
                return Err(format!("not within {PATIENCE:?}: {sql}").into());
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

/// The workers that the server has not given up.
const KNOWN: &str = "SELECT count(*) FROM system.workers WHERE kind = 'remote'";
const HEARD: &str = "SELECT count(*) FROM system.workers WHERE kind = 'remote' AND state <> 'suspect'";

/// Whether this count of workers is less than there are processes.
fn fewer_than(cluster: &Cluster, workers: &str) -> String {
    format!("SELECT CAST(({workers}) < {} AS BIGINT)", cluster.workers())
}

/// Stops all threads of a worker, and makes sure of it (Linux).
fn stop(cluster: &mut Cluster, worker: usize) -> Result<()> {
    let process = cluster.worker(worker);
    process.signal("STOP");
    let began = Instant::now();
    loop {
        let stat = fs::read_to_string(format!("/proc/{}/stat", process.id()))?;
        // The state follows the name of the program, in parentheses.
        if stat
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with('T'))
        {
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("{} does not stop", process.name()).into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
