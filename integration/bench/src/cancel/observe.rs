//! What is seen of queries from outside: the `system` tables, and the folders of spilled rows.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use serde::Serialize;

use super::super::Result;
use super::super::connection::{self, Connection};
use super::super::system::System;

/// Clients of this measurement mark their queries with tags that begin so.
pub(super) const TAG: &str = "cancel-";

/// After how long whatever is still there was left behind.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);
/// How many queries that were left behind are named.
const SHOWN_QUERIES: usize = 10;

/// The attempts that a worker has, in whatever state.
const LIVE: &str = "launched_at IS NOT NULL AND ended_at IS NULL";
/// The states in which a query is there.
const THERE: &str = "state IN ('planning', 'queued', 'running', 'draining')";

/// When a query ended, and when its workers had stopped all of it, as far as they have.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fate {
    pub(super) ended: Option<SystemTime>,
    pub(super) freed: Option<SystemTime>,
}

/// The numbers of a result of one row; NULL is 0.
async fn numbers(connection: &mut Connection, sql: &str) -> Result<Vec<i64>> {
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

/// Whatever may be left when all queries have been stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Left {
    pub(super) live_tasks: i64,
    pub(super) live_queries: i64,
    pub(super) used_slots: i64,
    pub(super) stopping_attempts: i64,
    /// More than before the first query was stopped.
    pub(super) memory_bytes: i64,
    /// Of spilled rows; not known for a server that was not started here.
    pub(super) files: Option<usize>,
}

impl Left {
    pub(super) fn is_nothing(&self) -> bool {
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

    /// The most of each.
    pub(super) fn most(&self, other: &Self) -> Self {
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

impl fmt::Display for Left {
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

/// Looks at a whole server.
pub(super) struct Watch {
    connection: Connection,
    /// Taken from the workers' pools before anything was stopped.
    memory_before: i64,
}

impl Watch {
    /// Once nothing runs. Queries have run before, so that what is kept for good has been taken already.
    pub(super) async fn start(connection: Connection, system: &System) -> Result<Self> {
        let mut watch = Self {
            connection,
            memory_before: 0,
        };
        let begin = Instant::now();
        let mut seen = watch.look(system).await?;
        // The memory is that of the last heartbeat: the least of some is that of an idle server.
        while begin.elapsed() < PATIENCE {
            tokio::time::sleep(PAUSE).await;
            let next = watch.look(system).await?;
            seen.memory_bytes = seen.memory_bytes.min(next.memory_bytes);
        }
        watch.memory_before = seen.memory_bytes;
        Ok(watch)
    }

    /// What is left once nothing is, or when patience is over.
    pub(super) async fn left_behind(&mut self, system: &System) -> Result<Left> {
        let begin = Instant::now();
        loop {
            let left = self.look(system).await?;
            if left.is_nothing() || begin.elapsed() >= PATIENCE {
                return Ok(left);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The queries that are there, for people: how each is marked, and what it does.
    pub(super) async fn who_is_left(&mut self) -> Result<String> {
        let statement = format!(
            "SELECT concat(tag, ' (', state, ', ', tasks, ' tasks)') FROM system.queries \
             WHERE tag LIKE '{TAG}%' AND {THERE} ORDER BY query_id LIMIT {SHOWN_QUERIES}"
        );
        let (_, batches) = connection::query(&mut self.connection, &statement).await?;
        let texts = batches.iter().map(|batch| batch.column(0).as_string_opt::<i32>());
        let names = texts.flatten().flatten().flatten();
        Ok(names.collect::<Vec<_>>().join(", "))
    }

    /// What became of the queries that the server remembers, by the numbers of their orders.
    pub(super) async fn fates(&mut self) -> Result<BTreeMap<u32, Fate>> {
        // The tag of a session is still that of its last query when the next one is set.
        let statement = format!(
            "SELECT substr(tag, {}), ended_at, freed_at FROM system.queries \
             WHERE tag LIKE '{TAG}%' AND statement NOT LIKE 'SET %'",
            TAG.len() + 1
        );
        let (_, batches) = connection::query(&mut self.connection, &statement).await?;
        let fates = batches.iter().map(fates_of).collect::<Option<Vec<_>>>();
        let fates = fates.ok_or_else(|| format!("other columns than asked for: {statement}"))?;
        Ok(fates.into_iter().flatten().collect())
    }

    async fn look(&mut self, system: &System) -> Result<Left> {
        let statement = format!(
            "SELECT (SELECT count(*) FROM system.tasks WHERE {LIVE}) AS tasks, \
             (SELECT count(*) FROM system.queries WHERE tag LIKE '{TAG}%' AND {THERE}) AS queries, \
             sum(used_slots), sum(stopping_attempts), sum(memory_used_bytes) FROM system.workers"
        );
        let seen = numbers(&mut self.connection, &statement).await?;
        let [live_tasks, live_queries, used_slots, stopping_attempts, memory] = seen[..] else {
            return Err(format!("other columns than asked for: {seen:?}").into());
        };
        Ok(Left {
            live_tasks,
            live_queries,
            used_slots,
            stopping_attempts,
            memory_bytes: (memory - self.memory_before).max(0),
            files: system.spilled_files(),
        })
    }
}

fn fates_of(batch: &RecordBatch) -> Option<Vec<(u32, Fate)>> {
    let numbers = batch.column(0).as_string_opt::<i32>()?;
    let times = |column: usize| {
        let times = batch.column(column);
        times.as_primitive_opt::<TimestampMicrosecondType>()
    };
    let (ended, freed) = (times(1)?, times(2)?);
    let rows = 0..batch.num_rows();
    let fates = rows.map(|row| {
        let fate = Fate {
            ended: time(ended, row),
            freed: time(freed, row),
        };
        Some((numbers.value(row).parse().ok()?, fate))
    });
    fates.collect()
}

fn time(times: &TimestampMicrosecondArray, row: usize) -> Option<SystemTime> {
    let since = times.is_valid(row).then(|| times.value(row))?;
    let since = u64::try_from(since).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_micros(since))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anything_left_is_seen_and_the_most_of_it_kept() {
        let nothing = Left::default();
        assert!(nothing.is_nothing());
        let unknown = Left {
            files: Some(0),
            ..Left::default()
        };
        assert!(unknown.is_nothing());
        let file = Left {
            files: Some(1),
            ..Left::default()
        };
        let memory = Left {
            memory_bytes: 8,
            ..Left::default()
        };
        assert!(!file.is_nothing() && !memory.is_nothing());
        let most = file.most(&memory).most(&nothing);
        assert_eq!((most.files, most.memory_bytes), (Some(1), 8));
    }
}
