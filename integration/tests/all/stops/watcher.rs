//! A watcher that reads the `system` tables, and finds what a query has left behind.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::util::display::array_value_to_string;
use squadron_integration::client::Client;
use squadron_integration::cluster::Cluster;
use tonic::Status;

/// How long after its end something of a query may be left.
const GRACE: Duration = Duration::from_secs(1);
/// Workers report their memory with the next heartbeat, at most half a second later.
const MEMORY_GRACE: Duration = Duration::from_millis(1500);
/// Memory of the watcher's own statements in a worker's pool.
const SLACK_BYTES: i64 = 1 << 20;
/// How long a query may take to reach a state; a debug build on two busy cores is slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// The tag of the watcher's own session.
const TAG: &str = "watcher";

/// A connection that only observes.
pub(crate) struct Watcher {
    client: Client,
}

/// A query as `system.queries` shows it.
#[derive(Clone, Debug)]
pub(crate) struct SeenQuery {
    pub(crate) query: String,
    pub(crate) session: String,
    pub(crate) state: String,
}

/// Bytes reserved in the workers' pools, by worker.
pub(crate) type Memory = BTreeMap<String, i64>;

impl Watcher {
    pub(crate) async fn connect(cluster: &Cluster) -> Self {
        let client = cluster.client().await;
        let set = client.update(&format!("SET squadron.tag = '{TAG}'")).await;
        set.expect("a session takes a tag");
        Self { client }
    }

    /// The rows of a statement as text.
    pub(crate) async fn rows(&self, sql: &str) -> Vec<Vec<String>> {
        let (_, batches) = match self.client.query(sql).await {
            Ok(rows) => rows,
            Err(status) => panic!("{sql}: {status}"),
        };
        batches.iter().flat_map(texts).collect()
    }

    /// The last query of the session with this tag.
    pub(crate) async fn last_query(&self, tag: &str) -> Option<SeenQuery> {
        let sql = format!(
            "SELECT query_id, session_id, state FROM system.queries WHERE tag = '{tag}' \
             ORDER BY created_at DESC, query_id DESC LIMIT 1"
        );
        let mut rows = self.rows(&sql).await;
        let mut row = rows.pop()?.into_iter();
        let mut column = || row.next().expect("three columns");
        Some(SeenQuery {
            query: column(),
            session: column(),
            state: column(),
        })
    }

    /// Waits until the last query of this tag is in one of `states`.
    pub(crate) async fn wait_for_state(&self, tag: &str, states: &[&str]) -> SeenQuery {
        let end = Instant::now() + PATIENCE;
        loop {
            let seen = self.last_query(tag).await;
            match &seen {
                Some(seen) if states.contains(&seen.state.as_str()) => return seen.clone(),
                _ => assert!(
                    Instant::now() < end,
                    "{tag} does not reach {states:?} within {PATIENCE:?}: {seen:?}"
                ),
            }
        }
    }

    /// Waits until a task of the last query of this tag runs, or is parked with rows for a client that does not come.
    pub(crate) async fn wait_for_running_task(&self, tag: &str) -> SeenQuery {
        let seen = self.wait_for_state(tag, &["running", "delivering"]).await;
        let sql = format!(
            "SELECT task FROM system.tasks WHERE query_id = '{}' AND state IN ('running', 'parked')",
            seen.query
        );
        let end = Instant::now() + PATIENCE;
        while self.rows(&sql).await.is_empty() {
            assert!(Instant::now() < end, "no task of {tag} runs: {seen:?}");
        }
        seen
    }

    /// The ids of the queries that are still planned or queued when the grace time after `end` is over.
    pub(crate) async fn waiting_queries(&self, end: Instant) -> Vec<String> {
        let sql = format!(
            "SELECT query_id FROM system.queries \
             WHERE state IN ('planning', 'queued') AND tag IS DISTINCT FROM '{TAG}'"
        );
        loop {
            let age = end.elapsed();
            let rows = self.rows(&sql).await;
            if rows.is_empty() || age > GRACE {
                return rows.into_iter().flatten().collect();
            }
        }
    }

    /// Waits until this query has ended.
    pub(crate) async fn wait_for_end(&self, query: &str) {
        let sql = format!("SELECT 1 FROM system.queries WHERE query_id = '{query}' AND ended_at IS NULL");
        let end = Instant::now() + PATIENCE;
        while !self.rows(&sql).await.is_empty() {
            assert!(Instant::now() < end, "{query} does not end within {PATIENCE:?}");
        }
    }

    /// The memory that is reserved in the workers' pools now.
    pub(crate) async fn memory(&self) -> Memory {
        let sql = "SELECT worker_id, kind, memory_used_bytes FROM system.workers";
        let workers = self.rows(sql).await.into_iter();
        workers
            .map(|worker| {
                let held = worker[2].parse().expect("bytes are a number");
                (format!("{} worker {}", worker[1], worker[0]), held)
            })
            .collect()
    }

    /// Waits, at most for the grace time after `end`, until nothing is left of any query but the watcher's own, and
    /// each worker holds no more memory than `before`.
    ///
    /// # Errors
    /// What is left.
    pub(crate) async fn check_nothing_left(
        &self,
        cluster: &Cluster,
        before: &Memory,
        end: Instant,
    ) -> Result<(), String> {
        loop {
            // The time is read before the tables, so that what they show afterwards is too late.
            let age = end.elapsed();
            let (left, held) = (self.leftovers(cluster).await, self.excess_memory(before).await);
            let found = match (left.is_empty(), held.is_empty()) {
                (true, true) => return Ok(()),
                (false, _) if age > GRACE => left,
                (_, false) if age > MEMORY_GRACE => held,
                _ => continue,
            };
            return Err(format!("left after {age:?}:\n  {}", found.join("\n  ")));
        }
    }

    /// Kills all running queries.
    pub(crate) async fn kill_all(&self) {
        let sql =
            format!("SELECT query_id FROM system.queries WHERE ended_at IS NULL AND tag IS DISTINCT FROM '{TAG}'");
        for query in self.rows(&sql).await {
            // The query may have ended meanwhile.
            let _ = self.client.update(&format!("KILL QUERY '{}'", query[0])).await;
        }
    }

    /// Describes live attempts, used slots, live queries, and files of spilled rows.
    async fn leftovers(&self, cluster: &Cluster) -> Vec<String> {
        let sql = format!(
            "SELECT concat('task ', query_id, '/', stage, '/', task, ' is ', state) FROM system.tasks \
               WHERE launched_at IS NOT NULL AND ended_at IS NULL \
             UNION ALL SELECT concat(kind, ' worker ', worker_id, ' has ', used_slots, ' used slots and ', \
               stopping_attempts, ' attempts that stop') FROM system.workers \
               WHERE used_slots > 0 OR stopping_attempts > 0 \
             UNION ALL SELECT concat('query ', query_id, ' is ', state, ': ', left(statement, 80)) FROM system.queries \
               WHERE state IN ('planning', 'queued', 'running', 'delivering') AND tag IS DISTINCT FROM '{TAG}'"
        );
        let rows = self.rows(&sql).await;
        let files = cluster.spilled_files();
        let files = files.iter().map(|file| format!("spilled rows in {}", file.display()));
        rows.into_iter().flatten().chain(files).collect()
    }

    /// Describes the workers that hold more memory than `before`.
    async fn excess_memory(&self, before: &Memory) -> Vec<String> {
        let now = self.memory().await;
        let more = |(worker, held): (String, i64)| {
            let level = before.get(&worker).copied().unwrap_or(0);
            (held > level + SLACK_BYTES).then(|| format!("{worker} holds {held} bytes, not {level}"))
        };
        now.into_iter().filter_map(more).collect()
    }
}

fn texts(batch: &RecordBatch) -> Vec<Vec<String>> {
    let text = |column, row| array_value_to_string(column, row).expect("a value can be shown");
    (0..batch.num_rows())
        .map(|row| {
            let columns = batch.columns().iter();
            columns.map(|column| text(column, row)).collect()
        })
        .collect()
}

/// Checks the answer to a second stop of a query, which must succeed or find no query.
pub(crate) fn check_repeated_stop<T>(outcome: Result<T, Status>) -> Result<(), String> {
    match outcome {
        Ok(_) => Ok(()),
        Err(status) if status.code() == tonic::Code::NotFound => Ok(()),
        Err(status) => Err(format!("the second stop: {status}")),
    }
}
