//! How long one run of a query took.

use serde::Serialize;

/// One timed run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Timing {
    pub(crate) seconds: f64,
    /// Of all processes and the client; not known for a server that was not started here.
    pub(crate) cpu_seconds: Option<f64>,
}

impl Timing {
    pub(crate) fn new(seconds: f64, cpu_before: Option<f64>, cpu_after: Option<f64>) -> Self {
        Self {
            seconds,
            cpu_seconds: cpu_after.zip(cpu_before).map(|(after, before)| after - before),
        }
    }
}
