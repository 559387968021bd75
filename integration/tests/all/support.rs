//! Shared by all tests: a list of mismatches, and the single-process reference.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch, RecordBatchOptions};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Int64Type, Schema, SchemaRef};
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::execution::context::SessionContext;
use datafusion::logical_expr::LogicalPlan;
use futures::StreamExt;
use squadron::catalog::{Catalog, CatalogOptions};
use squadron::planner::schema::without_mark;
use squadron::sql::logical_plan;
use squadron_integration::client::{Client, Rows, status};
use squadron_integration::cluster::{ClusterBuilder, cluster};
use squadron_integration::compare::order_of;
use tonic::Status;

pub(crate) use squadron_integration::time_limit::{bounded, minutes, seconds};

/// Two worker processes of one slot over TPC-H tables that are cut as small as possible, so that every query that can
/// be distributed is.
pub(crate) fn two_workers() -> ClusterBuilder {
    cluster().workers(2).slots(1).tpch(0.01).tiny_splits()
}

/// More rows than all buffers on the way hold, from every worker.
pub(crate) const ENDLESS: &str = "SELECT a.l_orderkey, a.l_comment, b.l_comment FROM lineitem a CROSS JOIN lineitem b";

/// Runs `sql`, which must fail, and gives its error.
pub(crate) async fn failure_of(client: &Client, sql: &str) -> Status {
    let mut rows = match client.open(sql).await {
        Ok(rows) => rows,
        Err(status) => return status,
    };
    while let Some(batch) = rows.next().await {
        if let Err(error) = batch {
            return status(error);
        }
    }
    panic!("{sql:.200} succeeded");
}

/// The one number of a query.
pub(crate) async fn number(client: &Client, sql: &str) -> i64 {
    let (_, batches) = client
        .query(sql)
        .await
        .unwrap_or_else(|status| panic!("{sql}: {status}"));
    single(&batches)
}

/// The one number of an answer.
pub(crate) fn single(batches: &[RecordBatch]) -> i64 {
    let batch = batches.iter().find(|batch| batch.num_rows() > 0);
    let column = batch.expect("there is a row").column(0);
    let column = arrow::compute::cast(column, &DataType::Int64);
    column.expect("it is a number").as_primitive::<Int64Type>().value(0)
}

/// The first column as text.
pub(crate) fn texts(batches: &[RecordBatch]) -> Vec<String> {
    let mut rows = Vec::new();
    for batch in batches {
        let column = arrow::compute::cast(batch.column(0), &DataType::Utf8).expect("it has a text");
        rows.extend(
            column
                .as_string::<i32>()
                .iter()
                .map(|text| text.unwrap_or("NULL").to_owned()),
        );
    }
    rows
}

/// Collects the mismatches of a loop, so that one run shows all of them.
#[derive(Default)]
pub(crate) struct Mismatches {
    checked: usize,
    found: Vec<String>,
}

impl Mismatches {
    /// Records one outcome of the loop.
    pub(crate) fn note(&mut self, what: &str, outcome: Result<(), String>) {
        self.checked += 1;
        if let Err(why) = outcome {
            self.found.push(format!("## {what:.200}\n{why}"));
        }
    }

    /// Fails when there was a mismatch.
    pub(crate) fn assert_none(self) {
        assert!(
            self.found.is_empty(),
            "{} of {} are wrong:\n\n{}",
            self.found.len(),
            self.checked,
            self.found.join("\n\n")
        );
    }
}

/// A result of the reference.
pub(crate) struct Expected {
    /// The rows.
    pub(crate) rows: Rows,
    /// The columns that the query orders by.
    pub(crate) order: Vec<usize>,
}

/// Squadron's own plans over the same files, run by DataFusion in this process, in one partition and without dynamic
/// filters (their column mapping by name loses rows in 55.2), so that they have none of the difficulties of distribution.
#[derive(Clone)]
pub(crate) struct Reference {
    catalog: Catalog,
    context: SessionContext,
}

impl Reference {
    pub(crate) fn new() -> Self {
        let options = CatalogOptions::default();
        let catalog = futures::executor::block_on(Catalog::open(&options, Arc::default()));
        let catalog = catalog.unwrap_or_else(|failure| panic!("the reference has no catalog: {failure}"));
        let mut state = catalog.session_context().state();
        let options = state.config_mut().options_mut();
        options.execution.target_partitions = 1;
        options.optimizer.enable_dynamic_filter_pushdown = false;
        options.optimizer.enable_join_dynamic_filter_pushdown = false;
        options.optimizer.enable_topk_dynamic_filter_pushdown = false;
        options.optimizer.enable_aggregate_dynamic_filter_pushdown = false;
        Self {
            catalog,
            context: SessionContext::new_with_state(state),
        }
    }

    /// Runs `sql`; the schema is that of the optimised logical plan, whose types are final.
    pub(crate) async fn run(&self, sql: &str) -> Result<Expected, DataFusionError> {
        let plan = logical_plan(&self.context.state(), sql).await?;
        let order = order_of(&plan);
        if let LogicalPlan::Ddl(statement) = plan {
            self.catalog.execute_ddl(&self.context, statement).await?;
            return Ok(Expected {
                rows: (Arc::new(Schema::empty()), Vec::new()),
                order,
            });
        }
        let frame = self.context.execute_logical_plan(plan).await?;
        let optimised = frame.clone().into_optimized_plan()?;
        let schema = unmarked(optimised.schema().as_arrow());
        let batches = frame.collect().await?;
        let batches = batches.into_iter().map(|batch| {
            let columns = batch.columns().to_vec();
            let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            RecordBatch::try_new_with_options(unmarked(&batch.schema()), columns, &options)
        });
        Ok(Expected {
            rows: (schema, batches.collect::<Result<_, _>>()?),
            order,
        })
    }

    /// The optimised logical plan of `sql`, with the session state that made it.
    pub(crate) async fn plan(&self, sql: &str) -> (LogicalPlan, SessionState) {
        let state = self.context.state();
        let plan = logical_plan(&state, sql).await;
        let plan = plan.and_then(|plan| state.optimize(&plan));
        let plan = plan.unwrap_or_else(|error| panic!("the reference refuses {sql}: {error}"));
        (plan, state)
    }

    /// Runs a statement that gives no rows.
    pub(crate) async fn define(&self, sql: &str) {
        if let Err(error) = self.run(sql).await {
            panic!("the reference refuses {sql}: {error}");
        }
    }
}

/// Columns under the names that clients see.
fn unmarked(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| {
        let name = without_mark(field.name()).to_owned();
        field.as_ref().clone().with_name(name)
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// All rows of an answer in one batch.
pub(crate) fn one_batch(batches: &[RecordBatch]) -> RecordBatch {
    concat_batches(&batches[0].schema(), batches).expect("batches of one schema")
}
