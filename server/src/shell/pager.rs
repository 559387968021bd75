//! Where the rows of a statement go: standard output or, where the user turned it on, a pager.

use std::io::{self, Write};
use std::process::{Child, Command, Stdio};

/// The output of one statement. A pager is started with the first row, so that progress and errors stay on the screen.
pub(super) struct Output {
    /// The command line of the pager; none once it has started, or without one.
    command: Option<String>,
    pager: Option<Child>,
}

impl Output {
    /// Standard output.
    pub(super) fn standard() -> Self {
        Self {
            command: None,
            pager: None,
        }
    }

    /// The pager that the user chose with `$PAGER`.
    pub(super) fn paged() -> Self {
        let chosen = std::env::var("PAGER").ok().filter(|chosen| !chosen.trim().is_empty());
        let usual = if cfg!(windows) { "more" } else { "less" };
        Self::through(chosen.unwrap_or_else(|| usual.to_owned()))
    }

    fn through(command: String) -> Self {
        Self {
            command: Some(command),
            pager: None,
        }
    }

    /// Waits until the user has left the pager.
    pub(super) async fn close(mut self) {
        let Some(mut pager) = self.pager.take() else {
            return;
        };
        // On a thread that may block, so that the connection's keep-alives go on. Waiting closes the pager's input.
        let ended = tokio::task::spawn_blocking(move || pager.wait()).await;
        if let Ok(Ok(status)) = ended
            && !status.success()
        {
            eprintln!("the pager failed ({status}); \\pager off goes on without it");
        }
    }

    fn writer(&mut self) -> io::Result<Box<dyn Write + '_>> {
        if let Some(command) = self.command.take() {
            self.pager = Some(start(&command)?);
        }
        let writer: Box<dyn Write + '_> = match self.pager.as_mut().and_then(|pager| pager.stdin.as_mut()) {
            Some(input) => Box::new(input),
            None => Box::new(io::stdout()),
        };
        Ok(writer)
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer()?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer()?.flush()
    }
}

/// Starts a pager through the system's shell, since `$PAGER` may have arguments.
fn start(command: &str) -> io::Result<Child> {
    let (shell, flag) = if cfg!(windows) { ("cmd", "/C") } else { ("sh", "-c") };
    let mut process = Command::new(shell);
    process.args([flag, command]).stdin(Stdio::piped());
    if std::env::var_os("LESS").is_none() {
        // Ends at once for what fits the screen, scrolls sideways instead of wrapping, and leaves the rows on the
        // screen.
        process.env("LESS", "FSX");
    }
    process.spawn()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pager_gets_the_rows_and_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("page");
        let mut output = Output::through(format!("cat > '{}'", file.display()));
        assert!(!file.exists());
        output.write_all(b"a\n").unwrap();
        output.write_all(b"b\n").unwrap();
        output.flush().unwrap();
        output.close().await;
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "a\nb\n");
    }

    #[tokio::test]
    async fn pager_that_was_left_takes_no_more_rows() {
        let mut output = Output::through("exec true".to_owned());
        let page = vec![b'x'; 1 << 20];
        let error = output.write_all(&page).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        output.close().await;
    }

    #[tokio::test]
    async fn pager_without_rows_is_not_started() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("page");
        Output::through(format!("touch '{}'", file.display())).close().await;
        assert!(!file.exists());
    }
}
