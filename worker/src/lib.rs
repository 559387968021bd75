//! The worker: runs attempts at tasks and keeps their output until the server releases it.
//!
//! ```text
//!   remote (dials the server) ──┐
//!                               ├── control (one loop) ── attempts (pure registry) ── outbox (reports)
//!   embedded (channels) ────────┘        │ spawns                        ▲ changes
//!                                        └──────────── runner ───────────┘
//!                                                 on the engine's compute threads
//! ```
//!
//! An [`Engine`] holds what all workers of a process share: memory pool, spill folder, shuffle store, functions and the
//! threads that run plans. [`embedded`] starts a worker inside the server's process, [`serve`] is the whole of
//! `squadron worker`. Both run the same control loop over the same message types; only the transport differs.
//!
//! Control messages and Flight run on the caller's runtime, plans on the engine's own threads, so that a long sort is
//! never taken for a dead worker. Each lane has threads of its own, so that a long query never holds back a short one.

mod address;
mod allocator;
mod attempts;
mod backoff;
mod control;
mod data;
mod dial;
mod embedded;
mod engine;
mod filters;
mod guard;
mod lanes;
mod memory;
mod meter;
mod metrics;
mod niceness;
mod outbox;
mod ranges;
mod remote;
mod replace;
mod runner;
mod scan_errors;
mod spilling;
mod stage;
#[cfg(test)]
mod testing;
mod usage;
mod watchdog;
mod yielding;

pub use embedded::{EmbeddedWorker, embedded};
pub use engine::{Engine, WorkerOptions};
pub use remote::{RemoteOptions, serve};
