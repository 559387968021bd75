//! A write that fails leaves no file, no folder and no row.

use std::path::Path;

use squadron_integration::client::Client;
use squadron_integration::cluster::{Cluster, wait_until};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tonic::{Code, Status};

use super::{create_folder_table, files, number, three_workers, update};
use crate::support::{bounded, minutes, seconds};

/// The rows of a write that takes hours, on every worker.
const ENDLESS: &str = "SELECT a.l_orderkey AS id, b.l_comment AS name FROM lineitem a CROSS JOIN lineitem b";

/// Starts an endless write and returns when some of its bytes are on disk.
async fn start_write(cluster: &Cluster, folder: &Path, sql: String) -> JoinSet<Result<i64, Status>> {
    let client: Client = cluster.client().await;
    // With the default, a file is created when ten megabytes are buffered.
    let small = "SET datafusion.execution.objectstore_writer_buffer_size = 65536";
    update(&client, small).await;
    let mut write = JoinSet::new();
    write.spawn(async move { client.update(&sql).await });
    let staged = || {
        let mut staged = files(folder).into_iter();
        staged.any(|file| file.metadata().is_ok_and(|data| data.len() > 0))
    };
    wait_until("a worker has written bytes", seconds(90), staged).await;
    assert!(write.try_join_next().is_none(), "it must not have ended");
    write
}

async fn wait_until_nothing_is_left(folder: &Path) {
    wait_until("nothing is left", seconds(30), || {
        files(folder).is_empty() && !folder.join("_squadron").exists()
    })
    .await;
}

fn insert() -> String {
    format!("INSERT INTO t {ENDLESS}")
}

/// Creates an empty table of CSV files, which are written row by row.
async fn create_csv_table(client: &Client, folder: &Path) {
    let shown = folder.display();
    let sql = format!("CREATE EXTERNAL TABLE t (id BIGINT, name VARCHAR) STORED AS CSV LOCATION '{shown}/'");
    assert_eq!(update(client, &sql).await, 0);
}

/// A worker dies in the middle of a write, which is run again on the others: each row is there once.
#[test]
fn write_outlives_the_death_of_a_worker() {
    const COPIES: &str = "(SELECT * FROM lineitem WHERE l_orderkey < 32)";
    bounded(minutes(6), async {
        let mut cluster = three_workers().await;
        let client = cluster.client().await;
        let folder = TempDir::new().unwrap();
        create_csv_table(&client, folder.path()).await;
        let rows = format!("SELECT a.l_orderkey AS id, b.l_comment AS name FROM lineitem a CROSS JOIN {COPIES} b");
        let copies = number(&client, &format!("SELECT count(*) FROM {COPIES}")).await;
        let mut write = start_write(&cluster, folder.path(), format!("INSERT INTO t {rows}")).await;
        cluster.worker(1).kill();
        cluster.forget_worker(1);
        let outcome = write.join_next().await.expect("there is one").expect("no panic");
        assert_eq!(outcome.expect("it is run again"), 60_175 * copies);
        assert_eq!(number(&client, "SELECT count(*) FROM t").await, 60_175 * copies);
        assert!(number(&client, "SELECT max(recoveries) FROM system.queries").await > 0);
        wait_until("no staged file is left", seconds(30), || {
            !folder.path().join("_squadron").exists()
        })
        .await;
    });
}

#[test]
fn client_disconnect_removes_partial_write() {
    bounded(minutes(6), async {
        let cluster = three_workers().await;
        let client = cluster.client().await;
        let folder = TempDir::new().unwrap();
        create_csv_table(&client, folder.path()).await;
        let mut write = start_write(&cluster, folder.path(), insert()).await;
        write.shutdown().await;
        wait_until_nothing_is_left(folder.path()).await;
        assert_eq!(number(&client, "SELECT count(*) FROM t").await, 0);
        cluster.wait_until_idle(seconds(60)).await;
        // A copy that created its folder removes it again.
        let target = folder.path().join("new/deep");
        let copy = format!("COPY ({ENDLESS}) TO '{}/' STORED AS CSV", target.display());
        let mut write = start_write(&cluster, &target, copy).await;
        write.shutdown().await;
        wait_until("the folders are gone", seconds(30), || {
            !folder.path().join("new").exists()
        })
        .await;
        cluster.wait_until_idle(seconds(60)).await;
    });
}

#[test]
fn one_bad_row_undoes_write() {
    bounded(minutes(6), async {
        let cluster = three_workers().await;
        let client = cluster.client().await;
        let folder = TempDir::new().unwrap();
        create_folder_table(&client, "t", folder.path()).await;
        assert_eq!(update(&client, "INSERT INTO t VALUES (1, 'kept')").await, 1);
        let before = files(folder.path());
        let bad = "INSERT INTO t SELECT CAST(CASE WHEN l_orderkey = 60000 THEN 'x' ELSE '1' END AS BIGINT), l_comment \
                   FROM lineitem";
        let status = client.update(bad).await.expect_err("x is no number");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        wait_until("only the first row's file is left", seconds(30), || {
            files(folder.path()) == before && !folder.path().join("_squadron").exists()
        })
        .await;
        assert_eq!(number(&client, "SELECT count(*) FROM t").await, 1);
        // A failed copy leaves the file that it was to replace.
        let elsewhere = TempDir::new().unwrap();
        let target = elsewhere.path().join("one.csv").display().to_string();
        update(&client, &format!("COPY (SELECT 1 AS n) TO '{target}'")).await;
        let copy = format!("COPY (SELECT 1 / (l_orderkey - 60000) AS n FROM lineitem) TO '{target}'");
        let status = client.update(&copy).await.expect_err("a division by zero");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        wait_until("only the file that was there is left", seconds(30), || {
            files(elsewhere.path()) == [Path::new(&target)]
        })
        .await;
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "n\n1\n");
    });
}
