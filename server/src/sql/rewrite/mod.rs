//! Valid SQL that DataFusion's planner does not know, rewritten in the syntax tree into SQL that it does know; what it
//! would ignore is refused.
//!
//! | as written | becomes |
//! |---|---|
//! | `FETCH FIRST n ROWS ONLY` | `LIMIT n` |
//! | `FROM t` | `SELECT * FROM t` |
//! | `x LIKE ANY (a, b)` | `x LIKE a OR x LIKE b` |
//! | `count(DISTINCT a, b)` | `count(DISTINCT row_key(a, b))`, of rows without NULL |
//! | `t SEMI JOIN u`, `t ANTI JOIN u` | `LEFT SEMI`, `LEFT ANTI` |
//! | `GROUP BY GROUPING SETS (ROLLUP (a), (1))` | [`groups`] |
//! | `WITH x ... (WITH x ...)` | [`ctes`] |
//! | `x SIMILAR TO 'a%'` | [`similar_to`] |
//! | `(a, b) < (c, d)`, `(a, b) IN (SELECT ...)` | [`rows`] |
//! | `a FULL JOIN b USING (k)` | [`using`] |
//! | `OVER (w ORDER BY x)` | [`windows`] |
//! | `x::int::int` | `x::int` |
//! | `x::VARCHAR(2)`, `to_char(t, 'YYYY')` | [`values`] |
//! | columns without a name, and names that come twice | [`names`] |

pub(super) mod casts;
mod ctes;
pub(super) mod groups;
mod names;
mod rows;
mod similar_to;
pub(super) mod text;
mod using;
mod values;
mod windows;

use std::ops::ControlFlow;

use datafusion::sql::parser::{CopyToSource, Statement as DfStatement};
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, DuplicateTreatment, Expr, Fetch, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList,
    FunctionArguments, Ident, Join, JoinOperator, LimitClause, ObjectName, Query, Select, SelectFlavor, SelectItem,
    Statement, TableFactor, Value, VisitMut, VisitorMut, WildcardAdditionalOptions,
};
use squadron_proto::{Failure, FailureKind};

/// Rewrites a statement with all queries in it.
///
/// # Errors
/// `Unsupported`, with what works instead, for what DataFusion would leave out without a word.
pub(super) fn rewrite(statement: &mut DfStatement) -> Result<(), Failure> {
    let mut rewrite = Rewrite::default();
    if let ControlFlow::Break(failure) = visit(statement, &mut rewrite) {
        return Err(failure);
    }
    if rewrite.names_casts {
        casts::name_casts(statement);
    }
    Ok(())
}

/// Lets `visitor` see all that a statement says of queries.
fn visit<V: VisitorMut>(statement: &mut DfStatement, visitor: &mut V) -> ControlFlow<V::Break> {
    match statement {
        DfStatement::Statement(statement) => statement.visit(visitor),
        DfStatement::CopyTo(copy) => match &mut copy.source {
            CopyToSource::Query(query) => query.visit(visitor),
            CopyToSource::Relation(_) => ControlFlow::Continue(()),
        },
        DfStatement::Explain(explain) => visit(&mut explain.statement, visitor),
        DfStatement::CreateExternalTable(_) | DfStatement::Reset(_) => ControlFlow::Continue(()),
    }
}

#[derive(Default)]
struct Rewrite {
    ctes: ctes::Names,
    /// Whether casts must be part of names.
    names_casts: bool,
}

impl VisitorMut for Rewrite {
    type Break = Failure;

    fn pre_visit_statement(&mut self, statement: &mut Statement) -> ControlFlow<Failure> {
        match statement {
            Statement::CreateIndex(_) => refuse(
                "CREATE INDEX is not supported; Parquet files are read by their statistics, so sort the rows by the column that \
                 queries filter by, or partition the table by it",
            ),
            _ => ControlFlow::Continue(()),
        }
    }

    // Before the expressions are visited, so that columns are named by what the user wrote.
    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Failure> {
        self.ctes.enter(query);
        ctes::refuse_repeated(query)?;
        windows::extend_windows(query)?;
        using::merge_columns(query)?;
        names::name_order(query);
        match query.fetch.take() {
            Some(fetch) => limit_by_fetch(query, fetch),
            None => ControlFlow::Continue(()),
        }
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<Failure> {
        self.ctes.leave(query);
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Failure> {
        if !select.connect_by.is_empty() {
            return refuse("CONNECT BY is not supported; WITH RECURSIVE walks over trees");
        }
        if select.flavor == SelectFlavor::FromFirstNoSelect {
            select.projection = vec![SelectItem::Wildcard(WildcardAdditionalOptions::default())];
            select.flavor = SelectFlavor::FromFirst;
        }
        let joins = select.from.iter_mut().flat_map(|from| &mut from.joins);
        joins.for_each(name_side);
        groups::rewrite_groups(select)?;
        self.names_casts |= groups::has_keys_that_differ_by_casts(select);
        names::name_columns(&mut select.projection);
        rows::join_members(select);
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Failure> {
        match factor {
            TableFactor::Table { sample: Some(_), .. } | TableFactor::Derived { sample: Some(_), .. } => {
                refuse("TABLESAMPLE is not supported; WHERE random() < 0.1 keeps about a tenth of the rows")
            }
            TableFactor::Pivot { .. } => refuse(
                "PIVOT is not supported; write one aggregate with FILTER for each column: sum(x) FILTER (WHERE k = 'a') AS a",
            ),
            TableFactor::Unpivot { .. } => {
                refuse("UNPIVOT is not supported; write a UNION ALL with one SELECT for each column")
            }
            TableFactor::MatchRecognize { .. } => refuse(
                "MATCH_RECOGNIZE is not supported; lag(x) OVER (ORDER BY t) and lead(x) compare neighbouring rows",
            ),
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_expr(&mut self, expression: &mut Expr) -> ControlFlow<Failure> {
        if let Expr::Collate { collation, expr } = expression {
            // Text is compared by its bytes, which is what these collations say.
            let name = collation
                .0
                .last()
                .map(|part| part.to_string().trim_matches('"').to_lowercase());
            if !matches!(
                name.as_deref(),
                Some("c" | "posix" | "binary" | "ucs_basic" | "default")
            ) {
                return refuse(
                    "COLLATE is not supported; text is compared by its UTF-8 bytes, as with COLLATE \"C\"; lower(x) compares \
                     without case",
                );
            }
            *expression = std::mem::replace(expr.as_mut(), null());
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expression: &mut Expr) -> ControlFlow<Failure> {
        if let Expr::SimilarTo {
            negated,
            expr,
            pattern,
            escape_char,
        } = expression
        {
            let escape = match escape_char {
                Some(escape) => escape
                    .value
                    .clone()
                    .into_string()
                    .and_then(|escape| escape.chars().next()),
                None => Some('\\'),
            };
            let Some(comparison) = similar_to::as_regular_expression(*negated, expr, pattern, escape) else {
                return refuse(
                    "SIMILAR TO takes a pattern that is written down; x ~ pattern matches any regular expression",
                );
            };
            *expression = comparison;
        }
        casts::cast_once(expression);
        values::rewrite_value(expression)?;
        if let Some(distinct) = distinct_from(expression) {
            *expression = distinct;
        }
        if let Some(any) = like_any(expression) {
            *expression = any;
        }
        if let Some(compared) = rows::compared(expression) {
            *expression = compared;
        }
        if let Expr::BinaryOp {
            op: BinaryOperator::BitwiseXor,
            ..
        } = expression
        {
            return refuse(
                "^ is not supported, for it means powers in PostgreSQL and DuckDB and exclusive or elsewhere; power(x, y) \
                 computes powers, x # y the exclusive or of integers",
            );
        }
        if let Expr::Function(function) = expression {
            count_rows(function);
        }
        ControlFlow::Continue(())
    }
}

fn refuse(sentence: &str) -> ControlFlow<Failure> {
    ControlFlow::Break(Failure::new(FailureKind::Unsupported, sentence))
}

fn null() -> Expr {
    Expr::Value(Value::Null.into())
}

fn limit_by_fetch(query: &mut Query, fetch: Fetch) -> ControlFlow<Failure> {
    if fetch.with_ties || fetch.percent {
        return refuse(
            "FETCH with TIES or PERCENT is not supported; QUALIFY rank() OVER (ORDER BY x) <= 10 keeps the ties of the tenth row",
        );
    }
    let one = || Expr::Value(Value::Number("1".into(), false).into());
    let rows = fetch.quantity.unwrap_or_else(one);
    let offset = match query.limit_clause.take() {
        None => None,
        Some(LimitClause::LimitOffset {
            limit: None, offset, ..
        }) => offset,
        Some(_) => {
            let both = "a query takes LIMIT or FETCH, not both";
            return ControlFlow::Break(Failure::new(FailureKind::Invalid, both));
        }
    };
    query.limit_clause = Some(LimitClause::LimitOffset {
        limit: Some(rows),
        offset,
        limit_by: Vec::new(),
    });
    ControlFlow::Continue(())
}

fn name_side(join: &mut Join) {
    let operator = std::mem::replace(&mut join.join_operator, JoinOperator::CrossApply);
    join.join_operator = match operator {
        JoinOperator::Semi(constraint) => JoinOperator::LeftSemi(constraint),
        JoinOperator::Anti(constraint) => JoinOperator::LeftAnti(constraint),
        other => other,
    };
}

/// What [`text`] made an operator.
fn distinct_from(expression: &mut Expr) -> Option<Expr> {
    let Expr::BinaryOp {
        left,
        op: BinaryOperator::PGCustomBinaryOperator(name),
        right,
    } = expression
    else {
        return None;
    };
    let [schema, operator] = name.as_slice() else {
        return None;
    };
    let make = match operator.as_str() {
        text::DISTINCT if schema == "squadron" => Expr::IsDistinctFrom,
        text::NOT_DISTINCT if schema == "squadron" => Expr::IsNotDistinctFrom,
        _ => return None,
    };
    let operand = |side: &mut Expr| Box::new(std::mem::replace(side, null()));
    Some(make(operand(left), operand(right)))
}

/// `x [NOT] [I]LIKE ANY (a, b)` as one comparison for each pattern.
fn like_any(expression: &mut Expr) -> Option<Expr> {
    let (Expr::Like { any, pattern, .. } | Expr::ILike { any, pattern, .. }) = expression else {
        return None;
    };
    if !*any {
        return None;
    }
    let patterns = match pattern.as_mut() {
        Expr::Tuple(patterns) => std::mem::take(patterns),
        Expr::Array(patterns) => std::mem::take(&mut patterns.elem),
        Expr::Nested(pattern) => vec![std::mem::replace(pattern.as_mut(), null())],
        _ => return None,
    };
    let comparisons = patterns.into_iter().map(|one| {
        let mut comparison = expression.clone();
        if let Expr::Like { any, pattern, .. } | Expr::ILike { any, pattern, .. } = &mut comparison {
            *any = false;
            **pattern = one;
        }
        comparison
    });
    let any = comparisons.reduce(|left, right| binary(left, BinaryOperator::Or, right));
    any.map(|any| Expr::Nested(Box::new(any)))
}

/// `count(DISTINCT a, b)` counts the different rows in which neither is NULL.
fn count_rows(function: &mut Function) {
    let is_count = matches!(function.name.0.as_slice(), [name] if name.to_string().eq_ignore_ascii_case("count"));
    let is_of_rows = matches!(
        &function.args,
        FunctionArguments::List(arguments)
            if arguments.duplicate_treatment == Some(DuplicateTreatment::Distinct) && arguments.args.len() > 1
    );
    if !is_count || !is_of_rows {
        return;
    }
    if let Some(columns) = plain_arguments(function)
        && let FunctionArguments::List(arguments) = &mut function.args
    {
        let row = call("row_key", columns);
        arguments.args = vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(row))];
    }
}

/// The arguments of a call, if none of them has a name or is `*`.
fn plain_arguments(function: &Function) -> Option<Vec<Expr>> {
    let FunctionArguments::List(arguments) = &function.args else {
        return None;
    };
    let plain = arguments.args.iter().map(|argument| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(column)) => Some(column.clone()),
        _ => None,
    });
    plain.collect()
}

/// The name as DataFusion looks it up: in small letters unless it is quoted.
pub(super) fn normalized(name: &Ident) -> String {
    match name.quote_style {
        Some(_) => name.value.clone(),
        None => name.value.to_ascii_lowercase(),
    }
}

fn binary(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    Expr::BinaryOp {
        left: Box::new(left),
        op,
        right: Box::new(right),
    }
}

fn call(name: &str, arguments: Vec<Expr>) -> Expr {
    let arguments = arguments
        .into_iter()
        .map(|argument| FunctionArg::Unnamed(FunctionArgExpr::Expr(argument)));
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: arguments.collect(),
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}
