//! The line on the terminal that moves while a query runs.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

const TICK: Duration = Duration::from_millis(100);

/// A spinner on standard error with the time and, once they flow, the rows. Nothing is drawn when standard error is no
/// terminal. Dropping it clears the line.
pub(super) struct Progress {
    bar: ProgressBar,
    /// Rows go to the same screen, so that the line must leave before the first of them.
    shares_screen: bool,
}

impl Progress {
    /// Starts the clock.
    pub(super) fn start() -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed_precise} {msg}") {
            bar.set_style(style);
        }
        bar.set_message("running; Ctrl-C cancels");
        bar.enable_steady_tick(TICK);
        Self { bar, shares_screen: std::io::stdout().is_terminal() }
    }

    /// Says how many rows have come.
    pub(super) fn rows(&self, rows: u64) {
        self.bar.set_message(format!("{rows} rows"));
    }

    /// Makes room for output.
    pub(super) fn before_output(&self) {
        if self.shares_screen {
            self.bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
