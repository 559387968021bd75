//! How clients come to the rows of a query: its endpoints, and the streams behind their tickets.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures::StreamExt;
use squadron_proto::ticket::{Fetch, Subject, TicketError};
use squadron_proto::{Failure, FailureKind, QueryId};

use super::result_endpoints::{Endpoint, ResultEndpoints};
use super::results::Frames;
use super::retained::{RetainedResult, Standing, gone};
use super::started::{Offer, Started};
use super::{Principal, Queries};

impl Queries {
    /// Where the rows of a started query are, as far as that is known; keeps them for their whole time to live from now
    /// on.
    ///
    /// # Errors
    /// The query's own failure, or `NotFound` when its result is gone.
    pub fn endpoints(&self, started: &Started) -> Result<ResultEndpoints, Failure> {
        match &started.offer {
            Offer::Once(_) => {
                self.parts.records.touch(started.id);
                Ok(ResultEndpoints {
                    endpoints: vec![Endpoint {
                        ticket: started.ticket.clone(),
                        locations: Vec::new(),
                        expires: None,
                    }],
                    is_ordered: false,
                    total_records: started.total_records,
                })
            }
            Offer::Retained(result) => Ok(self.retained_endpoints(result, result.standing()?)),
        }
    }

    pub(super) fn retained_endpoints(&self, result: &RetainedResult, standing: Standing) -> ResultEndpoints {
        let expires = result.touch();
        let endpoints = standing.endpoints.into_iter();
        let endpoints = endpoints.map(|endpoint| Endpoint {
            ticket: endpoint.ticket,
            locations: self.parts.locations.of(&endpoint.address),
            expires: Some(expires),
        });
        ResultEndpoints {
            endpoints: endpoints.collect(),
            is_ordered: result.is_ordered,
            total_records: standing.rows.map_or(-1, |rows| i64::try_from(rows).unwrap_or(i64::MAX)),
        }
    }

    /// Keeps the rows of an endpoint for their whole time to live from now on; gives the ticket and the time to use
    /// from now on.
    ///
    /// # Errors
    /// `Invalid` for a ticket that is not ours or of an endpoint that does not expire, `NotFound` when the rows are
    /// gone.
    pub fn renew(&self, principal: &Principal, ticket: &[u8]) -> Result<(Bytes, SystemTime), Failure> {
        match self.opened(ticket)? {
            Subject::Endpoint(rows) => {
                let result = self.retained_result(principal, rows.query)?;
                result.check(&rows)?;
                let expires = result.touch();
                Ok((result.fresh_ticket(rows), expires))
            }
            Subject::Result(_) | Subject::Poll(_) | Subject::Fetch(_) => Err(Failure::new(
                FailureKind::Invalid,
                "the endpoint has no expiration time that could be renewed: its rows are read once; results of several \
                 endpoints (SET squadron.endpoints = parallel) can be renewed",
            )),
        }
    }

    pub(super) async fn retained_frames(&self, principal: &Principal, rows: &Fetch) -> Result<Frames, Failure> {
        let result = self.retained_result(principal, rows.query)?;
        self.parts.reader.retained_frames(&result, rows).await
    }

    fn retained_result(&self, principal: &Principal, id: QueryId) -> Result<Arc<RetainedResult>, Failure> {
        self.parts.records.retained(id, principal).ok_or_else(gone)
    }

    /// What a ticket of ours is for.
    pub(super) fn opened(&self, ticket: &[u8]) -> Result<Subject, Failure> {
        let refused = |error: TicketError| {
            let kind = match error {
                TicketError::Foreign => FailureKind::Invalid,
                TicketError::Expired => FailureKind::NotFound,
            };
            Failure::new(kind, error.to_string())
        };
        match self.parts.key.open(ticket, SystemTime::now()) {
            // Those of the data plane open nothing here.
            Ok(Subject::Fetch(_)) => Err(refused(TicketError::Foreign)),
            opened => opened.map_err(refused),
        }
    }

    /// The ticket for a result that is read once.
    pub(super) fn ticket(&self, id: QueryId) -> Bytes {
        self.parts
            .key
            .seal(&Subject::Result(id), SystemTime::now(), self.parts.ticket_lifetime)
    }

    /// The rows behind a ticket, once. Dropping the stream before its end cancels the query.
    ///
    /// # Errors
    /// `Invalid` for a ticket that is not ours, `NotFound` for one whose time is over and for a result that is gone or
    /// of another principal, else the query's own failure.
    pub async fn stream(&self, principal: &Principal, ticket: &[u8]) -> Result<Frames, Failure> {
        match self.opened(ticket)? {
            Subject::Result(id) => self.frames_of(principal, id),
            Subject::Endpoint(rows) => self.retained_frames(principal, &rows).await,
            Subject::Poll(_) | Subject::Fetch(_) => Err(Failure::new(
                FailureKind::Invalid,
                "this is not the ticket of an endpoint; use the ones in the FlightInfo",
            )),
        }
    }

    /// The query that a ticket, or the handle of a poll, names, if it is ours and good.
    pub fn query_of(&self, ticket: &[u8]) -> Option<QueryId> {
        match self.opened(ticket).ok()? {
            Subject::Result(id) => Some(id),
            Subject::Endpoint(rows) | Subject::Fetch(rows) => Some(rows.query),
            Subject::Poll(poll) => Some(poll.query),
        }
    }

    pub(super) fn frames_of(&self, principal: &Principal, id: QueryId) -> Result<Frames, Failure> {
        let (result, guard) = self.parts.records.take(id, principal)?;
        let frames = self.parts.reader.frames(result);
        Ok(frames
            .inspect(move |_| {
                let _held = &guard;
            })
            .boxed())
    }
}
