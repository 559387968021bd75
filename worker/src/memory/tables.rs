//! Hash tables of aggregates, which grow by leaps: a table that is full is copied to one of twice its size, and only then
//! is the difference charged. Until the copy is made both are held.
//!
//! An aggregate may grow while its next leap fits as well, together with those of the others that grow: the partitions of a
//! stage leap at about the same time. One that may not gives back what it has: it hands its groups on, or writes them to
//! disk. Once it has written some it is left alone, since what it does with them later cannot give way.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};

use super::consumers;

/// A growth is a leap when it is at least so many bytes, and one part in so many of what was held before.
const LEAP_BYTES: usize = 1024 * 1024;
const LEAP_SHARE: usize = 8;

/// A table that has not grown for so long has all its rows.
const GROWING: Duration = Duration::from_secs(1);

/// The tables that have leapt, by the id of their consumer.
#[derive(Debug, Default)]
pub(super) struct Tables {
    leapt: HashMap<usize, Table>,
    /// Consumers that have written groups to disk.
    left_alone: HashSet<usize>,
}

#[derive(Debug)]
struct Table {
    last_leap: usize,
    grown: Instant,
}

impl Table {
    /// What the next leap takes for a moment, beyond what is charged: the last one was the difference between a table of
    /// twice and one of four times its size, so the next table is as large as four leaps.
    fn next_leap(&self) -> usize {
        self.last_leap.saturating_mul(4)
    }
}

impl Tables {
    /// What the next leaps of the consumer and of the other tables that grow would take; nothing for other consumers.
    pub(super) fn next_leaps(&self, reservation: &MemoryReservation, now: Instant) -> usize {
        if !self.leapt.contains_key(&reservation.consumer().id()) {
            return 0;
        }
        let growing = self
            .leapt
            .values()
            .filter(|table| now.duration_since(table.grown) < GROWING);
        growing.map(Table::next_leap).fold(0, usize::saturating_add)
    }

    /// The consumer is given `bytes` more than it holds.
    pub(super) fn grown(&mut self, reservation: &MemoryReservation, bytes: usize, now: Instant) {
        let consumer = reservation.consumer();
        let held = reservation.size();
        let is_leap = held > 0 && bytes >= LEAP_BYTES && bytes >= held / LEAP_SHARE;
        if is_leap && is_asked(consumer) && !self.left_alone.contains(&consumer.id()) {
            let table = Table {
                last_leap: bytes,
                grown: now,
            };
            self.leapt.insert(consumer.id(), table);
        } else if let Some(table) = self.leapt.get_mut(&consumer.id()) {
            table.grown = now;
        }
    }

    /// The consumer gives way.
    pub(super) fn refused(&mut self, reservation: &MemoryReservation) {
        let consumer = reservation.consumer();
        let has_leapt = self.leapt.remove(&consumer.id()).is_some();
        if has_leapt && !consumers::is_partial_table(consumer) {
            self.left_alone.insert(consumer.id());
        }
    }

    /// The consumer is gone.
    pub(super) fn ended(&mut self, consumer: &MemoryConsumer) {
        self.leapt.remove(&consumer.id());
        self.left_alone.remove(&consumer.id());
    }

    /// The consumer has given some back: a table that was emptied begins small.
    pub(super) fn shrunk(&mut self, reservation: &MemoryReservation) {
        let id = reservation.consumer().id();
        if self
            .leapt
            .get(&id)
            .is_some_and(|table| reservation.size() < table.last_leap)
        {
            self.leapt.remove(&id);
        }
    }
}

/// Whether the consumer can give way.
fn is_asked(consumer: &MemoryConsumer) -> bool {
    consumer.can_spill() && consumers::is_table(consumer)
}
