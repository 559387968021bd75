//! A client that starts queries and stops them.

use std::time::{Duration, Instant, SystemTime};

use arrow_flight::{Action, CancelFlightInfoRequest, FlightInfo};
use prost::Message;
use squadron_integration::client::status;
use tokio::sync::Notify;
use tokio::time::{sleep_until, timeout, timeout_at};
use tonic::{Code, Status};

use super::figures::{End, Stopped};
use super::observe::TAG;
use super::scenarios::{Scenario, Way};
use crate::Result;
use crate::answers::{self, Answer};
use crate::connection::{self, Connection, describe};

/// A call without an answer for this long counts as hung.
const PATIENCE: Duration = Duration::from_secs(10);
/// After this time a call has certainly reached the server.
const ARRIVES: Duration = Duration::from_millis(50);

/// The codes that the client of a stopped query may get: the query was cancelled, or its result is gone.
const STOPPED: [Code; 2] = [Code::Cancelled, Code::NotFound];

/// One client with two connections, so that a stop does not wait for a query.
pub(super) struct Client {
    /// The connection of the queries, which the tag of its session marks.
    queries: Connection,
    stops: Connection,
}

/// The end of a query that ended before it was stopped.
type Ended = Option<std::result::Result<Answer, Status>>;

impl Client {
    pub(super) async fn connect(url: &str) -> Result<Self> {
        Ok(Self {
            queries: connection::connect(url).await?,
            stops: connection::connect(url).await?,
        })
    }

    /// Starts the query and stops it.
    ///
    /// # Errors
    /// When the tag cannot be set. An error of the query itself is a figure.
    pub(super) async fn run(&mut self, scenario: &Scenario<'_>) -> Result<Stopped> {
        let set = format!("SET squadron.tag = '{TAG}{}'", scenario.number);
        connection::update(&mut self.queries, &set).await?;
        let (end, at) = self.start_and_stop(scenario).await;
        Ok(Stopped::new(scenario.number, scenario.way, end, at))
    }

    /// Gives how the query ended, and when it was stopped unless it ended before.
    async fn start_and_stop(&mut self, scenario: &Scenario<'_>) -> (End, Option<SystemTime>) {
        let at = Instant::now() + scenario.moment;
        let sql = scenario.target.sql.clone();
        let mut queries = self.queries.clone();
        let mut call = Box::pin(queries.execute(sql, None));
        let called = match scenario.way {
            Way::DropCall => timeout_at(at.into(), &mut call).await.ok(),
            Way::CancelFlightInfo | Way::KillQuery | Way::DropStream => Some(call.as_mut().await),
        };
        let now = SystemTime::now();
        drop(call);
        match called {
            // The client does not know the query's id; the observer finds the query by its tag.
            None => (End::Stopped, Some(now)),
            Some(Err(error)) => (classify(scenario, Err(status(error))), None),
            Some(Ok(info)) => self.stop(scenario, info, at).await,
        }
    }

    async fn stop(&mut self, scenario: &Scenario<'_>, info: FlightInfo, at: Instant) -> (End, Option<SystemTime>) {
        let id = String::from_utf8_lossy(&info.app_metadata).into_owned();
        let mut queries = self.queries.clone();
        let opened = Notify::new();
        let mut read = Box::pin(answers::read_and_notify(&mut queries, info.clone(), &opened));
        let ended: Ended = match scenario.way {
            // The answer came before the call was dropped: the query exists, and no client will fetch its rows.
            Way::DropCall => None,
            Way::CancelFlightInfo | Way::KillQuery | Way::DropStream => tokio::select! {
                ended = &mut read => Some(ended),
                () = wait_for_moment(scenario.way, at, &opened) => None,
            },
        };
        if let Some(ended) = ended {
            return (classify(scenario, ended), None);
        }
        let now = SystemTime::now();
        let end = match scenario.way {
            Way::DropStream => {
                drop(read);
                End::Stopped
            }
            Way::DropCall => {
                drop(read);
                let refused = self.request_stop(scenario.way, info, &id).await.err();
                refused.map_or(End::Stopped, |status| classify(scenario, Err(status)))
            }
            Way::CancelFlightInfo | Way::KillQuery => {
                // The client reads on until its stream ends.
                let reading = timeout(PATIENCE, read);
                let (read, stopped) = tokio::join!(reading, self.request_stop(scenario.way, info, &id));
                match (stopped, read) {
                    (_, Err(_)) => End::Hung,
                    (Err(status), _) if !STOPPED.contains(&status.code()) => classify(scenario, Err(status)),
                    (_, Ok(read)) => classify(scenario, read),
                }
            }
        };
        (end, Some(now))
    }

    async fn request_stop(&mut self, way: Way, info: FlightInfo, id: &str) -> std::result::Result<(), Status> {
        if way == Way::KillQuery {
            let kill = format!("KILL QUERY '{id}'");
            let killed = self.stops.execute_update(kill, None).await;
            return killed.map(drop).map_err(status);
        }
        let request = CancelFlightInfoRequest::new(info).encode_to_vec();
        let action = Action::new("CancelFlightInfo", request);
        let answer = self.stops.inner_mut().do_action(action).await?;
        let mut answer = answer.into_inner();
        while answer.message().await?.is_some() {}
        Ok(())
    }
}

/// Waits until the moment to stop. A stream can be dropped only after the server has received its DoGet, which is
/// certain when the server has answered or [`ARRIVES`] has passed; until then the result still waits for a client.
async fn wait_for_moment(way: Way, at: Instant, opened: &Notify) {
    if way == Way::DropStream {
        // The answer or the timeout, whichever comes first.
        let _ = timeout(ARRIVES, opened.notified()).await;
    }
    sleep_until(at.into()).await;
}

/// Classifies the end of a query that was to be stopped.
fn classify(scenario: &Scenario<'_>, ended: std::result::Result<Answer, Status>) -> End {
    match ended {
        Ok(answer) if Some(answer) == scenario.target.answer => End::Finished,
        Ok(_) => {
            eprintln!("{} ended well without all of its rows", scenario.target.name);
            End::Wrong
        }
        Err(status) if STOPPED.contains(&status.code()) => End::Stopped,
        Err(status) => {
            let how = scenario.way.label();
            eprintln!("{}, {how}: {}", scenario.target.name, describe(&status));
            End::Failed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::scenarios::Target;
    use super::*;

    #[test]
    fn partial_result_or_error_is_fault() {
        let target = Target {
            name: "q06".into(),
            sql: String::new(),
            planning: Duration::ZERO,
            isolated: Duration::ZERO,
            answer: Some(Answer::default()),
        };
        let scenario = Scenario {
            number: 0,
            target: &target,
            way: Way::KillQuery,
            moment: Duration::ZERO,
        };
        let part = answers::sample(1);
        assert_eq!(classify(&scenario, Ok(Answer::default())), End::Finished);
        assert_eq!(classify(&scenario, Ok(part)), End::Wrong);
        assert_eq!(classify(&scenario, Err(Status::cancelled("killed"))), End::Stopped);
        assert_eq!(classify(&scenario, Err(Status::not_found("gone"))), End::Stopped);
        assert_eq!(classify(&scenario, Err(Status::internal("bug"))), End::Failed);
    }
}
