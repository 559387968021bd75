//! The ways to stop a query, and the status that the client of the query gets.

use arrow_flight::sql::{ActionCancelQueryRequest, ProstMessageExt};
use prost::Message;
use squadron_integration::client::Client;
use tonic::{Code, Status};

use super::victim::{Handles, Phase};

/// A way to stop a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    CancelFlightInfo,
    CancelQuery,
    KillQuery,
    KillSession,
    CloseSession,
    Disconnect,
    QueryTimeout,
    Deadline,
}

impl Way {
    pub(crate) const ALL: [Self; 8] = [
        Self::CancelFlightInfo,
        Self::CancelQuery,
        Self::KillQuery,
        Self::KillSession,
        Self::CloseSession,
        Self::Disconnect,
        Self::QueryTimeout,
        Self::Deadline,
    ];

    /// Whether a query can be stopped in this way in this phase.
    pub(crate) fn applies_to(self, phase: Phase) -> bool {
        match self {
            // A query that is being planned has no FlightInfo yet.
            Self::CancelFlightInfo | Self::CancelQuery => phase != Phase::Planning,
            // An unread result waits for its client, also when the client has disconnected.
            Self::Disconnect => phase != Phase::Unread,
            // Without a call there is no deadline; once rows flow, the end of a call is a disconnect.
            Self::Deadline => !matches!(phase, Phase::Streaming | Phase::Unread),
            Self::KillQuery | Self::KillSession | Self::CloseSession | Self::QueryTimeout => true,
        }
    }

    /// Whether a time limit stops the query.
    pub(crate) fn is_timeout(self) -> bool {
        matches!(self, Self::QueryTimeout | Self::Deadline)
    }

    /// Stops the query through another connection; only CloseSession goes through its own.
    pub(crate) async fn stop(self, victim: &Handles, other: &Client) -> Result<(), Status> {
        match self {
            Self::CancelFlightInfo => other.cancel(victim.info()).await,
            Self::CancelQuery => {
                let request = ActionCancelQueryRequest {
                    info: victim.info().encode_to_vec().into(),
                };
                let body = request.as_any().encode_to_vec();
                other.act("CancelQuery", body).await.map(drop)
            }
            Self::KillQuery => kill(other, "QUERY", &victim.seen().query).await,
            Self::KillSession => kill(other, "SESSION", &victim.seen().session).await,
            Self::CloseSession => {
                let closed = victim.client.act("CloseSession", Vec::new()).await;
                closed.map(drop)
            }
            Self::Disconnect | Self::QueryTimeout | Self::Deadline => Ok(()),
        }
    }

    /// Whether the client of a query that was stopped in this way may get this status.
    pub(crate) fn accepts(self, phase: Phase, status: &Status) -> bool {
        match (self, status.code()) {
            (Self::QueryTimeout, code) => code == Code::DeadlineExceeded,
            // The code depends on which side sees the deadline first, client or server.
            (Self::Deadline, code) => matches!(code, Code::DeadlineExceeded | Code::Cancelled),
            (_, Code::Cancelled) => true,
            // The rows that the client fetches late are gone.
            (_, Code::NotFound) => phase == Phase::Unread,
            _ => false,
        }
    }
}

/// Runs KILL as an update.
pub(crate) async fn kill(client: &Client, what: &str, id: &str) -> Result<(), Status> {
    let killed = client.update(&format!("KILL {what} '{id}'")).await;
    killed.map(drop)
}
