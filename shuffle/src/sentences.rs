//! What DataFusion says of a statement, as a sentence that tells its user what is wrong and what works instead.
//!
//! DataFusion shows parts of a statement as its program knows them: syntax trees, signatures, positions that begin with 0.
//! The rules here know the beginnings of such messages; what no rule knows loses its trees.

use std::borrow::Cow;

use crate::type_names::in_sql_names;

/// The message of an error as a sentence.
pub fn sentence(message: &str) -> String {
    let message = without_wrappings(message);
    let (message, place) = match message.rfind(" at Line: ") {
        Some(at) => message.split_at(at),
        None => (message.as_ref(), ""),
    };
    let told = RULES.iter().find_map(|rule| rule(message));
    let told = told.map_or_else(|| without_trees(message), Cow::Owned);
    in_sql_names(&format!("{told}{place}")).into_owned()
}

/// The message without what DataFusion puts before and behind it.
fn without_wrappings(message: &str) -> Cow<'_, str> {
    const BEFORE: [&str; 6] = [
        "Invalid argument error: ",
        "Error during planning: ",
        "Execution error: ",
        "Internal error: ",
        "Schema error: ",
        "This feature is not implemented: ",
    ];
    const BUG: &str = "\nThis issue was likely caused by a bug in DataFusion's code.";
    let mut told = Cow::Borrowed(message);
    if let Some((before, rest)) = message.split_once(BUG) {
        let after = rest.split_once("/issues").map_or("", |(_, after)| after);
        let before = before.strip_suffix('.').unwrap_or(before);
        told = Cow::Owned(format!("{before}{after}"));
    }
    for word in BEFORE {
        if told.contains(word) {
            told = Cow::Owned(told.replace(word, ""));
        }
    }
    told
}

/// A rule gives the sentence for the messages that it knows.
type Rule = fn(&str) -> Option<String>;

const RULES: [Rule; 10] = [
    signature,
    grouping,
    misplaced,
    unsupported,
    values,
    equal_names,
    subquery,
    window,
    format,
    word,
];

/// A call with arguments that no function takes.
fn signature(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("No function matches the given name and argument types '")?;
    let (call, rest) = rest.split_once("'. ")?;
    let name = call.split('(').next().unwrap_or(call);
    let candidates = rest.split_once("Candidate functions:").map_or("", |(_, rest)| rest);
    let mut forms: Vec<String> = Vec::new();
    for form in candidates.lines().map(str::trim).filter(|form| !form.is_empty()) {
        let form = readable_form(form);
        if let Some(form) = form.filter(|form| !forms.contains(form)) {
            forms.push(form);
        }
    }
    let there_are = match forms.is_empty() {
        true => format!("SHOW FUNCTIONS LIKE '{name}' tells how it is called"),
        false => format!("there is {}", forms.join(", ")),
    };
    Some(format!(
        "the function {call} is not defined; {there_are}; CAST changes the type of an argument"
    ))
}

/// A signature in words of SQL; none where it says nothing to users.
fn readable_form(form: &str) -> Option<String> {
    const WORDS: [(&str, &str); 8] = [
        ("String", "text"),
        ("Numeric", "number"),
        ("Integer", "integer"),
        ("Decimal", "decimal"),
        ("Float", "double precision"),
        ("Timestamp", "timestamp"),
        ("Duration", "interval"),
        ("Interval", "interval"),
    ];
    const HIDDEN: [&str; 4] = ["UserDefined", "Coercible", "Comparable", "VariadicAny"];
    if HIDDEN.iter().any(|word| form.contains(word)) {
        return None;
    }
    let (name, arguments) = form.split_once('(')?;
    let arguments = arguments.strip_suffix(')').unwrap_or(arguments);
    let mut told = Vec::new();
    for argument in arguments.split(", ") {
        // Of types that would do, the first is the widest.
        let argument = argument.split('/').next().unwrap_or(argument);
        let known = WORDS.iter().find(|(word, _)| {
            let rest = argument.strip_prefix(word);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('('))
        });
        told.push(known.map_or(argument, |(_, told)| told));
    }
    let form = format!("{name}({})", told.join(", "));
    Some(in_sql_names(&form).into_owned())
}

/// A column beside aggregates.
fn grouping(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("must be in GROUP BY or an aggregate function: ")?;
    let (_, rest) = rest.split_once("column \"")?;
    let (column, _) = rest.split_once("\" must appear")?;
    Some(format!(
        "the column {column} must stand in GROUP BY, or within an aggregate function such as max({column})"
    ))
}

/// An expression that DataFusion plans in some places only.
fn misplaced(message: &str) -> Option<String> {
    let tree = message.strip_prefix("Physical plan does not support logical expression ")?;
    let head = tree.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    Some(match head {
        "OuterReferenceColumn" => format!(
            "a subquery uses the column {} of the query around it in a way that is not supported; join the two, or compute it \
             in a WITH query first",
            column_in(tree).unwrap_or_default()
        ),
        "ScalarSubquery" => {
            "a subquery that gives a value for each row cannot stand here as it is; compute it in a WITH query \
                             with GROUP BY, and join that"
                .to_owned()
        }
        "Exists" | "InSubquery" | "SetComparison" => {
            "EXISTS, IN, ANY or ALL with a subquery cannot stand here; use it in WHERE, \
                                                      or join the subquery"
                .to_owned()
        }
        "WindowFunction" => {
            "a window function cannot stand here; filter by its result with QUALIFY, or in a query around it".to_owned()
        }
        "AggregateFunction" => {
            "an aggregate function cannot stand here; filter by its result with HAVING, or in a query around it"
                .to_owned()
        }
        "Placeholder" => "a parameter has no value; bind one".to_owned(),
        "Unnest" => "unnest cannot stand here; use it in SELECT or FROM".to_owned(),
        "GroupingSet" => "GROUPING SETS, ROLLUP and CUBE cannot stand here; use them in GROUP BY alone".to_owned(),
        "Wildcard" => "* cannot stand here; name the columns".to_owned(),
        head => format!("{} cannot stand here", words(head)),
    })
}

/// The first column of a tree.
fn column_in(tree: &str) -> Option<String> {
    let (_, column) = tree.split_once("Column { ")?;
    let text = |key: &str| {
        let (_, rest) = column.split_once(key)?;
        Some(rest.split('"').next().unwrap_or_default().to_owned())
    };
    let name = text("name: \"")?;
    Some(match text("table: \"") {
        Some(table) => format!("{table}.{name}"),
        None => name,
    })
}

/// What is not supported, told by a part of the statement.
fn unsupported(message: &str) -> Option<String> {
    const BEGINNINGS: [(&str, &str); 9] = [
        ("Unsupported ast node in sqltorel: ", ""),
        ("Unsupported ast node ", ""),
        ("Unsupported SQL statement: ", ""),
        ("Unsupported binary operator: ", "the operator "),
        ("Unsupported SQL unary operator ", "the operator "),
        ("Unsupported JOIN operator ", "the join "),
        ("Unsupported SQL type ", "the type "),
        ("Unsupported expression ", ""),
        ("Unsupported function argument: ", "the argument "),
    ];
    if message.starts_with("SET variant not implemented yet: ") {
        let told = match message.contains("SetTimeZone") {
            true => "SET TIME ZONE is not supported; write SET datafusion.execution.time_zone = 'Europe/Berlin'",
            false => "this form of SET is not supported; write SET name = value",
        };
        return Some(told.to_owned());
    }
    let (begin, what) = BEGINNINGS.iter().find(|(begin, _)| message.starts_with(begin))?;
    let rest = message[begin.len()..].trim_end_matches(" in create_relation");
    let shown = match shows_tree(rest) || (!what.is_empty() && !rest.contains(' ')) {
        true if *what == "the type " => rest.to_owned(),
        true => words(rest.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default()),
        false => cut(rest),
    };
    Some(format!("{what}{shown} is not supported"))
}

/// Rows of VALUES that do not fit together.
fn values(message: &str) -> Option<String> {
    let number = |text: &str| text.trim().parse::<u64>().ok();
    if let Some(rest) = message.strip_prefix("Inconsistent data length across values list: got ") {
        let (got, rest) = rest.split_once(" values in row ")?;
        let (row, wanted) = rest.split_once(" but expected ")?;
        let row = number(row)? + 1;
        let values = if got == "1" { "value" } else { "values" };
        return Some(format!("row {row} of VALUES has {got} {values}, and not {wanted}"));
    }
    let rest = message.strip_prefix("Inconsistent data type across values list at row ")?;
    let (row, rest) = rest.split_once(" column ")?;
    let (column, rest) = rest.split_once(". Was ")?;
    let (before, found) = rest.split_once(" but found ")?;
    let (row, column) = (number(row)? + 1, number(column)? + 1);
    Some(format!(
        "value {column} in row {row} of VALUES is {found}, and in the rows before it {before}; CAST makes one type of them"
    ))
}

/// Two columns that come to one name.
fn equal_names(message: &str) -> Option<String> {
    let rest = message.strip_prefix("Projections require unique expression names but the expression \"")?;
    let (first, rest) = rest.split_once("\" at position ")?;
    let (_, rest) = rest.split_once(" and \"")?;
    let (second, _) = rest.split_once("\" at position ")?;
    Some(format!(
        "the planner gives one name to {first} and {second}; compute one of them in a subquery, with an alias"
    ))
}

/// Subqueries in the places of values.
fn subquery(message: &str) -> Option<String> {
    if let Some(columns) = message.strip_prefix("Too many columns! The subquery should only return one column: ") {
        return Some(format!(
            "a subquery that stands for a value gives one column, and not {columns}; compare rows with EXISTS (SELECT 1 FROM ... \
             WHERE ...)"
        ));
    }
    let told = match message {
        "Correlated scalar subquery can only be used in Projection, Filter, Aggregate plan nodes" => {
            "a subquery that uses columns of the query around it can stand in SELECT, WHERE and GROUP BY only; compute it there, \
             with an alias"
        }
        "Only identifiers and literals are supported in tuples" => {
            "a row in brackets, such as (a, b), takes columns and literals only; compute other values in a subquery"
        }
        _ => return None,
    };
    Some(told.to_owned())
}

/// Window functions.
fn window(message: &str) -> Option<String> {
    if let Some((_, rest)) = message.split_once("`retract_batch` is not implemented: ") {
        let aggregate = rest.split(" ORDER BY ").next().unwrap_or(rest);
        return Some(format!(
            "{aggregate} cannot be computed over a frame whose start moves; begin the frame with UNBOUNDED PRECEDING"
        ));
    }
    if let Some(rest) = message.strip_prefix("There is only support Literal types for field at idx: ") {
        let index: u64 = rest.split(' ').next()?.parse().ok()?;
        return Some(format!(
            "argument {} of a window function must be a literal; CASE WHEN row_number() OVER w > 2 THEN lag(x, 2) OVER w ELSE y END \
             gives another column of the row in place of what is not there",
            index + 1
        ));
    }
    if message.ends_with("Expected: ), found: EXCLUDE") {
        return Some(
            "EXCLUDE of a window frame is not supported; count(x) OVER w - 1 and sum(x) OVER w - x leave the row itself out"
                .to_owned(),
        );
    }
    let data_type = message.strip_prefix("Cannot run range queries on datatype: ")?;
    Some(format!(
        "RANGE cannot be computed over {data_type}; ROWS can, and RANGE over numbers, dates and timestamps"
    ))
}

/// Formats and options of files.
fn format(message: &str) -> Option<String> {
    let (before, format) = match message.split_once("Unable to create table with format ") {
        Some((before, rest)) => (before, rest.split('!').next().unwrap_or(rest)),
        None => (
            "",
            message.strip_prefix("There is no registered file format with ext ")?,
        ),
    };
    Some(format!(
        "{before}there is no file format {format}; there are PARQUET, CSV, JSON, ARROW and AVRO"
    ))
}

/// Single messages that say little by themselves.
fn word(message: &str) -> Option<String> {
    if let Some(rest) = message.strip_prefix("variable [\"") {
        let name = rest.split('"').next().unwrap_or_default();
        return Some(format!(
            "variables such as {name} are not supported; write ? or $1 and bind a value"
        ));
    }
    if let Some((name, _)) = message
        .strip_prefix('\'')
        .and_then(|rest| rest.split_once("' is not a variable which can be viewed with 'SHOW'"))
    {
        return Some(format!(
            "SHOW knows no {name}; SHOW ALL lists the options, and SHOW takes TABLES, VIEWS, COLUMNS FROM t, CREATE TABLE t, \
             SCHEMAS and FUNCTIONS"
        ));
    }
    if let Some(rest) = message.strip_prefix("Cannot access field at argument 1: type ") {
        let data_type = rest.split(" is not ").next().unwrap_or(rest);
        return Some(format!(
            "a field is taken of a value of type {data_type}, which has none; where a column has the name of a table, x.y is field y of \
             column x: give the table another alias"
        ));
    }
    if let Some(table) = message.strip_prefix("Invalid qualifier ") {
        return Some(format!("FROM has no {table}, so there is no {table}.*"));
    }
    let told = match message {
        "TOP" => "TOP is not supported; write LIMIT at the end of the query",
        "Column count doesn't match insert query!" => "INSERT names another number of columns than its rows have",
        "Function factory has not been configured" => "CREATE FUNCTION is not supported",
        "Format not explicitly set and unable to get file extension! Use STORED AS to define file format." => {
            "the format is not told by the name of the file; write STORED AS PARQUET, CSV or JSON"
        }
        clause if !clause.is_empty() && clause.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b' ') => {
            return Some(format!("{clause} is not supported"));
        }
        _ => return None,
    };
    Some(told.to_owned())
}

/// Whether a text has parts as Rust shows them: `Name { key: value }`, `Name(Other(...))`, `["a"]`.
pub fn shows_tree(text: &str) -> bool {
    tree_at(text).is_some()
}

/// The first tree in a text: where it begins and ends.
fn tree_at(text: &str) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let is_first = at == 0 || !bytes[at - 1].is_ascii_alphanumeric();
        if bytes[at] == b'\'' && is_first {
            // What stands in quotes is the user's.
            let length = text[at + 1..].find('\'').map_or(0, |length| length + 1);
            at += length + 1;
            continue;
        }
        let begins = bytes[at].is_ascii_uppercase() && is_first;
        let length = bytes[at..]
            .iter()
            .take_while(|byte| byte.is_ascii_alphanumeric())
            .count();
        let word = &text[at..at + length];
        let is_name = begins && word.bytes().any(|byte| byte.is_ascii_lowercase());
        let rest = &text[at + length..];
        let opens = rest.starts_with(" { ") || (rest.starts_with('(') && begins_tree(&rest[1..]));
        if is_name && opens {
            return Some((at, at + length + end_of_tree(rest)));
        }
        at += length.max(1);
        while at < bytes.len() && !text.is_char_boundary(at) {
            at += 1;
        }
    }
    None
}

/// Whether what stands in brackets is a tree too: a name with brackets of its own, or one of Rust's signs.
fn begins_tree(inner: &str) -> bool {
    let length = inner.bytes().take_while(|byte| byte.is_ascii_alphanumeric()).count();
    let begins = inner.starts_with(|first: char| first.is_ascii_uppercase());
    let rest = &inner[length..];
    inner.starts_with("<subquery>")
        || inner.starts_with('[')
        || (begins && (rest.starts_with('(') || rest.starts_with(" { ")))
}

/// How long the group in brackets is with which a text begins, after blanks.
fn end_of_tree(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut in_text = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'"' => in_text = !in_text,
            b'(' | b'[' | b'{' if !in_text => depth += 1,
            b')' | b']' | b'}' if !in_text => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    text.len()
}

/// The text with the heads of its trees alone, as words.
fn without_trees(text: &str) -> Cow<'_, str> {
    let Some((start, end)) = tree_at(text) else {
        return Cow::Borrowed(text);
    };
    let tree = &text[start..end];
    let told = value_in(tree)
        .or_else(|| column_in(tree))
        .unwrap_or_else(|| words(tree.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default()));
    let rest = without_trees(&text[end..]);
    Cow::Owned(format!("{}{told}{rest}", &text[..start]))
}

/// The word or text that a small tree holds.
fn value_in(tree: &str) -> Option<String> {
    let (_, rest) = tree.split_once("value: \"")?;
    let (value, rest) = rest.split_once('"')?;
    (!rest.contains("value: \"")).then(|| value.to_owned())
}

/// `CrossApply` as CROSS APPLY.
fn words(name: &str) -> String {
    let mut told = String::new();
    for (at, character) in name.char_indices() {
        if character.is_ascii_uppercase() && at > 0 {
            told.push(' ');
        }
        told.push(character.to_ascii_uppercase());
    }
    told
}

/// The beginning of a statement.
fn cut(text: &str) -> String {
    const MAX: usize = 100;
    match text.char_indices().nth(MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_become_sentences() {
        for (message, told) in [
            (
                "Internal error: Function 'sum' failed to match any signature, errors: Error during planning: Function 'sum' \
                 requires Decimal, but received String (DataType: Utf8)..\nThis issue was likely caused by a bug in DataFusion's \
                 code. Please help us: https://github.com/apache/datafusion/issues. No function matches the given name and \
                 argument types 'sum(Utf8)'. You might need to add explicit type casts.\n\tCandidate functions:\n\tsum(Decimal)\
                 \n\tsum(Float64)\n\tsum(Duration)\n\tsum(Interval)",
                "the function sum(text) is not defined; there is sum(decimal), sum(double precision), sum(interval); CAST changes \
                 the type of an argument",
            ),
            (
                "x. No function matches the given name and argument types 'f(Int64)'. Casts.\n\tCandidate functions:\n\t\
                 f(UserDefined)",
                "the function f(bigint) is not defined; SHOW FUNCTIONS LIKE 'f' tells how it is called; CAST changes the type of \
                 an argument",
            ),
            (
                "Physical plan does not support logical expression OuterReferenceColumn(Field { name: \"k\", data_type: Int64 }, \
                 Column { relation: Some(Bare { table: \"a\" }), name: \"k\" })",
                "a subquery uses the column a.k of the query around it in a way that is not supported; join the two, or compute \
                 it in a WITH query first",
            ),
            (
                "Unsupported ast node in sqltorel: IsNormalized { expr: Identifier(Ident { value: \"s\" }), form: None } at Line: \
                 1, Column: 3",
                "IS NORMALIZED is not supported at Line: 1, Column: 3",
            ),
            (
                "Unsupported ast node in sqltorel: s IS NORMALIZED",
                "s IS NORMALIZED is not supported",
            ),
            (
                "Unsupported JOIN operator CrossApply",
                "the join CROSS APPLY is not supported",
            ),
            ("Unsupported SQL type Nosuch", "the type Nosuch is not supported"),
            ("Unsupported SQL statement: VACUUM", "VACUUM is not supported"),
            (
                "No infix parser for token Word(Word { value: \"DIV\", quote_style: None, keyword: DIV })",
                "No infix parser for token DIV",
            ),
            (
                "Inconsistent data type across values list at row 1 column 0. Was Int64 but found Utf8",
                "value 1 in row 2 of VALUES is text, and in the rows before it bigint; CAST makes one type of them",
            ),
            ("CLUSTER BY", "CLUSTER BY is not supported"),
            (
                "Cannot cast string 'Point { x: Some(Int(1)) }' to value of Int64 type",
                "Cannot cast string 'Point { x: Some(Int(1)) }' to value of bigint type",
            ),
            ("Cannot cast Utf8 to f(x) { ... }", "Cannot cast text to f(x) { ... }"),
            ("größer (Äh) als { 1 }", "größer (Äh) als { 1 }"),
        ] {
            assert_eq!(sentence(message), told);
        }
    }
}
