//! Finds attempts that do nothing: they are given up, and tried elsewhere.
//!
//! An attempt makes progress while a thread works for it, or when one has since the last look. One that waits for its
//! reader does not have to. What is left are attempts that wait for something that does not come: a file on a disk that
//! hangs, a peer that is connected and says nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use squadron_proto::AttemptKey;

use crate::usage::Usage;

const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);
const LONGEST_INTERVAL: Duration = Duration::from_secs(1);

/// The running attempts of a worker, and when each was seen to make progress.
#[derive(Debug)]
pub(crate) struct Watchdog {
    stall_timeout: Duration,
    attempts: BTreeMap<AttemptKey, Watched>,
}

#[derive(Debug)]
struct Watched {
    usage: Arc<Usage>,
    cpu_ns: u64,
    since: Instant,
}

impl Watchdog {
    pub(crate) fn new(stall_timeout: Duration) -> Self {
        Self {
            stall_timeout,
            attempts: BTreeMap::new(),
        }
    }

    /// An attempt starts to run.
    pub(crate) fn watch(&mut self, attempt: AttemptKey, usage: Arc<Usage>, now: Instant) {
        let watched = Watched {
            usage,
            cpu_ns: 0,
            since: now,
        };
        self.attempts.insert(attempt, watched);
    }

    /// An attempt has ended.
    pub(crate) fn forget(&mut self, attempt: AttemptKey) {
        self.attempts.remove(&attempt);
    }

    /// The attempts that have made no progress for too long, each once. `may_wait`: an attempt waits for its reader.
    pub(crate) fn find_stalled(&mut self, now: Instant, may_wait: impl Fn(AttemptKey) -> bool) -> Vec<AttemptKey> {
        let mut stalled = Vec::new();
        for (&attempt, watched) in &mut self.attempts {
            let cpu_ns = watched.usage.cpu_ns();
            if cpu_ns != watched.cpu_ns || watched.usage.is_working() || may_wait(attempt) {
                (watched.cpu_ns, watched.since) = (cpu_ns, now);
            } else if now.duration_since(watched.since) >= self.stall_timeout {
                stalled.push(attempt);
            }
        }
        self.attempts.retain(|attempt, _| !stalled.contains(attempt));
        stalled
    }

    /// How often to look.
    pub(crate) fn interval(&self) -> Duration {
        (self.stall_timeout / 4).clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL)
    }

    /// How long an attempt may make no progress.
    pub(crate) fn stall_timeout(&self) -> Duration {
        self.stall_timeout
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures::FutureExt;
    use squadron_proto::{AttemptNumber, QueryId, StageId, TaskId};

    use super::*;
    use crate::usage::measure;

    const ATTEMPT: AttemptKey = AttemptKey {
        query: QueryId::from_u128(1),
        stage: StageId(0),
        task: TaskId(0),
        attempt: AttemptNumber(0),
    };
    const LIMIT: Duration = Duration::from_secs(10);

    fn watching(start: Instant) -> (Watchdog, Arc<Usage>) {
        let mut watchdog = Watchdog::new(LIMIT);
        let usage = Arc::<Usage>::default();
        watchdog.watch(ATTEMPT, Arc::clone(&usage), start);
        (watchdog, usage)
    }

    #[test]
    fn attempt_that_does_nothing_is_found_once() {
        let start = Instant::now();
        let (mut watchdog, _usage) = watching(start);
        assert_eq!(watchdog.find_stalled(start + LIMIT / 2, |_| false), []);
        assert_eq!(watchdog.find_stalled(start + LIMIT, |_| false), [ATTEMPT]);
        assert_eq!(watchdog.find_stalled(start + 2 * LIMIT, |_| false), []);
    }

    #[test]
    fn attempt_that_works_or_waits_for_its_reader_is_left_alone() {
        let start = Instant::now();
        let (mut watchdog, usage) = watching(start);
        assert_eq!(watchdog.find_stalled(start + LIMIT, |_| true), []);
        let mut work = measure(Arc::clone(&usage), async {
            while usage_of_thread() == Duration::ZERO {}
            pending::<()>().await;
        });
        assert!((&mut work).now_or_never().is_none());
        assert!(usage.cpu_ns() > 0 && !usage.is_working());
        assert_eq!(
            watchdog.find_stalled(start + 2 * LIMIT, |_| false),
            [],
            "it has worked since"
        );
        assert_eq!(watchdog.find_stalled(start + 3 * LIMIT, |_| false), [ATTEMPT]);
    }

    #[test]
    fn long_step_is_work() {
        let start = Instant::now();
        let (watchdog, usage) = watching(start);
        let watchdog = std::sync::Mutex::new(watchdog);
        let step = measure(usage, async move {
            let mut watchdog = watchdog.into_inner().unwrap();
            watchdog.find_stalled(start + LIMIT, |_| false)
        });
        assert_eq!(step.now_or_never(), Some(vec![]), "a thread works for it");
    }

    fn usage_of_thread() -> Duration {
        crate::usage::Stopwatch::start().map_or(Duration::ZERO, |watch| {
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_millis(1) {}
            watch.elapsed()
        })
    }
}
