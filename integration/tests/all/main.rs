//! End-to-end tests: real processes over real sockets, compared with single-process DataFusion and used by stock
//! clients.
//!
//! There is one test binary, since each binary links DataFusion. Every test starts the cluster it needs, waits for
//! conditions and never for a duration, and ends within its time limit with a message that names the missed condition.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod absence;
mod architecture;
mod arrow_rs_client;
mod auth;
mod bad_input;
mod callers;
mod clients;
mod conformance;
mod crowd;
mod cursors;
mod disk;
mod drivers;
mod endpoints;
mod faults;
mod files;
mod fuzz;
mod generated;
mod limits;
mod load;
mod memory;
mod messages;
mod metadata;
mod names;
mod parameters;
mod plan_cache;
mod poll;
mod s3;
mod schemas;
mod session_messages;
mod sessions;
mod shell;
mod sizes;
mod stops;
mod substrait;
mod support;
mod system;
mod tls;
mod tpch;
mod traps;
mod types;
mod writes;
