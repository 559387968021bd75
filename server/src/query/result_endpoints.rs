//! How the rows of a query that was started are offered to its client: the tickets, and where they can be presented.
//!
//! | `squadron.endpoints` | endpoints | good for | when all are told |
//! |---|---|---|---|
//! | one | one, on the client's own connection | one DoGet | at once |
//! | parallel | one for each partition of the root stage, at its worker | any number until they expire | when the last root task runs |
//!
//! What the server makes itself (EXPLAIN, the empty result of a change) has one endpoint either way.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use datafusion::logical_expr::LogicalPlan;
use squadron_proto::ticket::{Fetch, Subject, TicketError};
use squadron_proto::{Failure, FailureKind, QueryId};
use tokio::sync::watch;

use super::{Frames, Principal, Queries, Session, Started};
use crate::query::retained::{KeptResult, Standing, gone};
use crate::settings::{Endpoints, SquadronOptions};
use squadron_scheduler::QueryProgress;

/// What a client takes for the connection that it has already.
const SAME_CONNECTION: &str = "arrow-flight-reuse-connection://?";

/// How a result can be read.
#[derive(Clone, Debug)]
pub enum Offer {
    /// Once, in one stream. The progress of the query, unless its rows are there already.
    Once(Option<watch::Receiver<QueryProgress>>),
    /// In several streams, each as often as wanted.
    Kept(Arc<KeptResult>),
}

/// One way to a part of the rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// To be presented to DoGet.
    pub ticket: Bytes,
    /// Where, the best first; none: on the connection that the client has.
    pub locations: Vec<String>,
    /// Until when it can be read, as often as wanted. None: once, soon.
    pub expires: Option<SystemTime>,
}

/// All that is known of where the rows are.
#[derive(Clone, Debug)]
pub struct Offered {
    /// Only ever appended to.
    pub endpoints: Vec<Endpoint>,
    /// Whether the endpoints, one after the other, give the rows in the query's order.
    pub is_ordered: bool,
    /// How many rows, or -1 when not known yet.
    pub total_records: i64,
}

/// Which locations clients are told beside the server's own connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locations {
    /// None: all rows pass through the server.
    Server,
    /// The worker that holds the rows.
    Workers {
        /// Whether clients come from other machines, where a worker's loopback address means nothing.
        are_clients_elsewhere: bool,
    },
}

impl Locations {
    /// The locations of rows at `address`, `http://host:port` of a worker, or empty for the server itself.
    fn of(self, address: &str) -> Vec<String> {
        let Self::Workers { are_clients_elsewhere } = self else {
            return Vec::new();
        };
        let location = match address.split_once("://") {
            Some(("http", authority)) if !(are_clients_elsewhere && is_loopback(authority)) => {
                format!("grpc://{authority}")
            }
            Some(("https", authority)) if !(are_clients_elsewhere && is_loopback(authority)) => {
                format!("grpc+tls://{authority}")
            }
            Some(_) | None => return Vec::new(),
        };
        // A client that cannot reach the worker takes the way through the server.
        vec![location, SAME_CONNECTION.to_owned()]
    }
}

fn is_loopback(authority: &str) -> bool {
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// What the session wants.
pub(crate) fn wanted(session: &Session) -> Endpoints {
    SquadronOptions::of(session.context.copied_config().options()).endpoints
}

/// Whether the statement says in which order its rows come.
pub(crate) fn orders(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Sort(_) => true,
        LogicalPlan::Projection(projection) => orders(&projection.input),
        LogicalPlan::Limit(limit) => orders(&limit.input),
        _ => false,
    }
}

impl Queries {
    /// Where the rows of a started query are, as far as that is known; keeps them for their whole time to live from now
    /// on.
    ///
    /// # Errors
    /// The query's own failure, or `NotFound` when its result is gone.
    pub fn offered(&self, started: &Started) -> Result<Offered, Failure> {
        match &started.offer {
            Offer::Once(_) => {
                self.parts.results.touch(started.id);
                Ok(Offered {
                    endpoints: vec![Endpoint {
                        ticket: started.ticket.clone(),
                        locations: Vec::new(),
                        expires: None,
                    }],
                    is_ordered: false,
                    total_records: started.total_records,
                })
            }
            Offer::Kept(kept) => Ok(self.kept(kept, kept.standing()?)),
        }
    }

    pub(crate) fn kept(&self, kept: &KeptResult, standing: Standing) -> Offered {
        let expires = kept.touch();
        let endpoints = standing.endpoints.into_iter();
        let endpoints = endpoints.map(|endpoint| Endpoint {
            ticket: endpoint.ticket,
            locations: self.parts.locations.of(&endpoint.address),
            expires: Some(expires),
        });
        Offered {
            endpoints: endpoints.collect(),
            is_ordered: kept.is_ordered,
            total_records: standing.rows.map_or(-1, |rows| i64::try_from(rows).unwrap_or(i64::MAX)),
        }
    }

    /// Keeps the rows of an endpoint for their whole time to live from now on; gives the ticket and the time to use
    /// from now on.
    ///
    /// # Errors
    /// `Invalid` for a ticket that is not ours or of an endpoint that does not expire, `NotFound` when the rows are gone.
    pub fn renew(&self, principal: &Principal, ticket: &[u8]) -> Result<(Bytes, SystemTime), Failure> {
        match self.opened(ticket)? {
            Subject::Endpoint(rows) => {
                let kept = self.kept_result(principal, rows.query)?;
                kept.parts_of(&rows)?;
                let expires = kept.touch();
                Ok((kept.fresh_ticket(rows), expires))
            }
            Subject::Result(_) | Subject::Poll(_) | Subject::Fetch(_) => Err(Failure::new(
                FailureKind::Invalid,
                "the endpoint has no expiration time that could be renewed: its rows are read once; results of several \
                 endpoints (SET squadron.endpoints = parallel) can be renewed",
            )),
        }
    }

    pub(crate) async fn kept_frames(&self, principal: &Principal, rows: &Fetch) -> Result<Frames, Failure> {
        let kept = self.kept_result(principal, rows.query)?;
        self.parts.reader.kept_frames(&kept, rows).await
    }

    fn kept_result(&self, principal: &Principal, id: QueryId) -> Result<Arc<KeptResult>, Failure> {
        self.parts.kept.get(id, principal).ok_or_else(gone)
    }

    /// What a ticket of ours is for.
    pub(crate) fn opened(&self, ticket: &[u8]) -> Result<Subject, Failure> {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_told_to_whom_it_means_something() {
        let here = Locations::Workers {
            are_clients_elsewhere: false,
        };
        let elsewhere = Locations::Workers {
            are_clients_elsewhere: true,
        };
        for (locations, address, first) in [
            (here, "http://127.0.0.1:7", Some("grpc://127.0.0.1:7")),
            (here, "https://w.example:7", Some("grpc+tls://w.example:7")),
            (here, "", None),
            (elsewhere, "http://127.0.0.1:7", None),
            (elsewhere, "http://[::1]:7", None),
            (elsewhere, "http://localhost:7", None),
            (elsewhere, "http://10.0.0.3:7", Some("grpc://10.0.0.3:7")),
            (Locations::Server, "http://10.0.0.3:7", None),
        ] {
            let told = locations.of(address);
            assert_eq!(told.first().map(String::as_str), first, "{address}");
            // The server's own connection is the last resort.
            assert_eq!(told.last().map(String::as_str), first.map(|_| SAME_CONNECTION));
        }
    }
}
