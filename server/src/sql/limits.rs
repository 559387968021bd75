//! How large a statement may be, and how deeply it may nest, so that its text can be parsed and its syntax tree planned.
//!
//! The parser limits the nesting of brackets, not the length of a chain such as `1 + 1 + 1`, whose tree is as deep as
//! the chain is long. A tree is at most as deep as the statement has tokens: it is made, measured and, when it is too
//! deep, dropped on a stack for so many levels.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::common::plan_datafusion_err;
use datafusion::config::Dialect;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::SessionState;
use datafusion::sql::parser::{CopyToSource, Statement as DfStatement};
use datafusion::sql::sqlparser::ast::{
    Expr, GroupByExpr, Ident, ObjectName, ObjectNamePart, Query, Select, SetExpr, Visit, Visitor,
};
use datafusion::sql::sqlparser::dialect::{Dialect as SqlDialect, dialect_from_str};
use squadron_proto::{Failure, FailureKind};
use squadron_shuffle::failure::into_datafusion;

use super::placeholders;
use super::planning_errors::locate;
use super::recursion::refuse_recursion;
use super::rewrite::groups::sets_of;
use super::rewrite::rewrite;
use super::rewrite::text::rewrite_text;
use crate::plan_limits::{MAX_EXPRESSION_DEPTH, plan_bytes, too_deep_failure};

/// What a token takes while it is parsed: itself and its part of the tree.
const TOKEN_BYTES: u64 = 512;
/// How many SELECTs may be joined by UNION, EXCEPT and INTERSECT in one chain.
const MAX_SET_OPERATIONS: usize = 2000;
/// How many grouping sets one GROUP BY may have, as in PostgreSQL.
const MAX_GROUPING_SETS: u64 = 4096;
/// How many tables a statement may read. A common table expression counts for all that it reads, as often as it is used:
/// its plan is copied, and the parser walks over all copies.
const MAX_TABLES: u64 = 16 * 1024;
/// How many steps it may take to find the tables of a statement.
const MAX_TABLE_STEPS: u64 = 1 << 20;

/// Statements with at most so many tokens are parsed on the stack of their thread.
const SMALL_TOKENS: u64 = 2000;
/// What the parser and the destructor of a tree need for each level, also without optimisations of the compiler.
const LEVEL_STACK_BYTES: u64 = 4096;

/// Parses the one statement of `sql`.
///
/// # Errors
/// For wrong SQL, with line and column; `Invalid` with the name of the limit for a statement that nests too deeply or has
/// too many grouping sets; `Exhausted` for one that is too long to be planned.
pub(super) fn parse(state: &SessionState, sql: &str) -> DataFusionResult<DfStatement> {
    let name = state.config_options().sql_parser.dialect;
    let dialect = dialect_from_str(name).ok_or_else(|| unknown_dialect(name))?;
    let tokens = max_tokens(sql, dialect.as_ref());
    refuse_too_long(tokens).map_err(into_datafusion)?;
    refuse_recursion(sql, dialect.as_ref())?;
    let sql = placeholders::number(sql, dialect.as_ref()).map_err(into_datafusion)?;
    let sql = rewrite_text(sql, dialect.as_ref());
    if tokens <= SMALL_TOKENS {
        return parse_here(state, &sql);
    }
    let stack_bytes = usize::try_from(tokens * LEVEL_STACK_BYTES).unwrap_or(usize::MAX);
    stacker::grow(stack_bytes, || parse_here(state, &sql))
}

fn unknown_dialect(name: Dialect) -> DataFusionError {
    plan_datafusion_err!("the SQL dialect {name} is unknown; there are {}", Dialect::available())
}

fn parse_here(state: &SessionState, sql: &str) -> DataFusionResult<DfStatement> {
    let dialect = state.config_options().sql_parser.dialect;
    let mut statement = state.sql_to_statement(sql, &dialect).map_err(locate)?;
    if let ControlFlow::Break(failure) = check(&statement) {
        return Err(into_datafusion(failure));
    }
    rewrite(&mut statement).map_err(into_datafusion)?;
    Ok(statement)
}

/// As many tokens as the text has, or more. What stands in plain quotes is one token; where quotes could mean something
/// else, in and after comments and strings with escapes, every word counts.
fn max_tokens(sql: &str, dialect: &dyn SqlDialect) -> u64 {
    let mut tokens = 0;
    let mut are_quotes_plain = !dialect.supports_string_literal_backslash_escape();
    let mut before = b' ';
    let mut bytes = sql.bytes().peekable();
    while let Some(byte) = bytes.next() {
        tokens += 1;
        match byte {
            b'\'' | b'"' => {
                are_quotes_plain &= !is_word(before) && before != b'&';
                if are_quotes_plain {
                    while bytes.next().is_some_and(|next| next != byte) {}
                }
            }
            b'-' | b'/' | b'#' | b'$' | b'`' | b'[' => {
                are_quotes_plain &= !begins_other_quotes(byte, bytes.peek().copied(), dialect);
            }
            _ if is_word(byte) => while bytes.next_if(|next| is_word(*next)).is_some() {},
            _ if byte.is_ascii_whitespace() => while bytes.next_if(u8::is_ascii_whitespace).is_some() {},
            _ => {}
        }
        before = byte;
    }
    tokens
}

/// Whether a comment or a quoted text may begin here whose end the count would not find.
fn begins_other_quotes(byte: u8, next: Option<u8>, dialect: &dyn SqlDialect) -> bool {
    match byte {
        b'-' => next == Some(b'-'),
        b'/' => matches!(next, Some(b'*' | b'/')),
        b'$' => !next.is_some_and(|next| next.is_ascii_digit()),
        b'[' => dialect.is_delimited_identifier_start('['),
        _ => true,
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

fn refuse_too_long(tokens: u64) -> Result<(), Failure> {
    let (bytes, limit) = (tokens.saturating_mul(TOKEN_BYTES), plan_bytes());
    if bytes <= limit {
        return Ok(());
    }
    Err(Failure::new(
        FailureKind::Exhausted,
        format!(
            "parsing this statement of {tokens} words and signs would take about {bytes} bytes, more than --plan-memory ({limit} \
             bytes); bind values as parameters, or read them from a table"
        ),
    ))
}

fn check(statement: &DfStatement) -> ControlFlow<Failure> {
    let mut limits = Limits::default();
    match statement {
        DfStatement::Statement(statement) => statement.visit(&mut limits),
        DfStatement::CopyTo(copy) => match &copy.source {
            CopyToSource::Query(query) => query.visit(&mut limits),
            CopyToSource::Relation(_) => ControlFlow::Continue(()),
        },
        DfStatement::Explain(explain) => check(&explain.statement),
        DfStatement::CreateExternalTable(create) => create.columns.visit(&mut limits),
        DfStatement::Reset(_) => ControlFlow::Continue(()),
    }
}

/// Measures a syntax tree, and ends the walk at the first limit that is exceeded.
#[derive(Default)]
struct Limits {
    depth: usize,
    /// How many queries with common table expressions are around.
    withs: u32,
    /// For each open query, how many tables it reads so far.
    tables: Vec<u64>,
    /// How many tables each common table expression reads.
    expressions: HashMap<String, u64>,
    /// The names of the queries that are common table expressions, by their address: the statement is borrowed.
    names: HashMap<*const Query, String>,
    /// What DataFusion takes to find the tables: it visits common table expressions twice as often as their query.
    table_steps: u64,
}

impl Limits {
    /// The innermost open query reads so many tables more.
    fn reads(&mut self, tables: u64) {
        if let Some(reads) = self.tables.last_mut() {
            *reads = reads.saturating_add(tables);
        }
    }
}

/// Names that differ in case alone may be the same.
fn key(name: &Ident) -> String {
    name.value.to_lowercase()
}

impl Visitor for Limits {
    type Break = Failure;

    fn pre_visit_expr(&mut self, _: &Expr) -> ControlFlow<Failure> {
        self.depth += 1;
        if self.depth > MAX_EXPRESSION_DEPTH {
            let what = "operators and functions of an expression";
            return ControlFlow::Break(too_deep_failure(what, self.depth, MAX_EXPRESSION_DEPTH));
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, _: &Expr) -> ControlFlow<Failure> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Failure> {
        let operations = set_operations(&query.body);
        if operations > MAX_SET_OPERATIONS {
            let what = "UNION, EXCEPT and INTERSECT";
            return ControlFlow::Break(too_deep_failure(what, operations, MAX_SET_OPERATIONS));
        }
        let steps = 1_u64.checked_shl(self.withs).unwrap_or(u64::MAX);
        self.table_steps = self.table_steps.saturating_add(steps);
        if self.table_steps > MAX_TABLE_STEPS {
            return ControlFlow::Break(Failure::new(
                FailureKind::Invalid,
                format!(
                    "WITH is nested {} times in WITH, so that finding the tables of the statement would take more than \
                     {MAX_TABLE_STEPS} steps; write common table expressions beside each other",
                    self.withs
                ),
            ));
        }
        self.withs += u32::from(query.with.is_some());
        self.tables.push(0);
        for expression in query.with.iter().flat_map(|with| &with.cte_tables) {
            let address = std::ptr::from_ref(expression.query.as_ref());
            self.names.insert(address, key(&expression.alias.name));
        }
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<Failure> {
        self.withs -= u32::from(query.with.is_some());
        let tables = self.tables.pop().unwrap_or(0);
        if tables > MAX_TABLES {
            return ControlFlow::Break(Failure::new(
                FailureKind::Invalid,
                format!(
                    "the common table expressions of this statement use each other so often that it reads {tables} tables; at \
                     most {MAX_TABLES} can be read"
                ),
            ));
        }
        match self.names.remove(&std::ptr::from_ref(query)) {
            Some(name) => {
                self.expressions.insert(name, tables.max(1));
            }
            None => self.reads(tables),
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<Failure> {
        let tables = match relation.0.as_slice() {
            [ObjectNamePart::Identifier(name)] => self.expressions.get(&key(name)).copied(),
            _ => None,
        };
        self.reads(tables.unwrap_or(1));
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Failure> {
        let sets = grouping_sets(&select.group_by);
        if sets > MAX_GROUPING_SETS {
            return ControlFlow::Break(Failure::new(
                FailureKind::Invalid,
                format!("GROUP BY has {sets} grouping sets; at most {MAX_GROUPING_SETS} are possible"),
            ));
        }
        ControlFlow::Continue(())
    }
}

/// How many set operations stand in each other without brackets.
fn set_operations(body: &SetExpr) -> usize {
    let mut count = 0;
    let mut open = vec![body];
    while let Some(body) = open.pop() {
        if let SetExpr::SetOperation { left, right, .. } = body {
            count += 1;
            open.extend([left.as_ref(), right.as_ref()]);
        }
    }
    count
}

/// The sets of all elements of a GROUP BY are combined with each other.
fn grouping_sets(group_by: &GroupByExpr) -> u64 {
    let GroupByExpr::Expressions(elements, _) = group_by else {
        return 1;
    };
    let sets = elements.iter().map(|element| match element {
        Expr::Cube(columns) => 1_u64.checked_shl(columns.len() as u32).unwrap_or(u64::MAX),
        Expr::Rollup(columns) => columns.len() as u64 + 1,
        Expr::GroupingSets(sets) => sets.iter().map(|set| sets_of(set)).fold(0, u64::saturating_add),
        _ => 1,
    });
    sets.fold(1, u64::saturating_mul)
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;
    use datafusion::sql::sqlparser::dialect::{GenericDialect, MySqlDialect, PostgreSqlDialect};
    use datafusion::sql::sqlparser::tokenizer::Tokenizer;
    use squadron_shuffle::failure;

    use super::*;

    fn parsed(sql: &str) -> Result<(), Failure> {
        let state = SessionContext::new().state();
        parse(&state, sql).map(drop).map_err(|error| failure::of(&error))
    }

    fn refused(sql: &str) -> String {
        let failure = parsed(sql).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Invalid, "{failure}");
        failure.message
    }

    #[test]
    fn chains_of_every_kind_are_limited() {
        let chains: [(&str, &str, &str); 7] = [
            ("SELECT 1", "+1", ""),
            ("SELECT 'a'", "||'a'", ""),
            ("SELECT 1", "::int", ""),
            ("SELECT 1", " IS NULL", ""),
            ("SELECT 1 WHERE x", " OR x", ""),
            ("SELECT 1 FROM t WHERE x IN (SELECT 1", " AND 1", ")"),
            ("EXPLAIN COPY (SELECT 1", "=1", ") TO 'x'"),
        ];
        for (start, link, end) in chains {
            let chain = |length| format!("{start}{}{end}", link.repeat(length));
            parsed(&chain(MAX_EXPRESSION_DEPTH - 10)).unwrap();
            for length in [MAX_EXPRESSION_DEPTH + 1, 100_000] {
                let message = refused(&chain(length));
                assert!(message.contains("operators") && message.contains("5000"), "{message}");
            }
        }
        let union = |length| format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(length));
        parsed(&union(MAX_SET_OPERATIONS)).unwrap();
        assert!(refused(&union(50_000)).contains("UNION"));
        assert!(refused(&format!("{}SELECT 1", "EXPLAIN ".repeat(100_000))).contains("EXPLAIN"));
    }

    #[test]
    fn common_table_expressions_in_each_other_are_limited() {
        let nest = |depth| {
            format!(
                "{}SELECT 1{}",
                "WITH a AS (".repeat(depth),
                ") SELECT * FROM a".repeat(depth)
            )
        };
        parsed(&nest(15)).unwrap();
        assert!(refused(&nest(40)).contains("WITH"));
        let beside = |count: usize| {
            (0..count)
                .map(|n| format!("a{n} AS (SELECT 1)"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        parsed(&format!("WITH {} SELECT 1", beside(5000))).unwrap();
    }

    #[test]
    fn common_table_expressions_count_as_often_as_they_are_used() {
        let doubling = |levels| {
            let expressions = (0..levels).map(|level| {
                let next = level + 1;
                format!(", c{next} AS (SELECT * FROM C{level} a, (SELECT * FROM c{level}) b)")
            });
            let expressions: String = expressions.collect();
            format!("WITH c0 AS (SELECT 1){expressions} SELECT * FROM c{levels}")
        };
        parsed(&doubling(14)).unwrap();
        for levels in [15, 24, 500] {
            assert!(refused(&doubling(levels)).contains("tables"));
        }
    }

    #[test]
    fn grouping_sets_are_limited() {
        let columns = |count: usize| (0..count).map(|n| format!("c{n}")).collect::<Vec<_>>().join(", ");
        parsed(&format!("SELECT 1 FROM t GROUP BY CUBE ({})", columns(12))).unwrap();
        for elements in [
            format!("CUBE ({})", columns(13)),
            format!("CUBE ({})", columns(200)),
            format!("ROLLUP ({0}), ROLLUP ({0})", columns(64)),
        ] {
            let message = refused(&format!("SELECT 1 FROM t GROUP BY {elements}"));
            assert!(message.contains("at most 4096"), "{message}");
        }
    }

    #[test]
    fn tokens_are_never_too_few() {
        let dialect = GenericDialect {};
        for (sql, expected) in [
            ("SELECT 1", 3),
            ("x<>'it''s'", 5),
            ("\"a b\"+1.5", 5),
            ("größe", 1),
            ("'open", 1),
            ("$1 = 'a b'", 6),
        ] {
            assert_eq!(max_tokens(sql, &dialect), expected, "{sql}");
        }
        let chain = "+1".repeat(1000);
        for start in [
            r"E'\''",
            "x = N'a b'",
            "-- it's\n 1",
            "/* ' */ 1",
            "/* \" */ 1",
            "$$'$$",
            "$tag$'$tag$",
            "`'`",
            "# it's\n 1",
            r"U&'\0061'",
            r"'a\' || 'b\'",
        ] {
            let sql = format!("SELECT {start}{chain}");
            let dialects: [&dyn SqlDialect; 3] = [&dialect, &PostgreSqlDialect {}, &MySqlDialect {}];
            let mut understood = 0;
            for dialect in dialects {
                if let Ok(tokens) = Tokenizer::new(dialect, &sql).tokenize() {
                    let count = max_tokens(&sql, dialect);
                    assert!(count >= tokens.len() as u64, "{start}: {count}");
                    understood += usize::from(tokens.len() > 2000);
                }
            }
            assert!(understood > 0, "{start}");
        }
        let mysql = MySqlDialect {};
        assert!(max_tokens(&format!(r"SELECT 'it\'s'{chain}"), &mysql) >= 2000);
    }
}
