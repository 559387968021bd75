//! The server that the entries are checked against, and helpers that several checks use.

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use arrow_flight::sql::{
    ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult, CommandPreparedStatementQuery,
    CommandStatementQuery, ProstMessageExt,
};
use arrow_flight::{FlightDescriptor, FlightInfo, PollInfo};
use prost::bytes::Bytes;
use squadron_integration::client::{Client, Rows};
use squadron_integration::cluster::{Cluster, cluster};
use tonic::Status;

use super::wire::{Request, act_wrapped, command, only, pack, send};

/// A server with TPC-H tables and without authentication, and a connection to it.
pub(super) struct World {
    pub(super) cluster: Cluster,
    pub(super) client: Client,
}

impl World {
    pub(super) async fn start() -> Self {
        Self::of(cluster().slots(2).tpch(0.01).start().await).await
    }

    pub(super) async fn of(cluster: Cluster) -> Self {
        let client = cluster.client().await;
        Self { cluster, client }
    }

    pub(super) async fn send(&self, request: Request) -> Result<Vec<Vec<u8>>, Status> {
        send(&self.client, request).await
    }

    /// Sends a call that must be refused, and gives the status.
    ///
    /// # Panics
    /// When the call is answered.
    pub(super) async fn refusal(&self, request: Request) -> Status {
        let shown = format!("{:.300}", format!("{request:?}"));
        match self.send(request).await {
            Err(status) => status,
            Ok(_) => panic!("answered, not refused: {shown}"),
        }
    }

    pub(super) async fn info(&self, message: &impl ProstMessageExt) -> FlightInfo {
        let answer = self.send(Request::Info(command(message))).await;
        only(&answer.expect("GetFlightInfo answers"))
    }

    /// Polls a command to its end, and gives the last FlightInfo.
    ///
    /// # Panics
    /// When progress falls or leaves 0 to 1, endpoints are not only appended, or the polls do not end.
    pub(super) async fn poll_to_end(&self, descriptor: FlightDescriptor) -> FlightInfo {
        const MOST_POLLS: usize = 200;
        let (mut next, mut progress, mut endpoints) = (descriptor, 0.0, Vec::new());
        for _ in 0..MOST_POLLS {
            let answer = self.send(Request::Poll(next)).await;
            let poll: PollInfo = only(&answer.expect("PollFlightInfo answers"));
            let info = poll.info.expect("each answer has the whole FlightInfo");
            assert!(info.endpoint.starts_with(&endpoints), "only appended: {info:?}");
            let now = poll.progress.unwrap_or(progress);
            assert!((progress..=1.0).contains(&now), "from {progress} to {now}");
            match poll.flight_descriptor {
                None => return info,
                Some(descriptor) => next = descriptor,
            }
            (progress, endpoints) = (now, info.endpoint);
        }
        panic!("{MOST_POLLS} polls do not end")
    }

    /// Runs a command with GetFlightInfo, and fetches its rows with DoGet.
    pub(super) async fn rows(&self, message: &impl ProstMessageExt) -> Rows {
        let info = self.info(message).await;
        let rows = self.client.fetch(info).await;
        rows.expect("the rows of a command can be fetched")
    }

    /// All rows of a command in one batch.
    pub(super) async fn batch(&self, message: &impl ProstMessageExt) -> RecordBatch {
        let (schema, batches) = self.rows(message).await;
        arrow::compute::concat_batches(&schema, &batches).expect("batches of one schema")
    }

    /// Runs a statement that gives one number.
    pub(super) async fn number(&self, sql: &str) -> i64 {
        let batch = self.batch(&statement(sql)).await;
        number_of(&batch)
    }

    pub(super) async fn prepare(&self, sql: &str) -> ActionCreatePreparedStatementResult {
        let request = ActionCreatePreparedStatementRequest {
            query: sql.into(),
            transaction_id: None,
        };
        let result = act_wrapped(&self.client, "CreatePreparedStatement", pack(&request)).await;
        result.unwrap_or_else(|status| panic!("{sql} is not prepared: {status}"))
    }

    /// Prepares a statement; gives its handle.
    pub(super) async fn handle(&self, sql: &str) -> Bytes {
        self.prepare(sql).await.prepared_statement_handle
    }
}

/// A statement as the command of GetFlightInfo.
pub(super) fn statement(sql: &str) -> CommandStatementQuery {
    CommandStatementQuery {
        query: sql.into(),
        transaction_id: None,
    }
}

/// A prepared statement as the command of GetFlightInfo.
pub(super) fn prepared_query(handle: impl Into<Bytes>) -> CommandPreparedStatementQuery {
    CommandPreparedStatementQuery {
        prepared_statement_handle: handle.into(),
    }
}

/// The only number of a batch of one row and one column.
pub(super) fn number_of(batch: &RecordBatch) -> i64 {
    assert_eq!((batch.num_rows(), batch.num_columns()), (1, 1), "{batch:?}");
    batch.column(0).as_primitive::<Int64Type>().value(0)
}

/// One column of 64-bit integers, as parameters.
pub(super) fn integers(values: &[i64]) -> RecordBatch {
    let field = Field::new("$1", DataType::Int64, true);
    let values = Int64Array::from(values.to_vec());
    RecordBatch::try_new(Schema::new(vec![field]).into(), vec![std::sync::Arc::new(values)])
        .expect("one column of its type")
}

/// The texts of a column.
pub(super) fn texts(batch: &RecordBatch, column: &str) -> Vec<Option<String>> {
    let column = batch.column_by_name(column).expect("the column is there");
    let values = column.as_string::<i32>().iter();
    values.map(|value| value.map(Into::into)).collect()
}
