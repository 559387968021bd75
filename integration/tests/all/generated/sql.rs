//! Queries from random numbers: joins of all kinds, subqueries in all places, groups, NULLs and duplicates.
//!
//! Every query is valid and its rows are determined: limits stand behind an order of all columns, and sums are of whole
//! numbers.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::tables::{KEYS, TABLES};

/// Joins that would give more rows are made by `id`.
const MAX_ROWS: usize = 5_000;

/// One query.
pub(super) fn query(random: &mut StdRng) -> String {
    match random.random_range(0..10) {
        0 => format!("{} UNION ALL {}", plain(random, &[]), plain(random, &[])),
        1 | 2 => {
            let part = derived(random);
            let select = select(random, &["part"]);
            format!("WITH part AS ({part}) {select}")
        }
        _ => select(random, &[]),
    }
}

/// What stands between FROM and GROUP BY.
struct From {
    aliases: Vec<String>,
    /// About how many rows its tables give when they are joined.
    rows: usize,
    text: String,
}

/// A query over tables, and twice over each of `parts`, which have the columns of a table.
fn select(random: &mut StdRng, parts: &[&str]) -> String {
    match random.random_range(0..6) {
        0 => plain(random, parts),
        5 => {
            let from = from(random, parts);
            format!(
                "SELECT {}.*, {} AS x {}",
                alias(random, &from),
                number(random, &from),
                from.text
            )
        }
        1 => {
            let rows = random.random_range(1..30);
            format!("{} ORDER BY 1, 2, 3 LIMIT {rows}", plain(random, parts))
        }
        2 => format!("SELECT DISTINCT{}", &plain(random, parts)["SELECT".len()..]),
        _ => grouped(random, parts),
    }
}

/// A query of three columns.
fn plain(random: &mut StdRng, parts: &[&str]) -> String {
    let from = from(random, parts);
    let columns = [number(random, &from), number(random, &from), any_column(random, &from)];
    format!(
        "SELECT {} AS x, {} AS y, {} AS z {}",
        columns[0], columns[1], columns[2], from.text
    )
}

fn grouped(random: &mut StdRng, parts: &[&str]) -> String {
    let from = from(random, parts);
    let keys: Vec<_> = (0..random.random_range(0..3))
        .map(|_| any_column(random, &from))
        .collect();
    let mut columns = keys.clone();
    for _ in 0..random.random_range(1..4) {
        columns.push(aggregate(random, &from));
    }
    let columns: Vec<_> = (0..)
        .zip(&columns)
        .map(|(place, column)| format!("{column} AS c{place}"))
        .collect();
    let mut text = format!("SELECT {} {}", columns.join(", "), from.text);
    if !keys.is_empty() {
        text += &format!(" GROUP BY {}", keys.join(", "));
        if random.random_bool(0.3) {
            text += &format!(" HAVING count(*) > {}", random.random_range(1..5));
        }
    }
    text
}

fn aggregate(random: &mut StdRng, from: &From) -> String {
    let argument = number(random, from);
    match random.random_range(0..6) {
        0 => "count(*)".into(),
        1 => format!("count(DISTINCT {argument})"),
        place => format!("{}({argument})", ["sum", "min", "max", "avg"][place - 2]),
    }
}

/// One to four tables, joined, with conditions.
fn from(random: &mut StdRng, parts: &[&str]) -> From {
    let mut from = From {
        aliases: Vec::new(),
        rows: 0,
        text: "FROM ".into(),
    };
    let mut tables: Vec<_> = parts
        .iter()
        .flat_map(|part| vec![((*part).to_owned(), 60); 2])
        .collect();
    let least = usize::from(tables.is_empty());
    for _ in 0..random.random_range(least..=4 - tables.len()) {
        let place = random.random_range(0..=tables.len());
        tables.insert(place, table(random));
    }
    let mut conditions = Vec::new();
    for (text, rows) in tables {
        add(random, &mut from, &mut conditions, &text, rows);
    }
    for _ in 0..random.random_range(1..4) {
        conditions.push(condition(random, &from));
    }
    for (place, condition) in conditions.iter().enumerate() {
        from.text += if place == 0 { " WHERE " } else { " AND " };
        from.text += condition;
    }
    from
}

/// A table, or a subquery with the columns of one, with about its rows.
fn table(random: &mut StdRng) -> (String, usize) {
    if random.random_bool(0.2) {
        return (format!("({})", derived(random)), 60);
    }
    let (name, rows, _) = stored(random);
    (name.into(), rows)
}

/// A stored table; seldom the one without rows.
fn stored(random: &mut StdRng) -> (&'static str, usize, usize) {
    *TABLES
        .choose_weighted(random, |(_, rows, _)| (*rows).clamp(3, 60))
        .unwrap()
}

/// A query with the columns of a table.
fn derived(random: &mut StdRng) -> String {
    let (name, ..) = stored(random);
    let (other, ..) = stored(random);
    match random.random_range(0..4) {
        0 => format!(
            "SELECT u.id, u.a, u.b, u.n, u.s FROM {name} u WHERE {}",
            subquery(random, "u")
        ),
        1 => format!(
            "SELECT u.id, v.a, v.b, u.n, v.s FROM {name} u JOIN {other} v ON u.id = v.id AND {}",
            local(random, "v")
        ),
        2 => format!(
            "SELECT * FROM tiny UNION ALL SELECT * FROM {name} u WHERE {}",
            local(random, "u")
        ),
        _ => format!(
            "SELECT max(id) AS id, a, min(b) AS b, count(*) AS n, min(s) AS s FROM {name} GROUP BY a HAVING count(*) > {}",
            random.random_range(0..4)
        ),
    }
}

/// Joins a table to those before it.
fn add(random: &mut StdRng, from: &mut From, conditions: &mut Vec<String>, table: &str, rows: usize) {
    let alias = format!("t{}", from.aliases.len());
    let Some(other) = from.aliases.choose(random) else {
        from.text += &format!("{table} {alias}");
        from.aliases.push(alias);
        from.rows = rows;
        return;
    };
    // Keys of two kinds match by chance: an `a` with an `id` is a foreign key.
    let (other_key, other_values) = *KEYS.choose(random).unwrap();
    let (key, values) = *KEYS.choose(random).unwrap();
    let values = values.min(rows).max(other_values.min(from.rows)).max(1);
    let pairs = from.rows.saturating_mul(rows) / values;
    let (key, pairs) = if pairs > MAX_ROWS {
        ("id", from.rows)
    } else {
        (key, pairs)
    };
    // An outer join keeps the rows of both sides.
    from.rows = pairs.max(from.rows).max(rows);
    let equal = format!("{other}.{other_key} = {alias}.{key}");
    let kind = ["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"].choose_weighted(random, |kind| match *kind {
        "JOIN" => 5,
        "LEFT JOIN" => 2,
        _ => 1,
    });
    match (kind.copied().unwrap(), random.random_bool(0.4)) {
        ("JOIN", true) => {
            // A comma would hide the tables before it from later conditions.
            from.text += &format!(" CROSS JOIN {table} {alias}");
            conditions.push(equal);
        }
        (kind, true) => {
            let more = local(random, &alias);
            from.text += &format!(" {kind} {table} {alias} ON {equal} AND {more}");
        }
        (kind, false) => from.text += &format!(" {kind} {table} {alias} ON {equal}"),
    }
    from.aliases.push(alias);
}

fn condition(random: &mut StdRng, from: &From) -> String {
    let alias = alias(random, from);
    match random.random_range(0..8) {
        0 => format!("{} < {}", number(random, from), number(random, from)),
        1 => format!("({} OR {})", local(random, &alias), local(random, &alias)),
        2..5 => subquery(random, &alias),
        _ => local(random, &alias),
    }
}

/// A condition on one table.
fn local(random: &mut StdRng, alias: &str) -> String {
    let column = ["id", "a", "b", "n"].choose(random).unwrap();
    let value = random.random_range(0..70);
    match random.random_range(0..8) {
        0 => format!("{alias}.{column} IS NULL"),
        1 => format!("{alias}.{column} IS NOT NULL"),
        2 => format!("{alias}.s LIKE '%{}%'", ["word", "b", "", "8"].choose(random).unwrap()),
        3 => format!("{alias}.{column} IN ({value}, {}, 7)", value / 2),
        4 => format!("{alias}.{column} BETWEEN {} AND {value}", value / 3),
        place => format!("{alias}.{column} {} {value}", ["<", ">=", "<>"][place - 5]),
    }
}

/// A condition on one table with a subquery, which looks for its keys or for its group.
fn subquery(random: &mut StdRng, alias: &str) -> String {
    let (table, ..) = stored(random);
    let (key, _) = *KEYS.choose(random).unwrap();
    let (inner, _) = *KEYS.choose(random).unwrap();
    let mut filter = String::new();
    if random.random_bool(0.5) {
        filter = format!(" AND {}", local(random, "i"));
    }
    let not = if random.random_bool(0.5) { "NOT " } else { "" };
    let value = random.random_range(0..40);
    let all = format!("FROM {table} i WHERE true{filter}");
    let matching = format!("FROM {table} i WHERE i.{inner} = {alias}.{key}{filter}");
    match random.random_range(0..10) {
        0 => format!("{not}EXISTS (SELECT 1 {matching})"),
        1 => format!("{not}EXISTS (SELECT 1 {matching} AND i.n > {alias}.n)"),
        2..5 => format!("{alias}.{key} {not}IN (SELECT i.{inner} {all})"),
        5 => format!("{alias}.{key} IN (SELECT i.{inner} {all} GROUP BY i.{inner} HAVING sum(i.n) > {value})"),
        6 => format!("{alias}.n < (SELECT avg(i.n) {matching})"),
        7 => format!("{alias}.n = (SELECT max(i.n) {matching})"),
        8 => format!("(SELECT count(*) {matching}) < {}", value / 4),
        _ => format!("{alias}.n > (SELECT min(i.n) {all})"),
    }
}

fn alias(random: &mut StdRng, from: &From) -> String {
    from.aliases.choose(random).unwrap().clone()
}

fn number(random: &mut StdRng, from: &From) -> String {
    let column = ["id", "a", "b", "n"].choose(random).unwrap();
    format!("{}.{column}", alias(random, from))
}

fn any_column(random: &mut StdRng, from: &From) -> String {
    match random.random_bool(0.2) {
        true => format!("{}.s", alias(random, from)),
        false => number(random, from),
    }
}
