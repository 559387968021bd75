//! One process of the product: started from the folder of this executable, watched through its ready lines, killed when
//! dropped.
//!
//! A child also ends when its standard input closes (`SQUADRON_EXIT_ON_STDIN_EOF`), so that no orphan outlives a killed
//! test. Its log goes to a file, which [`crate::cluster::Cluster`] prints when a test fails.

use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{sleep, timeout};

/// How long a process may take from its start to a ready line. A debug build on two busy cores is slow.
const START_LIMIT: Duration = Duration::from_secs(90);

/// How often a condition is checked.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A running child.
pub struct Process {
    name: String,
    child: Child,
    lines: UnboundedReceiver<String>,
    log: PathBuf,
}

/// The folder of the executables of this build, e.g. `target/debug`.
///
/// # Panics
/// When this executable has no folder.
pub fn target_folder() -> PathBuf {
    let this = env::current_exe().expect("an executable knows its own path");
    let folder = this.parent().expect("an executable is in a folder");
    // Test executables stand one folder deeper than binaries.
    match folder.file_name() {
        Some(name) if name == "deps" => folder.parent().expect("`deps` is in a folder").into(),
        _ => folder.into(),
    }
}

/// The `squadron` binary of this build.
///
/// # Panics
/// When it was not built.
pub fn squadron() -> PathBuf {
    let path = target_folder().join(format!("squadron{}", env::consts::EXE_SUFFIX));
    assert!(
        path.is_file(),
        "there is no {}; build it with `cargo build --workspace`, or run `cargo test --workspace`, which builds it too",
        path.display()
    );
    path
}

impl Process {
    /// Starts `command` and writes its log to the file `log`.
    ///
    /// # Panics
    /// When the command cannot be started.
    pub fn start(name: impl Into<String>, mut command: Command, log: PathBuf) -> Self {
        let name = name.into();
        let log_file = File::create(&log).expect("the test's folder takes files");
        let mut child = command
            .env("SQUADRON_EXIT_ON_STDIN_EOF", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log_file)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let stdout = BufReader::new(child.stdout.take().expect("standard output is piped"));
        let (sender, lines) = unbounded_channel();
        // Reads to the end, so that the child never blocks on a full pipe.
        std::thread::spawn(move || {
            stdout
                .lines()
                .map_while(Result::ok)
                .for_each(|line| drop(sender.send(line)));
        });
        Self {
            name,
            child,
            lines,
            log,
        }
    }

    /// Waits for a line of standard output that begins with `prefix`; gives the rest of that line.
    ///
    /// # Panics
    /// When the process ends or 90 seconds pass without such a line.
    pub async fn wait_for_line(&mut self, prefix: &str) -> String {
        let found = timeout(START_LIMIT, async {
            while let Some(line) = self.lines.recv().await {
                if let Some(rest) = line.strip_prefix(prefix) {
                    return Some(rest.trim().to_owned());
                }
            }
            None
        });
        match found.await {
            Ok(Some(rest)) => rest,
            Ok(None) => panic!("{} ended without saying \"{prefix}\":\n{}", self.name, self.log()),
            Err(_) => panic!(
                "{} did not say \"{prefix}\" within {START_LIMIT:?}:\n{}",
                self.name,
                self.log()
            ),
        }
    }

    /// The name of the process in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `kill -9`, and waits until the process is gone. Does nothing when it has ended already.
    pub fn kill(&mut self) {
        // Both fail only when the process is gone already.
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Asks the process to end, as an operator would: SIGTERM.
    ///
    /// # Panics
    /// When the signal cannot be sent.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends a signal by name.
    ///
    /// # Panics
    /// When the signal cannot be sent.
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args([&format!("-{signal}"), &self.id().to_string()])
            .status()
            .expect("there is a `kill` command");
        assert!(status.success(), "{} takes no SIG{signal}", self.name);
    }

    /// Closes the standard input of the process, as the death of its parent would.
    pub fn close_stdin(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Waits until the process has ended.
    ///
    /// # Panics
    /// When it does not end within `limit`.
    pub async fn wait_for_exit(&mut self, limit: Duration) -> ExitStatus {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status;
            }
            assert!(
                Instant::now() < end,
                "{} did not end within {limit:?}:\n{}",
                self.name,
                self.log()
            );
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Whether the process has not ended yet.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Processor time used so far, in hundredths of a second. Linux only: it is read from `/proc`.
    ///
    /// # Panics
    /// When the process is gone or the system has no `/proc`.
    pub fn cpu_ticks(&self) -> u64 {
        let path = format!("/proc/{}/stat", self.id());
        let stat = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        // The name in brackets may hold anything; utime and stime are the 12th and 13th field after it.
        let (_, fields) = stat.rsplit_once(')').expect("a stat line names the process");
        let mut fields = fields.split_whitespace().skip(11);
        let mut ticks = || -> u64 {
            let field = fields.next().expect("a stat line has 52 fields");
            field.parse().expect("processor time is a number")
        };
        ticks() + ticks()
    }

    /// How many threads run, or would if they got a processor. Linux only: it is read from `/proc`.
    ///
    /// # Panics
    /// When the process is gone or the system has no `/proc`.
    pub fn runnable_threads(&self) -> usize {
        let path = format!("/proc/{}/task", self.id());
        let threads = fs::read_dir(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        // A thread may end meanwhile.
        let stats = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("stat")).ok());
        let states = stats.filter_map(|stat| Some(stat.rsplit_once(')')?.1.trim_start().starts_with('R')));
        states.filter(|is_runnable| *is_runnable).count()
    }

    /// Peak resident memory, in bytes. Linux only: it is read from `/proc`.
    ///
    /// # Panics
    /// When the process is gone or the system has no `/proc`.
    pub fn peak_memory_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.id());
        let status = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .and_then(|line| line.split_whitespace().next())
            .expect("a living process has memory");
        peak.parse::<u64>().expect("memory is a number") * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
