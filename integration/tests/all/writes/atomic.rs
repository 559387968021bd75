//! Readers see all files of a statement or none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;
use tokio::task::JoinSet;

use super::{create_folder_table, has_staging_folder, number, three_workers, update};
use crate::support::{bounded, minutes};

#[test]
fn concurrent_inserts_are_atomic_to_readers() {
    bounded(minutes(6), async {
        const ROWS: i64 = 60_175;
        const ROUNDS: i64 = 3;
        let cluster = three_workers().await;
        let client = cluster.client().await;
        let folder = TempDir::new().unwrap();
        create_folder_table(&client, "t", folder.path()).await;
        let done = Arc::new(AtomicBool::new(false));
        let mut readers = JoinSet::new();
        for _ in 0..2 {
            let (reader, done) = (cluster.client().await, Arc::clone(&done));
            readers.spawn(async move {
                let mut seen = 0;
                while !done.load(Ordering::Relaxed) {
                    let count = number(&reader, "SELECT count(*) FROM t").await;
                    assert_eq!(count % ROWS, 0, "a part of a statement was seen");
                    assert!(count >= seen, "rows went away");
                    seen = count;
                }
            });
        }
        let mut writers = JoinSet::new();
        for _ in 0..2 {
            let writer = cluster.client().await;
            writers.spawn(async move {
                for _ in 0..ROUNDS {
                    let sql = "INSERT INTO t SELECT l_orderkey, l_comment FROM lineitem";
                    assert_eq!(update(&writer, sql).await, ROWS);
                }
            });
        }
        while let Some(writer) = writers.join_next().await {
            writer.expect("no writer fails");
        }
        done.store(true, Ordering::Relaxed);
        while let Some(reader) = readers.join_next().await {
            reader.expect("no reader fails");
        }
        assert_eq!(number(&client, "SELECT count(*) FROM t").await, 2 * ROUNDS * ROWS);
        assert!(!has_staging_folder(folder.path()));
    });
}
