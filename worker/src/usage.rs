//! The processor time and memory that an attempt uses, counted where they are used.
//!
//! ```text
//! Attempt::run ─┐
//! partitions ───┼─> Measured: every poll of every task adds its thread's CPU time to the attempt's Usage
//! spawned by ───┘     └ while it polls, Usage is the thread's current one: tasks spawned meanwhile are measured too
//!   operators
//! ```
//!
//! DataFusion spawns through one place that takes a tracer, so every task of its operators is measured. Not measured
//! are reads of local files, by threads of the object store, and rows of other workers, received on the runtime of
//! connections.

use std::any::Any;
use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use datafusion::common::runtime::{JoinSetTracer, set_join_set_tracer};
use futures::FutureExt;
use futures::future::BoxFuture;

/// The resources that one attempt has used so far.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    cpu_ns: AtomicU64,
    /// How many threads work for the attempt now.
    working: AtomicUsize,
    memory_bytes: AtomicUsize,
    peak_memory_bytes: AtomicUsize,
}

impl Usage {
    /// CPU time of all polls that have ended, in nanoseconds.
    pub(crate) fn cpu_ns(&self) -> u64 {
        self.cpu_ns.load(Ordering::Relaxed)
    }

    /// Whether a thread works for the attempt now.
    pub(crate) fn is_working(&self) -> bool {
        self.working.load(Ordering::Relaxed) > 0
    }

    /// The most bytes of the memory pool that the attempt's operators held at a time.
    pub(crate) fn peak_memory_bytes(&self) -> u64 {
        self.peak_memory_bytes.load(Ordering::Relaxed) as u64
    }

    pub(crate) fn grow(&self, bytes: usize) {
        let before = self.memory_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.peak_memory_bytes
            .fetch_max(before.saturating_add(bytes), Ordering::Relaxed);
    }

    pub(crate) fn shrink(&self, bytes: usize) {
        self.memory_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A task of an attempt, measured.
pub(crate) struct Measured<T> {
    usage: Arc<Usage>,
    future: BoxFuture<'static, T>,
}

/// Counts the CPU time of `future`, and of tasks that it spawns inside plans, to `usage`.
pub(crate) fn measure<T>(usage: Arc<Usage>, future: impl Future<Output = T> + Send + 'static) -> Measured<T> {
    static SET_TRACER: std::sync::Once = std::sync::Once::new();
    // In a process that has a tracer already, tasks spawned inside plans are not measured.
    SET_TRACER.call_once(|| _ = set_join_set_tracer(&Tracer));
    Measured::new(usage, future)
}

impl<T> Measured<T> {
    /// The task does not take part in tokio's cooperative scheduling: its budget counts the operators that a poll passes
    /// on its way down, so a plan of more than 128 levels never reaches its leaves. [`crate::yielding`] ends polls by time.
    fn new(usage: Arc<Usage>, future: impl Future<Output = T> + Send + 'static) -> Self {
        let future = tokio::task::unconstrained(future).boxed();
        Self { usage, future }
    }
}

impl<T> Future for Measured<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let _current = Current::enter(&self.usage);
        self.future.poll_unpin(context)
    }
}

/// The work of a thread for an attempt: a poll of a task or a blocking call.
struct Current {
    usage: Arc<Usage>,
    started: Instant,
    cpu_started: Duration,
}

thread_local! {
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
}

impl Current {
    /// Until the guard is dropped, this thread works for `usage`.
    fn enter(usage: &Arc<Usage>) -> Entered {
        usage.working.fetch_add(1, Ordering::Relaxed);
        let current = Self {
            usage: Arc::clone(usage),
            started: Instant::now(),
            cpu_started: thread_cpu_time(),
        };
        Entered {
            before: CURRENT.replace(Some(current)),
        }
    }

    fn usage() -> Option<Arc<Usage>> {
        CURRENT.with_borrow(|current| {
            let current = current.as_ref()?;
            Some(Arc::clone(&current.usage))
        })
    }
}

struct Entered {
    before: Option<Current>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Some(current) = CURRENT.replace(self.before.take()) {
            let used = thread_cpu_time().saturating_sub(current.cpu_started);
            let used = u64::try_from(used.as_nanos()).unwrap_or(u64::MAX);
            current.usage.cpu_ns.fetch_add(used, Ordering::Relaxed);
            current.usage.working.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// When the thread's current poll started; none outside of an attempt's task.
pub(crate) fn poll_start() -> Option<Instant> {
    CURRENT.with_borrow(|current| Some(current.as_ref()?.started))
}

/// Measures the CPU time of a piece of work within its poll, without that of other polls meanwhile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch {
    poll_started: Instant,
    cpu: Duration,
}

impl Stopwatch {
    /// None outside of an attempt's task.
    pub(crate) fn start() -> Option<Self> {
        CURRENT.with_borrow(|current| {
            Some(Self {
                poll_started: current.as_ref()?.started,
                cpu: thread_cpu_time(),
            })
        })
    }

    /// CPU time since the start, or since the start of the current poll where that is another one.
    pub(crate) fn elapsed(&self) -> Duration {
        CURRENT.with_borrow(|current| match current {
            Some(current) if current.started == self.poll_started => thread_cpu_time().saturating_sub(self.cpu),
            Some(current) => thread_cpu_time().saturating_sub(current.cpu_started),
            None => Duration::ZERO,
        })
    }
}

/// Hands the current attempt on to tasks that DataFusion's operators spawn.
struct Tracer;

impl JoinSetTracer for Tracer {
    fn trace_future(&self, future: BoxFuture<'static, Box<dyn Any + Send>>) -> BoxFuture<'static, Box<dyn Any + Send>> {
        match Current::usage() {
            Some(usage) => Measured::new(usage, future).boxed(),
            None => future,
        }
    }

    fn trace_block(
        &self,
        block: Box<dyn FnOnce() -> Box<dyn Any + Send> + Send>,
    ) -> Box<dyn FnOnce() -> Box<dyn Any + Send> + Send> {
        match Current::usage() {
            Some(usage) => Box::new(move || {
                let _current = Current::enter(&usage);
                block()
            }),
            None => block,
        }
    }
}

/// CPU time of the calling thread.
#[cfg(unix)]
pub(crate) fn thread_cpu_time() -> Duration {
    use nix::time::{ClockId, clock_gettime};
    // The clock of the calling thread itself is always there.
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// Wall-clock time: more than the thread's CPU time, where threads wait for cores.
#[cfg(not(unix))]
pub(crate) fn thread_cpu_time() -> Duration {
    static FIRST: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    FIRST.get_or_init(Instant::now).elapsed()
}

#[cfg(test)]
mod tests {
    use datafusion::common::runtime::SpawnedTask;

    use super::*;

    const WORK: Duration = Duration::from_millis(20);

    /// Keeps the processor busy for `time` of this thread's CPU time.
    fn work(time: Duration) {
        let until = thread_cpu_time() + time;
        while thread_cpu_time() < until {
            std::hint::spin_loop();
        }
    }

    fn used(usage: &Usage) -> Duration {
        Duration::from_nanos(usage.cpu_ns())
    }

    /// Whether `used` is `expected`, give or take a little overhead.
    fn is_about(used: Duration, expected: Duration) -> bool {
        (expected..expected + WORK / 2).contains(&used)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn usage_counts_spawned_work_not_waiting() {
        let usage = Arc::new(Usage::default());
        let task = measure(Arc::clone(&usage), async {
            work(WORK);
            let spawned = SpawnedTask::spawn(async {
                tokio::time::sleep(2 * WORK).await;
                work(WORK);
                SpawnedTask::spawn_blocking(|| work(WORK)).join().await
            });
            spawned.join().await.unwrap().unwrap();
        });
        // Other tasks on the same threads do not count.
        let other = tokio::task::unconstrained(async { work(3 * WORK) });
        tokio::join!(task, other);
        let used = used(&usage);
        assert!(is_about(used, 3 * WORK), "{used:?}");
        assert!(Current::usage().is_none());
    }

    #[test]
    fn panicking_poll_counts_its_work() {
        let usage = Arc::new(Usage::default());
        let task = measure(Arc::clone(&usage), async {
            work(WORK);
            panic!("told to panic");
        });
        let outcome = std::panic::AssertUnwindSafe(task).catch_unwind();
        assert!(futures::executor::block_on(outcome).is_err());
        assert!(used(&usage) >= WORK);
        assert!(Current::usage().is_none());
    }

    #[test]
    fn memory_usage_records_its_peak() {
        let usage = Usage::default();
        usage.grow(5);
        usage.grow(7);
        usage.shrink(10);
        usage.grow(4);
        assert_eq!(usage.peak_memory_bytes(), 12);
    }

    #[test]
    fn stopwatch_excludes_other_polls() {
        let usage = Arc::new(Usage::default());
        assert!(Stopwatch::start().is_none());
        assert_eq!(poll_start(), None);
        let first = Current::enter(&usage);
        let watch = Stopwatch::start().unwrap();
        work(WORK);
        let in_first = watch.elapsed();
        assert!(is_about(in_first, WORK), "{in_first:?}");
        assert!(poll_start().unwrap().elapsed() >= WORK);
        drop(first);
        work(3 * WORK);
        let _second = Current::enter(&usage);
        work(WORK);
        let in_second = watch.elapsed();
        assert!(is_about(in_second, WORK), "{in_second:?}");
    }
}
