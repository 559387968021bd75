//! A statement that the server has begun: what is known of its result, and how far it is.
//!
//! ```text
//! PollFlightInfo ──> Begun ──poll──> Begun ──poll──> ... ──> the FlightInfo is whole
//!    Unimplemented ──> GetFlightInfo ────────────────────────^
//! ```

use arrow_flight::sql::{CommandStatementQuery, ProstMessageExt};
use arrow_flight::{FlightDescriptor, FlightInfo, PollInfo};
use prost::Message;
use tonic::Code;

use super::client::Client;
use super::error::Error;

/// A statement on its way to its result.
#[derive(Debug)]
pub(super) struct Begun {
    /// All that is known of the result; names the statement in a cancel.
    pub(super) info: FlightInfo,
    /// From 0 to 1, where the server says it.
    pub(super) progress: Option<f64>,
    /// Asks for more; none: the FlightInfo is whole.
    next: Option<FlightDescriptor>,
}

impl Begun {
    fn of(answer: PollInfo, before: Option<FlightInfo>) -> Result<Self, Error> {
        let info = match answer.info.or(before) {
            Some(info) => info,
            // It may come with the next answer.
            None if answer.flight_descriptor.is_some() => FlightInfo::default(),
            None => return Err(Error::Answer("PollInfo without a FlightInfo".to_owned())),
        };
        Ok(Self {
            info,
            progress: answer.progress,
            next: answer.flight_descriptor,
        })
    }

    /// Whether nothing more will be told: the rows can be read, and a change has been made.
    pub(super) fn is_whole(&self) -> bool {
        self.next.is_none()
    }
}

/// Whether the server answers PollFlightInfo.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Polls {
    /// It was not asked yet, or refused a statement that it may refuse in any case.
    #[default]
    Unknown,
    Served,
    Refused,
}

impl Client {
    /// Begins a statement; the server runs it once, however often it is polled.
    pub(super) async fn begin(&mut self, sql: &str) -> Result<Begun, Error> {
        let command = CommandStatementQuery {
            query: sql.to_owned(),
            transaction_id: None,
        };
        let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
        if self.polls == Polls::Refused {
            return self.get(descriptor).await;
        }
        match self.answer(descriptor.clone()).await {
            Ok(answer) => {
                self.polls = Polls::Served;
                Begun::of(answer, None)
            }
            // Of a server that serves polls this is said of the statement, which must not be sent again.
            Err(Error::Server(status)) if status.code() == Code::Unimplemented && self.polls == Polls::Unknown => {
                let begun = self.get(descriptor).await?;
                self.polls = Polls::Refused;
                Ok(begun)
            }
            Err(error) => Err(error),
        }
    }

    /// Waits for news of a statement; changes nothing when it is dropped before.
    pub(super) async fn poll(&mut self, begun: &mut Begun) -> Result<(), Error> {
        if let Some(next) = begun.next.clone() {
            let answer = self.answer(next).await?;
            *begun = Begun::of(answer, Some(begun.info.clone()))?;
        }
        Ok(())
    }

    async fn answer(&mut self, descriptor: FlightDescriptor) -> Result<PollInfo, Error> {
        let request = self.request(descriptor);
        let response = self.flight.poll_flight_info(request).await?;
        self.remember(response.metadata());
        Ok(response.into_inner())
    }

    async fn get(&mut self, descriptor: FlightDescriptor) -> Result<Begun, Error> {
        let request = self.request(descriptor);
        let response = self.flight.get_flight_info(request).await?;
        self.remember(response.metadata());
        Ok(Begun {
            info: response.into_inner(),
            progress: None,
            next: None,
        })
    }
}

#[cfg(test)]
mod tests;
