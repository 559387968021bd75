//! Who comes first: pure functions over what is known of those that want to run.
//!
//! Between queries: first come, first served. Inside a query: the stage with the smallest number, so that producers come
//! before consumers; of a stage, the largest task (longest processing time first, within 4/3 of the best makespan).

use std::cmp::Reverse;
use std::collections::BTreeSet;

use squadron_proto::control::Lane;

use super::graph::TaskSpec;

/// What the policy knows of a query.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    /// How many queries were submitted before it.
    pub(super) submitted_before: u64,
}

/// A place in the queue; the smallest comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank(u64);

/// The place of a query among those with tasks to place.
pub(super) fn rank(standing: Standing) -> Rank {
    Rank(standing.submitted_before)
}

/// Which of a query's stages with tasks to place comes first.
pub(super) fn next_stage(ready: &BTreeSet<usize>) -> Option<usize> {
    ready.first().copied()
}

/// The lane of a worker that an attempt runs in. Without a prediction of how long it will take, each counts as short.
pub(super) fn lane() -> Lane {
    Lane::Short
}

/// The numbers of a stage's tasks, first come last, so that taking from the end is cheap.
pub(super) fn last_to_first(tasks: &[TaskSpec]) -> Vec<usize> {
    let mut order: Vec<_> = (0..tasks.len()).collect();
    order.sort_by_key(|&task| (tasks[task].bytes, Reverse(task)));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_come_in_the_order_of_their_submission() {
        let ranks = [0, 1, 7].map(|submitted_before| rank(Standing { submitted_before }));
        assert!(ranks.is_sorted());
    }

    #[test]
    fn producers_come_before_consumers() {
        assert_eq!(next_stage(&BTreeSet::from([3, 1, 2])), Some(1));
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
