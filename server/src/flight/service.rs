//! The Flight service: reads each request's command and hands it to the module that answers it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::flight_descriptor::DescriptorType;
use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::{Any, Command};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse,
    PollInfo, PutResult, SchemaResult, Ticket,
};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use prost::Message;
use squadron_proto::{Failure, FailureKind};
use tonic::metadata::AsciiMetadataValue;
use tonic::{Request, Response, Status, Streaming};
use tracing::{Instrument, Span, field, info_span};

use super::action::{self, Parts};
use super::metadata::Metadata;
use super::metadata::flights;
use super::prepared::Statements;
use super::session::{Caller, Found, Sessions};
use super::sizes;
use super::statement;
use super::status::{self, Refusal, guarded, invalid, unsupported};
use super::{FlightOptions, credentials, deadline, endpoints, gate, put, substrait};
use crate::auth::{Authenticator, Credentials, Login};
use crate::catalog::Catalog;
use crate::query::{Queries, Session};
use crate::sql::PlannedStatement;

/// How long a client that logs in may take to say who it is.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Squadron's Flight service.
pub struct Service {
    queries: Queries,
    authenticator: Authenticator,
    sessions: Sessions,
    statements: Statements,
    /// The largest message a client is sent.
    max_message_bytes: usize,
}

/// What a descriptor asks for.
enum Asked {
    /// A statement, with the parameters bound to it.
    Statement(PlannedStatement, Option<RecordBatch>),
    /// Metadata, by this command.
    Metadata(Metadata, Command),
}

type Answer<T> = Result<Response<T>, Status>;
type Stream<T> = BoxStream<'static, Result<T, Status>>;

impl Service {
    pub(super) fn new(
        queries: Queries,
        catalog: Catalog,
        authenticator: Authenticator,
        options: &FlightOptions,
    ) -> Self {
        Self {
            sessions: Sessions::new(catalog, queries.sessions().clone(), options),
            queries,
            authenticator,
            statements: Statements::new(options),
            max_message_bytes: options.max_message_bytes,
        }
    }

    /// Answers one request: finds its session, runs `work` inside a span, and turns its failure into a status.
    async fn answer<Q, T, F>(
        &self,
        rpc: &'static str,
        request: Request<Q>,
        work: impl FnOnce(Arc<Session>, Q) -> F,
    ) -> Answer<T>
    where
        F: Future<Output = Result<T, Refusal>>,
    {
        let deadline = deadline::of(request.metadata());
        let caller = Caller::of(request.metadata(), request.extensions());
        let message = request.into_inner();
        let work = async {
            let found = self.sessions.find(&caller.map_err(Refusal::from)?).await;
            let found = found.map_err(Refusal::from)?;
            Span::current().record("session", &found.session.id);
            let session = Arc::clone(&found.session);
            let answer = work(session, message).await?;
            Ok(greeted(answer, found))
        };
        deadline::met(guarded(work), deadline)
            .instrument(request_span(rpc))
            .await
    }

    async fn log_in(&self, request: Request<Streaming<HandshakeRequest>>) -> Result<(Login, Found), Refusal> {
        let (headers, extensions, messages) = request.into_parts();
        let credentials = match credentials::in_headers(&headers) {
            // A client whose credentials stand in the headers may send no message at all.
            Ok(None) if self.authenticator.is_required() => in_first_message(messages).await?,
            Err(_) if !self.authenticator.is_required() => None,
            credentials => credentials?,
        };
        let peer = gate::peer(&extensions);
        let login = self.authenticator.log_in(credentials.as_ref(), peer);
        let login = login.await?;
        let caller = Caller::logged_in(&login, &headers, &extensions)?;
        let found = match login.is_new {
            true => self.sessions.log_in(&caller).await?,
            false => self.sessions.find(&caller).await?,
        };
        Ok((login, found))
    }

    /// What a descriptor asks to be run or looked up.
    async fn asked(&self, session: &Session, descriptor: &FlightDescriptor, rpc: &str) -> Result<Asked, Failure> {
        if is_path(descriptor) {
            let sql = statement::of_path(session, &descriptor.path)?;
            let planned = statement::plan(&self.queries, session, &sql, None).await?;
            return Ok(Asked::Statement(planned, None));
        }
        Ok(match command_of(descriptor)? {
            Command::CommandStatementQuery(command) => {
                let transaction = command.transaction_id.as_ref();
                let planned = statement::plan(&self.queries, session, &command.query, transaction).await?;
                Asked::Statement(planned, None)
            }
            Command::CommandStatementSubstraitPlan(command) => {
                let transaction = command.transaction_id.as_ref();
                let planned = substrait::plan(&self.queries, session, command.plan, transaction).await?;
                Asked::Statement(planned, None)
            }
            Command::CommandPreparedStatementQuery(command) => {
                let handle = &command.prepared_statement_handle;
                let prepared = self.statements.get(&session.principal, handle).await?;
                Asked::Statement(prepared.planned, prepared.parameters)
            }
            other => Asked::Metadata(Metadata::of(&other).ok_or_else(|| not_served(rpc, &other))?, other),
        })
    }

    async fn flight_info(&self, session: &Session, descriptor: FlightDescriptor) -> Result<FlightInfo, Failure> {
        match self.asked(session, &descriptor, "GetFlightInfo").await? {
            Asked::Statement(planned, parameters) => {
                statement::start(&self.queries, session, &planned, parameters, descriptor).await
            }
            Asked::Metadata(metadata, command) => metadata_info(&metadata, command, descriptor),
        }
    }

    async fn poll_info(&self, session: &Session, descriptor: FlightDescriptor) -> Result<PollInfo, Failure> {
        let queries = &self.queries;
        if queries.is_poll(&descriptor.cmd) {
            let polled = queries.poll(&session.principal, &descriptor.cmd).await?;
            return endpoints::poll_info(polled);
        }
        match self.asked(session, &descriptor, "PollFlightInfo").await? {
            Asked::Statement(planned, parameters) => {
                let polled = queries.start_polled(session, &planned, parameters).await?;
                endpoints::poll_info(polled)
            }
            Asked::Metadata(metadata, command) => {
                Ok(endpoints::complete(metadata_info(&metadata, command, descriptor)?))
            }
        }
    }

    /// The tables that match, each under its path, with the schema that reading it has.
    async fn flights(&self, session: Arc<Session>, criteria: Criteria) -> Result<Stream<FlightInfo>, Failure> {
        let paths = flights::paths(&session.context, &criteria.expression)?;
        let queries = self.queries.clone();
        let flights = stream::iter(paths).filter_map(move |path| {
            let (queries, session) = (queries.clone(), Arc::clone(&session));
            async move { flights::flight(&queries, &session, path).await.map(Ok) }
        });
        Ok(flights.boxed())
    }

    async fn schema(&self, session: &Session, descriptor: FlightDescriptor) -> Result<SchemaResult, Failure> {
        if is_path(&descriptor) {
            let sql = statement::of_path(session, &descriptor.path)?;
            let planned = statement::plan(&self.queries, session, &sql, None).await?;
            return Ok(SchemaResult {
                schema: statement::encapsulated(&planned.schema)?,
            });
        }
        let schema: SchemaRef = match command_of(&descriptor)? {
            Command::CommandStatementQuery(command) => {
                let transaction = command.transaction_id.as_ref();
                statement::plan(&self.queries, session, &command.query, transaction)
                    .await?
                    .schema
            }
            Command::CommandStatementSubstraitPlan(command) => {
                let transaction = command.transaction_id.as_ref();
                substrait::plan(&self.queries, session, command.plan, transaction)
                    .await?
                    .schema
            }
            Command::CommandPreparedStatementQuery(command) => {
                let handle = &command.prepared_statement_handle;
                self.statements.planned(&session.principal, handle).await?.schema
            }
            other => Metadata::of(&other)
                .ok_or_else(|| not_served("GetSchema", &other))?
                .schema(),
        };
        Ok(SchemaResult {
            schema: statement::encapsulated(&schema)?,
        })
    }

    async fn rows(&self, session: &Session, ticket: Ticket) -> Result<Stream<FlightData>, Refusal> {
        // Bytes that are no command are a forged or foreign ticket; the judge of tickets says so.
        let handle = match command_in(&ticket.ticket) {
            Ok(Command::TicketStatementQuery(ticket)) => ticket.statement_handle,
            Ok(Command::Unknown(_)) | Err(_) => ticket.ticket,
            Ok(other) => {
                let metadata = Metadata::of(&other).ok_or_else(|| not_served("DoGet", &other))?;
                return Ok(metadata.frames(&session.context).await?);
            }
        };
        let id = self.queries.query_of(&handle);
        Span::current().record("query_id", id.map(field::display));
        let frames = self.queries.stream(&session.principal, &handle).await;
        let frames = frames.map_err(|failure| Refusal { failure, query: id })?;
        let limit = self.max_message_bytes;
        Ok(frames
            .map(move |frame| frame.and_then(|frame| sizes::fits(frame, limit)))
            .map(move |frame| frame.map_err(|failure| status::of(&failure, id)))
            .boxed())
    }
}

#[tonic::async_trait]
impl FlightService for Service {
    type HandshakeStream = Stream<HandshakeResponse>;
    type ListFlightsStream = Stream<FlightInfo>;
    type DoGetStream = Stream<FlightData>;
    type DoPutStream = Stream<PutResult>;
    type DoActionStream = Stream<arrow_flight::Result>;
    type ListActionsStream = Stream<ActionType>;
    type DoExchangeStream = Stream<FlightData>;

    /// Without authentication everyone is let in; the token only names the session.
    async fn handshake(&self, request: Request<Streaming<HandshakeRequest>>) -> Answer<Self::HandshakeStream> {
        let work = async {
            let (login, found) = self.log_in(request).await?;
            let bearer: AsciiMetadataValue = format!("Bearer {}", login.token)
                .parse()
                .map_err(|_| Refusal::from(invalid("the token is not printable text")))?;
            let answer = HandshakeResponse {
                protocol_version: 0,
                payload: login.token.into(),
            };
            let mut response = greeted(one(answer), found);
            response.metadata_mut().insert("authorization", bearer);
            Ok(response)
        };
        guarded(work).instrument(request_span("Handshake")).await
    }

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Answer<FlightInfo> {
        self.answer("GetFlightInfo", request, async |session, descriptor| {
            Ok(self.flight_info(&session, descriptor).await?)
        })
        .await
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Answer<SchemaResult> {
        self.answer("GetSchema", request, async |session, descriptor| {
            Ok(self.schema(&session, descriptor).await?)
        })
        .await
    }

    async fn do_get(&self, request: Request<Ticket>) -> Answer<Self::DoGetStream> {
        let deadline = deadline::of(request.metadata());
        self.answer("DoGet", request, async |session, ticket| {
            Ok(deadline::held(self.rows(&session, ticket).await?, deadline))
        })
        .await
    }

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Answer<Self::DoPutStream> {
        self.answer("DoPut", request, async |session, messages| {
            let result = put::put(&self.queries, &self.statements, &session, messages).await?;
            Ok(one(result))
        })
        .await
    }

    async fn do_action(&self, request: Request<Action>) -> Answer<Self::DoActionStream> {
        self.answer("DoAction", request, async |session, action| {
            let parts = Parts {
                queries: &self.queries,
                sessions: &self.sessions,
                statements: &self.statements,
            };
            let result = action::run(parts, &session, action).await?;
            let result = result.map(|body| Ok(arrow_flight::Result { body }));
            Ok(stream::iter(result).boxed())
        })
        .await
    }

    async fn list_actions(&self, _: Request<Empty>) -> Answer<Self::ListActionsStream> {
        let actions = stream::iter(action::list().map(Ok)).boxed();
        Ok(Response::new(actions))
    }

    async fn list_flights(&self, request: Request<Criteria>) -> Answer<Self::ListFlightsStream> {
        self.answer("ListFlights", request, async |session, criteria| {
            Ok(self.flights(session, criteria).await?)
        })
        .await
    }

    async fn poll_flight_info(&self, request: Request<FlightDescriptor>) -> Answer<PollInfo> {
        self.answer("PollFlightInfo", request, async |session, descriptor| {
            Ok(self.poll_info(&session, descriptor).await?)
        })
        .await
    }

    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> Answer<Self::DoExchangeStream> {
        refused("DoExchange is not served; use GetFlightInfo and DoGet")
    }
}

/// The credentials of Flight's first authentication scheme.
async fn in_first_message(mut messages: Streaming<HandshakeRequest>) -> Result<Option<Credentials>, Failure> {
    let first = tokio::time::timeout(LOGIN_TIMEOUT, messages.message()).await;
    let late = |_| {
        Failure::new(
            FailureKind::Unauthenticated,
            "the handshake has no credentials; send name and password in the authorization header",
        )
    };
    let first = first.map_err(late)?;
    let first = first.map_err(|status| invalid(status.message()))?;
    Ok(first.as_ref().and_then(credentials::in_payload))
}

fn request_span(rpc: &'static str) -> Span {
    info_span!("request", rpc, session = field::Empty, query_id = field::Empty)
}

fn is_path(descriptor: &FlightDescriptor) -> bool {
    descriptor.r#type() == DescriptorType::Path
}

/// The ticket is the command itself: it says no more than the caller may ask anyway.
fn metadata_info(metadata: &Metadata, command: Command, descriptor: FlightDescriptor) -> Result<FlightInfo, Failure> {
    let ticket = Ticket::new(command.into_any().encode_to_vec());
    statement::info(&metadata.schema(), ticket, descriptor)
}

/// The Flight SQL command of a descriptor.
pub(super) fn command_of(descriptor: &FlightDescriptor) -> Result<Command, Failure> {
    if descriptor.cmd.is_empty() {
        return Err(invalid(
            "the descriptor has neither a command nor a path; send a Flight SQL command, or the path of a table",
        ));
    }
    command_in(&descriptor.cmd)
}

/// A failure for a command that this method does not answer.
pub(super) fn not_served(rpc: &str, command: &Command) -> Failure {
    let name = command.type_url().rsplit(['.', '/']).next();
    let name: String = name.unwrap_or_default().chars().take(100).collect();
    let why = match command {
        Command::CommandStatementIngest(_) => {
            "bulk ingestion is not supported yet; CREATE EXTERNAL TABLE makes a table of files"
        }
        Command::CommandStatementUpdate(_) | Command::CommandPreparedStatementUpdate(_) => {
            "updates are sent with DoPut"
        }
        _ => "it is not a command for this method",
    };
    unsupported(&format!("{name} is not served by {rpc}: {why}"))
}

fn command_in(bytes: &[u8]) -> Result<Command, Failure> {
    let any =
        Any::decode(bytes).map_err(|error| invalid(format!("the command is not a Flight SQL message: {error}")))?;
    Command::try_from(any).map_err(|error| invalid(format!("the command cannot be read: {error}")))
}

fn refused<T>(why: &str) -> Answer<T> {
    Err(status::of(&unsupported(why), None))
}

fn greeted<T>(answer: T, found: Found) -> Response<T> {
    let mut response = Response::new(answer);
    found.greet(response.metadata_mut());
    response
}

fn one<T: Send + 'static>(item: T) -> Stream<T> {
    stream::once(async { Ok(item) }.boxed()).boxed()
}
