//! Which workers are avoided for a while: their attempts fail, or others cannot reach them.
//!
//! | seen within [`WINDOW`] | avoided for [`AVOIDED_FOR`] |
//! |---|---|
//! | attempts of [`MOST_FAILURES`] queries failed there, for reasons that are not the statements' | the worker |
//! | a worker could not read from another one | the reader, for tasks with input there |
//! | [`MOST_CUTS`] workers, or one and the server, could not read from it, or it not from so many | the worker |
//!
//! A cut between two workers is not a dead worker: both go on, but not with each other. Avoided workers get tasks only
//! where no other accepts any.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use squadron_proto::{QueryId, WorkerId};

/// How long failures count.
const WINDOW: Duration = Duration::from_secs(60);

/// How long a worker is avoided.
const AVOIDED_FOR: Duration = Duration::from_secs(60);

/// Attempts of so many queries may fail on a worker before it is avoided.
const MOST_FAILURES: usize = 3;

/// A worker may be cut off from so many others before it is avoided.
const MOST_CUTS: usize = 2;

#[derive(Debug, Default)]
pub(crate) struct Health {
    workers: BTreeMap<WorkerId, Record>,
    /// Readers, the workers that they could not read from, and when that was last.
    cuts: BTreeMap<(WorkerId, WorkerId), Duration>,
}

#[derive(Debug, Default)]
struct Record {
    /// The queries with failed attempts, each with the time of the last; the oldest first.
    recent: VecDeque<(Duration, QueryId)>,
    failures: u64,
    avoided_until: Option<Duration>,
}

impl Health {
    /// An attempt of a query failed on a worker. Returns whether the worker is avoided because of that.
    pub(crate) fn record_failure(&mut self, now: Duration, worker: WorkerId, query: QueryId) -> bool {
        let record = self.workers.entry(worker).or_default();
        record.failures += 1;
        record.recent.retain(|&(at, of)| of != query && at + WINDOW > now);
        record.recent.push_back((now, query));
        record.recent.len() >= MOST_FAILURES && self.avoid(now, worker)
    }

    /// A worker could not read from another one. Returns which of the two is avoided because of that.
    pub(crate) fn record_cut(&mut self, now: Duration, reader: WorkerId, holder: WorkerId) -> Option<WorkerId> {
        self.cuts.retain(|_, at| *at + WINDOW > now);
        self.cuts.insert((reader, holder), now);
        let others = |is: &dyn Fn(&(WorkerId, WorkerId)) -> bool| self.cuts.keys().filter(|cut| is(cut)).count();
        let [of_holder, of_reader] = [others(&|cut| cut.1 == holder), others(&|cut| cut.0 == reader)];
        let bad = match (of_holder >= MOST_CUTS, of_reader >= MOST_CUTS) {
            (true, _) => holder,
            (false, true) => reader,
            (false, false) => return None,
        };
        self.avoid(now, bad).then_some(bad)
    }

    /// Returns whether it was not avoided before.
    fn avoid(&mut self, now: Duration, worker: WorkerId) -> bool {
        let was_avoided = self.is_avoided(now, worker);
        let record = self.workers.entry(worker).or_default();
        record.avoided_until = Some(now + AVOIDED_FOR);
        !was_avoided
    }

    pub(crate) fn is_avoided(&self, now: Duration, worker: WorkerId) -> bool {
        let until = self.workers.get(&worker).and_then(|record| record.avoided_until);
        until.is_some_and(|until| until > now)
    }

    /// How many attempts failed on a worker.
    pub(crate) fn failures(&self, worker: WorkerId) -> u64 {
        self.workers.get(&worker).map_or(0, |record| record.failures)
    }

    /// The workers that are avoided.
    pub(crate) fn avoided(&self, now: Duration) -> BTreeSet<WorkerId> {
        let workers = self.workers.keys().copied();
        workers.filter(|&worker| self.is_avoided(now, worker)).collect()
    }

    /// The workers that cannot read from one of `holders`.
    pub(crate) fn cut_off(&self, now: Duration, holders: &[WorkerId]) -> BTreeSet<WorkerId> {
        let cuts = self.cuts.iter().filter(|(_, at)| **at + WINDOW > now);
        let readers = cuts.filter(|((_, holder), _)| holders.contains(holder));
        readers.map(|((reader, _), _)| *reader).collect()
    }

    /// The worker is gone.
    pub(crate) fn forget(&mut self, worker: WorkerId) {
        self.workers.remove(&worker);
        self.cuts
            .retain(|(reader, holder), _| *reader != worker && *holder != worker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: WorkerId = WorkerId::from_u128(1);
    const B: WorkerId = WorkerId::from_u128(2);
    const C: WorkerId = WorkerId::from_u128(3);
    const START: Duration = Duration::from_secs(5);

    #[test]
    fn worker_is_avoided_when_several_queries_fail_there() {
        let mut health = Health::default();
        let failed = [1, 1, 1, 2, 3, 4].map(|query| health.record_failure(START, A, QueryId::from_u128(query)));
        assert_eq!(
            failed,
            [false, false, false, false, true, false],
            "one query may be to blame itself"
        );
        assert_eq!(health.failures(A), 6);
        assert_eq!(health.avoided(START), BTreeSet::from([A]));
        assert!(health.avoided(START + AVOIDED_FOR).is_empty());
    }

    #[test]
    fn old_failures_do_not_count() {
        let mut health = Health::default();
        for query in 1..9_u32 {
            let at = START + WINDOW / 2 * query;
            assert!(!health.record_failure(at, A, QueryId::from_u128(u128::from(query))));
        }
    }

    #[test]
    fn cut_keeps_two_workers_apart_and_no_others() {
        let mut health = Health::default();
        assert_eq!(health.record_cut(START, A, B), None);
        assert_eq!(health.record_cut(START, A, B), None, "the same one");
        assert_eq!(health.cut_off(START, &[B, C]), BTreeSet::from([A]));
        assert!(health.avoided(START).is_empty() && health.cut_off(START, &[C]).is_empty());
        assert!(health.cut_off(START + WINDOW, &[B]).is_empty());
        health.forget(B);
        assert!(health.cut_off(START, &[B]).is_empty());
    }

    #[test]
    fn worker_that_two_others_cannot_reach_is_avoided() {
        let mut health = Health::default();
        assert_eq!(health.record_cut(START, A, B), None);
        assert_eq!(health.record_cut(START, C, B), Some(B));
        assert!(health.avoided(START).contains(&B));
        let mut health = Health::default();
        assert_eq!(health.record_cut(START, A, B), None);
        assert_eq!(
            health.record_cut(START, A, C),
            Some(A),
            "it is the reader that is cut off"
        );
    }
}
