//! Layers, defaults, refusals and the reference page.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use super::*;

fn parse_args(argv: &[&str], variables: &[(&str, &str)]) -> Result<Command, Stop> {
    let variables: HashMap<String, String> = variables
        .iter()
        .map(|(name, value)| ((*name).to_string(), (*value).to_string()))
        .collect();
    let argv = std::iter::once("squadron").chain(argv.iter().copied());
    parse(argv.map(OsString::from), move |name| variables.get(name).cloned())
}

fn parse_serve(argv: &[&str], variables: &[(&str, &str)]) -> ServeArgs {
    let argv: Vec<_> = std::iter::once("serve").chain(argv.iter().copied()).collect();
    match parse_args(&argv, variables) {
        Ok(Command::Serve(serve)) => *serve,
        other => panic!("{other:?}"),
    }
}

fn refusal(argv: &[&str], variables: &[(&str, &str)]) -> String {
    match parse_args(argv, variables) {
        Err(Stop::Refuse(sentence)) => sentence,
        other => panic!("{argv:?} was not refused: {other:?}"),
    }
}

fn toml_file(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("squadron.toml");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_string();
    (folder, path)
}

#[test]
fn defaults_match_the_contract() {
    let args = parse_serve(&[], &[]);
    assert_eq!(args.listen.to_string(), "127.0.0.1:50051");
    assert_eq!(args.embedded_workers, 1);
    assert_eq!(args.result_ttl, Duration::from_secs(60));
    assert_eq!(args.no_worker_timeout, Duration::from_secs(10));
    assert_eq!(args.drain_timeout, Duration::from_secs(30));
    assert_eq!(args.max_open_results, 256);
    assert_eq!(args.min_task_bytes, 1 << 20);
    assert_eq!(args.partition_bytes, 64 << 20);
    assert!(args.cluster_listen.is_none() && !args.insecure && !args.strict && args.data.is_empty());
}

#[test]
fn embedded_workers_share_cores_and_memory() {
    let args = parse_serve(&[], &[]);
    let cores = machine::cores();
    assert_eq!(args.work.slots(1), cores);
    assert_eq!(args.work.slots(cores * 2), 1, "never none");
    assert_eq!(args.work.memory_bytes(2), args.work.memory_bytes(1) / 2);
    assert!(args.work.memory_bytes(1) < machine::memory_bytes());
    let args = parse_serve(&["--slots", "3", "--memory", "1GiB"], &[]);
    assert_eq!((args.work.slots(2), args.work.memory_bytes(2)), (3, 1 << 30));
}

#[test]
fn flag_beats_variable_beats_file() {
    let (_folder, file) = toml_file("[serve]\nslots = 2\nresult_ttl = \"7s\"\nmax_open_results = 9\nstrict = true\n");
    let variables = [
        ("SQUADRON_SLOTS", "3"),
        ("SQUADRON_RESULT_TTL", "8s"),
        ("SQUADRON_CONFIG", file.as_str()),
    ];
    let args = parse_serve(&["--slots", "4"], &variables);
    assert_eq!(args.work.slots, Some(4), "the flag");
    assert_eq!(args.result_ttl, Duration::from_secs(8), "the variable");
    assert_eq!(args.max_open_results, 9, "the file");
    assert!(args.strict, "the file");
    assert_eq!(args.drain_timeout, Duration::from_secs(30), "the default");
    let args = parse_serve(&["--config", &file], &[]);
    assert_eq!(args.work.slots, Some(2));
}

#[test]
fn every_layer_gives_lists_and_switches() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let (_folder, file) = toml_file(&format!(
        "[serve]\ndata = [\"{path}\", \"t=s3://b/x/\"]\ninsecure = true\n"
    ));
    let args = parse_serve(&["--config", &file], &[]);
    assert_eq!(args.data.len(), 2);
    assert!(args.insecure);
    let args = parse_serve(
        &["--config", &file],
        &[("SQUADRON_DATA", path), ("SQUADRON_INSECURE", "false")],
    );
    assert_eq!(
        args.data,
        [DataSource::Path(PathBuf::from(path))],
        "a variable replaces the file's list"
    );
    assert!(!args.insecure);
    let args = parse_serve(&["--data", "u=s3://b/u/"], &[("SQUADRON_DATA", path)]);
    assert!(matches!(&args.data[..], [DataSource::Named { name, .. }] if name == "u"));
    let args = parse_serve(
        &["--listen", "0.0.0.0:0"],
        &[("SQUADRON_INSECURE", "1"), ("SQUADRON_SLOTS", "")],
    );
    assert!(args.insecure && args.work.slots.is_none(), "an empty variable is none");
}

#[test]
fn command_has_own_variables_and_table() {
    let (_folder, file) = toml_file("[serve]\nslots = 2\n[worker]\nslots = 5\n[sql]\nformat = \"csv\"\n");
    let command = parse_args(
        &["worker", "--config", &file],
        &[
            ("SQUADRON_SLOTS", "9"),
            ("SQUADRON_WORKER_SERVER", "http://127.0.0.1:7"),
        ],
    );
    let Ok(Command::Worker(worker)) = command else {
        panic!("{command:?}");
    };
    assert_eq!(worker.work.slots, Some(5));
    assert_eq!(
        worker.server.port(),
        Some(7),
        "a required flag may come from a variable"
    );
    let command = parse_args(
        &["sql", "--config", &file, "-c", "SELECT 1"],
        &[("SQUADRON_SQL_TOKEN", "t")],
    );
    let Ok(Command::Sql(sql)) = command else {
        panic!("{command:?}");
    };
    assert_eq!(sql.format, OutputFormat::Csv);
    assert_eq!(sql.command.as_deref(), Some("SELECT 1"));
    assert_eq!(sql.token.as_ref().map(Secret::reveal), Some("t"));
}

#[test]
fn typed_flag_overrides_excluded_variables() {
    let variables = [("SQUADRON_SQL_TOKEN", "t"), ("SQUADRON_SQL_COMMAND", "SELECT 1")];
    let command = parse_args(&["sql", "--user", "u", "--password", "p", "-f", "x.sql"], &variables);
    let Ok(Command::Sql(sql)) = command else {
        panic!("{command:?}");
    };
    assert!(sql.token.is_none() && sql.command.is_none());
}

/// Command lines that are refused, each with parts of its message.
const REFUSED: &[(&[&str], &[&str])] = &[
    (&["serve", "--slots", "0"], &["--slots 0 ", "at least 1"]),
    (&["serve", "--slots", "two"], &["--slots two ", "whole number"]),
    (
        &["serve", "--embedded-workers", "-1"],
        &["--embedded-workers -1 ", "give 0 to"],
    ),
    (
        &["serve", "--max-open-results", "0"],
        &["--max-open-results 0 ", "from 1 on"],
    ),
    (&["serve", "--memory", "4XB"], &["--memory 4XB ", "4GiB"]),
    (&["serve", "--memory", "1KB"], &["--memory 1KB ", "1MiB"]),
    (&["serve", "--result-ttl", "0"], &["--result-ttl 0 ", "at least 1ms"]),
    (
        &["serve", "--listen", "nowhere"],
        &["--listen nowhere ", "127.0.0.1:50051"],
    ),
    (
        &["serve", "--listen", "0.0.0.0:1"],
        &["--listen 0.0.0.0:1 ", "--users", "--insecure"],
    ),
    (
        &["serve", "--cluster-listen", "0.0.0.0:1"],
        &["--cluster-listen 0.0.0.0:1 ", "--cluster-secret"],
    ),
    (
        &["serve", "--cluster-secret", "@/no/file"],
        &["--cluster-secret @/no/file ", "readable"],
    ),
    (
        &["serve", "--data", "/no/such"],
        &["--data /no/such ", "does not exist"],
    ),
    (
        &["serve", "--data", "t=ftp://h/x"],
        &["--data t=ftp://h/x ", "use file, s3"],
    ),
    (&["serve", "--tpch", "0"], &["--tpch 0 ", "above 0"]),
    (&["serve", "--slost", "1"], &["--slost ", "--slots"]),
    (&["serve", "--listen"], &["--listen ", "value"]),
    (&["serve", "--strict", "--strict"], &["--strict ", "once"]),
    (&["serve", "--config", "/no/file"], &["--config /no/file ", "readable"]),
    (&["worker"], &["--server", "add it"]),
    (&["worker", "--server", "h"], &["--server h ", "port"]),
    (
        &["sql", "--format", "xml"],
        &["--format xml ", "table, csv, json, arrow"],
    ),
    (
        &["sql", "-c", "a", "-f", "b"],
        &["--command", "--file", "leave one out"],
    ),
    (&["sql", "--password", "p"], &["--user", "missing"]),
    (&["swerve"], &["swerve ", "serve, worker, sql or hash-password"]),
    (&["serve", "--tls-cert", "c"], &["--tls-key", "missing"]),
    (
        &["worker", "--server", "h:1", "--tls-key", "k"],
        &["--tls-cert", "missing"],
    ),
    (&[], &["squadron serve"]),
    (&["serve", "stray"], &["stray "]),
];

fn assert_refused(cases: &[(&[&str], &[&str])]) {
    for (argv, parts) in cases {
        let sentence = refusal(argv, &[]);
        assert!(!sentence.contains('\n'), "{argv:?}: {sentence}");
        for part in *parts {
            assert!(sentence.contains(part), "{argv:?}: {sentence:?} lacks {part:?}");
        }
    }
}

#[test]
fn refusal_names_flag_value_and_remedy() {
    assert_refused(REFUSED);
    let (_folder, bad_key) = toml_file("[serve]\nslotz = 1\n");
    let (_folder, bad_table) = toml_file("[server]\nslots = 1\n");
    let (_folder, bad_toml) = toml_file("[serve]\nslots = \n");
    let (_folder, bad_value) = toml_file("[serve]\nslots = 0\n");
    assert_refused(&[
        (&["serve", "--config", &bad_key], &["slotz", "slots"]),
        (&["serve", "--config", &bad_table], &["server", "[serve]"]),
        (&["serve", "--config", &bad_toml], &["line 2", "correct"]),
        (&["serve", "--config", &bad_value], &["slots in ", " 0 ", "at least 1"]),
    ]);
}

#[test]
fn refusal_names_the_variable() {
    let sentence = refusal(&["serve"], &[("SQUADRON_SLOTS", "0")]);
    assert!(sentence.starts_with("SQUADRON_SLOTS 0 "), "{sentence}");
    let sentence = refusal(&["serve"], &[("SQUADRON_STRICT", "perhaps")]);
    assert!(
        sentence.contains("SQUADRON_STRICT") && sentence.contains("perhaps"),
        "{sentence}"
    );
}

#[test]
fn authentication_or_insecure_opens_ports() {
    for opening in [&["--insecure"][..], &["--users", "u"], &["--tokens", "t"]] {
        let argv = [&["serve", "--listen", "0.0.0.0:1"], opening].concat();
        assert!(parse_args(&argv, &[]).is_ok(), "{opening:?}");
    }
    assert!(
        parse_args(
            &["serve", "--cluster-listen", "0.0.0.0:1", "--cluster-secret", "s"],
            &[]
        )
        .is_ok()
    );
    assert!(parse_args(&["serve", "--cluster-listen", "127.0.0.1:1"], &[]).is_ok());
}

#[test]
fn help_and_version_are_printed() {
    let Err(Stop::Show(version)) = parse_args(&["--version"], &[]) else {
        panic!();
    };
    assert_eq!(version.trim(), concat!("squadron ", env!("CARGO_PKG_VERSION")));
    let Err(Stop::Show(help)) = parse_args(&["serve", "--help"], &[("SQUADRON_SLOTS", "0")]) else {
        panic!("help is shown whatever else is wrong");
    };
    assert!(help.contains("SQUADRON_CLUSTER_LISTEN") && help.contains("--max-open-results"));
}

#[test]
fn reference_page_is_current() {
    let page = reference();
    for part in [
        "`--slots N`",
        "`SQUADRON_WORKER_SERVER`",
        "`SQUADRON_SQL_FORMAT`",
        "`64MiB`",
        "DIR\\|NAME=URL",
    ] {
        assert!(page.contains(part), "{part} is missing in:\n{page}");
    }
    assert!(!page.contains("generate-tpch") && !page.contains("[env: "));
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == page,
        "docs/configuration.md is not current; run `UPDATE_DOCS=1 cargo test reference_page`"
    );
}
