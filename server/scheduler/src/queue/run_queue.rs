//! The waiting queries of one placement and lane, which have tasks to place: a tree of shares whose leaves hold
//! queries.
//!
//! ```text
//! Node (group) ── children by pass ── Node (group) ── children by tag ── query
//! ```
//!
//! At each node the child with the smallest tag comes first. A group's pass grows by what its queries cost, divided by
//! the group's weight; the tags of queries are the policy's. A child that starts to wait is listed at the node's
//! virtual time, which grows by all that is charged there, divided by the weight of all waiting children (as in
//! weighted fair queueing): a child gets no credit for a time in which it did not wait, and does not wait until older
//! ones have caught up.
//!
//! A group that holds as many slots as its `cpu_share` allows is not listed until it gives some back. All operations
//! are logarithmic in the number of queries, and linear in the depth of the tree.

use std::collections::BTreeSet;
use std::time::Duration;

use squadron_proto::QueryId;
use squadron_proto::control::Lane;

use crate::groups::Groups;
use crate::queue::policy::{UNIT, charge};

/// The weight of a group of weight 1; small, so that charges keep their fractions.
const GROUP_UNIT: u64 = UNIT >> 20;
/// How many of the longest waiting queries are checked for one whose groups may hold more slots.
const MAX_OLDEST_CHECKED: usize = 8;

/// A query's place in a run queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) query: QueryId,
    pub(crate) group: usize,
    pub(crate) tag: u128,
    pub(crate) weight: u64,
    /// The lane of the run queue.
    pub(crate) lane: Lane,
    /// How many queries were submitted before it; breaks ties.
    pub(crate) number: u64,
    /// When it was scheduled last, or else when it started to wait.
    pub(crate) waiting_since: Duration,
}

impl Entry {
    fn age(&self) -> (Duration, u64, QueryId, usize) {
        (self.waiting_since, self.number, self.query, self.group)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Child {
    Node(usize),
    Query(u64, QueryId),
}

#[derive(Debug, Default)]
struct Node {
    parent: Option<usize>,
    weight: u64,
    /// What it was charged, in the virtual time of its parent.
    pass: u128,
    virtual_time: u128,
    children: BTreeSet<(u128, Child)>,
    children_weight: u128,
    held_slots: u64,
    max_slots: Option<u64>,
    /// The tag under which its parent lists it.
    listed_tag: Option<u128>,
}

impl Node {
    fn is_ready(&self) -> bool {
        !self.children.is_empty() && self.has_slots()
    }

    fn has_slots(&self) -> bool {
        self.max_slots.is_none_or(|most| self.held_slots < most)
    }

    /// Advances the virtual time, which stands still while no child waits.
    fn advance(&mut self, correction: Correction) {
        if self.children_weight == 0 {
            return;
        }
        let steps = |cost_us: u64| u128::from(cost_us) * u128::from(UNIT) / self.children_weight;
        self.virtual_time = match correction {
            Correction::More(cost_us) => self.virtual_time + steps(cost_us),
            Correction::Less(cost_us) => self.virtual_time.saturating_sub(steps(cost_us)),
        };
    }
}

/// The difference between an actual cost and what was charged, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Correction {
    More(u64),
    Less(u64),
}

impl Correction {
    pub(crate) fn between(charged_us: u64, actual_us: u64) -> Self {
        if actual_us >= charged_us {
            Self::More(actual_us - charged_us)
        } else {
            Self::Less(charged_us - actual_us)
        }
    }

    /// The corrected pass of a query or group with this weight.
    pub(crate) fn apply(self, pass: u128, weight: u64) -> u128 {
        match self {
            Self::More(cost) => pass + charge(cost, weight),
            Self::Less(cost) => pass.saturating_sub(charge(cost, weight)),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct RunQueue {
    nodes: Vec<Node>,
    /// For each group the node that holds the group's own queries.
    leaves: Vec<usize>,
    /// For each group its `cpu_share`, in percent of all slots.
    shares: Vec<Option<u32>>,
    by_age: BTreeSet<(Duration, u64, QueryId, usize)>,
}

impl RunQueue {
    /// A run queue without queries.
    pub(crate) fn new(groups: &Groups) -> Self {
        let mut queue = Self::default();
        for group in 0..groups.count() {
            let spec = groups.spec(group);
            queue.nodes.push(Node {
                parent: groups.parent(group),
                weight: u64::from(spec.weight) * GROUP_UNIT,
                ..Node::default()
            });
            queue.shares.push(spec.cpu_share_percent);
        }
        for group in 0..groups.count() {
            let mut leaf = group;
            if groups.has_children(group) {
                leaf = queue.nodes.len();
                queue.nodes.push(Node {
                    parent: Some(group),
                    weight: GROUP_UNIT,
                    ..Node::default()
                });
            }
            queue.leaves.push(leaf);
        }
        queue
    }

    /// Sets how many slots there are, taken or not, of which groups may hold their `cpu_share`.
    pub(crate) fn resize(&mut self, slots: u64) {
        for node in 0..self.shares.len() {
            if let Some(percent) = self.shares[node] {
                self.nodes[node].max_slots = Some((slots * u64::from(percent) / 100).max(1));
                self.update_listing(node);
            }
        }
    }

    pub(crate) fn insert(&mut self, entry: Entry) {
        let leaf = self.leaves[entry.group];
        let child = Child::Query(entry.number, entry.query);
        let node = &mut self.nodes[leaf];
        node.children.insert((entry.tag, child));
        node.children_weight += u128::from(entry.weight);
        self.by_age.insert(entry.age());
        self.update_listing(leaf);
    }

    pub(crate) fn remove(&mut self, entry: &Entry) {
        let leaf = self.leaves[entry.group];
        let child = Child::Query(entry.number, entry.query);
        let node = &mut self.nodes[leaf];
        if node.children.remove(&(entry.tag, child)) {
            node.children_weight -= u128::from(entry.weight);
        }
        self.by_age.remove(&entry.age());
        self.update_listing(leaf);
    }

    /// Where the pass of a query of this group starts.
    pub(crate) fn virtual_time(&self, group: usize) -> u128 {
        self.nodes[self.leaves[group]].virtual_time
    }

    /// A query of this group and lane takes and gives back slots, and what it was charged is corrected.
    pub(crate) fn settle(&mut self, group: usize, taken: u64, given: u64, correction: Correction) {
        self.nodes[self.leaves[group]].advance(correction);
        self.settle_other_lane(group, taken, given, correction);
    }

    /// As [`RunQueue::settle`] for a query of another lane: groups are charged, but the queries of this run queue are
    /// not.
    pub(crate) fn settle_other_lane(&mut self, group: usize, taken: u64, given: u64, correction: Correction) {
        let leaf = self.leaves[group];
        let mut at = Some(leaf);
        while let Some(number) = at {
            let node = &mut self.nodes[number];
            if number != leaf {
                node.advance(correction);
            }
            node.held_slots = (node.held_slots + taken).saturating_sub(given);
            node.pass = correction.apply(node.pass, node.weight);
            at = node.parent;
        }
        self.update_listing(self.leaves[group]);
    }

    /// The query to schedule next.
    pub(crate) fn next(&self) -> Option<QueryId> {
        let mut node = self.nodes.first()?;
        if !node.has_slots() {
            return None;
        }
        loop {
            match node.children.first()?.1 {
                Child::Node(number) => node = &self.nodes[number],
                Child::Query(_, query) => return Some(query),
            }
        }
    }

    /// The query that has waited longest, if it has waited since `since` at least and its groups may hold more slots.
    pub(crate) fn longest_waiting(&self, since: Duration) -> Option<(Duration, QueryId)> {
        let oldest = self.by_age.iter().take(MAX_OLDEST_CHECKED);
        let mut due = oldest.take_while(|(waiting_since, ..)| *waiting_since <= since);
        due.find(|&&(.., group)| self.has_slots(group))
            .map(|&(waiting_since, _, query, _)| (waiting_since, query))
    }

    /// Whether this group and every group above it may hold more slots.
    pub(crate) fn has_slots(&self, group: usize) -> bool {
        let mut at = Some(self.leaves[group]);
        while let Some(number) = at {
            if !self.nodes[number].has_slots() {
                return false;
            }
            at = self.nodes[number].parent;
        }
        true
    }

    pub(crate) fn waiting(&self) -> impl Iterator<Item = QueryId> + '_ {
        self.by_age.iter().map(|&(_, _, query, _)| query)
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.by_age.is_empty()
            && self
                .nodes
                .iter()
                .all(|node| node.children.is_empty() && node.held_slots == 0)
    }

    /// After a change of a node: each parent on the way up lists its child under its pass, if the child has a waiting
    /// query and may hold more slots.
    fn update_listing(&mut self, number: usize) {
        let mut at = number;
        while let Some(parent) = self.nodes[at].parent {
            let was = self.nodes[at].listed_tag;
            let is_ready = self.nodes[at].is_ready();
            if is_ready && was.is_none() {
                let start = self.nodes[parent].virtual_time;
                self.nodes[at].pass = self.nodes[at].pass.max(start);
            }
            let is = is_ready.then_some(self.nodes[at].pass);
            if is == was {
                at = parent;
                continue;
            }
            let weight = u128::from(self.nodes[at].weight);
            let listing = &mut self.nodes[parent];
            if let Some(tag) = was {
                listing.children.remove(&(tag, Child::Node(at)));
                listing.children_weight -= weight;
            }
            if let Some(tag) = is {
                listing.children.insert((tag, Child::Node(at)));
                listing.children_weight += weight;
            }
            self.nodes[at].listed_tag = is;
            at = parent;
        }
    }
}
