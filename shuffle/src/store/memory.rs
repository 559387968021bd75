//! Charges of the shuffle to the process's memory pool.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};

use super::spare::Spares;

/// Stored batches take at most one part in this many of a limited pool.
const POOL_SHARE: usize = 2;

/// Charges bytes to the pool, for batches that are stored in memory.
#[derive(Debug)]
pub(crate) struct MemoryStore {
    consumer: MemoryReservation,
    /// Bytes of rows that are on their way, and stay in memory.
    passing: Arc<AtomicUsize>,
    /// Bytes of rows that are kept, which can go to disk.
    kept: Arc<AtomicUsize>,
    limit: usize,
    /// Gives way to everything else.
    spares: Arc<Spares>,
}

/// Bytes taken from the pool until this is dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    reservation: MemoryReservation,
    held: Arc<AtomicUsize>,
}

impl MemoryStore {
    pub(crate) fn new(pool: &Arc<dyn MemoryPool>) -> Self {
        let limit = match pool.memory_limit() {
            MemoryLimit::Finite(bytes) => bytes / POOL_SHARE,
            MemoryLimit::Infinite | MemoryLimit::Unknown => usize::MAX,
        };
        Self {
            consumer: MemoryConsumer::new("shuffle").register(pool),
            passing: Arc::default(),
            kept: Arc::default(),
            limit,
            spares: Arc::default(),
        }
    }

    /// What gives way when memory is asked for.
    pub(crate) fn spares(&self) -> &Arc<Spares> {
        &self.spares
    }

    /// Bytes charged now.
    pub(crate) fn held_bytes(&self) -> usize {
        self.passing.load(Ordering::Relaxed).saturating_add(self.kept_bytes())
    }

    /// Bytes charged for rows that can go to disk.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.kept.load(Ordering::Relaxed)
    }

    /// Takes `bytes` from the pool for rows on their way, unless that would exceed the pool or the shuffle's share of
    /// it.
    pub(crate) fn try_charge(&self, bytes: usize) -> Option<Charge> {
        self.try_charge_to(&self.passing, bytes)
    }

    /// Takes `bytes` from the pool for rows that are kept, within the same limits.
    pub(crate) fn try_charge_kept(&self, bytes: usize) -> Option<Charge> {
        self.try_charge_to(&self.kept, bytes)
    }

    fn try_charge_to(&self, held: &Arc<AtomicUsize>, bytes: usize) -> Option<Charge> {
        loop {
            let charge = self.charge_within_limits(held, bytes);
            if charge.is_some() || !self.spares.give_way() {
                return charge;
            }
        }
    }

    fn charge_within_limits(&self, held: &Arc<AtomicUsize>, bytes: usize) -> Option<Charge> {
        if self.held_bytes().saturating_add(bytes) > self.limit {
            return None;
        }
        let reservation = self.consumer.new_empty();
        reservation.try_grow(bytes).ok()?;
        held.fetch_add(bytes, Ordering::Relaxed);
        Some(Charge {
            reservation,
            held: Arc::clone(held),
        })
    }

    /// Takes `bytes` from the pool, even beyond its limit: for what must be in memory now and is about to be consumed.
    pub(crate) fn charge(&self, bytes: usize) -> Charge {
        self.charge_to(&self.passing, bytes)
    }

    /// The same for rows that can go to disk.
    pub(crate) fn charge_kept(&self, bytes: usize) -> Charge {
        self.charge_to(&self.kept, bytes)
    }

    fn charge_to(&self, held: &Arc<AtomicUsize>, bytes: usize) -> Charge {
        held.fetch_add(bytes, Ordering::Relaxed);
        let reservation = self.consumer.new_empty();
        reservation.grow(bytes);
        Charge {
            reservation,
            held: Arc::clone(held),
        }
    }

    /// An empty reservation that its owner grows and shrinks.
    pub(crate) fn reservation(&self) -> MemoryReservation {
        self.consumer.new_empty()
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        // The reservation itself returns its bytes to the pool.
        self.held.fetch_sub(self.reservation.size(), Ordering::Relaxed);
    }
}
