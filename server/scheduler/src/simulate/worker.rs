//! A worker of the virtual cluster: its attempts, and how they share its cores.
//!
//! A slot is a core. If the lanes together run attempts with more slots than a worker has, the attempts share the cores
//! by niceness, as the operating system does for `squadron-worker`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use squadron_proto::control::{Lane, PartitionOutput, TaskMetrics, TaskOutput};
use squadron_proto::{AttemptKey, WorkerId};

/// A worker.
pub(super) struct Worker {
    pub(super) id: WorkerId,
    pub(super) is_alive: bool,
    pub(super) slowness: f64,
    /// How often it has died.
    pub(super) incarnation: u32,
    pub(super) attempts: BTreeMap<AttemptKey, Attempt>,
    /// The finished attempts whose output it has.
    pub(super) outputs: BTreeSet<AttemptKey>,
    /// It hangs until then.
    pub(super) paused_until: Option<Duration>,
    pub(super) presence: Presence,
    /// When the last message that it has sent arrives at the server.
    pub(super) last_arrival: Duration,
}

/// What the scheduler thinks of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    Here,
    Suspected,
    GivenUp,
}

/// An attempt that the worker was asked to run.
pub(super) struct Attempt {
    pub(super) slots: u32,
    pub(super) lane: Lane,
    /// Its work: the time it takes on cores of its own.
    pub(super) takes: Duration,
    /// How much of `takes` is left.
    pub(super) left: Duration,
    /// The fraction of its cores that it has, and since when; none before it begins.
    pub(super) pace: Option<(f64, Duration)>,
    /// How often its pace has changed.
    pub(super) changes: u32,
}

impl Worker {
    /// A worker that has not joined yet.
    pub(super) fn new(id: WorkerId, slowness: f64) -> Self {
        Self {
            id,
            is_alive: false,
            slowness,
            incarnation: 0,
            attempts: BTreeMap::new(),
            outputs: BTreeSet::new(),
            paused_until: None,
            presence: Presence::Here,
            last_arrival: Duration::ZERO,
        }
    }
}

impl Worker {
    /// All that it has.
    pub(super) fn inventory(&self) -> BTreeSet<AttemptKey> {
        self.attempts.keys().chain(&self.outputs).copied().collect()
    }
}

impl Attempt {
    /// Its weight when cores are shared: the kernel's weight for the niceness of its lane, times its slots.
    pub(super) fn weight(&self) -> f64 {
        let weight = match self.lane {
            Lane::Short => 1.0,
            Lane::Medium => 1.0 / 3.0,
            Lane::Long => 1.0 / 28.0,
        };
        weight * f64::from(self.slots)
    }

    /// Brings `left` up to date. Returns the time that cores worked for the attempt since the last call.
    pub(super) fn do_work(&mut self, now: Duration) -> Duration {
        let Some((pace, since)) = &mut self.pace else {
            return Duration::ZERO;
        };
        let done = (now - *since).mul_f64(*pace);
        *since = now;
        self.left = self.left.saturating_sub(done);
        done * self.slots
    }

    /// Its output at its end. The processor time is what it takes on cores of its own.
    pub(super) fn output(&self, key: AttemptKey) -> TaskOutput {
        let cpu_ns = (self.takes * self.slots).as_nanos();
        TaskOutput {
            partitions: vec![PartitionOutput {
                partition: key.task.0,
                rows: 1,
                bytes: 1 << 20,
            }],
            metrics: TaskMetrics {
                cpu_ns: u64::try_from(cpu_ns).unwrap_or(u64::MAX),
                ..TaskMetrics::default()
            },
        }
    }
}

/// The paces of attempts with these weights and slots on so many cores, in the order of the attempts: cores in
/// proportion to weights, but to none more than its slots.
pub(super) fn paces(cores: u32, attempts: &[(f64, u32)]) -> Vec<f64> {
    let mut paces = vec![1.0; attempts.len()];
    let mut cores = f64::from(cores);
    let mut sharing: Vec<usize> = (0..attempts.len()).collect();
    loop {
        let weights: f64 = sharing.iter().map(|&at| attempts[at].0).sum();
        let wanted: f64 = sharing.iter().map(|&at| f64::from(attempts[at].1)).sum();
        if wanted <= cores {
            return paces;
        }
        // An attempt whose share exceeds its slots gets only as many cores as slots; the others share the rest.
        let is_content = |at: &usize| cores * attempts[*at].0 / weights >= f64::from(attempts[*at].1);
        let (content, short): (Vec<_>, Vec<_>) = sharing.iter().copied().partition(is_content);
        if content.is_empty() {
            for &at in &short {
                paces[at] = cores * attempts[at].0 / weights / f64::from(attempts[at].1);
            }
            return paces;
        }
        cores -= content.iter().map(|&at| f64::from(attempts[at].1)).sum::<f64>();
        sharing = short;
    }
}
