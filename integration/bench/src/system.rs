//! The measured system: `squadron` processes started for the measurement, or a server that already runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;
use serde::Serialize;
use squadron_integration::process::{Process, squadron};
use tempfile::TempDir;

use crate::{Result, machine, tables, usage};

/// Lines of each log that are printed when a query fails.
const PRINTED_LOG_LINES: usize = 20;

/// Which processes to measure.
#[derive(Args, Debug, Clone, Serialize)]
pub(super) struct SystemArgs {
    /// Worker processes; 0 measures the worker embedded in the server.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) workers: usize,
    /// Slots of each worker [default: cores divided by workers].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    slots: Option<u16>,
    /// Memory of each worker, such as 4GiB [default: that of `squadron`].
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// Measure this running server instead; it must serve the same tables.
    #[arg(long, value_name = "grpc://HOST:PORT", conflicts_with_all = ["workers", "memory"])]
    server: Option<String>,
    /// Where generated tables are kept [default: the user's cache folder].
    #[arg(long, value_name = "DIR")]
    pub(super) cache_dir: Option<PathBuf>,
}

impl SystemArgs {
    /// Slots of each worker.
    pub(super) fn slots(&self) -> usize {
        self.slots
            .map_or_else(|| (machine::cores() / self.workers.max(1)).max(1), usize::from)
    }

    /// Slots of all workers together, and threads of the reference.
    pub(super) fn total_slots(&self) -> usize {
        self.slots() * self.workers.max(1)
    }

    /// Whether a running server is measured instead of a new one.
    pub(super) fn is_external(&self) -> bool {
        self.server.is_some()
    }

    /// These arguments with every default filled in, for the report.
    pub(super) fn with_defaults(&self) -> Self {
        Self {
            slots: u16::try_from(self.slots()).ok(),
            ..self.clone()
        }
    }

    /// Starts the processes, with further `arguments` of `serve`.
    pub(super) async fn start(&self, arguments: &[String]) -> Result<System> {
        if let Some(url) = &self.server {
            return Ok(System {
                url: url.clone(),
                processes: Vec::new(),
                folder: None,
            });
        }
        let folder = TempDir::with_prefix("squadron-bench-")?;
        let start = |name: &str, mut command: Command| {
            self.add_worker_arguments(&mut command);
            let spill = folder.path().join(format!("{name}-spill"));
            command.arg("--spill-dir").arg(spill);
            Process::start(name, command, folder.path().join(format!("{name}.log")))
        };
        let mut server = start("server", self.serve_command(arguments)?);
        let url = server.wait_for_line("squadron listening on ").await;
        let cluster_url = match self.workers {
            0 => None,
            _ => Some(server.wait_for_line("squadron cluster on ").await),
        };
        let mut processes = vec![server];
        if let Some(cluster_url) = cluster_url {
            for index in 0..self.workers {
                let mut command = Command::new(squadron());
                command.args(["worker", "--server", &cluster_url]);
                processes.push(start(&format!("worker-{index}"), command));
            }
        }
        for worker in &mut processes[1..] {
            worker.wait_for_line("squadron worker ready on ").await;
        }
        Ok(System {
            url,
            processes,
            folder: Some(folder),
        })
    }

    fn serve_command(&self, arguments: &[String]) -> Result<Command> {
        let mut command = Command::new(squadron());
        command.args(["serve", "--listen", "127.0.0.1:0"]);
        if self.workers > 0 {
            command.args(["--embedded-workers", "0", "--cluster-listen", "127.0.0.1:0"]);
        }
        command
            .arg("--cache-dir")
            .arg(tables::cache_folder(self.cache_dir.as_deref())?);
        command.args(arguments);
        Ok(command)
    }

    fn add_worker_arguments(&self, command: &mut Command) {
        command.args(["--slots", &self.slots().to_string()]);
        if let Some(memory) = &self.memory {
            command.args(["--memory", memory]);
        }
    }
}

/// The running processes; they end when this is dropped.
pub(super) struct System {
    /// The address for clients.
    pub(super) url: String,
    /// The server first; empty when the server was not started here.
    processes: Vec<Process>,
    /// Holds the logs and a spill folder for each process.
    folder: Option<TempDir>,
}

impl System {
    /// The server's process, unless it was not started here.
    pub(super) fn server_pid(&self) -> Option<u32> {
        self.processes.first().map(Process::id)
    }

    /// Of all processes; none of a server that was not started here.
    pub(super) fn pids(&self) -> impl Iterator<Item = u32> {
        self.processes.iter().map(Process::id)
    }

    /// Processor seconds that all processes and this process, the client, used so far.
    pub(super) fn cpu_seconds(&self) -> Option<f64> {
        let client = usage::cpu_seconds(std::process::id())?;
        self.server_cpu_seconds().map(|servers| servers + client)
    }

    /// Processor seconds that the server and its workers used so far.
    pub(super) fn server_cpu_seconds(&self) -> Option<f64> {
        if self.processes.is_empty() {
            return None;
        }
        let pids: Vec<_> = self.pids().collect();
        usage::cpu_seconds_of(&pids)
    }

    /// Lets [`Self::peak_memory_bytes`] begin anew.
    pub(super) fn reset_peak_memory(&self) {
        for process in &self.processes {
            usage::reset_peak_memory(process.id());
        }
    }

    /// Peak resident memory of the process that holds most; not known for a server that was not started here.
    pub(super) fn peak_memory_bytes(&self) -> Option<u64> {
        let peaks = self
            .processes
            .iter()
            .map(|process| usage::peak_memory_bytes(process.id()));
        peaks.collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    /// The number of files of spilled rows; not known for a server that was not started here.
    pub(super) fn spilled_files(&self) -> Option<usize> {
        let folder = self.folder.as_ref()?;
        let entries = fs::read_dir(folder.path()).ok()?;
        let spills = entries.flatten().map(|entry| entry.path());
        Some(spills.filter(|path| path.is_dir()).map(|path| files_below(&path)).sum())
    }

    /// The last lines of every log, to explain why a query failed.
    pub(super) fn last_log_lines(&self) -> String {
        let mut text = String::new();
        for process in &self.processes {
            let log = process.log();
            let lines: Vec<_> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(PRINTED_LOG_LINES)..];
            text.push_str(&format!(
                "---- end of the log of {} ----\n{}\n",
                process.name(),
                last.join("\n")
            ));
        }
        text
    }
}

/// The number of files in and below a folder, without the lock files by which a process marks the folder as its own.
fn files_below(folder: &Path) -> usize {
    let Ok(entries) = fs::read_dir(folder) else {
        // The folder was removed meanwhile.
        return 0;
    };
    let count = |path: PathBuf| match path.is_dir() {
        true => files_below(&path),
        false => usize::from(!path.to_string_lossy().ends_with("lock")),
    };
    entries.flatten().map(|entry| count(entry.path())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spilled_files_are_counted_without_locks() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("squadron-shuffle-1");
        fs::create_dir(&own).unwrap();
        for name in ["squadron-shuffle.lock", "squadron-shuffle-1/lock"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(files_below(folder.path()), 0);
        fs::write(own.join("0-0-0.arrow"), "rows").unwrap();
        assert_eq!(files_below(folder.path()), 1);
        assert_eq!(files_below(&folder.path().join("nosuch")), 0);
    }
}
