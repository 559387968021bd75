//! The queries with tasks to place, one queue for each placement and lane: a tree of shares, whose leaves hold queries.
//!
//! ```text
//! Node (group) ── children by pass ── Node (group) ── children by tag ── query
//! ```
//!
//! At each node the child with the smallest tag comes first. Groups are charged for what their queries use,
//! divided by their weight; what queries are charged is the policy's affair. A child that comes to wait starts at the
//! node's virtual time, which moves with all that is charged there, divided by the weight of all that wait (as in weighted
//! fair queueing): who was away gets no credit for it, and who has just come does not wait for those that used a lot.
//!
//! A group that holds all the slots it may is left out until it gives some back. All operations are logarithmic in the
//! number of queries, and linear in the depth of the tree.

use std::collections::BTreeSet;
use std::time::Duration;

use squadron_proto::QueryId;
use squadron_proto::control::Lane;

use crate::groups::Groups;
use crate::queue::policy::{UNIT, charge};

/// The weight of a group of weight 1; small, so that charges keep their fractions.
const GROUP_UNIT: u64 = UNIT >> 20;
/// How many of the oldest are looked at for one that may be served.
const OLDEST_LOOKED_AT: usize = 8;

/// A query's place in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) query: QueryId,
    pub(crate) group: usize,
    pub(crate) tag: u128,
    pub(crate) weight: u64,
    /// Which queue it stands in.
    pub(crate) lane: Lane,
    /// How many queries were submitted before it; decides among equals.
    pub(crate) number: u64,
    /// When it was served last, or came.
    pub(crate) since: Duration,
}

impl Entry {
    fn age(&self) -> (Duration, u64, QueryId, usize) {
        (self.since, self.number, self.query, self.group)
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
    /// What it was charged, in its parent's time.
    pass: u128,
    virtual_time: u128,
    children: BTreeSet<(u128, Child)>,
    children_weight: u128,
    held_slots: u64,
    most_slots: Option<u64>,
    /// Under which tag its parent lists it.
    listed: Option<u128>,
}

impl Node {
    fn is_ready(&self) -> bool {
        !self.children.is_empty() && self.has_slots()
    }

    fn has_slots(&self) -> bool {
        self.most_slots.is_none_or(|most| self.held_slots < most)
    }

    /// Time stands still while nobody waits.
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

/// What was charged and turned out to be something else.
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

    /// The corrected pass of somebody with this weight.
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
    /// Of each group the node that holds its own queries.
    leaves: Vec<usize>,
    shares: Vec<Option<u32>>,
    by_age: BTreeSet<(Duration, u64, QueryId, usize)>,
}

impl RunQueue {
    /// Nobody waits.
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

    /// There are so many slots now, taken or not.
    pub(crate) fn resize(&mut self, slots: u64) {
        for node in 0..self.shares.len() {
            if let Some(percent) = self.shares[node] {
                self.nodes[node].most_slots = Some((slots * u64::from(percent) / 100).max(1));
                self.relist(node);
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
        self.relist(leaf);
    }

    pub(crate) fn remove(&mut self, entry: &Entry) {
        let leaf = self.leaves[entry.group];
        let child = Child::Query(entry.number, entry.query);
        let node = &mut self.nodes[leaf];
        if node.children.remove(&(entry.tag, child)) {
            node.children_weight -= u128::from(entry.weight);
        }
        self.by_age.remove(&entry.age());
        self.relist(leaf);
    }

    /// Where the pass of a query of this group starts.
    pub(crate) fn virtual_time(&self, group: usize) -> u128 {
        self.nodes[self.leaves[group]].virtual_time
    }

    /// A query of this group holds so many slots more or less, and what they cost is known better now.
    pub(crate) fn settle(&mut self, group: usize, taken: u64, given: u64, correction: Correction) {
        self.nodes[self.leaves[group]].advance(correction);
        self.follow(group, taken, given, correction);
    }

    /// As [`RunQueue::settle`], for a query that stands in another queue: the queries of this one have not been charged.
    pub(crate) fn follow(&mut self, group: usize, taken: u64, given: u64, correction: Correction) {
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
        self.relist(self.leaves[group]);
    }

    /// Who is to be served.
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

    /// Who has waited for longest, if that is since `since` at least, and may have slots.
    pub(crate) fn oldest(&self, since: Duration) -> Option<(Duration, QueryId)> {
        let oldest = self.by_age.iter().take(OLDEST_LOOKED_AT);
        let mut due = oldest.take_while(|(served, ..)| *served <= since);
        due.find(|&&(.., group)| self.has_slots(group))
            .map(|&(served, _, query, _)| (served, query))
    }

    /// Whether every group above this one, and it, may hold more slots.
    fn has_slots(&self, group: usize) -> bool {
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

    /// The node has changed: its parent lists it if it has something to offer, under what it was charged.
    fn relist(&mut self, number: usize) {
        let mut at = number;
        while let Some(parent) = self.nodes[at].parent {
            let was = self.nodes[at].listed;
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
            self.nodes[at].listed = is;
            at = parent;
        }
    }
}
