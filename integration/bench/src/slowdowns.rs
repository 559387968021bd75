//! Slowdowns: how much longer queries took than with a server to themselves, and how evenly.

use serde::Serialize;

use crate::stats::percentile;

/// Slowdowns of some queries: the time from the intended arrival to the last row, divided by the time of the query with
/// a server to itself.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Slowdowns {
    pub(super) queries: usize,
    pub(super) mean: f64,
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
    /// Jain's fairness index: 1 when all slowdowns are equal.
    pub(super) jain: f64,
}

impl Slowdowns {
    pub(super) fn of(values: &[f64]) -> Self {
        let sum: f64 = values.iter().sum();
        let squares: f64 = values.iter().map(|value| value * value).sum();
        let count = values.len() as f64;
        Self {
            queries: values.len(),
            mean: sum / count,
            p50: percentile(values, 50.0),
            p99: percentile(values, 99.0),
            max: percentile(values, 100.0),
            jain: sum * sum / (count * squares),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slowdowns_match_known_values() {
        let even = Slowdowns::of(&[2.0, 2.0]);
        assert_eq!((even.mean, even.max, even.jain), (2.0, 2.0, 1.0));
        let uneven = Slowdowns::of(&[1.0, 3.0]);
        assert_eq!((uneven.mean, uneven.jain), (2.0, 0.8));
    }
}
