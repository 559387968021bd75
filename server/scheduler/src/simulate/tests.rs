//! The simulation is repeatable, differs when its inputs differ, and shows what the policies promise.

use std::time::Duration;

use super::worker::paces;
use super::*;
use crate::queue::policy::Policy;

const SPEC: ClusterSpec = ClusterSpec {
    workers: 4,
    slots: 4,
    policy: Policy::Stride,
    priority_decay: 2,
    estimates: Estimates::Rough,
    faults: Faults {
        slow_workers: 0.0,
        deaths_per_hour: 0.0,
        breaks: 0.0,
        pauses_per_hour: 0.0,
    },
    speculation: true,
};

const MIX: Mix = Mix {
    short: 0.9,
    task: Duration::from_millis(250),
    recorded: None,
};

fn faulty(policy: Policy) -> ClusterSpec {
    let faults = Faults {
        slow_workers: 0.3,
        deaths_per_hour: 60.0,
        breaks: 0.02,
        pauses_per_hour: 60.0,
    };
    ClusterSpec { policy, faults, ..SPEC }
}

/// Runs queries that arrive at a load of 0.9.
fn run(spec: &ClusterSpec, queries: u32, seed: u64) -> Outcome {
    let queries = MIX.queries(seed, queries, 0);
    let arrivals = arrivals(seed, &queries, spec.total_slots(), Some(0.9));
    VirtualCluster::new(spec, seed, queries, arrivals, |_, _| ()).run()
}

fn p99(slowdowns: &[f64]) -> f64 {
    let mut slowdowns = slowdowns.to_vec();
    slowdowns.sort_by(f64::total_cmp);
    slowdowns[slowdowns.len() * 99 / 100]
}

#[test]
fn equal_seeds_give_equal_effects() {
    for policy in Policy::ALL {
        let digests: Vec<_> = (0..2).map(|_| run(&faulty(policy), 300, 1).digest).collect();
        assert_eq!(digests[0], digests[1], "{policy}");
    }
    let [first, second] = [1, 2].map(|seed| run(&faulty(Policy::Stride), 300, seed).digest);
    assert_ne!(first, second);
}

#[test]
fn every_query_ends_despite_faults() {
    for seed in 1..5 {
        let outcome = run(&faulty(Policy::Stride), 300, seed);
        assert!(outcome.recoveries > 0, "{outcome:?}");
        assert_eq!((outcome.unfinished, outcome.refused), (0, 0));
        assert_eq!(outcome.short.len() + outcome.long.len(), 300);
    }
}

/// Most pauses are over before the grace is: they cost time and no work.
#[test]
fn pauses_cost_less_than_deaths() {
    let with = |faults| run(&ClusterSpec { faults, ..SPEC }, 300, 1);
    let pauses = with(Faults {
        pauses_per_hour: 60.0,
        ..Faults::default()
    });
    let deaths = with(Faults {
        deaths_per_hour: 60.0,
        ..Faults::default()
    });
    assert_eq!((pauses.unfinished, pauses.refused), (0, 0));
    assert!(deaths.lost_attempts > 2 * pauses.lost_attempts, "{pauses:?} {deaths:?}");
}

#[test]
fn short_queries_overtake_long_under_stride() {
    let [stride, fifo] = [Policy::Stride, Policy::Fifo].map(|policy| run(&ClusterSpec { policy, ..SPEC }, 400, 1));
    let (of_stride, of_fifo) = (p99(&stride.short), p99(&fifo.short));
    assert!(of_stride * 3.0 < of_fifo, "{of_stride} and {of_fifo}");
    let used = stride.busy.as_secs_f64() / (SPEC.total_slots() as f64 * stride.makespan.as_secs_f64());
    assert!(used > 0.5, "{used}");
}

#[test]
fn prioritised_query_runs_almost_isolated() {
    let spec = ClusterSpec { slots: 1, ..SPEC };
    let mix = Mix { short: 0.5, ..MIX };
    let queries = mix.queries(1, 60, 2);
    let arrivals = arrivals(1, &queries, spec.total_slots(), None);
    let outcome = VirtualCluster::new(&spec, 1, queries, arrivals, |_, _| ()).run();
    assert_eq!(outcome.prioritised.len(), 2);
    let mean = |slowdowns: &[f64]| slowdowns.iter().sum::<f64>() / slowdowns.len() as f64;
    let all = [&outcome.short[..], &outcome.long, &outcome.prioritised].concat();
    assert!(
        outcome.prioritised.iter().all(|slowdown| *slowdown < 2.5),
        "{outcome:?}"
    );
    assert!(mean(&outcome.prioritised) * 6.0 < mean(&all), "{outcome:?}");
}

#[test]
fn arrivals_bring_the_requested_load() {
    let queries = MIX.queries(1, 5_000, 0);
    let total: Duration = queries.iter().map(Work::total).sum();
    let last = *arrivals(1, &queries, 80, Some(0.5)).last().unwrap();
    let load = total.as_secs_f64() / (80.0 * last.as_secs_f64());
    assert!((load - 0.5).abs() < 0.03, "{load}");
    let long = queries.iter().filter(|query| query.is_long()).count();
    assert!((400..600).contains(&long), "{long}");
}

#[test]
fn cores_are_shared_by_weight() {
    assert_eq!(paces(2, &[(1.0, 1), (1.0, 1)]), [1.0, 1.0]);
    assert_eq!(paces(1, &[(1.0, 1), (1.0, 1)]), [0.5, 0.5]);
    assert_eq!(paces(1, &[(1.0, 1), (1.0 / 3.0, 1)]), [0.75, 0.25]);
    let shared = paces(2, &[(1.0, 1), (0.1, 1), (0.1, 1)]);
    assert_eq!(shared, [1.0, 0.5, 0.5], "the first cannot use more than its core");
}
