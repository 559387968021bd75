//! Which query is scheduled next, and with which task: run queues, the policy that orders them, predicted costs, and
//! the dispatch of tasks to workers.

pub(crate) mod cost;
mod dispatch;
pub(crate) mod policy;
pub(crate) mod run_queue;
pub(crate) mod run_queues;
