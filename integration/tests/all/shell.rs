//! The shell `squadron sql`, run as its users run it.

use std::process::{Output, Stdio};

use squadron_integration::cluster::{Cluster, cluster};
use squadron_integration::process::squadron;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use crate::support::{bounded, minutes, seconds};

const ENDLESS: &str = "SELECT a.l_orderkey, b.l_orderkey FROM lineitem a CROSS JOIN lineitem b";

fn shell(cluster: &Cluster, arguments: &[&str]) -> Command {
    let mut command = Command::new(squadron());
    command.args(["sql", "--server", cluster.url()]).args(arguments);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn run_to_end(mut command: Command) -> Output {
    command.output().await.expect("it starts")
}

fn output_texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn shell_runs_scripts_and_commands() {
    bounded(minutes(3), async {
        let cluster = cluster().slots(1).tpch(0.01).start().await;

        let script = "SELECT ';' AS a; SELECT n_nationkey FROM nation ORDER BY 1 LIMIT 2;\n\\d region\n";
        let output = run_to_end(shell(&cluster, &["--format", "csv", "-c", script])).await;
        let (rows, said) = output_texts(&output);
        assert!(
            rows.starts_with("a\n;\nn_nationkey\n0\n1\ncolumn_name,"),
            "{rows}{said}"
        );
        assert!(rows.contains("r_regionkey,"), "{rows}");

        let folder = TempDir::with_prefix("squadron-shell-").expect("there is a temporary folder");
        let file = folder.path().join("script.sql");
        std::fs::write(&file, "SELECT 1 AS one;\n\nSELECT\n  nosuch FROM nation;\nSELECT 2;\n")
            .expect("it takes files");
        let output = run_to_end(shell(
            &cluster,
            &["--format", "json", "-f", &file.display().to_string()],
        ))
        .await;
        let (rows, said) = output_texts(&output);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(rows, "{\"one\":1}\n", "nothing after the failed statement runs");
        assert!(said.contains("script.sql:3: ") && said.contains("nosuch"), "{said}");

        let mut typed = shell(&cluster, &["--format", "csv"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut input = typed.stdin.take().expect("it is piped");
        input.write_all(b"SELECT 7 AS x").await.expect("it reads");
        drop(input);
        let output = typed.wait_with_output().await.expect("it ends");
        assert_eq!(output_texts(&output).0, "x\n7\n");

        let (rows, said) =
            output_texts(&run_to_end(shell(&cluster, &["-c", "CREATE VIEW v AS SELECT 1; DROP VIEW v"])).await);
        assert_eq!((rows.as_str(), said.as_str()), ("OK\nOK\n", ""));
    });
}

#[test]
fn interrupt_cancels_the_shell_query() {
    bounded(minutes(3), async {
        let cluster = cluster().slots(1).tpch(0.01).start().await;
        let child = shell(&cluster, &["--format", "csv", "-c", ENDLESS])
            .stdout(Stdio::null())
            .spawn()
            .expect("it starts");
        cluster.wait_until_busy(30, seconds(60)).await;
        let id = child.id().expect("it runs").to_string();
        let sent = Command::new("kill")
            .args(["-INT", &id])
            .status()
            .await
            .expect("there is a `kill` command");
        assert!(sent.success());
        let output = child.wait_with_output().await.expect("it ends");
        assert_eq!(output.status.code(), Some(1));
        assert!(output_texts(&output).1.contains("error: cancelled"));
        cluster.wait_until_idle(seconds(30)).await;
    });
}

#[test]
fn closed_pipe_ends_the_query() {
    bounded(minutes(3), async {
        let cluster = cluster().slots(1).tpch(0.01).start().await;
        let mut child = shell(&cluster, &["--format", "csv", "-c", ENDLESS])
            .spawn()
            .expect("it starts");
        let mut rows = child.stdout.take().expect("it is piped");
        let mut head = [0; 100_000];
        rows.read_exact(&mut head).await.expect("there are rows");
        drop(rows);
        let output = child.wait_with_output().await.expect("it ends");
        assert_eq!((output.status.code(), output_texts(&output).1.as_str()), (Some(0), ""));
        cluster.wait_until_idle(seconds(30)).await;
    });
}
