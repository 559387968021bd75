//! Bytes from outside, and what may become of them: what fuzzing and the property tests run.
//!
//! ```text
//! cargo fuzz ──> fuzz/fuzz_targets ──┐
//!                                    ├──> Target::judge(bytes) ──> Ok, or what is wrong
//! property tests (CI) ── mutated ────┘
//! ```
//!
//! Whatever the bytes are, the process goes on, answers within a minute, and every error blames the one who sent
//! them. A panic that the product contains is still wrong: its error says Internal.

mod control;
mod files;
mod flight;
mod frames;
mod server;
mod statements;
mod tickets;
mod worker;

use std::time::Duration;

pub use server::Server;

use tonic::{Code, Status};

/// How long any answer may take, in a debug build on a busy machine.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// One parser, or one group of them, of bytes from outside.
pub struct Target {
    /// As in `cargo fuzz run NAME`.
    pub name: &'static str,
    /// Hands `bytes` to the parser. It blocks, so it must not be called from an async task. It starts a [`Server`] for
    /// each call, unless the caller keeps one alive.
    ///
    /// # Errors
    /// What is wrong about the answer.
    pub judge: fn(&[u8]) -> Result<(), String>,
    /// Valid input, from which mutations start.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: [Target; 8] = [
    Target {
        name: "sql",
        judge: statements::judge_sql,
        seeds: statements::sql_seeds,
    },
    Target {
        name: "substrait",
        judge: statements::judge_substrait,
        seeds: statements::substrait_seeds,
    },
    Target {
        name: "flight",
        judge: flight::judge,
        seeds: flight::seeds,
    },
    Target {
        name: "tickets",
        judge: tickets::judge,
        seeds: tickets::seeds,
    },
    Target {
        name: "control",
        judge: control::judge,
        seeds: control::seeds,
    },
    Target {
        name: "worker",
        judge: worker::judge,
        seeds: worker::seeds,
    },
    Target {
        name: "frames",
        judge: frames::judge,
        seeds: frames::seeds,
    },
    Target {
        name: "files",
        judge: files::judge,
        seeds: files::seeds,
    },
];

/// The target of this name.
///
/// # Panics
/// When there is none.
pub fn target(name: &str) -> &'static Target {
    let found = TARGETS.iter().find(|target| target.name == name);
    found.unwrap_or_else(|| panic!("there is no fuzz target {name}"))
}

/// Accepts an answer, since any bytes may be valid, and an error that does not speak of a bug.
fn judge_status<T>(what: &str, outcome: Result<T, Status>) -> Result<(), String> {
    match outcome {
        Ok(_) => Ok(()),
        Err(status) if matches!(status.code(), Code::Internal | Code::Unknown | Code::DataLoss) => {
            Err(format!("{what}: {status}"))
        }
        Err(status) if status.message().is_empty() => Err(format!("{what}: {status} says nothing")),
        Err(_) => Ok(()),
    }
}

/// Splits `bytes` as its first byte says: into the choice of one of `choices`, and what is left.
fn choose<'bytes, T>(bytes: &'bytes [u8], choices: &[T]) -> Option<(usize, &'bytes [u8])> {
    let (first, rest) = bytes.split_first()?;
    Some((usize::from(*first) % choices.len(), rest))
}
