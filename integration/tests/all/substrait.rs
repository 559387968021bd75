//! Substrait plans of third-party producers, and invalid plans.

use std::fs;
use std::process::Command;

use arrow_flight::sql::{CommandStatementSubstraitPlan, DoPutUpdateResult, ProstMessageExt, SubstraitPlan};
use arrow_flight::{FlightData, FlightDescriptor};
use datafusion_substrait::logical_plan::producer::to_substrait_plan;
use futures::stream;
use prost::Message;
use squadron_integration::client::Client;
use squadron_integration::cluster::{Cluster, cluster};
use squadron_integration::tpch::{QUERIES, query};
use tempfile::TempDir;
use tonic::{Code, Status};

use crate::bad_input::{assert_still_answers, blames_caller};
use crate::clients::run_suite;
use crate::drivers::{isthmus, run, substrait_environment, suites};
use crate::schemas::{Source, prepare};
use crate::support::{Reference, bounded, minutes};
use crate::tpch::register;

const SCALE_FACTOR: f64 = 0.01;

/// The plan that DataFusion's producer makes of `sql`.
pub(crate) async fn plan_of(reference: &Reference, sql: &str) -> Vec<u8> {
    let (plan, state) = reference.plan(sql).await;
    let plan = to_substrait_plan(&plan, &state);
    plan.unwrap_or_else(|error| panic!("no plan of {sql}: {error}"))
        .encode_to_vec()
}

/// datafusion-python, DuckDB, the package `substrait` and, where there is Java, Isthmus: TPC-H through ADBC.
#[test]
#[cfg_attr(not(has_python), ignore = "skipped: there is no python3 with venv on this machine")]
fn plans_of_other_producers_run() {
    let environment = substrait_environment();
    let plans = cfg!(has_java).then(plans_of_isthmus);
    bounded(minutes(8), async move {
        let cluster = start(2).await;
        let mut suite = Command::new(environment.join("bin/python"));
        suite.arg(suites().join("substrait/test_substrait.py"));
        suite.arg(cluster.url());
        suite.args(plans.as_ref().map(TempDir::path));
        suite.env("PYTHONDONTWRITEBYTECODE", "1");
        run_suite(suite).await;
    });
}

/// The 22 queries as Isthmus plans them; `value` is a keyword of its SQL.
fn plans_of_isthmus() -> TempDir {
    let jars = isthmus();
    let queries = TempDir::with_prefix("squadron-queries-").unwrap();
    let plans = TempDir::with_prefix("squadron-plans-").unwrap();
    for number in 1..=QUERIES {
        let sql = query(number, SCALE_FACTOR).replace("as value", "as \"value\"");
        let sql = sql.replace("value desc", "\"value\" desc");
        let sql = sql.trim().trim_end_matches(';');
        fs::write(queries.path().join(format!("q{number:02}.sql")), sql).unwrap();
    }
    let mut java = Command::new("java");
    java.arg("-cp").arg(jars.join("*"));
    java.arg(suites().join("substrait/Isthmus.java"));
    java.arg(suites().join("substrait/tpch.sql"));
    java.arg(queries.path()).arg(plans.path());
    run(&mut java);
    plans
}

async fn start(workers: usize) -> Cluster {
    let cluster = cluster().workers(workers).slots(1).tpch(SCALE_FACTOR);
    cluster.tiny_splits().start().await
}

fn descriptor(plan: &[u8], version: &str) -> FlightDescriptor {
    let command = CommandStatementSubstraitPlan {
        plan: Some(SubstraitPlan {
            plan: plan.to_vec().into(),
            version: version.into(),
        }),
        transaction_id: None,
    };
    FlightDescriptor::new_cmd(command.as_any().encode_to_vec())
}

/// The status of a refused plan, which must be the same in all RPCs.
async fn refusal(client: &Client, plan: &[u8]) -> Status {
    let mut flight = client.flight();
    let info = flight.get_flight_info(descriptor(plan, "")).await.unwrap_err();
    let schema = flight.get_schema(descriptor(plan, "")).await.unwrap_err();
    let prepared = prepare(client, Source::Plan(plan)).await.unwrap_err();
    let update = FlightData::new().with_descriptor(descriptor(plan, ""));
    let update = flight.do_put(stream::iter([update])).await.unwrap_err();
    for (place, other) in [("GetSchema", schema), ("prepare", prepared), ("DoPut", update)] {
        let found = (other.code(), other.message());
        assert_eq!(found, (info.code(), info.message()), "{place}");
    }
    info
}

#[test]
fn wrong_plan_blames_the_caller() {
    bounded(minutes(8), async {
        let cluster = start(0).await;
        let client = cluster.client().await;
        let reference = Reference::new();
        register(&reference).await;
        let sql = "SELECT n_name, count(*) AS n FROM nation JOIN region ON n_regionkey = r_regionkey GROUP BY n_name";
        let plan = plan_of(&reference, sql).await;

        // Replaces a name in the plan by another of the same length.
        let with = |from: &str, to: &str| {
            assert_eq!(from.len(), to.len());
            let mut bytes = plan.clone();
            let places: Vec<_> = (0..bytes.len() - from.len())
                .filter(|at| bytes[*at..].starts_with(from.as_bytes()))
                .collect();
            assert!(!places.is_empty(), "{from} is in the plan");
            for at in places {
                bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
            }
            bytes
        };
        for (bytes, code, says) in [
            (Vec::new(), Code::InvalidArgument, "empty"),
            (b"{}".to_vec(), Code::InvalidArgument, "JSON"),
            (vec![0xff; 100], Code::InvalidArgument, "not a Substrait plan"),
            (vec![0; 17 << 20], Code::InvalidArgument, "16 MiB"),
            (with("count", "tally"), Code::Unimplemented, "tally"),
            (with("equal", "eqaul"), Code::Unimplemented, "eqaul"),
            (with("n_regionkey", "n_regionkay"), Code::InvalidArgument, "n_regionkay"),
            (with("nation", "natoin"), Code::NotFound, "did you mean 'nation'?"),
        ] {
            let status = refusal(&client, &bytes).await;
            assert_eq!(status.code(), code, "{says}: {status}");
            assert!(status.message().contains(says), "{says}: {status}");
        }
        for version in ["99.0.0", "banana"] {
            let answer = client.flight().get_schema(descriptor(&plan, version)).await;
            let status = answer.unwrap_err();
            assert_eq!(status.code(), Code::Unimplemented);
            assert!(status.message().contains(version), "{status}");
        }
        let known = client.flight().get_schema(descriptor(&plan, "0.53.0")).await;
        assert!(known.is_ok(), "{known:?}");

        let mut flight = client.flight();
        for end in 0..plan.len() {
            if let Err(status) = flight.get_schema(descriptor(&plan[..end], "")).await {
                assert!(blames_caller(&status), "cut at {end}: {status}");
            }
        }
        assert_still_answers(&client).await;
    });
}

/// A query that is sent as an update is run to its end.
#[test]
fn plan_sent_as_update_runs() {
    bounded(minutes(5), async {
        let cluster = start(0).await;
        let client = cluster.client().await;
        let reference = Reference::new();
        register(&reference).await;
        let plan = plan_of(&reference, "SELECT n_name FROM nation").await;
        let message = FlightData::new().with_descriptor(descriptor(&plan, ""));
        let answer = client.flight().do_put(stream::iter([message])).await;
        let answer = answer.unwrap().into_inner().message().await.unwrap();
        let result = DoPutUpdateResult::decode(answer.unwrap().app_metadata).unwrap();
        assert_eq!(result.record_count, -1);
    });
}
