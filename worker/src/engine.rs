//! The parts that all workers of one process share: memory, disk, shuffle store, functions, threads that run plans.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use datafusion::execution::TaskContext;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::prelude::{SessionConfig, SessionContext};
use squadron_proto::control::Lane;
use squadron_proto::ticket::ClusterKey;
use squadron_proto::{Failure, QueryId};
use squadron_shuffle::{FetchOptions, Fetcher, Store, StoreOptions, Trust, failure};
use tokio::runtime::Handle;

use crate::guard;
use crate::lanes::Lanes;
use crate::memory::{self, AttemptPool, Shares};
use crate::usage::Usage;

/// A batch has at most one row for so many bytes of a slot's memory: 8,192 rows, DataFusion's default, with 64 MiB.
const SLOT_BYTES_PER_ROW: usize = 8 * 1024;
const MIN_BATCH_ROWS: usize = 1024;

/// A merge reads one spill file for so many bytes of a slot's memory, and this many at least. It holds some batches of each.
const SLOT_BYTES_PER_MERGED_FILE: usize = 16 * 1024 * 1024;
const MIN_MERGED_FILES: usize = 4;

/// The sorts of an attempt together reserve at most one part in so many of the memory pool for their merges.
const MERGE_SHARE: usize = 16;

/// The limits of a process that runs plans.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// How many partitions run at a time in each lane; also the number of its threads.
    pub slots: usize,
    /// Size of the memory pool that operators and shuffle share, in bytes.
    pub memory_bytes: usize,
    /// Where operators and shuffle spill; none: a folder in the system's temporary folder.
    pub spill_dir: Option<PathBuf>,
    /// How much operators and shuffle may hold on disk, in bytes.
    pub max_spill_bytes: u64,
    /// How much of a streamed output is buffered for its reader, in bytes.
    pub streamed_bytes: usize,
    /// How much one input of an attempt reads ahead from other workers, in bytes.
    pub fetch_bytes: usize,
    /// How large a single value may be that a function makes, in bytes.
    pub max_value_bytes: u64,
    /// How long an attempt may make no progress before it is given up.
    pub stall_timeout: Duration,
    /// Whether what the process holds beside the pool counts; not where several pools share a process.
    pub watches_memory: bool,
    /// Certificate authorities trusted for the server and for other workers.
    pub trust: Trust,
}

impl Default for WorkerOptions {
    /// One slot a core, 1 GiB of memory, watched, 100 GiB of disk, values of 256 MiB, 2 minutes without progress.
    fn default() -> Self {
        Self {
            slots: std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            memory_bytes: 1024 * 1024 * 1024,
            spill_dir: None,
            max_spill_bytes: 100 * 1024 * 1024 * 1024,
            streamed_bytes: 8 * 1024 * 1024,
            fetch_bytes: 32 * 1024 * 1024,
            max_value_bytes: 256 * 1024 * 1024,
            stall_timeout: Duration::from_secs(120),
            watches_memory: true,
            trust: Trust::public(),
        }
    }
}

/// The parts of a process that runs plans; shared by all its workers.
pub struct Engine {
    /// Holds the output of attempts.
    pub store: Store,
    /// Memory pool, disk manager, object stores and file caches.
    pub runtime: Arc<RuntimeEnv>,
    /// Reads the output of attempts of other processes.
    pub fetcher: Fetcher,
    shares: Arc<Shares>,
    slots: usize,
    pub(crate) stall_timeout: Duration,
    lanes: Lanes,
    /// Holds every function a plan may name. Filling a registry takes milliseconds, copying it microseconds.
    functions: Arc<TaskContext>,
}

impl Engine {
    /// Builds all parts. `server_address` is the address of producers that name none.
    ///
    /// # Errors
    /// When the spill folder cannot be used or the threads cannot be started.
    ///
    /// # Panics
    /// Outside a tokio runtime: the caller's drives the connections to other processes.
    pub fn new(options: &WorkerOptions, key: ClusterKey, server_address: Option<String>) -> Result<Arc<Self>, Failure> {
        let spill_dir = options.spill_dir.clone();
        let spill_dir = spill_dir.unwrap_or_else(default_spill_dir);
        let pool = memory::process_pool(options.memory_bytes);
        let store = Store::new(
            Arc::clone(&pool) as _,
            StoreOptions {
                spill_dir,
                streamed_bytes: options.streamed_bytes,
                max_spill_bytes: options.max_spill_bytes,
            },
        )?;
        let disk = DiskManagerBuilder::default()
            .with_mode(DiskManagerMode::Custom(store.operator_files()))
            .with_max_spill_merge_fan_in(merge_fan_in(options));
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::clone(&pool) as _)
            .with_disk_manager_builder(disk)
            .build_arc()
            .map_err(|error| failure::of(&error))?;
        let functions = functions(&runtime, options.max_value_bytes)?;
        let fetcher = Fetcher::new(FetchOptions {
            server_address,
            budget_bytes: options.fetch_bytes,
            trust: options.trust.clone(),
            ..FetchOptions::new(key)
        });
        let shares = Arc::new(Shares::new(pool, store.clone()));
        if options.watches_memory {
            guard::watch(&shares)?;
        }
        Ok(Arc::new(Self {
            shares,
            store,
            runtime,
            fetcher,
            lanes: Lanes::start(options.slots)?,
            slots: options.slots.max(1),
            stall_timeout: options.stall_timeout,
            functions,
        }))
    }

    /// How many partitions run at once in each lane.
    pub(crate) fn slots(&self) -> usize {
        self.slots
    }

    /// Where plans of a lane run: `slots` threads of its own, which give way to those of shorter lanes.
    pub fn lane(&self, lane: Lane) -> &Handle {
        self.lanes.handle(lane)
    }

    /// Size of the memory pool, in bytes.
    pub(crate) fn memory_limit_bytes(&self) -> usize {
        self.shares.limit_bytes()
    }

    /// Bytes taken from the memory pool.
    pub fn memory_used_bytes(&self) -> u64 {
        self.runtime.memory_pool.reserved() as u64
    }

    /// Settings for an attempt with so many sorts. All sorts run at once, and each reserves memory for the merge of its
    /// spilled runs: DataFusion's 10 MB each can be more than the pool has.
    pub(crate) fn with_merge_reservation(&self, config: SessionConfig, sorts: usize) -> SessionConfig {
        let fair = self.memory_limit_bytes() / MERGE_SHARE / sorts.max(1);
        // The config is shared by all attempts of the stage: it is copied only where it must change.
        if config.options().execution.sort_spill_reservation_bytes <= fair {
            return config;
        }
        config.with_sort_spill_reservation_bytes(fair)
    }

    /// Settings with batches of fewer rows where a slot has little memory: operators hold some batches each whatever they
    /// do, and `ORDER BY ... LIMIT` twenty.
    fn with_fitting_batches(&self, config: SessionConfig) -> SessionConfig {
        let slot_bytes = self.memory_limit_bytes() / self.slots;
        let fitting = (slot_bytes / SLOT_BYTES_PER_ROW).max(MIN_BATCH_ROWS);
        if config.batch_size() <= fitting {
            return config;
        }
        config.with_batch_size(fitting)
    }

    /// A context for plans that need not be decoded.
    pub(crate) fn plain_context(&self, config: SessionConfig) -> Arc<TaskContext> {
        running_context(self.with_fitting_batches(config), RuntimeEnv::clone(&self.runtime))
    }

    /// A context to decode plans in.
    pub(crate) fn task_context(&self, config: SessionConfig) -> Arc<TaskContext> {
        let functions = &self.functions;
        Arc::new(TaskContext::new(
            functions.task_id(),
            functions.session_id(),
            self.with_fitting_batches(config),
            functions.scalar_functions().clone(),
            functions.higher_order_functions().clone(),
            functions.aggregate_functions().clone(),
            functions.window_functions().clone(),
            Arc::clone(&self.runtime),
        ))
    }

    /// The memory of one attempt, counted to `usage`.
    pub(crate) fn attempt_memory(&self, query: QueryId, reserved: usize, usage: Arc<Usage>) -> Arc<AttemptPool> {
        Arc::new(AttemptPool::new(Arc::clone(&self.shares), query, reserved, usage))
    }

    /// A context to run a plan in, with the attempt's memory.
    pub(crate) fn attempt_context(&self, config: SessionConfig, memory: Arc<AttemptPool>) -> Arc<TaskContext> {
        let runtime = RuntimeEnv {
            memory_pool: memory,
            ..RuntimeEnv::clone(&self.runtime)
        };
        running_context(config, runtime)
    }
}

/// A folder of this user's own in the system's temporary folder, which on Linux all users share.
fn default_spill_dir() -> PathBuf {
    #[cfg(target_os = "linux")]
    if let Ok(process) = std::fs::metadata("/proc/self") {
        let user = std::os::linux::fs::MetadataExt::st_uid(&process);
        return std::env::temp_dir().join(format!("squadron-{user}"));
    }
    std::env::temp_dir().join("squadron")
}

/// How many spill files one merge reads at a time. A merge takes what it can get, and what is above it needs some, too.
fn merge_fan_in(options: &WorkerOptions) -> usize {
    (options.memory_bytes / options.slots.max(1) / SLOT_BYTES_PER_MERGED_FILE).max(MIN_MERGED_FILES)
}

/// A context to run a decoded plan in. It has no functions: operators have theirs, and copying the registry would take
/// longer than a small query does.
pub(crate) fn running_context(config: SessionConfig, runtime: RuntimeEnv) -> Arc<TaskContext> {
    Arc::new(TaskContext::new(
        None,
        String::new(),
        config,
        HashMap::new(),
        HashMap::new(),
        HashMap::new(),
        HashMap::new(),
        Arc::new(runtime),
    ))
}

/// A context with every function that a plan may name.
fn functions(runtime: &Arc<RuntimeEnv>, max_value_bytes: u64) -> Result<Arc<TaskContext>, Failure> {
    let context = SessionContext::new_with_config_rt(SessionConfig::new(), Arc::clone(runtime));
    let mut state = context.state();
    squadron_shuffle::functions::register(&mut state, max_value_bytes, &runtime.memory_pool)
        .map_err(|error| failure::of(&error))?;
    Ok(SessionContext::new_with_state(state).task_ctx())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[tokio::test]
    async fn merge_reservations_share_part_of_pool() {
        let (_folder, engine) = testing::engine();
        let pool_bytes = engine.memory_limit_bytes();
        let reserved = |partitions| {
            let config = engine.with_merge_reservation(SessionConfig::new(), partitions);
            config.options().execution.sort_spill_reservation_bytes
        };
        let default = SessionConfig::new().options().execution.sort_spill_reservation_bytes;
        assert!(reserved(1) <= default);
        let many = pool_bytes / default * MERGE_SHARE;
        assert!(reserved(many) > 0 && reserved(many) < default);
        assert!(reserved(many) * many <= pool_bytes / MERGE_SHARE);
    }
}
