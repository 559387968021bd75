//! The simulation proves something only if it is the same each time, and differs when what it runs differs.

use super::workload::arrivals;
use super::world::paces;
use super::*;

/// A report as `--json` writes it.
pub(in super::super) fn sample() -> impl Serialize {
    let run = Run {
        workers: 4,
        policy: Policy::Stride.to_string(),
        figures: figures("--queries 10", Policy::Stride),
    };
    Simulated { runs: vec![run] }
}

fn args(flags: &str) -> SimulateArgs {
    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: SimulateArgs,
    }
    let words = std::iter::once("simulate").chain(flags.split_whitespace());
    <Cli as clap::Parser>::parse_from(words).args
}

fn figures(flags: &str, policy: Policy) -> Figures {
    simulate(&args(flags), 4, policy).unwrap()
}

const FAULTY: &str = "--queries 300 --slots 4 --deaths 60 --breaks 0.02 --slow-workers 0.3";

#[test]
fn the_same_seed_gives_the_same_effects() {
    for policy in Policy::ALL {
        let digests: Vec<_> = (0..2).map(|_| figures(FAULTY, policy).digest).collect();
        assert_eq!(digests[0], digests[1], "{policy}");
    }
    let other = figures(&format!("{FAULTY} --seed 2"), Policy::Stride);
    assert_ne!(other.digest, figures(FAULTY, Policy::Stride).digest);
}

#[test]
fn faults_happen_and_every_query_ends() {
    let figures = figures(FAULTY, Policy::Stride);
    assert!(figures.repeated > 0, "{figures:?}");
    assert_eq!((figures.unfinished, figures.refused), (0, 0));
    assert_eq!(figures.all.queries, 300);
}

#[test]
fn short_queries_pass_long_ones_under_stride() {
    let flags = "--queries 400 --slots 4 --load 0.9";
    let [stride, fifo] = [Policy::Stride, Policy::Fifo].map(|policy| figures(flags, policy));
    assert!(
        stride.short.p99 * 3.0 < fifo.short.p99,
        "{} and {}",
        stride.short.p99,
        fifo.short.p99
    );
    assert!(stride.utilisation > 0.5, "{stride:?}");
}

#[test]
fn a_prioritised_query_is_as_fast_as_alone() {
    let flags = "--queries 60 --slots 1 --short 0.5 --burst --prioritised 2";
    let with = figures(flags, Policy::Stride);
    assert_eq!(with.prioritised.queries, 2);
    assert!(with.prioritised.max < 2.5, "{with:?}");
    assert!(with.prioritised.mean * 6.0 < with.all.mean, "{with:?}");
}

#[test]
fn arrivals_bring_the_load_that_was_asked_for() {
    let mix = Mix {
        short: 0.9,
        task: Duration::from_millis(250),
        recorded: None,
    };
    let queries = mix.queries(1, 5_000, 0);
    let total: Duration = queries.iter().map(workload::Work::total).sum();
    let last = *arrivals(1, &queries, 80, Some(0.5)).last().unwrap();
    let load = total.as_secs_f64() / (80.0 * last.as_secs_f64());
    assert!((load - 0.5).abs() < 0.03, "{load}");
    let long = queries.iter().filter(|query| query.is_long()).count();
    assert!((400..600).contains(&long), "{long}");
}

#[test]
fn recorded_queries_are_checked() {
    let good = r#"[[{"inputs": [], "tasks_ms": [10, 20.5]}, {"inputs": [0], "tasks_ms": [1]}]]"#;
    let recorded = Recorded::parse(good).unwrap();
    let mix = Mix {
        short: 0.0,
        task: Duration::ZERO,
        recorded: Some(recorded),
    };
    let work = &mix.queries(1, 1, 0)[0];
    assert_eq!(work.total(), Duration::from_micros(31_500));
    assert_eq!(work.alone(8), Duration::from_micros(21_500));
    assert_eq!(work.alone(1), Duration::from_micros(31_500));
    for bad in [
        "[]",
        "[[]]",
        r#"[[{"inputs": [0], "tasks_ms": [1]}]]"#,
        r#"[[{"inputs": [], "tasks_ms": []}]]"#,
    ] {
        assert!(Recorded::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn cores_are_shared_by_weight_and_none_is_left_idle() {
    assert_eq!(paces(2, &[(1.0, 1), (1.0, 1)]), [1.0, 1.0]);
    assert_eq!(paces(1, &[(1.0, 1), (1.0, 1)]), [0.5, 0.5]);
    assert_eq!(paces(1, &[(1.0, 1), (1.0 / 3.0, 1)]), [0.75, 0.25]);
    let shared = paces(2, &[(1.0, 1), (0.1, 1), (0.1, 1)]);
    assert_eq!(shared, [1.0, 0.5, 0.5], "the first cannot use more than its core");
}
