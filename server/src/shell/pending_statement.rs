//! A statement that the server has begun: its FlightInfo so far, and its progress.
//!
//! ```text
//! PollFlightInfo ──> PendingStatement ──poll──> PendingStatement ──poll──> ... ──> the FlightInfo is complete
//!    Unimplemented ──> GetFlightInfo ──────────────────────────────────────────────^
//! ```

use arrow_flight::sql::{CommandStatementQuery, ProstMessageExt};
use arrow_flight::{FlightDescriptor, FlightInfo, PollInfo};
use prost::Message;
use tonic::Code;

use super::client::Client;
use super::error::Error;
use super::poll_support::PollSupport;

/// A statement that was begun.
#[derive(Debug)]
pub(super) struct PendingStatement {
    /// The FlightInfo so far; names the statement in a cancel.
    pub(super) info: FlightInfo,
    /// From 0 to 1, where the server tells it.
    pub(super) progress: Option<f64>,
    /// The descriptor of the next poll; none once the FlightInfo is complete.
    next: Option<FlightDescriptor>,
}

impl PendingStatement {
    fn from_poll(answer: PollInfo, before: Option<FlightInfo>) -> Result<Self, Error> {
        let info = match answer.info.or(before) {
            Some(info) => info,
            // The FlightInfo may come with the next answer.
            None if answer.flight_descriptor.is_some() => FlightInfo::default(),
            None => return Err(Error::Answer("PollInfo without a FlightInfo".to_owned())),
        };
        Ok(Self {
            info,
            progress: answer.progress,
            next: answer.flight_descriptor,
        })
    }

    /// Whether no poll is left: the rows can be read, and a change has been made.
    pub(super) fn is_complete(&self) -> bool {
        self.next.is_none()
    }
}

impl Client {
    /// Begins a statement; the server runs it once, however often it is polled.
    pub(super) async fn begin(&mut self, sql: &str) -> Result<PendingStatement, Error> {
        let command = CommandStatementQuery {
            query: sql.to_owned(),
            transaction_id: None,
        };
        let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
        if self.poll_support == PollSupport::Refused {
            return self.get_flight_info(descriptor).await;
        }
        match self.poll_flight_info(descriptor.clone()).await {
            Ok(answer) => {
                self.poll_support = PollSupport::Served;
                PendingStatement::from_poll(answer, None)
            }
            // From a server that serves polls, this is about the statement, which must not be sent again.
            Err(Error::Server(status))
                if status.code() == Code::Unimplemented && self.poll_support == PollSupport::Unknown =>
            {
                let statement = self.get_flight_info(descriptor).await?;
                self.poll_support = PollSupport::Refused;
                Ok(statement)
            }
            Err(error) => Err(error),
        }
    }

    /// Polls a statement until the server answers. Cancelled before, it changes nothing.
    pub(super) async fn poll(&mut self, statement: &mut PendingStatement) -> Result<(), Error> {
        if let Some(next) = statement.next.clone() {
            let answer = self.poll_flight_info(next).await?;
            *statement = PendingStatement::from_poll(answer, Some(statement.info.clone()))?;
        }
        Ok(())
    }

    async fn poll_flight_info(&mut self, descriptor: FlightDescriptor) -> Result<PollInfo, Error> {
        let request = self.request(descriptor);
        let response = self.flight.poll_flight_info(request).await?;
        self.remember(response.metadata());
        Ok(response.into_inner())
    }

    async fn get_flight_info(&mut self, descriptor: FlightDescriptor) -> Result<PendingStatement, Error> {
        let request = self.request(descriptor);
        let response = self.flight.get_flight_info(request).await?;
        self.remember(response.metadata());
        Ok(PendingStatement {
            info: response.into_inner(),
            progress: None,
            next: None,
        })
    }
}

#[cfg(test)]
mod tests;
