//! Who gets how much: the scheduler with one worker that runs tasks for as long as they take, in virtual time.

use std::collections::BTreeMap;

use proptest::prelude::*;
use squadron_proto::AttemptKey;
use squadron_proto::control::AttemptStatus;

use super::testing::{graph, some_output, stage, worker};
use super::*;
use crate::workers::WorkerKind;

/// One worker, and who used it.
struct Shop {
    scheduler: Scheduler,
    now: Duration,
    /// What ends when.
    running: BTreeMap<(Duration, AttemptKey), Duration>,
    takes: BTreeMap<QueryId, Duration>,
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
    fn submit(&mut self, id: u128, tasks: u32, takes: Duration, traits: QueryTraits) -> QueryId {
        let mut graph = graph(id, vec![stage(0, &[], tasks), stage(1, &[0], 1)]);
        for task in &mut graph.stages[0].tasks {
            task.bytes = takes.as_millis() as u64 * 200_000;
        }
        graph.traits = traits;
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
            for status in [
                AttemptStatus::Reserved,
                AttemptStatus::Running,
                AttemptStatus::Finished(some_output()),
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

fn tagged(tag: &str) -> QueryTraits {
    QueryTraits {
        tag: Some(tag.into()),
        ..QueryTraits::default()
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
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

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
    fn nobody_starves(
        policy in prop::sample::select(&[Policy::Stride, Policy::Fair][..]),
        short_ms in 1..30_u64,
        overload in 1.0..1.5_f64,
        long_tasks_ms in 10..500_u64,
    ) {
        let mut shop = Shop::new(policy, 2);
        let long = shop.submit(0, 100_000, ms(long_tasks_ms), QueryTraits::default());
        let between = ms(short_ms).div_f64(2.0 * overload);
        let mut id = 1;
        let mut at = Duration::ZERO;
        while at < Duration::from_secs(60) && id < 8_000 {
            at += between;
            shop.run_until(at);
            let most_preferred = QueryTraits { priority: 100, ..QueryTraits::default() };
            shop.submit(id, 1, ms(short_ms), most_preferred);
            id += 1;
        }
        // Every fourth place goes to whoever has waited for ten seconds, the oldest first.
        let waiting = (id as usize - shop.ended.len()) as u32;
        let bound = Limits::default().rescue_timeout + ms(short_ms.max(long_tasks_ms)) * 4 * (waiting + 2);
        let waited = shop.longest_wait[&long].max(shop.now - shop.served[&long]);
        prop_assert!(waited <= bound, "{:?} of {:?}", waited, bound);
    }
}

#[test]
fn priority_is_a_share() {
    for policy in [Policy::Stride, Policy::Fair] {
        let mut shop = Shop::new(policy, 6);
        let queries = [0, 10].map(|priority| {
            let traits = QueryTraits {
                priority,
                ..QueryTraits::default()
            };
            let id = u128::try_from(priority).unwrap();
            let mut graph = graph(id, vec![stage(0, &[], 5_000), stage(1, &[0], 1)]);
            // As large as it is, so that its weight does not change on the way.
            for task in &mut graph.stages[0].tasks {
                task.bytes = 10_000_000;
            }
            graph.traits = traits;
            shop.takes.insert(graph.query, ms(50));
            shop.served.insert(graph.query, shop.now);
            let query = graph.query;
            shop.tell(Event::Submit(graph));
            query
        });
        shop.run_until(Duration::from_secs(20));
        let ratio = shop.used(&queries[1..]) / shop.used(&queries[..1]);
        assert!((ratio / 2.0 - 1.0).abs() < 0.05, "{policy}: {ratio}");
    }
}

#[test]
fn the_smaller_of_two_predicted_queries_comes_first() {
    let order = |policy| {
        let mut shop = Shop::new(policy, 1);
        let busy = shop.submit(0, 1, ms(10), QueryTraits::default());
        for (id, bytes) in [(1, 4_000_000_000_u64), (2, 40_000_000)] {
            let mut graph = graph(id, vec![stage(0, &[], 4), stage(1, &[0], 1)]);
            for task in &mut graph.stages[0].tasks {
                task.bytes = bytes / 4;
            }
            let query = graph.query;
            shop.takes
                .insert(query, Duration::from_micros(bytes / 4 / 200));
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
    let known = |fingerprint| QueryTraits {
        fingerprint: Some(fingerprint),
        ..QueryTraits::default()
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
fn a_group_may_not_begin_more_than_its_cpu_share() {
    let mut shop = Shop::new(Policy::Stride, 8);
    let mut half = group("a", 100);
    half.cpu_share_percent = Some(25);
    shop.tell(Event::Regroup(
        Groups::new(vec![half, group("b", 1)]).unwrap(),
    ));
    let capped = shop.submit(1, 10_000, ms(20), tagged("a"));
    shop.run_until(Duration::from_secs(10));
    let part = shop.used(&[capped]) / (8.0 * 10.0);
    assert!(
        (part - 0.25).abs() < 0.01,
        "{part} although the rest is idle"
    );
    let other = shop.submit(2, 10_000, ms(20), tagged("b"));
    shop.run_until(Duration::from_secs(20));
    let part = shop.used(&[other]) / (8.0 * 10.0);
    assert!((part - 0.75).abs() < 0.02, "{part}");
}

#[test]
fn time_that_runs_short_raises_the_weight() {
    let mut shop = Shop::new(Policy::Fair, 4);
    let limited = QueryTraits {
        time_limit: Some(TimeLimit {
            left: Duration::from_secs(40),
            failure: Failure::new(FailureKind::Deadline, "too late"),
        }),
        ..QueryTraits::default()
    };
    let urgent = shop.submit(1, 10_000, ms(20), limited);
    shop.submit(2, 10_000, ms(20), QueryTraits::default());
    shop.run_until(Duration::from_secs(20));
    let even = shop.used(&[urgent]);
    assert!((even - 40.0).abs() < 2.0, "{even}");
    shop.tell(Event::Tick);
    shop.run_until(Duration::from_secs(30));
    let more = shop.used(&[urgent]) - even;
    assert!(more > 25.0, "{more} of 40 seconds");
}
