//! How much the scheduler takes on, and its timeouts.

use std::time::Duration;

use crate::admission::AdmissionLimits;
use crate::queue::policy::{Order, Policy};

/// Limits of the scheduler.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How running queries share the workers.
    pub policy: Policy,
    /// The power of a query's size by which its weight falls under [`Policy::Stride`].
    pub priority_decay: u32,
    /// How many queries may run and wait.
    pub admission: AdmissionLimits,
    /// How many results may be open, whether they are being read or not.
    pub max_open_results: usize,
    /// How long a query waits while there is no worker for it.
    pub no_worker_timeout: Duration,
    /// How many attempts at one task may fail, or die with their workers; the last of them ends the query.
    pub max_task_failures: u32,
    /// How long a task pauses after its first failure; doubled with each further failure.
    pub retry_pause: Duration,
    /// A task whose attempt takes this many times as long as most of its stage's tasks may get a second attempt.
    pub straggler_factor: u32,
    /// How long an attempt runs at least before its task may get a second one.
    pub straggler_age: Duration,
    /// How long a worker of which nothing is heard may take to return before it is lost.
    pub worker_grace: Duration,
    /// How often a task may be refused while its lane finds no slot taken, so that no other attempt explains the
    /// refusal.
    pub max_idle_refusals: u32,
    /// How often a task may be refused at all.
    pub max_refusals: u32,
    /// How long a task pauses after its first refusal; doubled with each further refusal.
    pub refusal_pause: Duration,
    /// How long the first query of a run queue waits for free slots for all its next tasks; then they share slots.
    pub room_timeout: Duration,
    /// A query that waits and was not scheduled for this long is scheduled out of its turn (the starvation guard).
    pub starvation_timeout: Duration,
    /// How many plans to remember with their costs.
    pub remembered_plans: usize,
    /// How long a query whose result has been read waits for the last reports.
    pub last_report_timeout: Duration,
    /// How many lost workers to remember, so that they release ended queries when they come back.
    pub remembered_workers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            priority_decay: 2,
            admission: AdmissionLimits::default(),
            max_open_results: 256,
            no_worker_timeout: Duration::from_secs(10),
            max_task_failures: 4,
            retry_pause: Duration::from_millis(100),
            straggler_factor: 2,
            straggler_age: Duration::from_millis(500),
            worker_grace: Duration::from_secs(10),
            max_idle_refusals: 3,
            max_refusals: 20,
            refusal_pause: Duration::from_millis(10),
            room_timeout: Duration::from_millis(50),
            starvation_timeout: Duration::from_secs(10),
            remembered_plans: 4096,
            last_report_timeout: Duration::from_secs(10),
            remembered_workers: 256,
        }
    }
}

impl Limits {
    /// How queries are ordered under these limits.
    pub(crate) fn order(&self) -> Order {
        Order {
            policy: self.policy,
            decay: self.priority_decay,
        }
    }
}
