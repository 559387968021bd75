//! Casts as parts of names, for statements in which DataFusion 55.2 gives one name to two expressions that differ by a cast;
//! and casts that change nothing.

use std::ops::ControlFlow;

use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::{Expr, VisitorMut};
use squadron_shuffle::functions::WRITTEN;

use super::{call, null, visit};

/// Makes `CAST(CAST(x AS t) AS t)` into `CAST(x AS t)`. Each level of an expression costs all that plan it.
pub(super) fn cast_once(expression: &mut Expr) {
    let Expr::Cast {
        kind,
        expr,
        data_type,
        array,
        format,
    } = expression
    else {
        return;
    };
    let is_done = match expr.as_ref() {
        Expr::Cast {
            kind: inner_kind,
            data_type: inner_type,
            array: inner_array,
            format: inner_format,
            ..
        } => (inner_kind, inner_type, inner_array, inner_format) == (&*kind, &*data_type, &*array, &*format),
        _ => false,
    };
    if is_done {
        *expression = std::mem::replace(expr.as_mut(), null());
    }
}

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
