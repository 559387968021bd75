//! A virtual cluster: the scheduler in virtual time, with workers, connections and clients that are a few numbers each.
//!
//! ```text
//! workload ── Submit ──> Scheduler::apply ── effects ──> virtual cluster: workers, connections, clients
//!                             ^                             │  (an agenda of future occurrences)
//!                             └────── reports, losses, ticks ┘
//! ```
//!
//! No clock is read, and all randomness comes from one seed: the same specification, queries and seed give the same
//! digest of all effects on every machine.

mod agenda;
mod cluster;
mod digest;
mod rng;
#[cfg(test)]
mod tests;
mod virtual_cluster;
mod worker;
mod workload;

pub use cluster::{ClusterSpec, Estimates, Faults, Outcome};
pub use digest::Digest;
pub use rng::Rng;
pub use virtual_cluster::VirtualCluster;
pub use workload::{Mix, StageWork, Work, arrivals};
