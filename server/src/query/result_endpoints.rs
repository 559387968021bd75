//! Where the rows of a result can be read: endpoints, each with a ticket and locations.
//!
//! | `squadron.endpoints` | endpoints | good for | when all are told |
//! |---|---|---|---|
//! | one | one, on the client's own connection | one DoGet | at once |
//! | parallel | one for each partition of the root stage, at its worker | any number until they expire | when the last root task runs |
//!
//! Rows that the server makes itself (EXPLAIN, the empty result of a change) have one endpoint either way.

use std::net::IpAddr;
use std::time::SystemTime;

use bytes::Bytes;

/// What a client takes for the connection that it has already.
const SAME_CONNECTION: &str = "arrow-flight-reuse-connection://?";

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
pub struct ResultEndpoints {
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
    pub(super) fn of(self, address: &str) -> Vec<String> {
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

impl ResultEndpoints {
    /// Of a result of which nothing can be read yet.
    pub(super) fn none() -> Self {
        Self {
            endpoints: Vec::new(),
            is_ordered: false,
            total_records: -1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_told_where_reachable() {
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
