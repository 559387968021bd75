//! The state of the walk: how many relations, expressions and repeated bytes it has counted.

use datafusion::error::Result;
use datafusion_substrait::substrait::proto::Expression;
use prost::Message;

use crate::planner::substrait::declarations::Declarations;
use crate::planner::substrait::errors::invalid;
use crate::planner::substrait::limits::{MAX_EXPRESSIONS, MAX_RELATIONS};

/// Bytes that a plan may grow by through references that repeat an expression.
const MAX_REPEATED_BYTES: usize = 64 * 1024 * 1024;

/// One walk over a plan.
pub(super) struct Walk<'a> {
    pub(super) declarations: &'a mut Declarations,
    relations: usize,
    expressions: usize,
    repeated: usize,
}

impl<'a> Walk<'a> {
    pub(super) fn new(declarations: &'a mut Declarations) -> Self {
        Self {
            declarations,
            relations: 0,
            expressions: 0,
            repeated: 0,
        }
    }

    pub(super) fn count_relation(&mut self) -> Result<()> {
        self.relations += 1;
        if self.relations > MAX_RELATIONS {
            return Err(invalid(format!(
                "the Substrait plan has more than {MAX_RELATIONS} relations; send it in parts"
            )));
        }
        Ok(())
    }

    /// Counts an expression, a literal or a type.
    pub(super) fn count_expression(&mut self) -> Result<()> {
        self.expressions += 1;
        if self.expressions > MAX_EXPRESSIONS {
            return Err(invalid(format!(
                "the Substrait plan has more than {MAX_EXPRESSIONS} expressions; put large lists of values into a table"
            )));
        }
        Ok(())
    }

    /// Counts `references` to expressions of `of`: each may repeat one, so that a small plan becomes a large one.
    pub(super) fn count_repeats(&mut self, references: usize, of: &[Expression]) -> Result<()> {
        let largest = of.iter().map(Message::encoded_len).max().unwrap_or(0) + 16;
        self.repeated = self.repeated.saturating_add(references.saturating_mul(largest));
        if self.repeated > MAX_REPEATED_BYTES {
            return Err(invalid(
                "the Substrait plan repeats large expressions too often in output mappings or groupings; compute \
                 them once, in a project relation of their own",
            ));
        }
        Ok(())
    }
}
