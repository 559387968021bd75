//! The options of a session, set in one way for SQL, Flight and headers.
//!
//! ```text
//! SQL: SET, RESET ──────────────.
//! Flight: SetSessionOptions ─────>── set ──> the session's configuration, checked
//! headers of a driver ──────────'
//! ```
//!
//! `catalog` and `schema` are the names that drivers use for `datafusion.catalog.default_catalog` and
//! `datafusion.catalog.default_schema`. NULL, DEFAULT and RESET restore the value of the server's start.

use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

use datafusion::config::{ConfigField, ConfigOptions};
use datafusion::error::Result;
use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::{ResetStatement, Statement};
use datafusion::sql::sqlparser::ast::{Expr, Ident, Set, Statement as SqlStatement, Value};
use squadron_proto::{Failure, FailureKind};

use super::SquadronOptions;
use crate::config::nearest;

/// The current catalog, by the name drivers use.
pub const CATALOG: &str = "catalog";
/// The current schema, by the name drivers use.
pub const SCHEMA: &str = "schema";

const DEFAULT_CATALOG: &str = "datafusion.catalog.default_catalog";
const DEFAULT_SCHEMA: &str = "datafusion.catalog.default_schema";
/// Memory, disk and caches: options of the server, although DataFusion would let a session set them.
const RUNTIME: &str = "datafusion.runtime.";
/// The longest value of an option, in bytes.
const MAX_VALUE_BYTES: usize = 64 * 1024;

/// Why an option was not set, as a sentence for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OptionError {
    /// There is no such option.
    Name(String),
    /// The option cannot have that value.
    Value(String),
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Name(why) | Self::Value(why)) = self;
        f.write_str(why)
    }
}

impl From<OptionError> for Failure {
    fn from(error: OptionError) -> Self {
        Self::new(FailureKind::Invalid, error.to_string())
    }
}

/// Sets one option; without a value to the value that it has in `defaults`.
///
/// # Errors
/// For a wrong name or value; nothing has changed then.
pub fn set(
    context: &SessionContext,
    defaults: &ConfigOptions,
    name: &str,
    value: Option<&str>,
) -> Result<(), OptionError> {
    let key = full_name(name);
    let mut entries = defaults.entries().into_iter();
    let default = entries
        .find(|entry| entry.key == key)
        .ok_or_else(|| OptionError::Name(no_such_option(name)))?
        .value;
    let is_namespace = matches!(key.as_str(), DEFAULT_CATALOG | DEFAULT_SCHEMA);
    // A catalog or schema may be called `default`.
    let value = value.filter(|value| is_namespace || !value.eq_ignore_ascii_case("default"));
    if let Some(value) = value {
        check_value(context, name, &key, value)?;
    }
    let state = context.state_ref();
    let mut state = state.write();
    let mut options = state.config().options().as_ref().clone();
    let changed = match value.or(default.as_deref()) {
        Some(value) => options.set(&key, value),
        None => options.reset(&key),
    };
    changed.map_err(|error| {
        let shown = value.unwrap_or("its default");
        let why = error.strip_backtrace();
        OptionError::Value(format!("{name} cannot be set to {shown}: {why}"))
    })?;
    *state.config_mut().options_mut() = options;
    refresh_functions(&mut state).map_err(|error| OptionError::Value(format!("{name} cannot be set: {error}")))
}

/// All options with their values, under their full names and under the names that drivers use.
pub fn all(context: &SessionContext) -> HashMap<String, Option<String>> {
    let config = context.copied_config();
    let defaults = &config.options().catalog;
    let mut all: HashMap<_, _> = config
        .options()
        .entries()
        .into_iter()
        .map(|entry| (entry.key, entry.value))
        .collect();
    all.insert(CATALOG.into(), Some(defaults.default_catalog.clone()));
    all.insert(SCHEMA.into(), Some(defaults.default_schema.clone()));
    all
}

/// The option that a client probably meant by a name without `squadron.` or `datafusion.`.
pub fn suggest_option(name: &str) -> Option<&'static str> {
    static BY_LAST_WORD: LazyLock<HashMap<String, String>> = LazyLock::new(|| {
        let mut options = ConfigOptions::new();
        options.extensions.insert(SquadronOptions::default());
        let keys = options.entries().into_iter().map(|entry| entry.key);
        keys.filter_map(|key| {
            let word = key.rsplit('.').next()?;
            // A single word may be a header for another program; Squadron's own options are worth a hint nonetheless.
            let is_specific = word.contains('_') || key.starts_with("squadron.");
            is_specific.then(|| (word.to_owned(), key.clone()))
        })
        .collect()
    });
    BY_LAST_WORD.get(name).map(String::as_str)
}

/// Rewrites forms of SET and SHOW that DataFusion does not support to ones that it does.
pub fn normalize(statement: Statement) -> Statement {
    let Statement::Statement(statement) = statement else {
        return statement;
    };
    match *statement {
        SqlStatement::Set(Set::SingleAssignment { variable, values, .. }) if is_null(&values) => {
            Statement::Reset(ResetStatement::Variable(variable))
        }
        SqlStatement::ShowVariable { variable } => {
            let variable = match variable.as_slice() {
                [name] if full_name(&name.value) != name.value.to_lowercase() => {
                    full_name(&name.value).split('.').map(Ident::new).collect()
                }
                _ => variable,
            };
            Statement::Statement(Box::new(SqlStatement::ShowVariable { variable }))
        }
        other => Statement::Statement(Box::new(other)),
    }
}

fn is_null(values: &[Expr]) -> bool {
    matches!(values, [Expr::Value(value)] if value.value == Value::Null)
}

/// Updates functions that depend on options.
///
/// # Errors
/// As DataFusion's registry of functions.
fn refresh_functions(state: &mut SessionState) -> Result<()> {
    let options = std::sync::Arc::clone(state.config().options());
    let updated: Vec<_> = state
        .scalar_functions()
        .values()
        .filter_map(|function| function.inner().with_updated_config(&options))
        .collect();
    for function in updated {
        state.register_udf(function.into())?;
    }
    Ok(())
}

fn full_name(name: &str) -> String {
    match name.to_lowercase().as_str() {
        CATALOG => DEFAULT_CATALOG.to_owned(),
        SCHEMA => DEFAULT_SCHEMA.to_owned(),
        key => key.to_owned(),
    }
}

fn no_such_option(name: &str) -> String {
    let name: String = name.chars().take(100).collect();
    if name.starts_with(RUNTIME) {
        return format!("{name} belongs to the server; it is set where the server is started");
    }
    let mut options = ConfigOptions::new();
    options.extensions.insert(SquadronOptions::default());
    let keys: Vec<_> = options.entries().into_iter().map(|entry| entry.key).collect();
    let near = suggest_option(&name).or_else(|| nearest(&name, keys.iter().map(String::as_str)));
    match near {
        Some(near) => format!("there is no option {name}; did you mean {near}?"),
        None => format!("there is no option {name}; SHOW ALL lists those there are"),
    }
}

fn check_value(context: &SessionContext, name: &str, key: &str, value: &str) -> Result<(), OptionError> {
    if value.len() > MAX_VALUE_BYTES {
        return Err(OptionError::Value(format!(
            "the value of {name} has {} bytes; {MAX_VALUE_BYTES} are the most",
            value.len()
        )));
    }
    let current = || context.copied_config().options().catalog.default_catalog.clone();
    let (exists, list) = match key {
        DEFAULT_CATALOG => (context.catalog(value).is_some(), context.catalog_names()),
        DEFAULT_SCHEMA => {
            let catalog = context.catalog(&current());
            let schema = catalog.as_ref().and_then(|catalog| catalog.schema(value));
            let schemas = catalog.map(|catalog| catalog.schema_names());
            (schema.is_some(), schemas.unwrap_or_default())
        }
        _ => return Ok(()),
    };
    if exists {
        return Ok(());
    }
    let shown: String = value.chars().take(100).collect();
    let what = key.rsplit('_').next().unwrap_or_default();
    Err(OptionError::Value(format!(
        "there is no {what} {shown:?}; there is {}",
        list.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionConfig;
    use datafusion::sql::parser::DFParser;

    use super::*;

    const BATCH_SIZE: &str = "datafusion.execution.batch_size";

    /// A session of a server whose batch size is 99.
    fn session() -> (SessionContext, ConfigOptions) {
        let config = SessionConfig::new()
            .with_batch_size(99)
            .with_option_extension(SquadronOptions::default());
        let defaults = config.options().as_ref().clone();
        (SessionContext::new_with_config(config), defaults)
    }

    fn value(context: &SessionContext, name: &str) -> Option<String> {
        all(context).remove(name).flatten()
    }

    #[test]
    fn reset_restores_the_server_default() {
        let (context, defaults) = session();
        for (name, new, shown, default) in [
            (BATCH_SIZE, "17", "17", Some("99")),
            ("squadron.query_timeout", "2s", "2000ms", Some("0s")),
            ("squadron.endpoints", "parallel", "parallel", Some("one")),
            ("datafusion.catalog.location", "x", "x", None),
        ] {
            for reset in [None, Some("DEFAULT")] {
                set(&context, &defaults, name, Some(new)).unwrap();
                assert_eq!(value(&context, name).as_deref(), Some(shown), "{name}");
                set(&context, &defaults, name, reset).unwrap();
                assert_eq!(value(&context, name).as_deref(), default, "{name}");
            }
        }
    }

    #[test]
    fn catalog_and_schema_must_exist() {
        let (context, defaults) = session();
        for (name, right) in [
            (CATALOG, "datafusion"),
            (DEFAULT_CATALOG, "datafusion"),
            (SCHEMA, "public"),
            (DEFAULT_SCHEMA, "public"),
        ] {
            set(&context, &defaults, name, Some(right)).unwrap();
            for wrong in ["nowhere", "default"] {
                let wrong = set(&context, &defaults, name, Some(wrong)).unwrap_err();
                assert!(
                    matches!(&wrong, OptionError::Value(why) if why.contains(right)),
                    "{wrong}"
                );
            }
            assert_eq!(value(&context, name).as_deref(), Some(right));
        }
    }

    #[test]
    fn refused_option_changes_nothing() {
        let (context, defaults) = session();
        for (name, given, says) in [
            ("colour", "red", "SHOW ALL"),
            ("query_timeout", "1s", "squadron.query_timeout"),
            ("batch_size", "1", BATCH_SIZE),
            ("datafusion.runtime.memory_limit", "1T", "belongs to the server"),
        ] {
            let wrong = set(&context, &defaults, name, Some(given)).unwrap_err();
            assert!(
                matches!(&wrong, OptionError::Name(why) if why.contains(says)),
                "{wrong}"
            );
        }
        for (name, given, says) in [
            (BATCH_SIZE, "many", BATCH_SIZE),
            ("squadron.priority", "101", "-100 to 100"),
            ("squadron.endpoints", &"x".repeat(MAX_VALUE_BYTES + 1), "bytes"),
        ] {
            let before = value(&context, name);
            let wrong = set(&context, &defaults, name, Some(given)).unwrap_err();
            assert!(
                matches!(&wrong, OptionError::Value(why) if why.contains(says)),
                "{wrong}"
            );
            assert_eq!(value(&context, name), before);
        }
    }

    #[test]
    fn normalize_maps_null_and_driver_names() {
        for (sql, same) in [
            ("SET squadron.priority = NULL", "RESET squadron.priority"),
            ("SHOW catalog", "SHOW datafusion.catalog.default_catalog"),
            ("SHOW schema", "SHOW datafusion.catalog.default_schema"),
            ("SET squadron.priority = 1", "SET squadron.priority = 1"),
            ("SHOW ALL", "SHOW ALL"),
            ("SELECT NULL", "SELECT NULL"),
        ] {
            let parse = |sql| DFParser::parse_sql(sql).unwrap().pop_front().unwrap();
            assert_eq!(normalize(parse(sql)).to_string(), parse(same).to_string(), "{sql}");
        }
    }

    #[test]
    fn unrelated_headers_suggest_no_option() {
        assert_eq!(suggest_option("query_timeout"), Some("squadron.query_timeout"));
        assert_eq!(suggest_option("priority"), Some("squadron.priority"));
        assert_eq!(suggest_option("batch_size"), Some(BATCH_SIZE));
        for name in ["x-forwarded-for", "location", "format", "user-agent", "te"] {
            assert_eq!(suggest_option(name), None, "{name}");
        }
    }
}
