//! Tests and measurements of Squadron as a whole: real processes, real sockets, real clients.

pub mod bench;
pub mod client;
pub mod cluster;
pub mod compare;
pub mod process;
pub mod tpch;
