//! Somebody who looks at the cluster through `system.*`, and finds what a query has left there.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::util::display::array_value_to_string;
use squadron_integration::client::Client;
use squadron_integration::cluster::Cluster;
use tonic::Status;

/// How soon after its end nothing of a query may be left.
const SOON: Duration = Duration::from_secs(1);
/// What workers know of their memory is told with their next heartbeat, half a second later at most.
const SOON_TOLD: Duration = Duration::from_millis(1500);
/// A worker's pool also serves the watcher's own statements.
const SLACK_BYTES: i64 = 1 << 20;
/// How long a state may take to come; a debug build on two busy cores is slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// The tag of the watcher's own session.
const TAG: &str = "watcher";

/// A connection that only looks.
pub(crate) struct Watcher {
    client: Client,
}

/// A query as `system.queries` shows it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) query: String,
    pub(crate) session: String,
    pub(crate) state: String,
}

/// What the workers' pools hold, by worker.
pub(crate) type Memory = BTreeMap<String, i64>;

impl Watcher {
    pub(crate) async fn of(cluster: &Cluster) -> Self {
        let client = cluster.client().await;
        let named = client.update(&format!("SET squadron.tag = '{TAG}'")).await;
        named.expect("a session takes a tag");
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
    pub(crate) async fn seen(&self, tag: &str) -> Option<Seen> {
        let sql = format!(
            "SELECT query_id, session_id, state FROM system.queries WHERE tag = '{tag}' \
             ORDER BY created_at DESC, query_id DESC LIMIT 1"
        );
        let mut rows = self.rows(&sql).await;
        let mut row = rows.pop()?.into_iter();
        let mut column = || row.next().expect("three columns");
        Some(Seen {
            query: column(),
            session: column(),
            state: column(),
        })
    }

    /// Waits until the last query of this tag is in one of `states`.
    pub(crate) async fn reaches(&self, tag: &str, states: &[&str]) -> Seen {
        let end = Instant::now() + PATIENCE;
        loop {
            let seen = self.seen(tag).await;
            match &seen {
                Some(seen) if states.contains(&seen.state.as_str()) => return seen.clone(),
                _ => assert!(
                    Instant::now() < end,
                    "{tag} does not reach {states:?} within {PATIENCE:?}: {seen:?}"
                ),
            }
        }
    }

    /// Waits until a task of the last query of this tag runs, or has something for a client that does not come.
    pub(crate) async fn works(&self, tag: &str) -> Seen {
        let seen = self.reaches(tag, &["running", "draining"]).await;
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

    /// The queries that still wait for their turn soon after `end`, by their ids.
    pub(crate) async fn waiting(&self, end: Instant) -> Vec<String> {
        let sql = format!(
            "SELECT query_id FROM system.queries \
             WHERE state IN ('planning', 'queued') AND tag IS DISTINCT FROM '{TAG}'"
        );
        loop {
            let begun = end.elapsed();
            let rows = self.rows(&sql).await;
            if rows.is_empty() || begun > SOON {
                return rows.into_iter().flatten().collect();
            }
        }
    }

    /// Waits until this query has ended.
    pub(crate) async fn ends(&self, query: &str) {
        let sql = format!("SELECT 1 FROM system.queries WHERE query_id = '{query}' AND ended_at IS NULL");
        let end = Instant::now() + PATIENCE;
        while !self.rows(&sql).await.is_empty() {
            assert!(Instant::now() < end, "{query} does not end within {PATIENCE:?}");
        }
    }

    /// What the workers hold now.
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

    /// Whether soon after `end` nothing is left of any query but the watcher's own, and each worker holds no more than
    /// `before`.
    ///
    /// # Errors
    /// What is left.
    pub(crate) async fn finds_nothing(&self, cluster: &Cluster, before: &Memory, end: Instant) -> Result<(), String> {
        loop {
            // What is found by a look that began too late is left.
            let begun = end.elapsed();
            let (left, held) = (self.left(cluster).await, self.held(before).await);
            let found = match (left.is_empty(), held.is_empty()) {
                (true, true) => return Ok(()),
                (false, _) if begun > SOON => left,
                (_, false) if begun > SOON_TOLD => held,
                _ => continue,
            };
            return Err(format!("left after {begun:?}:\n  {}", found.join("\n  ")));
        }
    }

    /// Stops whatever runs.
    pub(crate) async fn sweep(&self) {
        let sql =
            format!("SELECT query_id FROM system.queries WHERE ended_at IS NULL AND tag IS DISTINCT FROM '{TAG}'");
        for query in self.rows(&sql).await {
            // It may have ended meanwhile.
            let _ = self.client.update(&format!("KILL QUERY '{}'", query[0])).await;
        }
    }

    /// Live attempts, slots and queries, and overflown rows.
    async fn left(&self, cluster: &Cluster) -> Vec<String> {
        let sql = format!(
            "SELECT concat('task ', query_id, '/', stage, '/', task, ' is ', state) FROM system.tasks \
               WHERE launched_at IS NOT NULL AND ended_at IS NULL \
             UNION ALL SELECT concat(kind, ' worker ', worker_id, ' has ', used_slots, ' used slots and ', \
               stopping_attempts, ' attempts that stop') FROM system.workers \
               WHERE used_slots > 0 OR stopping_attempts > 0 \
             UNION ALL SELECT concat('query ', query_id, ' is ', state, ': ', left(statement, 80)) FROM system.queries \
               WHERE state IN ('planning', 'queued', 'running', 'draining') AND tag IS DISTINCT FROM '{TAG}'"
        );
        let rows = self.rows(&sql).await;
        let files = cluster.spilled_files();
        let files = files.iter().map(|file| format!("overflown rows in {}", file.display()));
        rows.into_iter().flatten().chain(files).collect()
    }

    async fn held(&self, before: &Memory) -> Vec<String> {
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

/// Whether an attempt to stop what is stopped already frightens nobody.
pub(crate) fn is_calm<T>(outcome: Result<T, Status>) -> Result<(), String> {
    match outcome {
        Ok(_) => Ok(()),
        Err(status) if status.code() == tonic::Code::NotFound => Ok(()),
        Err(status) => Err(format!("once more: {status}")),
    }
}
