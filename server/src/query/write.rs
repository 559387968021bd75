//! `INSERT INTO` and `COPY ... TO`: planned like any query, written by the workers, published here.

use datafusion::logical_expr::LogicalPlan;
use squadron_proto::{Failure, QueryId};
use squadron_shuffle::StagedFile;
use squadron_shuffle::failure::{self, into_datafusion};
use tracing::info;

use super::{Queries, Session, Staged};
use crate::writes::{self, Destination};

/// Bytes of the list of files that one statement wrote; some hundred thousand files.
const MAX_FILE_LIST_BYTES: usize = 64 * 1024 * 1024;

impl Queries {
    /// Writes and publishes. Returns the number of rows.
    ///
    /// # Errors
    /// Why nothing was written. Whoever drops this before its end stops the query, and nothing is written either, unless the
    /// files are just being published.
    pub(crate) async fn write(&self, id: QueryId, session: &Session, plan: LogicalPlan) -> Result<u64, Failure> {
        let (destination, rows) = self.destination(id, session, plan).await?;
        let write = self.parts.writes.begin(destination).await?;
        let staged = self.staged(session, rows, Some(write.destination())).await?;
        let events = self.submit(id, &staged).await?;
        info!(stages = staged.plan.stages.len(), "write started");
        let told = self
            .parts
            .reader
            .collect(id, &staged.schema, events, MAX_FILE_LIST_BYTES)
            .await?;
        let mut files = Vec::new();
        for batch in &told {
            files.extend(StagedFile::of_rows(batch).map_err(|error| failure::of(&error))?);
        }
        write.publish(files).await
    }

    /// The plan of a write, without doing anything.
    pub(crate) async fn staged_write(
        &self,
        id: QueryId,
        session: &Session,
        plan: LogicalPlan,
    ) -> Result<Staged, Failure> {
        let (destination, rows) = self.destination(id, session, plan).await?;
        self.staged(session, rows, Some(&destination)).await
    }

    async fn destination(
        &self,
        id: QueryId,
        session: &Session,
        plan: LogicalPlan,
    ) -> Result<(Destination, LogicalPlan), Failure> {
        let state = session.context.state();
        let catalog = self.parts.catalog.clone();
        self.on_planner(session, async move {
            let resolved = writes::resolve(id, plan, &state, &catalog).await;
            resolved.map_err(into_datafusion)
        })
        .await
    }
}
