//! Statements: what a client sent, parsed, resolved and bound, before anything of it runs.
//!
//! ```text
//! text, Substrait ──> parse ──> LogicalPlan with parameters ──> bind ──> LogicalPlan to execute
//! ```

pub(crate) mod bind;
mod edits;
mod hints;
mod inserts;
pub(crate) mod kill;
mod limits;
pub(crate) mod parameters;
pub(crate) mod parse;
mod placeholders;
pub(crate) mod planning_errors;
mod recursion;
pub(crate) mod redact;
mod rewrite;
mod show;
mod spelled;
pub mod statement;

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::logical_expr::LogicalPlan;

pub use self::parse::{Source, logical_plan};

/// Whether a statement has rows to give or a change to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatementKind {
    /// Rows.
    Query,
    /// A change: DDL, SET, INSERT, COPY or KILL.
    Update,
}

/// A statement that was understood, with the schema that its client is told.
#[derive(Clone, Debug)]
pub struct PlannedStatement {
    /// Rows or a change.
    pub kind: StatementKind,
    /// The schema of the rows, the same everywhere it is told; empty for a change.
    pub schema: SchemaRef,
    /// The parameters `$1`, `$2`, ... in order, nullable.
    pub parameters: SchemaRef,
    /// Which of them are text only because nothing tells their types.
    pub(crate) guessed: Vec<bool>,
    pub(crate) plan: LogicalPlan,
    /// The statement as it may be shown; none for a Substrait plan.
    pub(crate) text: Option<Arc<str>>,
}
