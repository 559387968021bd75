//! What each query takes with a server to itself: the measure of slowdowns and of loads.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use serde::Serialize;

use super::answers::{self, Answer};
use super::policies::Contender;
use super::stats::median;
use super::{Result, connection};
use squadron_integration::tpch;

/// Each query is asked at least as often, and for at least as long, on each server: processor time is counted in
/// hundredths of a second, so that a single short query says little.
const LEAST_RUNS: usize = 3;
const LEAST_TIME: Duration = Duration::from_millis(500);

/// One query with a server to itself.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Alone {
    pub(super) query: u8,
    /// The scale of its tables.
    pub(super) sf: f64,
    pub(super) rows: u64,
    /// The median, from the question to the last row.
    pub(super) seconds: f64,
    /// The mean of server and workers; not known where the system has no `/proc`.
    pub(super) cpu_seconds: Option<f64>,
    #[serde(skip)]
    pub(super) sql: String,
    #[serde(skip)]
    pub(super) answer: Answer,
}

/// Each of `queries` once, on all servers in turns: what a query takes alone is the same number for each of them.
pub(super) async fn measure(contenders: &mut [Contender], queries: &[u8], scale: f64) -> Result<BTreeMap<u8, Alone>> {
    let queries: BTreeSet<_> = queries.iter().copied().collect();
    let progress = ProgressBar::new(queries.len() as u64);
    let mut measured = BTreeMap::new();
    for query in queries {
        progress.set_message(format!("q{query:02} alone"));
        measured.insert(query, one(contenders, query, scale).await?);
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(measured)
}

async fn one(contenders: &mut [Contender], query: u8, scale: f64) -> Result<Alone> {
    let sql = tpch::query(query, scale);
    let mut answer = None;
    for contender in contenders.iter_mut() {
        let warm = asked(contender, query, &sql).await?;
        if *answer.get_or_insert(warm) != warm {
            return Err(format!("q{query:02}: two servers gave different rows").into());
        }
    }
    let answer = answer.ok_or("there is no policy to measure")?;
    let mut seconds = Vec::new();
    let mut cpu_seconds = Some(0.0);
    for contender in contenders.iter_mut() {
        let cpu_before = contender.system.server_cpu_seconds();
        let (begin, before) = (Instant::now(), seconds.len());
        while seconds.len() < before + LEAST_RUNS || begin.elapsed() < LEAST_TIME {
            let began = Instant::now();
            if asked(contender, query, &sql).await? != answer {
                return Err(format!("q{query:02}: two runs gave different rows").into());
            }
            seconds.push(began.elapsed().as_secs_f64());
        }
        let cpu_after = contender.system.server_cpu_seconds();
        cpu_seconds = difference(cpu_before, cpu_after)
            .zip(cpu_seconds)
            .map(|(one, sum)| sum + one);
    }
    Ok(Alone {
        query,
        sf: scale,
        rows: answer.rows,
        seconds: median(&seconds),
        cpu_seconds: cpu_seconds.map(|sum| sum / seconds.len() as f64),
        sql,
        answer,
    })
}

async fn asked(contender: &mut Contender, query: u8, sql: &str) -> Result<Answer> {
    let asked = answers::ask(&mut contender.connection, sql).await;
    asked.map_err(|status| {
        let said = connection::words(&status);
        let logs = contender.system.last_log_lines();
        format!("q{query:02} failed: {said}\n{logs}").into()
    })
}

/// What was used in between, where it is known.
pub(super) fn difference(before: Option<f64>, after: Option<f64>) -> Option<f64> {
    after.zip(before).map(|(after, before)| after - before)
}

impl Alone {
    pub(super) const HEAD: &str = "alone    sf      rows        s   cpu s";

    pub(super) fn line(&self) -> String {
        let cpu = self
            .cpu_seconds
            .map_or_else(|| "-".to_owned(), |cpu| format!("{cpu:.3}"));
        format!(
            "q{:02}   {:>5} {:>9} {:>8.3} {cpu:>7}",
            self.query, self.sf, self.rows, self.seconds
        )
    }
}

#[cfg(test)]
pub(super) fn sample(query: u8, seconds: f64) -> Alone {
    Alone {
        query,
        sf: 1.0,
        rows: 1,
        seconds,
        cpu_seconds: Some(seconds),
        sql: String::new(),
        answer: Answer::default(),
    }
}
