//! A Flight SQL client for tests: runs statements, reads all rows, and checks that every stream has the schema of its
//! FlightInfo.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::sql::{CommandStatementQuery, ProstMessageExt};
use arrow_flight::{
    Action, CancelFlightInfoRequest, FlightDescriptor, FlightEndpoint, FlightInfo, SchemaResult, Ticket,
};
use futures::TryStreamExt;
use prost::Message;
use tonic::Status;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

/// A result as the client received it: its schema and its batches.
pub type Rows = (SchemaRef, Vec<RecordBatch>);

/// Above the limit of every server in the tests: one row of many megabytes is one message.
const MESSAGE_LIMIT: usize = 256 * 1024 * 1024;

/// One connection.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// Connects to `grpc://HOST:PORT`.
    ///
    /// # Panics
    /// When no server listens there.
    pub async fn connect(url: &str) -> Self {
        let url = url.replacen("grpc://", "http://", 1);
        let endpoint = Endpoint::from_shared(url.clone()).expect("a ready line holds a URL");
        let channel = endpoint
            .connect()
            .await
            .unwrap_or_else(|error| panic!("no connection to {url}: {error}"));
        Self { channel }
    }

    /// Connects to `grpc+tls://HOST:PORT`, whose certificate must be signed by this authority (PEM).
    ///
    /// # Errors
    /// Why there is no connection, such as a certificate of another authority.
    ///
    /// # Panics
    /// When `url` is not an address.
    pub async fn connect_tls(url: &str, authority: &str) -> Result<Self, tonic::transport::Error> {
        let url = url.replacen("grpc+tls://", "https://", 1);
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority));
        let endpoint = Endpoint::from_shared(url).expect("a ready line holds a URL");
        let channel = endpoint.tls_config(tls)?.connect().await?;
        Ok(Self { channel })
    }

    /// The connection, for clients of other services.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The plain Flight client.
    pub fn flight(&self) -> FlightServiceClient<Channel> {
        FlightServiceClient::new(self.channel())
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT)
    }

    /// The Flight SQL client of arrow-flight.
    pub fn sql(&self) -> FlightSqlServiceClient<Channel> {
        FlightSqlServiceClient::new_from_inner(self.flight())
    }

    /// Runs `sql` and reads all of its rows.
    ///
    /// # Errors
    /// The status of the server.
    ///
    /// # Panics
    /// When the stream has another schema than its FlightInfo.
    pub async fn query(&self, sql: &str) -> Result<Rows, Status> {
        let info = self.info(sql).await?;
        self.fetch(info).await
    }

    /// Starts `sql` with GetFlightInfo; [`Client::fetch`] reads the rows.
    ///
    /// # Errors
    /// The status of the server.
    pub async fn info(&self, sql: &str) -> Result<FlightInfo, Status> {
        self.sql().execute(sql.into(), None).await.map_err(status)
    }

    /// Starts `sql` and opens its stream without reading from it.
    ///
    /// # Errors
    /// The status of the server.
    pub async fn open(&self, sql: &str) -> Result<FlightRecordBatchStream, Status> {
        let info = self.info(sql).await?;
        self.get(ticket(&info)).await
    }

    /// Opens the stream of a ticket.
    ///
    /// # Errors
    /// The status of the server.
    pub async fn get(&self, ticket: Ticket) -> Result<FlightRecordBatchStream, Status> {
        self.sql().do_get(ticket).await.map_err(status)
    }

    /// Reads all rows of a started query.
    ///
    /// # Errors
    /// The status of the server.
    ///
    /// # Panics
    /// When the stream has another schema than `info`, or none.
    pub async fn fetch(&self, info: FlightInfo) -> Result<Rows, Status> {
        let mut stream = self.get(ticket(&info)).await?;
        let batches: Vec<_> = (&mut stream).try_collect().await.map_err(status)?;
        let schema = stream.schema().cloned();
        let schema = schema.expect("a stream has a schema, also when there are no rows");
        let promised = info.try_decode_schema().expect("FlightInfo holds a schema");
        assert_eq!(*schema, promised, "DoGet has another schema than its FlightInfo");
        Ok((schema, batches))
    }

    /// Reads all endpoints of a started query through this connection, one after the other.
    ///
    /// # Errors
    /// The status of the server.
    ///
    /// # Panics
    /// When a stream has another schema than `info`, or none.
    pub async fn fetch_all(&self, info: &FlightInfo) -> Result<Rows, Status> {
        let mut rows = Vec::new();
        let schema = info.clone().try_decode_schema();
        let schema = Arc::new(schema.expect("FlightInfo holds a schema"));
        for endpoint in &info.endpoint {
            rows.extend(self.fetch_endpoint(endpoint, &schema).await?);
        }
        Ok((schema, rows))
    }

    /// Reads all endpoints of a started query from the first location that each names, without asking the server.
    ///
    /// # Errors
    /// The status of a worker.
    ///
    /// # Panics
    /// When a stream has another schema than `info`, or none; when a worker does not listen.
    pub async fn fetch_from_locations(&self, info: &FlightInfo) -> Result<Rows, Status> {
        let mut rows = Vec::new();
        let schema = info.clone().try_decode_schema();
        let schema = Arc::new(schema.expect("FlightInfo holds a schema"));
        for endpoint in &info.endpoint {
            let client = match endpoint.location.first() {
                Some(location) => Self::connect(&location.uri).await,
                None => self.clone(),
            };
            rows.extend(client.fetch_endpoint(endpoint, &schema).await?);
        }
        Ok((schema, rows))
    }

    /// Reads one endpoint through this connection.
    ///
    /// # Errors
    /// The status of the server.
    ///
    /// # Panics
    /// When the stream has another schema than `schema`, or none.
    pub async fn fetch_endpoint(&self, endpoint: &FlightEndpoint, schema: &Schema) -> Result<Vec<RecordBatch>, Status> {
        let ticket = endpoint.ticket.clone().expect("an endpoint has a ticket");
        let mut stream = self.get(ticket).await?;
        let batches: Vec<_> = (&mut stream).try_collect().await.map_err(status)?;
        let sent = stream.schema().expect("a stream always has a schema");
        assert_eq!(**sent, *schema, "DoGet has another schema than its FlightInfo");
        Ok(batches)
    }

    /// Runs one action and gives its first result, if there is one.
    ///
    /// # Errors
    /// The status of the server.
    pub async fn act(&self, name: &str, body: Vec<u8>) -> Result<Option<Vec<u8>>, Status> {
        let action = Action::new(name, body);
        let mut results = self.flight().do_action(action).await?.into_inner();
        Ok(results.message().await?.map(|result| result.body.to_vec()))
    }

    /// Stops the query of `info` and releases its result.
    ///
    /// # Errors
    /// The status of the server.
    pub async fn cancel(&self, info: &FlightInfo) -> Result<(), Status> {
        let request = CancelFlightInfoRequest::new(info.clone());
        self.act("CancelFlightInfo", request.encode_to_vec()).await?;
        Ok(())
    }

    /// The schema that GetSchema answers for `sql`.
    ///
    /// # Errors
    /// The status of the server.
    ///
    /// # Panics
    /// When the answer holds no schema.
    pub async fn schema(&self, sql: &str) -> Result<SchemaRef, Status> {
        let command = CommandStatementQuery {
            query: sql.into(),
            transaction_id: None,
        };
        let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
        let answer: SchemaResult = self.flight().get_schema(descriptor).await?.into_inner();
        Ok(Arc::new(Schema::try_from(&answer).expect("GetSchema answers a schema")))
    }

    /// Runs `sql` through DoPut and gives the number of affected rows, or -1 when it is unknown.
    ///
    /// # Errors
    /// The status of the server.
    pub async fn update(&self, sql: &str) -> Result<i64, Status> {
        let updated = self.sql().execute_update(sql.into(), None).await;
        updated.map_err(status)
    }
}

/// The one ticket of `info`.
///
/// # Panics
/// When there is not exactly one endpoint: popular clients read only the first.
pub fn ticket(info: &FlightInfo) -> Ticket {
    assert_eq!(info.endpoint.len(), 1, "one endpoint is the default");
    let ticket = info.endpoint[0].ticket.clone();
    ticket.expect("an endpoint has a ticket")
}

/// The gRPC status in an error of arrow-flight.
pub fn status(error: FlightError) -> Status {
    match error {
        FlightError::Tonic(status) => *status,
        other => Status::unknown(other.to_string()),
    }
}
