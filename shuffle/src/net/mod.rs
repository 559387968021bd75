//! Connections to other systems: ports that accept peers, TLS on both ends, and object stores.

pub mod calls;
pub mod count_calls;
pub mod listen;
pub mod object_stores;
pub mod tls;
