//! The disk of `--spill-dir` fails: the query says so, nothing is left, and the next ones run.

use std::fs;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use squadron_integration::client::Client;
use squadron_integration::cluster::{Cluster, ClusterBuilder, can_mount, cluster, wait_until};
use tonic::{Code, Status};

use crate::memory::check;
use crate::support::{bounded, failure_of, minutes, seconds};
use crate::tpch::SCALE_FACTOR;

/// Sorts go to disk at half of it together.
const MEMORY_MIB: u64 = 8;

/// Sorts 4 MB.
const SORT: &str =
    "SELECT l_orderkey, l_linenumber, l_comment FROM lineitem ORDER BY l_comment, l_orderkey, l_linenumber";

/// A query that needs no disk.
const IN_MEMORY: u8 = 1;

async fn start(builder: ClusterBuilder) -> (Cluster, Client) {
    let cluster = builder.slots(2).memory_mib(MEMORY_MIB).tpch(SCALE_FACTOR).start().await;
    let client = cluster.client().await;
    (cluster, client)
}

/// The sort has as many rows as the table, in their order.
async fn assert_sorts(client: &Client) {
    let (_, counted) = client
        .query("SELECT count(*) FROM lineitem")
        .await
        .expect("it needs no disk");
    let (_, sorted) = client.query(SORT).await.expect("there is room on the disk");
    let rows: usize = sorted.iter().map(RecordBatch::num_rows).sum();
    assert_eq!(counted[0].column(0).as_primitive::<Int64Type>().value(0), rows as i64);
    let comments = sorted
        .iter()
        .map(|batch| cast(batch.column_by_name("l_comment").unwrap(), &DataType::Utf8).unwrap());
    let comments: Vec<_> = comments.collect();
    assert!(comments.iter().flat_map(|column| column.as_string::<i32>()).is_sorted());
}

/// The error names the folder and the flag.
fn assert_names_folder(cluster: &Cluster, status: &Status) {
    let folder = cluster.server_spill_folder();
    let message = status.message();
    assert!(
        message.contains("--spill-dir") && message.contains(&folder.display().to_string()),
        "{status}"
    );
}

#[test]
fn folder_that_vanishes_is_named_and_used_again_when_it_is_back() {
    bounded(minutes(3), async {
        let (cluster, client) = start(cluster()).await;
        let folder = cluster.server_spill_folder();
        assert_sorts(&client).await;
        fs::remove_dir_all(&folder).unwrap();
        fs::write(&folder, "a file where the folder was").unwrap();
        for _ in 0..2 {
            let status = failure_of(&client, SORT).await;
            assert_names_folder(&cluster, &status);
        }
        check(&client, IN_MEMORY).await.expect("it needs no disk");
        fs::remove_file(&folder).unwrap();
        assert_sorts(&client).await;
    });
}

#[test]
fn full_disk_fails_its_query_alone() {
    if !can_mount() {
        println!("ignored: nothing can be mounted here");
        return;
    }
    bounded(minutes(3), async {
        let (cluster, client) = start(cluster().spill_disk_kib(512)).await;
        for _ in 0..2 {
            let status = failure_of(&client, SORT).await;
            assert_names_folder(&cluster, &status);
            assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
            let is_empty = || cluster.spilled_files_of_server().is_empty();
            wait_until("nothing is left on the disk", seconds(10), is_empty).await;
        }
        check(&client, IN_MEMORY).await.expect("the server still answers");
    });
}
