//! Tests of flags and files; the simulation itself is tested in the scheduler's crate.

use squadron_scheduler::simulate::Work;

use super::recorded::parse;
use super::*;

/// A report as `--json` writes it.
pub(crate) fn sample() -> impl Serialize {
    let run = Run {
        workers: 4,
        policy: Policy::Stride.to_string(),
        figures: simulate(&args("--queries 10"), 4, Policy::Stride).unwrap(),
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

#[test]
fn flags_reach_the_simulation() {
    let flags = "--queries 200 --slots 4 --deaths 60 --breaks 0.02 --slow-workers 0.3";
    let figures = |flags: &str| simulate(&args(flags), 4, Policy::Stride).unwrap();
    let faulty = figures(flags);
    assert!(faulty.recoveries > 0, "{faulty:?}");
    assert_eq!((faulty.unfinished, faulty.all.queries), (0, 200));
    for other in [
        "--seed 2",
        "--estimates exact",
        "--short 0.5",
        "--task-ms 50",
        "--load 0.5",
        "--burst",
    ] {
        assert_ne!(figures(&format!("{flags} {other}")).digest, faulty.digest, "{other}");
    }
}

#[test]
fn recorded_queries_are_checked() {
    let good = r#"[[{"inputs": [], "tasks_ms": [10, 20.5]}, {"inputs": [0], "tasks_ms": [1]}]]"#;
    let mix = Mix {
        short: 0.0,
        task: Duration::ZERO,
        recorded: Some(parse(good).unwrap()),
    };
    let work: &Work = &mix.queries(1, 1, 0)[0];
    assert_eq!(work.total(), Duration::from_micros(31_500));
    assert_eq!(work.isolated_time(8), Duration::from_micros(21_500));
    assert_eq!(work.isolated_time(1), Duration::from_micros(31_500));
    for bad in [
        "[]",
        "[[]]",
        r#"[[{"inputs": [0], "tasks_ms": [1]}]]"#,
        r#"[[{"inputs": [], "tasks_ms": []}]]"#,
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}
