//! Two hundred clients at once on two small workers: every answer is exact, or a refusal that says when to try again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use squadron_integration::client::Client;
use squadron_integration::compare::compare;
use squadron_integration::tpch::{QUERIES, query};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::{Code, Status};

use crate::stops::watcher::Watcher;
use crate::support::{Expected, Mismatches, Reference, bounded, minutes, two_workers};
use crate::tpch::{SCALE_FACTOR, expected_results, register};

const CLIENTS: usize = 200;

/// How long clients send new queries; queries that were sent are answered.
const SENDING: Duration = Duration::from_secs(60);

/// Fewer queries run and wait than there are clients, so that some are refused.
const LIMITS: [&str; 2] = ["--max-running=24", "--max-queued=100"];

/// How long a refused client waits before it tries again.
const PAUSE: Duration = Duration::from_millis(500);

/// Resident memory that a process may have beside `--memory`: code, caches and what the allocator keeps.
const OVERHEAD_BYTES: u64 = 256 << 20;

/// Short queries; clients run three of them for each TPC-H query.
const SHORT: [&str; 5] = [
    "SELECT count(*) AS n FROM nation",
    "SELECT * FROM region ORDER BY r_regionkey",
    "SELECT c_name, c_acctbal FROM customer WHERE c_custkey = 42",
    "SELECT n_name, r_name FROM nation JOIN region ON n_regionkey = r_regionkey ORDER BY n_name",
    "SELECT o_orderpriority, count(*) AS n FROM orders GROUP BY o_orderpriority",
];

/// A statement and its expected result.
struct Question {
    sql: String,
    expected: &'static Expected,
}

/// The outcomes of one client's queries.
#[derive(Default)]
struct Visit {
    exact: usize,
    refused: usize,
}

#[test]
fn crowded_server_answers_exactly_or_refuses() {
    bounded(minutes(15), async {
        let questions = Arc::new(questions().await);
        let mut builder = two_workers();
        for limit in LIMITS {
            builder = builder.serve_arg(limit);
        }
        let cluster = builder.start().await;
        let watcher = Watcher::connect(&cluster).await;
        let before = watcher.memory().await;

        let mut visits = JoinSet::new();
        let end = Instant::now() + SENDING;
        for number in 0..CLIENTS {
            let client = cluster.client().await;
            let questions = Arc::clone(&questions);
            visits.spawn(async move { visit(&client, &questions, number, end).await });
        }
        let (mut exact, mut refused) = (0, 0);
        let mut mismatches = Mismatches::default();
        while let Some(visit) = visits.join_next().await {
            let visit = visit.expect("no panic").map(|visit| {
                exact += visit.exact;
                refused += visit.refused;
            });
            mismatches.note("a client", visit);
        }
        mismatches.assert_none();
        assert!(refused > 0, "the server was never full");
        println!("{exact} exact answers, {refused} refusals");

        let left = watcher.check_nothing_left(&cluster, &before, Instant::now());
        left.await.unwrap_or_else(|left| panic!("{left}"));
        for (process, peak) in cluster.peak_memory_bytes() {
            println!("{process} had {} MiB resident", peak >> 20);
            let limit = cluster.memory_bytes() + OVERHEAD_BYTES;
            assert!(peak <= limit, "{process} had {peak} bytes resident");
        }
    });
}

/// Runs one query after the other until `end`, and on until the first answer: no client is refused for ever.
async fn visit(client: &Client, questions: &[Question], number: usize, end: Instant) -> Result<Visit, String> {
    let mut visit = Visit::default();
    while Instant::now() < end || visit.exact == 0 {
        let question = &questions[question_index(number, visit.exact, questions.len())];
        match client.query(&question.sql).await {
            Ok(rows) => {
                let Expected { rows: expected, order } = question.expected;
                compare(expected, &rows, order).map_err(|difference| format!("{}: {difference}", question.sql))?;
                visit.exact += 1;
            }
            Err(status) if is_refusal(&status) => {
                visit.refused += 1;
                sleep(PAUSE).await;
            }
            Err(status) => return Err(format!("{}: {status}", question.sql)),
        }
    }
    Ok(visit)
}

/// The next question of a client: each client begins with another one, and one in four is of TPC-H.
fn question_index(number: usize, step: usize, questions: usize) -> usize {
    let at = number + step;
    match at.is_multiple_of(4) {
        true => SHORT.len() + (number + step / 4) % (questions - SHORT.len()),
        false => at % SHORT.len(),
    }
}

/// Whether the server refuses because it is full, and says when to try again.
fn is_refusal(status: &Status) -> bool {
    status.code() == Code::Unavailable && status.message().contains("again")
}

async fn questions() -> Vec<Question> {
    let reference = Reference::new();
    register(&reference).await;
    let mut questions = Vec::new();
    for sql in SHORT {
        let expected = reference.run(sql).await;
        questions.push(Question {
            sql: sql.to_owned(),
            expected: Box::leak(Box::new(expected.expect("the reference answers"))),
        });
    }
    for (number, expected) in (1..=QUERIES).zip(expected_results().await) {
        questions.push(Question {
            sql: query(number, SCALE_FACTOR),
            expected,
        });
    }
    questions
}
