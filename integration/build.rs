//! Tells the tests which drivers can run here, so that tests of the others are counted as ignored, with the reason.

use std::process::{Command, Stdio};

fn main() {
    println!("cargo::rerun-if-env-changed=PATH");
    println!("cargo::rustc-check-cfg=cfg(has_python)");
    println!("cargo::rustc-check-cfg=cfg(has_java)");
    let python = runs("python3", &["-c", "import ensurepip, venv"]);
    let java = runs("javac", &["-version"]) && runs("mvn", &["--version"]);
    for (found, name) in [(python, "has_python"), (java, "has_java")] {
        match found {
            true => println!("cargo::rustc-cfg={name}"),
            // Looks again next time: a file that is not there counts as changed.
            false => println!("cargo::rerun-if-changed={name}"),
        }
    }
    println!("cargo::rerun-if-changed=build.rs");
}

fn runs(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
