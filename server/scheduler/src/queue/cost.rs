//! What a query will probably cost: as much as the same plan did, else as much as reading its bytes usually does.
//!
//! Costs are processor time in microseconds, or slot time where attempts reported none. Only queries that finished are
//! learnt from.

use std::collections::{BTreeMap, HashMap};

/// The predicted cost of a query of which nothing is known; low, so that it runs soon and its cost becomes known.
const UNKNOWN_US: u64 = 20_000;
/// The assumed cost of reading before anything was measured: a processor reads 200 MB a second.
const FIRST_RATE: Rate = Rate {
    spent_us: 5_000_000,
    read_bytes: 1_000_000_000,
};
/// How much measured cost halves the weight of older measurements.
const RATE_WINDOW_US: u64 = 600_000_000;

/// What finished queries cost.
#[derive(Debug)]
pub(crate) struct Costs {
    /// How many plans are remembered.
    limit: usize,
    by_plan: HashMap<u64, Measured>,
    /// The plans by their last use, the oldest first.
    by_age: BTreeMap<u64, u64>,
    uses: u64,
    rate: Rate,
}

#[derive(Debug, Clone, Copy)]
struct Measured {
    cost_us: u64,
    last_use: u64,
}

#[derive(Debug, Clone, Copy)]
struct Rate {
    spent_us: u64,
    read_bytes: u64,
}

impl Costs {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            by_plan: HashMap::new(),
            by_age: BTreeMap::new(),
            uses: 0,
            rate: FIRST_RATE,
        }
    }

    /// The probable cost of a query with this plan that reads `bytes`.
    pub(crate) fn predict(&self, plan: Option<u64>, bytes: u64) -> u64 {
        if let Some(measured) = plan.and_then(|plan| self.by_plan.get(&plan)) {
            return measured.cost_us;
        }
        if bytes == 0 {
            return UNKNOWN_US;
        }
        let cost = u128::from(bytes) * u128::from(self.rate.spent_us) / u128::from(self.rate.read_bytes.max(1));
        u64::try_from(cost).unwrap_or(u64::MAX)
    }

    /// Learns from a finished query.
    pub(crate) fn learn(&mut self, plan: Option<u64>, bytes: u64, cost_us: u64) {
        if bytes > 0 {
            self.rate.spent_us = self.rate.spent_us.saturating_add(cost_us);
            self.rate.read_bytes = self.rate.read_bytes.saturating_add(bytes);
            if self.rate.spent_us > RATE_WINDOW_US {
                self.rate.spent_us /= 2;
                self.rate.read_bytes = (self.rate.read_bytes / 2).max(1);
            }
        }
        if let Some(plan) = plan {
            self.remember(plan, cost_us);
        }
    }

    /// Remembers the mean of this cost and the one remembered so far, so that one odd run has a limited effect.
    fn remember(&mut self, plan: u64, cost_us: u64) {
        self.uses += 1;
        let measured = Measured {
            cost_us,
            last_use: self.uses,
        };
        let known = self.by_plan.entry(plan).or_insert(measured);
        self.by_age.remove(&known.last_use);
        *known = Measured {
            cost_us: known.cost_us / 2 + cost_us.div_ceil(2),
            last_use: self.uses,
        };
        self.by_age.insert(self.uses, plan);
        if self.by_plan.len() > self.limit
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.by_plan.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_plan_predicts_measured_cost() {
        let mut costs = Costs::new(8);
        assert_eq!(costs.predict(Some(1), 0), UNKNOWN_US);
        costs.learn(Some(1), 0, 700);
        assert_eq!(costs.predict(Some(1), 1 << 40), 700);
        costs.learn(Some(1), 0, 500);
        assert_eq!(costs.predict(Some(1), 0), 600);
        assert_eq!(costs.predict(Some(2), 0), UNKNOWN_US);
    }

    #[test]
    fn unknown_plan_costs_by_bytes_read() {
        let mut costs = Costs::new(8);
        assert_eq!(costs.predict(None, 200_000_000), 1_000_000);
        for _ in 0..100 {
            costs.learn(None, 1_000_000_000, 50_000_000);
        }
        let ten_times_slower = costs.predict(None, 200_000_000);
        assert!(
            (9_000_000..=10_000_000).contains(&ten_times_slower),
            "{ten_times_slower}"
        );
    }

    #[test]
    fn least_recent_plan_is_forgotten() {
        let mut costs = Costs::new(2);
        for plan in [1, 2, 1, 3] {
            costs.learn(Some(plan), 0, 700);
        }
        assert_eq!(costs.predict(Some(2), 0), UNKNOWN_US);
        assert_eq!((costs.predict(Some(1), 0), costs.predict(Some(3), 0)), (700, 700));
        assert_eq!((costs.by_plan.len(), costs.by_age.len()), (2, 2));
    }
}
