//! Who may run, and who waits for it: limits of the server, of each resource group and of each session.
//!
//! ```text
//! submit ──> room at the group and all above it? ──yes──> runs ──> ends: the next one that waits, if there is room
//!                 └─no──> waits, if the queues have room ──no──> refused: Busy, with the limit and when to try again
//! ```
//!
//! In a group the highest priority comes first, then who came first. Between groups the one that runs least for its weight
//! does. Whoever waits for memory or for a place at some level holds up those behind it at that level, so that nobody is
//! overtaken for ever. What runs is never stopped for the sake of a limit; limits may be exceeded only because they, or the
//! workers, became less meanwhile.
//!
//! The cost of an event depends on the number of groups alone.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use squadron_proto::{Failure, FailureKind, QueryId};

use crate::groups::Groups;
use crate::info::GroupLoad;

/// How many queries there may be.
#[derive(Clone, Debug)]
pub struct AdmissionLimits {
    /// How many may run at once.
    pub max_running: usize,
    /// How many may wait to run.
    pub max_queued: usize,
    /// How many of one session may run or wait.
    pub max_of_session: usize,
}

impl Default for AdmissionLimits {
    fn default() -> Self {
        Self {
            max_running: 256,
            max_queued: 4096,
            max_of_session: 1024,
        }
    }
}

/// What admission knows of a query.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) query: QueryId,
    /// How many were submitted before.
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
    /// Its own queries that wait.
    waiting: BTreeSet<Turn>,
}

/// Why nothing of a group can run now: the group whose limit it is.
struct Full(usize);

#[derive(Debug, Default)]
pub(crate) struct Admission {
    limits: AdmissionLimits,
    groups: Groups,
    nodes: Vec<Node>,
    sessions: HashMap<Arc<str>, usize>,
    /// The memory of all workers.
    memory_bytes: u64,
    /// How long queries run, on average over the last ones.
    usual_run: Duration,
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

    /// With other groups, and nobody in them.
    pub(crate) fn regrouped(&self, groups: Groups) -> Self {
        Self {
            memory_bytes: self.memory_bytes,
            usual_run: self.usual_run,
            ..Self::new(self.limits.clone(), groups)
        }
    }

    pub(crate) fn groups(&self) -> &Groups {
        &self.groups
    }

    pub(crate) fn load(&self, group: usize) -> GroupLoad {
        self.nodes[group].load
    }

    /// The workers have so much memory now.
    pub(crate) fn resize(&mut self, memory_bytes: u64) {
        self.memory_bytes = memory_bytes;
    }

    /// Lets a query wait for its turn; [`Admission::next`] says whether that has come already. Nobody else's may have.
    ///
    /// # Errors
    /// `Busy` when it would have to wait, and a queue is full.
    pub(crate) fn enter(&mut self, candidate: &Candidate) -> Result<(), Failure> {
        self.check_session(candidate)?;
        self.wait(candidate);
        if self.next() == Some(candidate.query) {
            return Ok(());
        }
        match self.overfull(candidate.group) {
            Some(failure) => {
                self.leave(candidate);
                Err(failure)
            }
            None => Ok(()),
        }
    }

    /// As [`Admission::enter`], whatever the limits.
    pub(crate) fn wait(&mut self, candidate: &Candidate) {
        *self.sessions.entry(Arc::clone(&candidate.session)).or_default() += 1;
        self.nodes[candidate.group].waiting.insert(candidate.turn());
        self.change(candidate.group, |load| load.queued += 1);
    }

    /// A query that waited is gone.
    pub(crate) fn leave(&mut self, candidate: &Candidate) {
        if self.nodes[candidate.group].waiting.remove(&candidate.turn()) {
            self.change(candidate.group, |load| load.queued -= 1);
            self.forget_session(&candidate.session);
        }
    }

    /// A query that waited runs from now on.
    pub(crate) fn start(&mut self, candidate: &Candidate) {
        self.nodes[candidate.group].waiting.remove(&candidate.turn());
        self.change(candidate.group, |load| {
            load.queued -= 1;
            load.running += 1;
            load.memory_bytes += candidate.memory_bytes;
        });
    }

    /// A query that ran has ended.
    pub(crate) fn end(&mut self, candidate: &Candidate, ran: Duration) {
        self.change(candidate.group, |load| {
            load.running -= 1;
            load.memory_bytes -= candidate.memory_bytes;
        });
        self.forget_session(&candidate.session);
        self.usual_run = (self.usual_run * 7 + ran) / 8;
    }

    /// The query that may run next, if any may.
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
        for candidate in self.by_turn(group) {
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

    /// The groups below in which somebody waits, and `None` for the group's own queries; who runs least for its weight first.
    fn by_turn(&self, group: usize) -> Vec<Option<usize>> {
        let node = &self.nodes[group];
        let own = (!node.waiting.is_empty()).then_some(None);
        let waits = |child: &&usize| self.nodes[**child].load.queued > 0;
        let mut members: Vec<_> = own
            .into_iter()
            .chain(node.children.iter().filter(waits).map(|&child| Some(child)))
            .collect();
        members.sort_by_cached_key(|member| match member {
            None => (0, 0),
            Some(child) => {
                let weight = u64::from(self.groups.spec(*child).weight);
                let running = self.nodes[*child].load.running as u64;
                (running.saturating_mul(1 << 20) / weight, *child)
            }
        });
        members
    }

    fn pick_own(&self, group: usize) -> Result<QueryId, Full> {
        let Some(&(_, _, query, memory_bytes)) = self.nodes[group].waiting.first() else {
            return Err(Full(group));
        };
        match self.short_of_memory(group, memory_bytes) {
            Some(full) => Err(Full(full)),
            None => Ok(query),
        }
    }

    /// The lowest group with too little memory left. A query that wants more than there is runs when nobody else has
    /// reserved any.
    fn short_of_memory(&self, group: usize, memory_bytes: u64) -> Option<usize> {
        if memory_bytes == 0 {
            return None;
        }
        self.groups.path(group).find(|&group| {
            let reserved = self.nodes[group].load.memory_bytes;
            reserved > 0 && reserved.saturating_add(memory_bytes) > self.memory_of(group)
        })
    }

    fn memory_of(&self, group: usize) -> u64 {
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
        if of_session.unwrap_or(0) < self.limits.max_of_session {
            return Ok(());
        }
        let what = format!(
            "{} queries of this session run or wait, which is as many as --max-session-queries allows",
            self.limits.max_of_session
        );
        Err(self.busy(&what, 0))
    }

    /// Why nobody more may wait in this group.
    fn overfull(&self, group: usize) -> Option<Failure> {
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
        Some(self.busy(&what, full))
    }

    fn max_queued(&self, group: usize) -> usize {
        let own = self.groups.spec(group).max_queued;
        match group {
            0 => self.limits.max_queued,
            _ => own.unwrap_or(usize::MAX),
        }
    }

    /// Places become free about once in the usual time of a query, divided by how many run.
    fn busy(&self, what: &str, group: usize) -> Failure {
        let running = u32::try_from(self.nodes[group].load.running.max(1)).unwrap_or(u32::MAX);
        let wait = (self.usual_run / running).as_secs() + 1;
        Failure::new(
            FailureKind::Busy,
            format!("{what}; run the statement again in about {wait} s"),
        )
    }

    fn change(&mut self, group: usize, change: impl Fn(&mut GroupLoad)) {
        let mut at = Some(group);
        while let Some(group) = at {
            change(&mut self.nodes[group].load);
            at = self.groups.parent(group);
        }
    }

    fn forget_session(&mut self, session: &Arc<str>) {
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

    /// Where more run or wait than may.
    #[cfg(test)]
    pub(crate) fn exceeded(&self) -> Option<String> {
        (0..self.nodes.len()).find_map(|group| {
            let load = self.nodes[group].load;
            let is_exceeded = load.running > self.max_running(group) || load.queued > self.max_queued(group);
            is_exceeded.then(|| format!("{}: {load:?}", self.groups.spec(group).name))
        })
    }
}

#[cfg(test)]
mod tests;
