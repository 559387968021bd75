//! Squadron: a distributed SQL server for Arrow Flight SQL clients.
//!
//! ```text
//! client --SQL--> flight --> queries --> planner --> scheduler --launch--> workers
//!    ^                          |                                            |
//!    '------- DoGet(ticket) <---+--------------- results <--- frames --------'
//! ```
//!
//! A module uses only what is below it: `app` builds everything, `flight` speaks to clients, `system` shows what goes on, `queries` owns the
//! life of a query, `planner` and `scheduler` decide, `results` and `workers` carry out, `auth`, `catalog`, `config` and `error` know.

pub mod app;
pub mod auth;
pub mod catalog;
pub mod config;
mod counted;
pub mod datafusion_workarounds;
pub mod driver;
pub mod error;
pub mod flight;
pub mod planner;
pub mod query;
pub mod settings;
pub mod shell;
pub mod signals;
pub mod sql;
pub mod system;
pub mod writes;
