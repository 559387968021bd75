//! `INSERT INTO` and `COPY ... TO`: planned like any query, written by the workers, published here.

use datafusion::logical_expr::LogicalPlan;
use squadron_proto::Failure;
use squadron_shuffle::StagedFile;
use squadron_shuffle::failure;
use tracing::info;

use super::Queries;
use super::options::within;
use super::plan_context::PlanContext;

/// Bytes of the list of files that one statement wrote; some hundred thousand files.
const MAX_FILE_LIST_BYTES: usize = 64 * 1024 * 1024;

impl Queries {
    /// Writes and publishes. Returns the number of rows.
    ///
    /// # Errors
    /// Why nothing was written. Dropping the future stops the query, and nothing is written either, unless the files
    /// are just being published.
    pub(super) async fn write(&self, context: &PlanContext, plan: LogicalPlan) -> Result<u64, Failure> {
        let (queries, planning) = (self.clone(), context.clone());
        let resolved = self.on_planner(
            &context.session,
            async move { queries.destination(&planning, plan).await },
        );
        let (destination, rows) = resolved.await?;
        let write = self.parts.writes.begin(destination).await?;
        let context = &self.limited(context).read_by_server();
        let (queries, planning, destination) = (self.clone(), context.clone(), write.destination().clone());
        let planned = self.on_planner(&context.session, async move {
            queries.physical_write(&planning, rows, &destination).await
        });
        let query = within(context.limit.as_ref(), planned).await?;
        let stages = query.graph.stages.len();
        let events = self.submit(query.graph).await?;
        info!(stages, "write started");
        let reader = &self.parts.reader;
        let staged = reader.collect(&query.schema, events, MAX_FILE_LIST_BYTES).await?;
        let mut files = Vec::new();
        for batch in &staged {
            files.extend(StagedFile::from_rows(batch).map_err(|error| failure::of(&error))?);
        }
        write.publish(files).await
    }
}
