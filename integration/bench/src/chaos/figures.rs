//! The figures of `squadron-bench chaos`.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::faults::Fault;
use crate::Verdict;

/// How queries ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Queries {
    #[serde(rename = "queries")]
    pub(super) run: u64,
    pub(super) writes: u64,
    pub(super) recovered: u64,
    pub(super) failed_cleanly: u64,
    pub(super) failed: u64,
    pub(super) wrong: u64,
    pub(super) hung: u64,
}

impl Queries {
    pub(super) fn merge(self, other: Self) -> Self {
        Self {
            run: self.run + other.run,
            writes: self.writes + other.writes,
            recovered: self.recovered + other.recovered,
            failed_cleanly: self.failed_cleanly + other.failed_cleanly,
            failed: self.failed + other.failed,
            wrong: self.wrong + other.wrong,
            hung: self.hung + other.hung,
        }
    }
}

/// All figures.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ChaosFigures {
    seconds: f64,
    faults: BTreeMap<Fault, u64>,
    #[serde(flatten)]
    queries: Queries,
    leaked: u64,
}

impl ChaosFigures {
    pub(super) fn new(seconds: f64, faults: BTreeMap<Fault, u64>, queries: Queries, leaked: u64) -> Self {
        Self {
            seconds,
            faults,
            queries,
            leaked,
        }
    }

    pub(super) fn verdict(&self) -> Verdict {
        let Queries {
            failed, wrong, hung, ..
        } = self.queries;
        match failed + wrong + hung + self.leaked {
            0 => Verdict::Good,
            _ => Verdict::Bad,
        }
    }
}

impl fmt::Display for ChaosFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count: u64 = self.faults.values().sum();
        let by_kind = self.faults.iter().map(|(fault, count)| format!("{fault:?} {count}"));
        writeln!(
            f,
            "{count} faults in {:.0} s: {}",
            self.seconds,
            by_kind.collect::<Vec<_>>().join(", ")
        )?;
        let Queries {
            run,
            writes,
            recovered,
            failed_cleanly,
            failed,
            wrong,
            hung,
        } = self.queries;
        write!(
            f,
            "{run} queries and {writes} writes: {recovered} recovered, {failed_cleanly} failed cleanly, {failed} failed otherwise, {wrong} wrong, \
             {hung} hung; {} leaked",
            self.leaked
        )
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Figures with every key.
    pub(crate) fn sample() -> impl Serialize {
        ChaosFigures::new(1.0, BTreeMap::from([(Fault::Kill, 1)]), Queries::default(), 0)
    }

    #[test]
    fn only_clean_failures_are_good() {
        let figures = |queries, leaked| ChaosFigures::new(1.0, BTreeMap::new(), queries, leaked);
        let clean = Queries {
            run: 2,
            recovered: 1,
            failed_cleanly: 1,
            ..Queries::default()
        };
        assert_eq!(figures(clean.clone(), 0).verdict(), Verdict::Good);
        assert_eq!(figures(clean.clone(), 1).verdict(), Verdict::Bad);
        for bad in [
            Queries {
                wrong: 1,
                ..clean.clone()
            },
            Queries {
                hung: 1,
                ..clean.clone()
            },
            Queries { failed: 1, ..clean },
        ] {
            assert_eq!(figures(bad, 0).verdict(), Verdict::Bad);
        }
    }
}
