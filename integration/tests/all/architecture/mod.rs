//! What must not be there: dependencies that run upwards, import circles, files too long to read, and the outside world
//! in the pure machines.

mod imports;
mod sources;

use std::collections::BTreeSet;
use std::fs;

use self::imports::Imports;
use self::sources::{code_before_tests, rust_files, workspace};

/// A crate's folder and the crates of this workspace that it may use.
const CRATES: [(&str, &[&str]); 7] = [
    ("proto", &[]),
    ("server/scheduler", &["squadron-proto"]),
    ("shuffle", &["squadron-proto"]),
    ("worker", &["squadron-proto", "squadron-shuffle"]),
    (
        "server",
        &[
            "squadron-proto",
            "squadron-scheduler",
            "squadron-shuffle",
            "squadron-worker",
        ],
    ),
    (
        "integration",
        &["squadron", "squadron-proto", "squadron-shuffle", "squadron-worker"],
    ),
    (
        "integration/bench",
        &[
            "squadron",
            "squadron-integration",
            "squadron-proto",
            "squadron-scheduler",
            "squadron-shuffle",
        ],
    ),
];

/// The rooms of the server, floor by floor. A file uses only rooms on the floors below its own.
const FLOORS: [&[&str]; 10] = [
    &["config", "counted", "error", "plan_limits", "plan_marks", "signals"],
    &["auth", "datafusion_workarounds", "settings"],
    &["catalog", "shell"],
    &["driver", "planner"],
    &["sql", "writes"],
    &["query"],
    &["system"],
    &["flight"],
    &["app"],
    &["lib", "main"],
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

/// The longest file; one that grows beyond it is two things.
const MAX_LINES: usize = 600;

/// The names of the crates that a manifest lists in a section.
fn dependencies(folder: &str, section: &str) -> Vec<String> {
    let manifest = workspace().join(folder).join("Cargo.toml");
    let manifest = fs::read_to_string(&manifest).unwrap_or_else(|error| panic!("{}: {error}", manifest.display()));
    let mut current = "";
    let mut found = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            current = line;
        } else if current == section && !line.is_empty() && !line.starts_with('#') {
            let name = line.split(['.', ' ', '=']).next().expect("a line has a first word");
            found.push(name.to_owned());
        }
    }
    found
}

#[test]
fn crates_depend_downwards() {
    for (folder, allowed) in CRATES {
        let dependencies = dependencies(folder, "[dependencies]");
        assert!(!dependencies.is_empty(), "no dependencies of {folder} were read");
        for dependency in dependencies.iter().filter(|name| name.starts_with("squadron")) {
            assert!(
                allowed.contains(&dependency.as_str()),
                "{folder} must not use {dependency}"
            );
        }
    }
}

#[test]
fn wire_contract_knows_no_engine() {
    for dependency in dependencies("proto", "[dependencies]") {
        let engine = ["datafusion", "arrow", "parquet"];
        assert!(
            !engine.iter().any(|word| dependency.starts_with(word)),
            "proto must not use {dependency}"
        );
    }
}

#[test]
fn scheduler_depends_on_proto_alone() {
    assert_eq!(dependencies("server/scheduler", "[dependencies]"), ["squadron-proto"]);
    assert_eq!(dependencies("server/scheduler", "[dev-dependencies]"), ["proptest"]);
}

#[test]
fn scheduler_knows_no_outside_world() {
    let files = rust_files(&workspace().join("server/scheduler/src"));
    assert!(files.len() >= 20, "only {} files: did the scheduler move?", files.len());
    let mut impure = Vec::new();
    for file in files {
        for (number, line) in code_before_tests(&file) {
            if OUTSIDE.iter().any(|word| line.contains(word)) {
                impure.push(format!("{}:{number}: {line}", file.display()));
            }
        }
    }
    assert!(impure.is_empty(), "{}", impure.join("\n"));
}

#[test]
fn server_rooms_use_only_lower_floors() {
    let server = workspace().join("server/src");
    let floor_of = |room: &str| FLOORS.iter().position(|rooms| rooms.contains(&room));
    let mut rooms = BTreeSet::new();
    let mut upwards = Vec::new();
    for file in rust_files(&server) {
        let path = file.strip_prefix(&server).expect("it is below").with_extension("");
        let room = path
            .iter()
            .next()
            .expect("a file has a name")
            .to_string_lossy()
            .into_owned();
        let own = floor_of(&room).unwrap_or_else(|| panic!("the room {room} is on no floor"));
        for (number, line) in code_before_tests(&file) {
            for (_, rest) in line
                .match_indices("crate::")
                .map(|(at, _)| line.split_at(at + "crate::".len()))
            {
                let used: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let is_upwards = floor_of(&used).is_some_and(|floor| floor >= own) && used != room;
                if is_upwards {
                    upwards.push(format!("{}:{number}: {line}", file.display()));
                }
            }
        }
        rooms.insert(room);
    }
    assert!(upwards.is_empty(), "these look upwards:\n{}", upwards.join("\n"));
    let unknown: Vec<_> = FLOORS
        .iter()
        .copied()
        .flatten()
        .filter(|room| !rooms.contains(**room))
        .collect();
    assert!(unknown.is_empty(), "these rooms are gone: {unknown:?}");
}

#[test]
fn embedded_workers_start_in_app_alone() {
    let server = workspace().join("server/src");
    let files = rust_files(&server)
        .into_iter()
        .filter(|file| !file.starts_with(server.join("app")));
    let names_worker = |file: &std::path::PathBuf| {
        let mut code = code_before_tests(file).into_iter();
        code.any(|(_, line)| line.contains("squadron_worker"))
    };
    let users: Vec<_> = files.filter(names_worker).collect();
    assert!(users.is_empty(), "only app may name the worker crate: {users:?}");
}

#[test]
fn imports_run_in_no_circle() {
    // A plan of Substrait nests relations in expressions and expressions in relations, and so do those who read them.
    let recursion = ["functions", "read", "reader"].map(|file| format!("planner::substrait::{file}"));
    for (folder, _) in CRATES {
        let mut circles = Imports::of(&workspace().join(folder).join("src")).circles();
        circles.retain(|circle| *circle != recursion);
        assert!(circles.is_empty(), "files of {folder} import each other: {circles:#?}");
    }
}

#[test]
fn files_stay_short_enough_to_read() {
    let mut long = Vec::new();
    for (folder, _) in CRATES {
        for file in sources::all_rust_files(&workspace().join(folder).join("src")) {
            let lines = sources::read(&file).lines().count();
            if lines > MAX_LINES {
                long.push(format!("{}: {lines} lines", file.display()));
            }
        }
    }
    assert!(long.is_empty(), "each of these is two things:\n{}", long.join("\n"));
}

#[test]
fn main_is_short() {
    let main = sources::read(&workspace().join("server/src/main.rs"));
    assert!(
        main.lines().count() < 100,
        "main parses, builds, runs and exits, no more"
    );
}
