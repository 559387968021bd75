//! Limits the sorts of a query, so that each has memory to start with and to merge what it holds.
//!
//! A sort takes what it can get and goes to disk when it is refused. The first of several would leave the others nothing to
//! begin with, and one that has nothing has nothing to write to disk: it fails. Nor would it leave anything for itself: to go
//! to disk it merges what it holds, for which it needs as much again, keys of the rows and copies. So sorts stop at half of
//! an equal part each. Hash tables and build sides need no such care, since they can go to disk at any time.

use std::collections::HashMap;

use datafusion::execution::memory_pool::MemoryConsumer;
use squadron_proto::QueryId;

use super::consumers;

/// A sort stops at one part in so many of what it may have.
const MERGED_SHARE: usize = 2;

/// How urgent a consumer's request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// It would end its query if it were refused a little: it cannot go to disk, or has nothing yet that could.
    Needy,
    /// It can go to disk.
    Fair,
    /// It is a sort that has half of what it may have, and will need the other half.
    Patient,
}

impl Claim {
    /// That of a consumer that is no sort, which does not depend on what others hold; none for a sort.
    pub(super) fn unless_sort(consumer: &MemoryConsumer) -> Option<Self> {
        match consumer.can_spill() {
            false => Some(Self::Needy),
            true => (!consumers::is_sort(consumer)).then_some(Self::Fair),
        }
    }
}

/// What the sorts of each query hold, in bytes; those that hold nothing are not there.
#[derive(Debug, Default)]
pub(super) struct Sorts {
    held: HashMap<QueryId, HashMap<usize, usize>>,
}

impl Sorts {
    /// The claim of a sort that asks for `bytes`, of whose query all consumers may have `share` together.
    pub(super) fn claim(&self, query: QueryId, consumer: &MemoryConsumer, bytes: usize, share: usize) -> Claim {
        let held = self.held.get(&query);
        let own = held
            .and_then(|held| held.get(&consumer.id()))
            .copied()
            .unwrap_or_default();
        let others = held.map_or(0, HashMap::len) - usize::from(own > 0);
        let equal = share / (others + 1);
        match own {
            0 => Claim::Needy,
            _ if own.saturating_add(bytes) > equal / MERGED_SHARE => Claim::Patient,
            _ => Claim::Fair,
        }
    }

    /// The sort holds `bytes` more.
    pub(super) fn grown(&mut self, query: QueryId, consumer: &MemoryConsumer, bytes: usize) {
        if bytes > 0 {
            *self.held.entry(query).or_default().entry(consumer.id()).or_default() += bytes;
        }
    }

    /// The sort holds `bytes` less.
    pub(super) fn shrunk(&mut self, query: QueryId, consumer: &MemoryConsumer, bytes: usize) {
        let Some(held) = self.held.get_mut(&query) else {
            return;
        };
        if let Some(own) = held.get_mut(&consumer.id()) {
            *own = own.saturating_sub(bytes);
            if *own == 0 {
                held.remove(&consumer.id());
            }
        }
        if held.is_empty() {
            self.held.remove(&query);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: QueryId = QueryId::from_u128(1);

    fn consumer(name: &str) -> MemoryConsumer {
        MemoryConsumer::new(name).with_can_spill(true)
    }

    fn claim(sorts: &Sorts, consumer: &MemoryConsumer, bytes: usize) -> Claim {
        sorts.claim(QUERY, consumer, bytes, 100)
    }

    #[test]
    fn sorts_leave_room_for_their_merges_and_for_each_other() {
        let (first, second) = (consumer("ExternalSorter[0]"), consumer("ExternalSorter[1]"));
        let mut sorts = Sorts::default();
        assert_eq!(claim(&sorts, &first, 500), Claim::Needy, "it has nothing yet");
        sorts.grown(QUERY, &first, 20);
        assert_eq!(claim(&sorts, &first, 30), Claim::Fair);
        assert_eq!(claim(&sorts, &first, 31), Claim::Patient);
        assert_eq!(claim(&sorts, &second, 500), Claim::Needy);
        sorts.grown(QUERY, &second, 20);
        assert_eq!(claim(&sorts, &first, 5), Claim::Fair);
        assert_eq!(claim(&sorts, &first, 6), Claim::Patient);
        sorts.shrunk(QUERY, &second, 20);
        assert_eq!(claim(&sorts, &first, 30), Claim::Fair);
        sorts.shrunk(QUERY, &first, 20);
        assert!(sorts.held.is_empty());
    }

    #[test]
    fn others_have_fixed_claims() {
        let top = MemoryConsumer::new("TopK[0]");
        assert_eq!(Claim::unless_sort(&top), Some(Claim::Needy));
        assert_eq!(Claim::unless_sort(&consumer("HashJoinBuild")), Some(Claim::Fair));
        assert_eq!(Claim::unless_sort(&consumer("ExternalSorter[0]")), None);
    }
}
