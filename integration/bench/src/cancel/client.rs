//! One client that starts queries and stops them.

use std::time::{Duration, Instant, SystemTime};

use arrow_flight::{Action, CancelFlightInfoRequest, FlightInfo};
use prost::Message;
use tokio::sync::Notify;
use tokio::time::{sleep_until, timeout, timeout_at};
use tonic::{Code, Status};

use super::super::Result;
use super::super::answers::{self, Answer};
use super::super::connection::{self, Connection, words};
use super::figures::{End, Stopped};
use super::observe::TAG;
use super::scenarios::{Order, Way};
use squadron_integration::client::status;

/// After how long a call that still waits has hung.
const PATIENCE: Duration = Duration::from_secs(10);
/// After how long a call has surely reached the server.
const ARRIVES: Duration = Duration::from_millis(50);

/// What a stopped client may be told: that it was, or that there is nothing to fetch any more.
const STOPPED: [Code; 2] = [Code::Cancelled, Code::NotFound];

/// One client with two connections, so that none waits for the other.
pub(super) struct Client {
    /// Its session marks its queries with a tag.
    queries: Connection,
    stops: Connection,
}

/// Whether a query has ended before it was stopped.
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
    /// When it cannot be marked. Whatever the query ends with is a figure.
    pub(super) async fn carry_out(&mut self, order: &Order<'_>) -> Result<Stopped> {
        let set = format!("SET squadron.tag = '{TAG}{}'", order.number);
        connection::update(&mut self.queries, &set).await?;
        let (end, at) = self.start_and_stop(order).await;
        Ok(Stopped::new(order.number, order.way, end, at))
    }

    /// How it ended, and when it was stopped unless it ended before.
    async fn start_and_stop(&mut self, order: &Order<'_>) -> (End, Option<SystemTime>) {
        let at = Instant::now() + order.moment;
        let sql = order.target.sql.clone();
        let mut queries = self.queries.clone();
        let mut call = Box::pin(queries.execute(sql, None));
        let called = match order.way {
            Way::DropCall => timeout_at(at.into(), &mut call).await.ok(),
            Way::CancelFlightInfo | Way::KillQuery | Way::DropStream => Some(call.as_mut().await),
        };
        let now = SystemTime::now();
        drop(call);
        match called {
            // The query has no name here; its tag tells what becomes of it.
            None => (End::Stopped, Some(now)),
            Some(Err(error)) => (told(order, Err(status(error))), None),
            Some(Ok(info)) => self.stop(order, info, at).await,
        }
    }

    async fn stop(&mut self, order: &Order<'_>, info: FlightInfo, at: Instant) -> (End, Option<SystemTime>) {
        let id = String::from_utf8_lossy(&info.app_metadata).into_owned();
        let mut queries = self.queries.clone();
        let opened = Notify::new();
        let mut read = Box::pin(answers::read_telling(&mut queries, info.clone(), &opened));
        let ended: Ended = match order.way {
            // The answer came before the call was dropped: there is a query, whose rows nobody will fetch.
            Way::DropCall => None,
            Way::CancelFlightInfo | Way::KillQuery | Way::DropStream => tokio::select! {
                ended = &mut read => Some(ended),
                () = moment(order.way, at, &opened) => None,
            },
        };
        if let Some(ended) = ended {
            return (told(order, ended), None);
        }
        let now = SystemTime::now();
        let end = match order.way {
            Way::DropStream => {
                drop(read);
                End::Stopped
            }
            Way::DropCall => {
                drop(read);
                let refused = self.ask_to_stop(order.way, info, &id).await.err();
                refused.map_or(End::Stopped, |status| told(order, Err(status)))
            }
            Way::CancelFlightInfo | Way::KillQuery => {
                // The client reads on until it is told.
                let reading = timeout(PATIENCE, read);
                let (read, asked) = tokio::join!(reading, self.ask_to_stop(order.way, info, &id));
                match (asked, read) {
                    (_, Err(_)) => End::Hung,
                    (Err(status), _) if !STOPPED.contains(&status.code()) => told(order, Err(status)),
                    (_, Ok(read)) => told(order, read),
                }
            }
        };
        (end, Some(now))
    }

    async fn ask_to_stop(&mut self, way: Way, info: FlightInfo, id: &str) -> std::result::Result<(), Status> {
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

/// When to stop. A stream can be let go only once it has been asked for, and the server knows that for sure when it has
/// answered, or some time has passed; until then the result waits for its client, whoever that is.
async fn moment(way: Way, at: Instant, opened: &Notify) {
    if way == Way::DropStream {
        // Whichever comes first.
        let _ = timeout(ARRIVES, opened.notified()).await;
    }
    sleep_until(at.into()).await;
}

/// What the end of a query means that was to be stopped.
fn told(order: &Order<'_>, ended: std::result::Result<Answer, Status>) -> End {
    match ended {
        Ok(answer) if Some(answer) == order.target.answer => End::Finished,
        Ok(_) => {
            eprintln!("{} ended well without all of its rows", order.target.name);
            End::Wrong
        }
        Err(status) if STOPPED.contains(&status.code()) => End::Stopped,
        Err(status) => {
            let how = order.way.label();
            eprintln!("{}, {how}: {}", order.target.name, words(&status));
            End::Failed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::scenarios::Target;
    use super::*;

    #[test]
    fn a_query_ends_stopped_or_whole_or_it_is_a_fault() {
        let target = Target {
            name: "q06".into(),
            sql: String::new(),
            planning: Duration::ZERO,
            alone: Duration::ZERO,
            answer: Some(Answer::default()),
        };
        let order = Order {
            number: 0,
            target: &target,
            way: Way::KillQuery,
            moment: Duration::ZERO,
        };
        let part = answers::sample(1);
        assert_eq!(told(&order, Ok(Answer::default())), End::Finished);
        assert_eq!(told(&order, Ok(part)), End::Wrong);
        assert_eq!(told(&order, Err(Status::cancelled("killed"))), End::Stopped);
        assert_eq!(told(&order, Err(Status::not_found("gone"))), End::Stopped);
        assert_eq!(told(&order, Err(Status::internal("bug"))), End::Failed);
    }
}
