//! What a user probably meant by a name that is not known: the nearest in spelling, the same each time, or none.

use datafusion::common::{Column, SchemaError};
use datafusion::execution::SessionState;
use squadron_proto::{Failure, FailureKind};
use squadron_shuffle::sentences::sentence;
use squadron_shuffle::type_names::quoted;

use crate::catalog::Catalog;
use crate::config::nearest;
use crate::planner::schema::{DUPLICATE_MARK, without_mark};

/// How many names are listed where none is near.
const MAX_LISTED: usize = 20;

/// Adds the nearest name to what DataFusion says of a table or function that it does not know.
pub(super) fn with_hint(state: &SessionState, catalog: &Catalog, mut failure: Failure) -> Failure {
    if let Some((name, place)) = unknown_table(&failure.message) {
        failure.kind = FailureKind::NotFound;
        let near = catalog.nearest_table(name).filter(|near| near != name);
        failure.message = match near {
            Some(near) => format!("table '{name}' not found{place}; did you mean '{near}'?"),
            None => format!("table '{name}' not found{place}; SHOW TABLES lists what there is"),
        };
    } else if let Some((name, place)) = unknown_function(&failure.message) {
        let near = nearest_function(state, name);
        failure.message = match near {
            Some(known) if known == name => misused(state, name, place),
            Some(near) => format!("there is no function {name}{place}; did you mean {near}?"),
            None => format!("there is no function {name}{place}; SHOW FUNCTIONS lists those there are"),
        };
    }
    failure
}

/// The name in DataFusion's "table 'x' not found", without the parts that go without saying, and the place.
fn unknown_table(message: &str) -> Option<(&str, &str)> {
    let (before, rest) = message.split_once("table '")?;
    let (name, rest) = rest.split_once('\'')?;
    let name = name.strip_prefix("datafusion.public.").unwrap_or(name);
    let is_table = before.is_empty() || before.ends_with(' ');
    rest.starts_with(" not found")
        .then(|| (name, place(rest)))
        .filter(|_| is_table)
}

/// The name of a function that is not known, and the place.
fn unknown_function(message: &str) -> Option<(&str, &str)> {
    let begins = ["Invalid function '", "table function '"];
    let (name, rest) = begins
        .iter()
        .find_map(|begin| message.strip_prefix(begin)?.split_once('\''))?;
    Some((name, place(rest)))
}

/// The place at the end of a message, with the word before it.
fn place(rest: &str) -> &str {
    rest.rfind(" at Line: ").map_or("", |at| &rest[at..])
}

/// A function that is known, in a place where its kind cannot stand.
fn misused(state: &SessionState, name: &str, place: &str) -> String {
    if state.window_functions().contains_key(name) {
        format!("{name} is a window function{place}; write {name}(...) OVER (ORDER BY ...)")
    } else if state.table_functions().contains_key(name) {
        format!("{name} makes rows{place}; write SELECT * FROM {name}(...)")
    } else {
        format!("{name} makes a value and no rows{place}; write SELECT {name}(...)")
    }
}

fn nearest_function<'a>(state: &'a SessionState, name: &str) -> Option<&'a str> {
    let scalar = state.scalar_functions().keys();
    let aggregate = state.aggregate_functions().keys();
    let window = state.window_functions().keys();
    let table = state.table_functions().keys();
    let names = scalar.chain(aggregate).chain(window).chain(table);
    // Names that begin so are no names for users.
    nearest(name, names.map(String::as_str).filter(|name| !name.starts_with('_')))
}

/// What is wrong with the name of a column, as a sentence.
pub(super) fn about_column(error: &SchemaError) -> String {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => unknown_column(field, valid_fields),
        SchemaError::AmbiguousReference { field } => format!(
            "the column {} is ambiguous: several tables have it; write the table before it, as in t.{}",
            quoted(without_mark(&field.name)),
            quoted(without_mark(&field.name))
        ),
        SchemaError::DuplicateQualifiedField { qualifier, name } => format!(
            "{}.{} comes twice; give each table or column an alias of its own",
            qualifier,
            quoted(without_mark(name))
        ),
        SchemaError::DuplicateUnqualifiedField { name } => {
            format!(
                "two columns are named {}; give one an alias",
                sentence(without_mark(name))
            )
        }
    }
}

/// What the planner does wrong with a column of a statement whose names are right.
pub(super) fn about_lost_column(error: &SchemaError) -> String {
    let (what, name) = match error {
        SchemaError::FieldNotFound { field, .. } => ("because the planner loses the column", &field.name),
        SchemaError::AmbiguousReference { field } => ("because the planner confuses columns named", &field.name),
        SchemaError::DuplicateQualifiedField { name, .. } | SchemaError::DuplicateUnqualifiedField { name } => {
            ("because the planner gives one name to two columns,", name)
        }
    };
    format!("{what} {}", sentence(without_mark(name)))
}

fn unknown_column(field: &Column, valid: &[Column]) -> String {
    let name = field.name.as_str();
    let is_marked = |column: &Column| {
        column
            .name
            .strip_prefix(name)
            .is_some_and(|rest| rest.starts_with(DUPLICATE_MARK))
    };
    if valid.iter().any(is_marked) {
        let name = quoted(name);
        return format!("the name {name} is ambiguous: several columns have it; give each an alias of its own");
    }
    let told = match &field.relation {
        Some(relation) => format!("{relation}.{}", quoted(name)),
        None => quoted(name),
    };
    let of_table = |column: &&Column| match (&field.relation, &column.relation) {
        (Some(wanted), Some(table)) => wanted.resolved_eq(table) || wanted.table() == table.table(),
        _ => field.relation.is_none(),
    };
    let columns: Vec<&Column> = valid.iter().filter(of_table).collect();
    if let (Some(relation), true) = (&field.relation, columns.is_empty()) {
        let mut tables: Vec<&str> = valid
            .iter()
            .filter_map(|column| column.relation.as_ref().map(|table| table.table()))
            .collect();
        tables.sort_unstable();
        tables.dedup();
        let table = relation.table();
        return match nearest(table, tables.iter().copied()) {
            Some(near) => format!(
                "column {told} not found: FROM has no {table}; did you mean {}?",
                quoted(near)
            ),
            None if tables.is_empty() => format!("column {told} not found: no column can be used in this place"),
            None => format!(
                "column {told} not found: FROM has no {table}{}",
                list("; it has ", &tables)
            ),
        };
    }
    let mut names: Vec<&str> = columns.iter().map(|column| without_mark(&column.name)).collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return format!("column {told} not found: no column can be used in this place");
    }
    match nearest(name, names.iter().copied()) {
        Some(near) if near.eq_ignore_ascii_case(name) => format!(
            "column {told} not found; did you mean {}? A name without quotes is read in small letters",
            quoted(near)
        ),
        Some(near) => format!("column {told} not found; did you mean {}?", quoted(near)),
        None => format!("column {told} not found{}", list("; there are ", &names)),
    }
}

fn list(begin: &str, names: &[&str]) -> String {
    if names.is_empty() {
        return String::new();
    }
    let shown: Vec<_> = names.iter().take(MAX_LISTED).map(|name| quoted(name)).collect();
    let more = if names.len() > MAX_LISTED { ", ..." } else { "" };
    format!("{begin}{}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_places_are_found() {
        assert_eq!(
            unknown_table("table 'datafusion.public.linitem' not found at Line: 1, Column: 8"),
            Some(("linitem", " at Line: 1, Column: 8"))
        );
        assert_eq!(unknown_table("column 'x' not found"), None);
        assert_eq!(
            unknown_function("Invalid function 'summ'.\nDid you mean 'cosh'? at Line: 1, Column: 8"),
            Some(("summ", " at Line: 1, Column: 8"))
        );
        assert_eq!(unknown_function("table function 'rang' not found"), Some(("rang", "")));
    }

    #[test]
    fn unknown_columns_suggest_the_nearest() {
        let valid = [
            Column::new(Some("a"), "k"),
            Column::new(Some("a"), "price"),
            Column::new(Some("b"), "prize"),
            Column::new(Some("b"), "Total"),
        ];
        for (field, says) in [
            (
                Column::new_unqualified("pricf"),
                "column pricf not found; did you mean price?",
            ),
            (
                Column::new(Some("b"), "prizf"),
                "column b.prizf not found; did you mean prize?",
            ),
            (
                Column::new_unqualified("total"),
                "column total not found; did you mean \"Total\"? A name without quotes is read in small letters",
            ),
            (
                Column::new_unqualified("something"),
                "column something not found; there are \"Total\", k, price, prize",
            ),
            (
                Column::new(Some("zebra"), "k"),
                "column zebra.k not found: FROM has no zebra; it has a, b",
            ),
        ] {
            let error = SchemaError::FieldNotFound {
                field: Box::new(field),
                valid_fields: valid.to_vec(),
            };
            assert_eq!(about_column(&error), says);
        }
    }
}
