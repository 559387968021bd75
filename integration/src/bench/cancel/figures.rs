//! What became of the queries that were stopped.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::super::Verdict;
use super::super::stats::{Times, percentile};
use super::looks::Left;
use super::orders::Way;

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

/// What was seen of it afterwards.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Until nothing of it was live; none when that took too long, or nobody looked.
    pub(super) free_ms: Option<f64>,
    /// How long each look took.
    pub(super) look_ms: Vec<f64>,
    /// Whether its result waited for a client.
    pub(super) is_abandoned: bool,
}

/// One query that was to be stopped.
#[derive(Clone, Debug)]
pub(super) struct Stopped {
    pub(super) way: Way,
    pub(super) end: End,
    pub(super) seen: Seen,
}

impl Stopped {
    /// It ended before it could be stopped.
    pub(super) fn unfollowed(way: Way, end: End) -> Self {
        Self::seen(way, end, Seen::default())
    }

    pub(super) fn seen(way: Way, end: End, seen: Seen) -> Self {
        Self { way, end, seen }
    }

    /// Whether somebody looked, and it was live to the end of their patience.
    pub(super) fn is_unfreed(&self) -> bool {
        self.seen.free_ms.is_none() && !self.seen.look_ms.is_empty()
    }
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
        let of =
            |way: Way| -> Vec<_> { all.iter().copied().filter(|one| one.way == way).collect() };
        let looks: Vec<_> = all
            .iter()
            .flat_map(|one| one.seen.look_ms.iter().copied())
            .collect();
        CancelFigures {
            all: WayFigures::of("all", &all),
            ways: Way::ALL
                .map(|way| WayFigures::of(way.label(), &of(way)))
                .into(),
            look: Times::of(&looks),
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
    /// How long one look takes, by which the times may be too long.
    look: Times,
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
    /// Still live when patience was over.
    unfreed: usize,
    p90_ms: f64,
    #[serde(flatten)]
    times: Times,
}

impl WayFigures {
    fn of(way: &'static str, queries: &[&Stopped]) -> Self {
        // What a result waits for its client is a setting of the server, and tells nothing of cancels.
        let timed = queries.iter().filter(|one| one.end != End::Abandoned);
        let times: Vec<_> = timed.filter_map(|one| one.seen.free_ms).collect();
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
            unfreed: queries.iter().filter(|one| one.is_unfreed()).count(),
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
            "way",
            "queries",
            "stopped",
            "finished",
            "abandoned",
            "failed",
            "wrong",
            "hung",
            "unfreed"
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
        let Times {
            p50_ms,
            p99_ms,
            max_ms,
        } = &self.look;
        writeln!(
            f,
            "one look takes     p50 {p50_ms:.1} ms, p99 {p99_ms:.1} ms, max {max_ms:.1} ms"
        )?;
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

    fn stopped(way: Way, end: End, free_ms: Option<f64>) -> Stopped {
        let look_ms = vec![2.0; usize::from(end != End::Finished)];
        let seen = Seen {
            free_ms,
            look_ms,
            is_abandoned: end == End::Abandoned,
        };
        Stopped::seen(way, end, seen)
    }

    fn tally() -> CancelTally {
        let mut tally = CancelTally::default();
        tally.note(stopped(Way::KillQuery, End::Stopped, Some(4.0)));
        tally.note(stopped(Way::KillQuery, End::Finished, None));
        tally.note(stopped(Way::DropCall, End::Stopped, Some(8.0)));
        tally.note(stopped(Way::DropCall, End::Abandoned, Some(900.0)));
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
            bad(&|tally| tally.note(stopped(Way::DropStream, end, Some(1.0))));
        }
        bad(&|tally| tally.note(stopped(Way::DropStream, End::Stopped, None)));
        bad(&|tally| {
            tally.after_batch(Left {
                used_slots: 1,
                ..Left::default()
            });
        });
    }
}
