//! Records without a driver and workers: what is known of a query, and for how long.

use datafusion::arrow::datatypes::Schema;
use squadron_scheduler::QueryPhase;

use super::super::ended::{ENDED_MEMORY, MAX_ENDED};
use super::super::history::tests::{failed, request};
use super::super::retained::RetainAs;
use super::*;
use crate::driver::subscriber::unconnected;
use crate::driver::{QueryEvents, Subscriber};

const MINUTE: Duration = Duration::from_secs(60);

fn ann() -> Principal {
    Principal::user("ann")
}

fn bob() -> Principal {
    Principal::user("bob")
}

fn id(number: u128) -> QueryId {
    QueryId::from_u128(number)
}

fn records_for(time_to_live: Duration) -> QueryRecords {
    QueryRecords::open(HistoryLimits::default(), time_to_live).unwrap()
}

fn records() -> QueryRecords {
    records_for(MINUTE)
}

fn begin(records: &QueryRecords, number: u128) -> Starting {
    records.begin(request(number), &ann())
}

/// The scheduler has the query.
fn submit(records: &QueryRecords, number: u128) -> QueryEvents {
    let (subscriber, events): (Subscriber, _) = unconnected(id(number));
    assert!(records.submitted(id(number), subscriber));
    events
}

fn end(records: &QueryRecords, number: u128, outcome: Result<(), Failure>, info: Option<QueryInfo>) {
    assert!(records.ended(id(number), outcome, info.map(Box::new)).is_some());
}

fn ready() -> OpenResult {
    OpenResult::Ready {
        schema: Arc::new(Schema::empty()),
        batches: Vec::new(),
    }
}

fn info(number: u128) -> QueryInfo {
    QueryInfo {
        id: id(number),
        user: None,
        session: "s".into(),
        tag: None,
        priority: 0,
        group: "server".into(),
        phase: QueryPhase::Delivering,
        submitted: Duration::ZERO,
        started: None,
        delivering_since: None,
        spent: Duration::ZERO,
        held_slots: 0,
        memory_bytes: 0,
        progress: 0,
        recoveries: 0,
        stages: Vec::new(),
    }
}

fn outcomes(records: &QueryRecords) -> Vec<Result<(), Failure>> {
    let (_, completed) = records.all();
    completed.into_iter().map(|query| query.outcome).collect()
}

fn is_active(records: &QueryRecords, number: u128) -> bool {
    let (active, _) = records.all();
    active.iter().any(|query| query.request.id == id(number))
}

/// Whether `owner` may cancel the query.
fn is_known(records: &QueryRecords, id: QueryId, owner: &Principal) -> bool {
    let failure = Failure::new(FailureKind::Cancelled, "cancelled");
    records.stop(id, owner, &failure).is_some()
}

#[test]
fn unscheduled_query_completes_with_its_starter() {
    let records = records();
    let starting = begin(&records, 1);
    assert_eq!(records.of_session("s"), [(id(1), false)]);
    starting.ended(failed("no such table"));
    assert_eq!(outcomes(&records), [failed("no such table")]);
    assert!(records.of_session("s").is_empty());
    drop(begin(&records, 2));
    let abandoned = outcomes(&records).pop().unwrap().unwrap_err();
    assert_eq!(abandoned.kind, FailureKind::Cancelled);
}

#[test]
fn forgotten_query_leaves_no_trace() {
    let records = records();
    begin(&records, 1).forget();
    assert!(!is_known(&records, id(1), &ann()));
    assert_eq!(records.all(), (Vec::new(), Vec::new()));
}

#[test]
fn query_completes_after_starter_and_scheduler() {
    for starter_first in [true, false] {
        let records = records();
        let mut starting = Some(begin(&records, 1));
        let _events = submit(&records, 1);
        for is_starter in [starter_first, !starter_first] {
            assert!(is_active(&records, 1));
            match is_starter {
                true => starting.take().unwrap().hand_over(),
                false => end(&records, 1, failed("cast"), None),
            }
        }
        assert!(!is_active(&records, 1));
        assert_eq!(outcomes(&records), [failed("cast")]);
    }
}

#[test]
fn starter_outcome_overrides_the_scheduler() {
    let records = records();
    let starting = begin(&records, 1);
    let _events = submit(&records, 1);
    end(&records, 1, Ok(()), None);
    starting.ended(failed("the folder is full"));
    assert_eq!(outcomes(&records), [failed("the folder is full")]);
}

#[test]
fn second_submission_is_refused() {
    let records = records();
    let _starting = begin(&records, 1);
    let _events = submit(&records, 1);
    assert!(!records.submitted(id(1), unconnected(id(1)).0));
    assert!(
        !records.submitted(id(2), unconnected(id(2)).0),
        "there is no such query"
    );
}

#[test]
fn query_is_released_when_its_workers_say_so() {
    let released = |records: &QueryRecords| {
        let (_, completed) = records.all();
        completed.last().unwrap().released
    };
    let records = records();
    // The scheduler never had it: nothing was held.
    begin(&records, 1).ended(failed("no such table"));
    assert!(released(&records).is_some());
    for (number, starter_first) in [(2, true), (3, false)] {
        let starting = begin(&records, number);
        let _events = submit(&records, number);
        if starter_first {
            starting.hand_over();
            end(&records, number, failed("killed"), Some(info(number)));
            assert_eq!(released(&records), None);
            QueryDirectory::released(&records, id(number));
        } else {
            end(&records, number, failed("killed"), Some(info(number)));
            QueryDirectory::released(&records, id(number));
            starting.hand_over();
        }
        assert!(released(&records).is_some(), "{number}");
    }
}

#[tokio::test]
async fn stop_reaches_the_starter_of_its_owner() {
    let records = records();
    let starting = begin(&records, 1);
    let failure = Failure::new(FailureKind::Cancelled, "killed");
    assert!(records.stop(id(1), &bob(), &failure).is_none());
    assert_eq!(starting.failure(), None);
    assert!(records.stop(id(1), &ann(), &failure).is_some());
    assert_eq!(starting.failure(), Some(failure.clone()));
    assert_eq!(starting.stopped().await, failure);
    starting.ended(Err(failure.clone()));
    assert!(records.stop(id(1), &ann(), &failure).is_some(), "it has just ended");
    assert!(records.stop(id(9), &ann(), &failure).is_none(), "it never was");
}

#[test]
fn result_serves_its_owner_once() {
    let records = records();
    let starting = begin(&records, 1);
    records.offer(id(1), ready());
    starting.ended(Ok(()));
    let foreign = records.take(id(1), &bob()).unwrap_err();
    assert_eq!(foreign, records.take(id(9), &bob()).unwrap_err());
    assert_eq!(foreign.kind, FailureKind::NotFound);
    let (_, streaming) = records.take(id(1), &ann()).unwrap();
    assert_eq!(records.open_results(), 1);
    assert!(is_known(&records, id(1), &ann()) && !is_known(&records, id(1), &bob()));
    assert!(records.take(id(1), &ann()).is_err());
    drop(streaming);
    assert_eq!(records.open_results(), 0);
    assert!(is_known(&records, id(1), &ann()) && !is_known(&records, id(1), &bob()));
    assert!(!is_known(&records, id(9), &ann()));
}

#[test]
fn discarded_result_is_gone_but_its_query_known() {
    let records = records();
    let starting = begin(&records, 1);
    records.offer(id(1), ready());
    starting.ended(Ok(()));
    records.discard_result(id(1));
    records.discard_result(id(1));
    assert!(records.take(id(1), &ann()).is_err());
    assert!(is_known(&records, id(1), &ann()));
}

#[test]
fn expired_result_is_gone_and_cancels_its_query() {
    let records = records_for(Duration::ZERO);
    let starting = begin(&records, 1);
    let events = submit(&records, 1);
    let schema = Arc::new(Schema::empty());
    records.offer(id(1), OpenResult::Running { schema, events });
    starting.hand_over();
    assert!(records.take(id(1), &ann()).is_err(), "its time is over, swept or not");
    assert_eq!(records.open_results(), 1);
    records.drop_expired(Instant::now());
    assert_eq!(records.open_results(), 0);
}

#[test]
fn touched_result_outlives_its_first_expiry() {
    let records = records();
    let starting = begin(&records, 1);
    records.offer(id(1), ready());
    starting.ended(Ok(()));
    let first_expiry = Instant::now() + MINUTE;
    records.touch(id(1));
    records.drop_expired(first_expiry);
    assert_eq!(records.open_results(), 1);
    records.drop_expired(first_expiry + MINUTE);
    assert_eq!(records.open_results(), 0);
}

#[test]
fn idle_queries_are_forgotten_with_time() {
    let records = records();
    begin(&records, 1).ended(Ok(()));
    records.drop_expired(Instant::now());
    assert!(is_known(&records, id(1), &ann()));
    records.drop_expired(Instant::now() + ENDED_MEMORY);
    assert!(!is_known(&records, id(1), &ann()));
    assert_eq!(outcomes(&records), [Ok(())], "the history still has it");
}

#[test]
fn idle_queries_are_forgotten_beyond_their_number() {
    let records = records();
    let last = MAX_ENDED as u128 + 1;
    (1..=last).for_each(|number| begin(&records, number).ended(Ok(())));
    assert!(!is_known(&records, id(1), &ann()));
    assert!(is_known(&records, id(2), &ann()) && is_known(&records, id(last), &ann()));
}

#[test]
fn expiries_list_each_record_once() {
    let records = records();
    let listed = || records.lock().expiries.len();
    let starting = begin(&records, 1);
    records.offer(id(1), ready());
    records.touch(id(1));
    assert_eq!(listed(), 1);
    records
        .keep_polled(id(1), &Arc::new(PolledQuery::new(Arc::new(Schema::empty()))))
        .unwrap();
    assert_eq!(listed(), 1);
    drop(records.take(id(1), &ann()).unwrap());
    starting.ended(Ok(()));
    assert_eq!(listed(), 1, "it is polled");
    records.end_polls(id(1));
    assert_eq!(listed(), 0);
    assert!(records.lock().records.is_empty());
}

#[test]
fn abandoned_driver_ends_its_queries() {
    let records = records();
    begin(&records, 1).ended(Ok(()));
    let starting = begin(&records, 2);
    let _events = submit(&records, 2);
    starting.hand_over();
    let stopping = Failure::new(FailureKind::Draining, "stopping");
    assert_eq!(records.abandon(&stopping).len(), 1);
    assert_eq!(outcomes(&records), [Ok(()), Err(stopping.clone())]);
    assert!(records.abandon(&stopping).is_empty());
}

#[test]
fn shedding_drops_the_oldest_ready_results() {
    let records = records();
    let array = datafusion::arrow::array::Int64Array::from(vec![0; 1000]);
    let batch = datafusion::arrow::array::RecordBatch::try_from_iter([("n", Arc::new(array) as _)]).unwrap();
    for number in 1..=3 {
        let starting = begin(&records, number);
        let result = OpenResult::Ready {
            schema: batch.schema(),
            batches: vec![batch.clone()],
        };
        records.offer(id(number), result);
        starting.ended(Ok(()));
    }
    let each = records.ready_bytes() / 3;
    assert!(each >= 8000, "{each}");
    assert_eq!(records.shed(each + 1), 2);
    assert_eq!(records.ready_bytes(), each);
    assert!(records.take(id(1), &ann()).is_err() && records.take(id(3), &ann()).is_ok());
    assert_eq!(records.ready_bytes(), 0);
}

fn retain(records: &QueryRecords, number: u128) -> Arc<RetainedResult> {
    let result = Arc::new(RetainedResult::new(RetainAs {
        schema: Arc::new(Schema::empty()),
        is_ordered: false,
        tasks: 1,
        events: submit(records, number),
        key: squadron_proto::ticket::ClusterKey::random(),
        ticket_lifetime: MINUTE,
        time_to_live: records.time_to_live(),
    }));
    records.retain(id(number), &result);
    result
}

#[test]
fn retained_result_serves_its_owner_until_expiry() {
    let records = records_for(Duration::ZERO);
    let starting = begin(&records, 1);
    let _result = retain(&records, 1);
    starting.hand_over();
    assert_eq!(records.of_session("s"), [(id(1), true)]);
    assert!(records.retained(id(1), &bob()).is_none());
    // As long as its client was not told of it, there is no expiry.
    records.drop_expired(Instant::now());
    assert!(records.retained(id(1), &ann()).is_some());
    assert_eq!(records.open_results(), 1, "its query runs");
    records.announce(id(1));
    records.drop_expired(Instant::now());
    assert!(records.retained(id(1), &ann()).is_none());
    assert_eq!(records.open_results(), 0);
}

#[test]
fn discarded_retained_result_is_gone() {
    let records = records();
    let starting = begin(&records, 1);
    let _result = retain(&records, 1);
    starting.hand_over();
    records.announce(id(1));
    records.drop_expired(Instant::now());
    assert!(records.retained(id(1), &ann()).is_some());
    records.discard_result(id(1));
    records.discard_result(id(1));
    assert!(records.retained(id(1), &ann()).is_none());
}

#[test]
fn polled_query_lives_until_polls_stop() {
    let records = records();
    let polled = Arc::new(PolledQuery::new(Arc::new(Schema::empty())));
    let starting = begin(&records, 1);
    records.keep_polled(id(1), &polled).unwrap();
    starting.ended(Ok(()));
    assert!(records.polled(id(1), &bob()).is_none());
    assert!(records.polled(id(1), &ann()).is_some());
    records.drop_expired(Instant::now() + MINUTE / 2);
    assert!(records.polled(id(1), &ann()).is_some());
    records.drop_expired(Instant::now() + 2 * MINUTE);
    assert!(records.polled(id(1), &ann()).is_none());
    assert!(is_known(&records, id(1), &ann()), "it may be cancelled once more");
}

#[test]
fn polled_queries_are_counted() {
    let records = records();
    let polled = Arc::new(PolledQuery::new(Arc::new(Schema::empty())));
    let last = MAX_POLLED as u128;
    for number in 1..=last {
        let starting = begin(&records, number);
        records.keep_polled(id(number), &polled).unwrap();
        starting.ended(Ok(()));
    }
    let _starting = begin(&records, last + 1);
    let refused = records.keep_polled(id(last + 1), &polled).unwrap_err();
    assert_eq!(refused.kind, FailureKind::Exhausted);
    records.end_polls(id(7));
    records.keep_polled(id(last + 1), &polled).unwrap();
}
