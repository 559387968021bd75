//! The state machines of queries, stages and tasks, and what moves them on.
//!
//! ```text
//! query ── stage ── task        one file each, with its transition table
//!   reports     what workers say, and what follows from it
//!   ending      how queries end
//!   observe     what outsiders may see of them
//! ```

mod ending;
mod observe;
pub(crate) mod query;
mod reports;
pub(crate) mod stage;
pub(crate) mod task;
