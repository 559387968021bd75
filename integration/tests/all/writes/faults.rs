//! A write that does not succeed leaves nothing: not a file, not a folder, not a row.

use std::path::Path;

use squadron_integration::client::Client;
use squadron_integration::cluster::{Cluster, until};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tonic::{Code, Status};

use super::{files, folder_table, number, three_workers, update};
use crate::support::{bounded, minutes, seconds};

/// Writes for hours, on every worker.
const ENDLESS: &str = "SELECT a.l_orderkey AS id, b.l_comment AS name FROM lineitem a CROSS JOIN lineitem b";

/// Starts an endless write and returns once bytes of it are on disk.
async fn begun(cluster: &Cluster, folder: &Path, sql: String) -> JoinSet<Result<i64, Status>> {
    let client: Client = cluster.client().await;
    // Without it a file is begun with the first ten megabytes.
    let small = "SET datafusion.execution.objectstore_writer_buffer_size = 65536";
    update(&client, small).await;
    let mut write = JoinSet::new();
    write.spawn(async move { client.update(&sql).await });
    let staged = || {
        let mut staged = files(folder).into_iter();
        staged.any(|file| file.metadata().is_ok_and(|data| data.len() > 0))
    };
    until("a worker has written bytes", seconds(90), staged).await;
    assert!(write.try_join_next().is_none(), "it must not have ended");
    write
}

async fn nothing_is_left(folder: &Path) {
    until("nothing is left", seconds(30), || {
        files(folder).is_empty() && !folder.join("_squadron").exists()
    })
    .await;
}

fn insert() -> String {
    format!("INSERT INTO t {ENDLESS}")
}

/// An empty table of CSV files, which are written row by row.
async fn csv_table(client: &Client, folder: &Path) {
    let shown = folder.display();
    let sql = format!("CREATE EXTERNAL TABLE t (id BIGINT, name VARCHAR) STORED AS CSV LOCATION '{shown}/'");
    assert_eq!(update(client, &sql).await, 0);
}

#[test]
fn a_worker_dies_in_the_middle_of_a_write() {
    bounded(minutes(6), async {
        let mut cluster = three_workers().await;
        let client = cluster.client().await;
        let folder = TempDir::new().unwrap();
        csv_table(&client, folder.path()).await;
        let mut write = begun(&cluster, folder.path(), insert()).await;
        cluster.worker(1).kill();
        let outcome = write.join_next().await.expect("there is one");
        let status = outcome.expect("no panic").expect_err("it cannot succeed");
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        nothing_is_left(folder.path()).await;
        cluster.forget_worker(1);
        assert_eq!(number(&client, "SELECT count(*) FROM t").await, 0);
        let again = "INSERT INTO t SELECT l_orderkey, l_comment FROM lineitem";
        assert_eq!(update(&client, again).await, 60_175);
    });
}

#[test]
fn a_client_goes_away_in_the_middle_of_a_write() {
    bounded(minutes(6), async {
        let cluster = three_workers().await;
        let client = cluster.client().await;
        let folder = TempDir::new().unwrap();
        csv_table(&client, folder.path()).await;
        let mut write = begun(&cluster, folder.path(), insert()).await;
        write.shutdown().await;
        nothing_is_left(folder.path()).await;
        assert_eq!(number(&client, "SELECT count(*) FROM t").await, 0);
        cluster.idle(seconds(60)).await;
        // A copy that made its folder takes it away again.
        let target = folder.path().join("new/deep");
        let copy = format!("COPY ({ENDLESS}) TO '{}/' STORED AS CSV", target.display());
        let mut write = begun(&cluster, &target, copy).await;
        write.shutdown().await;
        until("the folders are gone", seconds(30), || {
            !folder.path().join("new").exists()
        })
        .await;
        cluster.idle(seconds(60)).await;
    });
}

#[test]
fn one_bad_row_undoes_all() {
    bounded(minutes(6), async {
        let cluster = three_workers().await;
        let client = cluster.client().await;
        let folder = TempDir::new().unwrap();
        folder_table(&client, "t", folder.path()).await;
        assert_eq!(update(&client, "INSERT INTO t VALUES (1, 'kept')").await, 1);
        let before = files(folder.path());
        let bad = "INSERT INTO t SELECT CAST(CASE WHEN l_orderkey = 60000 THEN 'x' ELSE '1' END AS BIGINT), l_comment FROM lineitem";
        let status = client.update(bad).await.expect_err("x is no number");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        until("only the first row's file is left", seconds(30), || {
            files(folder.path()) == before && !folder.path().join("_squadron").exists()
        })
        .await;
        assert_eq!(number(&client, "SELECT count(*) FROM t").await, 1);
        // A file that is copied over stays as it was.
        let elsewhere = TempDir::new().unwrap();
        let target = elsewhere.path().join("one.csv").display().to_string();
        update(&client, &format!("COPY (SELECT 1 AS n) TO '{target}'")).await;
        let copy = format!("COPY (SELECT 1 / (l_orderkey - 60000) AS n FROM lineitem) TO '{target}'");
        let status = client.update(&copy).await.expect_err("a division by zero");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "n\n1\n");
        assert_eq!(files(elsewhere.path()).len(), 1);
    });
}
