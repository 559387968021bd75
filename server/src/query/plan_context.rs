//! What a query is planned for.

use squadron_proto::QueryId;

use super::Session;
use super::options::Limit;
use crate::settings::Endpoints;

/// See the module.
#[derive(Clone)]
pub(super) struct PlanContext {
    pub(super) id: QueryId,
    pub(super) session: Session,
    pub(super) endpoints: Endpoints,
    /// When the query ends at the latest; none for changes, and for writes until their rows are planned.
    pub(super) limit: Option<Limit>,
}

impl PlanContext {
    /// Whether the result stays where it is written, instead of being streamed to one reader.
    pub(super) fn keeps_result(&self) -> bool {
        self.endpoints == Endpoints::Parallel
    }

    /// For a query that the server reads itself, once: what `squadron.endpoints` says is for the rows of clients.
    pub(super) fn read_by_server(self) -> Self {
        Self {
            endpoints: Endpoints::One,
            ..self
        }
    }
}
