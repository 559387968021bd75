//! The pool of all workers: their slots by placement, and which queries touch each worker: from the first message about
//! the query until it ends.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use squadron_proto::{AttemptKey, QueryId, WorkerId, WorkerKind};

use crate::graph::Placement;
use crate::info::{StoppingAttempt, WorkerLoad};
use crate::workers::health::Health;
use crate::workers::placement::{Demand, SlotPool};

#[derive(Debug, Default)]
pub(crate) struct WorkerPool {
    workers: HashMap<WorkerId, Worker>,
    any: SlotPool,
    local: SlotPool,
    pub(crate) health: Health,
    /// The queries that touched each lost worker, which it must release when it comes back; the oldest loss first.
    unsent_releases: VecDeque<(WorkerId, Vec<QueryId>)>,
    /// For each query, how many attempts that were told to stop have not, on all workers.
    stopping: HashMap<QueryId, usize>,
}

#[derive(Debug)]
struct Worker {
    kind: WorkerKind,
    address: String,
    slots: u32,
    draining: bool,
    suspicion: Option<Suspicion>,
    /// The queries that touch it.
    queries: BTreeSet<QueryId>,
    /// Attempts that it was told to stop and has not reported as stopped.
    stopping: BTreeSet<AttemptKey>,
}

/// Nothing is heard of a worker.
#[derive(Clone, Debug)]
pub(crate) struct Suspicion {
    pub(crate) since: Duration,
    /// How that was noticed, as half a sentence.
    pub(crate) reason: String,
}

/// What was lost with a worker.
#[derive(Debug)]
pub(crate) struct Loss {
    /// How a message to a client names the worker.
    pub(crate) name: String,
    /// The queries that touched it.
    pub(crate) queries: BTreeSet<QueryId>,
    /// The queries of which the last attempt that had still to stop was lost with it.
    pub(crate) released: Vec<QueryId>,
}

fn placement_of(kind: WorkerKind) -> Placement {
    match kind {
        WorkerKind::Embedded | WorkerKind::Remote => Placement::Any,
        WorkerKind::Local => Placement::Local,
    }
}

impl Worker {
    /// How a message to a client names it.
    fn name(&self) -> String {
        match self.kind {
            WorkerKind::Remote => format!("worker {}", self.address),
            WorkerKind::Embedded => "an embedded worker of the server".to_owned(),
            WorkerKind::Local => "the server's local worker".to_owned(),
        }
    }
}

impl WorkerPool {
    /// Adds a worker. Returns the queries that it must release, because they touched it when it was lost.
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
            suspicion: None,
            queries: BTreeSet::new(),
            stopping: BTreeSet::new(),
        };
        self.workers.insert(worker, entry);
        self.slots_mut(placement_of(kind)).join(worker, slots, memory_bytes);
        let known = self.unsent_releases.iter().position(|(lost, _)| *lost == worker);
        known
            .and_then(|position| self.unsent_releases.remove(position))
            .map(|(_, queries)| queries)
            .unwrap_or_default()
    }

    /// Removes a worker. `remembered`: how many lost workers are remembered, with the queries that touched them.
    pub(crate) fn lose(&mut self, worker: WorkerId, remembered: usize) -> Option<Loss> {
        let entry = self.workers.remove(&worker)?;
        self.slots_mut(placement_of(entry.kind)).leave(worker);
        self.health.forget(worker);
        if !entry.queries.is_empty() {
            self.unsent_releases
                .push_back((worker, entry.queries.iter().copied().collect()));
            if self.unsent_releases.len() > remembered {
                self.unsent_releases.pop_front();
            }
        }
        let name = entry.name();
        let stopping = entry.stopping.into_iter();
        let released = stopping.filter_map(|attempt| self.count_stop(attempt.query));
        Some(Loss {
            name,
            released: released.collect(),
            queries: entry.queries,
        })
    }

    /// The worker gets no more tasks; its attempts go on.
    pub(crate) fn drain(&mut self, worker: WorkerId) {
        if let Some(entry) = self.workers.get_mut(&worker) {
            entry.draining = true;
            let placement = placement_of(entry.kind);
            self.slots_mut(placement).withdraw(worker);
        }
    }

    /// The worker gets no more tasks until it returns. False when it is not there, or suspected already.
    pub(crate) fn suspect(&mut self, worker: WorkerId, suspicion: Suspicion) -> bool {
        let Some(entry) = self.workers.get_mut(&worker) else {
            return false;
        };
        if entry.suspicion.is_some() {
            return false;
        }
        entry.suspicion = Some(suspicion);
        let placement = placement_of(entry.kind);
        self.slots_mut(placement).withdraw(worker);
        true
    }

    /// The worker is there again, and gets tasks unless it is leaving. False when it was not suspected.
    pub(crate) fn trust(&mut self, worker: WorkerId) -> bool {
        let Some(entry) = self.workers.get_mut(&worker) else {
            return false;
        };
        let was_suspected = entry.suspicion.take().is_some();
        if was_suspected && !entry.draining {
            let placement = placement_of(entry.kind);
            self.slots_mut(placement).readmit(worker);
        }
        was_suspected
    }

    pub(crate) fn suspicion(&self, worker: WorkerId) -> Option<&Suspicion> {
        self.workers.get(&worker)?.suspicion.as_ref()
    }

    /// Whether nothing is heard of some worker of a placement that may return.
    pub(crate) fn has_absent(&self, placement: Placement) -> bool {
        self.absent(placement).next().is_some()
    }

    /// The memory of the workers of a placement of which nothing is heard and that may return.
    pub(crate) fn absent_memory_bytes(&self, placement: Placement) -> u64 {
        let slots = self.slots(placement);
        let absent = self.absent(placement);
        absent
            .map(|worker| slots.memory_of(worker))
            .fold(0, u64::saturating_add)
    }

    fn absent(&self, placement: Placement) -> impl Iterator<Item = WorkerId> + '_ {
        let is_absent =
            move |entry: &Worker| entry.suspicion.is_some() && !entry.draining && placement_of(entry.kind) == placement;
        let absent = self.workers.iter().filter(move |(_, entry)| is_absent(entry));
        absent.map(|(&worker, _)| worker)
    }

    /// The queries that touch a worker.
    pub(crate) fn queries_on(&self, worker: WorkerId) -> Vec<QueryId> {
        let entry = self.workers.get(&worker);
        entry.map_or_else(Vec::new, |entry| entry.queries.iter().copied().collect())
    }

    /// The attempts that a worker has still to stop.
    pub(crate) fn stopping_on(&self, worker: WorkerId) -> Vec<AttemptKey> {
        let entry = self.workers.get(&worker);
        entry.map_or_else(Vec::new, |entry| entry.stopping.iter().copied().collect())
    }

    /// Whether there is a worker of another process.
    pub(crate) fn has_remote(&self) -> bool {
        self.workers.values().any(|entry| entry.kind == WorkerKind::Remote)
    }

    pub(crate) fn contains(&self, worker: WorkerId) -> bool {
        self.workers.contains_key(&worker)
    }

    /// How a message to a client names a worker.
    pub(crate) fn name(&self, worker: WorkerId) -> String {
        self.workers
            .get(&worker)
            .map_or_else(|| format!("worker {worker}"), Worker::name)
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

    /// An attempt gives back what it took of the worker.
    pub(crate) fn release_slots(&mut self, worker: WorkerId, demand: Demand) {
        if let Some(entry) = self.workers.get(&worker) {
            self.slots_mut(placement_of(entry.kind)).release_slots(worker, demand);
        }
    }

    /// A parked attempt takes its slots again.
    pub(crate) fn take_slots(&mut self, worker: WorkerId, demand: Demand) {
        if let Some(entry) = self.workers.get(&worker) {
            self.slots_mut(placement_of(entry.kind)).take_slots(worker, demand);
        }
    }

    /// The query touches the worker.
    pub(crate) fn touch(&mut self, worker: WorkerId, query: QueryId) {
        if let Some(entry) = self.workers.get_mut(&worker) {
            entry.queries.insert(query);
        }
    }

    /// The query no longer touches the worker.
    pub(crate) fn forget_query(&mut self, worker: WorkerId, query: QueryId) {
        if let Some(entry) = self.workers.get_mut(&worker) {
            entry.queries.remove(&query);
        }
    }

    /// The worker is told to stop an attempt.
    pub(crate) fn add_stopping(&mut self, worker: WorkerId, attempt: AttemptKey) {
        if let Some(entry) = self.workers.get_mut(&worker)
            && entry.stopping.insert(attempt)
        {
            *self.stopping.entry(attempt.query).or_default() += 1;
        }
    }

    /// The worker reports that an attempt has ended. Returns the attempt's query if it was its last one to stop.
    pub(crate) fn confirm_stop(&mut self, worker: WorkerId, attempt: AttemptKey) -> Option<QueryId> {
        let entry = self.workers.get_mut(&worker)?;
        let was_stopping = entry.stopping.remove(&attempt);
        was_stopping.then(|| self.count_stop(attempt.query))?
    }

    fn count_stop(&mut self, query: QueryId) -> Option<QueryId> {
        let left = self.stopping.get_mut(&query)?;
        *left -= 1;
        let is_last = *left == 0;
        if is_last {
            self.stopping.remove(&query);
        }
        is_last.then_some(query)
    }

    /// Whether attempts of a query have still to stop.
    pub(crate) fn is_stopping(&self, query: QueryId) -> bool {
        self.stopping.contains_key(&query)
    }

    /// The attempts that have still to stop, in the order of their keys.
    pub(crate) fn stopping(&self) -> Vec<StoppingAttempt> {
        let workers = self.workers.iter();
        let mut stopping: Vec<_> = workers
            .flat_map(|(&worker, entry)| {
                let attempts = entry.stopping.iter();
                attempts.map(move |&attempt| StoppingAttempt { attempt, worker })
            })
            .collect();
        stopping.sort_by_key(|stopping| stopping.attempt);
        stopping
    }

    pub(crate) fn loads(&self, now: Duration) -> Vec<WorkerLoad> {
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
                    suspected: entry.suspicion.is_some(),
                    avoided: self.health.is_avoided(now, id),
                    failures: self.health.failures(id),
                }
            })
            .collect();
        loads.sort_by_key(|load| load.id);
        loads
    }
}
