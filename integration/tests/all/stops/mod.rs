//! Every way to stop a query, while it is planned, queued, running, read or unread: within a second nothing of the
//! query is left, its client gets the reason, and a second stop does no harm.

pub(crate) mod victim;
pub(crate) mod watcher;
mod ways;

use std::time::{Duration, Instant};

use arrow_flight::CancelFlightInfoRequest;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::sql::{ActionCancelQueryRequest, ProstMessageExt};
use futures::StreamExt;
use prost::Message;
use squadron_integration::client::{Client, ticket};
use squadron_integration::cluster::{Cluster, ClusterBuilder, cluster};
use tempfile::TempDir;
use tokio::time::timeout;
use tonic::{Code, Status};

use self::victim::{Outcome, Phase, Victim, Work};
use self::watcher::{Watcher, check_repeated_stop};
use self::ways::Way;
use crate::callers::{Caller, Files, PASSWORD, statement, text};
use crate::support::{ENDLESS, Mismatches, bounded, minutes};

const PHASES: [Phase; 5] = [
    Phase::Planning,
    Phase::Queued,
    Phase::Running,
    Phase::Streaming,
    Phase::Unread,
];

/// Timeout of queries that a time limit stops: enough to reach each phase, and less than the long planning takes.
const TIME: Duration = Duration::from_secs(2);

/// A group that runs one query, so that the next one is queued while the watcher's own queries are not.
const GROUPS: &str = "[[group]]\nname = \"narrow\"\ntag = \"narrow*\"\nmax_running = 1\n";

#[test]
fn stops_are_clean_on_embedded_worker() {
    bounded(minutes(15), assert_stops_are_clean(cluster()));
}

#[test]
fn stops_are_clean_on_two_workers() {
    bounded(minutes(15), assert_stops_are_clean(cluster().workers(2)));
}

async fn assert_stops_are_clean(builder: ClusterBuilder) {
    let scene = Scene::start(builder).await;
    let mut mismatches = Mismatches::default();
    for phase in PHASES {
        for way in Way::ALL.into_iter().filter(|way| way.applies_to(phase)) {
            for work in [Work::Endless, Work::Tpch] {
                // The statement with the long planning is neither.
                if phase == Phase::Planning && work == Work::Tpch {
                    continue;
                }
                let case = format!("{way:?} of {work:?} while {phase:?}");
                let start = Instant::now();
                let outcome = scene.stop_and_check(way, phase, work).await;
                println!("{case}: {outcome:?} after {:?}", start.elapsed());
                mismatches.note(&case, outcome);
            }
        }
    }
    mismatches.assert_none();
}

/// A cluster, a watcher, and a client that stops queries.
struct Scene {
    cluster: Cluster,
    watcher: Watcher,
    other: Client,
    _groups: TempDir,
}

impl Scene {
    async fn start(builder: ClusterBuilder) -> Self {
        let folder = TempDir::with_prefix("squadron-groups-").expect("a folder");
        let groups = folder.path().join("groups.toml");
        std::fs::write(&groups, GROUPS).expect("written");
        let cluster = builder
            .slots(2)
            .tpch(0.01)
            .tiny_splits()
            .serve_arg(format!("--groups={}", groups.display()))
            .start()
            .await;
        // The first statement of a cluster takes extra time and memory, which no case should measure.
        let first = cluster.client().await;
        let warm = first.query("SELECT count(*) FROM lineitem, region").await;
        warm.expect("the cluster answers");
        Self {
            watcher: Watcher::connect(&cluster).await,
            other: cluster.client().await,
            cluster,
            _groups: folder,
        }
    }

    /// Brings a query to `phase`, stops it, and checks that nothing is left.
    async fn stop_and_check(&self, way: Way, phase: Phase, work: Work) -> Result<(), String> {
        let before = self.watcher.memory().await;
        let occupant = match phase {
            Phase::Queued => Some(self.occupy_group().await),
            _ => None,
        };
        let mut victim = match self.start_victim(way, phase, work).await {
            Ok(victim) => victim,
            // On a busy machine its time may be over before its first row.
            Err(status) if way.is_timeout() && work == Work::Tpch && way.accepts(phase, &status) => {
                drop(occupant);
                let end = Instant::now();
                return self.watcher.check_nothing_left(&self.cluster, &before, end).await;
            }
            Err(status) => return Err(format!("it does not start: {status}")),
        };
        if !(way.is_timeout() && phase == Phase::Planning) {
            victim.wait_for_phase(phase, work, &self.watcher).await;
        }
        let (end, victim) = self.stop(way, phase, victim).await?;
        drop(occupant);
        let left = self.watcher.check_nothing_left(&self.cluster, &before, end);
        if let Err(left) = left.await {
            // The next case should not find it again.
            self.watcher.kill_all().await;
            return Err(left);
        }
        match victim {
            Some(mut victim) => check_outcome(way, phase, work, victim.outcome().await?),
            None => Ok(()),
        }
    }

    async fn start_victim(&self, way: Way, phase: Phase, work: Work) -> Result<Victim, Status> {
        let prefix = match phase {
            Phase::Queued => "narrow",
            _ => "victim",
        };
        let tag = format!("{prefix}-{way:?}-{phase:?}-{work:?}");
        let options = match way {
            Way::QueryTimeout => vec![format!("squadron.query_timeout = '{}s'", TIME.as_secs())],
            _ => Vec::new(),
        };
        let deadline = (way == Way::Deadline).then_some(TIME);
        Victim::start(&self.cluster, tag, &options, (phase, work), deadline).await
    }

    /// Stops the query, and a second time where a client does it. Gives the time of the stop, and the victim unless its
    /// client is gone.
    async fn stop(&self, way: Way, phase: Phase, mut victim: Victim) -> Result<(Instant, Option<Victim>), String> {
        if way == Way::Disconnect {
            victim.disconnect().await;
            return Ok((Instant::now(), None));
        }
        if way.is_timeout() {
            return Ok((victim.wait_for_end(&self.watcher).await?, Some(victim)));
        }
        let stopped = way.stop(&victim.handles, &self.other).await;
        // A query of TPC-H may have ended by itself.
        stopped
            .or_else(|status| match status.code() {
                Code::NotFound => Ok(()),
                _ => Err(status),
            })
            .map_err(|status| format!("it cannot be stopped while {phase:?}: {status}"))?;
        let end = Instant::now();
        let again = self.cluster.client().await;
        check_repeated_stop(way.stop(&victim.handles, &again).await)?;
        Ok((end, Some(victim)))
    }

    /// Runs the only query of the narrow group until the stream is dropped.
    async fn occupy_group(&self) -> FlightRecordBatchStream {
        let client = self.cluster.client().await;
        let set = client.update("SET squadron.tag = 'narrow'").await;
        set.expect("a session takes a tag");
        let mut stream = client.open(ENDLESS).await.expect("the group runs one query");
        stream.next().await.expect("a row").expect("no error");
        stream
    }
}

/// Checks what the client of a stopped query gets.
fn check_outcome(way: Way, phase: Phase, work: Work, outcome: Outcome) -> Result<(), String> {
    match outcome {
        Err(status) if way.accepts(phase, &status) => Ok(()),
        Err(status) => Err(format!("its client gets {status}")),
        Ok(()) if work == Work::Tpch => Ok(()),
        Ok(()) => Err("its client gets no error".to_owned()),
    }
}

#[test]
fn satisfied_limit_leaves_nothing_behind() {
    bounded(minutes(5), async {
        for builder in [cluster(), cluster().workers(2)] {
            let scene = Scene::start(builder).await;
            let before = scene.watcher.memory().await;
            let client = scene.cluster.client().await;
            let rows = client.query(&format!("{ENDLESS} LIMIT 10")).await;
            let (_, batches) = rows.expect("it ends by itself");
            let rows: usize = batches.iter().map(|batch| batch.num_rows()).sum();
            assert_eq!(rows, 10);
            let left = scene
                .watcher
                .check_nothing_left(&scene.cluster, &before, Instant::now());
            left.await.unwrap_or_else(|left| panic!("{left}"));
        }
    });
}

/// A client that gives up before the answer to its first poll has no handle by which to stop the query. An answer that
/// is on its way when the client gives up was delivered, as far as the server can know: such a query ends when it was
/// not polled for `--result-ttl`.
#[test]
fn abandoned_first_poll_leaves_nothing() {
    bounded(minutes(5), async {
        let scene = Scene::start(cluster().workers(2).serve_arg("--result-ttl=5s")).await;
        let before = scene.watcher.memory().await;
        // The first answer for a queued query comes 50 ms after its planning.
        let occupant = scene.occupy_group().await;
        let mut given_up = 0;
        for milliseconds in (0..200).step_by(10) {
            let client = scene.cluster.client().await;
            let set = client.update("SET squadron.tag = 'narrow'").await;
            set.expect("a session takes a tag");
            let mut flight = client.flight();
            let first = flight.poll_flight_info(statement(ENDLESS));
            match timeout(Duration::from_millis(milliseconds), first).await {
                Ok(answer) => {
                    let info = answer.expect("it starts").into_inner().info;
                    let stopped = client.cancel(&info.expect("a FlightInfo")).await;
                    stopped.expect("it can be stopped");
                }
                Err(_) => given_up += 1,
            }
        }
        let end = Instant::now();
        let waiting = scene.watcher.waiting_queries(end).await;
        assert!(
            waiting.len() <= 2 && waiting.len() < given_up,
            "of {given_up} abandoned queries these still wait, more than can have been answered: {waiting:?}"
        );
        drop(occupant);
        for query in &waiting {
            scene.watcher.wait_for_end(query).await;
        }
        let end = if waiting.is_empty() { end } else { Instant::now() };
        let left = scene.watcher.check_nothing_left(&scene.cluster, &before, end);
        left.await.unwrap_or_else(|left| panic!("{left}"));
    });
}

/// `system.rs` checks the same of KILL.
#[test]
fn only_its_principal_stops_query() {
    bounded(minutes(5), async {
        let files = Files::new();
        let cluster = cluster()
            .slots(1)
            .tpch(0.01)
            .serve_arg("--users")
            .serve_arg(text(&files.users()))
            .start()
            .await;
        let ann = Caller::connect(cluster.url()).await.basic("ann", PASSWORD);
        let bob = Caller::connect(cluster.url()).await.basic("bob", PASSWORD);
        let info = ann.info(ENDLESS).await.expect("it starts");
        let request = ann.request(ticket(&info));
        let rows = ann.flight().do_get(request).await.expect("rows");
        let mut rows = rows.into_inner();
        let newer = CancelFlightInfoRequest::new(info.clone()).encode_to_vec();
        let older = ActionCancelQueryRequest {
            info: info.encode_to_vec().into(),
        };
        let stops = [
            ("CancelFlightInfo", newer),
            ("CancelQuery", older.as_any().encode_to_vec()),
        ];
        for (action, body) in &stops {
            let refused = bob.act(action, body.clone()).await;
            let status = refused.expect_err("it is not his");
            assert_eq!(status.code(), Code::NotFound, "{action}: {status}");
            rows.message().await.expect("it goes on").expect("a row");
        }
        let elsewhere = Caller::connect(cluster.url()).await.basic("ann", PASSWORD);
        for (action, body) in stops {
            let stopped = elsewhere.act(action, body).await;
            stopped.expect("it is hers, and once more does no harm");
        }
        let ended = async {
            loop {
                match rows.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("it ends well"),
                    Err(status) => return status,
                }
            }
        };
        let status = timeout(Duration::from_secs(30), ended).await;
        assert_eq!(status.expect("soon").code(), Code::Cancelled);
    });
}
