//! `WITH` queries that would be computed anew, with other values, where they are used twice.
//!
//! DataFusion 55.2 puts the query in each place that names it, so that `random()` differs between them; PostgreSQL computes
//! it once.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, Ident, Query, TableFactor, Visit, Visitor};
use squadron_proto::Failure;

use super::{normalized, refuse};

/// Functions that give another value for each call.
const VOLATILE: [&str; 4] = ["random", "uuid", "gen_random_uuid", "rand"];

/// Refuses such queries.
pub(super) fn refuse_repeated(query: &Query) -> ControlFlow<Failure> {
    let Some(with) = &query.with else {
        return ControlFlow::Continue(());
    };
    for cte in &with.cte_tables {
        let name = &cte.alias.name;
        // A recursive query names itself.
        if calls_volatile(&cte.query) && uses(query, name) > uses(&cte.query, name) + 1 {
            return refuse(
                "a query of WITH that calls random() would be computed anew for each use of it, with other values; use it once, \
                 or write its rows to a file with COPY first",
            );
        }
    }
    ControlFlow::Continue(())
}

fn calls_volatile(query: &Query) -> bool {
    struct Calls;
    impl Visitor for Calls {
        type Break = ();

        fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<()> {
            match expression {
                Expr::Function(function)
                    if VOLATILE.contains(&function.name.to_string().to_ascii_lowercase().as_str()) =>
                {
                    ControlFlow::Break(())
                }
                _ => ControlFlow::Continue(()),
            }
        }
    }
    query.visit(&mut Calls).is_break()
}

/// How many times the query names the table.
fn uses(query: &Query, name: &Ident) -> usize {
    struct Uses {
        name: String,
        count: usize,
    }
    impl Visitor for Uses {
        type Break = ();

        fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
            if let TableFactor::Table { name, .. } = factor
                && let [part] = name.0.as_slice()
                && part.as_ident().is_some_and(|ident| normalized(ident) == self.name)
            {
                self.count += 1;
            }
            ControlFlow::Continue(())
        }
    }
    let mut uses = Uses {
        name: normalized(name),
        count: 0,
    };
    // The visitor never breaks.
    let _ = query.visit(&mut uses);
    uses.count
}
