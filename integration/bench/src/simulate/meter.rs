//! The processor time of the scheduler: a second scheduler applies the same events, many in a row, and the processor
//! time of its thread is read before and after. So other programs, reads of the clock and the virtual cluster do not
//! count. The effects of the second scheduler must be those of the first.

use std::time::Duration;

use squadron_scheduler::simulate::Digest;
use squadron_scheduler::{Event, Limits, Scheduler};

/// How many events are applied between two reads of the processor time.
const EVENTS_AT_ONCE: usize = 4096;

/// A scheduler whose processor time is measured.
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

    /// The processor time of all events, and the digest of all effects.
    pub(super) fn result(mut self) -> (Duration, String) {
        self.measure();
        (self.time, self.digest.to_hex())
    }
}

/// Processor time of this thread.
#[cfg(unix)]
fn processor_time() -> Duration {
    use nix::time::{ClockId, clock_gettime};

    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// Elapsed time, on systems where the processor time of a thread is not known.
#[cfg(not(unix))]
fn processor_time() -> Duration {
    use std::sync::LazyLock;
    use std::time::Instant;

    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}
