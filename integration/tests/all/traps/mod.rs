//! The traps of distributed execution: query shapes whose rows other engines lost, doubled or put in a wrong order.
//!
//! Each module lists queries with the reason for each. Every query runs on 2 workers of 2 slots, on 4 workers of 1 slot
//! and on an embedded worker, with splits as small as possible, and is compared with the single-process reference, or
//! with literal rows where the reference itself is known to be wrong. Its schema must be the same in all answers.

mod aggregates;
mod answers;
mod avro;
mod correlated;
mod data;
mod formats;
mod guards;
mod joins;
mod limits;
mod sets;
mod shapes;
mod shared;
mod standard;
mod subqueries;
mod valid;
mod windows;

use std::collections::HashMap;

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use squadron_integration::client::{Client, Rows};
use squadron_integration::cluster::{Cluster, cluster};
use squadron_integration::compare::compare;
use tonic::Code;

use self::data::Tables;
use crate::schemas::{Route, Source, query_checking_schemas};
use crate::support::{Mismatches, Reference, bounded, minutes};

/// One query, the reason for it, and its expected answer.
struct Trap {
    why: &'static str,
    sql: String,
    answer: Answer,
}

enum Answer {
    /// The reference's rows, in any order.
    Same,
    /// The reference's rows in the reference's order, which the query makes total.
    InOrder,
    /// This many rows, each of them a row of the query without its limit.
    SomeOf { all: &'static str, rows: usize },
    /// These rows, in this order; NULL is the empty string.
    Exactly(Vec<Vec<String>>),
    /// An error with this code, whose message contains this text.
    Error(Code, &'static str),
}

fn same(why: &'static str, sql: impl Into<String>) -> Trap {
    let sql = sql.into();
    Trap {
        why,
        sql,
        answer: Answer::Same,
    }
}

fn in_order(why: &'static str, sql: impl Into<String>) -> Trap {
    let sql = sql.into();
    Trap {
        why,
        sql,
        answer: Answer::InOrder,
    }
}

/// `all` with `limit` appended must give this many of the rows of `all`.
fn some_of(why: &'static str, all: &'static str, limit: &str, rows: usize) -> Trap {
    let sql = format!("{all} {limit}");
    Trap {
        why,
        sql,
        answer: Answer::SomeOf { all, rows },
    }
}

fn exactly<const COLUMNS: usize>(why: &'static str, sql: &str, rows: &[[&str; COLUMNS]]) -> Trap {
    let rows = rows.iter().map(|row| row.iter().map(ToString::to_string).collect());
    Trap {
        why,
        sql: sql.into(),
        answer: Answer::Exactly(rows.collect()),
    }
}

fn error(why: &'static str, sql: &str, code: Code, says: &'static str) -> Trap {
    Trap {
        why,
        sql: sql.into(),
        answer: Answer::Error(code, says),
    }
}

/// Checks all `traps` on all topologies.
fn check_traps(traps: Vec<Trap>) {
    bounded(minutes(15), async move {
        let tables = Tables::write();
        let reference = Reference::new();
        tables.register(&reference).await;
        let wide = start(&tables, 2, 2).await;
        let flat = start(&tables, 4, 1).await;
        let embedded = start(&tables, 0, 2).await;
        let topologies = [
            ("2 workers x 2 slots", Route::Statement, wide.client().await),
            ("4 workers x 1 slot", Route::Statement, flat.client().await),
            ("1 embedded worker", Route::Handle, embedded.client().await),
        ];
        let mut mismatches = Mismatches::default();
        for trap in &traps {
            let expected = trap.expected(&reference).await;
            for (topology, route, client) in &topologies {
                let outcome = match &expected {
                    Ok(expected) => trap.check(client, *route, expected).await,
                    Err(why) => Err(why.clone()),
                };
                mismatches.note(&format!("{} ({topology})\n{}", trap.why, trap.sql), outcome);
            }
        }
        mismatches.assert_none();
    });
}

async fn start(tables: &Tables, workers: usize, slots: usize) -> Cluster {
    let cluster = cluster().workers(workers).slots(slots);
    let cluster = cluster.data(tables.folder()).tiny_splits().start().await;
    let client = cluster.client().await;
    for definition in tables.definitions() {
        client
            .update(&definition)
            .await
            .unwrap_or_else(|error| panic!("{definition}: {error}"));
    }
    cluster
}

impl Trap {
    /// The reference's rows, for answers that need them.
    async fn expected(&self, reference: &Reference) -> Result<Option<Rows>, String> {
        let sql = match &self.answer {
            Answer::Same | Answer::InOrder => &self.sql,
            Answer::SomeOf { all, .. } => *all,
            Answer::Exactly(_) | Answer::Error(..) => return Ok(None),
        };
        match reference.run(sql).await {
            Ok(expected) => Ok(Some(expected.rows)),
            Err(error) => Err(format!("the reference fails: {error}")),
        }
    }

    async fn check(&self, client: &Client, route: Route, expected: &Option<Rows>) -> Result<(), String> {
        if let Answer::Error(code, says) = self.answer {
            return match client.query(&self.sql).await {
                Ok((_, batches)) => Err(format!("{} rows instead of an error", count(&batches))),
                Err(status) if status.code() == code && status.message().contains(says) => Ok(()),
                Err(status) => Err(format!("not {code:?} with \"{says}\": {status}")),
            };
        }
        let actual = query_checking_schemas(client, Source::Sql(&self.sql), route).await;
        let actual = actual.map_err(|status| status.to_string())?;
        match (&self.answer, expected) {
            (Answer::Same, Some(expected)) => compare_rows(expected, &actual, &[]),
            (Answer::InOrder, Some(expected)) => {
                let all: Vec<_> = (0..expected.0.fields().len()).collect();
                compare_rows(expected, &actual, &all)
            }
            (Answer::SomeOf { rows, .. }, Some(all)) => check_subset(all, &actual, *rows),
            (Answer::Exactly(rows), _) => check_equal(rows, &to_text(&actual.1)),
            _ => unreachable!("expected() gave what the answer needs"),
        }
    }
}

fn compare_rows(expected: &Rows, actual: &Rows, order: &[usize]) -> Result<(), String> {
    compare(expected, actual, order).map_err(|difference| difference.to_string())
}

fn count(batches: &[RecordBatch]) -> usize {
    batches.iter().map(RecordBatch::num_rows).sum()
}

/// Checks that there are `rows` rows, none more often than in `all`.
fn check_subset(all: &Rows, actual: &Rows, rows: usize) -> Result<(), String> {
    if count(&actual.1) != rows {
        return Err(format!("{} rows instead of {rows}", count(&actual.1)));
    }
    let mut left: HashMap<Vec<String>, usize> = HashMap::new();
    for row in to_text(&all.1) {
        *left.entry(row).or_default() += 1;
    }
    for row in to_text(&actual.1) {
        match left.get_mut(&row) {
            Some(times) if *times > 0 => *times -= 1,
            _ => return Err(format!("a row too many: {row:?}")),
        }
    }
    Ok(())
}

fn check_equal(expected: &[Vec<String>], actual: &[Vec<String>]) -> Result<(), String> {
    match expected == actual {
        true => Ok(()),
        false => Err(format!("expected {expected:?}\ngot      {actual:?}")),
    }
}

fn to_text(batches: &[RecordBatch]) -> Vec<Vec<String>> {
    let options = FormatOptions::default();
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<_> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column, &options).unwrap())
            .collect();
        for row in 0..batch.num_rows() {
            rows.push(columns.iter().map(|column| column.value(row).to_string()).collect());
        }
    }
    rows
}
