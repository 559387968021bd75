//! Places for tasks, one situation a test.

use super::*;

const A: WorkerId = WorkerId::from_u128(1);
const B: WorkerId = WorkerId::from_u128(2);
const C: WorkerId = WorkerId::from_u128(3);

fn pool(slots: &[(WorkerId, u32)]) -> SlotPool {
    let mut pool = SlotPool::default();
    for &(worker, slots) in slots {
        pool.join(worker, slots, 0);
    }
    pool
}

fn demand(slots: u32) -> Demand {
    Demand {
        slots,
        bytes: 0,
        lane: Lane::Short,
    }
}

fn held_by(holders: &[WorkerId]) -> Preferences<'_> {
    Preferences {
        holders,
        ..Preferences::default()
    }
}

fn workers(places: &[Place]) -> Vec<WorkerId> {
    places.iter().map(|place| place.worker).collect()
}

#[test]
fn tasks_spread_by_free_slots() {
    let mut pool = pool(&[(A, 2), (B, 2)]);
    let places: Vec<_> = (0..4)
        .map(|_| pool.place(demand(1), held_by(&[]), false).unwrap())
        .collect();
    assert_eq!(workers(&places), [A, B, A, B]);
    assert_eq!(pool.place(demand(1), held_by(&[]), false), None);
    pool.release_slots(B, demand(1));
    assert_eq!(
        pool.place(demand(1), held_by(&[]), false),
        Some(Place { worker: B, slots: 1 })
    );
}

#[test]
fn ties_prefer_input_then_fewest_bytes() {
    let mut pool = pool(&[(A, 4), (B, 4), (C, 4)]);
    let read = |bytes| Demand { bytes, ..demand(1) };
    assert_eq!(pool.place(read(100), held_by(&[]), false).unwrap().worker, A);
    assert_eq!(pool.place(read(10), held_by(&[]), false).unwrap().worker, B);
    assert_eq!(pool.place(read(10), held_by(&[]), false).unwrap().worker, C);
    assert_eq!(
        pool.place(read(10), held_by(&[]), false).unwrap().worker,
        B,
        "has the fewest bytes"
    );
    assert_eq!(
        pool.place(read(0), held_by(&[B, A, C]), false).unwrap().worker,
        A,
        "B has fewer slots free"
    );
}

#[test]
fn wide_task_fits_idle_small_worker() {
    let mut pool = pool(&[(A, 4), (B, 2)]);
    pool.take_slots(A, demand(1));
    assert_eq!(
        pool.place(demand(4), held_by(&[]), false),
        Some(Place { worker: B, slots: 2 })
    );
    assert_eq!(
        pool.place(demand(4), held_by(&[]), false),
        None,
        "three free of four are not enough"
    );
    assert_eq!(
        pool.place(demand(4), held_by(&[]), true),
        Some(Place { worker: A, slots: 4 }),
        "unless it has waited"
    );
    assert_eq!(
        pool.place(demand(1), held_by(&[]), true),
        None,
        "but never where no slot is free"
    );
}

#[test]
fn joint_tasks_get_all_or_nothing() {
    let mut pool = pool(&[(A, 2), (B, 2)]);
    pool.take_slots(A, demand(1));
    assert_eq!(pool.place_together(&[demand(2), demand(2)], held_by(&[]), false), None);
    assert_eq!((pool.load(A), pool.load(B)), ((1, 1), (0, 0)), "no slot stays taken");
    pool.release_slots(A, demand(1));
    let places = pool
        .place_together(&[demand(2), demand(2)], held_by(&[]), false)
        .unwrap();
    assert_eq!(workers(&places), [A, B]);
}

#[test]
fn oversized_joint_tasks_share_slots() {
    let mut pool = pool(&[(A, 1), (B, 1)]);
    let places = pool.place_together(&[demand(1); 5], held_by(&[]), false).unwrap();
    assert_eq!(workers(&places), [A, B, A, B, A]);
    assert_eq!(
        pool.place_together(&[demand(1)], held_by(&[]), true),
        None,
        "no slot is free"
    );
}

#[test]
fn idle_fragmented_pool_starts_joint_tasks() {
    let mut pool = pool(&[(A, 5), (B, 4)]);
    assert_eq!(
        pool.place_together(&[demand(3); 3], held_by(&[]), false).unwrap().len(),
        3
    );
}

#[test]
fn lane_counts_slots_of_earlier_lanes() {
    let mut pool = pool(&[(A, 2)]);
    let of = |lane, slots| Demand { lane, ..demand(slots) };
    assert!(pool.place(of(Lane::Long, 2), held_by(&[]), false).is_some());
    let free = |pool: &SlotPool| Lane::ALL.map(|lane| pool.free_slots(lane));
    assert_eq!(free(&pool), [2, 2, 0]);
    assert!(pool.place(of(Lane::Short, 2), held_by(&[]), false).is_some());
    assert_eq!(free(&pool), [0, 0, 0]);
    assert_eq!(pool.load(A), (4, 2));
    pool.release_slots(A, of(Lane::Long, 2));
    assert_eq!(free(&pool), [0, 0, 0], "earlier lanes are counted");
    assert!(!pool.is_idle(Lane::Short));
    pool.release_slots(A, of(Lane::Short, 2));
    assert_eq!(free(&pool), [2, 2, 2]);
    assert!(pool.is_idle(Lane::Long));
}

#[test]
fn starved_task_uses_own_lane_slots() {
    let mut pool = pool(&[(A, 2), (B, 2)]);
    let of = |lane, slots| Demand { lane, ..demand(slots) };
    let fills_short = [of(Lane::Short, 2); 2];
    assert!(pool.place_together(&fills_short, held_by(&[]), false).is_some());
    let long = of(Lane::Long, 3);
    assert_eq!(pool.place(long, held_by(&[]), true), None);
    let places = pool.place_in_lane(&[long], held_by(&[])).unwrap();
    assert_eq!(places[0].slots, 2);
    assert_eq!(
        pool.place_in_lane(&[long, long], held_by(&[])),
        None,
        "one lane is free"
    );
    assert_eq!(pool.place_in_lane(&[long], held_by(&[])).unwrap().len(), 1);
    assert_eq!(pool.place_in_lane(&[of(Lane::Long, 1)], held_by(&[])), None);
    assert!(pool.place_in_lane(&[of(Lane::Medium, 1); 4], held_by(&[])).is_some());
}

#[test]
fn leaving_worker_gets_no_task() {
    let mut pool = pool(&[(A, 1), (B, 1)]);
    pool.take_slots(A, demand(1));
    pool.withdraw(A);
    pool.release_slots(A, demand(1));
    assert_eq!(pool.place(demand(1), held_by(&[A]), false).unwrap().worker, B);
    assert_eq!(pool.place(demand(1), held_by(&[A]), true), None);
    pool.leave(B);
    assert!(pool.is_empty());
}

#[test]
fn avoided_worker_gets_tasks_only_where_there_is_no_other() {
    let mut pool = pool(&[(A, 4), (B, 2)]);
    let avoided = Preferences {
        holders: &[A],
        avoided: &[A],
        ..Preferences::default()
    };
    let places = [(); 2].map(|()| pool.place(demand(1), avoided, false).unwrap());
    assert_eq!(workers(&places), [B, B]);
    assert_eq!(pool.place(demand(1), avoided, true), None, "it waits");
    assert_eq!(pool.place_together(&[demand(1); 2], avoided, false), None);
    pool.withdraw(B);
    assert_eq!(pool.place(demand(1), avoided, false).unwrap().worker, A);
}

/// A free slot of a worker that the task avoids is none for it.
#[test]
fn task_shares_no_slots_of_full_workers() {
    let mut pool = pool(&[(A, 1), (B, 1)]);
    pool.take_slots(A, demand(1));
    let wish = Preferences {
        avoided: &[B],
        ..Preferences::default()
    };
    assert_eq!(pool.place(demand(1), wish, true), None);
    pool.release_slots(A, demand(1));
    assert_eq!(pool.place(demand(1), wish, true).map(|place| place.worker), Some(A));
}

#[test]
fn free_slots_that_a_task_may_not_have_are_room_for_others() {
    let mut pool = pool(&[(A, 2), (B, 1)]);
    pool.take_slots(A, demand(1));
    pool.take_slots(B, demand(1));
    let tried = Preferences {
        tried: &[A],
        ..Preferences::default()
    };
    let cut_off = Preferences {
        cut_off: &[A],
        ..Preferences::default()
    };
    for wish in [tried, cut_off] {
        assert!(pool.has_room_for_others(demand(2), wish), "fewer than it needs too");
    }
    assert!(
        !pool.has_room_for_others(demand(2), Preferences::default()),
        "it may share them"
    );
    pool.take_slots(A, demand(1));
    assert!(!pool.has_room_for_others(demand(1), tried), "there is none");
}
