//! Which queries arrive, and when.

use std::time::Duration;

use squadron_scheduler::simulate::Rng;

/// The mix of arriving queries.
#[derive(Debug)]
pub(super) struct Mix {
    pub(super) short: Vec<u8>,
    pub(super) long: Vec<u8>,
    /// The fraction of short queries.
    pub(super) short_part: f64,
    /// Mean processor seconds of a query.
    pub(super) mean_cpu: f64,
}

/// A scheduled arrival of a query.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Arrival {
    /// Time after the start.
    pub(super) at: Duration,
    pub(super) query: u8,
    pub(super) is_long: bool,
}

impl Mix {
    /// Draws a Poisson process that brings, on average, the fraction `load` of the work that `slots` processors can do
    /// in `span`.
    pub(super) fn arrivals(&self, rng: &mut Rng, slots: usize, load: f64, span: Duration) -> Vec<Arrival> {
        let between = Duration::from_secs_f64(self.mean_cpu / (load * slots as f64));
        let mut at = Duration::ZERO;
        let mut arrivals = Vec::new();
        loop {
            // Queries without measurable processor time would arrive endlessly.
            at += rng.wait(between.max(Duration::from_micros(100)));
            if at >= span {
                return arrivals;
            }
            let is_long = !rng.happens(self.short_part);
            let drawn = if is_long { &self.long } else { &self.short };
            let index = rng.below(drawn.len() as u64);
            arrivals.push(Arrival {
                at,
                query: drawn[usize::try_from(index).unwrap_or_default()],
                is_long,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mix() -> Mix {
        Mix {
            short: vec![6, 14],
            long: vec![18],
            short_part: 0.9,
            mean_cpu: 0.1,
        }
    }

    #[test]
    fn arrivals_bring_the_requested_load() {
        let span = Duration::from_secs(1_000);
        let arrivals = mix().arrivals(&mut Rng::new(1, 1), 2, 0.7, span);
        let expected = 0.7 * 2.0 * 1_000.0 / 0.1;
        let count = arrivals.len() as f64;
        assert!((count / expected - 1.0).abs() < 0.03, "{count} of {expected}");
        assert!(arrivals.is_sorted_by_key(|arrival| arrival.at));
        let part = |of: fn(&Arrival) -> bool| arrivals.iter().filter(|arrival| of(arrival)).count() as f64 / count;
        assert!((part(|arrival| arrival.is_long) - 0.1).abs() < 0.01);
        assert!((part(|arrival| arrival.query == 6) - 0.45).abs() < 0.02);
        assert!(arrivals.iter().all(|one| one.is_long == (one.query == 18)));
    }

    #[test]
    fn gaps_follow_a_poisson_process() {
        let span = Duration::from_secs(1_000);
        let arrivals = mix().arrivals(&mut Rng::new(1, 1), 1, 0.5, span);
        let gaps: Vec<f64> = arrivals
            .windows(2)
            .map(|two| (two[1].at - two[0].at).as_secs_f64())
            .collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let squares = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>();
        let deviation = (squares / gaps.len() as f64).sqrt();
        assert!((deviation / mean - 1.0).abs() < 0.05, "{deviation} of {mean}");
    }
}
