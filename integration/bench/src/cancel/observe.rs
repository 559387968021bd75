//! What the `system` tables and the spill folders show of the queries.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use serde::Serialize;

use crate::Result;
use crate::connection::{self, Connection};
use crate::system::System;

/// The prefix of the tags with which the clients mark their queries.
pub(super) const TAG: &str = "cancel-";

/// What is still there after this time was left behind.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);
/// How many of the queries that were left behind are listed.
const LISTED_QUERIES: usize = 10;

/// The condition for attempts that a worker holds, in any state.
const LIVE_ATTEMPT: &str = "launched_at IS NOT NULL AND ended_at IS NULL";
/// The condition for queries that have not ended.
const LIVE_QUERY: &str = "state IN ('planning', 'queued', 'running', 'delivering')";

/// When a query ended, and when its workers had released it; None when that has not happened yet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fate {
    pub(super) ended: Option<SystemTime>,
    pub(super) released: Option<SystemTime>,
}

/// Runs a query of one row and gives its numbers; NULL is 0.
async fn query_numbers(connection: &mut Connection, sql: &str) -> Result<Vec<i64>> {
    let (_, batches) = connection::query(connection, sql).await?;
    let row = batches.iter().find(|batch| batch.num_rows() == 1);
    let columns = row.ok_or_else(|| format!("no row from {sql}"))?.columns();
    let number = |column: &ArrayRef| {
        let values = column.as_primitive_opt::<Int64Type>()?;
        Some(if values.is_valid(0) { values.value(0) } else { 0 })
    };
    columns
        .iter()
        .map(|column| number(column).ok_or_else(|| format!("no number from {sql}").into()))
        .collect()
}

/// What may be left behind when all queries have been stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Leftovers {
    pub(super) live_tasks: i64,
    pub(super) live_queries: i64,
    pub(super) used_slots: i64,
    pub(super) stopping_attempts: i64,
    /// More than before the first query was stopped.
    pub(super) memory_bytes: i64,
    /// Files of spilled rows; not known for a server that was not started here.
    pub(super) files: Option<usize>,
}

impl Leftovers {
    pub(super) fn is_empty(&self) -> bool {
        let Self {
            live_tasks,
            live_queries,
            used_slots,
            stopping_attempts,
            memory_bytes,
            files,
        } = self;
        let numbers = [live_tasks, live_queries, used_slots, stopping_attempts, memory_bytes];
        numbers.iter().all(|number| **number == 0) && files.unwrap_or(0) == 0
    }

    /// The maximum of each.
    pub(super) fn max(&self, other: &Self) -> Self {
        Self {
            live_tasks: self.live_tasks.max(other.live_tasks),
            live_queries: self.live_queries.max(other.live_queries),
            used_slots: self.used_slots.max(other.used_slots),
            stopping_attempts: self.stopping_attempts.max(other.stopping_attempts),
            memory_bytes: self.memory_bytes.max(other.memory_bytes),
            files: self.files.max(other.files),
        }
    }
}

impl fmt::Display for Leftovers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} live tasks, {} live queries, {} used slots, {} stopping attempts, {} bytes of memory, ",
            self.live_tasks, self.live_queries, self.used_slots, self.stopping_attempts, self.memory_bytes
        )?;
        match self.files {
            Some(files) => write!(f, "{files} spilled files"),
            None => write!(f, "spilled files not known"),
        }
    }
}

/// Observes the whole cluster through one connection.
pub(super) struct Observer {
    connection: Connection,
    /// Memory reserved in the workers' pools before the first cancel.
    memory_before: i64,
}

impl Observer {
    /// Starts while nothing runs. Queries must have run before, so that permanent memory is reserved already.
    pub(super) async fn start(connection: Connection, system: &System) -> Result<Self> {
        let mut observer = Self {
            connection,
            memory_before: 0,
        };
        let begin = Instant::now();
        let mut first = observer.observe(system).await?;
        // Workers report their memory with heartbeats: the minimum of several is that of an idle server.
        while begin.elapsed() < PATIENCE {
            tokio::time::sleep(PAUSE).await;
            let next = observer.observe(system).await?;
            first.memory_bytes = first.memory_bytes.min(next.memory_bytes);
        }
        observer.memory_before = first.memory_bytes;
        Ok(observer)
    }

    /// Waits until nothing is left, at most for [`PATIENCE`]; gives the leftovers.
    pub(super) async fn find_leftovers(&mut self, system: &System) -> Result<Leftovers> {
        let begin = Instant::now();
        loop {
            let left = self.observe(system).await?;
            if left.is_empty() || begin.elapsed() >= PATIENCE {
                return Ok(left);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Lists the live queries for the terminal: tag, state and number of tasks.
    pub(super) async fn list_live_queries(&mut self) -> Result<String> {
        let statement = format!(
            "SELECT concat(tag, ' (', state, ', ', tasks, ' tasks)') FROM system.queries \
             WHERE tag LIKE '{TAG}%' AND {LIVE_QUERY} ORDER BY query_id LIMIT {LISTED_QUERIES}"
        );
        let (_, batches) = connection::query(&mut self.connection, &statement).await?;
        let texts = batches.iter().map(|batch| batch.column(0).as_string_opt::<i32>());
        let names = texts.flatten().flatten().flatten();
        Ok(names.collect::<Vec<_>>().join(", "))
    }

    /// The fates of the queries in the history, by the numbers of their scenarios.
    pub(super) async fn fates(&mut self) -> Result<BTreeMap<u32, Fate>> {
        // A SET of the next tag still carries the tag of the query before.
        let statement = format!(
            "SELECT substr(tag, {}), ended_at, released_at FROM system.queries \
             WHERE tag LIKE '{TAG}%' AND statement NOT LIKE 'SET %'",
            TAG.len() + 1
        );
        let (_, batches) = connection::query(&mut self.connection, &statement).await?;
        let fates = batches.iter().map(parse_fates).collect::<Option<Vec<_>>>();
        let fates = fates.ok_or_else(|| format!("unexpected columns: {statement}"))?;
        Ok(fates.into_iter().flatten().collect())
    }

    async fn observe(&mut self, system: &System) -> Result<Leftovers> {
        let statement = format!(
            "SELECT (SELECT count(*) FROM system.tasks WHERE {LIVE_ATTEMPT}) AS tasks, \
             (SELECT count(*) FROM system.queries WHERE tag LIKE '{TAG}%' AND {LIVE_QUERY}) AS queries, \
             sum(used_slots), sum(stopping_attempts), sum(memory_used_bytes) FROM system.workers"
        );
        let numbers = query_numbers(&mut self.connection, &statement).await?;
        let [live_tasks, live_queries, used_slots, stopping_attempts, memory] = numbers[..] else {
            return Err(format!("unexpected columns: {numbers:?}").into());
        };
        Ok(Leftovers {
            live_tasks,
            live_queries,
            used_slots,
            stopping_attempts,
            memory_bytes: (memory - self.memory_before).max(0),
            files: system.spilled_files(),
        })
    }
}

fn parse_fates(batch: &RecordBatch) -> Option<Vec<(u32, Fate)>> {
    let numbers = batch.column(0).as_string_opt::<i32>()?;
    let times = |column: usize| {
        let times = batch.column(column);
        times.as_primitive_opt::<TimestampMicrosecondType>()
    };
    let (ended, released) = (times(1)?, times(2)?);
    let rows = 0..batch.num_rows();
    let fates = rows.map(|row| {
        let fate = Fate {
            ended: time_at(ended, row),
            released: time_at(released, row),
        };
        Some((numbers.value(row).parse().ok()?, fate))
    });
    fates.collect()
}

fn time_at(times: &TimestampMicrosecondArray, row: usize) -> Option<SystemTime> {
    let since = times.is_valid(row).then(|| times.value(row))?;
    let since = u64::try_from(since).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_micros(since))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_are_seen_and_maximised() {
        let nothing = Leftovers::default();
        assert!(nothing.is_empty());
        let unknown = Leftovers {
            files: Some(0),
            ..Leftovers::default()
        };
        assert!(unknown.is_empty());
        let file = Leftovers {
            files: Some(1),
            ..Leftovers::default()
        };
        let memory = Leftovers {
            memory_bytes: 8,
            ..Leftovers::default()
        };
        assert!(!file.is_empty() && !memory.is_empty());
        let most = file.max(&memory).max(&nothing);
        assert_eq!((most.files, most.memory_bytes), (Some(1), 8));
    }
}
