//! Two hundred clients at once on two small workers: every answer is exact, or says when to come again.

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
use crate::tpch::{SCALE_FACTOR, answers, register};

const CLIENTS: usize = 200;

/// How long new queries are sent; what was sent is answered.
const SENDING: Duration = Duration::from_secs(60);

/// Fewer than there are clients run or wait, so that some are sent away.
const LIMITS: [&str; 2] = ["--max-running=24", "--max-queued=100"];

/// How long a client that was sent away waits before it comes again.
const PAUSE: Duration = Duration::from_millis(500);

/// What a process may have resident beside the memory it promised: its code, its caches and what the allocator keeps.
const OVERHEAD_BYTES: u64 = 256 << 20;

/// Queries that take no time, of which there are three to one of TPC-H.
const SHORT: [&str; 5] = [
    "SELECT count(*) AS n FROM nation",
    "SELECT * FROM region ORDER BY r_regionkey",
    "SELECT c_name, c_acctbal FROM customer WHERE c_custkey = 42",
    "SELECT n_name, r_name FROM nation JOIN region ON n_regionkey = r_regionkey ORDER BY n_name",
    "SELECT o_orderpriority, count(*) AS n FROM orders GROUP BY o_orderpriority",
];

/// A statement and its answer.
struct Question {
    sql: String,
    expected: &'static Expected,
}

/// What became of one client's queries.
#[derive(Default)]
struct Visit {
    exact: usize,
    sent_away: usize,
}

#[test]
fn every_answer_is_exact_or_says_when_to_come_again() {
    bounded(minutes(15), async {
        let questions = Arc::new(questions().await);
        let mut builder = two_workers();
        for limit in LIMITS {
            builder = builder.serve_arg(limit);
        }
        let cluster = builder.start().await;
        let watcher = Watcher::of(&cluster).await;
        let before = watcher.memory().await;

        let mut visits = JoinSet::new();
        let end = Instant::now() + SENDING;
        for number in 0..CLIENTS {
            let client = cluster.client().await;
            let questions = Arc::clone(&questions);
            visits.spawn(async move { visit(&client, &questions, number, end).await });
        }
        let (mut exact, mut sent_away) = (0, 0);
        let mut mismatches = Mismatches::default();
        while let Some(visit) = visits.join_next().await {
            let visit = visit.expect("no panic").map(|visit| {
                exact += visit.exact;
                sent_away += visit.sent_away;
            });
            mismatches.note("a client", visit);
        }
        mismatches.assert_none();
        assert!(sent_away > 0, "the server was never full");
        println!("{exact} exact answers, {sent_away} times sent away");

        let left = watcher.finds_nothing(&cluster, &before, Instant::now());
        left.await.unwrap_or_else(|left| panic!("{left}"));
        for (process, peak) in cluster.peak_memory_bytes() {
            println!("{process} had {} MiB resident", peak >> 20);
            let limit = cluster.memory_bytes() + OVERHEAD_BYTES;
            assert!(peak <= limit, "{process} had {peak} bytes resident");
        }
    });
}

/// Asks one thing after the other until `end`, and on until the first answer: nobody is shut out for good.
async fn visit(client: &Client, questions: &[Question], number: usize, end: Instant) -> Result<Visit, String> {
    let mut visit = Visit::default();
    while Instant::now() < end || visit.exact == 0 {
        let question = &questions[turn(number, visit.exact, questions.len())];
        match client.query(&question.sql).await {
            Ok(rows) => {
                let Expected { rows: expected, order } = question.expected;
                compare(expected, &rows, order).map_err(|difference| format!("{}: {difference}", question.sql))?;
                visit.exact += 1;
            }
            Err(status) if is_clear(&status) => {
                visit.sent_away += 1;
                sleep(PAUSE).await;
            }
            Err(status) => return Err(format!("{}: {status}", question.sql)),
        }
    }
    Ok(visit)
}

/// Which question a client asks next: each begins elsewhere, and one in four is of TPC-H.
fn turn(number: usize, step: usize, questions: usize) -> usize {
    let at = number + step;
    match at.is_multiple_of(4) {
        true => SHORT.len() + (number + step / 4) % (questions - SHORT.len()),
        false => at % SHORT.len(),
    }
}

/// Whether it says that the server is full, and what to do about it.
fn is_clear(status: &Status) -> bool {
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
    for (number, expected) in (1..=QUERIES).zip(answers().await) {
        questions.push(Question {
            sql: query(number, SCALE_FACTOR),
            expected,
        });
    }
    questions
}
