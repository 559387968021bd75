//! The scheduler: decides which task runs where and when, and how each query ends.
//!
//! A pure function of its events: [`Scheduler::apply`] takes an [`Event`] with its time and returns the [`Effect`]s to
//! carry out. No clock, no randomness, no I/O: the same events give the same effects. The server's driver owns the
//! mailbox and the clock and carries out the effects; [`simulate`] does so in virtual time. The crate depends on
//! `squadron-proto` alone, and plans stay opaque to it.
//!
//! ```text
//! event ──> admission: may it run? ──> lifecycle: query ── stage ── task     a transition table in each file
//!                                        │ stages with tasks to place
//!                                        v
//!         queue: which query is next ──> workers: which worker has free slots ──> Launch, Commit, ...
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`event`] | events and effects |
//! | [`limits`] | how much the scheduler takes on, and its timeouts |
//! | [`info`] | queries, stages, tasks and workers as the server and its clients may see them |
//! | [`graph`] | a query as the planner submits it: stages, tasks, options |
//! | [`groups`] | the tree of resource groups |
//! | [`admission`] | which queries run, wait or are refused |
//! | `lifecycle` | the state machines of queries, stages and tasks; reports, ends, views |
//! | `queue` | run queues, the policy that orders them, predicted costs, dispatch |
//! | `workers` | the worker pool, and places for tasks on it |
//! | [`simulate`] | a virtual cluster around the scheduler |
//! | [`testing`] | small queries for tests, also of other crates |
//!
//! What holds always:
//! - each submitted query ends exactly once; then nothing of it is left in the scheduler, nor, once the workers have
//!   handled the effects, on a worker;
//! - an attempt holds its slots from launch to end, except while it is parked, and gives them back exactly once;
//! - a stage runs while all its inputs are complete and a consumer or the client needs its output; after that its output is
//!   released;
//! - the cost of an event does not grow with the number of queries or tasks that wait.

pub mod admission;
mod deadline;
pub mod event;
pub mod graph;
pub mod groups;
pub mod info;
mod lifecycle;
pub mod limits;
mod queue;
mod scheduler;
pub mod simulate;
pub mod testing;
#[cfg(test)]
mod tests;
mod workers;

pub use admission::AdmissionLimits;
pub use event::{Effect, Event, LostParts};
pub use graph::{OutputPartitions, Placement, QueryOptions, StageGraph, StageSpec, TaskSpec, TimeLimit};
pub use groups::{GroupSpec, Groups, Selector};
pub use info::{
    AttemptInfo, Capacity, GroupLoad, QueryInfo, QueryPhase, QueryProgress, QuerySummary, Resources, ResultPart,
    StageInfo, StagePhase, StageSummary, StoppingAttempt, TaskInfo, TaskPhase, TaskSummary, WorkerLoad,
};
pub use limits::Limits;
pub use queue::policy::Policy;
pub use scheduler::Scheduler;
