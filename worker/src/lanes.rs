//! The threads that run plans: a runtime for each lane, as nice to the rest of the process as the lane is long.
//!
//! ```text
//! lane     threads   niceness          share of a core beside a busy short thread
//! Short    slots     the process's own
//! Medium   slots     + 5               1/4
//! Long     slots     + 15              1/29
//! ```
//!
//! The operating system's scheduler shares the cores between the threads, pre-emptively and by the microsecond, so a
//! short attempt gets its core at once, even while a longer one is deep inside an operator that does not yield. A lane
//! that has the machine to itself runs at full speed, and idle threads cost nothing. Where niceness cannot be set,
//! lanes still have threads of their own and share the cores as equals.

use squadron_proto::control::Lane;
use squadron_proto::{Failure, FailureKind};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::niceness;

/// Plans and their expressions recurse, as deeply as the server lets them nest. The untouched part of a stack costs only
/// address space.
const STACK_BYTES: usize = 64 * 1024 * 1024;

/// How many threads of a lane may wait for local files at a time.
const BLOCKING_THREADS: usize = 128;

/// After how many polls a thread looks for tasks that were woken from outside of the lane, among them cancelled ones.
/// A poll may take 10 ms and more, so tokio's default of 61 polls would be seconds.
const POLLS_PER_GLOBAL_QUEUE_CHECK: u32 = 2;

/// After how many polls a thread looks for timers and connections; tokio's default is 61 as well.
const POLLS_PER_EVENT_CHECK: u32 = 8;

/// The runtimes of all lanes; they live as long as the engine.
pub(crate) struct Lanes {
    /// In the order of [`Lane::ALL`]; taken out when dropped.
    runtimes: Vec<Runtime>,
}

impl Lanes {
    /// Starts `threads` threads a lane.
    pub(crate) fn start(threads: usize) -> Result<Self, Failure> {
        let lanes = Lane::ALL.into_iter();
        let runtimes = lanes.map(|lane| runtime(lane, threads.max(1)));
        Ok(Self {
            runtimes: runtimes.collect::<Result<_, _>>()?,
        })
    }

    pub(crate) fn handle(&self, lane: Lane) -> &Handle {
        self.runtimes[lane.number() as usize].handle()
    }
}

impl Drop for Lanes {
    /// Waits for nothing: the last owner of an engine may be a task, which must not block.
    fn drop(&mut self) {
        for runtime in self.runtimes.drain(..) {
            runtime.shutdown_background();
        }
    }
}

fn runtime(lane: Lane, threads: usize) -> Result<Runtime, Failure> {
    Builder::new_multi_thread()
        .worker_threads(threads)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_stack_size(STACK_BYTES)
        .global_queue_interval(POLLS_PER_GLOBAL_QUEUE_CHECK)
        .event_interval(POLLS_PER_EVENT_CHECK)
        .thread_name(thread_name(lane))
        .on_thread_start(move || niceness::raise(steps(lane)))
        .enable_all()
        .build()
        .map_err(|error| {
            Failure::new(
                FailureKind::Exhausted,
                format!("cannot start {threads} threads to run plans: {error}"),
            )
        })
}

/// At most 15 characters, which is what systems show.
fn thread_name(lane: Lane) -> &'static str {
    match lane {
        Lane::Short => "squadron-short",
        Lane::Medium => "squadron-medium",
        Lane::Long => "squadron-long",
    }
}

/// How much nicer than the process the threads of a lane are. A step is worth about a quarter of the processor's time.
fn steps(lane: Lane) -> u8 {
    match lane {
        Lane::Short => 0,
        Lane::Medium => 5,
        Lane::Long => 15,
    }
}
