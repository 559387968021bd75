//! Every way to stop a query, while it is planned, queued, running, read or unread: within a second nothing of it is left,
//! its client hears the reason, and to stop it once more does no harm.

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
use tonic::Code;

use self::victim::{Outcome, Phase, Victim, Work};
use self::watcher::{Watcher, is_calm};
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

/// Enough for a query to get where it is to be stopped, and too little for what is planned long.
const TIME: Duration = Duration::from_secs(2);

/// A group with room for one query, so that the next one waits while those who look do not.
const GROUPS: &str = "[[group]]\nname = \"narrow\"\ntag = \"narrow*\"\nmax_running = 1\n";

#[test]
fn embedded() {
    bounded(minutes(15), every_way(cluster()));
}

#[test]
fn two_workers() {
    bounded(minutes(15), every_way(cluster().workers(2)));
}

async fn every_way(builder: ClusterBuilder) {
    let scene = Scene::set(builder).await;
    let mut mismatches = Mismatches::default();
    for phase in PHASES {
        for way in Way::ALL.into_iter().filter(|way| way.reaches(phase)) {
            for work in [Work::Endless, Work::Tpch] {
                // What is planned long is neither.
                if phase == Phase::Planning && work == Work::Tpch {
                    continue;
                }
                let case = format!("{way:?} of {work:?} while {phase:?}");
                let start = Instant::now();
                let outcome = scene.stops(way, phase, work).await;
                println!("{case}: {outcome:?} after {:?}", start.elapsed());
                mismatches.note(&case, outcome);
            }
        }
    }
    mismatches.assert_none();
}

/// A cluster, somebody who looks at it, and somebody who stops queries.
struct Scene {
    cluster: Cluster,
    watcher: Watcher,
    other: Client,
    _groups: TempDir,
}

impl Scene {
    async fn set(builder: ClusterBuilder) -> Self {
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
        // What a first statement costs in time and memory is no part of the cases.
        let first = cluster.client().await;
        let warm = first.query("SELECT count(*) FROM lineitem, region").await;
        warm.expect("the cluster answers");
        Self {
            watcher: Watcher::of(&cluster).await,
            other: cluster.client().await,
            cluster,
            _groups: folder,
        }
    }

    /// Brings a query to `phase`, stops it, and looks at what is left.
    async fn stops(&self, way: Way, phase: Phase, work: Work) -> Result<(), String> {
        let before = self.watcher.memory().await;
        let hog = match phase {
            Phase::Queued => Some(self.hog().await),
            _ => None,
        };
        let mut victim = self.victim(way, phase, work).await?;
        if !(way.is_time() && phase == Phase::Planning) {
            victim.is_in(phase, work, &self.watcher).await;
        }
        let (end, victim) = self.stopped(way, phase, victim).await?;
        drop(hog);
        let left = self.watcher.finds_nothing(&self.cluster, &before, end);
        if let Err(left) = left.await {
            // The next case is not to find it too.
            self.watcher.sweep().await;
            return Err(left);
        }
        match victim {
            Some(mut victim) => is_right(way, phase, work, victim.outcome().await?),
            None => Ok(()),
        }
    }

    async fn victim(&self, way: Way, phase: Phase, work: Work) -> Result<Victim, String> {
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
        Victim::start(&self.cluster, tag, &options, (phase, work), deadline)
            .await
            .map_err(|status| format!("it does not start: {status}"))
    }

    /// Stops it, twice where somebody does it, and says when; gives it back unless its client is gone.
    async fn stopped(&self, way: Way, phase: Phase, mut victim: Victim) -> Result<(Instant, Option<Victim>), String> {
        if way == Way::Disconnect {
            victim.disconnect().await;
            return Ok((Instant::now(), None));
        }
        if way.is_time() {
            return Ok((victim.ended(&self.watcher).await?, Some(victim)));
        }
        let stopped = way.stop(&victim.names, &self.other).await;
        // A query of TPC-H may have ended by itself.
        stopped
            .or_else(|status| match status.code() {
                Code::NotFound => Ok(()),
                _ => Err(status),
            })
            .map_err(|status| format!("it cannot be stopped while {phase:?}: {status}"))?;
        let end = Instant::now();
        let again = self.cluster.client().await;
        is_calm(way.stop(&victim.names, &again).await)?;
        Ok((end, Some(victim)))
    }

    /// Takes the one place of the narrow group, until it is dropped.
    async fn hog(&self) -> FlightRecordBatchStream {
        let client = self.cluster.client().await;
        let named = client.update("SET squadron.tag = 'narrow'").await;
        named.expect("a session takes a tag");
        let mut stream = client.open(ENDLESS).await.expect("there is room for one");
        stream.next().await.expect("a row").expect("no error");
        stream
    }
}

/// Whether the client of a stopped query hears the right thing.
fn is_right(way: Way, phase: Phase, work: Work, outcome: Outcome) -> Result<(), String> {
    match outcome {
        Err(status) if way.says(phase, &status) => Ok(()),
        Err(status) => Err(format!("its client hears {status}")),
        Ok(()) if work == Work::Tpch => Ok(()),
        Ok(()) => Err("its client hears nothing of it".to_owned()),
    }
}

#[test]
fn a_limit_that_is_satisfied_leaves_nothing() {
    bounded(minutes(5), async {
        for builder in [cluster(), cluster().workers(2)] {
            let scene = Scene::set(builder).await;
            let before = scene.watcher.memory().await;
            let client = scene.cluster.client().await;
            let rows = client.query(&format!("{ENDLESS} LIMIT 10")).await;
            let (_, batches) = rows.expect("it ends by itself");
            let rows: usize = batches.iter().map(|batch| batch.num_rows()).sum();
            assert_eq!(rows, 10);
            let left = scene.watcher.finds_nothing(&scene.cluster, &before, Instant::now());
            left.await.unwrap_or_else(|left| panic!("{left}"));
        }
    });
}

/// Whoever is given up before the answer to his first poll has no name to stop by. An answer that crosses the giving up
/// on its way was told, as far as the server can know: such a query ends when nobody polled for `--result-ttl`.
#[test]
fn a_first_poll_that_is_given_up_leaves_nothing() {
    bounded(minutes(5), async {
        let scene = Scene::set(cluster().workers(2).serve_arg("--result-ttl=5s")).await;
        let before = scene.watcher.memory().await;
        // The answer waits 50 ms for a query that waits for its turn; planning it comes before.
        let hog = scene.hog().await;
        let mut given_up = 0;
        for milliseconds in (0..200).step_by(10) {
            let client = scene.cluster.client().await;
            let named = client.update("SET squadron.tag = 'narrow'").await;
            named.expect("a session takes a tag");
            let mut flight = client.flight();
            let first = flight.poll_flight_info(statement(ENDLESS));
            match timeout(Duration::from_millis(milliseconds), first).await {
                Ok(answer) => {
                    let info = answer.expect("it starts").into_inner().info;
                    let stopped = client.cancel(&info.expect("its name")).await;
                    stopped.expect("it can be stopped");
                }
                Err(_) => given_up += 1,
            }
        }
        let end = Instant::now();
        let waiting = scene.watcher.waiting(end).await;
        assert!(
            waiting.len() <= 2 && waiting.len() < given_up,
            "of {given_up} given up these still wait, more than can have crossed: {waiting:?}"
        );
        drop(hog);
        for query in &waiting {
            scene.watcher.ends(query).await;
        }
        let end = if waiting.is_empty() { end } else { Instant::now() };
        let left = scene.watcher.finds_nothing(&scene.cluster, &before, end);
        left.await.unwrap_or_else(|left| panic!("{left}"));
    });
}

/// KILL of others is tried with the tables that would show what to kill.
#[test]
fn a_query_is_stopped_by_its_principal_alone() {
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
