//! The state machines of queries, stages and tasks, and the steps that move them on.
//!
//! ```text
//! query ── stage ── task        one file each, with its transition table
//!   reports     applies what workers report
//!   ending      ends queries
//!   restart     starts queries again
//!   absence     workers of which nothing is heard, and their return
//!   observe     shows them to the server and its clients
//! ```

mod absence;
mod ending;
mod observe;
pub(crate) mod query;
mod reports;
mod restart;
pub(crate) mod stage;
pub(crate) mod task;
