//! Casts as parts of names, for statements in which DataFusion 55.2 gives one name to two expressions that differ by a cast.

use std::ops::ControlFlow;

use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::{Expr, VisitorMut};
use squadron_shuffle::functions::WRITTEN;

use super::{call, null, visit};

/// Makes each cast an argument of [`WRITTEN`].
pub(crate) fn name_casts(statement: &mut DfStatement) {
    // The visitor never breaks.
    let _ = visit(statement, &mut NameCasts);
}

struct NameCasts;

impl VisitorMut for NameCasts {
    type Break = ();

    fn post_visit_expr(&mut self, expression: &mut Expr) -> ControlFlow<()> {
        if matches!(expression, Expr::Cast { .. }) {
            let cast = std::mem::replace(expression, null());
            *expression = call(WRITTEN, vec![cast]);
        }
        ControlFlow::Continue(())
    }
}
