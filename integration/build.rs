//! Tells the tests which drivers can run here, so that tests of the others are counted as ignored, with the reason.

use std::process::{Command, Stdio};

fn main() {
    println!("cargo::rerun-if-env-changed=PATH");
    println!("cargo::rustc-check-cfg=cfg(has_python)");
    println!("cargo::rustc-check-cfg=cfg(has_java)");
    println!("cargo::rustc-check-cfg=cfg(has_go)");
    let python = runs("python3", &["-c", "import ensurepip, venv"]);
    let java = runs("javac", &["-version"]) && runs("mvn", &["--version"]);
    let go = has_go();
    for (found, name) in [(python, "has_python"), (java, "has_java"), (go, "has_go")] {
        match found {
            true => println!("cargo::rustc-cfg={name}"),
            // Looks again next time: a file that is not there counts as changed.
            false => println!("cargo::rerun-if-changed={name}"),
        }
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=clients/go/go.mod");
}

/// Whether there is a Go that its modules take: it fetches no newer one by itself here.
fn has_go() -> bool {
    let module = include_str!("clients/go/go.mod");
    let wanted = module.lines().find_map(|line| line.strip_prefix("go "));
    let output = Command::new("go").arg("env").arg("GOVERSION").output();
    let found = output.ok().and_then(|output| String::from_utf8(output.stdout).ok());
    let found = found.as_deref().and_then(|version| version.trim().strip_prefix("go"));
    match (found, wanted) {
        (Some(found), Some(wanted)) => numbers(found) >= numbers(wanted),
        _ => false,
    }
}

/// Major and minor version.
fn numbers(version: &str) -> Vec<u32> {
    let parts = version.split('.').take(2);
    parts.map(|part| part.parse().unwrap_or(0)).collect()
}

fn runs(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
