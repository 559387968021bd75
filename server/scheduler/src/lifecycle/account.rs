//! What an attempt was charged for its slots, and what it has cost.

use std::time::Duration;

use squadron_proto::control::Lane;

use crate::queue::run_queue::Correction;

/// What an attempt was charged; an estimate until the attempt has reported its processor time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Account {
    /// Runs while it holds slots.
    clock: Option<Clock>,
    /// For the periods of holding slots that are over.
    before_us: u64,
    weight: u64,
    lane: Lane,
}

/// Since when an attempt holds slots, and what it was charged in advance for this period.
#[derive(Clone, Copy, Debug)]
struct Clock {
    since: Duration,
    charged_us: u64,
}

/// What an attempt has cost, in microseconds: processor time if it was reported, else its slots times the time it held
/// them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spent {
    /// What it was charged in advance for the period that is over now.
    pub(crate) charged_us: u64,
    /// What it was charged for the periods before.
    pub(crate) before_us: u64,
    /// What it should have been charged for all periods.
    pub(crate) actual_us: u64,
    /// The query's weight when it was charged.
    pub(crate) weight: u64,
    /// The lane in whose run queue it was charged.
    pub(crate) lane: Lane,
}

impl Spent {
    /// What is left to charge or to give back.
    pub(crate) fn correction(&self) -> Correction {
        let charged_us = self.charged_us.saturating_add(self.before_us);
        Correction::between(charged_us, self.actual_us)
    }
}

impl Account {
    /// The attempt holds slots since `since`, and was charged `charged_us` for them in advance. `before`: its account of
    /// the periods before, if it held slots before.
    pub(crate) fn open(before: Option<Self>, since: Duration, charged_us: u64, weight: u64, lane: Lane) -> Self {
        Self {
            clock: Some(Clock { since, charged_us }),
            before_us: before.map_or(0, |account| account.before_us),
            weight,
            lane,
        }
    }

    /// The attempt holds its slots no longer, if it held any; `until`: it used them until then, else not at all;
    /// `used_us`: the processor time that it reported. None if nothing new is known about its cost.
    pub(crate) fn stop(&mut self, until: Option<Duration>, slots: u32, used_us: Option<u64>) -> Option<Spent> {
        let clock = self.clock.take();
        if clock.is_none() && used_us.is_none() {
            return None;
        }
        let held = clock
            .zip(until)
            .map_or(Duration::ZERO, |(clock, until)| until.saturating_sub(clock.since));
        let held_us = u64::try_from(held.as_micros())
            .unwrap_or(u64::MAX)
            .saturating_mul(u64::from(slots));
        let before_us = self.before_us;
        let actual_us = used_us.unwrap_or_else(|| before_us.saturating_add(held_us));
        self.before_us = actual_us;
        Some(Spent {
            charged_us: clock.map_or(0, |clock| clock.charged_us),
            before_us,
            actual_us,
            weight: self.weight,
            lane: self.lane,
        })
    }
}
