//! Charges of the shuffle to the process's memory pool.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};

/// Stored batches take at most one part in this many of a limited pool: a join cannot spill to disk, the shuffle can.
const POOL_SHARE: usize = 2;

/// Charges bytes to the pool, for batches that are stored in memory.
#[derive(Debug)]
pub(crate) struct MemoryStore {
    consumer: MemoryReservation,
    held: Arc<AtomicUsize>,
    limit: usize,
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
            held: Arc::default(),
            limit,
        }
    }

    /// Bytes charged now.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Takes `bytes` from the pool, unless that would exceed the pool or the shuffle's share of it.
    pub(crate) fn try_charge(&self, bytes: usize) -> Option<Charge> {
        let held = self.held.fetch_add(bytes, Ordering::Relaxed);
        let charge = Charge {
            reservation: self.consumer.new_empty(),
            held: Arc::clone(&self.held),
        };
        if held.saturating_add(bytes) > self.limit || charge.reservation.try_grow(bytes).is_err() {
            self.held.fetch_sub(bytes, Ordering::Relaxed);
            return None;
        }
        Some(charge)
    }

    /// Takes `bytes` from the pool, even beyond its limit: for what must be in memory now and is about to be consumed.
    pub(crate) fn charge(&self, bytes: usize) -> Charge {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        let reservation = self.consumer.new_empty();
        reservation.grow(bytes);
        Charge {
            reservation,
            held: Arc::clone(&self.held),
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
