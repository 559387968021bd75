//! The workers as the scheduler knows them: their pools, and which queries depend on each.
//!
//! A query *touches* a worker from the first thing it is told to the query's end, and *depends* on it while an attempt of
//! it runs there or output of it is needed from there.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use squadron_proto::{AttemptKey, QueryId, WorkerId, WorkerKind};

use crate::graph::Placement;
use crate::info::{Stopping, WorkerLoad};
use crate::workers::placement::{SlotPool, Want};

#[derive(Debug, Default)]
pub(crate) struct WorkerPool {
    workers: HashMap<WorkerId, Worker>,
    any: SlotPool,
    local: SlotPool,
    /// Queries that workers were told of and then lost without being told of their end; the oldest loss first.
    untold: VecDeque<(WorkerId, Vec<QueryId>)>,
    /// How many attempts of ended queries have still to stop, on all workers together.
    stopping: HashMap<QueryId, usize>,
}

#[derive(Debug)]
struct Worker {
    kind: WorkerKind,
    address: String,
    slots: u32,
    draining: bool,
    /// The queries that touch it, with how many attempts and outputs each depends on.
    queries: BTreeMap<QueryId, u32>,
    /// Attempts of ended queries that it was told to stop and has not said to have stopped.
    stopping: BTreeSet<AttemptKey>,
}

/// What was lost with a worker.
#[derive(Debug)]
pub(crate) struct Loss {
    /// How to name the worker to a client.
    pub(crate) name: String,
    /// The queries that touched it, and whether they depended on it.
    pub(crate) queries: Vec<(QueryId, bool)>,
    /// The ended queries of which nothing runs any more.
    pub(crate) released: Vec<QueryId>,
}

fn placement_of(kind: WorkerKind) -> Placement {
    match kind {
        WorkerKind::Embedded | WorkerKind::Remote => Placement::Any,
        WorkerKind::Local => Placement::Local,
    }
}

impl WorkerPool {
    /// Answers which queries the worker still has to be told the end of.
    pub(crate) fn join(
        &mut self,
        worker: WorkerId,
        slots: u32,
        address: String,
        memory_bytes: u64,
        kind: WorkerKind,
    ) -> Vec<QueryId> {
        let slots = slots.max(1);
        let entry = Worker {
            kind,
            address,
            slots,
            draining: false,
            queries: BTreeMap::new(),
            stopping: BTreeSet::new(),
        };
        self.workers.insert(worker, entry);
        self.slots_mut(placement_of(kind)).join(worker, slots, memory_bytes);
        let known = self.untold.iter().position(|(lost, _)| *lost == worker);
        known
            .and_then(|position| self.untold.remove(position))
            .map(|(_, queries)| queries)
            .unwrap_or_default()
    }

    /// `remembered`: how many lost workers to keep in mind.
    pub(crate) fn lose(&mut self, worker: WorkerId, remembered: usize) -> Option<Loss> {
        let entry = self.workers.remove(&worker)?;
        self.slots_mut(placement_of(entry.kind)).leave(worker);
        if !entry.queries.is_empty() {
            self.untold.push_back((worker, entry.queries.keys().copied().collect()));
            if self.untold.len() > remembered {
                self.untold.pop_front();
            }
        }
        let name = match entry.kind {
            WorkerKind::Remote => format!("worker {}", entry.address),
            WorkerKind::Embedded => "an embedded worker of the server".to_owned(),
            WorkerKind::Local => "the server's local worker".to_owned(),
        };
        let queries = entry
            .queries
            .into_iter()
            .map(|(query, needs)| (query, needs > 0))
            .collect();
        let stopping = entry.stopping.into_iter();
        let released = stopping.filter_map(|attempt| self.one_stopped(attempt.query));
        Some(Loss {
            name,
            released: released.collect(),
            queries,
        })
    }

    pub(crate) fn drain(&mut self, worker: WorkerId) {
        if let Some(entry) = self.workers.get_mut(&worker) {
            entry.draining = true;
            let placement = placement_of(entry.kind);
            self.slots_mut(placement).withdraw(worker);
        }
    }

    pub(crate) fn contains(&self, worker: WorkerId) -> bool {
        self.workers.contains_key(&worker)
    }

    pub(crate) fn address(&self, worker: WorkerId) -> String {
        self.workers
            .get(&worker)
            .map(|entry| entry.address.clone())
            .unwrap_or_default()
    }

    pub(crate) fn slots(&self, placement: Placement) -> &SlotPool {
        match placement {
            Placement::Any => &self.any,
            Placement::Local => &self.local,
        }
    }

    pub(crate) fn slots_mut(&mut self, placement: Placement) -> &mut SlotPool {
        match placement {
            Placement::Any => &mut self.any,
            Placement::Local => &mut self.local,
        }
    }

    /// An attempt gives back its share of the worker.
    pub(crate) fn give(&mut self, worker: WorkerId, share: Want) {
        if let Some(entry) = self.workers.get(&worker) {
            self.slots_mut(placement_of(entry.kind)).give(worker, share);
        }
    }

    /// A parked attempt takes its share again.
    pub(crate) fn take(&mut self, worker: WorkerId, share: Want) {
        if let Some(entry) = self.workers.get(&worker) {
            self.slots_mut(placement_of(entry.kind)).take(worker, share);
        }
    }

    /// The query depends on one thing more of the worker.
    pub(crate) fn depend(&mut self, worker: WorkerId, query: QueryId) {
        if let Some(entry) = self.workers.get_mut(&worker) {
            *entry.queries.entry(query).or_default() += 1;
        }
    }

    /// The query depends on `count` things less of the worker.
    pub(crate) fn undepend(&mut self, worker: WorkerId, query: QueryId, count: u32) {
        if let Some(needs) = self
            .workers
            .get_mut(&worker)
            .and_then(|entry| entry.queries.get_mut(&query))
        {
            debug_assert!(*needs >= count, "query {query} depends less than nothing on {worker}");
            *needs = needs.saturating_sub(count);
        }
    }

    /// The worker is told of the query's end.
    pub(crate) fn forget(&mut self, worker: WorkerId, query: QueryId) {
        if let Some(entry) = self.workers.get_mut(&worker) {
            entry.queries.remove(&query);
        }
    }

    /// The worker is told to stop an attempt whose query has ended.
    pub(crate) fn stop(&mut self, worker: WorkerId, attempt: AttemptKey) {
        if let Some(entry) = self.workers.get_mut(&worker)
            && entry.stopping.insert(attempt)
        {
            *self.stopping.entry(attempt.query).or_default() += 1;
        }
    }

    /// The worker says that an attempt has ended. Answers its query if nothing of that runs any more.
    pub(crate) fn stopped(&mut self, worker: WorkerId, attempt: AttemptKey) -> Option<QueryId> {
        let entry = self.workers.get_mut(&worker)?;
        let was_stopping = entry.stopping.remove(&attempt);
        was_stopping.then(|| self.one_stopped(attempt.query))?
    }

    fn one_stopped(&mut self, query: QueryId) -> Option<QueryId> {
        let left = self.stopping.get_mut(&query)?;
        *left -= 1;
        let is_last = *left == 0;
        if is_last {
            self.stopping.remove(&query);
        }
        is_last.then_some(query)
    }

    /// Whether attempts of an ended query have still to stop.
    pub(crate) fn has_to_stop(&self, query: QueryId) -> bool {
        self.stopping.contains_key(&query)
    }

    /// In the order of the attempts.
    pub(crate) fn stopping(&self) -> Vec<Stopping> {
        let workers = self.workers.iter();
        let mut stopping: Vec<_> = workers
            .flat_map(|(&worker, entry)| {
                let attempts = entry.stopping.iter();
                attempts.map(move |&attempt| Stopping { attempt, worker })
            })
            .collect();
        stopping.sort_by_key(|stopping| stopping.attempt);
        stopping
    }

    pub(crate) fn loads(&self) -> Vec<WorkerLoad> {
        let mut loads: Vec<_> = self
            .workers
            .iter()
            .map(|(&id, entry)| {
                let (used_slots, running) = self.slots(placement_of(entry.kind)).load(id);
                WorkerLoad {
                    id,
                    kind: entry.kind,
                    address: entry.address.clone(),
                    slots: entry.slots,
                    used_slots,
                    running,
                    stopping: entry.stopping.len(),
                    draining: entry.draining,
                }
            })
            .collect();
        loads.sort_by_key(|load| load.id);
        loads
    }
}
