//! Time limits, full queues and resource groups, as clients see them.

use std::fs;

use futures::StreamExt;
use squadron_integration::client::Client;
use squadron_integration::cluster::cluster;
use tonic::Code;

use crate::support::{ENDLESS, bounded, failure_of, minutes};

#[test]
fn query_ends_at_its_timeout() {
    bounded(minutes(5), async {
        let cluster = cluster()
            .slots(1)
            .tpch(0.01)
            .serve_arg("--query-timeout=2s")
            .start()
            .await;
        let client = cluster.client().await;
        let late = failure_of(&client, ENDLESS).await;
        assert_eq!(late.code(), Code::DeadlineExceeded, "{late:?}");
        assert!(late.message().contains("--query-timeout"), "{late:?}");
        client.query("SELECT 1").await.expect("others go on");
    });
}

#[test]
fn full_server_names_retry_time() {
    bounded(minutes(5), async {
        let cluster = cluster()
            .slots(1)
            .tpch(0.01)
            .serve_arg("--max-running=1")
            .serve_arg("--max-queued=0")
            .start()
            .await;
        let client = cluster.client().await;
        let mut first = client.open(ENDLESS).await.expect("it starts");
        first.next().await.expect("a row").expect("no error");
        let refused = failure_of(&client, "SELECT count(*) FROM nation").await;
        assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
        for part in ["--max-queued", "again in about"] {
            assert!(refused.message().contains(part), "{refused:?}");
        }
        drop(first);
        wait_until_it_runs(&client).await;
    });
}

/// Repeats a query until it runs, which it does when the server has seen the end of the other query.
async fn wait_until_it_runs(client: &Client) {
    loop {
        match client.query("SELECT count(*) FROM nation").await {
            Ok(_) => return,
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
        }
    }
}

#[test]
fn groups_file_is_reloaded_at_runtime() {
    bounded(minutes(5), async {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("groups.toml");
        let group = "[[group]]\nname = \"etl\"\ntag = \"nightly\"\n";
        fs::write(&file, format!("{group}max_running = 1\nmax_queued = 0\n")).expect("written");
        let cluster = cluster()
            .slots(1)
            .tpch(0.01)
            .serve_arg(format!("--groups={}", file.display()))
            .start()
            .await;
        let client = cluster.client().await;
        let mut others = client.open(ENDLESS).await.expect("it starts");
        others.next().await.expect("a row").expect("no error");
        client.update("SET squadron.tag = 'nightly'").await.expect("set");
        let mut first = client.open(ENDLESS).await.expect("the group has room");
        first.next().await.expect("a row").expect("no error");
        let refused = failure_of(&client, "SELECT count(*) FROM nation").await;
        assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
        assert!(refused.message().contains("group etl"), "{refused:?}");
        // An invalid file changes nothing, a valid one takes effect, and running queries go on.
        fs::write(&file, "[[group]]\nname = 3\n").expect("written");
        let refused = failure_of(&client, "SELECT count(*) FROM nation").await;
        assert!(refused.message().contains("group etl"), "{refused:?}");
        fs::write(&file, format!("{group}max_running = 5\n")).expect("written");
        wait_until_it_runs(&client).await;
        first.next().await.expect("a row").expect("no error");
    });
}
