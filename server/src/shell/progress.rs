//! The progress line on the terminal while a statement runs.
//!
//! ```text
//! ⠙ 2s running; Ctrl-C cancels                                    the server tells no progress
//! ⠙ 4s [██████████>-------------------] 37 % running; Ctrl-C cancels
//! ⠙ 9s [██████████████████████████████] 100 % rows: 120,000         the result is being read
//! ```

use std::convert::Infallible;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

const TICK: Duration = Duration::from_millis(100);

/// A faster statement shows no line: it would only flicker.
const APPEARS_AFTER: Duration = Duration::from_millis(300);

/// The length of the bar.
const WHOLE: u64 = 1000;

const SPINNER: &str = "{spinner} {elapsed} {msg}";
const BAR: &str = "{spinner} {elapsed} [{bar:30}] {percent} % {msg}";

/// A line on standard error with the elapsed time, the progress if the server tells it, and the rows once they arrive.
/// Nothing is drawn when standard error is no terminal. Dropping it clears the line.
pub(super) struct Progress {
    bar: ProgressBar,
    started: Instant,
    /// Whether rows go to the same screen, so that the line must be cleared before the first row.
    shares_screen: bool,
}

impl Progress {
    /// Starts the clock.
    pub(super) fn start() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        if let Ok(style) = ProgressStyle::with_template(SPINNER) {
            bar.set_style(style);
        }
        bar.set_message("running; Ctrl-C cancels");
        Self {
            bar,
            started: Instant::now(),
            shares_screen: std::io::stdout().is_terminal(),
        }
    }

    /// Shows the line after [`APPEARS_AFTER`]. Never ends: poll it beside the statement.
    pub(super) async fn appear(&self) -> Infallible {
        tokio::time::sleep(APPEARS_AFTER.saturating_sub(self.started.elapsed())).await;
        if !self.bar.is_finished() && self.bar.is_hidden() {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            self.bar.enable_steady_tick(TICK);
        }
        std::future::pending().await
    }

    /// Sets the share of the work that is done, from 0 to 1. The bar never shrinks.
    pub(super) fn set_done(&self, done: f64) {
        if self.bar.length().is_none() {
            if let Ok(style) = ProgressStyle::with_template(BAR) {
                self.bar.set_style(style.progress_chars("█>-"));
            }
            self.bar.set_length(WHOLE);
        }
        let position = (done.clamp(0.0, 1.0) * WHOLE as f64) as u64;
        self.bar.set_position(position.max(self.bar.position()));
    }

    /// Fills the bar, if it was shown: the result can be read.
    pub(super) fn set_ready(&self) {
        if self.bar.length().is_some() {
            self.set_done(1.0);
            self.bar.set_message("reading the result; Ctrl-C cancels");
        }
    }

    /// Shows how many rows have arrived.
    pub(super) fn set_rows(&self, rows: u64) {
        self.bar.set_message(format!("rows: {}", HumanCount(rows)));
    }

    /// Clears the line if output goes to the same screen.
    pub(super) fn clear_for_output(&self) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bar_is_clamped_and_never_shrinks() {
        let progress = Progress::start();
        assert_eq!(progress.bar.length(), None, "nothing is known yet");
        for (done, shown) in [
            (0.0, 0),
            (0.25, 250),
            (0.1, 250),
            (f64::NAN, 250),
            (-1.0, 250),
            (0.9994, 999),
            (7.0, 1000),
        ] {
            progress.set_done(done);
            assert_eq!(progress.bar.position(), shown, "{done}");
        }
        assert_eq!(progress.bar.length(), Some(WHOLE));
    }

    #[test]
    fn ready_result_fills_a_shown_bar() {
        let at_once = Progress::start();
        at_once.set_ready();
        assert_eq!(at_once.bar.length(), None, "a spinner stays one");
        let later = Progress::start();
        later.set_done(0.5);
        later.set_ready();
        assert_eq!(later.bar.position(), WHOLE);
        assert!(later.bar.message().contains("reading"));
        later.set_rows(1234);
        assert_eq!(later.bar.message(), "rows: 1,234");
    }
}
