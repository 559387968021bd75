//! The run queues of all placements and lanes.

use std::time::Duration;

use squadron_proto::QueryId;
use squadron_proto::control::Lane;

use crate::graph::Placement;
use crate::groups::Groups;
use crate::queue::run_queue::{Correction, RunQueue};

/// How many launches follow the usual order before a starved query is launched out of its turn.
const LAUNCHES_BETWEEN_STARVED: u32 = 3;

/// All run queues.
#[derive(Debug, Default)]
pub(crate) struct RunQueues {
    any: PlacementQueues,
    local: PlacementQueues,
}

/// The run queues of one placement, one for each lane of the workers. Resource groups span all of them: what a group is
/// charged in one counts in the others.
#[derive(Debug, Default)]
pub(crate) struct PlacementQueues {
    lanes: [RunQueue; Lane::ALL.len()],
    launches_since_starved: u32,
    /// Since when there has been no worker for this placement; none while there is one.
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
                queue.settle_other_lane(group, taken, given, correction);
            }
        }
    }

    /// See [`RunQueue::resize`].
    pub(crate) fn resize(&mut self, slots: u64) {
        for queue in &mut self.lanes {
            queue.resize(slots);
        }
    }

    /// The starvation guard: every so many launches, the longest waiting of the queries not scheduled since
    /// `starved_since`.
    pub(crate) fn find_starved(&self, starved_since: Duration) -> Option<QueryId> {
        if self.launches_since_starved < LAUNCHES_BETWEEN_STARVED {
            return None;
        }
        let oldest = self
            .lanes
            .iter()
            .filter_map(|queue| queue.longest_waiting(starved_since));
        oldest.min().map(|(_, query)| query)
    }

    /// Counts a launch of a query that had waited since `waiting_since`; the launch of a starved query starts the count
    /// anew.
    pub(crate) fn count_launch(&mut self, waiting_since: Duration, starved_since: Option<Duration>) {
        self.launches_since_starved = match starved_since {
            Some(starved_since) if waiting_since <= starved_since => 0,
            Some(_) | None => self.launches_since_starved.saturating_add(1),
        };
    }

    pub(crate) fn waiting(&self) -> impl Iterator<Item = QueryId> + '_ {
        self.lanes.iter().flat_map(RunQueue::waiting)
    }
}
