//! Tests of output that is kept while there is room.

use futures::{FutureExt, StreamExt};
use squadron_proto::control::OutputMode;
use squadron_proto::{AttemptKey, FailureKind, StageId};

use super::Store;
use super::tests::release_all;
use crate::testing::{TestStore, key, number_rows, store};

/// About 80 kB.
const ROWS: usize = 1_800;

async fn write(store: &Store, stage: u32, task: u32) -> AttemptKey {
    let schema = number_rows(0, 1).schema();
    let key = key(stage, task);
    let writer = store.create(key, schema, vec![0], OutputMode::Retained).unwrap();
    writer.push(0, number_rows(0, ROWS)).await.unwrap();
    writer.finish().unwrap();
    key
}

/// A store with 400 kB, half of it for itself, whose stage 1 has two outputs that nobody needs.
async fn store_with_spares() -> (TestStore, [AttemptKey; 2]) {
    let test = store(Some(400_000));
    let spares = [write(&test.store, 1, 0).await, write(&test.store, 1, 1).await];
    test.store.keep_spare(spares[0].query, StageId(1));
    (test, spares)
}

#[tokio::test]
async fn spare_output_gives_way_to_other_output_before_the_disk_is_used() {
    let (test, spares) = store_with_spares().await;
    assert_eq!(test.store.take_dropped(), []);
    let first = write(&test.store, 2, 0).await;
    assert_eq!(test.store.take_dropped(), spares[..1], "the older one");
    let second = write(&test.store, 2, 1).await;
    assert_eq!(test.store.take_dropped(), spares[1..]);
    assert_eq!(test.store.usage().disk_bytes, 0);
    write(&test.store, 2, 2).await;
    assert!(
        test.store.usage().disk_bytes > 0,
        "output that is needed does not give way"
    );
    for key in [first, second] {
        assert!(test.store.read(key, 0).unwrap().next().await.unwrap().is_ok());
    }
}

#[tokio::test]
async fn spare_output_gives_way_to_operators() {
    let (test, spares) = store_with_spares().await;
    assert!(test.store.move_to_disk(1).unwrap());
    assert_eq!(test.store.usage().disk_bytes, 0);
    assert_eq!(test.store.take_dropped(), spares[..1]);
    drop(test.store.take_spares());
    assert_eq!(test.store.usage().memory_bytes, 0);
}

#[tokio::test]
async fn reader_of_output_that_gave_way_is_told_which() {
    let (test, spares) = store_with_spares().await;
    test.store.move_to_disk(usize::MAX).unwrap();
    let mut reader = test.store.read(spares[1], 0).unwrap();
    let failure = reader.next().await.unwrap().unwrap_err();
    assert_eq!(
        (failure.kind, failure.lost),
        (FailureKind::ShuffleLost, vec![spares[1]])
    );
}

#[tokio::test]
async fn output_that_is_being_read_does_not_give_way() {
    let (test, spares) = store_with_spares().await;
    let mut reader = test.store.read(spares[0], 0).unwrap();
    let dropped = test.store.take_spares();
    assert_eq!(Vec::from_iter(dropped.keys()), spares[1..]);
    drop(dropped);
    assert!(reader.next().now_or_never().flatten().unwrap().is_ok());
    drop(reader);
    assert_eq!(Vec::from_iter(test.store.take_spares().keys()), spares[..1]);
}

#[tokio::test]
async fn released_output_is_spare_no_more() {
    let (test, spares) = store_with_spares().await;
    drop(test.store.take_one(spares[0]));
    drop(test.store.take(&release_all()));
    assert_eq!(test.store.take_spares().keys().count(), 0);
    assert_eq!(test.store.take_dropped(), []);
    assert_eq!((test.store.usage().memory_bytes, test.store.usage().outputs), (0, 0));
}
