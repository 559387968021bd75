//! A time limit around each test, so that a test that hangs fails.

use std::panic::resume_unwind;
use std::thread;
use std::time::Duration;

/// The reference plans deeply nested queries on these threads.
const STACK_BYTES: usize = 64 * 1024 * 1024;

/// Runs `test` on its own runtime and fails it after `limit`.
pub fn bounded<Test>(limit: Duration, test: Test)
where
    Test: Future<Output = ()> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build()
        .expect("a runtime starts");
    let body = move || {
        let outcome = runtime.block_on(async { tokio::time::timeout(limit, test).await });
        runtime.shutdown_background();
        assert!(outcome.is_ok(), "the test did not end within {limit:?}");
    };
    let thread = thread::Builder::new().stack_size(STACK_BYTES).spawn(body);
    if let Err(panic) = thread.expect("a thread starts").join() {
        resume_unwind(panic);
    }
}

/// A limit in minutes.
pub const fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

/// A limit in seconds.
pub const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}
