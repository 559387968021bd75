//! Single-process DataFusion with default options, Parquet listing tables and one runtime with as many threads as the
//! measured system has slots.
//!
//! Exactness and timing use different references: DataFusion 55.2 loses rows in rare plans through dynamic filters, so
//! the exact reference runs without them; the timed reference keeps every default.

use std::sync::Arc;
use std::time::Instant;

use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use squadron_integration::client::Rows;
use squadron_integration::compare;
use tokio::runtime::Runtime;

use crate::tables::Tables;
use crate::timing::Timing;
use crate::{Result, usage};

/// The expected result of a query.
pub(super) struct Expected {
    pub(super) rows: Rows,
    /// The columns the query orders by.
    pub(super) order: Vec<usize>,
}

/// Both references over the same tables.
pub(super) struct Reference {
    threads: Threads,
    timed: SessionContext,
    exact: SessionContext,
}

/// A runtime that may be dropped inside async code, which tokio forbids for its own type.
struct Threads(Option<Runtime>);

impl Threads {
    fn start(count: usize) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(count)
            .thread_name("reference")
            .enable_all()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    /// Runs a future on these threads.
    async fn run<T: Send + 'static>(&self, future: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        match &self.0 {
            Some(runtime) => runtime.spawn(future).await?,
            None => future.await,
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Reference {
    /// Opens the tables with `threads` threads and partitions.
    pub(super) async fn open(tables: &Tables, threads: usize) -> Result<Self> {
        let timed = SessionConfig::new().with_target_partitions(threads);
        let mut exact = timed.clone();
        exact
            .options_mut()
            .set("datafusion.optimizer.enable_dynamic_filter_pushdown", "false")?;
        let threads = Threads::start(threads)?;
        let timed = threads.run(open(paths(tables), timed)).await?;
        let exact = threads.run(open(paths(tables), exact)).await?;
        Ok(Self { threads, timed, exact })
    }

    /// The expected result.
    pub(super) async fn expected(&self, sql: &str) -> Result<Expected> {
        self.threads.run(run_expected(self.exact.clone(), sql.to_owned())).await
    }

    /// Runs the query and gives its time and processor time.
    pub(super) async fn time(&self, sql: &str) -> Result<Timing> {
        let (context, sql) = (self.timed.clone(), sql.to_owned());
        let cpu = || usage::cpu_seconds(std::process::id());
        let cpu_before = cpu();
        let began = Instant::now();
        let batches = self
            .threads
            .run(async move { Ok(context.sql(&sql).await?.collect().await?) })
            .await?;
        let seconds = began.elapsed().as_secs_f64();
        drop(batches);
        Ok(Timing::new(seconds, cpu_before, cpu()))
    }
}

/// The name and the path of each table.
fn paths(tables: &Tables) -> Vec<(String, String)> {
    let path = |table: &String| (table.clone(), tables.path(table).display().to_string());
    tables.names.iter().map(path).collect()
}

async fn open(tables: Vec<(String, String)>, config: SessionConfig) -> Result<SessionContext> {
    let context = SessionContext::new_with_config(config);
    for (table, path) in tables {
        context
            .register_parquet(table, path, ParquetReadOptions::default())
            .await?;
    }
    Ok(context)
}

async fn run_expected(context: SessionContext, sql: String) -> Result<Expected> {
    let frame = context.sql(&sql).await?;
    let order = compare::order_of(frame.logical_plan());
    let schema = Arc::new(frame.schema().as_arrow().clone());
    Ok(Expected {
        rows: (schema, frame.collect().await?),
        order,
    })
}
