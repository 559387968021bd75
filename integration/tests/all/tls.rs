//! Encryption on every connection of a cluster.

use std::process::Command;

use squadron_integration::client::Client;
use squadron_integration::cluster::{Cluster, ClusterBuilder, cluster};
use squadron_integration::process::{Process, squadron};

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::callers::{Caller, Certificates, Files, PASSWORD, TOKEN, run, text};
use crate::clients::run_suite;
use crate::drivers::{jdbc_driver, python_environment, suites};
use crate::support::{bounded, minutes, seconds};

/// A cluster that encrypts all connections.
fn encrypted_cluster(pem: &Certificates) -> ClusterBuilder {
    let mut builder = cluster().slots(1);
    for (flag, file) in [
        ("--tls-cert", &pem.certificate),
        ("--tls-key", &pem.key),
        ("--tls-ca", &pem.authority),
    ] {
        builder = builder.serve_arg(flag).serve_arg(text(file));
        builder = builder.worker_arg(flag).worker_arg(text(file));
    }
    builder
}

fn authority(pem: &Certificates) -> String {
    std::fs::read_to_string(&pem.authority).expect("the test wrote it")
}

/// More silent peers than handshakes may run at once do not keep a client out.
#[test]
fn silent_peers_do_not_lock_a_port() {
    const SILENT: usize = 1_100;
    bounded(minutes(2), async {
        let files = Files::new();
        let pem = files.certificates();
        let cluster = encrypted_cluster(&pem).start().await;
        let address = cluster.url().trim_start_matches("grpc+tls://").to_owned();
        let mut silent = Vec::new();
        for _ in 0..SILENT {
            silent.push(TcpStream::connect(&address).await.expect("it is accepted"));
        }
        let authority = authority(&pem);
        let client = Client::connect_tls(cluster.url(), &authority);
        let client = timeout(seconds(5), client)
            .await
            .expect("before the silent ones give up");
        client
            .expect("the certificate is trusted")
            .query("SELECT 1")
            .await
            .expect("it runs");
        drop(silent);
    });
}

#[test]
fn encrypted_cluster_runs_distributed_query() {
    bounded(minutes(4), async {
        let files = Files::new();
        let pem = files.certificates();
        let cluster = encrypted_cluster(&pem).workers(2).tpch(0.01).tiny_splits();
        let cluster = cluster.start().await;
        assert!(cluster.url().starts_with("grpc+tls://"), "{}", cluster.url());
        assert!(cluster.cluster_url().starts_with("https://"));
        for worker in 0..2 {
            assert!(cluster.worker_url(worker).starts_with("grpc+tls://"));
        }
        let client = Client::connect_tls(cluster.url(), &authority(&pem)).await;
        let client = client.expect("the certificate is trusted");
        let sql = "SELECT c_nationkey, count(*), sum(o_totalprice) FROM customer JOIN orders ON c_custkey = o_custkey \
                   GROUP BY c_nationkey ORDER BY c_nationkey";
        let (_, rows) = client.query(sql).await.expect("it runs");
        assert_eq!(rows.iter().map(|batch| batch.num_rows()).sum::<usize>(), 25);

        let server = cluster.url();
        let ca = text(&pem.authority);
        let select = ["-c", "SELECT 1 AS x", "--format", "csv"];
        let shell = |arguments: &[&str]| {
            let output = run(&[&["sql"], arguments, &select].concat());
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            (output.status.code(), text(&output.stdout) + &text(&output.stderr))
        };
        assert_eq!(
            shell(&["--server", server, "--tls-ca", &ca]),
            (Some(0), "x\n1\n".into())
        );
        let (code, said) = shell(&["--server", server]);
        assert!(code == Some(1) && said.contains("--tls-ca"), "{said}");
        let plain = server.replace("grpc+tls", "grpc");
        let (code, said) = shell(&["--server", &plain]);
        assert!(code == Some(1) && said.contains("grpc+tls://"), "{said}");
    });
}

#[test]
fn unencrypted_peers_get_clear_errors() {
    bounded(minutes(3), async {
        let files = Files::new();
        let pem = files.certificates();
        let cluster = encrypted_cluster(&pem).workers(1).start().await;
        let plain = cluster.url().replace("grpc+tls", "grpc");
        let status = Caller::connect(&plain).await.value("SELECT 1").await.unwrap_err();
        assert!(status.message().contains("grpc+tls://"), "{status}");
        let stranger = files.certificates();
        let refused = Client::connect_tls(cluster.url(), &authority(&stranger)).await;
        assert!(refused.is_err(), "another authority is not trusted");

        let mut command = Command::new(squadron());
        let plain = cluster.cluster_url().replace("https", "http");
        command.args(["worker", "--server", &plain, "--memory", "64MiB"]);
        let mut worker = Process::start("worker", command, files.write("worker.log", ""));
        assert_eq!(worker.wait_for_exit(seconds(60)).await.code(), Some(2));
        assert!(worker.log().contains("TLS"), "{}", worker.log());
    });
}

#[test]
fn mismatched_certificate_and_key_are_refused() {
    let files = Files::new();
    let first = files.certificates();
    let certificate = text(&files.write("first.pem", &std::fs::read_to_string(&first.certificate).unwrap()));
    let second = files.certificates();
    let key = text(&second.key);
    let flags = ["--tls-cert", &certificate, "--tls-key", &key];
    for command in [
        &["serve", "--listen", "127.0.0.1:0"][..],
        &["worker", "--server", "http://127.0.0.1:1"],
    ] {
        let output = run(&[command, &flags].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("--tls-key") && said.contains(&key), "{said}");
    }
    let output = run(&["serve", "--tls-cert", &certificate]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("--tls-key"), "{said}");
}

/// Starts a server with TLS that asks for credentials.
async fn start_guarded(files: &Files, pem: &Certificates) -> Cluster {
    encrypted_cluster(pem)
        .tpch(0.01)
        .serve_arg("--users")
        .serve_arg(text(&files.users()))
        .serve_arg("--tokens")
        .serve_arg(text(&files.tokens()))
        .start()
        .await
}

#[test]
#[cfg_attr(not(has_python), ignore = "skipped: there is no python3 with venv on this machine")]
fn python_logs_in_over_tls() {
    let environment = python_environment();
    bounded(minutes(6), async move {
        let files = Files::new();
        let pem = files.certificates();
        let cluster = start_guarded(&files, &pem).await;
        let mut suite = Command::new(environment.join("bin/python"));
        suite
            .arg(suites().join("python/test_auth.py"))
            .arg(cluster.url())
            .env("SQUADRON_CA", &pem.authority)
            .env("SQUADRON_PASSWORD", PASSWORD)
            .env("SQUADRON_TOKEN", TOKEN)
            .env("PYTHONDONTWRITEBYTECODE", "1");
        run_suite(suite).await;
    });
}

#[test]
#[cfg_attr(not(has_java), ignore = "skipped: there is no JDK with Maven on this machine")]
fn java_logs_in_over_tls() {
    let driver = jdbc_driver();
    bounded(minutes(6), async move {
        let files = Files::new();
        let pem = files.certificates();
        let cluster = start_guarded(&files, &pem).await;
        let mut suite = Command::new("java");
        // Arrow accesses internal buffers of the JDK.
        suite
            .arg("--add-opens=java.base/java.nio=ALL-UNNAMED")
            .arg("-cp")
            .arg(driver)
            .arg(suites().join("java/AuthSuite.java"))
            .arg(cluster.url())
            .arg(&pem.authority)
            .args([PASSWORD, TOKEN]);
        run_suite(suite).await;
    });
}
