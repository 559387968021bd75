//! Hash tables of aggregates, which grow by leaps: a table that is full is copied to one of twice its size, and only then
//! is the difference charged. Until the copy is made both are held.
//!
//! An aggregate may grow while its next leap fits as well, together with those of the others that grow: the partitions of a
//! stage leap at about the same time. One that may not gives back what it has: it hands its groups on, or writes them to
//! disk. Once it has written some it is left alone, since what it does with them later cannot give way.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};

/// Which consumers have hash tables that grow: those of DataFusion's aggregates. One that cannot give way is not asked to.
const AGGREGATES: &str = "HashAggregate";

/// Those that hand their groups on when they may not grow.
const PARTIAL: &str = "PartialHashAggregate";

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
    /// Consumers that were refused and have not asked again or given back since.
    giving_way: HashSet<usize>,
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

    /// The consumer gives way: what it asks for meanwhile, it needs for that.
    pub(super) fn refused(&mut self, reservation: &MemoryReservation) {
        let consumer = reservation.consumer();
        if is_asked(consumer) {
            self.giving_way.insert(consumer.id());
        }
        let has_leapt = self.leapt.remove(&consumer.id()).is_some();
        if has_leapt && !consumer.name().contains(PARTIAL) {
            self.left_alone.insert(consumer.id());
        }
    }

    /// Whether the consumer gives way at the moment, which it does once: the table that it has emptied may still take more
    /// than was charged for it, and DataFusion 55.2 fails where that is refused.
    pub(super) fn gives_way(&mut self, reservation: &MemoryReservation) -> bool {
        self.giving_way.remove(&reservation.consumer().id())
    }

    /// The consumer is gone.
    pub(super) fn ended(&mut self, consumer: &MemoryConsumer) {
        self.leapt.remove(&consumer.id());
        self.left_alone.remove(&consumer.id());
        self.giving_way.remove(&consumer.id());
    }

    /// The consumer has given some back: a table that was emptied begins small.
    pub(super) fn shrunk(&mut self, reservation: &MemoryReservation) {
        let id = reservation.consumer().id();
        self.giving_way.remove(&id);
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
    consumer.can_spill() && consumer.name().contains(AGGREGATES)
}
