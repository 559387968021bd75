//! Reports on their way from a worker to the server.
//!
//! ```text
//! push ──> unsent ── next ──> sent ── acknowledge ──> forgotten
//!             ^                 │
//!             └──── rewind ─────┘   after a reconnect: same reports, same sequence numbers, same order
//! ```
//!
//! Inside one process no report is lost on the way, so an embedded worker's outbox forgets a report once it is sent.

use std::collections::VecDeque;

use squadron_proto::AttemptKey;
use squadron_proto::control::{AttemptStatus, Report};

/// Reports that the server has not acknowledged, in order.
#[derive(Debug)]
pub(crate) struct Outbox {
    next_sequence: u64,
    unsent: VecDeque<Report>,
    sent: VecDeque<Report>,
    delivery: Delivery,
}

/// Whether a sent report may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// A channel inside the process: every sent report is delivered.
    Certain,
    /// A connection: reports are kept until the server acknowledges them.
    Acknowledged,
}

impl Outbox {
    pub(crate) fn new(delivery: Delivery) -> Self {
        Self {
            next_sequence: 1,
            unsent: VecDeque::new(),
            sent: VecDeque::new(),
            delivery,
        }
    }

    /// Adds a report under the next sequence number.
    pub(crate) fn push(&mut self, attempt: AttemptKey, status: AttemptStatus) {
        self.unsent.push_back(Report {
            sequence: self.next_sequence,
            attempt,
            status,
        });
        self.next_sequence += 1;
    }

    pub(crate) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// The report to send now.
    pub(crate) fn next(&mut self) -> Option<Report> {
        let report = self.unsent.pop_front()?;
        if self.delivery == Delivery::Acknowledged {
            self.sent.push_back(report.clone());
        }
        Some(report)
    }

    /// Forgets the reports that have arrived: all up to and including `sequence`.
    pub(crate) fn acknowledge(&mut self, sequence: u64) {
        while self.sent.front().is_some_and(|report| report.sequence <= sequence) {
            self.sent.pop_front();
        }
    }

    /// Queues all reports that are not acknowledged to be sent again.
    pub(crate) fn rewind(&mut self) {
        while let Some(report) = self.sent.pop_back() {
            self.unsent.push_front(report);
        }
    }

    /// How many reports were sent and not acknowledged.
    pub(crate) fn unacknowledged(&self) -> usize {
        self.sent.len()
    }

    /// Whether the server has acknowledged every report.
    pub(crate) fn is_empty(&self) -> bool {
        self.unsent.is_empty() && self.sent.is_empty()
    }

    /// Whether a report about `attempt` is not acknowledged yet.
    pub(crate) fn mentions(&self, attempt: AttemptKey) -> bool {
        let mut reports = self.unsent.iter().chain(&self.sent);
        reports.any(|report| report.attempt == attempt)
    }

    /// Drops all reports.
    pub(crate) fn clear(&mut self) {
        self.unsent.clear();
        self.sent.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::key;

    fn drain(outbox: &mut Outbox) -> Vec<u64> {
        std::iter::from_fn(|| outbox.next())
            .map(|report| report.sequence)
            .collect()
    }

    #[test]
    fn rewind_resends_unacknowledged_reports_in_order() {
        let mut outbox = Outbox::new(Delivery::Acknowledged);
        for task in 0..4 {
            outbox.push(key(task), AttemptStatus::Running);
        }
        assert_eq!(drain(&mut outbox), [1, 2, 3, 4]);
        outbox.acknowledge(2);
        outbox.push(key(9), AttemptStatus::Cancelled);
        outbox.rewind();
        assert_eq!(drain(&mut outbox), [3, 4, 5]);
        assert!(!outbox.is_empty());
        outbox.acknowledge(5);
        assert!(outbox.is_empty());
    }

    #[test]
    fn certain_delivery_keeps_no_report() {
        let mut outbox = Outbox::new(Delivery::Certain);
        outbox.push(key(0), AttemptStatus::Running);
        assert_eq!(drain(&mut outbox), [1]);
        assert!(outbox.is_empty());
    }
}
