use datafusion::common::runtime::SpawnedTask;
use futures::FutureExt;
use squadron_shuffle::StoreOptions;
use tempfile::TempDir;

use super::*;

const LIMIT: usize = 800;

fn query(number: u128) -> QueryId {
    QueryId::from_u128(number)
}

struct Process {
    _folder: TempDir,
    shares: Arc<Shares>,
}

impl Process {
    fn new() -> Self {
        Self::with(LIMIT)
    }

    fn with(limit: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pool = process_pool(limit);
        let options = StoreOptions {
            spill_dir: folder.path().to_owned(),
            streamed_bytes: 1024,
            max_spill_bytes: u64::MAX,
        };
        let store = Store::new(Arc::clone(&pool) as _, options).unwrap();
        Self {
            _folder: folder,
            shares: Arc::new(Shares::new(pool, store)),
        }
    }

    fn attempt(&self, number: u128, reserved: usize) -> (Arc<AttemptPool>, MemoryReservation) {
        let shares = Arc::clone(&self.shares);
        let attempt = Arc::new(AttemptPool::new(shares, query(number), reserved, Arc::default()));
        let pool: Arc<dyn MemoryPool> = Arc::clone(&attempt) as _;
        let reservation = MemoryConsumer::new(format!("query {number}"));
        let reservation = reservation.with_can_spill(true).register(&pool);
        (attempt, reservation)
    }
}

#[test]
fn attempt_counts_granted_bytes_only() {
    let process = Process::new();
    let usage = Arc::new(Usage::default());
    let attempt = AttemptPool::new(Arc::clone(&process.shares), query(1), 0, Arc::clone(&usage));
    let pool: Arc<dyn MemoryPool> = Arc::new(attempt);
    let reservation = MemoryConsumer::new("attempt").register(&pool);
    reservation.try_grow(400).unwrap();
    assert!(reservation.try_grow(501).is_err());
    assert_eq!(process.shares.pool.reserved(), 400);
    reservation.shrink(300);
    reservation.grow(5);
    assert_eq!(usage.peak_memory_bytes(), 400);
    drop(reservation);
    assert_eq!(process.shares.pool.reserved(), 0);
    drop(pool);
    assert!(process.shares.queries().is_empty());
}

#[test]
fn query_alone_leaves_room_for_one_that_comes() {
    let process = Process::new();
    let (_alone, first) = process.attempt(1, 0);
    first.try_grow(700).unwrap();
    let refused = first.try_grow(1).unwrap_err().to_string();
    assert!(refused.contains("query 1 asked for 1.0 B more"), "{refused}");
    assert!(refused.contains("--memory"), "{refused}");
    let (_second, second) = process.attempt(2, 0);
    second.try_grow(100).unwrap();
    assert!(second.try_grow(1).is_err());
    // What the first gives back, the second may have.
    first.shrink(300);
    assert!(first.try_grow(300).is_err());
    second.try_grow(100).unwrap();
}

#[test]
fn queries_are_sure_of_half_an_equal_share() {
    let process = Process::new();
    let (_first, first) = process.attempt(1, 0);
    let (second_attempt, second) = process.attempt(2, 0);
    // Half of 400 is the second's, and a hundred are for a third.
    first.try_grow(500).unwrap();
    assert!(first.try_grow(1).is_err());
    second.try_grow(200).unwrap();
    drop((second, second_attempt));
    first.try_grow(200).unwrap();
}

#[test]
fn parked_queries_claim_nothing() {
    let process = Process::new();
    let (_first, first) = process.attempt(1, 0);
    let (second_attempt, second) = process.attempt(2, 0);
    second_attempt.set_parked(true);
    first.try_grow(700).unwrap();
    first.shrink(700);
    second_attempt.set_parked(false);
    assert!(first.try_grow(700).is_err());
    second_attempt.set_parked(true);
    drop((second_attempt, second));
    assert_eq!(process.shares.queries().len(), 1);
    first.try_grow(700).unwrap();
}

#[test]
fn reservation_is_kept_for_its_query() {
    let process = Process::new();
    let (reserving, reserved) = process.attempt(1, 600);
    let (_other, other) = process.attempt(2, 0);
    // Beyond the reservation, half of an equal share of the rest is the first's.
    other.try_grow(150).unwrap();
    assert!(other.try_grow(1).is_err());
    reserving.set_parked(true);
    assert!(other.try_grow(51).is_err(), "the reservation holds also while it waits");
    other.try_grow(50).unwrap();
    reserved.try_grow(600).unwrap();
}

#[test]
fn memory_that_nobody_charged_counts_as_taken() {
    let process = Process::new();
    let (_attempt, reservation) = process.attempt(1, 0);
    process.shares.set_unknown(100);
    reservation.try_grow(600).unwrap();
    let refused = reservation.try_grow(1).unwrap_err().to_string();
    assert!(refused.contains("of which 700.0 B is taken"), "{refused}");
    // At most a quarter of the pool.
    process.shares.set_unknown(usize::MAX);
    reservation.shrink(100);
    reservation.try_grow(1).unwrap_err();
    process.shares.set_unknown(0);
    reservation.try_grow(200).unwrap();
}

#[tokio::test]
async fn newest_query_is_ended() {
    let process = Process::new();
    let (old, _held) = process.attempt(1, 0);
    let (new, _held) = process.attempt(2, 0);
    let failure = Failure::new(squadron_proto::FailureKind::Exhausted, "too much");
    let ended = SpawnedTask::spawn(async move { new.ended().await });
    process.shares.end_newest(&failure);
    assert_eq!(ended.await.unwrap(), failure);
    let spared = tokio::time::timeout(std::time::Duration::ZERO, old.ended());
    assert!(spared.await.is_err());
}

/// A table that leapt from 8 to 16 MiB copies itself to one of 32 next, of which nothing is charged before.
#[test]
fn aggregate_stops_before_its_table_leaps_beyond_the_pool() {
    const MIB: usize = 1024 * 1024;
    let process = Process::with(64 * MIB);
    let (attempt, other) = process.attempt(1, 0);
    let pool: Arc<dyn MemoryPool> = Arc::clone(&attempt) as _;
    let aggregate = |name: &str, can_spill| {
        let consumer = MemoryConsumer::new(format!("{name}HashAggregateStream[0]")).with_can_spill(can_spill);
        consumer.register(&pool)
    };
    let leap = |table: &MemoryReservation, bytes: usize| {
        table.try_grow(bytes).unwrap();
        table.try_grow(bytes).unwrap();
    };
    let table = aggregate("Final", true);
    // 32 MiB more must be free from here on.
    leap(&table, 8 * MIB);
    table.try_grow(MIB / 2).unwrap();
    let partial = aggregate("Partial", true);
    leap(&partial, MIB);
    other.try_grow(15 * MIB).unwrap();
    partial.try_grow(1024).expect_err("two leaps do not fit");
    // It gives way, and is asked again once it has leapt.
    partial.free();
    leap(&partial, MIB);
    partial.try_grow(1024).expect_err("it is asked again");
    drop(partial);
    other.try_grow(MIB).unwrap();
    table.try_grow(MIB / 2).expect_err("the next leap does not fit");
    // What is not a table may have it, and so may one that has written its groups to disk.
    other.try_grow(MIB).unwrap();
    table.free();
    leap(&table, 8 * MIB);
    table.try_grow(8 * MIB).unwrap();
    drop(table);
    // Nor is one stopped that cannot give way.
    let fixed = aggregate("Final", false);
    leap(&fixed, 10 * MIB);
    fixed.try_grow(10 * MIB).unwrap();
}

/// A little, within the query's share.
#[test]
fn consumer_that_cannot_give_way_may_overdraw() {
    let process = Process::new();
    let (attempt, spilling) = process.attempt(1, 0);
    let pool: Arc<dyn MemoryPool> = Arc::clone(&attempt) as _;
    let fixed = MemoryConsumer::new("TopK[0]").register(&pool);
    spilling.try_grow(700).unwrap();
    spilling
        .try_grow(1)
        .expect_err("a part is left for a query that may come");
    // What nobody charged does not count.
    process.shares.set_unknown(100);
    fixed.try_grow(200).unwrap();
    fixed.try_grow(1).expect_err("nine eighths of the pool are taken");
    fixed.shrink(100);
    // One that can give way has nothing yet that it could write to disk.
    let starting = MemoryConsumer::new("ExternalSorter[0]")
        .with_can_spill(true)
        .register(&pool);
    starting.try_grow(60).unwrap();
    starting.try_grow(1).expect_err("it can give way");
    drop(starting);
    process.shares.set_unknown(0);
    let (_other_attempt, other) = process.attempt(2, 0);
    fixed.shrink(100);
    fixed.try_grow(1).expect_err("the other query is sure of its share");
    other.try_grow(100).unwrap();
}

/// Plans wait while the process holds too much and results that nobody reads are a cause; the newest of these gives way.
#[tokio::test]
async fn unread_results_hold_plans_back_and_give_way() {
    let process = Process::new();
    let (running, _) = process.attempt(1, 0);
    let (unread, _) = process.attempt(2, 0);
    let (next, _) = process.attempt(3, 0);
    process.shares.set_room(Room::Exceeded);
    // Memory that running queries hold comes back by itself.
    assert!(next.wait_for_room(|| panic!("it need not wait")).await.is_none());
    unread.set_parked(true);
    let waiting = SpawnedTask::spawn(async move { next.wait_for_room(|| ()).await });
    tokio::task::yield_now().await;
    let failure = Failure::internal("unread");
    assert!(process.shares.end_newest_unread(&failure), "one that waits is none");
    assert_eq!(unread.ended().await, failure);
    assert!(running.ended().now_or_never().is_none(), "it is not unread");
    process.shares.set_room(Room::Scarce);
    let start = waiting.await.unwrap().expect("others must not start beside it");
    let (another, _) = process.attempt(4, 0);
    assert!(another.wait_for_room(|| ()).now_or_never().is_none());
    drop(start);
    assert!(another.wait_for_room(|| ()).await.is_some());
    drop(unread);
    assert!(!process.shares.end_newest_unread(&failure));
}
