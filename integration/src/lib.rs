//! Tests of Squadron as a whole: real processes, real sockets, real clients.

pub mod client;
pub mod cluster;
pub mod compare;
pub mod faulty_disk;
pub mod fuzz;
pub mod impostor;
pub mod link;
pub mod process;
pub mod time_limit;
pub mod tpch;
