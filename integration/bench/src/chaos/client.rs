//! A client that runs one TPC-H query after the other and checks the rows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;
use tonic::Code;

use super::figures::Queries;
use crate::Result;
use crate::answers::{self, Target};
use crate::connection::{self, Connection, describe};

/// No query takes so long, even if it starts again after each of several faults.
pub(super) const HANG: Duration = Duration::from_secs(180);

/// What the server says when it may not run a query again by itself.
const ROWS_WENT_OUT: &str = "a part of the rows had been sent already";

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

    pub(super) async fn work_until(mut self, end: Instant) -> Queries {
        let mut queries = Queries::default();
        while Instant::now() < end {
            let number = self.random.random_range(0..self.targets.len());
            self.run(number, &mut queries).await;
        }
        queries
    }

    /// What came to nothing in a query that failed with this message, which ends in the query's id.
    async fn show_lost_attempts(&mut self, message: &str) {
        let id = message
            .rsplit("(query ")
            .next()
            .unwrap_or_default()
            .trim_end_matches(')');
        let sql = format!(
            "SELECT stage, task, attempt, worker_id, started_at, ended_at, reason FROM system.tasks \
             WHERE query_id = '{id}' AND reason IS NOT NULL ORDER BY ended_at"
        );
        connection::show(&mut self.connection, &sql).await;
    }

    async fn run(&mut self, number: usize, queries: &mut Queries) {
        queries.run += 1;
        let target = &self.targets[number];
        let asked = answers::ask(&mut self.connection, &target.sql);
        match tokio::time::timeout(HANG, asked).await {
            Ok(Ok(answer)) if answer == target.answer => {}
            Ok(Ok(_)) => {
                queries.wrong += 1;
                eprintln!("query {} gives other rows", number + 1);
            }
            Ok(Err(status)) if status.code() == Code::Unavailable && status.message().contains(ROWS_WENT_OUT) => {
                queries.failed_cleanly += 1;
            }
            Ok(Err(status)) => {
                queries.failed += 1;
                eprintln!("query {}: {}", number + 1, describe(&status));
                self.show_lost_attempts(status.message()).await;
            }
            Err(_) => {
                queries.hung += 1;
                eprintln!("query {} hangs", number + 1);
                if let Ok(connection) = connection::connect(&self.url).await {
                    self.connection = connection;
                }
            }
        }
    }
}
