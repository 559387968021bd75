//! Squadron: a distributed SQL server for Arrow Flight SQL clients.
//!
//! ```text
//! client --SQL--> flight --> query --> planner --> driver --launch--> workers
//!    ^                         |                                        |
//!    '------- DoGet(ticket) <--+------------------------ frames --------'
//! ```
//!
//! A room uses only rooms below it:
//!
//! | room | what it is for |
//! |---|---|
//! | `app` | builds everything and owns it until the server stops |
//! | `flight` | speaks Flight SQL with clients |
//! | `system` | the tables of the schema `system` |
//! | `query` | the life of a query |
//! | `sql`, `writes` | what a statement says; files that statements write |
//! | `planner`, `driver` | cuts plans into stages; runs the scheduler (a crate of its own) and reaches the workers |
//! | `catalog`, `shell` | tables and views; `squadron sql` |
//! | `auth`, `settings` | users and tokens; what a session can set |
//! | `config`, `error`, ... | leaves |

pub mod app;
pub mod auth;
pub mod catalog;
pub mod config;
mod counted;
pub mod datafusion_workarounds;
pub mod driver;
pub mod error;
pub mod flight;
mod plan_limits;
mod plan_marks;
pub mod planner;
pub mod query;
pub mod settings;
pub mod shell;
pub mod signals;
pub mod sql;
pub mod system;
pub mod writes;
