//! The order of queries, stages and tasks: pure functions of what is known of them.
//!
//! Between waiting queries of one group, the smallest tag comes first:
//!
//! | policy | tag |
//! |---|---|
//! | stride | charges since the query came (processor time / weight) plus its next task; weights fall with size |
//! | fair | the same with weights that do not depend on size: processor sharing |
//! | fifo | the query's priority, then the order of submission |
//!
//! Under `stride` a weight falls with a power of the query's size, by default its square. The size is the predicted
//! cost or the cost so far, whichever is more. So short queries overtake long ones, and a wrong prediction is corrected
//! while the query runs (stride scheduling with decay: Wagner, Kohn, Neumann: *Self-Tuning Query Scheduling for
//! Analytical Workloads*, SIGMOD 2021; starting from a predicted size is our addition). Under `stride` and `fair`, 10
//! points of priority double the weight.
//!
//! Inside a query the stage with the longest critical path to the root comes first (any list schedule is within 2x of
//! the best), of a stage the largest task (longest processing time first, within 4/3 of the best makespan).

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use squadron_proto::control::Lane;

use crate::graph::{StageSpec, TaskSpec};

/// How running queries share the workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// By used processor time over weight; short queries weigh more.
    #[default]
    Stride,
    /// By priority, then in the order of submission.
    Fifo,
    /// By used processor time over weight; weights do not depend on size.
    Fair,
}

impl Policy {
    /// All policies.
    pub const ALL: [Self; 3] = [Self::Stride, Self::Fifo, Self::Fair];
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stride => "stride",
            Self::Fifo => "fifo",
            Self::Fair => "fair",
        })
    }
}

impl FromStr for Policy {
    type Err = String;

    /// The error is the half sentence after the value.
    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|policy| policy.to_string() == text);
        known.ok_or_else(|| "is not a policy; give stride, fifo or fair".to_owned())
    }
}

/// The weight of a query of no size and priority 0; also the unit of tags: one microsecond at this weight.
pub(crate) const UNIT: u64 = 1 << 40;
/// Up to this size a query has its full weight: slots times microseconds.
const SHORT_US: u64 = 20_000;
/// The weight of a large query is never less than this part of a small one's.
const LEAST_PART: u64 = 1 << 20;
/// The power of size that decides a query's lane, independent of [`Order::decay`].
const LANE_DECAY: u32 = 2;
/// The factor of a query's weight once half of its time limit is over.
const URGENT_FACTOR: u64 = 4;
/// The powers of two to k/10, times 2^16.
const TENTHS: [u64; 10] = [
    65_536, 70_240, 75_281, 80_684, 86_475, 92_682, 99_334, 106_464, 114_105, 122_295,
];

/// What the policy knows of a query.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PolicyInput {
    /// -100 to 100.
    pub(crate) priority: i32,
    /// Whether half of its time limit is over.
    pub(crate) is_urgent: bool,
    /// Its predicted cost or its cost so far, whichever is more, in microseconds of a processor.
    pub(crate) size_us: u64,
    /// The probable cost of its next task, in microseconds of a processor.
    pub(crate) next_us: u64,
    /// What it was charged, in units of [`UNIT`].
    pub(crate) pass: u128,
}

impl PolicyInput {
    /// Its weight if weights fall with this power of the size.
    fn weight(&self, decay: u32) -> u64 {
        let urgency = if self.is_urgent { URGENT_FACTOR } else { 1 };
        apply_priority(decay_weight(self.size_us, decay), self.priority) * urgency
    }
}

/// How waiting queries are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) policy: Policy,
    /// The power of a query's size by which its weight falls, for policies that use sizes.
    pub(crate) decay: u32,
}

impl Order {
    /// The query's weight; its share is this over the weights of all waiting queries.
    pub(crate) fn weight(self, input: &PolicyInput) -> u64 {
        input.weight(match self.policy {
            Policy::Stride => self.decay,
            Policy::Fifo | Policy::Fair => 0,
        })
    }

    /// The lane of the workers that the query's attempts run in: by its size, where a higher priority counts like a
    /// smaller size. Policies that do not use sizes use one lane.
    pub(crate) fn lane(self, input: &PolicyInput) -> Lane {
        let is_within = |size_us| input.weight(LANE_DECAY) >= decay_weight(size_us, LANE_DECAY);
        match self.policy {
            Policy::Fair | Policy::Fifo => Lane::Short,
            Policy::Stride if is_within(SHORT_LANE_US) => Lane::Short,
            Policy::Stride if is_within(MEDIUM_LANE_US) => Lane::Medium,
            Policy::Stride => Lane::Long,
        }
    }

    /// The query's tag among the waiting queries of its group; the smallest comes first.
    pub(crate) fn tag(self, input: &PolicyInput) -> u128 {
        match self.policy {
            Policy::Stride | Policy::Fair => input.pass + charge(input.next_us, self.weight(input)),
            Policy::Fifo => u128::from(100_u32.saturating_add_signed(-input.priority)),
        }
    }
}

/// How far a cost moves a tag or pass at this weight.
pub(crate) fn charge(cost_us: u64, weight: u64) -> u128 {
    u128::from(cost_us) * u128::from(UNIT) / u128::from(weight.max(1))
}

fn decay_weight(size_us: u64, decay: u32) -> u64 {
    if size_us <= SHORT_US {
        return UNIT;
    }
    let least = UNIT / LEAST_PART;
    let power = |of: u64| u128::from(of).checked_pow(decay);
    let part = power(SHORT_US).and_then(|part| part.checked_mul(u128::from(UNIT)));
    match part.zip(power(size_us)) {
        Some((part, size)) => u64::try_from(part / size).unwrap_or(UNIT).max(least),
        None => least,
    }
}

fn apply_priority(weight: u64, priority: i32) -> u64 {
    let priority = priority.clamp(-100, 100);
    let tenth = usize::try_from(priority.rem_euclid(10)).unwrap_or_default();
    let scaled = (u128::from(weight) * u128::from(TENTHS[tenth])) >> 16;
    let doublings = priority.div_euclid(10);
    let weight = match u32::try_from(doublings) {
        Ok(doublings) => scaled << doublings,
        Err(_) => scaled >> doublings.unsigned_abs(),
    };
    u64::try_from(weight).unwrap_or(u64::MAX).max(1)
}

/// A stage with tasks to place, by its critical path, the longest first, then producers before consumers.
pub(crate) type ReadyStage = (Reverse<u64>, usize);

/// Which of a query's stages with tasks to place comes first.
pub(crate) fn next_stage(ready: &BTreeSet<ReadyStage>) -> Option<usize> {
    ready.first().map(|&(_, stage)| stage)
}

/// The critical path from each stage to the root, in work: the stage's own and that of the heaviest chain of consumers.
/// The consumers of a stage must have greater numbers than the stage.
pub(crate) fn critical_paths(stages: &[StageSpec], consumers: &[Vec<usize>]) -> Vec<u64> {
    let mut paths = vec![0_u64; stages.len()];
    for stage in (0..stages.len()).rev() {
        let below = consumers[stage].iter().map(|&consumer| paths[consumer]);
        paths[stage] = work(&stages[stage]).saturating_add(below.max().unwrap_or(0));
    }
    paths
}

/// The work of a stage: the mebibytes it reads, and one for each task.
fn work(stage: &StageSpec) -> u64 {
    let of_task = |task: &TaskSpec| 1 + (task.bytes >> 20);
    stage.tasks.iter().map(of_task).fold(0, u64::saturating_add)
}

/// Queries of up to this size, in microseconds of a processor, run in the workers' lane for short queries.
const SHORT_LANE_US: u64 = 500_000;
/// Queries of up to this size run in the next lane: about where interactive use ends, so that longer queries share no
/// lane with interactive ones.
const MEDIUM_LANE_US: u64 = 2_000_000;

/// The numbers of a stage's tasks in reverse order, so that the first can be popped from the end.
pub(crate) fn order_tasks_reversed(tasks: &[TaskSpec]) -> Vec<usize> {
    let mut order: Vec<_> = (0..tasks.len()).collect();
    order.sort_by_key(|&task| (tasks[task].bytes, Reverse(task)));
    order
}

#[cfg(test)]
mod tests;
