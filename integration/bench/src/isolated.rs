//! Time and processor time of each query with a server to itself, from which slowdowns and loads are computed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use serde::Serialize;
use squadron_integration::tpch;

use crate::answers::{self, Answer};
use crate::policies::Contender;
use crate::stats::median;
use crate::{Result, connection};

/// How often and for how long each query runs on each server, at least: processor time is counted in hundredths of a
/// second, so that one run of a short query says little.
const LEAST_RUNS: usize = 3;
const LEAST_TIME: Duration = Duration::from_millis(500);

/// One query with a server to itself.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Isolated {
    pub(super) query: u8,
    /// The scale of its tables.
    pub(super) sf: f64,
    pub(super) rows: u64,
    /// The median, from the request to the last row.
    pub(super) seconds: f64,
    /// The mean, of server and workers together; not known on a system without `/proc`.
    pub(super) cpu_seconds: Option<f64>,
    #[serde(skip)]
    pub(super) sql: String,
    #[serde(skip)]
    pub(super) answer: Answer,
}

/// Measures each of `queries` on all servers in turns and gives one result for each query: with one query at a time,
/// the policy makes no difference.
pub(super) async fn measure(
    contenders: &mut [Contender],
    queries: &[u8],
    scale: f64,
) -> Result<BTreeMap<u8, Isolated>> {
    let queries: BTreeSet<_> = queries.iter().copied().collect();
    let progress = ProgressBar::new(queries.len() as u64);
    let mut measured = BTreeMap::new();
    for query in queries {
        progress.set_message(format!("q{query:02} alone"));
        measured.insert(query, measure_one(contenders, query, scale).await?);
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(measured)
}

async fn measure_one(contenders: &mut [Contender], query: u8, scale: f64) -> Result<Isolated> {
    let sql = tpch::query(query, scale);
    let mut answer = None;
    for contender in contenders.iter_mut() {
        let warm = ask(contender, query, &sql).await?;
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
            if ask(contender, query, &sql).await? != answer {
                return Err(format!("q{query:02}: two runs gave different rows").into());
            }
            seconds.push(began.elapsed().as_secs_f64());
        }
        let cpu_after = contender.system.server_cpu_seconds();
        cpu_seconds = difference(cpu_before, cpu_after)
            .zip(cpu_seconds)
            .map(|(one, sum)| sum + one);
    }
    Ok(Isolated {
        query,
        sf: scale,
        rows: answer.rows,
        seconds: median(&seconds),
        cpu_seconds: cpu_seconds.map(|sum| sum / seconds.len() as f64),
        sql,
        answer,
    })
}

async fn ask(contender: &mut Contender, query: u8, sql: &str) -> Result<Answer> {
    let answer = answers::ask(&mut contender.connection, sql).await;
    answer.map_err(|status| {
        let status = connection::describe(&status);
        let logs = contender.system.last_log_lines();
        format!("q{query:02} failed: {status}\n{logs}").into()
    })
}

/// `after` minus `before`, where both are known.
pub(super) fn difference(before: Option<f64>, after: Option<f64>) -> Option<f64> {
    after.zip(before).map(|(after, before)| after - before)
}

impl Isolated {
    pub(super) const HEAD: &str = "alone    sf      rows        s   cpu s";

    pub(super) fn row(&self) -> String {
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
pub(super) fn sample(query: u8, seconds: f64) -> Isolated {
    Isolated {
        query,
        sf: 1.0,
        rows: 1,
        seconds,
        cpu_seconds: Some(seconds),
        sql: String::new(),
        answer: Answer::default(),
    }
}
