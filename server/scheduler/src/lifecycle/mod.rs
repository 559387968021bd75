//! The state machines of queries, stages and tasks, and the steps that move them on.
//!
//! ```text
//! query ── stage ── task ── attempt      one file each, with its transition table
//!   flow        which stages run, wait, are finished or released
//!   reports     applies what workers report
//!   account     what attempts are charged
//!   recovery    computes again what is lost
//!   speculation second attempts at tasks that are slow
//!   blame       which workers are avoided after a failure
//!   ending      ends queries
//!   absence     workers of which nothing is heard, and their return
//!   observe     shows them to the server and its clients
//! ```

mod absence;
mod account;
pub(crate) mod attempt;
mod blame;
mod ending;
mod flow;
mod observe;
pub(crate) mod query;
mod recovery;
mod reports;
mod speculation;
pub(crate) mod stage;
pub(crate) mod task;
