//! `WITH` queries that DataFusion 55.2 refuses, or would compute anew with other values.
//!
//! It takes no query whose name one around it has: `WITH x AS (...) SELECT * FROM (WITH x AS (...) SELECT * FROM x)`. Here the
//! inner one gets another name.
//!
//! It puts the query in each place that names it, so that `random()` differs between them; PostgreSQL computes
//! it once.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, ObjectName, Query, TableAlias, TableFactor, Visit, VisitMut, Visitor, VisitorMut,
};
use squadron_proto::Failure;

use super::{normalized, refuse};
use crate::planner::schema::DUPLICATE_MARK;

/// Functions that give another value for each call.
const VOLATILE: [&str; 4] = ["random", "uuid", "gen_random_uuid", "rand"];

/// The names of the `WITH` queries around a query.
#[derive(Default)]
pub(super) struct Names {
    around: Vec<String>,
}

impl Names {
    /// Goes into a query, and renames those of its own `WITH` that hide one around it.
    pub(super) fn enter(&mut self, query: &mut Query) {
        let mut names = Vec::new();
        let ctes = query.with.as_ref().map_or(&[][..], |with| &with.cte_tables);
        names.extend(ctes.iter().map(|cte| normalized(&cte.alias.name)));
        for (index, name) in names.iter_mut().enumerate() {
            if self.around.contains(name) {
                let new = format!("{name}{DUPLICATE_MARK}{}", self.around.len());
                rename(query, index, name, &new);
                *name = new;
            }
        }
        self.around.extend(names);
    }

    /// Goes out of a query that was entered.
    pub(super) fn leave(&mut self, query: &Query) {
        let own = query.with.as_ref().map_or(0, |with| with.cte_tables.len());
        self.around.truncate(self.around.len().saturating_sub(own));
    }
}

/// Gives the query of this number in `WITH` another name, also where it is used.
fn rename(query: &mut Query, index: usize, name: &str, new: &str) {
    let mut uses = Rename { name, new, hidden: 0 };
    if let Some(with) = &mut query.with {
        // Those before it, and itself unless it is recursive, mean the one around.
        let first = if with.recursive { index } else { index + 1 };
        for cte in with.cte_tables.iter_mut().skip(first) {
            uses.replace(&mut cte.query);
        }
        with.cte_tables[index].alias.name = Ident::with_quote('"', new);
    }
    uses.replace(&mut query.body);
    uses.replace(&mut query.order_by);
}

struct Rename<'a> {
    name: &'a str,
    new: &'a str,
    /// How many of the queries around have one of this name of their own.
    hidden: usize,
}

impl Rename<'_> {
    fn replace(&mut self, part: &mut impl VisitMut) {
        // The visitor never breaks.
        let _ = VisitMut::visit(part, self);
    }

    /// The place of the query of `WITH` that has the name.
    fn hiding(&self, query: &Query) -> Option<usize> {
        let ctes = query.with.as_ref().map_or(&[][..], |with| &with.cte_tables);
        ctes.iter().position(|cte| normalized(&cte.alias.name) == self.name)
    }
}

impl VisitorMut for Rename<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        let Some(index) = self.hiding(query) else {
            return ControlFlow::Continue(());
        };
        if self.hidden == 0
            && let Some(with) = &mut query.with
        {
            // Up to here the name still means the renamed one.
            let last = if with.recursive { index } else { index + 1 };
            for cte in with.cte_tables.iter_mut().take(last) {
                self.replace(&mut cte.query);
            }
        }
        self.hidden += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        self.hidden -= usize::from(self.hiding(query).is_some());
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, alias, .. } = factor
            && self.hidden == 0
            && is_named(name, self.name)
        {
            // Its columns keep the name of the table that the user wrote.
            let written = name.0.first().and_then(|part| part.as_ident()).cloned();
            if let (None, Some(written)) = (&alias, written) {
                *alias = Some(TableAlias {
                    explicit: true,
                    name: written,
                    columns: Vec::new(),
                    at: None,
                });
            }
            *name = ObjectName::from(vec![Ident::with_quote('"', self.new)]);
        }
        ControlFlow::Continue(())
    }
}

fn is_named(table: &ObjectName, name: &str) -> bool {
    matches!(table.0.as_slice(), [part] if part.as_ident().is_some_and(|ident| normalized(ident) == name))
}

/// Refuses queries of `WITH` that would have other values in each use.
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
                && is_named(name, &self.name)
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
