//! Marks in logical plans.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use datafusion::common::{DFSchemaRef, Result, internal_err};
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};

/// What is known of a part of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Hash)]
pub(crate) enum Mark {
    /// It occurs in several places, all of which have this number.
    Shared(usize),
    /// It gives so many rows, of so many bytes together.
    Estimated { rows: usize, bytes: usize },
}

impl Mark {
    /// So many rows of so many bytes each.
    pub(crate) fn estimated(rows: f64, row_bytes: usize) -> Self {
        // Rounds up: what may have a row is not empty. Casting stops at the largest number.
        let rows = rows.ceil() as usize;
        let bytes = rows.saturating_mul(row_bytes);
        Self::Estimated { rows, bytes }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shared(number) => write!(f, "Shared: {number}"),
            Self::Estimated { rows, .. } => write!(f, "Estimated: {rows} rows"),
        }
    }
}

/// Puts a mark on `input`.
pub(crate) fn mark(mark: Mark, input: LogicalPlan) -> LogicalPlan {
    LogicalPlan::Extension(Extension {
        node: Arc::new(Marked { mark, input }),
    })
}

/// A part of a plan with a mark.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Marked {
    mark: Mark,
    input: LogicalPlan,
}

impl Marked {
    pub(super) fn mark(&self) -> Mark {
        self.mark
    }
}

impl PartialOrd for Marked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.mark.partial_cmp(&other.mark).filter(|_| self == other)
    }
}

impl UserDefinedLogicalNodeCore for Marked {
    fn name(&self) -> &str {
        "Marked"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.mark)
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        match (inputs.pop(), inputs.is_empty()) {
            (Some(input), true) => Ok(Self { mark: self.mark, input }),
            _ => internal_err!("a mark is that of one input"),
        }
    }
}
