//! Which query is served next, and with which task: run queues, the policy that orders them, what queries cost, and the
//! dispatch of tasks to workers.

pub(crate) mod cost;
mod dispatch;
pub(crate) mod policy;
pub(crate) mod run_queue;
pub(crate) mod run_queues;
