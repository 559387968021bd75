//! How queries and groups share slots: the scheduler with one worker that runs tasks in virtual time.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use squadron_proto::control::AttemptStatus;
use squadron_proto::{AttemptKey, Failure, FailureKind, QueryId, WorkerKind};

use crate::testing::{graph, some_output, stage, worker};
use crate::*;

/// The scheduler with one worker, and how long each query used and waited for it.
struct FakeCluster {
    scheduler: Scheduler,
    now: Duration,
    /// The running attempts by their ends, and how long each takes.
    running: BTreeMap<(Duration, AttemptKey), Duration>,
    /// How long each task of a query takes.
    takes: BTreeMap<QueryId, Duration>,
    /// The fraction of its slot time in which a query's attempts use a processor, if they report it.
    busy: BTreeMap<QueryId, f64>,
    used: BTreeMap<QueryId, Duration>,
    /// When each query was scheduled last, or else submitted.
    scheduled: BTreeMap<QueryId, Duration>,
    /// The longest time that each query waited for a launch.
    longest_wait: BTreeMap<QueryId, Duration>,
    ended: BTreeMap<QueryId, Duration>,
}

impl FakeCluster {
    fn new(policy: Policy, slots: u32) -> Self {
        let limits = Limits {
            policy,
            admission: AdmissionLimits {
                max_running: usize::MAX,
                max_per_session: usize::MAX,
                ..AdmissionLimits::default()
            },
            ..Limits::default()
        };
        let mut cluster = Self {
            scheduler: Scheduler::new(limits),
            now: Duration::ZERO,
            running: BTreeMap::new(),
            takes: BTreeMap::new(),
            busy: BTreeMap::new(),
            used: BTreeMap::new(),
            scheduled: BTreeMap::new(),
            longest_wait: BTreeMap::new(),
            ended: BTreeMap::new(),
        };
        cluster.send(Event::WorkerJoined {
            worker: worker(1),
            slots,
            address: "http://w".to_owned(),
            memory_bytes: 1 << 30,
            kind: WorkerKind::Remote,
        });
        cluster
    }

    /// Submits a query of so many tasks that run one by one or together, each for `takes`, as predicted; its result
    /// takes no time.
    fn submit(&mut self, id: u128, tasks: u32, takes: Duration, options: QueryOptions) -> QueryId {
        let mut graph = graph(id, vec![stage(0, &[], tasks), stage(1, &[0], 1)]);
        for task in &mut graph.stages[0].tasks {
            task.bytes = takes.as_millis() as u64 * 200_000;
        }
        graph.options = options;
        let query = graph.query;
        self.takes.insert(query, takes);
        self.scheduled.insert(query, self.now);
        self.send(Event::Submit(graph));
        query
    }

    fn send(&mut self, event: Event) {
        for effect in self.scheduler.apply(self.now, event) {
            match effect {
                Effect::Launch { launch, .. } => self.launch(launch.attempt),
                Effect::ResultReady { query, .. } => self.send(Event::ResultDone { query }),
                Effect::Ended { query, outcome, .. } => {
                    outcome.expect("nothing fails here");
                    self.ended.insert(query, self.now);
                }
                Effect::SendStage { .. }
                | Effect::Commit { .. }
                | Effect::CancelAttempt { .. }
                | Effect::Release { .. }
                | Effect::Released { .. }
                | Effect::WorkerGivenUp { .. }
                | Effect::Spare { .. }
                | Effect::SecondAttempt { .. }
                | Effect::Recovering { .. }
                | Effect::WorkerAvoided { .. }
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
        let waited = self.now - self.scheduled.insert(query, self.now).unwrap();
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
                self.send(Event::Report {
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
        ..GroupSpec::new(name)
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn groups_share_slots_by_weight(
        policy in prop::sample::select(&Policy::ALL[..]),
        weights in prop::collection::vec(1..10_u32, 2..4),
        tasks_ms in prop::collection::vec(10..80_u64, 4),
        queries in prop::collection::vec(1..4_u128, 4),
    ) {
        let mut cluster = FakeCluster::new(policy, 4);
        let names = ["a", "b", "c", "d"];
        let specs = names.iter().zip(&weights).map(|(name, &weight)| group(name, weight));
        cluster.send(Event::Regroup(Groups::new(specs.collect()).unwrap()));
        let mut queries_of_group = Vec::new();
        for (number, _) in weights.iter().enumerate() {
            let ids = (0..queries[number]).map(|query| {
                let id = number as u128 * 10 + query;
                cluster.submit(id, 20_000, ms(tasks_ms[number]), tagged(names[number]))
            });
            queries_of_group.push(ids.collect::<Vec<_>>());
        }
        cluster.run_until(Duration::from_secs(5));
        let before: Vec<_> = queries_of_group.iter().map(|queries| cluster.used(queries)).collect();
        cluster.run_until(Duration::from_secs(45));
        let used = queries_of_group.iter().zip(before).map(|(queries, before)| cluster.used(queries) - before);
        let used: Vec<_> = used.collect();
        let total: f64 = used.iter().sum();
        let all: u32 = weights.iter().sum();
        for (used, &weight) in used.iter().zip(&weights) {
            let (part, due) = (used / total, f64::from(weight) / f64::from(all));
            prop_assert!((part / due - 1.0).abs() < 0.05, "{} instead of {}", part, due);
        }
    }

    #[test]
    fn queries_share_slots_by_priority(
        policy in prop::sample::select(&[Policy::Stride, Policy::Fair][..]),
        queries in prop::collection::vec((-20..=10_i32, 10..80_u64), 2..5),
    ) {
        let mut cluster = FakeCluster::new(policy, 5);
        // So large that no query ends and no weight falls any further.
        let submit = |(id, (priority, takes_ms))| {
            let options = QueryOptions { priority, ..QueryOptions::default() };
            cluster.submit(id, 250_000 / takes_ms as u32, ms(takes_ms), options)
        };
        let ids: Vec<_> = (0..).zip(queries.clone()).map(submit).collect();
        cluster.run_until(Duration::from_secs(5));
        let before: Vec<_> = ids.iter().map(|id| cluster.used(&[*id])).collect();
        cluster.run_until(Duration::from_secs(45));
        let used: Vec<_> = ids.iter().zip(before).map(|(id, before)| cluster.used(&[*id]) - before).collect();
        let weight = |priority: i32| (f64::from(priority) / 10.0).exp2();
        let all: f64 = queries.iter().map(|&(priority, _)| weight(priority)).sum();
        for (used, (priority, _)) in used.iter().zip(&queries) {
            let (part, due) = (used / (5.0 * 40.0), weight(*priority) / all);
            prop_assert!((part / due - 1.0).abs() < 0.05, "{} instead of {}", part, due);
        }
    }

    #[test]
    fn every_query_runs_within_bounds(
        policy in prop::sample::select(&Policy::ALL[..]),
        slots in 1..5_u32,
        decay in 0..=4_u32,
        weights in prop::collection::vec(1..1_000_u32, 2),
        queries in prop::collection::vec((0..20_000_u64, 1..60_u32, 1..400_u64, -100..=100_i32, 0..3_usize), 1..40),
    ) {
        let mut cluster = FakeCluster::new(policy, slots);
        cluster.scheduler.limits.priority_decay = decay;
        let specs = ["a", "b"].iter().zip(&weights).map(|(name, &weight)| group(name, weight));
        cluster.send(Event::Regroup(Groups::new(specs.collect()).unwrap()));
        let mut queries = queries;
        queries.sort_unstable();
        let mut ids = Vec::new();
        let mut idle_at_the_latest = Duration::ZERO;
        for (id, &(at_ms, tasks, takes_ms, priority, tag)) in (0..).zip(&queries) {
            cluster.run_until(ms(at_ms));
            let options = QueryOptions { priority, ..tagged(["a", "b", "none"][tag]) };
            ids.push(cluster.submit(id, tasks, ms(takes_ms), options));
            let work = ms(takes_ms) * tasks / slots + 3 * ms(takes_ms);
            idle_at_the_latest = idle_at_the_latest.max(ms(at_ms)) + work;
        }
        cluster.run_until(idle_at_the_latest);
        let longest_task = ms(queries.iter().map(|query| query.2).max().unwrap_or_default());
        // Every fourth launch is of the query that has waited longest, if it has waited for the starvation timeout.
        let turns = 4 * (queries.len() as u32 + 2);
        let bound = Limits::default().starvation_timeout + longest_task * turns;
        for id in ids {
            prop_assert!(cluster.ended.contains_key(&id), "{} has not ended", id);
            prop_assert!(cluster.longest_wait[&id] <= bound, "{:?} of {:?}", cluster.longest_wait[&id], bound);
        }
    }

    #[test]
    fn preferred_stream_does_not_starve_others(
        policy in prop::sample::select(&Policy::ALL[..]),
        short_ms in 5..30_u64,
        overload in 1.0..1.1_f64,
        long_tasks_ms in 10..500_u64,
    ) {
        let mut cluster = FakeCluster::new(policy, 2);
        let least_preferred = QueryOptions { priority: -100, ..QueryOptions::default() };
        let long = cluster.submit(0, 100_000, ms(long_tasks_ms), least_preferred);
        let between = ms(short_ms).div_f64(2.0 * overload);
        let mut id = 1;
        let mut at = Duration::ZERO;
        while at < Duration::from_secs(20) {
            at += between;
            cluster.run_until(at);
            let most_preferred = QueryOptions { priority: 100, ..QueryOptions::default() };
            cluster.submit(id, 1, ms(short_ms), most_preferred);
            id += 1;
        }
        // No other query is starved by then, so every fourth launch is of this one from the starvation timeout on.
        let bound = Limits::default().starvation_timeout + 5 * ms(short_ms.max(long_tasks_ms));
        let waited = cluster.longest_wait[&long].max(cluster.now - cluster.scheduled[&long]);
        prop_assert!(waited <= bound, "{:?} of {:?}", waited, bound);
    }
}

#[test]
fn starved_long_tasks_do_not_delay_short() {
    let mut cluster = FakeCluster::new(Policy::Stride, 2);
    // Slightly more work than two slots can do.
    let between = Duration::from_micros(9_800);
    let short = |cluster: &mut FakeCluster, id| cluster.submit(id, 1, ms(20), QueryOptions::default());
    let mut shorts = vec![short(&mut cluster, 2), short(&mut cluster, 3)];
    let long_task = Duration::from_secs(15);
    let long = [0, 1].map(|id| cluster.submit(id, 1, long_task, QueryOptions::default()));
    let starvation_timeout = Limits::default().starvation_timeout;
    let mut used_before = None;
    for number in 1.. {
        let at = between * number;
        if at > starvation_timeout + long_task {
            break;
        }
        cluster.run_until(at);
        if at >= starvation_timeout {
            used_before.get_or_insert_with(|| cluster.used(&shorts));
        }
        shorts.push(short(&mut cluster, 10 + u128::from(number)));
    }
    for id in long {
        let waited = cluster.longest_wait[&id];
        assert!(
            (starvation_timeout..starvation_timeout + ms(500)).contains(&waited),
            "{waited:?}"
        );
    }
    let used = cluster.used(&shorts) - used_before.expect("it took longer");
    let both_slots = 2.0 * long_task.as_secs_f64();
    assert!(used > 0.99 * both_slots, "{used} of {both_slots} seconds");
}

#[test]
fn reported_cpu_time_decides_shares() {
    for (busy, expected) in [([1.0, 0.25], 4.0), ([0.5, 0.5], 1.0)] {
        let mut cluster = FakeCluster::new(Policy::Fair, 5);
        let queries = [0, 1].map(|id| cluster.submit(id, 10_000, ms(20), QueryOptions::default()));
        cluster.busy.extend(queries.into_iter().zip(busy));
        cluster.run_until(Duration::from_secs(20));
        let ratio = cluster.used(&queries[1..]) / cluster.used(&queries[..1]);
        assert!((ratio / expected - 1.0).abs() < 0.05, "{busy:?}: {ratio}");
    }
}

#[test]
fn late_query_shares_equally_at_once() {
    for (groups, tags) in [(vec![], ["", ""]), (vec![group("a", 1), group("b", 1)], ["a", "b"])] {
        let mut cluster = FakeCluster::new(Policy::Fair, 4);
        cluster.send(Event::Regroup(Groups::new(groups).unwrap()));
        let first = cluster.submit(0, 20_000, ms(20), tagged(tags[0]));
        cluster.run_until(Duration::from_secs(20));
        let before = cluster.used(&[first]);
        let second = cluster.submit(1, 20_000, ms(20), tagged(tags[1]));
        cluster.run_until(Duration::from_secs(24));
        let used = [cluster.used(&[first]) - before, cluster.used(&[second])];
        assert!(used.iter().all(|used| (used - 8.0).abs() < 0.5), "{used:?}");
    }
}

#[test]
fn wrong_prediction_is_corrected() {
    for factor in [1_000, 0] {
        let mut cluster = FakeCluster::new(Policy::Fair, 4);
        let right = cluster.submit(0, 10_000, ms(20), QueryOptions::default());
        let mut graph = graph(1, vec![stage(0, &[], 10_000), stage(1, &[0], 1)]);
        for task in &mut graph.stages[0].tasks {
            task.bytes = factor * 20 * 200_000;
        }
        let wrong = graph.query;
        cluster.takes.insert(wrong, ms(20));
        cluster.scheduled.insert(wrong, cluster.now);
        cluster.send(Event::Submit(graph));
        cluster.run_until(Duration::from_secs(10));
        let used = [cluster.used(&[right]), cluster.used(&[wrong])];
        assert!(used.iter().all(|used| (used - 20.0).abs() < 1.0), "{used:?}");
    }
}

#[test]
fn decay_sets_share_of_large_query() {
    let share_of_the_small = |decay| {
        let mut cluster = FakeCluster::new(Policy::Stride, 1);
        cluster.scheduler.limits.priority_decay = decay;
        // Both in one lane, one four times as large.
        let [small, large] =
            [(0, 600), (1, 2_400)].map(|(id, tasks)| cluster.submit(id, tasks, ms(5), QueryOptions::default()));
        cluster.run_until(ms(2_500));
        cluster.used(&[small]) / cluster.used(&[small, large])
    };
    for (decay, expected) in [(0, 0.5), (1, 0.8), (2, 16.0 / 17.0)] {
        let share = share_of_the_small(decay);
        assert!((share - expected).abs() < 0.02, "{decay}: {share}");
    }
}

#[test]
fn smaller_predicted_query_comes_first() {
    let order = |policy| {
        let mut cluster = FakeCluster::new(policy, 1);
        let busy = cluster.submit(0, 1, ms(10), QueryOptions::default());
        for (id, bytes) in [(1, 4_000_000_000_u64), (2, 40_000_000)] {
            let mut graph = graph(id, vec![stage(0, &[], 4), stage(1, &[0], 1)]);
            for task in &mut graph.stages[0].tasks {
                task.bytes = bytes / 4;
            }
            let query = graph.query;
            cluster.takes.insert(query, Duration::from_micros(bytes / 4 / 200));
            cluster.scheduled.insert(query, cluster.now);
            cluster.send(Event::Submit(graph));
        }
        cluster.run_until(Duration::from_secs(30));
        assert!(cluster.ended.contains_key(&busy));
        [1, 2].map(|id| cluster.ended[&QueryId::from_u128(id)])
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
fn measured_plan_predicts_its_cost() {
    let mut cluster = FakeCluster::new(Policy::Stride, 1);
    let known = |fingerprint| QueryOptions {
        fingerprint: Some(fingerprint),
        ..QueryOptions::default()
    };
    cluster.submit(1, 20, ms(100), known(1));
    cluster.run_until(Duration::from_secs(10));
    cluster.submit(2, 1, ms(10), known(2));
    cluster.run_until(Duration::from_secs(20));
    let busy = cluster.submit(3, 1, ms(10), known(3));
    let long = cluster.submit(4, 20, ms(100), known(1));
    let short = cluster.submit(5, 1, ms(10), known(2));
    cluster.run_until(Duration::from_secs(30));
    assert!(cluster.ended.contains_key(&busy));
    assert!(cluster.ended[&short] < Duration::from_secs(20) + ms(50));
    assert!(cluster.ended[&long] > cluster.ended[&short]);
}

#[test]
fn plan_cost_is_cpu_time() {
    let mut cluster = FakeCluster::new(Policy::Stride, 1);
    let known = |fingerprint| QueryOptions {
        fingerprint: Some(fingerprint),
        ..QueryOptions::default()
    };
    let waits = cluster.submit(1, 20, ms(100), known(1));
    cluster.busy.insert(waits, 0.001);
    cluster.run_until(Duration::from_secs(10));
    cluster.submit(2, 2, ms(100), known(2));
    cluster.run_until(Duration::from_secs(20));
    let busy = cluster.submit(3, 1, ms(10), known(3));
    let computes = cluster.submit(4, 2, ms(100), known(2));
    let waits = cluster.submit(5, 20, ms(100), known(1));
    cluster.busy.insert(waits, 0.001);
    cluster.run_until(Duration::from_secs(30));
    assert!(cluster.ended.contains_key(&busy));
    assert!(
        cluster.ended[&waits] < cluster.ended[&computes],
        "it held its slots for ten times as long and used less"
    );
}

#[test]
fn group_stays_within_cpu_share() {
    let mut cluster = FakeCluster::new(Policy::Stride, 8);
    let mut half = group("a", 100);
    half.cpu_share_percent = Some(25);
    cluster.send(Event::Regroup(Groups::new(vec![half, group("b", 1)]).unwrap()));
    let capped = cluster.submit(1, 10_000, ms(20), tagged("a"));
    cluster.run_until(Duration::from_secs(10));
    let part = cluster.used(&[capped]) / (8.0 * 10.0);
    assert!((part - 0.25).abs() < 0.01, "{part} although the rest is idle");
    let other = cluster.submit(2, 10_000, ms(20), tagged("b"));
    cluster.run_until(Duration::from_secs(20));
    let part = cluster.used(&[other]) / (8.0 * 10.0);
    assert!((part - 0.75).abs() < 0.02, "{part}");
}

#[test]
fn near_time_limit_raises_weight() {
    let mut cluster = FakeCluster::new(Policy::Fair, 4);
    let limited = QueryOptions {
        time_limit: Some(TimeLimit {
            left: Duration::from_secs(40),
            failure: Failure::new(FailureKind::Deadline, "too late"),
        }),
        ..QueryOptions::default()
    };
    let urgent = cluster.submit(1, 10_000, ms(20), limited);
    cluster.submit(2, 10_000, ms(20), QueryOptions::default());
    cluster.run_until(Duration::from_secs(20));
    let even = cluster.used(&[urgent]);
    assert!((even - 40.0).abs() < 2.0, "{even}");
    cluster.send(Event::Tick);
    cluster.run_until(Duration::from_secs(30));
    let more = cluster.used(&[urgent]) - even;
    assert!(more > 25.0, "{more} of 40 seconds");
}
