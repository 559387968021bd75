//! End to end: real processes over real sockets, held to single-process DataFusion and to stock clients.
//!
//! One binary, since each links DataFusion. Every test starts what it needs, waits for conditions and never for a
//! duration, and ends within a limit of its own with a message that says what it waited for.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod architecture;
mod arrow_rs_client;
mod auth;
mod bad_input;
mod callers;
mod clients;
mod conformance;
mod crowd;
mod cursors;
mod drivers;
mod endpoints;
mod faults;
mod limits;
mod metadata;
mod parameters;
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
