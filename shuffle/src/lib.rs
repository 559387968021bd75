//! The data plane: rows between stages.
//!
//! ```text
//! producer attempt                                    consumer attempt
//!   plan -> ShuffleWriteExec -> OutputWriter            ShuffleReadExec -> plan
//!                                   |                      ^        ^
//!                                   v     same process     |        |  other process
//!                                 Store -------------------'     Fetcher
//!                                   |                               ^
//!                                   '--> DataService (Flight DoGet) -'
//! ```
//!
//! [`Store`] holds the output of attempts, in memory first and on disk when the memory pool refuses. The two plan nodes
//! find the store, and everything else that belongs to one attempt, in the [`AttemptContext`] of their `TaskContext`.

pub mod arrow_files;
pub mod codec;
mod compact;
pub mod conform;
pub mod context;
pub mod decode;
pub mod encode;
pub mod failure;
pub mod fetch;
pub mod fragment;
pub mod functions;
mod identity;
pub mod messages;
mod nested;
pub mod net;
pub mod plan_nodes;
pub mod read;
pub mod sentences;
pub mod serve;
pub mod sink;
mod status;
pub mod store;
#[cfg(test)]
mod testing;
pub mod type_names;
pub mod write;

pub use codec::ShuffleCodec;
pub use conform::conform;
pub use context::AttemptContext;
pub use fetch::{FetchOptions, Fetcher};
pub use net::tls::{ServerTls, Trust};
pub use read::{FETCHED_BYTES, ShuffleReadExec};
pub use serve::DataService;
pub use sink::{FileEncoding, FileTarget, NULL_FOLDER, StagedFile, WriteFilesExec};
pub use store::{
    OutputWriter, PartitionReader, Removed, Spill, SpilledBatch, Store, StoreOptions, StoreUsage, Written,
};
pub use write::{ShuffleWriteExec, WritePartitioning};
