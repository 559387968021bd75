//! What became of the queries that were stopped.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::super::Verdict;
use super::super::stats::{Times, percentile};
use super::RESULT_TTL;
use super::observe::{Fate, Left};
use super::scenarios::Way;

/// How a query ended that was to be stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Its client was told so, or did not wait for it.
    Stopped,
    /// It was faster, and gave all its rows.
    Finished,
    /// Its call was dropped when the server had answered already: its result waited for a client until its time was over.
    Abandoned,
    /// With something else than a cancel.
    Failed,
    /// Well, but with other rows than alone.
    Wrong,
    /// Its client was never told.
    Hung,
}

/// When nothing of a query ran any more.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Freed {
    /// It ended before it could be stopped, or before the server knew it as a query.
    Unasked,
    /// So many milliseconds after it was stopped.
    After(f64),
    /// Not when everybody had waited for that.
    Never,
}

/// One query that was to be stopped.
#[derive(Clone, Debug)]
pub(super) struct Stopped {
    /// Of its order.
    pub(super) number: u32,
    pub(super) way: Way,
    pub(super) end: End,
    /// When it was stopped; none where it ended before.
    pub(super) at: Option<SystemTime>,
    pub(super) freed: Freed,
}

impl Stopped {
    pub(super) fn new(number: u32, way: Way, end: End, at: Option<SystemTime>) -> Self {
        Self {
            number,
            way,
            end,
            at,
            freed: Freed::Unasked,
        }
    }

    /// With what the server says became of the queries, by the numbers of their orders.
    pub(super) fn with_fate(mut self, fates: &BTreeMap<u32, Fate>) -> Self {
        let Some(at) = self.at else {
            return self;
        };
        let fate = match fates.get(&self.number) {
            Some(fate) => *fate,
            // Its call may have been dropped before there was a query.
            None if self.way == Way::DropCall => return self,
            None => Fate::default(),
        };
        self.freed = match fate.freed {
            Some(freed) => Freed::After(milliseconds(at, freed)),
            None => Freed::Never,
        };
        let ended = fate.ended.map_or(0.0, |ended| milliseconds(at, ended));
        if self.way == Way::DropCall && ended >= milliseconds_of(RESULT_TTL) * WAITED {
            self.end = End::Abandoned;
        }
        self
    }
}

/// The part of the time for which a result waits that one has surely waited for, since it began to before its call was dropped.
const WAITED: f64 = 0.9;

/// 0 where the query ended by itself just then.
fn milliseconds(from: SystemTime, to: SystemTime) -> f64 {
    milliseconds_of(to.duration_since(from).unwrap_or_default())
}

fn milliseconds_of(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// All of them, as they come.
#[derive(Debug, Default)]
pub(super) struct CancelTally {
    stopped: Vec<Stopped>,
    left: Left,
    batches: usize,
    unclean_batches: usize,
}

impl CancelTally {
    pub(super) fn note(&mut self, stopped: Stopped) {
        self.stopped.push(stopped);
    }

    /// What was left behind after some more.
    pub(super) fn after_batch(&mut self, left: Left) {
        self.batches += 1;
        self.unclean_batches += usize::from(!left.is_nothing());
        self.left = self.left.most(&left);
    }

    pub(super) fn summed_up(self, took: Duration) -> CancelFigures {
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
pub(in super::super) struct CancelFigures {
    all: WayFigures,
    ways: Vec<WayFigures>,
    /// The most of each that was there after a batch.
    left: Left,
    batches: usize,
    unclean_batches: usize,
    seconds: f64,
}

/// The queries that were stopped in one way, or in any.
#[derive(Debug, Serialize)]
pub(in super::super) struct WayFigures {
    way: &'static str,
    queries: usize,
    stopped: usize,
    /// Before they could be stopped.
    finished: usize,
    /// Whose call was dropped too late; they are no part of the times.
    abandoned: usize,
    failed: usize,
    wrong: usize,
    hung: usize,
    /// Which workers still ran when patience was over.
    unfreed: usize,
    p90_ms: f64,
    #[serde(flatten)]
    times: Times,
}

impl WayFigures {
    fn of(way: &'static str, queries: &[&Stopped]) -> Self {
        // What a result waits for its client is a setting of the server, and tells nothing of cancels.
        let timed = queries.iter().filter(|one| one.end != End::Abandoned);
        let times = timed.filter_map(|one| match one.freed {
            Freed::After(milliseconds) => Some(milliseconds),
            Freed::Unasked | Freed::Never => None,
        });
        let times: Vec<_> = times.collect();
        let unfreed = queries.iter().filter(|one| one.freed == Freed::Never);
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
            unfreed: unfreed.count(),
            p90_ms: percentile(&times, 90.0),
            times: Times::of(&times),
        }
    }
}

impl CancelFigures {
    pub(super) fn verdict(&self) -> Verdict {
        let all = &self.all;
        let faults = all.failed + all.wrong + all.hung + all.unfreed + self.unclean_batches;
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
                one.unfreed,
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

    fn stopped(way: Way, end: End, freed: Freed) -> Stopped {
        Stopped {
            freed,
            ..Stopped::new(0, way, end, None)
        }
    }

    fn tally() -> CancelTally {
        let mut tally = CancelTally::default();
        tally.note(stopped(Way::KillQuery, End::Stopped, Freed::After(4.0)));
        tally.note(stopped(Way::KillQuery, End::Finished, Freed::Unasked));
        tally.note(stopped(Way::DropCall, End::Stopped, Freed::After(8.0)));
        tally.note(stopped(Way::DropCall, End::Abandoned, Freed::After(900.0)));
        tally.after_batch(Left {
            files: Some(0),
            ..Left::default()
        });
        tally
    }

    /// Figures with every key, also for the test of the documentation.
    pub(in super::super::super) fn sample() -> CancelFigures {
        tally().summed_up(Duration::from_secs(1))
    }

    #[test]
    fn ends_are_counted_by_way() {
        let figures = sample();
        let kill = &figures.ways[1];
        assert_eq!((kill.way, kill.queries), ("KILL QUERY", 2));
        assert_eq!((kill.stopped, kill.finished, kill.unfreed), (1, 1, 0));
        assert_eq!((kill.times.p50_ms, figures.all.times.max_ms), (4.0, 8.0));
        assert_eq!(figures.verdict(), Verdict::Good);
    }

    #[test]
    fn whatever_stays_or_lies_is_a_fault() {
        let bad = |change: &dyn Fn(&mut CancelTally)| {
            let mut tally = tally();
            change(&mut tally);
            assert_eq!(tally.summed_up(Duration::ZERO).verdict(), Verdict::Bad);
        };
        for end in [End::Failed, End::Wrong, End::Hung] {
            bad(&|tally| tally.note(stopped(Way::DropStream, end, Freed::After(1.0))));
        }
        bad(&|tally| tally.note(stopped(Way::DropStream, End::Stopped, Freed::Never)));
        bad(&|tally| {
            tally.after_batch(Left {
                used_slots: 1,
                ..Left::default()
            });
        });
    }

    #[test]
    fn the_server_says_when_nothing_of_a_query_ran_any_more() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(10);
        let after = |milliseconds| Some(at + Duration::from_millis(milliseconds));
        let of = |way, fate: Option<Fate>| {
            let fates = fate.map(|fate| (7, fate)).into_iter().collect();
            let stopped = Stopped::new(7, way, End::Stopped, Some(at)).with_fate(&fates);
            (stopped.end, stopped.freed)
        };
        let fate = |ended, freed| Some(Fate { ended, freed });
        let kill = Way::KillQuery;
        assert_eq!(of(kill, None), (End::Stopped, Freed::Never));
        let unknown = of(Way::DropCall, None);
        assert_eq!(unknown, (End::Stopped, Freed::Unasked));
        let soon = of(kill, fate(after(2), after(5)));
        assert_eq!(soon, (End::Stopped, Freed::After(5.0)));
        let never = of(kill, fate(after(2), None));
        assert_eq!(never, (End::Stopped, Freed::Never));
        let late = of(Way::DropCall, fate(after(950), after(955)));
        assert_eq!(late, (End::Abandoned, Freed::After(955.0)));
    }
}
