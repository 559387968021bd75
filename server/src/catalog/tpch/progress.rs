//! Progress of the generator: a bar on a terminal, otherwise a few lines in the log.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{ProgressBar, ProgressStyle};

/// The progress between two log lines, in per cent.
const LOG_STEP_PERCENT: u64 = 20;

pub(super) struct Progress {
    scale: f64,
    total_rows: u64,
    rows: AtomicU64,
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(super) fn new(scale: f64, total_rows: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{msg} [{wide_bar}] {percent}% {human_pos} rows, {eta} left");
            ProgressBar::new(total_rows)
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
                .with_message(format!("TPC-H scale {scale}"))
        });
        if bar.is_none() {
            tracing::info!("generating TPC-H scale {scale}, about {total_rows} rows");
        }
        Self {
            scale,
            total_rows,
            rows: AtomicU64::new(0),
            bar,
        }
    }

    pub(super) fn add(&self, rows: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(rows);
            return;
        }
        let before = self.rows.fetch_add(rows, Ordering::Relaxed);
        let step = |rows: u64| rows * 100 / self.total_rows.max(1) / LOG_STEP_PERCENT;
        let (passed, now) = (step(before), step(before + rows));
        if now > passed && now * LOG_STEP_PERCENT < 100 {
            tracing::info!("generating TPC-H scale {}: {} %", self.scale, now * LOG_STEP_PERCENT);
        }
    }

    pub(super) fn finish(self) {
        match self.bar {
            Some(bar) => bar.finish_and_clear(),
            None => tracing::info!("generated TPC-H scale {}", self.scale),
        }
    }
}
