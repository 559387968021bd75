//! The scenarios: which query is started, when it is stopped, and how; all of them are drawn from one seed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde::Serialize;
use squadron_integration::client::status;
use squadron_integration::tpch;
use squadron_scheduler::simulate::Rng;

use crate::answers::{self, Answer};
use crate::connection::{Connection, describe};
use crate::stats::median;
use crate::{Error, Result};

/// How often each query is measured alone, after a warm-up run.
const RUNS: usize = 3;

/// A query without a row for hours.
const ENDLESS: &str =
    "SELECT count(*) FROM lineitem a CROSS JOIN lineitem b WHERE a.l_comment || b.l_comment LIKE '%no such text%'";

/// How long [`ENDLESS`] runs at most before it is stopped.
const ENDLESS_RUN: Duration = Duration::from_millis(500);

/// A query to be stopped.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// The name in messages.
    pub(super) name: String,
    pub(super) sql: String,
    /// Time until the FlightInfo comes, with a server to itself.
    pub(super) planning: Duration,
    /// Time until the last row comes, with a server to itself.
    pub(super) isolated: Duration,
    /// None for the query that does not end.
    pub(super) answer: Option<Answer>,
}

/// How a query is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Way {
    /// The action CancelFlightInfo, from another connection.
    CancelFlightInfo,
    /// `KILL QUERY`, from another connection.
    KillQuery,
    /// The client stops reading and drops the stream.
    DropStream,
    /// The client drops the call of GetFlightInfo.
    DropCall,
}

impl Way {
    pub(super) const ALL: [Self; 4] = [
        Self::CancelFlightInfo,
        Self::KillQuery,
        Self::DropStream,
        Self::DropCall,
    ];

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::CancelFlightInfo => "CancelFlightInfo",
            Self::KillQuery => "KILL QUERY",
            Self::DropStream => "drop of the stream",
            Self::DropCall => "drop of the call",
        }
    }
}

/// One query to start, and how and when to stop it.
#[derive(Debug)]
pub(super) struct Scenario<'a> {
    pub(super) number: u32,
    pub(super) target: &'a Target,
    pub(super) way: Way,
    /// Time between start and stop.
    pub(super) moment: Duration,
}

impl<'a> Scenario<'a> {
    /// Draws scenario `number`, which does not depend on the client that runs it.
    ///
    /// # Panics
    /// When there is no target or no way.
    pub(super) fn draw(seed: u64, number: u32, targets: &'a BTreeMap<u32, Target>, ways: &[Way]) -> Self {
        let mut rng = Rng::new(seed, u64::from(number));
        let mut index = |count: usize| usize::try_from(rng.below(count as u64)).unwrap_or(0);
        let targets: Vec<_> = targets.values().collect();
        let target = targets[index(targets.len())];
        let way = ways[index(ways.len())];
        let longest = match way {
            Way::DropCall => target.planning,
            Way::CancelFlightInfo | Way::KillQuery | Way::DropStream => target.isolated,
        };
        Self {
            number,
            target,
            way,
            moment: longest.mul_f64(rng.fraction()),
        }
    }
}

/// Measures the queries with a server to themselves, and adds the query that does not end.
pub(super) async fn measure_targets(
    connection: &mut Connection,
    queries: &[u8],
    scale: f64,
) -> Result<BTreeMap<u32, Target>> {
    let mut targets = BTreeMap::new();
    for &query in queries {
        let target = measure(connection, query, tpch::query(query, scale)).await?;
        targets.insert(u32::from(query), target);
    }
    let plannings: Vec<_> = targets.values().map(|it| it.planning.as_secs_f64()).collect();
    let endless = Target {
        name: "endless".to_owned(),
        sql: ENDLESS.to_owned(),
        planning: Duration::from_secs_f64(median(&plannings).max(0.0)),
        isolated: ENDLESS_RUN,
        answer: None,
    };
    targets.insert(0, endless);
    Ok(targets)
}

async fn measure(connection: &mut Connection, query: u8, sql: String) -> Result<Target> {
    let failed = |error: Error| -> Error { format!("q{query:02} failed: {error}").into() };
    let (mut planning, mut isolated, mut answer) = (Vec::new(), Vec::new(), None);
    for run in 0..=RUNS {
        let began = Instant::now();
        let info = connection.execute(sql.clone(), None).await;
        let info = info.map_err(|error| failed(describe(&status(error)).into()))?;
        let planned = began.elapsed();
        let read = answers::read(connection, info).await;
        let read = read.map_err(|status| failed(describe(&status).into()))?;
        if *answer.get_or_insert(read) != read {
            return Err(failed("two runs gave different rows".into()));
        }
        if run > 0 {
            planning.push(planned.as_secs_f64());
            isolated.push(began.elapsed().as_secs_f64());
        }
    }
    Ok(Target {
        name: format!("q{query:02}"),
        sql,
        planning: Duration::from_secs_f64(median(&planning)),
        isolated: Duration::from_secs_f64(median(&isolated)),
        answer,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn targets() -> BTreeMap<u32, Target> {
        let target = |number: u32| Target {
            name: number.to_string(),
            sql: String::new(),
            planning: Duration::from_millis(10),
            isolated: Duration::from_millis(100),
            answer: None,
        };
        (0..3).map(|number| (number, target(number))).collect()
    }

    #[test]
    fn scenarios_depend_on_seed_alone() {
        let targets = targets();
        let drawn = |seed| -> Vec<_> {
            (0..100)
                .map(|number| Scenario::draw(seed, number, &targets, &Way::ALL))
                .map(|scenario| (scenario.target.name.clone(), scenario.way, scenario.moment))
                .collect()
        };
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
    }

    #[test]
    fn scenarios_cover_ways_targets_and_moments() {
        let targets = targets();
        let scenarios: Vec<_> = (0..1_000)
            .map(|number| Scenario::draw(7, number, &targets, &Way::ALL))
            .collect();
        let ways: BTreeSet<_> = scenarios.iter().map(|scenario| scenario.way).collect();
        let names: BTreeSet<_> = scenarios.iter().map(|scenario| &scenario.target.name).collect();
        assert_eq!((ways.len(), names.len()), (4, 3));
        for way in Way::ALL {
            let longest = if way == Way::DropCall { 10.0 } else { 100.0 };
            let moments: Vec<_> = scenarios
                .iter()
                .filter(|scenario| scenario.way == way)
                .map(|scenario| scenario.moment.as_secs_f64() * 1e3)
                .collect();
            let mean = moments.iter().sum::<f64>() / moments.len() as f64;
            assert!((mean / longest - 0.5).abs() < 0.1, "{way:?}: {mean}");
            assert!(moments.iter().all(|moment| *moment <= longest));
        }
    }
}
