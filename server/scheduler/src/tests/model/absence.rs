//! Broken connections of fake workers.

use std::collections::BTreeSet;

use squadron_proto::WorkerId;
use squadron_proto::control::AttemptStatus;

use super::{AttemptState, Model};
use crate::testing::some_output;
use crate::*;

impl Model {
    /// Breaks the connection of a worker; the scheduler does not know yet.
    pub(crate) fn cut(&mut self, worker: WorkerId) {
        if let Some(entry) = self.workers.get_mut(&worker) {
            entry.away = true;
        }
    }

    /// The scheduler hears that a connection is broken.
    pub(crate) fn suspect(&mut self, worker: WorkerId) {
        self.cut(worker);
        if self.workers.contains_key(&worker) {
            self.send(Event::WorkerSuspected {
                worker,
                reason: "it was silent".into(),
            });
        }
    }

    /// A worker that was away connects again and reports all that it has: first what it has not reported.
    /// `forgets`: it was away for so long that it has dropped all of it.
    pub(crate) fn return_worker(&mut self, worker: WorkerId, forgets: bool) {
        let entry = self.workers.get_mut(&worker).unwrap();
        if !entry.away {
            return;
        }
        entry.away = false;
        if forgets {
            entry.attempts.clear();
            entry.outputs.clear();
            entry.outbox.clear();
        }
        let reported: BTreeSet<_> = entry.outbox.iter().map(|(attempt, _)| *attempt).collect();
        let active = entry.attempts.iter().map(|(attempt, (_, state))| {
            let status = match state {
                AttemptState::Launched | AttemptState::Reserved | AttemptState::Committed => AttemptStatus::Reserved,
                AttemptState::Running => AttemptStatus::Running,
                AttemptState::Parked => AttemptStatus::Parked,
            };
            (*attempt, status)
        });
        let done = entry
            .outputs
            .iter()
            .map(|attempt| (*attempt, AttemptStatus::Finished(some_output())));
        let unreported = active.chain(done).filter(|(attempt, _)| !reported.contains(attempt));
        let unreported: Vec<_> = unreported.collect();
        for (_, state) in entry.attempts.values_mut() {
            if *state == AttemptState::Launched {
                *state = AttemptState::Reserved;
            }
        }
        entry.outbox.extend(unreported);
        let held: BTreeSet<_> = entry.outbox.iter().map(|(attempt, _)| *attempt).collect();
        // Stages are sent again.
        entry.stages.clear();
        while !self.workers[&worker].outbox.is_empty() {
            self.deliver(worker);
        }
        let mut missing: Vec<_> = self
            .held
            .keys()
            .filter(|(holder, _)| *holder == worker)
            .copied()
            .collect();
        missing.retain(|(_, attempt)| !held.contains(attempt));
        self.held.retain(|key, _| !missing.contains(key));
        self.stale.extend(missing.into_iter().map(|(_, attempt)| attempt));
        self.is_returning = true;
        self.send(Event::WorkerReturned { worker, held });
        self.is_returning = false;
        let entry = &self.workers[&worker];
        let left = entry.attempts.keys().chain(&entry.outputs);
        let ended: Vec<_> = left.filter(|attempt| self.ended.contains_key(&attempt.query)).collect();
        assert!(
            ended.is_empty(),
            "{ended:?} of ended queries are left on a worker that returned"
        );
        let mut outputs = entry.outputs.iter();
        let unread = outputs.find(|output| self.stale.contains(output));
        assert_eq!(
            unread, None,
            "output that nobody reads is left on a worker that returned"
        );
    }

    /// The workers whose connection is broken.
    pub(crate) fn away(&self) -> Vec<WorkerId> {
        let away = self.workers.iter().filter(|(_, entry)| entry.away);
        away.map(|(&worker, _)| worker).collect()
    }
}
