//! What must not be there: dependencies that run upwards, and the outside world in the pure machines.

use std::fs;
use std::path::{Path, PathBuf};

/// A crate and the crates of this workspace it may use.
const FLOORS: [(&str, &[&str]); 4] = [
    ("proto", &[]),
    ("shuffle", &["squadron-proto"]),
    ("worker", &["squadron-proto", "squadron-shuffle"]),
    ("server", &["squadron-proto", "squadron-shuffle", "squadron-worker"]),
];

/// A module of the server and what it must not name: each uses only what is below it.
const WALLS: [(&str, &[&str]); 9] = [
    // The rule how clients see a schema stands in planner::schema; nothing else of the engine is known here.
    (
        "flight",
        &[
            "crate::app",
            "planner::{",
            "planner::stages",
            "crate::scheduler",
            "crate::workers",
            "crate::results",
        ],
    ),
    (
        "system",
        &["crate::app", "crate::flight", "crate::planner", "crate::results"],
    ),
    ("queries.rs", &["crate::app", "crate::flight", "crate::system"]),
    (
        "writes",
        &[
            "crate::app",
            "crate::flight",
            "crate::queries",
            "crate::scheduler",
            "crate::results",
        ],
    ),
    ("planner", &["crate::app", "crate::flight", "crate::queries"]),
    (
        "scheduler",
        &[
            "crate::app",
            "crate::flight",
            "crate::queries",
            "crate::planner",
            "crate::catalog",
        ],
    ),
    (
        "workers",
        &["crate::app", "crate::flight", "crate::queries", "crate::planner"],
    ),
    (
        "auth",
        &["crate::app", "crate::flight", "crate::queries", "crate::catalog"],
    ),
    (
        "catalog",
        &[
            "crate::app",
            "crate::flight",
            "crate::queries",
            "crate::planner",
            "crate::scheduler",
        ],
    ),
];

/// What a pure machine must not know.
const OUTSIDE: [&str; 9] = [
    "tonic",
    "tokio",
    "datafusion",
    "arrow",
    "tracing",
    "rand::",
    "Instant::now",
    "SystemTime",
    "std::fs",
];

fn workspace() -> PathBuf {
    let integration = Path::new(env!("CARGO_MANIFEST_DIR"));
    integration.parent().expect("the workspace is above its crates").into()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The lines of a file that are code, with their numbers.
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = read(path);
    let lines = text
        .lines()
        .zip(1..)
        .map(|(line, number)| (number, line.trim().to_owned()));
    lines.filter(|(_, line)| !line.starts_with("//")).collect()
}

/// Tests may build what the product may not.
fn is_test(path: &Path) -> bool {
    let name = path
        .file_stem()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let is_named_so = name.ends_with("tests") || name == "testing" || name == "properties";
    is_named_so || path.parent().is_some_and(|folder| folder.ends_with("tests"))
}

/// Files of the product at or below `path`.
fn rust_files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.into()];
    }
    let entries = fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let paths = entries.map(|entry| entry.expect("a folder is readable").path());
    let mut files: Vec<_> = paths
        .flat_map(|path| match path.is_dir() {
            true => rust_files(&path),
            false => vec![path],
        })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs") && !is_test(path))
        .collect();
    files.sort();
    files
}

/// `file:line: text` for every line of code below `path` that holds one of `words`.
fn mentions(path: &Path, words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for file in rust_files(path) {
        for (number, line) in code(&file) {
            if words.iter().any(|word| line.contains(word)) {
                found.push(format!("{}:{number}: {line}", file.display()));
            }
        }
    }
    found
}

fn dependencies(name: &str) -> Vec<String> {
    let manifest = read(&workspace().join(name).join("Cargo.toml"));
    let mut section = "";
    let mut found = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        } else if section == "[dependencies]" && !line.is_empty() && !line.starts_with('#') {
            let name = line.split(['.', ' ', '=']).next().expect("a line has a first word");
            found.push(name.to_owned());
        }
    }
    found
}

#[test]
fn crates_depend_downwards() {
    for (name, allowed) in FLOORS {
        let dependencies = dependencies(name);
        assert!(
            !dependencies.is_empty(),
            "{name} has no dependencies: is its manifest read right?"
        );
        for dependency in dependencies
            .iter()
            .filter(|dependency| dependency.starts_with("squadron"))
        {
            assert!(
                allowed.contains(&dependency.as_str()),
                "{name} must not use {dependency}"
            );
        }
    }
}

#[test]
fn the_wire_knows_no_engine() {
    for dependency in dependencies("proto") {
        let engine = ["datafusion", "arrow", "parquet"]
            .iter()
            .any(|word| dependency.starts_with(word));
        assert!(!engine, "proto must not use {dependency}");
    }
}

#[test]
fn the_scheduler_is_pure_but_for_its_driver() {
    let folder = workspace().join("server/src/scheduler");
    let mut pure = 0;
    for file in rust_files(&folder) {
        let name = file.strip_prefix(&folder).expect("it is below").display().to_string();
        // The driver owns mailbox and clock.
        if name.starts_with("driver") {
            continue;
        }
        pure += 1;
        let impure: Vec<_> = before_tests(&file)
            .into_iter()
            .filter(|(_, line)| OUTSIDE.iter().any(|word| line.contains(word)))
            .map(|(number, line)| format!("{name}:{number}: {line}"))
            .collect();
        assert!(
            impure.is_empty(),
            "the pure scheduler knows the outside world:\n{}",
            impure.join("\n")
        );
    }
    assert!(pure >= 5, "only {pure} pure files found: did the scheduler move?");
}

/// Code up to the test module.
fn before_tests(file: &Path) -> Vec<(usize, String)> {
    let lines = code(file);
    let end = lines
        .iter()
        .position(|(_, line)| line == "#[cfg(test)]")
        .unwrap_or(lines.len());
    lines[..end].to_vec()
}

#[test]
fn the_server_starts_embedded_workers_in_one_place() {
    let server = workspace().join("server/src");
    let mut users: Vec<_> = mentions(&server, &["squadron_worker"]);
    users.retain(|line| !line.contains("/app.rs:") && !line.contains("/app/"));
    assert!(
        users.is_empty(),
        "only app may name the worker crate:\n{}",
        users.join("\n")
    );
}

#[test]
fn floors_use_only_what_is_below_them() {
    let server = workspace().join("server/src");
    for (module, forbidden) in WALLS {
        let path = match server.join(module) {
            path if path.exists() => path,
            // A module that grew from a file to a folder, or the other way.
            path => path.with_extension(""),
        };
        let upwards = mentions(&path, forbidden);
        assert!(upwards.is_empty(), "{module} looks upwards:\n{}", upwards.join("\n"));
    }
}

#[test]
fn main_is_short() {
    let main = read(&workspace().join("server/src/main.rs"));
    assert!(
        main.lines().count() < 100,
        "main parses, builds, runs and exits, no more"
    );
}
