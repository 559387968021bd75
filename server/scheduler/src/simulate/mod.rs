//! A virtual cluster: the scheduler under virtual time, with workers that are a few numbers each.
//!
//! ```text
//! workload ── Submit ──> Scheduler::apply ── effects ──> virtual cluster: workers, wires, clients
//!                             ^                             │  (an agenda of what happens when)
//!                             └────── reports, losses, ticks ┘
//! ```
//!
//! Nothing looks at a clock, and all chance comes from one seed: the same specification, queries and seed give the same
//! digest of all effects, wherever they run.

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
