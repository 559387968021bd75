//! Limits and queues, one situation a test.

use super::*;
use crate::groups::GroupSpec;

fn limits() -> AdmissionLimits {
    AdmissionLimits {
        max_running: 2,
        max_queued: 3,
        max_per_session: 100,
    }
}

fn candidate(number: u64, group: usize) -> Candidate {
    Candidate {
        query: QueryId::from_u128(u128::from(number)),
        number,
        priority: 0,
        group,
        session: "s".into(),
        memory_bytes: 0,
    }
}

/// Starts every query that may run; returns their numbers.
fn settle(admission: &mut Admission, waiting: &mut Vec<Candidate>) -> Vec<u64> {
    let mut started = Vec::new();
    while let Some(query) = admission.next() {
        let at = waiting
            .iter()
            .position(|candidate| candidate.query == query)
            .expect("it waits");
        let candidate = waiting.remove(at);
        admission.start(&candidate);
        started.push(candidate.number);
    }
    started
}

/// Enters candidates one by one; returns the numbers of those that start.
fn enter(
    admission: &mut Admission,
    waiting: &mut Vec<Candidate>,
    candidates: impl IntoIterator<Item = Candidate>,
) -> Vec<u64> {
    let mut started = Vec::new();
    for candidate in candidates {
        admission.enter(&candidate).expect("there is room");
        waiting.push(candidate);
        started.extend(settle(admission, waiting));
    }
    started
}

#[test]
fn full_server_queues_then_refuses() {
    let mut admission = Admission::new(limits(), Groups::default());
    let mut waiting = Vec::new();
    let started = enter(&mut admission, &mut waiting, (0..5).map(|number| candidate(number, 0)));
    assert_eq!(started, [0, 1]);
    let refused = admission.enter(&candidate(5, 0)).unwrap_err();
    assert_eq!(refused.kind, FailureKind::Busy);
    for part in ["3 queries wait", "--max-queued", "again in about 1 s"] {
        assert!(refused.message.contains(part), "{refused}");
    }
    admission.end(&candidate(0, 0), Duration::from_secs(60));
    assert_eq!(settle(&mut admission, &mut waiting), [2]);
    let load = admission.load(0);
    assert_eq!((load.running, load.queued), (2, 2));
    admission.leave(&waiting.remove(0));
    assert_eq!(admission.load(0).queued, 1);
    let later = admission
        .enter(&candidate(6, 0))
        .and_then(|()| admission.enter(&candidate(7, 0)));
    assert_eq!(later, Ok(()));
    let refused = admission.enter(&candidate(8, 0)).unwrap_err();
    assert!(refused.message.contains("about 4 s"), "{refused}");
}

#[test]
fn higher_priority_runs_first() {
    let mut admission = Admission::new(limits(), Groups::default());
    let mut waiting = Vec::new();
    let mut last = candidate(4, 0);
    last.priority = 1;
    let all = (0..4).map(|number| candidate(number, 0)).chain([last]);
    enter(&mut admission, &mut waiting, all);
    admission.end(&candidate(0, 0), Duration::ZERO);
    admission.end(&candidate(1, 0), Duration::ZERO);
    assert_eq!(settle(&mut admission, &mut waiting), [4, 2]);
}

#[test]
fn session_limit_refuses_further_queries() {
    let limits = AdmissionLimits {
        max_per_session: 1,
        ..limits()
    };
    let mut admission = Admission::new(limits, Groups::default());
    let first = candidate(0, 0);
    enter(&mut admission, &mut Vec::new(), [first.clone()]);
    let refused = admission.enter(&candidate(1, 0)).unwrap_err();
    assert!(refused.message.contains("--max-session-queries"), "{refused}");
    let mut other = candidate(2, 0);
    other.session = "t".into();
    assert_eq!(admission.enter(&other), Ok(()));
    admission.leave(&other);
    admission.end(&first, Duration::ZERO);
    assert!(admission.is_empty());
}

fn tree() -> Groups {
    let mut etl = GroupSpec::new("etl");
    etl.max_running = Some(1);
    etl.max_queued = Some(1);
    let night = GroupSpec::new("etl.night");
    let mut people = GroupSpec::new("people");
    people.weight = 3;
    Groups::new(vec![etl, night, people]).expect("a good tree")
}

#[test]
fn full_group_delays_only_itself() {
    let mut admission = Admission::new(limits(), tree());
    let mut waiting = Vec::new();
    let started = enter(
        &mut admission,
        &mut waiting,
        [candidate(0, 2), candidate(1, 1), candidate(2, 3)],
    );
    assert_eq!(started, [0, 2], "the group below counts for etl");
    let refused = admission.enter(&candidate(3, 2)).unwrap_err();
    assert!(
        refused.message.contains("group etl") && refused.message.contains("max_queued"),
        "{refused}"
    );
    admission.end(&candidate(0, 2), Duration::ZERO);
    assert_eq!(settle(&mut admission, &mut waiting), [1]);
}

#[test]
fn groups_run_queries_by_weight() {
    let limits = AdmissionLimits {
        max_running: 8,
        max_queued: 100,
        ..limits()
    };
    let groups = tree();
    let mut specs: Vec<_> = (1..groups.count()).map(|group| groups.spec(group).clone()).collect();
    specs[0].max_running = None;
    specs[0].max_queued = None;
    let mut admission = Admission::new(limits, Groups::new(specs).expect("a good tree"));
    let all: Vec<_> = (0..40)
        .map(|number| candidate(number, if number % 2 == 0 { 1 } else { 3 }))
        .collect();
    for candidate in &all {
        admission.enqueue(candidate);
    }
    let mut waiting = all;
    settle(&mut admission, &mut waiting);
    assert_eq!((admission.load(1).running, admission.load(3).running), (2, 6));
}

#[test]
fn memory_waiter_holds_none_back_that_fits() {
    let limits = AdmissionLimits {
        max_running: 10,
        ..limits()
    };
    let mut admission = Admission::new(limits, Groups::default());
    let wants = |number, memory_bytes| Candidate {
        memory_bytes,
        ..candidate(number, 0)
    };
    // Without a worker, nobody knows how much there will be.
    admission.enter(&wants(9, 900)).unwrap();
    admission.leave(&wants(9, 900));
    admission.resize(100);
    let refused = admission.enter(&wants(9, 101)).unwrap_err();
    assert_eq!(refused.kind, FailureKind::Exhausted);
    assert!(refused.message.contains("squadron.reserved_memory"), "{refused}");
    let mut waiting = Vec::new();
    let started = enter(
        &mut admission,
        &mut waiting,
        [wants(0, 60), wants(1, 50), wants(2, 10), wants(3, 0)],
    );
    assert_eq!(started, [0, 2, 3], "the second waits for the first");
    admission.end(&wants(0, 60), Duration::ZERO);
    assert_eq!(settle(&mut admission, &mut waiting), [1]);
    // All but one worker have left.
    admission.resize(40);
    admission.end(&wants(2, 10), Duration::ZERO);
    admission.end(&wants(1, 50), Duration::ZERO);
    admission.enqueue(&wants(4, 50));
    waiting.push(wants(4, 50));
    assert_eq!(
        settle(&mut admission, &mut waiting),
        [4],
        "alone it runs with what there is"
    );
}
