//! The command line is a contract that scripts rely on: exit codes, ready lines, refusals, drain.
//!
//! Because this test is in the package of the binary, `cargo test --workspace` builds the binary first; the tests of
//! the `integration` crate find it beside their own executable.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Far more than any of these runs needs, even on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);

fn squadron(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_squadron"));
    command.args(arguments);
    command
}

/// A child that prints ready lines; killed on drop.
struct Running {
    child: Child,
    lines: Receiver<String>,
    errors: Receiver<String>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command
            .env("SQUADRON_EXIT_ON_STDIN_EOF", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let lines = read_lines(child.stdout.take().expect("piped"));
        let errors = read_lines(child.stderr.take().expect("piped"));
        Self { child, lines, errors }
    }

    /// The next line of standard output.
    fn next_line(&mut self) -> String {
        self.lines.recv_timeout(LIMIT).unwrap_or_else(|_| {
            let errors: Vec<_> = self.errors.try_iter().collect();
            panic!(
                "no line on standard output; standard error says:\n{}",
                errors.join("\n")
            )
        })
    }

    /// The rest of the next line, which must begin with `prefix`.
    fn next_line_after(&mut self, prefix: &str) -> String {
        let line = self.next_line();
        let rest = line.strip_prefix(prefix);
        rest.unwrap_or_else(|| panic!("`{line}` does not begin with `{prefix}`"))
            .to_owned()
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args([&format!("-{signal}"), &self.child.id().to_string()])
            .status()
            .expect("there is a `kill` command");
        assert!(status.success());
    }

    fn wait_for_end(&mut self) -> ExitStatus {
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status;
            }
            assert!(Instant::now() < end, "the process did not end within {LIMIT:?}");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn read_lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        BufReader::new(stream)
            .lines()
            .map_while(Result::ok)
            .for_each(|line| drop(sender.send(line)));
    });
    receiver
}

/// Runs a command to its end; a run that ought to fail but serves instead is killed and reported.
fn run_to_end(command: Command) -> Output {
    let mut running = Running::start(command);
    let status = running.wait_for_end();
    let text = |lines: &Receiver<String>| lines.iter().map(|line| line + "\n").collect::<String>();
    Output {
        status,
        stdout: text(&running.lines).into_bytes(),
        stderr: text(&running.errors).into_bytes(),
    }
}

fn serve() -> Running {
    let mut running = Running::start(squadron(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--cluster-listen",
        "127.0.0.1:0",
    ]));
    running.next_line_after("squadron listening on grpc://127.0.0.1:");
    running
}

#[test]
fn version_flag_prints_the_version() {
    let output = run_to_end(squadron(&["--version"]));
    assert!(output.status.success());
    let expected = format!("squadron {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}

/// Checks exit code 2, no standard output, and one line on standard error that holds all of `named`.
fn assert_refused(arguments: &[&str], named: &[&str]) {
    let output = run_to_end(squadron(arguments));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
    assert!(output.stdout.is_empty(), "{arguments:?} printed to standard output");
    assert_eq!(
        errors.lines().count(),
        1,
        "{arguments:?} is not one sentence:\n{errors}"
    );
    for name in named {
        assert!(errors.contains(name), "{arguments:?} does not name `{name}`: {errors}");
    }
}

#[test]
fn bad_flags_exit_with_code_2() {
    assert_refused(&["serve", "--no-such-flag"], &["--no-such-flag"]);
    assert_refused(&["fly"], &["fly"]);
    assert_refused(&["serve", "--slots", "0"], &["--slots", "0"]);
    assert_refused(&["serve", "--slots", "many"], &["--slots", "many"]);
    assert_refused(&["serve", "--memory", "12parsecs"], &["--memory", "12parsecs"]);
    assert_refused(&["serve", "--listen", "nowhere"], &["--listen", "nowhere"]);
    assert_refused(&["serve", "--tpch", "-1"], &["--tpch", "-1"]);
    assert_refused(&["worker"], &["--server"]);
    assert_refused(
        &["worker", "--server", "http://127.0.0.1:1", "--slots", "0"],
        &["--slots", "0"],
    );
    assert_refused(&["serve", "--data", "/no/such/folder"], &["--data", "/no/such/folder"]);
    assert_refused(
        &["serve", "--config", "/no/such/file.toml"],
        &["--config", "/no/such/file.toml"],
    );
}

#[test]
fn open_port_needs_insecure_flag() {
    assert_refused(
        &["serve", "--listen", "0.0.0.0:0"],
        &["--listen", "0.0.0.0:0", "--insecure"],
    );
    assert_refused(
        &["serve", "--listen", "127.0.0.1:0", "--cluster-listen", "0.0.0.0:0"],
        &["--cluster-listen", "0.0.0.0:0", "--cluster-secret"],
    );
    let mut open = Running::start(squadron(&["serve", "--listen", "0.0.0.0:0", "--insecure"]));
    open.next_line_after("squadron listening on grpc://");
}

/// Fills a folder with one good and one broken table.
fn write_mixed_tables(folder: &Path) {
    fs::write(folder.join("good.csv"), "a,b\n1,2\n").unwrap();
    fs::write(folder.join("broken.parquet"), "this is no Parquet file").unwrap();
}

#[test]
fn strict_refuses_broken_table() {
    let folder = tempfile::tempdir().unwrap();
    write_mixed_tables(folder.path());
    let data = folder.path().to_str().unwrap();
    // A spill folder of its own, so that no log line is about leftovers of another process.
    let spill = tempfile::tempdir().unwrap();
    let spill = spill.path().to_str().unwrap();
    let listen = ["serve", "--listen", "127.0.0.1:0", "--data", data, "--spill-dir", spill];
    assert_refused(&[&listen[..], &["--strict"]].concat(), &["--strict", "broken.parquet"]);

    let mut lenient = Running::start(squadron(&listen));
    let url = lenient.next_line_after("squadron listening on ");
    let output = run_to_end(squadron(&["sql", "--server", &url, "-c", "SELECT a FROM good"]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn flag_overrides_variable_overrides_file() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("squadron.toml");
    fs::write(&config, "[serve]\nlisten = \"127.0.0.1:0\"\nslots = 0\n").unwrap();
    let config = config.to_str().unwrap();

    // Only the file sets slots: its 0 is refused.
    assert_refused(&["serve", "--config", config], &["slots", "0"]);
    // The variable overrides the file.
    let mut command = squadron(&["serve", "--config", config]);
    command.env("SQUADRON_SLOTS", "1");
    Running::start(command).next_line_after("squadron listening on grpc://127.0.0.1:");
    // The flag overrides the variable.
    let mut command = squadron(&["serve", "--config", config, "--slots", "1"]);
    command.env("SQUADRON_SLOTS", "0");
    Running::start(command).next_line_after("squadron listening on grpc://127.0.0.1:");
}

#[test]
fn server_and_worker_drain_on_sigterm() {
    let mut server = serve();
    let cluster = server.next_line_after("squadron cluster on http://");
    for scheme in ["http://", "grpc://", ""] {
        let address = format!("{scheme}{cluster}");
        let mut worker = Running::start(squadron(&["worker", "--server", &address, "--slots", "1"]));
        worker.next_line_after("squadron worker ready on grpc://127.0.0.1:");
        worker.signal("TERM");
        assert_eq!(worker.wait_for_end().code(), Some(0));
    }
    server.signal("TERM");
    assert_eq!(server.wait_for_end().code(), Some(0));
}

#[test]
fn server_drains_on_interrupt() {
    let mut server = serve();
    server.signal("INT");
    assert_eq!(server.wait_for_end().code(), Some(0));
}

#[test]
fn server_ends_with_its_parent() {
    let mut server = serve();
    drop(server.child.stdin.take());
    server.wait_for_end();
}

#[test]
fn shell_exits_1_on_sql_error() {
    let mut server = Running::start(squadron(&["serve", "--listen", "127.0.0.1:0"]));
    let url = server.next_line_after("squadron listening on ");
    let sql = |text: &str| run_to_end(squadron(&["sql", "--server", &url, "--format", "csv", "-c", text]));

    let output = sql("SELECT 1 AS one, 'a' AS letter");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "one,letter\n1,a\n");
    assert_eq!(output.status.code(), Some(0));

    let output = sql("SELEC 1");
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains("SELEC"));
}

#[test]
fn shell_names_the_unreachable_server() {
    let output = run_to_end(squadron(&["sql", "--server", "grpc://127.0.0.1:1", "-c", "SELECT 1"]));
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("127.0.0.1:1"));
}
