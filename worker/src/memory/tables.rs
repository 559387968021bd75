//! Hash tables of aggregates, which grow by leaps: a table that is full is copied to one of twice its size, and only then
//! is the difference charged. Until the copy is made both are held.
//!
//! An aggregate may grow while the next leap fits as well. One that may not gives back what it has: it writes its groups to
//! disk, or hands them on.

use std::collections::HashMap;

use datafusion::execution::memory_pool::MemoryReservation;

/// Which consumers have hash tables that grow: those of DataFusion's aggregates. One that cannot give way is not asked to.
const AGGREGATES: &str = "HashAggregate";

/// A growth is a leap when it is at least so many bytes, and one part in so many of what was held before.
const LEAP_BYTES: usize = 1024 * 1024;
const LEAP_SHARE: usize = 8;

/// The last leap of each consumer, by its id.
#[derive(Debug, Default)]
pub(super) struct Tables(HashMap<usize, usize>);

impl Tables {
    /// What the next leap of the consumer would take for a moment, beyond what is charged: the last one was the difference
    /// between a table of twice and one of four times its size, so the next table is as large as four leaps.
    pub(super) fn next_leap(&self, reservation: &MemoryReservation) -> usize {
        let last = self.0.get(&reservation.consumer().id()).copied();
        last.unwrap_or(0).saturating_mul(4)
    }

    /// The consumer is given `bytes` more than it holds.
    pub(super) fn grown(&mut self, reservation: &MemoryReservation, bytes: usize) {
        let consumer = reservation.consumer();
        let is_leap = bytes >= LEAP_BYTES && bytes >= reservation.size() / LEAP_SHARE;
        if is_leap && consumer.can_spill() && consumer.name().contains(AGGREGATES) {
            self.0.insert(consumer.id(), bytes);
        }
    }

    /// The consumer has given some back: a table that was emptied begins small.
    pub(super) fn shrunk(&mut self, reservation: &MemoryReservation) {
        let id = reservation.consumer().id();
        if self.0.get(&id).is_some_and(|leap| reservation.size() < *leap) {
            self.0.remove(&id);
        }
    }
}
