//! The figures of `squadron-bench soak`.

use std::collections::BTreeMap;
use std::{fmt, fs};

use serde::Serialize;

use super::client::{Action, End};
use crate::{Verdict, usage};

/// How much of each the processes may hold more than before: allocators keep some memory, and runtimes some threads.
const ALLOWANCES: [(&str, u64); 4] = [
    ("memory_bytes", 96 * 1024 * 1024),
    ("handles", 8),
    ("threads", 8),
    ("spilled_files", 0),
];

/// What processes hold, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Footprint(pub(super) BTreeMap<&'static str, u64>);

impl Footprint {
    /// Memory, handles and threads of one process.
    pub(super) fn of_process(pid: u32) -> Option<[(&'static str, u64); 3]> {
        let handles = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64;
        let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?.count() as u64;
        let memory = usage::memory_bytes(pid)?;
        Some([("memory_bytes", memory), ("handles", handles), ("threads", threads)])
    }

    /// What is more than in `before` and not allowed to be, with the excess.
    pub(super) fn growth(&self, before: &Self) -> BTreeMap<&'static str, u64> {
        let held = |footprint: &Self, name| footprint.0.get(name).copied().unwrap_or(0);
        let grown = ALLOWANCES.into_iter().map(|(name, allowance)| {
            let excess = held(self, name).saturating_sub(held(before, name));
            (name, if excess > allowance { excess } else { 0 })
        });
        grown.filter(|(_, excess)| *excess > 0).collect()
    }
}

impl fmt::Display for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = |name| self.0.get(name).copied().unwrap_or(0);
        write!(
            f,
            "{} MiB, {} handles, {} threads, {} spilled files",
            held("memory_bytes") >> 20,
            held("handles"),
            held("threads"),
            held("spilled_files"),
        )
    }
}

/// How the actions ended.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Tally {
    actions: BTreeMap<Action, u64>,
    wrong: u64,
    failed: u64,
}

impl Tally {
    pub(super) fn note(&mut self, action: Action, end: End) {
        *self.actions.entry(action).or_insert(0) += 1;
        match end {
            End::Good => {}
            End::Wrong => self.wrong += 1,
            End::Failed => self.failed += 1,
        }
    }

    pub(super) fn merge(mut self, other: Self) -> Self {
        for (action, count) in other.actions {
            *self.actions.entry(action).or_insert(0) += count;
        }
        self.wrong += other.wrong;
        self.failed += other.failed;
        self
    }
}

/// All figures.
#[derive(Clone, Debug, Serialize)]
pub(super) struct SoakFigures {
    seconds: f64,
    #[serde(flatten)]
    tally: Tally,
    /// After the warm-up.
    before: Footprint,
    /// At the end.
    after: Footprint,
    /// What is more than allowed at the end.
    growth: BTreeMap<&'static str, u64>,
}

impl SoakFigures {
    pub(super) fn new(seconds: f64, tally: Tally, before: Footprint, after: Footprint) -> Self {
        Self {
            seconds,
            growth: after.growth(&before),
            tally,
            before,
            after,
        }
    }

    pub(super) fn verdict(&self) -> Verdict {
        match self.tally.wrong + self.tally.failed == 0 && self.growth.is_empty() {
            true => Verdict::Good,
            false => Verdict::Bad,
        }
    }
}

impl fmt::Display for SoakFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count: u64 = self.tally.actions.values().sum();
        writeln!(
            f,
            "{count} actions in {:.0} s: {} wrong, {} failed",
            self.seconds, self.tally.wrong, self.tally.failed
        )?;
        writeln!(f, "before: {}", self.before)?;
        write!(f, "after:  {}", self.after)?;
        match self.growth.is_empty() {
            true => Ok(()),
            false => write!(f, "\ngrown by more than allowed: {:?}", self.growth),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn footprint(memory_bytes: u64, handles: u64) -> Footprint {
        Footprint(BTreeMap::from([
            ("memory_bytes", memory_bytes),
            ("handles", handles),
            ("threads", 9),
            ("spilled_files", 0),
        ]))
    }

    /// Figures with every key, also for the test of the documentation.
    pub(crate) fn sample() -> impl Serialize {
        figures(footprint(1 << 30, 99))
    }

    fn figures(after: Footprint) -> SoakFigures {
        let mut tally = Tally::default();
        tally.note(Action::Read, End::Good);
        SoakFigures::new(1.0, tally, footprint(200 << 20, 50), after)
    }

    #[test]
    fn growth_beyond_the_allowance_is_bad() {
        assert_eq!(figures(footprint(210 << 20, 52)).verdict(), Verdict::Good);
        let grown = figures(footprint(210 << 20, 70));
        assert_eq!(grown.verdict(), Verdict::Bad);
        assert_eq!(grown.growth, BTreeMap::from([("handles", 20)]));
        assert_eq!(figures(footprint(1 << 30, 50)).verdict(), Verdict::Bad);
    }

    #[test]
    fn wrong_or_failed_action_is_bad() {
        for end in [End::Wrong, End::Failed] {
            let mut one = figures(footprint(200 << 20, 50));
            one.tally.note(Action::Kill, end);
            assert_eq!(one.verdict(), Verdict::Bad);
        }
    }
}
