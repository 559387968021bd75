//! A query with its own client, brought to the phase in which it is to be stopped.

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

use super::watcher::{SeenQuery, Watcher};
use crate::callers::statement;
use crate::support::ENDLESS;

/// A query that computes for hours before its first row.
const LONG: &str = "SELECT a.l_linenumber, count(*), sum(a.l_orderkey % (b.l_orderkey + 1)) \
    FROM lineitem a CROSS JOIN lineitem b GROUP BY a.l_linenumber";

/// The TPC-H query with the most stages, joins and subqueries.
const TPCH: u8 = 21;

/// How long the client of a stopped query may wait for the error; a debug build on two busy cores is slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// The phase in which a query is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its statement is being planned.
    Planning,
    /// Its group is full, and its client waits for rows.
    Queued,
    /// It computes, and its client waits for rows.
    Running,
    /// Its client has read some rows and reads no more.
    Streaming,
    /// It has rows, and its client has not fetched them.
    Unread,
}

/// The kind of query that is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// A query that does not end by itself.
    Endless,
    /// A query of TPC-H, which may end before the stop.
    Tpch,
}

/// The end of a query as its client sees it.
pub(crate) type Outcome = Result<(), Status>;

/// Everything by which a query can be stopped.
pub(crate) struct Handles {
    pub(crate) client: Client,
    /// None while the query is planned.
    info: Option<FlightInfo>,
    /// None until the query has reached its phase.
    seen: Option<SeenQuery>,
}

/// A query and its client.
pub(crate) struct Victim {
    tag: String,
    pub(crate) handles: Handles,
    /// The call that the client waits for.
    call: JoinSet<Outcome>,
    /// The stream that the client has begun to read.
    stream: Option<FlightRecordBatchStream>,
}

impl Handles {
    /// The FlightInfo of the client.
    pub(crate) fn info(&self) -> &FlightInfo {
        self.info.as_ref().expect("it was planned")
    }

    /// The query as the watcher saw it in its phase.
    pub(crate) fn seen(&self) -> &SeenQuery {
        self.seen.as_ref().expect("the watcher saw the query")
    }
}

/// A statement whose planning takes seconds; a debug build plans a shorter one.
fn long_planning_sql() -> String {
    let keys = if cfg!(debug_assertions) { 50_000 } else { 500_000 };
    let keys: Vec<_> = (0..keys).map(|key| (key * 7).to_string()).collect();
    format!(
        "SELECT count(*) FROM lineitem WHERE l_orderkey IN ({})",
        keys.join(", ")
    )
}

fn sql(phase: Phase, work: Work) -> String {
    match (phase, work) {
        (Phase::Planning, _) => long_planning_sql(),
        (_, Work::Tpch) => query(TPCH, 0.01),
        (Phase::Queued | Phase::Streaming | Phase::Unread, Work::Endless) => ENDLESS.to_owned(),
        (Phase::Running, Work::Endless) => LONG.to_owned(),
    }
}

impl Victim {
    /// Starts a query of a new client on its way to `phase`. The client's session has these options and `tag`; its
    /// calls end after `deadline`.
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
            handles: Handles {
                client,
                info: None,
                seen: None,
            },
            call: JoinSet::new(),
            stream: None,
        };
        let sql = sql(phase, work);
        if phase == Phase::Planning {
            victim.start_planning(sql, deadline);
            return Ok(victim);
        }
        let info = victim.handles.client.info(&sql).await?;
        match phase {
            Phase::Planning | Phase::Unread => {}
            Phase::Queued | Phase::Running => victim.start_reading(ticket(&info), deadline),
            Phase::Streaming => {
                let mut stream = victim.handles.client.get(ticket(&info)).await?;
                stream.next().await.transpose().map_err(status)?;
                victim.stream = Some(stream);
            }
        }
        victim.handles.info = Some(info);
        Ok(victim)
    }

    /// Waits until the query has reached its phase.
    pub(crate) async fn wait_for_phase(&mut self, phase: Phase, work: Work, watcher: &Watcher) {
        let seen = match (phase, work) {
            (Phase::Planning, _) => watcher.wait_for_state(&self.tag, &["planning"]).await,
            (Phase::Queued, _) => watcher.wait_for_state(&self.tag, &["queued"]).await,
            (_, Work::Endless) => watcher.wait_for_running_task(&self.tag).await,
            // The query may have finished before the watcher sees it.
            (_, Work::Tpch) => {
                let states = ["running", "delivering", "finished"];
                watcher.wait_for_state(&self.tag, &states).await
            }
        };
        self.handles.seen = Some(seen);
    }

    fn start_planning(&mut self, sql: String, deadline: Option<Duration>) {
        let mut flight = self.handles.client.flight();
        let mut request = Request::new(statement(&sql));
        if let Some(deadline) = deadline {
            request.set_timeout(deadline);
        }
        self.call
            .spawn(async move { flight.get_flight_info(request).await.map(drop) });
    }

    fn start_reading(&mut self, ticket: Ticket, deadline: Option<Duration>) {
        let mut flight = self.handles.client.flight();
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

    /// Disconnects the client in the middle of its call.
    pub(crate) async fn disconnect(mut self) {
        self.call.shutdown().await;
    }

    /// The end of the query as its client sees it: from its call, from the rest of its stream, or from a late fetch.
    ///
    /// # Errors
    /// When the client gets no answer in time, or has received it already.
    pub(crate) async fn outcome(&mut self) -> Result<Outcome, String> {
        let late = |_| format!("its client gets no answer within {PATIENCE:?}");
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
        let Some(info) = &self.handles.info else {
            return Err("its client has received the end already".to_owned());
        };
        let rows = timeout(PATIENCE, self.handles.client.fetch(info.clone())).await;
        Ok(rows.map_err(late)?.map(drop))
    }

    /// Waits until the client's call has ended or, without a call, until `watcher` sees the end of the query.
    ///
    /// # Errors
    /// When the end does not come in time.
    pub(crate) async fn wait_for_end(&mut self, watcher: &Watcher) -> Result<Instant, String> {
        if self.call.is_empty() {
            let ends = ["failed", "cancelled", "finished"];
            watcher.wait_for_state(&self.tag, &ends).await;
            return Ok(Instant::now());
        }
        let outcome = timeout(PATIENCE, self.call.join_next()).await;
        let outcome = outcome.map_err(|_| format!("its call does not end within {PATIENCE:?}"))?;
        let end = Instant::now();
        // `outcome` reads it from here.
        self.call
            .spawn(async move { outcome.expect("there is a call").expect("no panic") });
        Ok(end)
    }
}
