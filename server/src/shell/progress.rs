//! The line on the terminal that moves while a query runs.

use std::convert::Infallible;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

const TICK: Duration = Duration::from_millis(100);

/// A faster statement shows no line, which would only flicker.
const APPEARS_AFTER: Duration = Duration::from_millis(300);

/// A spinner on standard error with the time and, once they flow, the rows. Nothing is drawn when standard error is no
/// terminal. Dropping it clears the line.
pub(super) struct Progress {
    bar: ProgressBar,
    began: Instant,
    /// Rows go to the same screen, so that the line must leave before the first of them.
    shares_screen: bool,
}

impl Progress {
    /// Starts the clock.
    pub(super) fn start() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
            bar.set_style(style);
        }
        bar.set_message("running; Ctrl-C cancels");
        Self {
            bar,
            began: Instant::now(),
            shares_screen: std::io::stdout().is_terminal(),
        }
    }

    /// Shows the line once the statement turns out to take a while. Never ends: poll it beside the statement.
    pub(super) async fn appear(&self) -> Infallible {
        tokio::time::sleep(APPEARS_AFTER.saturating_sub(self.began.elapsed())).await;
        if !self.bar.is_finished() && self.bar.is_hidden() {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            self.bar.enable_steady_tick(TICK);
        }
        std::future::pending().await
    }

    /// Says how many rows have come.
    pub(super) fn rows(&self, rows: u64) {
        self.bar.set_message(format!("rows: {}", HumanCount(rows)));
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
