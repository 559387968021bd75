//! The run queues of all placements and lanes.

use std::time::Duration;

use squadron_proto::QueryId;
use squadron_proto::control::Lane;

use crate::graph::Placement;
use crate::groups::Groups;
use crate::queue::run_queue::{Correction, RunQueue};

/// How often the usual order counts before the query that has waited for too long does.
const SERVED_BETWEEN_STARVED: u32 = 3;

/// All queues.
#[derive(Debug, Default)]
pub(crate) struct RunQueues {
    any: PlacementQueues,
    local: PlacementQueues,
}

/// The queues of one placement, one for each lane of the workers. Resource groups are the same in all of them: what is
/// charged in one counts in the others.
#[derive(Debug, Default)]
pub(crate) struct PlacementQueues {
    lanes: [RunQueue; Lane::ALL.len()],
    served_since_starved: u32,
    /// Since when there has been no worker at all.
    pub(crate) empty_since: Option<Duration>,
}

impl RunQueues {
    pub(crate) fn new(groups: &Groups) -> Self {
        let queues = || PlacementQueues {
            lanes: Lane::ALL.map(|_| RunQueue::new(groups)),
            ..PlacementQueues::default()
        };
        Self {
            any: queues(),
            local: queues(),
        }
    }

    pub(crate) fn of(&self, placement: Placement) -> &PlacementQueues {
        match placement {
            Placement::Any => &self.any,
            Placement::Local => &self.local,
        }
    }

    pub(crate) fn of_mut(&mut self, placement: Placement) -> &mut PlacementQueues {
        match placement {
            Placement::Any => &mut self.any,
            Placement::Local => &mut self.local,
        }
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        let mut queues = self.any.lanes.iter().chain(&self.local.lanes);
        queues.all(RunQueue::is_empty)
    }
}

impl PlacementQueues {
    pub(crate) fn lane(&self, lane: Lane) -> &RunQueue {
        &self.lanes[lane.number() as usize]
    }

    pub(crate) fn lane_mut(&mut self, lane: Lane) -> &mut RunQueue {
        &mut self.lanes[lane.number() as usize]
    }

    /// See [`RunQueue::settle`].
    pub(crate) fn settle(&mut self, lane: Lane, group: usize, taken: u64, given: u64, correction: Correction) {
        for (queue, of) in self.lanes.iter_mut().zip(Lane::ALL) {
            if of == lane {
                queue.settle(group, taken, given, correction);
            } else {
                queue.follow(group, taken, given, correction);
            }
        }
    }

    /// See [`RunQueue::resize`].
    pub(crate) fn resize(&mut self, slots: u64) {
        for queue in &mut self.lanes {
            queue.resize(slots);
        }
    }

    /// Now and then the oldest of all who were not served since `overdue`.
    pub(crate) fn starved(&self, overdue: Duration) -> Option<QueryId> {
        if self.served_since_starved < SERVED_BETWEEN_STARVED {
            return None;
        }
        let oldest = self.lanes.iter().filter_map(|queue| queue.oldest(overdue));
        oldest.min().map(|(_, query)| query)
    }

    pub(crate) fn was_served(&mut self, since: Duration, overdue: Option<Duration>) {
        self.served_since_starved = match overdue {
            Some(overdue) if since <= overdue => 0,
            Some(_) | None => self.served_since_starved.saturating_add(1),
        };
    }

    pub(crate) fn waiting(&self) -> impl Iterator<Item = QueryId> + '_ {
        self.lanes.iter().flat_map(RunQueue::waiting)
    }
}
