use std::collections::BTreeSet;

use clap::CommandFactory;
use serde_json::Value;

use super::*;

const DOCUMENT: &str = include_str!("../../../docs/benchmarks.md");

fn keys(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                found.insert(key.clone());
                keys(value, found);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| keys(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Keys of a report as `--json` writes it, with the default options of the command.
fn report_keys(benchmark: &'static str, figures: impl Serialize) -> BTreeSet<String> {
    let options = match Cli::parse_from(["squadron-bench", benchmark]).command {
        Command::Tpch(args) => serde_json::to_value(args),
        Command::Tpcds(args) => serde_json::to_value(args),
        Command::Ssb(args) => serde_json::to_value(args),
        Command::Latency(args) => serde_json::to_value(args),
        Command::Stream(args) => serde_json::to_value(args),
        Command::Memory(args) => serde_json::to_value(args),
        Command::Mixed(args) => serde_json::to_value(args),
        Command::Burst(args) => serde_json::to_value(args),
        Command::Cancel(args) => serde_json::to_value(args),
        Command::Soak(args) => serde_json::to_value(args),
        Command::Chaos(args) => serde_json::to_value(args),
        Command::Dispatch(args) => serde_json::to_value(args),
        Command::Simulate(args) => serde_json::to_value(args),
        Command::Plain(_) => panic!("`plain` writes no report"),
    };
    let report = serde_json::json!({
        "benchmark": benchmark,
        "machine": Machine::detect(),
        "versions": Versions::with(String::new()),
        "options": options.unwrap(),
        "figures": figures,
    });
    let mut found = BTreeSet::new();
    keys(&report, &mut found);
    // Flattened into the report.
    found.remove("figures");
    found
}

#[test]
fn every_json_key_is_documented() {
    let mut found = BTreeSet::new();
    found.extend(report_keys("tpch", suite::figures::tests::sample()));
    found.extend(report_keys("tpcds", suite::figures::tests::sample()));
    found.extend(report_keys("latency", latency::tests::sample()));
    found.extend(report_keys("stream", stream::tests::sample()));
    found.extend(report_keys("memory", memory::tests::sample()));
    found.extend(report_keys("mixed", mixed::tests::sample()));
    found.extend(report_keys("burst", burst::tests::sample()));
    found.extend(report_keys("cancel", cancel::tests::sample()));
    found.extend(report_keys("soak", soak::tests::sample()));
    found.extend(report_keys("chaos", chaos::tests::sample()));
    found.extend(report_keys("dispatch", dispatch::tests::sample()));
    found.extend(report_keys("simulate", simulate::tests::sample()));
    assert!(found.contains("total_duckdb") && found.contains("p99_ms") && found.contains("cache_dir"));
    let missing: Vec<_> = found
        .iter()
        .filter(|key| !DOCUMENT.contains(&format!("`{key}`")))
        .collect();
    assert!(missing.is_empty(), "docs/benchmarks.md does not explain {missing:?}");
}

#[test]
fn every_flag_is_documented() {
    for subcommand in Cli::command()
        .get_subcommands()
        .filter(|subcommand| !subcommand.is_hide_set())
    {
        assert!(DOCUMENT.contains(&format!("squadron-bench {}", subcommand.get_name())));
        for flag in subcommand.get_arguments().filter_map(clap::Arg::get_long) {
            assert!(
                DOCUMENT.contains(&format!("--{flag}")),
                "docs/benchmarks.md does not explain --{flag}"
            );
        }
    }
}

#[test]
fn documented_command_lines_parse() {
    Cli::command().debug_assert();
    for line in DOCUMENT
        .lines()
        .filter_map(|line| line.strip_prefix("target/release/squadron-bench "))
    {
        let words = std::iter::once("squadron-bench").chain(line.split_whitespace());
        assert!(Cli::try_parse_from(words).is_ok(), "{line}");
    }
    assert!(Cli::try_parse_from(["squadron-bench", "tpch", "--queries", "23"]).is_err());
    assert!(Cli::try_parse_from(["squadron-bench", "tpcds", "--queries", "100"]).is_err());
    assert!(Cli::try_parse_from(["squadron-bench", "tpch", "--slots", "0"]).is_err());
}
