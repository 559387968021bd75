//! Batches in memory, charged to the process's memory pool.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::RecordBatch;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};
use squadron_proto::Failure;

use super::kept::{BatchStore, Kept, Put};
use crate::{compact, failure};

/// Kept batches take at most one part in this many of a limited pool: a join cannot go to disk, the shuffle can.
const POOL_SHARE: usize = 2;

/// Hands out charges against the pool, and keeps batches under them.
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

    /// Takes `bytes` from the pool, if it has them and the shuffle's share allows.
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

    /// For memory that grows and shrinks with its owner's work.
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

/// `batch`, kept under `charge`.
pub(crate) fn kept(batch: RecordBatch, charge: Charge) -> Kept {
    Kept::Memory {
        batch,
        _charge: Arc::new(charge),
    }
}

impl BatchStore for MemoryStore {
    fn put(&self, batch: RecordBatch) -> Result<Put, Failure> {
        let batch = compact::compact(batch).map_err(|error| failure::arrow(&error))?;
        Ok(match self.try_charge(compact::held_bytes(&batch)) {
            Some(charge) => Put::Kept(kept(batch, charge)),
            None => Put::Full(batch),
        })
    }
}
