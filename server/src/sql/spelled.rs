//! Parts of a statement as SQL, where DataFusion's error shows their syntax trees.

use std::ops::ControlFlow;

use datafusion::error::DataFusionError;
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::{Expr, Query, TableFactor, Visit, Visitor};
use squadron_shuffle::sentences::shows_tree;

use super::rewrite::text::as_written;

/// In longer messages no part is looked for: the trees of all parts are written out and compared.
const MAX_BYTES: usize = 64 * 1024;

/// The error with SQL in the place of a syntax tree, where it shows one of `statement`, which is made when it is needed.
pub(super) fn spelled(error: DataFusionError, statement: impl FnOnce() -> Option<DfStatement>) -> DataFusionError {
    let (DataFusionError::NotImplemented(message) | DataFusionError::Plan(message)) = error.find_root() else {
        return error;
    };
    if message.len() > MAX_BYTES || !shows_tree(message) {
        return error;
    }
    let Some(DfStatement::Statement(statement)) = statement() else {
        return error;
    };
    let mut search = Search { message, told: None };
    let _ = statement.visit(&mut search);
    match search.told {
        Some(told) => DataFusionError::NotImplemented(told),
        None => error,
    }
}

/// Looks for the outermost part whose tree is in the message.
struct Search<'a> {
    message: &'a str,
    told: Option<String>,
}

impl Search<'_> {
    fn look(&mut self, tree: &str, sql: impl FnOnce() -> String) -> ControlFlow<()> {
        if !self.message.contains(tree) {
            return ControlFlow::Continue(());
        }
        self.told = Some(self.message.replace(tree, &as_written(sql())));
        ControlFlow::Break(())
    }
}

impl Visitor for Search<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<()> {
        self.look(&format!("{expression:?}"), || expression.to_string())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        self.look(&format!("{factor:?}"), || factor.to_string())
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.look(&format!("{query:?}"), || query.to_string())
    }
}
