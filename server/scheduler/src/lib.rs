//! The scheduler: decides which task runs where and when, and how each query ends.
//!
//! A pure function of its events: [`Scheduler::apply`] takes what happened and answers what is to be done. No clock, no
//! randomness, no I/O: the same events give the same effects. [`driver`] is the one async part.
//!
//! ```text
//! event ──> admission: may it run? ──> query ── stage ── task     state machines, a transition table in each file
//!                                        │ stages with tasks to place
//!                                        v
//!                line, policy: who is next ──> placement: where ──> Launch, Commit, ...
//! ```
//!
//! What holds always:
//! - each submitted query ends exactly once, and then nothing of it is left here or, once the workers have been told, there;
//! - slots are taken from launch to end, except while parked, and given back exactly once;
//! - a stage starts when all its inputs are finished; output is dropped when all its readers are;
//! - the cost of an event does not grow with the number of queries or tasks that wait.
//!
//! | event | query | effects |
//! |---|---|---|
//! | Submit | appears in phase Queued; runs when its turn has come | launches as places are free, Ended when refused |
//! | Regroup | changes its group | launches |
//! | Report | see query.rs, stage.rs, task.rs | Commit, Release, ResultReady, Ended |
//! | ResultDone | ends, once its root has | Release, Ended |
//! | Cancel | ends | CancelAttempt, Release, Ended |
//! | WorkerJoined | | Release of what it was never told about, launches |
//! | WorkerLost | those that depend on it end | CancelAttempt, Release elsewhere, Ended |
//! | WorkerDraining | | |
//! | Tick | what has waited too long is retried, placed or ended | |

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
pub use event::{Effect, Event};
pub use graph::{OutputPartitions, Placement, QueryOptions, StageGraph, StageSpec, TaskSpec, TimeLimit};
pub use groups::{GroupSpec, Groups, Selector};
pub use info::{
    Capacity, GroupLoad, QueryInfo, QueryPhase, QueryProgress, QuerySummary, Resources, ResultPart, StageInfo,
    StagePhase, StageSummary, Stopping, TaskInfo, TaskPhase, TaskSummary, WorkerLoad,
};
pub use limits::Limits;
pub use queue::policy::Policy;
pub use scheduler::Scheduler;
