//! The workers as the scheduler knows them: their pools, and which queries depend on each.
//!
//! A query *touches* a worker from the first thing it is told to the query's end, and *depends* on it while an attempt of
//! it runs there or output of it is needed from there.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use squadron_proto::{AttemptKey, QueryId, WorkerId};

use super::graph::Placement;
use super::placement::{Pool, Want};
use super::snapshot::Stopping;
use crate::workers::WorkerKind;

/// A worker and its load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerLoad {
    /// Its id.
    pub id: WorkerId,
    /// What kind it is.
    pub kind: WorkerKind,
    /// `http://host:port` of its output; empty: the server itself.
    pub address: String,
    /// How many slots it offers.
    pub slots: u32,
    /// How many of them are taken; may be more, when parked attempts resumed.
    pub used_slots: u32,
    /// How many attempts it has that are not parked.
    pub running: u32,
    /// Attempts of ended queries that it was told to stop and has not said to have stopped.
    pub stopping: usize,
    /// Whether it is on its way out.
    pub draining: bool,
}

/// What the workers offer together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// How many workers there are.
    pub workers: usize,
    /// How many slots they have.
    pub slots: u64,
    /// Their memory pools, in bytes.
    pub memory_bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Members {
    workers: HashMap<WorkerId, Worker>,
    any: Pool,
    local: Pool,
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
pub(super) struct Loss {
    /// How to name the worker to a client.
    pub(super) name: String,
    /// The queries that touched it, and whether they depended on it.
    pub(super) queries: Vec<(QueryId, bool)>,
    /// The ended queries of which nothing runs any more.
    pub(super) freed: Vec<QueryId>,
}

fn placement_of(kind: WorkerKind) -> Placement {
    match kind {
        WorkerKind::Embedded | WorkerKind::Remote => Placement::Any,
        WorkerKind::Local => Placement::Local,
    }
}

impl Members {
    /// Answers which queries the worker still has to be told the end of.
    pub(super) fn join(
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
        self.pool_mut(placement_of(kind)).join(worker, slots, memory_bytes);
        let known = self.untold.iter().position(|(lost, _)| *lost == worker);
        known
            .and_then(|position| self.untold.remove(position))
            .map(|(_, queries)| queries)
            .unwrap_or_default()
    }

    /// `remembered`: how many lost workers to keep in mind.
    pub(super) fn lose(&mut self, worker: WorkerId, remembered: usize) -> Option<Loss> {
        let entry = self.workers.remove(&worker)?;
        self.pool_mut(placement_of(entry.kind)).leave(worker);
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
        let freed = stopping.filter_map(|attempt| self.one_stopped(attempt.query));
        Some(Loss {
            name,
            freed: freed.collect(),
            queries,
        })
    }

    pub(super) fn drain(&mut self, worker: WorkerId) {
        if let Some(entry) = self.workers.get_mut(&worker) {
            entry.draining = true;
            let placement = placement_of(entry.kind);
            self.pool_mut(placement).withdraw(worker);
        }
    }

    pub(super) fn contains(&self, worker: WorkerId) -> bool {
        self.workers.contains_key(&worker)
    }

    pub(super) fn address(&self, worker: WorkerId) -> String {
        self.workers
            .get(&worker)
            .map(|entry| entry.address.clone())
            .unwrap_or_default()
    }

    pub(super) fn pool(&self, placement: Placement) -> &Pool {
        match placement {
            Placement::Any => &self.any,
            Placement::Local => &self.local,
        }
    }

    pub(super) fn pool_mut(&mut self, placement: Placement) -> &mut Pool {
        match placement {
            Placement::Any => &mut self.any,
            Placement::Local => &mut self.local,
        }
    }

    /// An attempt gives back its share of the worker.
    pub(super) fn give(&mut self, worker: WorkerId, share: Want) {
        if let Some(entry) = self.workers.get(&worker) {
            self.pool_mut(placement_of(entry.kind)).give(worker, share);
        }
    }

    /// A parked attempt takes its share again.
    pub(super) fn take(&mut self, worker: WorkerId, share: Want) {
        if let Some(entry) = self.workers.get(&worker) {
            self.pool_mut(placement_of(entry.kind)).take(worker, share);
        }
    }

    /// The query depends on one thing more of the worker.
    pub(super) fn depend(&mut self, worker: WorkerId, query: QueryId) {
        if let Some(entry) = self.workers.get_mut(&worker) {
            *entry.queries.entry(query).or_default() += 1;
        }
    }

    /// The query depends on `count` things less of the worker.
    pub(super) fn undepend(&mut self, worker: WorkerId, query: QueryId, count: u32) {
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
    pub(super) fn forget(&mut self, worker: WorkerId, query: QueryId) {
        if let Some(entry) = self.workers.get_mut(&worker) {
            entry.queries.remove(&query);
        }
    }

    /// The worker is told to stop an attempt whose query has ended.
    pub(super) fn stop(&mut self, worker: WorkerId, attempt: AttemptKey) {
        if let Some(entry) = self.workers.get_mut(&worker)
            && entry.stopping.insert(attempt)
        {
            *self.stopping.entry(attempt.query).or_default() += 1;
        }
    }

    /// The worker says that an attempt has ended. Answers its query if nothing of that runs any more.
    pub(super) fn stopped(&mut self, worker: WorkerId, attempt: AttemptKey) -> Option<QueryId> {
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
    pub(super) fn has_to_stop(&self, query: QueryId) -> bool {
        self.stopping.contains_key(&query)
    }

    /// In the order of the attempts.
    pub(super) fn stopping(&self) -> Vec<Stopping> {
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

    pub(super) fn loads(&self) -> Vec<WorkerLoad> {
        let mut loads: Vec<_> = self
            .workers
            .iter()
            .map(|(&id, entry)| {
                let (used_slots, running) = self.pool(placement_of(entry.kind)).load(id);
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
