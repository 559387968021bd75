//! Which queries run, wait or are refused: limits of the server, of each resource group and of each session.
//!
//! ```text
//! submit ──> within the limits of its group and all above? ──yes──> runs ──> ends: the next waiting query may run
//!                 └─no──> waits, if no queue is full ──no──> refused: Busy, with the limit and when to try again
//! ```
//!
//! In a group the highest priority comes first, then the earliest submission; between groups the group with the fewest
//! running queries for its weight. A query that waits for memory or for a place in some group blocks the queries behind
//! it in that group, so that none is overtaken for ever. A running query is never stopped because of a limit; a limit
//! is exceeded only when it was lowered, or the workers' memory shrank, while queries ran.
//!
//! The cost of an event depends on the number of groups alone.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use squadron_proto::{Failure, FailureKind, QueryId};

use crate::groups::Groups;
use crate::info::GroupLoad;

/// How many queries may run and wait.
#[derive(Clone, Debug)]
pub struct AdmissionLimits {
    /// How many may run at once.
    pub max_running: usize,
    /// How many may wait to run.
    pub max_queued: usize,
    /// How many queries of one session may run or wait.
    pub max_per_session: usize,
}

impl Default for AdmissionLimits {
    fn default() -> Self {
        Self {
            max_running: 256,
            max_queued: 4096,
            max_per_session: 1024,
        }
    }
}

/// What admission knows of a query.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) query: QueryId,
    /// How many queries were submitted before.
    pub(crate) number: u64,
    pub(crate) priority: i32,
    pub(crate) group: usize,
    pub(crate) session: Arc<str>,
    pub(crate) memory_bytes: u64,
}

type Turn = (Reverse<i32>, u64, QueryId, u64);

impl Candidate {
    fn turn(&self) -> Turn {
        (Reverse(self.priority), self.number, self.query, self.memory_bytes)
    }
}

#[derive(Debug, Default)]
struct Node {
    load: GroupLoad,
    children: Vec<usize>,
    /// The group's own queries that wait.
    waiting: BTreeSet<Turn>,
}

/// No further query of a group can run now; holds the group whose limit is reached.
struct Full(usize);

#[derive(Debug, Default)]
pub(crate) struct Admission {
    limits: AdmissionLimits,
    groups: Groups,
    nodes: Vec<Node>,
    sessions: HashMap<Arc<str>, usize>,
    /// The memory of all workers.
    memory_bytes: u64,
    /// How long queries run, a moving average over the last queries.
    mean_run: Duration,
}

impl Admission {
    pub(crate) fn new(limits: AdmissionLimits, groups: Groups) -> Self {
        let mut nodes: Vec<Node> = Vec::new();
        for group in 0..groups.count() {
            nodes.push(Node::default());
            if let Some(parent) = groups.parent(group) {
                nodes[parent].children.push(group);
            }
        }
        Self {
            limits,
            groups,
            nodes,
            ..Self::default()
        }
    }

    /// The same admission with other groups, and no query in them.
    pub(crate) fn with_groups(&self, groups: Groups) -> Self {
        Self {
            memory_bytes: self.memory_bytes,
            mean_run: self.mean_run,
            ..Self::new(self.limits.clone(), groups)
        }
    }

    pub(crate) fn groups(&self) -> &Groups {
        &self.groups
    }

    pub(crate) fn load(&self, group: usize) -> GroupLoad {
        self.nodes[group].load
    }

    /// Sets the memory of all workers.
    pub(crate) fn resize(&mut self, memory_bytes: u64) {
        self.memory_bytes = memory_bytes;
    }

    /// Lets a query wait; [`Admission::next`] returns it if it may run at once. No other query may be admissible
    /// before.
    ///
    /// # Errors
    /// `Busy` if the query would have to wait and a queue is full; Exhausted if it reserves more memory than there is.
    pub(crate) fn enter(&mut self, candidate: &Candidate) -> Result<(), Failure> {
        self.check_session(candidate)?;
        self.check_memory(candidate)?;
        self.enqueue(candidate);
        if self.next() == Some(candidate.query) {
            return Ok(());
        }
        match self.queue_failure(candidate.group) {
            Some(failure) => {
                self.leave(candidate);
                Err(failure)
            }
            None => Ok(()),
        }
    }

    /// Lets a query wait, regardless of the limits.
    pub(crate) fn enqueue(&mut self, candidate: &Candidate) {
        *self.sessions.entry(Arc::clone(&candidate.session)).or_default() += 1;
        self.nodes[candidate.group].waiting.insert(candidate.turn());
        self.update_loads(candidate.group, |load| load.queued += 1);
    }

    /// Removes a waiting query.
    pub(crate) fn leave(&mut self, candidate: &Candidate) {
        if self.nodes[candidate.group].waiting.remove(&candidate.turn()) {
            self.update_loads(candidate.group, |load| load.queued -= 1);
            self.release_session(&candidate.session);
        }
    }

    /// Moves a waiting query to the running ones.
    pub(crate) fn start(&mut self, candidate: &Candidate) {
        self.nodes[candidate.group].waiting.remove(&candidate.turn());
        self.update_loads(candidate.group, |load| {
            load.queued -= 1;
            load.running += 1;
            load.memory_bytes += candidate.memory_bytes;
        });
    }

    /// Removes a running query. `ran`: how long it ran.
    pub(crate) fn end(&mut self, candidate: &Candidate, ran: Duration) {
        self.update_loads(candidate.group, |load| {
            load.running -= 1;
            load.memory_bytes -= candidate.memory_bytes;
        });
        self.release_session(&candidate.session);
        self.mean_run = (self.mean_run * 7 + ran) / 8;
    }

    /// The query that may run now, if there is one.
    pub(crate) fn next(&self) -> Option<QueryId> {
        if self.nodes.first().is_none_or(|server| server.load.queued == 0) {
            return None;
        }
        self.pick(0).ok()
    }

    fn pick(&self, group: usize) -> Result<QueryId, Full> {
        if self.nodes[group].load.running >= self.max_running(group) {
            return Err(Full(group));
        }
        for candidate in self.choices_by_turn(group) {
            let picked = match candidate {
                None => self.pick_own(group),
                Some(child) => self.pick(child),
            };
            match picked {
                Ok(query) => return Ok(query),
                Err(Full(full)) if self.groups.path(group).any(|above| above == full) => {
                    return Err(Full(full));
                }
                Err(_) => {}
            }
        }
        Err(Full(group))
    }

    /// The groups below with waiting queries, and `None` for the group's own queries, which come first; then the group
    /// with the fewest running queries for its weight.
    fn choices_by_turn(&self, group: usize) -> Vec<Option<usize>> {
        let node = &self.nodes[group];
        let own = (!node.waiting.is_empty()).then_some(None);
        let waits = |child: &&usize| self.nodes[**child].load.queued > 0;
        let mut choices: Vec<_> = own
            .into_iter()
            .chain(node.children.iter().filter(waits).map(|&child| Some(child)))
            .collect();
        choices.sort_by_cached_key(|choice| match choice {
            None => (0, 0),
            Some(child) => {
                let weight = u64::from(self.groups.spec(*child).weight);
                let running = self.nodes[*child].load.running as u64;
                (running.saturating_mul(1 << 20) / weight, *child)
            }
        });
        choices
    }

    /// The first of the group's own queries whose reservation fits; one that must wait for memory holds none back that
    /// fits.
    fn pick_own(&self, group: usize) -> Result<QueryId, Full> {
        let mut full = Full(group);
        for &(_, _, query, memory_bytes) in &self.nodes[group].waiting {
            match self.find_short_of_memory(group, memory_bytes) {
                None => return Ok(query),
                Some(short) => full = Full(short),
            }
        }
        Err(full)
    }

    /// The lowest group with too little memory left.
    fn find_short_of_memory(&self, group: usize, memory_bytes: u64) -> Option<usize> {
        if memory_bytes == 0 {
            return None;
        }
        self.groups.path(group).find(|&group| {
            let reserved = self.nodes[group].load.memory_bytes;
            // Workers may have left since the query was admitted to the queue: alone it runs with what there is.
            reserved > 0 && reserved.saturating_add(memory_bytes) > self.memory_limit(group)
        })
    }

    /// Refuses a reservation that can never be met. As long as there is no worker, nobody knows.
    fn check_memory(&self, candidate: &Candidate) -> Result<(), Failure> {
        if self.memory_bytes == 0 {
            return Ok(());
        }
        let wanted = candidate.memory_bytes;
        let Some(short) = self
            .groups
            .path(candidate.group)
            .find(|&group| wanted > self.memory_limit(group))
        else {
            return Ok(());
        };
        let most = self.memory_limit(short);
        let of = match short {
            0 => "all workers".to_owned(),
            _ => format!("group {}", self.groups.spec(short).name),
        };
        Err(Failure::new(
            FailureKind::Exhausted,
            format!(
                "squadron.reserved_memory = {wanted} is more than the {most} bytes of {of}; reserve less, or add workers"
            ),
        ))
    }

    fn memory_limit(&self, group: usize) -> u64 {
        let own = self.groups.spec(group).memory_bytes.unwrap_or(u64::MAX);
        own.min(self.memory_bytes)
    }

    fn max_running(&self, group: usize) -> usize {
        let own = self.groups.spec(group).max_running;
        match group {
            0 => self.limits.max_running,
            _ => own.unwrap_or(usize::MAX),
        }
    }

    fn check_session(&self, candidate: &Candidate) -> Result<(), Failure> {
        let of_session = self.sessions.get(&candidate.session).copied();
        if of_session.unwrap_or(0) < self.limits.max_per_session {
            return Ok(());
        }
        let what = format!(
            "{} queries of this session run or wait, which is as many as --max-session-queries allows",
            self.limits.max_per_session
        );
        Err(self.busy_failure(&what, 0))
    }

    /// The failure of a query for which a queue of its group, or of a group above, is too full.
    fn queue_failure(&self, group: usize) -> Option<Failure> {
        let is_overfull = |group: &usize| self.nodes[*group].load.queued > self.max_queued(*group);
        let full = self.groups.path(group).find(is_overfull)?;
        let most = self.max_queued(full);
        let what = match full {
            0 => format!("{most} queries wait already, which is as many as --max-queued allows"),
            _ => format!(
                "{most} queries of group {} wait already, which is as many as its max_queued allows",
                self.groups.spec(full).name
            ),
        };
        Some(self.busy_failure(&what, full))
    }

    fn max_queued(&self, group: usize) -> usize {
        let own = self.groups.spec(group).max_queued;
        match group {
            0 => self.limits.max_queued,
            _ => own.unwrap_or(usize::MAX),
        }
    }

    /// Estimates when to try again: a running query ends about every mean run time divided by the number of running
    /// queries.
    fn busy_failure(&self, what: &str, group: usize) -> Failure {
        let running = u32::try_from(self.nodes[group].load.running.max(1)).unwrap_or(u32::MAX);
        let wait = (self.mean_run / running).as_secs() + 1;
        Failure::new(
            FailureKind::Busy,
            format!("{what}; run the statement again in about {wait} s"),
        )
    }

    fn update_loads(&mut self, group: usize, change: impl Fn(&mut GroupLoad)) {
        let mut at = Some(group);
        while let Some(group) = at {
            change(&mut self.nodes[group].load);
            at = self.groups.parent(group);
        }
    }

    fn release_session(&mut self, session: &Arc<str>) {
        if let Some(count) = self.sessions.get_mut(session) {
            *count -= 1;
            if *count == 0 {
                self.sessions.remove(session);
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        let is_empty = |node: &Node| node.load == GroupLoad::default() && node.waiting.is_empty();
        self.sessions.is_empty() && self.nodes.iter().all(is_empty)
    }

    /// The first group with more running or waiting queries than its limits allow.
    #[cfg(test)]
    pub(crate) fn exceeded_limit(&self) -> Option<String> {
        (0..self.nodes.len()).find_map(|group| {
            let load = self.nodes[group].load;
            let is_exceeded = load.running > self.max_running(group) || load.queued > self.max_queued(group);
            is_exceeded.then(|| format!("{}: {load:?}", self.groups.spec(group).name))
        })
    }
}

#[cfg(test)]
mod tests;
