//! `KILL QUERY '<id>'` and `KILL SESSION '<id>'`, which DataFusion's parser does not know.

use std::fmt;

use datafusion::common::{DFSchema, DFSchemaRef};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
use squadron_proto::{Failure, FailureKind, QueryId};

/// How it is written.
const USAGE: &str = "write KILL QUERY '<query_id>' or KILL SESSION '<session_id>', with an id from system.queries or \
                     system.sessions";

/// The longest statement that is looked at, for it is done where its client waits. Ids are short.
const MAX_BYTES: usize = 16 * 1024;

/// What is to be stopped.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    Query(QueryId),
    Session(String),
}

/// As a plan, so that it can be prepared like any statement.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Kill {
    target: Target,
    schema: DFSchemaRef,
}

/// What the statement kills; none when it is another statement.
///
/// # Errors
/// `Invalid` when it begins like one and goes on otherwise.
pub(crate) fn parse(sql: &str) -> Result<Option<LogicalPlan>, Failure> {
    let sql = sql.trim_start();
    let begins = sql.get(..4);
    if !begins.is_some_and(|word| word.eq_ignore_ascii_case("kill")) {
        return Ok(None);
    }
    if sql.len() > MAX_BYTES {
        return match sql.as_bytes()[4].is_ascii_whitespace() {
            true => Err(Failure::new(FailureKind::Invalid, USAGE)),
            false => Ok(None),
        };
    }
    let Ok(tokens) = Tokenizer::new(&GenericDialect {}, sql).tokenize() else {
        return Err(Failure::new(FailureKind::Invalid, USAGE));
    };
    let meant = tokens
        .into_iter()
        .filter(|token| !matches!(token, Token::Whitespace(_) | Token::SemiColon));
    let words: Vec<_> = meant.collect();
    let [Token::Word(kill), rest @ ..] = words.as_slice() else {
        return Ok(None);
    };
    if !kill.value.eq_ignore_ascii_case("kill") {
        return Ok(None);
    }
    let target = target(rest).ok_or_else(|| Failure::new(FailureKind::Invalid, USAGE))?;
    let node = Kill {
        target,
        schema: DFSchemaRef::new(DFSchema::empty()),
    };
    Ok(Some(LogicalPlan::Extension(Extension {
        node: std::sync::Arc::new(node),
    })))
}

fn target(words: &[Token]) -> Option<Target> {
    let [Token::Word(kind), Token::SingleQuotedString(id)] = words else {
        return None;
    };
    match kind.value.to_ascii_lowercase().as_str() {
        "query" => Some(Target::Query(id.trim().parse().ok()?)),
        "session" => Some(Target::Session(id.trim().to_owned())),
        _ => None,
    }
}

/// What a plan kills, if it does.
pub(crate) fn target_of(plan: &LogicalPlan) -> Option<&Target> {
    match plan {
        LogicalPlan::Extension(extension) => {
            let kill = extension.node.as_any().downcast_ref::<Kill>();
            kill.map(|kill| &kill.target)
        }
        _ => None,
    }
}

impl PartialOrd for Kill {
    /// There is no order among them.
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        (self == other).then_some(std::cmp::Ordering::Equal)
    }
}

impl UserDefinedLogicalNodeCore for Kill {
    fn name(&self) -> &str {
        "Kill"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        Vec::new()
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Query(id) => write!(f, "Kill: query {id}"),
            Target::Session(id) => write!(f, "Kill: session {id}"),
        }
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, _: Vec<LogicalPlan>) -> DataFusionResult<Self> {
        Ok(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(sql: &str) -> Option<Target> {
        let plan = parse(sql).unwrap()?;
        Some(target_of(&plan).unwrap().clone())
    }

    #[test]
    fn kill_is_parsed_in_any_spelling() {
        let id = QueryId::new();
        for sql in [
            format!("KILL QUERY '{id}'"),
            format!("  kill\n query /* now */ '{id}' ;"),
        ] {
            assert_eq!(target(&sql), Some(Target::Query(id)), "{sql}");
        }
        assert_eq!(target("KILL SESSION 'ab12'"), Some(Target::Session("ab12".into())));
    }

    #[test]
    fn other_statements_are_no_kill() {
        for sql in ["SELECT 1", "killer", "", "KIL", "ﬀﬀ"] {
            assert_eq!(target(sql), None, "{sql}");
        }
    }

    #[test]
    fn malformed_kill_says_how_to_write_it() {
        for sql in [
            "KILL",
            "KILL QUERY",
            "KILL QUERY 7",
            "KILL QUERY 'x'",
            "KILL TABLE 't'",
            "KILL QUERY 'a' 'b'",
        ] {
            let failure = parse(sql).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Invalid, "{sql}");
            assert!(failure.message.contains("KILL SESSION"), "{failure}");
        }
    }
}
