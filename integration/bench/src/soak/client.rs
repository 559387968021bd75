//! One client, which behaves well and badly in turns.

use std::sync::Arc;

use arrow_flight::FlightInfo;
use futures::StreamExt;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde::Serialize;
use squadron_integration::client::status;
use tonic::{Code, Status};

use crate::Result;
use crate::answers::{self, Answer, Target};
use crate::connection::{self, Connection, describe};

/// What a client does with a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Action {
    /// Reads all of it.
    Read,
    /// Prepares it, and reads all of it.
    Prepare,
    /// Reads the first batch, then hangs up.
    Abandon,
    /// Never fetches the result.
    Forget,
    /// Kills it.
    Kill,
    /// Says it wrong.
    Misspell,
    /// Does it over a new connection.
    Reconnect,
}

const ACTIONS: [(Action, u32); 7] = [
    (Action::Read, 40),
    (Action::Prepare, 10),
    (Action::Abandon, 15),
    (Action::Forget, 5),
    (Action::Kill, 15),
    (Action::Misspell, 5),
    (Action::Reconnect, 10),
];

/// How an action ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// As it should.
    Good,
    /// With other rows than expected.
    Wrong,
    /// With an error that it should not have.
    Failed,
}

pub(super) struct Client {
    url: String,
    targets: Arc<Vec<Target>>,
    random: StdRng,
    connection: Connection,
}

impl Client {
    pub(super) async fn connect(url: &str, targets: Arc<Vec<Target>>, random: StdRng) -> Result<Self> {
        Ok(Self {
            url: url.to_owned(),
            targets,
            random,
            connection: connection::connect(url).await?,
        })
    }

    /// Does one thing, drawn at random.
    pub(super) async fn act(&mut self) -> (Action, End) {
        let action = ACTIONS.choose_weighted(&mut self.random, |(_, weight)| *weight);
        let action = action.map_or(Action::Read, |(action, _)| *action);
        let number = self.random.random_range(0..self.targets.len());
        let end = match self.run(action, number).await {
            Ok(answer) if answer.is_none_or(|answer| answer == self.targets[number].answer) => End::Good,
            Ok(_) => {
                eprintln!("{action:?} of query {} gives other rows", number + 1);
                End::Wrong
            }
            Err(status) => {
                eprintln!("{action:?} of query {}: {}", number + 1, describe(&status));
                End::Failed
            }
        };
        (action, end)
    }

    /// The answer where all of it was read.
    async fn run(&mut self, action: Action, number: usize) -> std::result::Result<Option<Answer>, Status> {
        let targets = Arc::clone(&self.targets);
        let sql = targets[number].sql.as_str();
        match action {
            Action::Read => answers::ask(&mut self.connection, sql).await.map(Some),
            Action::Prepare => {
                let mut prepared = self.connection.prepare(sql.to_owned(), None).await.map_err(status)?;
                let info = prepared.execute().await.map_err(status)?;
                let answer = answers::read(&mut self.connection, info).await?;
                prepared.close().await.map_err(status)?;
                Ok(Some(answer))
            }
            Action::Abandon => {
                let info = self.start(sql).await?;
                for ticket in info.endpoint.into_iter().filter_map(|endpoint| endpoint.ticket) {
                    let mut stream = self.connection.do_get(ticket).await.map_err(status)?;
                    if let Some(batch) = stream.next().await {
                        batch.map_err(status)?;
                    }
                }
                Ok(None)
            }
            Action::Forget => self.start(sql).await.map(|_| None),
            Action::Kill => {
                let info = self.start(sql).await?;
                let id = String::from_utf8_lossy(&info.app_metadata).into_owned();
                let kill = self.connection.execute_update(format!("KILL QUERY '{id}'"), None);
                kill.await.map_err(status)?;
                Ok(None)
            }
            Action::Misspell => {
                match answers::ask(&mut self.connection, &format!("SELECT nothing_of_that FROM ({sql})")).await {
                    Err(status) if status.code() == Code::InvalidArgument => Ok(None),
                    Err(status) => Err(status),
                    Ok(_) => Err(Status::internal("a wrong statement ran")),
                }
            }
            Action::Reconnect => {
                let connected = connection::connect(&self.url).await;
                self.connection = connected.map_err(|error| Status::unavailable(error.to_string()))?;
                answers::ask(&mut self.connection, sql).await.map(Some)
            }
        }
    }

    async fn start(&mut self, sql: &str) -> std::result::Result<FlightInfo, Status> {
        self.connection.execute(sql.to_owned(), None).await.map_err(status)
    }
}
