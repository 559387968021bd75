//! A guard that counts towards a shared sum.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Adds its count to a sum, and subtracts it again when dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    sum: Arc<AtomicU64>,
    count: u64,
}

impl Counted {
    pub(crate) fn new(sum: &Arc<AtomicU64>, count: u64) -> Self {
        sum.fetch_add(count, Ordering::Relaxed);
        Self {
            sum: Arc::clone(sum),
            count,
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.sum.fetch_sub(self.count, Ordering::Relaxed);
    }
}
