//! The benchmark harness, run as its users run it: small runs of each measurement, and their reports.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use squadron_integration::cluster::{cache_folder, cluster};
use squadron_integration::time_limit::{bounded, minutes};
use tempfile::TempDir;
use tokio::process::Command;

async fn run_to_end(mut command: Command) -> Output {
    command.output().await.expect("it starts")
}

fn output_texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// Runs one command of the harness; gives its exit code, its report and what it printed.
async fn bench(arguments: &[&str], json: &Path) -> (Option<i32>, Value, String) {
    let cache = cache_folder();
    let cache = cache.to_str().expect("it has a plain name");
    bench_without_cache(&[arguments, &["--cache-dir", cache]].concat(), json).await
}

async fn bench_without_cache(arguments: &[&str], json: &Path) -> (Option<i32>, Value, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_squadron-bench"));
    command.args(arguments).arg("--json").arg(json);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = run_to_end(command).await;
    let (stdout, stderr) = output_texts(&output);
    let report = std::fs::read_to_string(json).unwrap_or_else(|error| panic!("no report ({error}): {stdout}{stderr}"));
    let report = serde_json::from_str(&report).expect("the report is JSON");
    (output.status.code(), report, stdout + &stderr)
}

/// Workers die, hang and leave; every row is right, no query hangs, and nothing is left.
#[test]
fn queries_outlive_chaos() {
    bounded(minutes(5), async {
        let folder = TempDir::with_prefix("squadron-bench-").expect("there is a temporary folder");
        let json = folder.path().join("report.json");
        // Its first fault is a kill.
        let chaos = ["chaos", "--seconds", "25", "--sf", "0.01", "--seed", "4"];
        let (code, report, said) = bench_without_cache(&chaos, &json).await;
        assert_eq!(code, Some(0), "{said}");
        let faults = report["faults"].as_object().expect("they are counted by kind");
        assert!(faults.contains_key("kill"), "{said}");
        assert!(report["queries"].as_u64().is_some_and(|queries| queries > 0), "{said}");
    });
}

#[test]
fn harness_measures_tpch_latency_stream_memory() {
    bounded(minutes(5), async {
        let folder = TempDir::with_prefix("squadron-bench-").expect("there is a temporary folder");
        let json = folder.path().join("report.json");

        let tpch = [
            "tpch",
            "--sf",
            "0.01",
            "--workers",
            "2",
            "--slots",
            "1",
            "--queries",
            "1,6",
        ];
        let (code, report, said) = bench(
            &[&tpch[..], &["--against", "datafusion", "--runs", "1"]].concat(),
            &json,
        )
        .await;
        assert_eq!((code, &report["exact"]), (Some(0), &Value::Bool(true)), "{said}");
        let ratio = report["total_datafusion"]["ratio"].as_f64();
        assert!(ratio.is_some_and(|ratio| ratio > 0.0), "{report}");

        let (code, report, said) = bench(&["latency", "--seconds", "1"], &json).await;
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(report["measurements"].as_array().map(Vec::len), Some(4));

        let (code, report, said) = bench(
            &[
                "stream",
                "--mebibytes",
                "8",
                "--runs",
                "1",
                "--workers",
                "2",
                "--endpoints",
                "both",
            ],
            &json,
        )
        .await;
        assert_eq!(code, Some(0), "{said}");
        for key in ["arrow_ratio", "arrow_parallel_ratio"] {
            assert!(report[key].as_f64().is_some_and(|ratio| ratio > 0.0), "{report}");
        }

        let (code, report, said) = bench(&["memory", "--sf", "0.01"], &json).await;
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(report["rows"], 60175);
    });
}

#[test]
fn harness_measures_star_and_wide_table() {
    bounded(minutes(5), async {
        let folder = TempDir::with_prefix("squadron-bench-").expect("there is a temporary folder");
        let json = folder.path().join("report.json");
        for tables in ["star", "wide"] {
            let ssb = format!("ssb --sf 0.01 --tables {tables} --queries 2,4,7,11 --workers 2 --slots 1 --runs 1");
            let (code, report, said) = bench(&words(&ssb), &json).await;
            assert_eq!((code, &report["exact"]), (Some(0), &Value::Bool(true)), "{said}");
            let queries = report["queries"].as_array().expect("queries");
            let has_rows = |query: &&Value| query["rows"].as_u64().is_some_and(|rows| rows > 0);
            assert_eq!(queries.iter().filter(has_rows).count(), 4, "{report}");
        }
    });
}

/// The arguments of one small run.
fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[test]
fn harness_measures_mixed_and_burst() {
    bounded(minutes(5), async {
        let folder = TempDir::with_prefix("squadron-bench-").expect("there is a temporary folder");
        let json = folder.path().join("report.json");

        let mixed = "mixed --sf 0.01 --long-sf 0.02 --slots 1 --policies stride,fifo --loads 0.3 --seconds 2 \
                     --short-queries 6 --long-queries 1";
        let (code, report, said) = bench(&words(mixed), &json).await;
        assert_eq!(code, Some(0), "{said}");
        let cells = report["cells"].as_array().expect("cells");
        assert_eq!(cells.len(), 2, "{report}");
        for cell in cells {
            assert_eq!(cell["arrived"], cell["all"]["queries"], "{cell}");
        }
        assert_eq!(
            cells[0]["arrived"], cells[1]["arrived"],
            "both policies get the same arrivals"
        );

        let burst = "burst --sf 0.01 --slots 1 --policies fair --queries 1,6,14 --prioritised 6 --runs 1";
        let (code, report, said) = bench(&words(burst), &json).await;
        assert_eq!(code, Some(0), "{said}");
        let policy = &report["policies"][0];
        assert_eq!(policy["plain"]["queries"].as_array().map(Vec::len), Some(3));
        assert_eq!(policy["gain"]["queries"][0]["query"], 6, "{report}");
    });
}

#[test]
fn harness_measures_cancels() {
    bounded(minutes(5), async {
        let folder = TempDir::with_prefix("squadron-bench-").expect("there is a temporary folder");
        let json = folder.path().join("report.json");
        let cancel = "cancel --sf 0.01 --workers 2 --cancels 24 --batch 12 --clients 2 --queries 6,9";
        let (code, report, said) = bench(&words(cancel), &json).await;
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(report["all"]["queries"], 24);
        assert_eq!(report["unclean_batches"], 0, "{report}");
        let stopped = report["all"]["stopped"].as_u64();
        assert!(stopped.is_some_and(|stopped| stopped > 0), "{report}");
    });
}

#[test]
fn harness_measures_dispatch() {
    bounded(minutes(3), async {
        let folder = TempDir::with_prefix("squadron-bench-").expect("there is a temporary folder");
        let json = folder.path().join("report.json");
        let arguments = "dispatch --queries 5 --tasks 50 --seconds 1 --runs 1 --json";
        let mut command = Command::new(env!("CARGO_BIN_EXE_squadron-bench"));
        command.args(words(arguments)).arg(&json);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = run_to_end(command).await;
        let (stdout, stderr) = output_texts(&output);
        assert_eq!(output.status.code(), Some(0), "{stdout}{stderr}");
        let report = std::fs::read_to_string(&json).expect("a report");
        let report: Value = serde_json::from_str(&report).expect("the report is JSON");
        let rate = report["tasks_per_second"].as_f64();
        assert!(rate.is_some_and(|rate| rate > 0.0), "{report}");
        assert!(report["idle"]["p50_ms"].as_f64().is_some(), "{report}");
    });
}

#[test]
fn harness_reports_a_wrong_result() {
    bounded(minutes(5), async {
        // The server has tables of another scale than the harness expects, so that every answer is wrong.
        let cluster = cluster().slots(1).tpch(0.001).start().await;
        let folder = TempDir::with_prefix("squadron-bench-").expect("there is a temporary folder");
        let json = folder.path().join("report.json");
        let arguments = [
            "tpch",
            "--sf",
            "0.01",
            "--queries",
            "1",
            "--runs",
            "1",
            "--server",
            cluster.url(),
        ];
        let (code, report, said) = bench(&arguments, &json).await;
        assert_eq!((code, &report["exact"]), (Some(1), &Value::Bool(false)), "{said}");
        assert!(
            report["queries"][0]["difference"]
                .as_str()
                .is_some_and(|text| text.contains("missing")),
            "{report}"
        );
        tokio::time::timeout(Duration::from_secs(30), cluster.client().await.query("SELECT 1"))
            .await
            .expect("the server goes on")
            .expect("rows");
    });
}
