//! Partial aggregates whose table fits the cache.
//!
//! A partial aggregate only saves rows for the exchange above it. Once its table is larger than the cache, each row costs two
//! to three times as much to find its group. Where equal keys come close together, as those of files that are written in an
//! order do, an old group gets few more rows: so a table that has reached [`BYTES`] is handed on and begun anew, as DuckDB does
//! (Kuiper, Boncz and Mühleisen, "Robust External Hash Aggregation in the Solid State Age", 2024).
//!
//! Where the first table shows that there were few rows for each group, equal keys may be far apart, and one table of all
//! groups would hand on fewer rows; it may then grow.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// How large a table becomes: about half of the last-level cache of a server's core complex.
pub(super) const BYTES: usize = 16 * 1024 * 1024;

/// How many rows of input stand for one that is handed on, at least.
const REDUCTION: usize = 3;

/// The rows of one partition of a partial aggregate.
#[derive(Debug, Default)]
pub(super) struct Cap {
    read: AtomicUsize,
    handed_on: AtomicUsize,
    is_lifted: AtomicBool,
}

impl Cap {
    pub(super) fn reads(&self, rows: usize) {
        self.read.fetch_add(rows, Ordering::Relaxed);
    }

    pub(super) fn hands_on(&self, rows: usize) {
        self.handed_on.fetch_add(rows, Ordering::Relaxed);
    }

    /// Whether a table of so many bytes is to be handed on.
    pub(super) fn refuses(&self, bytes: usize) -> bool {
        if bytes <= BYTES || self.is_lifted.load(Ordering::Relaxed) {
            return false;
        }
        let handed_on = self.handed_on.load(Ordering::Relaxed);
        let was_worth_it = handed_on.saturating_mul(REDUCTION) <= self.read.load(Ordering::Relaxed);
        self.is_lifted.store(!was_worth_it, Ordering::Relaxed);
        was_worth_it
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_handed_on_while_that_saves_rows() {
        let cap = Cap::default();
        cap.reads(900);
        assert!(!cap.refuses(BYTES));
        assert!(cap.refuses(BYTES + 1));
        cap.hands_on(300);
        assert!(cap.refuses(BYTES + 1));
        cap.hands_on(1);
        assert!(!cap.refuses(BYTES + 1), "three rows for each group are the least");
        cap.reads(9_000);
        assert!(!cap.refuses(BYTES + 1), "it stays as it was decided");
    }
}
