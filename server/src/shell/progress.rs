//! The line on the terminal that moves while a statement runs.
//!
//! ```text
//! ⠙ 2s running; Ctrl-C cancels                                    the server says nothing of how far it is
//! ⠙ 4s [██████████>-------------------] 37 % running; Ctrl-C cancels
//! ⠙ 9s [██████████████████████████████] 100 % rows: 120,000         the result is being read
//! ```

use std::convert::Infallible;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

const TICK: Duration = Duration::from_millis(100);

/// A faster statement shows no line, which would only flicker.
const APPEARS_AFTER: Duration = Duration::from_millis(300);

/// The whole of the work, in the parts that the line tells apart.
const WHOLE: u64 = 1000;

const SPINNER: &str = "{spinner} {elapsed} {msg}";
const BAR: &str = "{spinner} {elapsed} [{bar:30}] {percent} % {msg}";

/// A line on standard error with the time, how far the statement is once the server says so, and the rows once they flow.
/// Nothing is drawn when standard error is no terminal. Dropping it clears the line.
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
        if let Ok(style) = ProgressStyle::with_template(SPINNER) {
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

    /// Says how much of the work is done, from 0 to 1. The bar never goes back.
    pub(super) fn share(&self, done: f64) {
        if self.bar.length().is_none() {
            if let Ok(style) = ProgressStyle::with_template(BAR) {
                self.bar.set_style(style.progress_chars("█>-"));
            }
            self.bar.set_length(WHOLE);
        }
        let position = (done.clamp(0.0, 1.0) * WHOLE as f64) as u64;
        self.bar.set_position(position.max(self.bar.position()));
    }

    /// Says that the result can be read. A bar that was shown is full; of what can be read at once nothing was told.
    pub(super) fn ready(&self) {
        if self.bar.length().is_some() {
            self.share(1.0);
            self.bar.set_message("reading the result; Ctrl-C cancels");
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_within_its_ends_and_never_goes_back() {
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
            progress.share(done);
            assert_eq!(progress.bar.position(), shown, "{done}");
        }
        assert_eq!(progress.bar.length(), Some(WHOLE));
    }

    #[test]
    fn a_result_that_can_be_read_fills_a_bar_that_was_shown() {
        let at_once = Progress::start();
        at_once.ready();
        assert_eq!(at_once.bar.length(), None, "a spinner stays one");
        let later = Progress::start();
        later.share(0.5);
        later.ready();
        assert_eq!(later.bar.position(), WHOLE);
        assert!(later.bar.message().contains("reading"));
        later.rows(1234);
        assert_eq!(later.bar.message(), "rows: 1,234");
    }
}
