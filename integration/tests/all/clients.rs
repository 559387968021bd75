//! Stock clients in their own languages; the suites are in `integration/clients`.
//!
//! Without Python, Java or Go on the machine, their tests are ignored and the reason is shown. CI must have Python and
//! Java; Debian's own Go is too old for arrow-go, and a newer one cannot be installed everywhere.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use squadron_integration::cluster::Cluster;
use squadron_integration::process::squadron;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::drivers::{go_suite, jdbc_suite, python_environment, suites};
use crate::support::{bounded, minutes, two_workers};
use crate::types::TypesTable;

/// How long one suite may take.
const SUITE_LIMIT: Duration = Duration::from_secs(360);

async fn start() -> Cluster {
    two_workers().start().await
}

async fn start_with(data: &Path) -> Cluster {
    two_workers().data(data).start().await
}

/// Runs a suite, which must exit with 0.
pub(crate) async fn run_suite(suite: Command) {
    let mut suite = tokio::process::Command::from(suite);
    let output = timeout(SUITE_LIMIT, suite.kill_on_drop(true).output()).await;
    let output = output.expect("the suite ends in time").expect("the suite starts");
    let text = format!(
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "the suite failed:\n{text}");
    println!("{text}");
}

fn run_python_suite(file: &'static str) {
    let environment = python_environment();
    bounded(minutes(6), async move {
        let cluster = start().await;
        let mut suite = Command::new(environment.join("bin/python"));
        suite.arg(suites().join("python").join(file)).arg(cluster.url());
        suite.env("PYTHONDONTWRITEBYTECODE", "1");
        // For suites that start servers of their own.
        suite.env("SQUADRON", squadron());
        run_suite(suite).await;
    });
}

/// The first queries of the differential suite; `integration/clients/differential/main.py` runs thousands.
#[test]
#[cfg_attr(not(has_python), ignore = "skipped: there is no python3 with venv on this machine")]
fn generated_queries_agree_with_duckdb() {
    let environment = python_environment();
    bounded(minutes(10), async move {
        let main = || {
            let mut main = Command::new(environment.join("bin/python"));
            main.arg(suites().join("differential/main.py"));
            main.env("PYTHONDONTWRITEBYTECODE", "1");
            main
        };
        let folder = TempDir::with_prefix("squadron-differential-").unwrap();
        let mut make = main();
        make.arg("--make").arg(folder.path());
        run_suite(make).await;
        let cluster = two_workers().data(folder.path()).start().await;
        for of_form in [&["--queries", "120"][..], &["--form", "correlated", "--queries", "25"]] {
            let mut compare = main();
            compare.arg(cluster.url()).arg(folder.path()).args(of_form);
            run_suite(compare).await;
        }
    });
}

#[test]
#[cfg_attr(not(has_python), ignore = "skipped: there is no python3 with venv on this machine")]
fn python_adbc_suite_passes() {
    run_python_suite("test_adbc.py");
}

#[test]
#[cfg_attr(not(has_python), ignore = "skipped: there is no python3 with venv on this machine")]
fn python_system_suite_passes() {
    run_python_suite("test_system.py");
}

#[test]
#[cfg_attr(not(has_python), ignore = "skipped: there is no python3 with venv on this machine")]
fn python_writes_suite_passes() {
    run_python_suite("test_writes.py");
}

#[test]
#[cfg_attr(not(has_python), ignore = "skipped: there is no python3 with venv on this machine")]
fn python_pyarrow_flight_suite_passes() {
    run_python_suite("test_pyarrow.py");
}

#[test]
#[cfg_attr(not(has_python), ignore = "skipped: there is no python3 with venv on this machine")]
fn python_partitions_suite_passes() {
    run_python_suite("test_partitions.py");
}

#[test]
#[cfg_attr(not(has_python), ignore = "skipped: there is no python3 with venv on this machine")]
fn python_flightsql_dbapi_suite_passes() {
    run_python_suite("test_flightsql_dbapi.py");
}

#[test]
#[cfg_attr(not(has_python), ignore = "skipped: there is no python3 with venv on this machine")]
fn python_adbc_surface_suite_passes() {
    run_python_suite("test_adbc_surface.py");
}

#[test]
#[cfg_attr(not(has_python), ignore = "skipped: there is no python3 with venv on this machine")]
fn python_data_frames_suite_passes() {
    run_python_suite("test_frames.py");
}

#[test]
#[cfg_attr(not(has_python), ignore = "skipped: there is no python3 with venv on this machine")]
fn python_sqlalchemy_suite_passes() {
    run_python_suite("test_sqlalchemy.py");
}

#[test]
#[cfg_attr(not(has_python), ignore = "skipped: there is no python3 with venv on this machine")]
fn python_clients_survive_server_restart() {
    run_python_suite("test_restart.py");
}

#[test]
#[cfg_attr(not(has_python), ignore = "skipped: there is no python3 with venv on this machine")]
fn python_example_runs_to_its_end() {
    let environment = python_environment();
    bounded(minutes(6), async move {
        let cluster = start().await;
        let mut example = Command::new(environment.join("bin/python"));
        example.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/python_client.py"));
        example.arg(cluster.url());
        example.env("PYTHONDONTWRITEBYTECODE", "1");
        run_suite(example).await;
    });
}

#[test]
#[cfg_attr(not(has_java), ignore = "skipped: there is no JDK with Maven on this machine")]
fn java_jdbc_suite_passes() {
    let classes = jdbc_suite();
    bounded(minutes(6), async move {
        let types = TypesTable::write();
        let cluster = start_with(types.folder()).await;
        let mut suite = Command::new("java");
        // Arrow accesses internal buffers of the JDK.
        suite.arg("--add-opens=java.base/java.nio=ALL-UNNAMED");
        suite.args(["-cp", &classes, "suite.JdbcSuite", cluster.url()]);
        run_suite(suite).await;
    });
}

#[test]
#[cfg_attr(not(has_java), ignore = "skipped: there is no JDK with Maven on this machine")]
fn java_jdbc_writes_suite_passes() {
    let classes = jdbc_suite();
    bounded(minutes(6), async move {
        let cluster = start().await;
        let mut suite = Command::new("java");
        // Arrow accesses internal buffers of the JDK.
        suite.arg("--add-opens=java.base/java.nio=ALL-UNNAMED");
        suite.args(["-cp", &classes, "suite.JdbcWrites", cluster.url()]);
        run_suite(suite).await;
    });
}

#[test]
#[cfg_attr(not(has_python), ignore = "skipped: there is no python3 with venv on this machine")]
fn python_types_suite_passes() {
    let environment = python_environment();
    bounded(minutes(6), async move {
        let types = TypesTable::write();
        let cluster = start_with(types.folder()).await;
        let mut suite = Command::new(environment.join("bin/python"));
        suite.arg(suites().join("python/test_types.py"));
        suite.arg(cluster.url()).arg(types.file());
        suite.env("PYTHONDONTWRITEBYTECODE", "1");
        run_suite(suite).await;
    });
}

#[test]
#[cfg_attr(
    not(has_go),
    ignore = "skipped: there is no Go on this machine that is new enough for the suite's go.mod"
)]
fn go_flightsql_suite_passes() {
    let program = go_suite();
    bounded(minutes(6), async move {
        let cluster = start().await;
        let mut suite = Command::new(program);
        suite.arg(cluster.url());
        run_suite(suite).await;
    });
}

#[test]
fn ci_has_all_required_drivers() {
    if std::env::var("CI").is_ok_and(|ci| ci == "true") {
        let found = [
            ("python3 with venv", cfg!(has_python)),
            ("a JDK with Maven", cfg!(has_java)),
        ];
        for (driver, is_there) in found {
            assert!(is_there, "CI must have {driver}");
        }
    }
}
