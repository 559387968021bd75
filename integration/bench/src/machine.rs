//! The machine and the program versions of a measurement; the head of every JSON file.

use std::fs;
use std::process::Command;

use serde::Serialize;
use squadron_integration::process::squadron;

use crate::usage;

/// The machine.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Machine {
    cpu: String,
    cores: usize,
    memory_bytes: u64,
    system: String,
    /// Runnable processes in the minute before the start: near 0 on an idle machine.
    load_average: f64,
}

/// The programs.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Versions {
    squadron: String,
    datafusion: &'static str,
    arrow: &'static str,
    /// `release` or `debug`; figures of a debug build mean nothing.
    profile: &'static str,
}

impl Machine {
    pub(super) fn detect() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpu_info = read("/proc/cpuinfo");
        let cpu = cpu_info
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        let memory = usage::parse_kib(&read("/proc/meminfo"), "MemTotal:").unwrap_or_default();
        let load = read("/proc/loadavg");
        Self {
            cpu: cpu.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned()),
            cores: cores(),
            memory_bytes: memory * 1024,
            system: format!("{} {}", std::env::consts::OS, read("/proc/sys/kernel/osrelease").trim()),
            load_average: load
                .split_whitespace()
                .next()
                .and_then(|one| one.parse().ok())
                .unwrap_or_default(),
        }
    }
}

impl Versions {
    pub(super) fn detect() -> Self {
        let output = Command::new(squadron()).arg("--version").output();
        let squadron = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        Self::with(squadron.unwrap_or_default())
    }

    /// The versions in this executable, and a `squadron` of the given version.
    pub(super) fn with(squadron: String) -> Self {
        Self {
            squadron,
            datafusion: datafusion::DATAFUSION_VERSION,
            arrow: arrow::ARROW_VERSION,
            profile: if cfg!(debug_assertions) { "debug" } else { "release" },
        }
    }
}

/// Cores this process may use.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
