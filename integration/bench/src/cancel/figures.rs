//! The figures of the stopped queries.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::observe::{Fate, Leftovers};
use super::scenarios::Way;
use crate::Verdict;
use crate::stats::{Times, percentile};

/// The end of a query that was to be stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Stopped: its client got a cancel, or did not wait for the end.
    Stopped,
    /// Finished with all its rows before the stop.
    Finished,
    /// Its call was dropped after the server had answered: the result waited for a client until `--result-ttl` passed.
    Abandoned,
    /// Ended with another error than a cancel.
    Failed,
    /// Ended well, but with other rows than when measured alone.
    Wrong,
    /// Its client got no answer.
    Hung,
}

/// When the workers had released a query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Released {
    /// Not measured: the query ended before it could be stopped, or before the server had recorded it.
    NotMeasured,
    /// So many milliseconds after the stop.
    After(f64),
    /// Not before the wait after the batch was over.
    Never,
}

/// One query that was to be stopped.
#[derive(Clone, Debug)]
pub(super) struct Stopped {
    /// The number of its scenario.
    pub(super) number: u32,
    pub(super) way: Way,
    pub(super) end: End,
    /// When it was stopped; None when it had ended before.
    pub(super) at: Option<SystemTime>,
    pub(super) released: Released,
}

impl Stopped {
    pub(super) fn new(number: u32, way: Way, end: End, at: Option<SystemTime>) -> Self {
        Self {
            number,
            way,
            end,
            at,
            released: Released::NotMeasured,
        }
    }

    /// Adds what the server recorded of the query; `fates` is by the numbers of scenarios.
    pub(super) fn with_fate(mut self, fates: &BTreeMap<u32, Fate>) -> Self {
        let Some(at) = self.at else {
            return self;
        };
        let fate = match fates.get(&self.number) {
            Some(fate) => *fate,
            // The call may have been dropped before the server had recorded a query.
            None if self.way == Way::DropCall => return self,
            None => Fate::default(),
        };
        self.released = match fate.released {
            Some(released) => Released::After(milliseconds(at, released)),
            None => Released::Never,
        };
        let ended = fate.ended.map_or(0.0, |ended| milliseconds(at, ended));
        if self.way == Way::DropCall && ended >= milliseconds_of(RESULT_TTL) * ABANDONED_FRACTION {
            self.end = End::Abandoned;
        }
        self
    }
}

/// How long a result waits for its client: shorter than the wait after a batch, since a call may be dropped when its
/// answer is already on its way.
pub(super) const RESULT_TTL: Duration = Duration::from_secs(1);

/// A result that waited for this fraction of `RESULT_TTL` after the drop of its call was abandoned: it began to wait
/// before the drop.
const ABANDONED_FRACTION: f64 = 0.9;

/// Milliseconds between the two; 0 when the query ended by itself before the stop.
fn milliseconds(from: SystemTime, to: SystemTime) -> f64 {
    milliseconds_of(to.duration_since(from).unwrap_or_default())
}

fn milliseconds_of(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The counts while the measurement runs.
#[derive(Debug, Default)]
pub(super) struct CancelTally {
    stopped: Vec<Stopped>,
    left: Leftovers,
    batches: usize,
    unclean_batches: usize,
}

impl CancelTally {
    pub(super) fn note(&mut self, stopped: Stopped) {
        self.stopped.push(stopped);
    }

    /// Counts the leftovers after a batch.
    pub(super) fn note_batch(&mut self, left: Leftovers) {
        self.batches += 1;
        self.unclean_batches += usize::from(!left.is_empty());
        self.left = self.left.max(&left);
    }

    pub(super) fn summarise(self, took: Duration) -> CancelFigures {
        let all: Vec<_> = self.stopped.iter().collect();
        let of = |way: Way| -> Vec<_> { all.iter().copied().filter(|one| one.way == way).collect() };
        CancelFigures {
            all: WayFigures::of("all", &all),
            ways: Way::ALL.map(|way| WayFigures::of(way.label(), &of(way))).into(),
            left: self.left,
            batches: self.batches,
            unclean_batches: self.unclean_batches,
            seconds: took.as_secs_f64(),
        }
    }
}

/// All figures.
#[derive(Debug, Serialize)]
pub(crate) struct CancelFigures {
    all: WayFigures,
    ways: Vec<WayFigures>,
    /// The maximum of each over all batches.
    left: Leftovers,
    batches: usize,
    unclean_batches: usize,
    seconds: f64,
}

/// The queries that were stopped in one way, or in all ways together.
#[derive(Debug, Serialize)]
pub(crate) struct WayFigures {
    way: &'static str,
    queries: usize,
    stopped: usize,
    /// Finished before they could be stopped.
    finished: usize,
    /// Queries whose call was dropped too late; their times are not counted.
    abandoned: usize,
    failed: usize,
    wrong: usize,
    hung: usize,
    /// Queries that some worker had not released when the wait after the batch was over.
    #[serde(rename = "unfreed")]
    unreleased: usize,
    p90_ms: f64,
    #[serde(flatten)]
    times: Times,
}

impl WayFigures {
    fn of(way: &'static str, queries: &[&Stopped]) -> Self {
        // The time of an abandoned result is a setting of the server, and says nothing about cancels.
        let timed = queries.iter().filter(|one| one.end != End::Abandoned);
        let times = timed.filter_map(|one| match one.released {
            Released::After(milliseconds) => Some(milliseconds),
            Released::NotMeasured | Released::Never => None,
        });
        let times: Vec<_> = times.collect();
        let unreleased = queries.iter().filter(|one| one.released == Released::Never);
        let ended = |end: End| queries.iter().filter(|one| one.end == end).count();
        Self {
            way,
            queries: queries.len(),
            stopped: ended(End::Stopped),
            finished: ended(End::Finished),
            abandoned: ended(End::Abandoned),
            failed: ended(End::Failed),
            wrong: ended(End::Wrong),
            hung: ended(End::Hung),
            unreleased: unreleased.count(),
            p90_ms: percentile(&times, 90.0),
            times: Times::of(&times),
        }
    }
}

impl CancelFigures {
    pub(super) fn verdict(&self) -> Verdict {
        let all = &self.all;
        let faults = all.failed + all.wrong + all.hung + all.unreleased + self.unclean_batches;
        match faults {
            0 => Verdict::Good,
            _ => Verdict::Bad,
        }
    }
}

impl fmt::Display for CancelFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<18} {:>7} {:>7} {:>8} {:>9} {:>6} {:>5} {:>4} {:>7} | until free, ms: p50     p90     p99     max",
            "way", "queries", "stopped", "finished", "abandoned", "failed", "wrong", "hung", "unfreed"
        )?;
        for one in self.ways.iter().chain([&self.all]) {
            writeln!(
                f,
                "{:<18} {:>7} {:>7} {:>8} {:>9} {:>6} {:>5} {:>4} {:>7} | {:>19.1} {:>7.1} {:>7.1} {:>7.1}",
                one.way,
                one.queries,
                one.stopped,
                one.finished,
                one.abandoned,
                one.failed,
                one.wrong,
                one.hung,
                one.unreleased,
                one.times.p50_ms,
                one.p90_ms,
                one.times.p99_ms,
                one.times.max_ms,
            )?;
        }
        write!(
            f,
            "left behind        {} of {} times: {}",
            self.unclean_batches, self.batches, self.left
        )
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn stopped(way: Way, end: End, released: Released) -> Stopped {
        Stopped {
            released,
            ..Stopped::new(0, way, end, None)
        }
    }

    fn tally() -> CancelTally {
        let mut tally = CancelTally::default();
        tally.note(stopped(Way::KillQuery, End::Stopped, Released::After(4.0)));
        tally.note(stopped(Way::KillQuery, End::Finished, Released::NotMeasured));
        tally.note(stopped(Way::DropCall, End::Stopped, Released::After(8.0)));
        tally.note(stopped(Way::DropCall, End::Abandoned, Released::After(900.0)));
        tally.note_batch(Leftovers {
            files: Some(0),
            ..Leftovers::default()
        });
        tally
    }

    /// Figures with every key, also for the test of the documentation.
    pub(crate) fn sample() -> CancelFigures {
        tally().summarise(Duration::from_secs(1))
    }

    #[test]
    fn ends_are_counted_per_way() {
        let figures = sample();
        let kill = &figures.ways[1];
        assert_eq!((kill.way, kill.queries), ("KILL QUERY", 2));
        assert_eq!((kill.stopped, kill.finished, kill.unreleased), (1, 1, 0));
        assert_eq!((kill.times.p50_ms, figures.all.times.max_ms), (4.0, 8.0));
        assert_eq!(figures.verdict(), Verdict::Good);
    }

    #[test]
    fn leftovers_and_wrong_ends_are_faults() {
        let bad = |change: &dyn Fn(&mut CancelTally)| {
            let mut tally = tally();
            change(&mut tally);
            assert_eq!(tally.summarise(Duration::ZERO).verdict(), Verdict::Bad);
        };
        for end in [End::Failed, End::Wrong, End::Hung] {
            bad(&|tally| tally.note(stopped(Way::DropStream, end, Released::After(1.0))));
        }
        bad(&|tally| tally.note(stopped(Way::DropStream, End::Stopped, Released::Never)));
        bad(&|tally| {
            tally.note_batch(Leftovers {
                used_slots: 1,
                ..Leftovers::default()
            });
        });
    }

    #[test]
    fn release_time_comes_from_recorded_fate() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(10);
        let after = |milliseconds| Some(at + Duration::from_millis(milliseconds));
        let of = |way, fate: Option<Fate>| {
            let fates = fate.map(|fate| (7, fate)).into_iter().collect();
            let stopped = Stopped::new(7, way, End::Stopped, Some(at)).with_fate(&fates);
            (stopped.end, stopped.released)
        };
        let fate = |ended, released| Some(Fate { ended, released });
        let kill = Way::KillQuery;
        assert_eq!(of(kill, None), (End::Stopped, Released::Never));
        let unknown = of(Way::DropCall, None);
        assert_eq!(unknown, (End::Stopped, Released::NotMeasured));
        let soon = of(kill, fate(after(2), after(5)));
        assert_eq!(soon, (End::Stopped, Released::After(5.0)));
        let never = of(kill, fate(after(2), None));
        assert_eq!(never, (End::Stopped, Released::Never));
        let late = of(Way::DropCall, fate(after(950), after(955)));
        assert_eq!(late, (End::Abandoned, Released::After(955.0)));
    }
}
