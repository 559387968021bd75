//! One client that starts queries, stops them, and looks until nothing of them is live.

use std::time::{Duration, Instant};

use arrow_flight::{Action, CancelFlightInfoRequest, FlightInfo};
use prost::Message;
use tokio::sync::Notify;
use tokio::time::{sleep, sleep_until, timeout, timeout_at};
use tonic::{Code, Status};

use super::super::Result;
use super::super::answers::{self, Answer};
use super::super::connection::{self, Connection, words};
use super::figures::{End, Seen, Stopped};
use super::looks::{self, TAG};
use super::orders::{Order, Way};
use crate::client::status;

/// After how long a query that is still live, or a call that still waits, has hung.
const PATIENCE: Duration = Duration::from_secs(10);
/// After how long a call has surely reached the server.
const ARRIVES: Duration = Duration::from_millis(50);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(1);

/// What a stopped client may be told: that it was, or that there is nothing to fetch any more.
const STOPPED: [Code; 2] = [Code::Cancelled, Code::NotFound];

/// One client with three connections, so that none waits for another.
pub(super) struct Client {
    /// Its session marks its queries with a tag.
    queries: Connection,
    stops: Connection,
    looks: Connection,
}

/// Whether a query has ended before it was stopped.
type Ended = Option<std::result::Result<Answer, Status>>;

impl Client {
    pub(super) async fn connect(url: &str) -> Result<Self> {
        Ok(Self {
            queries: connection::connect(url).await?,
            stops: connection::connect(url).await?,
            looks: connection::connect(url).await?,
        })
    }

    /// Starts the query, stops it, and looks until nothing of it is live.
    ///
    /// # Errors
    /// When the server cannot be asked what is live. Whatever a query ends with is a figure.
    pub(super) async fn carry_out(&mut self, order: &Order<'_>) -> Result<Stopped> {
        let tag = format!("{TAG}{}", order.number);
        let set = format!("SET squadron.tag = '{tag}'");
        connection::update(&mut self.queries, &set).await?;
        let stopped = self.start_and_stop(order, &tag).await?;
        if stopped.is_unfreed() {
            let (name, how) = (&order.target.name, order.way.label());
            eprintln!("{name}, {how}: still live after {PATIENCE:?}; its tag is {tag}");
        }
        Ok(stopped)
    }

    async fn start_and_stop(&mut self, order: &Order<'_>, tag: &str) -> Result<Stopped> {
        let at = Instant::now() + order.moment;
        let sql = order.target.sql.clone();
        let mut queries = self.queries.clone();
        let mut call = Box::pin(queries.execute(sql, None));
        let called = match order.way {
            Way::DropCall => timeout_at(at.into(), &mut call).await.ok(),
            Way::CancelFlightInfo | Way::KillQuery | Way::DropStream => Some(call.as_mut().await),
        };
        drop(call);
        match called {
            None => self.dropped_call(order, tag).await,
            Some(Err(error)) => {
                let end = told(order, Err(status(error)));
                Ok(Stopped::unfollowed(order.way, end))
            }
            Some(Ok(info)) => self.stop(order, info, at).await,
        }
    }

    /// The query has no name here; its tag tells.
    async fn dropped_call(&mut self, order: &Order<'_>, tag: &str) -> Result<Stopped> {
        let statement = looks::live_of_tag(tag);
        let seen = self.until_free(&statement, Instant::now()).await?;
        let end = match seen.is_abandoned {
            true => End::Abandoned,
            false => End::Stopped,
        };
        Ok(Stopped::seen(order.way, end, seen))
    }

    async fn stop(&mut self, order: &Order<'_>, info: FlightInfo, at: Instant) -> Result<Stopped> {
        let id = String::from_utf8_lossy(&info.app_metadata).into_owned();
        let statement = looks::live_of_query(&id);
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
            return Ok(Stopped::unfollowed(order.way, told(order, ended)));
        }
        let began = Instant::now();
        let (end, seen) = match order.way {
            Way::DropStream => {
                drop(read);
                (End::Stopped, self.until_free(&statement, began).await?)
            }
            Way::DropCall => {
                drop(read);
                let refused = self.ask_to_stop(order.way, info, &id).await.err();
                let end = refused.map_or(End::Stopped, |status| told(order, Err(status)));
                (end, self.until_free(&statement, began).await?)
            }
            Way::CancelFlightInfo | Way::KillQuery => {
                // The client reads on until it is told.
                let reading = timeout(PATIENCE, read);
                let stopping = async {
                    let asked = self.ask_to_stop(order.way, info, &id).await;
                    (asked, self.until_free(&statement, began).await)
                };
                let (read, (asked, free)) = tokio::join!(reading, stopping);
                let end = match (asked, read) {
                    (_, Err(_)) => End::Hung,
                    (Err(status), _) if !STOPPED.contains(&status.code()) => {
                        told(order, Err(status))
                    }
                    (_, Ok(read)) => told(order, read),
                };
                (end, free?)
            }
        };
        Ok(Stopped::seen(order.way, end, seen))
    }

    async fn ask_to_stop(
        &mut self,
        way: Way,
        info: FlightInfo,
        id: &str,
    ) -> std::result::Result<(), Status> {
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

    /// Looks until nothing is live, or for as long as the patience lasts; times count from `began`.
    async fn until_free(&mut self, statement: &str, began: Instant) -> Result<Seen> {
        let mut seen = Seen::default();
        loop {
            let asked = Instant::now();
            let live = looks::numbers(&mut self.looks, statement).await?;
            seen.look_ms.push(milliseconds(asked));
            seen.is_abandoned |= live.get(1).is_some_and(|waiting| *waiting > 0);
            if live.first() == Some(&0) {
                seen.free_ms = Some(milliseconds(began));
                return Ok(seen);
            }
            if began.elapsed() >= PATIENCE {
                return Ok(seen);
            }
            sleep(PAUSE).await;
        }
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

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
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
    use super::super::orders::Target;
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
