//! A query with a client of its own, brought to where it is to be stopped.

use std::time::{Duration, Instant};

use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::{FlightInfo, Ticket};
use futures::StreamExt;
use squadron_integration::client::{Client, status, ticket};
use squadron_integration::cluster::Cluster;
use squadron_integration::tpch::query;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::{Request, Status};

use super::watcher::{Seen, Watcher};
use crate::callers::statement;
use crate::support::ENDLESS;

/// Computes for hours before its first row.
const LONG: &str = "SELECT a.l_linenumber, count(*), sum(a.l_orderkey % (b.l_orderkey + 1)) \
    FROM lineitem a CROSS JOIN lineitem b GROUP BY a.l_linenumber";

/// The most stages, joins and subqueries of TPC-H.
const TPCH: u8 = 21;

/// How long a stopped client may wait to hear of it; a debug build on two busy cores is slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a query is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its statement is being planned.
    Planning,
    /// Its group has no room for it, and its client waits for rows.
    Queued,
    /// It computes, and its client waits for rows.
    Running,
    /// Its client has read some rows and reads no more.
    Streaming,
    /// Its rows are there, and its client has not asked for them.
    Unread,
}

/// What is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// What does not end by itself.
    Endless,
    /// A query of TPC-H, which may just have ended.
    Tpch,
}

/// What its client hears of its end.
pub(crate) type Outcome = Result<(), Status>;

/// What a query can be stopped by.
pub(crate) struct Names {
    pub(crate) client: Client,
    /// None as long as it is planned.
    info: Option<FlightInfo>,
    /// None until it was where it is to be stopped.
    seen: Option<Seen>,
}

/// A query and its client.
pub(crate) struct Victim {
    tag: String,
    pub(crate) names: Names,
    /// The call that its client waits for.
    call: JoinSet<Outcome>,
    /// What its client has begun to read.
    stream: Option<FlightRecordBatchStream>,
}

impl Names {
    /// The FlightInfo that its client has.
    pub(crate) fn info(&self) -> &FlightInfo {
        self.info.as_ref().expect("it was planned")
    }

    /// How it was seen where it is to be stopped.
    pub(crate) fn seen(&self) -> &Seen {
        self.seen.as_ref().expect("somebody looked")
    }
}

/// A statement that is planned for seconds, more of them without optimisation.
fn planned_long() -> String {
    let keys = if cfg!(debug_assertions) { 50_000 } else { 500_000 };
    let keys: Vec<_> = (0..keys).map(|key| (key * 7).to_string()).collect();
    format!(
        "SELECT count(*) FROM lineitem WHERE l_orderkey IN ({})",
        keys.join(", ")
    )
}

fn sql(phase: Phase, work: Work) -> String {
    match (phase, work) {
        (Phase::Planning, _) => planned_long(),
        (_, Work::Tpch) => query(TPCH, 0.01),
        (Phase::Queued | Phase::Streaming | Phase::Unread, Work::Endless) => ENDLESS.to_owned(),
        (Phase::Running, Work::Endless) => LONG.to_owned(),
    }
}

impl Victim {
    /// A query of a new client whose session has these options and `tag`, on its way to `phase`. Its client's calls end
    /// after `deadline`.
    pub(crate) async fn start(
        cluster: &Cluster,
        tag: String,
        options: &[String],
        (phase, work): (Phase, Work),
        deadline: Option<Duration>,
    ) -> Result<Self, Status> {
        let client = cluster.client().await;
        for option in options {
            client.update(&format!("SET {option}")).await?;
        }
        client.update(&format!("SET squadron.tag = '{tag}'")).await?;
        let mut victim = Self {
            tag,
            names: Names {
                client,
                info: None,
                seen: None,
            },
            call: JoinSet::new(),
            stream: None,
        };
        let sql = sql(phase, work);
        if phase == Phase::Planning {
            victim.plan(sql, deadline);
            return Ok(victim);
        }
        let info = victim.names.client.info(&sql).await?;
        match phase {
            Phase::Planning | Phase::Unread => {}
            Phase::Queued | Phase::Running => victim.read(ticket(&info), deadline),
            Phase::Streaming => {
                let mut stream = victim.names.client.get(ticket(&info)).await?;
                stream.next().await.transpose().map_err(status)?;
                victim.stream = Some(stream);
            }
        }
        victim.names.info = Some(info);
        Ok(victim)
    }

    /// Waits until it is where it is to be stopped.
    pub(crate) async fn is_in(&mut self, phase: Phase, work: Work, watcher: &Watcher) {
        let seen = match (phase, work) {
            (Phase::Planning, _) => watcher.reaches(&self.tag, &["planning"]).await,
            (Phase::Queued, _) => watcher.reaches(&self.tag, &["queued"]).await,
            (_, Work::Endless) => watcher.works(&self.tag).await,
            // It may be over before anybody looks.
            (_, Work::Tpch) => {
                let states = ["running", "draining", "finished"];
                watcher.reaches(&self.tag, &states).await
            }
        };
        self.names.seen = Some(seen);
    }

    fn plan(&mut self, sql: String, deadline: Option<Duration>) {
        let mut flight = self.names.client.flight();
        let mut request = Request::new(statement(&sql));
        if let Some(deadline) = deadline {
            request.set_timeout(deadline);
        }
        self.call
            .spawn(async move { flight.get_flight_info(request).await.map(drop) });
    }

    fn read(&mut self, ticket: Ticket, deadline: Option<Duration>) {
        let mut flight = self.names.client.flight();
        let mut request = Request::new(ticket);
        if let Some(deadline) = deadline {
            request.set_timeout(deadline);
        }
        self.call.spawn(async move {
            let mut frames = flight.do_get(request).await?.into_inner();
            while frames.message().await?.is_some() {}
            Ok(())
        });
    }

    /// Takes its client away, in the middle of whatever it does.
    pub(crate) async fn disconnect(mut self) {
        self.call.shutdown().await;
    }

    /// What its client is told: by its call, by the next rows, or when it comes for them. None when it asked for nothing
    /// that could tell.
    pub(crate) async fn outcome(&mut self) -> Result<Outcome, String> {
        let late = |_| format!("its client hears nothing within {PATIENCE:?}");
        if let Some(mut stream) = self.stream.take() {
            let rest = async {
                while let Some(batch) = stream.next().await {
                    batch.map_err(status)?;
                }
                Ok(())
            };
            return timeout(PATIENCE, rest).await.map_err(late);
        }
        if let Some(outcome) = timeout(PATIENCE, self.call.join_next()).await.map_err(late)? {
            return outcome.map_err(|error| format!("its client fails: {error}"));
        }
        let Some(info) = &self.names.info else {
            return Err("its client was told already".to_owned());
        };
        let rows = timeout(PATIENCE, self.names.client.fetch(info.clone())).await;
        Ok(rows.map_err(late)?.map(drop))
    }

    /// Waits until its client's call has ended, or for one that makes none, until `watcher` sees its end.
    ///
    /// # Errors
    /// When that does not come.
    pub(crate) async fn ended(&mut self, watcher: &Watcher) -> Result<Instant, String> {
        if self.call.is_empty() {
            let ends = ["failed", "cancelled", "finished"];
            watcher.reaches(&self.tag, &ends).await;
            return Ok(Instant::now());
        }
        let outcome = timeout(PATIENCE, self.call.join_next()).await;
        let outcome = outcome.map_err(|_| format!("its call does not end within {PATIENCE:?}"))?;
        let end = Instant::now();
        // For whoever asks how.
        self.call
            .spawn(async move { outcome.expect("there is a call").expect("no panic") });
        Ok(end)
    }
}
