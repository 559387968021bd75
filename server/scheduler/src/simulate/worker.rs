//! A worker of the virtual cluster: its attempts, and how they share its cores.
//!
//! A slot is a core. Where lanes together run more than a worker has, their attempts share the cores by niceness, as
//! `squadron-worker` lets the operating system do.

use std::collections::BTreeMap;
use std::time::Duration;

use squadron_proto::control::{Lane, PartitionOutput, TaskMetrics, TaskOutput};
use squadron_proto::{AttemptKey, WorkerId};

/// A worker.
pub(super) struct Worker {
    pub(super) id: WorkerId,
    pub(super) is_alive: bool,
    pub(super) slowness: f64,
    /// How often it has died.
    pub(super) life: u32,
    pub(super) attempts: BTreeMap<AttemptKey, Attempt>,
    /// When the last message on its way to the server arrives.
    pub(super) wire: Duration,
}

/// An attempt that the worker was asked to run.
pub(super) struct Attempt {
    pub(super) slots: u32,
    pub(super) lane: Lane,
    /// Its work, in time on cores of its own.
    pub(super) takes: Duration,
    /// What is left of that.
    pub(super) left: Duration,
    /// How much of its cores it has, since when; none before it begins.
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
            life: 0,
            attempts: BTreeMap::new(),
            wire: Duration::ZERO,
        }
    }
}

impl Attempt {
    /// Its weight when cores are shared, as the kernel's scheduler weighs the niceness of its lane.
    pub(super) fn weight(&self) -> f64 {
        let weight = match self.lane {
            Lane::Short => 1.0,
            Lane::Medium => 1.0 / 3.0,
            Lane::Long => 1.0 / 28.0,
        };
        weight * f64::from(self.slots)
    }

    /// Brings the work that is left up to date. Returns the time that cores worked for it since the last call.
    pub(super) fn work(&mut self, now: Duration) -> Duration {
        let Some((pace, since)) = &mut self.pace else {
            return Duration::ZERO;
        };
        let done = (now - *since).mul_f64(*pace);
        *since = now;
        self.left = self.left.saturating_sub(done);
        done * self.slots
    }

    /// Its output when it is finished. The processor time is what it would have taken with its cores to itself.
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

/// The pace of attempts with these weights and slots on so many cores: in proportion to their weight, but none more than its
/// slots. In the order of the attempts.
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
        // An attempt whose share is more than it can use is content; the others share the rest.
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
