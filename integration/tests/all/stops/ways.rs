//! The ways to stop a query, and what each says of itself.

use arrow_flight::sql::{ActionCancelQueryRequest, ProstMessageExt};
use prost::Message;
use squadron_integration::client::Client;
use tonic::{Code, Status};

use super::victim::{Names, Phase};

/// Who or what stops a query.
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

    /// Whether there is such a stop in this phase.
    pub(crate) fn reaches(self, phase: Phase) -> bool {
        match self {
            // A query that is planned has no FlightInfo yet.
            Self::CancelFlightInfo | Self::CancelQuery => phase != Phase::Planning,
            // A result that nobody asked for waits for its client to come back, for a while.
            Self::Disconnect => phase != Phase::Unread,
            // Where no call is under way none has a deadline; once rows flow, the end of a call is a disconnect.
            Self::Deadline => !matches!(phase, Phase::Streaming | Phase::Unread),
            Self::KillQuery | Self::KillSession | Self::CloseSession | Self::QueryTimeout => true,
        }
    }

    /// Whether it comes by itself, some time after the start.
    pub(crate) fn is_time(self) -> bool {
        matches!(self, Self::QueryTimeout | Self::Deadline)
    }

    /// Stops the query on connections that are not its own, except to close its session.
    pub(crate) async fn stop(self, victim: &Names, other: &Client) -> Result<(), Status> {
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

    /// Whether the client of a stopped query should hear this.
    pub(crate) fn says(self, phase: Phase, status: &Status) -> bool {
        match (self, status.code()) {
            (Self::QueryTimeout, code) => code == Code::DeadlineExceeded,
            // Who notices first, client or server, gives the code.
            (Self::Deadline, code) => matches!(code, Code::DeadlineExceeded | Code::Cancelled),
            (_, Code::Cancelled) => true,
            // The rows that it comes for are gone.
            (_, Code::NotFound) => phase == Phase::Unread,
            _ => false,
        }
    }
}

/// KILL, as an update.
pub(crate) async fn kill(client: &Client, what: &str, id: &str) -> Result<(), Status> {
    let killed = client.update(&format!("KILL {what} '{id}'")).await;
    killed.map(drop)
}
