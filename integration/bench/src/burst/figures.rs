//! The figures of `squadron-bench burst`: medians over the runs.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use squadron_scheduler::Policy;

use crate::Verdict;
use crate::isolated::Isolated;
use crate::slowdowns::Slowdowns;
use crate::stats::median;

/// Labels of the two kinds of bursts.
pub(super) const PLAIN: &str = "plain";
pub(super) const PRIORITISED: &str = "prioritised";

/// One burst.
#[derive(Debug, Clone, Default)]
pub(super) struct Burst {
    /// The time of each successful query, from the start of the burst.
    pub(super) seconds: BTreeMap<u8, f64>,
    pub(super) failed: usize,
    pub(super) wrong: usize,
}

impl Burst {
    pub(super) const HEAD: &str = "run policy  burst       makespan s | slowdown: mean    max   Jain | failed wrong";

    fn makespan(&self) -> f64 {
        self.seconds.values().copied().fold(f64::NAN, f64::max)
    }

    fn slowdowns(&self, isolated: &BTreeMap<u8, Isolated>) -> Slowdowns {
        let values = self.seconds.iter();
        let values = values.map(|(query, seconds)| seconds / isolated[query].seconds);
        Slowdowns::of(&values.collect::<Vec<_>>())
    }

    /// `kind`: plain or prioritised.
    pub(super) fn row(&self, run: u32, policy: Policy, kind: &str, isolated: &BTreeMap<u8, Isolated>) -> String {
        let slowdowns = self.slowdowns(isolated);
        format!(
            "{run:>3} {:<7} {kind:<11} {:>10.3} | {:>14.2} {:>6.2} {:>6.3} | {:>6} {:>5}",
            policy.to_string(),
            self.makespan(),
            slowdowns.mean,
            slowdowns.max,
            slowdowns.jain,
            self.failed,
            self.wrong,
        )
    }
}

/// All bursts under one policy.
#[derive(Debug, Default)]
pub(super) struct Runs {
    pub(super) plain: Vec<Burst>,
    pub(super) prioritised: Vec<Burst>,
}

/// All figures.
#[derive(Debug, Serialize)]
pub(crate) struct BurstFigures {
    #[serde(rename = "alone")]
    pub(super) isolated: Vec<Isolated>,
    pub(super) policies: Vec<PolicyFigures>,
}

/// The figures of one policy.
#[derive(Debug, Serialize)]
pub(crate) struct PolicyFigures {
    policy: String,
    plain: BurstSummary,
    /// None when no query is prioritised.
    prioritised: Option<BurstSummary>,
    /// None when no query is prioritised.
    gain: Option<Gain>,
}

/// Medians over the runs of one kind of burst.
#[derive(Debug, Serialize)]
pub(crate) struct BurstSummary {
    makespan_s: f64,
    slowdown_mean: f64,
    slowdown_max: f64,
    jain: f64,
    failed: usize,
    wrong: usize,
    queries: Vec<QuerySummary>,
}

/// One query in all bursts of a kind.
#[derive(Debug, Serialize)]
pub(crate) struct QuerySummary {
    query: u8,
    seconds: f64,
    slowdown: f64,
}

/// The effect of priority, by the medians of each query.
#[derive(Debug, Serialize)]
pub(crate) struct Gain {
    queries: Vec<QueryGain>,
    /// The fraction by which the other queries together took longer; negative: shorter.
    others_sum: f64,
    /// The same of the query that lost most.
    worst_other: f64,
    worst_other_query: Option<u8>,
}

/// One prioritised query.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct QueryGain {
    query: u8,
    /// The fraction by which the query was faster than in the plain bursts.
    faster: f64,
}

impl PolicyFigures {
    pub(super) fn new(policy: Policy, runs: &Runs, isolated: &BTreeMap<u8, Isolated>, prioritised: &[u8]) -> Self {
        let has_prioritised = !runs.prioritised.is_empty();
        Self {
            policy: policy.to_string(),
            plain: BurstSummary::of(&runs.plain, isolated),
            prioritised: has_prioritised.then(|| BurstSummary::of(&runs.prioritised, isolated)),
            gain: has_prioritised.then(|| Gain::of(&medians(&runs.plain), &medians(&runs.prioritised), prioritised)),
        }
    }

    fn faults(&self) -> usize {
        let bursts = [Some(&self.plain), self.prioritised.as_ref()];
        let faults = |burst: &BurstSummary| burst.failed + burst.wrong;
        bursts.into_iter().flatten().map(faults).sum()
    }
}

impl BurstFigures {
    pub(super) fn verdict(&self) -> Verdict {
        match self.policies.iter().all(|policy| policy.faults() == 0) {
            true => Verdict::Good,
            false => Verdict::Bad,
        }
    }
}

/// The median seconds of each query that succeeded in some burst.
fn medians(bursts: &[Burst]) -> BTreeMap<u8, f64> {
    let mut seconds = BTreeMap::<u8, Vec<f64>>::new();
    for (&query, &one) in bursts.iter().flat_map(|burst| &burst.seconds) {
        seconds.entry(query).or_default().push(one);
    }
    let middle = |(query, seconds): (u8, Vec<f64>)| (query, median(&seconds));
    seconds.into_iter().map(middle).collect()
}

impl BurstSummary {
    fn of(bursts: &[Burst], isolated: &BTreeMap<u8, Isolated>) -> Self {
        let slowdowns: Vec<_> = bursts.iter().map(|burst| burst.slowdowns(isolated)).collect();
        let over_runs = |figure: fn(&Slowdowns) -> f64| median(&slowdowns.iter().map(figure).collect::<Vec<_>>());
        let query = |(query, seconds): (u8, f64)| QuerySummary {
            query,
            seconds,
            slowdown: seconds / isolated[&query].seconds,
        };
        Self {
            makespan_s: median(&bursts.iter().map(Burst::makespan).collect::<Vec<_>>()),
            slowdown_mean: over_runs(|it| it.mean),
            slowdown_max: over_runs(|it| it.max),
            jain: over_runs(|it| it.jain),
            failed: bursts.iter().map(|burst| burst.failed).sum(),
            wrong: bursts.iter().map(|burst| burst.wrong).sum(),
            queries: medians(bursts).into_iter().map(query).collect(),
        }
    }
}

impl Gain {
    /// `plain` and `with`: seconds by query, without and with priority.
    fn of(plain: &BTreeMap<u8, f64>, with: &BTreeMap<u8, f64>, prioritised: &[u8]) -> Self {
        let both = plain
            .iter()
            .filter_map(|(query, before)| Some((*query, *before, *with.get(query)?)));
        let (first, others): (Vec<_>, Vec<_>) = both.partition(|(query, ..)| prioritised.contains(query));
        let sum = |figure: fn(&(u8, f64, f64)) -> f64| others.iter().map(figure).sum::<f64>();
        let worst = others
            .iter()
            .map(|(query, before, after)| (*query, after / before - 1.0))
            .max_by(|one, other| one.1.total_cmp(&other.1));
        Self {
            queries: first
                .iter()
                .map(|&(query, before, after)| QueryGain {
                    query,
                    faster: 1.0 - after / before,
                })
                .collect(),
            others_sum: sum(|it| it.2) / sum(|it| it.1) - 1.0,
            worst_other: worst.map_or(f64::NAN, |(_, loss)| loss),
            worst_other_query: worst.map(|(query, _)| query),
        }
    }
}

/// Medians, one line for each policy and kind of burst.
impl fmt::Display for BurstFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<8} {:<11} {:>10} | slowdown: mean    max   Jain",
            "medians", "burst", "makespan s"
        )?;
        for policy in &self.policies {
            let bursts = [(PLAIN, Some(&policy.plain)), (PRIORITISED, policy.prioritised.as_ref())];
            for (kind, burst) in bursts {
                let Some(burst) = burst else { continue };
                writeln!(
                    f,
                    "{:<8} {kind:<11} {:>10.3} | {:>14.2} {:>6.2} {:>6.3}",
                    policy.policy, burst.makespan_s, burst.slowdown_mean, burst.slowdown_max, burst.jain
                )?;
            }
        }
        for policy in &self.policies {
            if let Some(gain) = &policy.gain {
                writeln!(f, "{:<8} {gain}", policy.policy)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Gain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "with priority:")?;
        for QueryGain { query, faster } in &self.queries {
            write!(f, " q{query:02} {:+.1} %,", -faster * 100.0)?;
        }
        write!(f, " sum of others {:+.1} %", self.others_sum * 100.0)?;
        if let Some(query) = self.worst_other_query {
            write!(f, ", worst other q{query:02} {:+.1} %", self.worst_other * 100.0)?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::isolated;

    fn isolated_queries() -> BTreeMap<u8, Isolated> {
        [(1, 1.0), (6, 0.5), (16, 2.0)]
            .map(|(query, seconds)| (query, isolated::sample(query, seconds)))
            .into()
    }

    fn burst(seconds: [f64; 3]) -> Burst {
        Burst {
            seconds: [1, 6, 16].into_iter().zip(seconds).collect(),
            ..Burst::default()
        }
    }

    fn figures() -> PolicyFigures {
        let runs = Runs {
            plain: vec![burst([3.0, 2.0, 4.0]), burst([9.0, 9.0, 9.0]), burst([2.0, 1.0, 4.0])],
            prioritised: vec![burst([3.3, 1.9, 1.0])],
        };
        PolicyFigures::new(Policy::Stride, &runs, &isolated_queries(), &[16])
    }

    /// Figures with every key, also for the test of the documentation.
    pub(crate) fn sample() -> BurstFigures {
        BurstFigures {
            isolated: isolated_queries().into_values().collect(),
            policies: vec![figures()],
        }
    }

    #[test]
    fn summary_is_median_of_runs() {
        let plain = figures().plain;
        assert_eq!((plain.makespan_s, plain.slowdown_max), (4.0, 4.0));
        assert_eq!(plain.slowdown_mean, 3.0);
        let q06 = &plain.queries[1];
        assert_eq!((q06.query, q06.seconds, q06.slowdown), (6, 2.0, 4.0));
    }

    #[test]
    fn gain_compares_prioritised_with_plain() {
        let gain = figures().gain.unwrap();
        let q16 = QueryGain {
            query: 16,
            faster: 0.75,
        };
        assert_eq!(gain.queries, [q16]);
        assert!((gain.others_sum - (5.2 / 5.0 - 1.0)).abs() < 1e-9, "{gain:?}");
        assert!((gain.worst_other - 0.1).abs() < 1e-9, "{gain:?}");
        assert_eq!(gain.worst_other_query, Some(1));
        assert_eq!(
            gain.to_string(),
            "with priority: q16 -75.0 %, sum of others +4.0 %, worst other q01 +10.0 %"
        );
    }

    #[test]
    fn failed_query_makes_verdict_bad() {
        let mut failing = burst([1.0, 1.0, 1.0]);
        failing.failed = 1;
        let runs = Runs {
            plain: vec![burst([1.0, 1.0, 1.0])],
            prioritised: vec![failing],
        };
        let policies = vec![PolicyFigures::new(Policy::Fair, &runs, &isolated_queries(), &[16])];
        let isolated = Vec::new();
        assert_eq!(BurstFigures { isolated, policies }.verdict(), Verdict::Bad);
        assert_eq!(sample().verdict(), Verdict::Good);
    }
}
