//! Finds out which drivers can run on this machine, so that tests of the others are ignored, with the reason.

use std::process::{Command, Stdio};

fn main() {
    println!("cargo::rerun-if-env-changed=PATH");
    println!("cargo::rustc-check-cfg=cfg(has_python)");
    println!("cargo::rustc-check-cfg=cfg(has_java)");
    println!("cargo::rustc-check-cfg=cfg(has_go)");
    let python = succeeds("python3", &["-c", "import ensurepip, venv"]);
    let java = succeeds("javac", &["-version"]) && succeeds("mvn", &["--version"]);
    let go = has_go();
    for (found, name) in [(python, "has_python"), (java, "has_java"), (go, "has_go")] {
        match found {
            true => println!("cargo::rustc-cfg={name}"),
            // Checks again at the next build: a missing file counts as changed.
            false => println!("cargo::rerun-if-changed={name}"),
        }
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=clients/go/go.mod");
}

/// Whether the installed Go is as new as `go.mod` asks for; no newer toolchain is downloaded.
fn has_go() -> bool {
    let module = include_str!("clients/go/go.mod");
    let wanted = module.lines().find_map(|line| line.strip_prefix("go "));
    let output = Command::new("go").arg("env").arg("GOVERSION").output();
    let found = output.ok().and_then(|output| String::from_utf8(output.stdout).ok());
    let found = found.as_deref().and_then(|version| version.trim().strip_prefix("go"));
    match (found, wanted) {
        (Some(found), Some(wanted)) => parse_version(found) >= parse_version(wanted),
        _ => false,
    }
}

/// Parses major and minor version.
fn parse_version(version: &str) -> Vec<u32> {
    let parts = version.split('.').take(2);
    parts.map(|part| part.parse().unwrap_or(0)).collect()
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
