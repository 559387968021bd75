//! What the scheduler costs: a second one takes in the same events, many in a row, and its thread's processor time is read
//! before and after. So neither other programs, nor the clock, nor the world around the first one count; and what the second
//! one answers must be what the first one did.

use std::time::Duration;

use squadron_scheduler::simulate::Digest;
use squadron_scheduler::{Event, Limits, Scheduler};

/// How many events are taken in between two looks at the clock.
const EVENTS_AT_ONCE: usize = 4096;

/// A scheduler whose time is taken.
pub(super) struct Meter {
    scheduler: Scheduler,
    events: Vec<(Duration, Event)>,
    digest: Digest,
    time: Duration,
}

impl Meter {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            scheduler: Scheduler::new(limits),
            events: Vec::with_capacity(EVENTS_AT_ONCE),
            digest: Digest::default(),
            time: Duration::ZERO,
        }
    }

    pub(super) fn take(&mut self, now: Duration, event: Event) {
        self.events.push((now, event));
        if self.events.len() == EVENTS_AT_ONCE {
            self.measure();
        }
    }

    fn measure(&mut self) {
        let mut answers = Vec::with_capacity(self.events.len());
        let start = processor_time();
        for (now, event) in self.events.drain(..) {
            answers.push((now, self.scheduler.apply(now, event)));
        }
        self.time += processor_time().saturating_sub(start);
        for (now, effects) in &answers {
            effects.iter().for_each(|effect| self.digest.add(*now, effect));
        }
    }

    /// The time of all events, and the digest of all effects.
    pub(super) fn result(mut self) -> (Duration, String) {
        self.measure();
        (self.time, self.digest.text())
    }
}

/// Of this thread.
#[cfg(unix)]
fn processor_time() -> Duration {
    use nix::time::{ClockId, clock_gettime};

    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// Time that passes, where a thread's own is not known.
#[cfg(not(unix))]
fn processor_time() -> Duration {
    use std::sync::LazyLock;
    use std::time::Instant;

    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}
