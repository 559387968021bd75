//! Future occurrences in the order of their times; of equal times the one that was added first comes first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// A queue of entries by time. The heap holds positions alone, so that it stays small however large entries are.
#[derive(Debug)]
pub(super) struct Agenda<T> {
    /// The time, how many entries were added before, and the position in `entries`.
    order: BinaryHeap<Reverse<(Duration, u64, usize)>>,
    entries: Vec<Option<T>>,
    /// Positions in `entries` that are free.
    vacant: Vec<usize>,
    added: u64,
}

impl<T> Default for Agenda<T> {
    fn default() -> Self {
        Self {
            order: BinaryHeap::new(),
            entries: Vec::new(),
            vacant: Vec::new(),
            added: 0,
        }
    }
}

impl<T> Agenda<T> {
    pub(super) fn add(&mut self, at: Duration, entry: T) {
        let place = self.vacant.pop().unwrap_or_else(|| {
            self.entries.push(None);
            self.entries.len() - 1
        });
        self.entries[place] = Some(entry);
        self.order.push(Reverse((at, self.added, place)));
        self.added += 1;
    }

    pub(super) fn next_time(&self) -> Option<Duration> {
        self.order.peek().map(|Reverse((at, ..))| *at)
    }

    pub(super) fn pop(&mut self) -> Option<(Duration, T)> {
        let Reverse((at, _, place)) = self.order.pop()?;
        self.vacant.push(place);
        self.entries[place].take().map(|entry| (at, entry))
    }
}
