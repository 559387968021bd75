//! Who gets how much: the scheduler with one worker that runs tasks for as long as they take, in virtual time.

use squadron_proto::Failure;
use squadron_proto::FailureKind;
use squadron_proto::QueryId;
use squadron_proto::WorkerKind;
use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use squadron_proto::AttemptKey;
use squadron_proto::control::AttemptStatus;

use crate::testing::{graph, some_output, stage, worker};
use crate::*;

/// One worker, and who used it.
struct Shop {
    scheduler: Scheduler,
    now: Duration,
    /// What ends when.
    running: BTreeMap<(Duration, AttemptKey), Duration>,
    takes: BTreeMap<QueryId, Duration>,
    /// The part of their slot time in which attempts use a processor, of those that say so.
    busy: BTreeMap<QueryId, f64>,
    used: BTreeMap<QueryId, Duration>,
    /// When each query was served last, or came, and the longest it had to wait.
    served: BTreeMap<QueryId, Duration>,
    longest_wait: BTreeMap<QueryId, Duration>,
    ended: BTreeMap<QueryId, Duration>,
}

impl Shop {
    fn new(policy: Policy, slots: u32) -> Self {
        let limits = Limits {
            policy,
            admission: AdmissionLimits {
                max_running: usize::MAX,
                max_of_session: usize::MAX,
                ..AdmissionLimits::default()
            },
            ..Limits::default()
        };
        let mut shop = Self {
            scheduler: Scheduler::new(limits),
            now: Duration::ZERO,
            running: BTreeMap::new(),
            takes: BTreeMap::new(),
            busy: BTreeMap::new(),
            used: BTreeMap::new(),
            served: BTreeMap::new(),
            longest_wait: BTreeMap::new(),
            ended: BTreeMap::new(),
        };
        shop.tell(Event::WorkerJoined {
            worker: worker(1),
            slots,
            address: "http://w".to_owned(),
            memory_bytes: 1 << 30,
            kind: WorkerKind::Remote,
        });
        shop
    }

    /// A query of so many tasks that run one by one or together, each for `takes`, as predicted; then a result that takes no
    /// time.
    fn submit(&mut self, id: u128, tasks: u32, takes: Duration, options: QueryOptions) -> QueryId {
        let mut graph = graph(id, vec![stage(0, &[], tasks), stage(1, &[0], 1)]);
        for task in &mut graph.stages[0].tasks {
            task.bytes = takes.as_millis() as u64 * 200_000;
        }
        graph.options = options;
        let query = graph.query;
        self.takes.insert(query, takes);
        self.served.insert(query, self.now);
        self.tell(Event::Submit(graph));
        query
    }

    fn tell(&mut self, event: Event) {
        for effect in self.scheduler.apply(self.now, event) {
            match effect {
                Effect::Launch { launch, .. } => self.launch(launch.attempt),
                Effect::ResultReady { query, .. } => self.tell(Event::ResultDone { query }),
                Effect::Ended { query, outcome, .. } => {
                    outcome.expect("nothing fails here");
                    self.ended.insert(query, self.now);
                }
                Effect::SendStage { .. }
                | Effect::Commit { .. }
                | Effect::CancelAttempt { .. }
                | Effect::Release { .. }
                | Effect::Released { .. }
                | Effect::Unexpected { .. } => {}
            }
        }
    }

    fn launch(&mut self, attempt: AttemptKey) {
        let query = attempt.query;
        let takes = match attempt.stage.0 {
            0 => self.takes[&query],
            _ => Duration::from_micros(1),
        };
        let waited = self.now - self.served.insert(query, self.now).unwrap();
        let longest = self.longest_wait.entry(query).or_default();
        *longest = waited.max(*longest);
        self.running.insert((self.now + takes, attempt), takes);
    }

    fn run_until(&mut self, end: Duration) {
        while let Some((&(at, attempt), &takes)) = self.running.first_key_value() {
            if at > end {
                break;
            }
            self.running.pop_first();
            self.now = at;
            *self.used.entry(attempt.query).or_default() += takes;
            let mut output = some_output();
            if let Some(&busy) = self.busy.get(&attempt.query) {
                output.metrics.cpu_ns = takes.mul_f64(busy).as_nanos() as u64;
            }
            for status in [
                AttemptStatus::Reserved,
                AttemptStatus::Running,
                AttemptStatus::Finished(output),
            ] {
                self.tell(Event::Report {
                    worker: worker(1),
                    attempt,
                    status,
                });
            }
        }
        self.now = end;
    }

    fn used(&self, queries: &[QueryId]) -> f64 {
        let used = queries.iter().filter_map(|query| self.used.get(query));
        used.sum::<Duration>().as_secs_f64()
    }
}

fn tagged(tag: &str) -> QueryOptions {
    QueryOptions {
        tag: Some(tag.into()),
        ..QueryOptions::default()
    }
}

fn group(name: &str, weight: u32) -> GroupSpec {
    GroupSpec {
        weight,
        selector: Some(Selector {
            tags: vec![name.to_owned()],
            ..Selector::default()
        }),
        ..GroupSpec::named(name)
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn groups_share_by_weight_whatever_their_queries_are(
        policy in prop::sample::select(&Policy::ALL[..]),
        weights in prop::collection::vec(1..10_u32, 2..4),
        tasks_ms in prop::collection::vec(10..80_u64, 4),
        queries in prop::collection::vec(1..4_u128, 4),
    ) {
        let mut shop = Shop::new(policy, 4);
        let names = ["a", "b", "c", "d"];
        let specs = names.iter().zip(&weights).map(|(name, &weight)| group(name, weight));
        shop.tell(Event::Regroup(Groups::new(specs.collect()).unwrap()));
        let mut members = Vec::new();
        for (number, _) in weights.iter().enumerate() {
            let ids = (0..queries[number]).map(|query| {
                let id = number as u128 * 10 + query;
                shop.submit(id, 20_000, ms(tasks_ms[number]), tagged(names[number]))
            });
            members.push(ids.collect::<Vec<_>>());
        }
        shop.run_until(Duration::from_secs(5));
        let before: Vec<_> = members.iter().map(|queries| shop.used(queries)).collect();
        shop.run_until(Duration::from_secs(45));
        let used: Vec<_> = members.iter().zip(before).map(|(queries, before)| shop.used(queries) - before).collect();
        let total: f64 = used.iter().sum();
        let all: u32 = weights.iter().sum();
        for (used, &weight) in used.iter().zip(&weights) {
            let (part, due) = (used / total, f64::from(weight) / f64::from(all));
            prop_assert!((part / due - 1.0).abs() < 0.05, "{} instead of {}", part, due);
        }
    }

    #[test]
    fn queries_share_by_priority(
        policy in prop::sample::select(&[Policy::Stride, Policy::Fair][..]),
        queries in prop::collection::vec((-20..=10_i32, 10..80_u64), 2..5),
    ) {
        let mut shop = Shop::new(policy, 5);
        // So large that none ends, and weights do not fall any more on the way.
        let submit = |(id, (priority, takes_ms))| {
            let options = QueryOptions { priority, ..QueryOptions::default() };
            shop.submit(id, 250_000 / takes_ms as u32, ms(takes_ms), options)
        };
        let ids: Vec<_> = (0..).zip(queries.clone()).map(submit).collect();
        shop.run_until(Duration::from_secs(5));
        let before: Vec<_> = ids.iter().map(|id| shop.used(&[*id])).collect();
        shop.run_until(Duration::from_secs(45));
        let used: Vec<_> = ids.iter().zip(before).map(|(id, before)| shop.used(&[*id]) - before).collect();
        let weight = |priority: i32| (f64::from(priority) / 10.0).exp2();
        let all: f64 = queries.iter().map(|&(priority, _)| weight(priority)).sum();
        for (used, (priority, _)) in used.iter().zip(&queries) {
            let (part, due) = (used / (5.0 * 40.0), weight(*priority) / all);
            prop_assert!((part / due - 1.0).abs() < 0.05, "{} instead of {}", part, due);
        }
    }

    #[test]
    fn every_query_is_served_within_a_bound_and_no_slot_is_left_idle(
        policy in prop::sample::select(&Policy::ALL[..]),
        slots in 1..5_u32,
        decay in 0..=4_u32,
        weights in prop::collection::vec(1..1_000_u32, 2),
        queries in prop::collection::vec((0..20_000_u64, 1..60_u32, 1..400_u64, -100..=100_i32, 0..3_usize), 1..40),
    ) {
        let mut shop = Shop::new(policy, slots);
        shop.scheduler.limits.priority_decay = decay;
        let specs = ["a", "b"].iter().zip(&weights).map(|(name, &weight)| group(name, weight));
        shop.tell(Event::Regroup(Groups::new(specs.collect()).unwrap()));
        let mut queries = queries;
        queries.sort_unstable();
        let mut ids = Vec::new();
        let mut idle_at_the_latest = Duration::ZERO;
        for (id, &(at_ms, tasks, takes_ms, priority, tag)) in (0..).zip(&queries) {
            shop.run_until(ms(at_ms));
            let options = QueryOptions { priority, ..tagged(["a", "b", "none"][tag]) };
            ids.push(shop.submit(id, tasks, ms(takes_ms), options));
            let work = ms(takes_ms) * tasks / slots + 3 * ms(takes_ms);
            idle_at_the_latest = idle_at_the_latest.max(ms(at_ms)) + work;
        }
        shop.run_until(idle_at_the_latest);
        let longest_task = ms(queries.iter().map(|query| query.2).max().unwrap_or_default());
        // Every fourth place goes to whoever has waited for ten seconds, the oldest first.
        let turns = 4 * (queries.len() as u32 + 2);
        let bound = Limits::default().starvation_timeout + longest_task * turns;
        for id in ids {
            prop_assert!(shop.ended.contains_key(&id), "{} has not ended", id);
            prop_assert!(shop.longest_wait[&id] <= bound, "{:?} of {:?}", shop.longest_wait[&id], bound);
        }
    }

    #[test]
    fn a_stream_of_preferred_queries_starves_nobody(
        policy in prop::sample::select(&Policy::ALL[..]),
        short_ms in 5..30_u64,
        overload in 1.0..1.1_f64,
        long_tasks_ms in 10..500_u64,
    ) {
        let mut shop = Shop::new(policy, 2);
        let least_preferred = QueryOptions { priority: -100, ..QueryOptions::default() };
        let long = shop.submit(0, 100_000, ms(long_tasks_ms), least_preferred);
        let between = ms(short_ms).div_f64(2.0 * overload);
        let mut id = 1;
        let mut at = Duration::ZERO;
        while at < Duration::from_secs(20) {
            at += between;
            shop.run_until(at);
            let most_preferred = QueryOptions { priority: 100, ..QueryOptions::default() };
            shop.submit(id, 1, ms(short_ms), most_preferred);
            id += 1;
        }
        // So far nobody else has waited for ten seconds, so every fourth place is for this one from then on.
        let bound = Limits::default().starvation_timeout + 5 * ms(short_ms.max(long_tasks_ms));
        let waited = shop.longest_wait[&long].max(shop.now - shop.served[&long]);
        prop_assert!(waited <= bound, "{:?} of {:?}", waited, bound);
    }
}

#[test]
fn long_tasks_that_have_waited_for_long_do_not_hold_up_short_ones() {
    let mut shop = Shop::new(Policy::Stride, 2);
    // A little more than two slots can do.
    let between = Duration::from_micros(9_800);
    let short = |shop: &mut Shop, id| shop.submit(id, 1, ms(20), QueryOptions::default());
    let mut shorts = vec![short(&mut shop, 2), short(&mut shop, 3)];
    let long_task = Duration::from_secs(15);
    let long = [0, 1].map(|id| shop.submit(id, 1, long_task, QueryOptions::default()));
    let serve_starved = Limits::default().starvation_timeout;
    let mut used_before = None;
    for number in 1.. {
        let at = between * number;
        if at > serve_starved + long_task {
            break;
        }
        shop.run_until(at);
        if at >= serve_starved {
            used_before.get_or_insert_with(|| shop.used(&shorts));
        }
        shorts.push(short(&mut shop, 10 + u128::from(number)));
    }
    for id in long {
        let waited = shop.longest_wait[&id];
        assert!((serve_starved..serve_starved + ms(500)).contains(&waited), "{waited:?}");
    }
    let used = shop.used(&shorts) - used_before.expect("it took longer");
    let both_slots = 2.0 * long_task.as_secs_f64();
    assert!(used > 0.99 * both_slots, "{used} of {both_slots} seconds");
}

#[test]
fn what_counts_is_the_time_of_processors_where_attempts_say_it() {
    for (busy, expected) in [([1.0, 0.25], 4.0), ([0.5, 0.5], 1.0)] {
        let mut shop = Shop::new(Policy::Fair, 5);
        let queries = [0, 1].map(|id| shop.submit(id, 10_000, ms(20), QueryOptions::default()));
        shop.busy.extend(queries.into_iter().zip(busy));
        shop.run_until(Duration::from_secs(20));
        let ratio = shop.used(&queries[1..]) / shop.used(&queries[..1]);
        assert!((ratio / expected - 1.0).abs() < 0.05, "{busy:?}: {ratio}");
    }
}

#[test]
fn who_comes_later_has_no_credit_and_does_not_wait_for_the_others_to_catch_up() {
    for (groups, tags) in [(vec![], ["", ""]), (vec![group("a", 1), group("b", 1)], ["a", "b"])] {
        let mut shop = Shop::new(Policy::Fair, 4);
        shop.tell(Event::Regroup(Groups::new(groups).unwrap()));
        let first = shop.submit(0, 20_000, ms(20), tagged(tags[0]));
        shop.run_until(Duration::from_secs(20));
        let before = shop.used(&[first]);
        let second = shop.submit(1, 20_000, ms(20), tagged(tags[1]));
        shop.run_until(Duration::from_secs(24));
        let used = [shop.used(&[first]) - before, shop.used(&[second])];
        assert!(used.iter().all(|used| (used - 8.0).abs() < 0.5), "{used:?}");
    }
}

#[test]
fn a_wrong_prediction_is_made_good() {
    for factor in [1_000, 0] {
        let mut shop = Shop::new(Policy::Fair, 4);
        let right = shop.submit(0, 10_000, ms(20), QueryOptions::default());
        let mut graph = graph(1, vec![stage(0, &[], 10_000), stage(1, &[0], 1)]);
        for task in &mut graph.stages[0].tasks {
            task.bytes = factor * 20 * 200_000;
        }
        let wrong = graph.query;
        shop.takes.insert(wrong, ms(20));
        shop.served.insert(wrong, shop.now);
        shop.tell(Event::Submit(graph));
        shop.run_until(Duration::from_secs(10));
        let used = [shop.used(&[right]), shop.used(&[wrong])];
        assert!(used.iter().all(|used| (used - 20.0).abs() < 1.0), "{used:?}");
    }
}

#[test]
fn the_rate_of_decay_decides_how_far_a_large_query_steps_back() {
    let share_of_the_small = |decay| {
        let mut shop = Shop::new(Policy::Stride, 1);
        shop.scheduler.limits.priority_decay = decay;
        // Both in one lane, one four times as large.
        let [small, large] =
            [(0, 600), (1, 2_400)].map(|(id, tasks)| shop.submit(id, tasks, ms(5), QueryOptions::default()));
        shop.run_until(ms(2_500));
        shop.used(&[small]) / shop.used(&[small, large])
    };
    for (decay, expected) in [(0, 0.5), (1, 0.8), (2, 16.0 / 17.0)] {
        let share = share_of_the_small(decay);
        assert!((share - expected).abs() < 0.02, "{decay}: {share}");
    }
}

#[test]
fn the_smaller_of_two_predicted_queries_comes_first() {
    let order = |policy| {
        let mut shop = Shop::new(policy, 1);
        let busy = shop.submit(0, 1, ms(10), QueryOptions::default());
        for (id, bytes) in [(1, 4_000_000_000_u64), (2, 40_000_000)] {
            let mut graph = graph(id, vec![stage(0, &[], 4), stage(1, &[0], 1)]);
            for task in &mut graph.stages[0].tasks {
                task.bytes = bytes / 4;
            }
            let query = graph.query;
            shop.takes.insert(query, Duration::from_micros(bytes / 4 / 200));
            shop.served.insert(query, shop.now);
            shop.tell(Event::Submit(graph));
        }
        shop.run_until(Duration::from_secs(30));
        assert!(shop.ended.contains_key(&busy));
        [1, 2].map(|id| shop.ended[&QueryId::from_u128(id)])
    };
    let [large, small] = order(Policy::Stride);
    assert!(
        small < ms(300) && large > Duration::from_secs(20),
        "{small:?} {large:?}"
    );
    let [large, small] = order(Policy::Fifo);
    assert!(large < small, "first come, first served");
}

#[test]
fn a_plan_that_was_measured_is_predicted() {
    let mut shop = Shop::new(Policy::Stride, 1);
    let known = |fingerprint| QueryOptions {
        fingerprint: Some(fingerprint),
        ..QueryOptions::default()
    };
    shop.submit(1, 20, ms(100), known(1));
    shop.run_until(Duration::from_secs(10));
    shop.submit(2, 1, ms(10), known(2));
    shop.run_until(Duration::from_secs(20));
    let busy = shop.submit(3, 1, ms(10), known(3));
    let long = shop.submit(4, 20, ms(100), known(1));
    let short = shop.submit(5, 1, ms(10), known(2));
    shop.run_until(Duration::from_secs(30));
    assert!(shop.ended.contains_key(&busy));
    assert!(shop.ended[&short] < Duration::from_secs(20) + ms(50));
    assert!(shop.ended[&long] > shop.ended[&short]);
}

#[test]
fn a_plan_is_remembered_by_the_processor_time_it_used() {
    let mut shop = Shop::new(Policy::Stride, 1);
    let known = |fingerprint| QueryOptions {
        fingerprint: Some(fingerprint),
        ..QueryOptions::default()
    };
    let waits = shop.submit(1, 20, ms(100), known(1));
    shop.busy.insert(waits, 0.001);
    shop.run_until(Duration::from_secs(10));
    shop.submit(2, 2, ms(100), known(2));
    shop.run_until(Duration::from_secs(20));
    let busy = shop.submit(3, 1, ms(10), known(3));
    let computes = shop.submit(4, 2, ms(100), known(2));
    let waits = shop.submit(5, 20, ms(100), known(1));
    shop.busy.insert(waits, 0.001);
    shop.run_until(Duration::from_secs(30));
    assert!(shop.ended.contains_key(&busy));
    assert!(
        shop.ended[&waits] < shop.ended[&computes],
        "it held its slots for ten times as long and used less"
    );
}

#[test]
fn a_group_may_not_begin_more_than_its_cpu_share() {
    let mut shop = Shop::new(Policy::Stride, 8);
    let mut half = group("a", 100);
    half.cpu_share_percent = Some(25);
    shop.tell(Event::Regroup(Groups::new(vec![half, group("b", 1)]).unwrap()));
    let capped = shop.submit(1, 10_000, ms(20), tagged("a"));
    shop.run_until(Duration::from_secs(10));
    let part = shop.used(&[capped]) / (8.0 * 10.0);
    assert!((part - 0.25).abs() < 0.01, "{part} although the rest is idle");
    let other = shop.submit(2, 10_000, ms(20), tagged("b"));
    shop.run_until(Duration::from_secs(20));
    let part = shop.used(&[other]) / (8.0 * 10.0);
    assert!((part - 0.75).abs() < 0.02, "{part}");
}

#[test]
fn time_that_runs_short_raises_the_weight() {
    let mut shop = Shop::new(Policy::Fair, 4);
    let limited = QueryOptions {
        time_limit: Some(TimeLimit {
            left: Duration::from_secs(40),
            failure: Failure::new(FailureKind::Deadline, "too late"),
        }),
        ..QueryOptions::default()
    };
    let urgent = shop.submit(1, 10_000, ms(20), limited);
    shop.submit(2, 10_000, ms(20), QueryOptions::default());
    shop.run_until(Duration::from_secs(20));
    let even = shop.used(&[urgent]);
    assert!((even - 40.0).abs() < 2.0, "{even}");
    shop.tell(Event::Tick);
    shop.run_until(Duration::from_secs(30));
    let more = shop.used(&[urgent]) - even;
    assert!(more > 25.0, "{more} of 40 seconds");
}
