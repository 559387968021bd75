//! Who comes first: pure functions over what is known of those that want to run.
//!
//! Between queries of one group, the smallest tag comes first:
//!
//! | policy | tag |
//! |---|---|
//! | stride | what it was charged (processor time / weight) since it came, and its next task on top; weights fall with size |
//! | fair | the same with even weights: processor sharing |
//! | fifo | its priority, then the order of submission |
//!
//! Under `stride` a weight falls with a power of the query's size, by default its square: what it is predicted to cost or has
//! cost, whichever is more. So short queries pass long ones, and a wrong prediction is corrected while the query runs
//! (stride scheduling with decay: Wagner, Kohn, Neumann: *Self-Tuning Query Scheduling for Analytical Workloads*, SIGMOD
//! 2021; the seed is ours). Under `stride` and `fair`, 10 points of priority double the weight.
//!
//! Inside a query: the stage with the longest way to the root (critical path: any list schedule is within 2x of the best),
//! of a stage the largest task (longest processing time first, within 4/3 of the best makespan).

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use squadron_proto::control::Lane;

use crate::graph::{StageSpec, TaskSpec};

/// How running queries share the workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// By the time they have used, weighted; short queries first.
    #[default]
    Stride,
    /// In the order of their submission.
    Fifo,
    /// By the time they have used: every query has the same share.
    Fair,
}

impl Policy {
    /// All there are.
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
/// The power of size that a query's lane goes by, however its weight falls.
const LANE_DECAY: u32 = 2;
/// How much more a query counts when its time limit is near.
const URGENT_FACTOR: u64 = 4;
/// The powers of two to k/10, times 2^16.
const TENTHS: [u64; 10] = [
    65_536, 70_240, 75_281, 80_684, 86_475, 92_682, 99_334, 106_464, 114_105, 122_295,
];

/// What the policy knows of a query.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Standing {
    /// -100 to 100.
    pub(crate) priority: i32,
    /// Whether most of its time is over.
    pub(crate) is_urgent: bool,
    /// What it will cost or has cost, in microseconds of a processor.
    pub(crate) size_us: u64,
    /// What its next task will cost, as above.
    pub(crate) next_us: u64,
    /// What it was charged, in units of [`UNIT`].
    pub(crate) pass: u128,
}

impl Standing {
    /// Its weight where weights fall with this power of the size.
    fn weight(&self, decay: u32) -> u64 {
        let urgency = if self.is_urgent { URGENT_FACTOR } else { 1 };
        prioritised(decayed(self.size_us, decay), self.priority) * urgency
    }
}

/// How queries that want to run are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) policy: Policy,
    /// The power of its size with which a query's weight falls, for policies that know sizes.
    pub(crate) decay: u32,
}

impl Order {
    /// The query's share is its weight in that of all that wait.
    pub(crate) fn weight(self, standing: &Standing) -> u64 {
        standing.weight(match self.policy {
            Policy::Stride => self.decay,
            Policy::Fifo | Policy::Fair => 0,
        })
    }

    /// The lane of the workers that the query's attempts run in: by its size, and with a higher priority as if it were
    /// smaller. Policies that do not know sizes know no lanes either.
    pub(crate) fn lane(self, standing: &Standing) -> Lane {
        let is_within = |size_us| standing.weight(LANE_DECAY) >= decayed(size_us, LANE_DECAY);
        match self.policy {
            Policy::Fair | Policy::Fifo => Lane::Short,
            Policy::Stride if is_within(SHORT_LANE_US) => Lane::Short,
            Policy::Stride if is_within(MEDIUM_LANE_US) => Lane::Medium,
            Policy::Stride => Lane::Long,
        }
    }

    /// The query's place among those of its group that wait; the smallest comes first.
    pub(crate) fn tag(self, standing: &Standing) -> u128 {
        match self.policy {
            Policy::Stride | Policy::Fair => standing.pass + charge(standing.next_us, self.weight(standing)),
            Policy::Fifo => u128::from(100_u32.saturating_add_signed(-standing.priority)),
        }
    }
}

/// What so much time moves a tag, at this weight.
pub(crate) fn charge(cost_us: u64, weight: u64) -> u128 {
    u128::from(cost_us) * u128::from(UNIT) / u128::from(weight.max(1))
}

fn decayed(size_us: u64, decay: u32) -> u64 {
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

fn prioritised(weight: u64, priority: i32) -> u64 {
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

/// A stage with tasks to place: the longest way to the root first, then the producer before the consumer.
pub(crate) type ReadyStage = (Reverse<u64>, usize);

/// Which of a query's stages with tasks to place comes first.
pub(crate) fn next_stage(ready: &BTreeSet<ReadyStage>) -> Option<usize> {
    ready.first().map(|&(_, stage)| stage)
}

/// How long the way from each stage to the root is, in work: its own and that of the heaviest chain of consumers.
/// `consumers` of a stage have greater numbers.
pub(crate) fn ways_to_root(stages: &[StageSpec], consumers: &[Vec<usize>]) -> Vec<u64> {
    let mut ways = vec![0_u64; stages.len()];
    for stage in (0..stages.len()).rev() {
        let below = consumers[stage].iter().map(|&consumer| ways[consumer]);
        ways[stage] = work(&stages[stage]).saturating_add(below.max().unwrap_or(0));
    }
    ways
}

/// In mebibytes to read; a task is worth one even without any.
fn work(stage: &StageSpec) -> u64 {
    let of_task = |task: &TaskSpec| 1 + (task.bytes >> 20);
    stage.tasks.iter().map(of_task).fold(0, u64::saturating_add)
}

/// Queries of up to this size, in microseconds of a processor, run in the workers' lane for short ones.
const SHORT_LANE_US: u64 = 500_000;
/// And of up to this size in the next: about where interactive use ends, so that what comes after shares no lane with it.
const MEDIUM_LANE_US: u64 = 2_000_000;

/// The numbers of a stage's tasks, first come last, so that taking from the end is cheap.
pub(crate) fn last_to_first(tasks: &[TaskSpec]) -> Vec<usize> {
    let mut order: Vec<_> = (0..tasks.len()).collect();
    order.sort_by_key(|&task| (tasks[task].bytes, Reverse(task)));
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::stage;

    fn order(policy: Policy) -> Order {
        Order { policy, decay: 2 }
    }

    fn weight(priority: i32, size_us: u64) -> u64 {
        order(Policy::Stride).weight(&Standing {
            priority,
            size_us,
            ..Standing::default()
        })
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for policy in Policy::ALL {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        assert!("lottery".parse::<Policy>().is_err());
    }

    #[test]
    fn ten_points_of_priority_double_the_weight() {
        for priority in [-100, -33, 0, 7, 90] {
            let ratio = weight(priority + 10, 0) as f64 / weight(priority, 0) as f64;
            assert!((ratio - 2.0).abs() < 0.01, "{priority}: {ratio}");
        }
        let weights: Vec<_> = (-100..=100).map(|priority| weight(priority, 0)).collect();
        assert!(weights.is_sorted_by(|less, more| less < more));
    }

    #[test]
    fn weight_falls_with_the_square_of_the_size_down_to_a_floor() {
        assert_eq!(weight(0, SHORT_US), UNIT);
        assert_eq!(weight(0, 2 * SHORT_US), UNIT / 4);
        assert_eq!(weight(0, u64::MAX), UNIT / LEAST_PART);
        let fair = Standing {
            size_us: u64::MAX,
            ..Standing::default()
        };
        assert_eq!(order(Policy::Fair).weight(&fair), UNIT);
    }

    #[test]
    fn the_rate_of_decay_is_the_power_of_the_size() {
        for decay in 0..=4 {
            let weight = |size_us| {
                let order = Order {
                    policy: Policy::Stride,
                    decay,
                };
                order.weight(&Standing {
                    size_us,
                    ..Standing::default()
                })
            };
            assert_eq!(weight(SHORT_US), UNIT);
            assert_eq!(weight(2 * SHORT_US), UNIT >> decay);
            let least = if decay == 0 { UNIT } else { UNIT / LEAST_PART };
            assert_eq!(weight(u64::MAX), least);
            let weights: Vec<_> = (0..60).map(|power| weight(1 << power)).collect();
            assert!(weights.is_sorted_by(|small, large| small >= large));
        }
    }

    #[test]
    fn lanes_do_not_depend_on_the_rate_of_decay() {
        for size_us in [SHORT_US, SHORT_LANE_US * 2, MEDIUM_LANE_US * 2] {
            for priority in [-20, 0, 20] {
                let standing = Standing {
                    priority,
                    size_us,
                    ..Standing::default()
                };
                let lane = |decay| {
                    let policy = Policy::Stride;
                    Order { policy, decay }.lane(&standing)
                };
                assert!((0..=4).all(|decay| lane(decay) == lane(2)));
            }
        }
    }

    #[test]
    fn lanes_follow_size_and_priority() {
        let lane = |policy: Policy, priority, size_us| {
            order(policy).lane(&Standing {
                priority,
                size_us,
                ..Standing::default()
            })
        };
        let stride = |priority, size_us| lane(Policy::Stride, priority, size_us);
        assert_eq!(stride(0, SHORT_LANE_US), Lane::Short);
        assert_eq!(stride(0, SHORT_LANE_US * 2), Lane::Medium);
        assert_eq!(stride(0, MEDIUM_LANE_US * 2), Lane::Long);
        assert_eq!(
            stride(20, SHORT_LANE_US * 2),
            Lane::Short,
            "four times the weight, half the size"
        );
        assert_eq!(stride(-20, SHORT_LANE_US), Lane::Medium);
        for policy in [Policy::Fair, Policy::Fifo] {
            assert_eq!(lane(policy, -100, u64::MAX), Lane::Short);
        }
    }

    #[test]
    fn tags_follow_the_policy() {
        let small = Standing {
            next_us: 1_000,
            ..Standing::default()
        };
        let large = Standing {
            size_us: 1_000_000,
            ..small
        };
        assert!(order(Policy::Stride).tag(&small) < order(Policy::Stride).tag(&large));
        assert_eq!(order(Policy::Fair).tag(&small), order(Policy::Fair).tag(&large));
        let served = Standing { pass: 1, ..small };
        assert!(order(Policy::Fair).tag(&small) < order(Policy::Fair).tag(&served));
        assert_eq!(order(Policy::Fifo).tag(&small), order(Policy::Fifo).tag(&large));
        let preferred = Standing { priority: 1, ..large };
        for policy in Policy::ALL {
            let tag = |standing| order(policy).tag(standing);
            assert!(tag(&preferred) < tag(&large), "{policy}");
        }
    }

    #[test]
    fn the_longest_way_to_the_root_comes_first() {
        let mut stages = vec![stage(0, &[], 1), stage(1, &[], 9), stage(2, &[0, 1], 1)];
        let ways = ways_to_root(&stages, &[vec![2], vec![2], vec![]]);
        assert_eq!(ways, [2, 10, 1]);
        stages[0].tasks[0].bytes = 20 << 20;
        let ways = ways_to_root(&stages, &[vec![2], vec![2], vec![]]);
        let ready = (0..2).map(|stage| (Reverse(ways[stage]), stage)).collect();
        assert_eq!(next_stage(&ready), Some(0));
        assert_eq!(next_stage(&BTreeSet::new()), None);
    }

    #[test]
    fn large_tasks_come_first_and_equal_ones_in_their_order() {
        let tasks = [5, 9, 5].map(|bytes| TaskSpec {
            bytes,
            ..TaskSpec::default()
        });
        let mut order = last_to_first(&tasks);
        order.reverse();
        assert_eq!(order, [1, 0, 2]);
    }
}
