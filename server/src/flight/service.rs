//! The Flight service: reads each request's command and hands it to the module that answers it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::Command;
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse,
    PollInfo, PutResult, SchemaResult, Ticket,
};
use bytes::Bytes;
use datafusion::prelude::SessionContext;
use futures::{FutureExt, StreamExt, stream};
use prost::Message;
use squadron_proto::{Failure, FailureKind};
use tonic::metadata::AsciiMetadataValue;
use tonic::{Request, Response, Streaming};
use tracing::{Instrument, Span, field, info_span};

use super::action::{self, Parts};
use super::command::{self, not_served};
use super::limits::FlightOptions;
use super::metadata::Metadata;
use super::metadata::flights;
use super::prepared::{Prepared, Statements};
use super::session::{Caller, CallerSession, Sessions};
use super::status::{self, Answer, Refusal, Stream, catch_panic, invalid, unsupported};
use super::{credentials, deadline, endpoints, gate, info, put, sizes, statement, substrait};
use crate::auth::{Authenticator, Credentials, Login};
use crate::catalog::Catalog;
use crate::query::{Execution, Queries, Session};
use crate::sql::Source;

/// How long a client may take to send its credentials in Handshake.
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

/// What a descriptor refers to.
enum Target {
    /// A statement.
    Source(Source),
    /// The prepared statement with this handle.
    Prepared(Bytes),
    /// Metadata, with the ticket under which its rows are served: the command itself, which gives no more than the caller
    /// may read anyway.
    Metadata(Metadata, Ticket),
}

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
        let deadline = deadline::from_headers(request.metadata());
        let caller = Caller::from_request(request.metadata(), request.extensions());
        let message = request.into_inner();
        let work = async {
            let found = self.sessions.find(&caller.map_err(Refusal::from)?).await;
            let found = found.map_err(Refusal::from)?;
            Span::current().record("session", &found.session.id);
            let session = Arc::clone(&found.session);
            let answer = work(session, message).await?;
            Ok(respond(answer, found))
        };
        deadline::enforce(catch_panic(work), deadline)
            .instrument(request_span(rpc))
            .await
    }

    async fn log_in(&self, request: Request<Streaming<HandshakeRequest>>) -> Result<(Login, CallerSession), Refusal> {
        let (headers, extensions, messages) = request.into_parts();
        let credentials = match credentials::from_headers(&headers) {
            // A client with its credentials in the headers may send no message at all.
            Ok(None) if self.authenticator.is_required() => read_first_message(messages).await?,
            Err(_) if !self.authenticator.is_required() => None,
            credentials => credentials?,
        };
        let peer = gate::peer(&extensions);
        let login = self.authenticator.log_in(credentials.as_ref(), peer);
        let login = login.await?;
        let caller = Caller::from_login(&login, &headers, &extensions)?;
        let found = match login.is_new {
            true => self.sessions.log_in(&caller).await?,
            false => self.sessions.find(&caller).await?,
        };
        Ok((login, found))
    }

    async fn flight_info(&self, session: &Session, descriptor: FlightDescriptor) -> Result<FlightInfo, Failure> {
        let execution = match resolve(session, &descriptor, "GetFlightInfo")? {
            Target::Source(source) => Execution::Source(source),
            Target::Prepared(handle) => {
                let Prepared { planned, parameters } = self.statements.get(&session.principal, &handle).await?;
                Execution::Prepared(Box::new(planned), parameters)
            }
            Target::Metadata(metadata, ticket) => return info::with_ticket(&metadata.schema(), ticket, descriptor),
        };
        statement::start(&self.queries, session, execution, descriptor).await
    }

    async fn poll_info(&self, session: &Session, descriptor: FlightDescriptor) -> Result<PollInfo, Failure> {
        let queries = &self.queries;
        if queries.is_poll(&descriptor.cmd) {
            let polled = queries.poll(&session.principal, &descriptor.cmd).await?;
            return endpoints::poll_info(polled);
        }
        let (statement, parameters) = match resolve(session, &descriptor, "PollFlightInfo")? {
            Target::Source(source) => (queries.prepare(session, source).await?, None),
            Target::Prepared(handle) => {
                let Prepared { planned, parameters } = self.statements.get(&session.principal, &handle).await?;
                (planned, parameters)
            }
            Target::Metadata(metadata, ticket) => {
                let info = info::with_ticket(&metadata.schema(), ticket, descriptor)?;
                return Ok(endpoints::complete(info));
            }
        };
        endpoints::poll_info(queries.start_polled(session, &statement, parameters).await?)
    }

    /// The tables that match, each under its path, with the schema of its rows.
    async fn flights(&self, session: Arc<Session>, criteria: Criteria) -> Result<Stream<FlightInfo>, Failure> {
        let paths = session.with_context(|context| flights::paths(context, &criteria.expression))?;
        let queries = self.queries.clone();
        let flights = stream::iter(paths).filter_map(move |path| {
            let (queries, session) = (queries.clone(), Arc::clone(&session));
            async move { flights::flight(&queries, &session, path).await.map(Ok) }
        });
        Ok(flights.boxed())
    }

    async fn schema(&self, session: &Session, descriptor: FlightDescriptor) -> Result<SchemaResult, Failure> {
        let schema = match resolve(session, &descriptor, "GetSchema")? {
            Target::Source(source) => self.queries.prepare(session, source).await?.schema,
            Target::Prepared(handle) => {
                self.statements
                    .planned_statement(&session.principal, &handle)
                    .await?
                    .schema
            }
            Target::Metadata(metadata, _) => metadata.schema(),
        };
        Ok(SchemaResult {
            schema: info::encapsulate(&schema)?,
        })
    }

    async fn rows(&self, session: &Session, ticket: Ticket) -> Result<Stream<FlightData>, Refusal> {
        // Bytes that are no command are a forged or foreign ticket, which `query_of` and `stream` refuse.
        let handle = match command::decode(&ticket.ticket) {
            Ok(Command::TicketStatementQuery(ticket)) => ticket.statement_handle,
            Ok(Command::Unknown(_)) | Err(_) => ticket.ticket,
            Ok(other) => {
                let metadata = Metadata::from_command(&other).ok_or_else(|| not_served("DoGet", &other))?;
                let context = session.with_context(SessionContext::clone);
                return Ok(metadata.frames(&context).await?);
            }
        };
        let id = self.queries.query_of(&handle);
        Span::current().record("query_id", id.map(field::display));
        let frames = self.queries.stream(&session.principal, &handle).await;
        let frames = frames.map_err(|failure| Refusal { failure, query: id })?;
        let limit = self.max_message_bytes;
        Ok(frames
            .map(move |frame| frame.and_then(|frame| sizes::check_frame(frame, limit)))
            .map(move |frame| frame.map_err(|failure| status::from_failure(&failure, id)))
            .boxed())
    }
}

/// Resolves a descriptor of method `rpc`.
fn resolve(session: &Session, descriptor: &FlightDescriptor, rpc: &str) -> Result<Target, Failure> {
    if command::is_path(descriptor) {
        let sql = statement::select_table(session, &descriptor.path)?;
        return Ok(Target::Source(statement::source(sql, None)?));
    }
    Ok(match command::read(descriptor)? {
        Command::CommandStatementQuery(command) => {
            let transaction = command.transaction_id.as_ref();
            Target::Source(statement::source(command.query, transaction)?)
        }
        Command::CommandStatementSubstraitPlan(command) => {
            Target::Source(substrait::source(command.plan, command.transaction_id.as_ref())?)
        }
        Command::CommandPreparedStatementQuery(command) => Target::Prepared(command.prepared_statement_handle),
        other => {
            let metadata = Metadata::from_command(&other).ok_or_else(|| not_served(rpc, &other))?;
            Target::Metadata(metadata, Ticket::new(other.into_any().encode_to_vec()))
        }
    })
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

    /// Without authentication every client is let in; the token only names the session.
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
            let mut response = respond(once(answer), found);
            response.metadata_mut().insert("authorization", bearer);
            Ok(response)
        };
        catch_panic(work).instrument(request_span("Handshake")).await
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
        let deadline = deadline::from_headers(request.metadata());
        self.answer("DoGet", request, async |session, ticket| {
            Ok(deadline::limit_stream(self.rows(&session, ticket).await?, deadline))
        })
        .await
    }

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Answer<Self::DoPutStream> {
        self.answer("DoPut", request, async |session, messages| {
            let result = put::put(&self.queries, &self.statements, &session, messages).await?;
            Ok(once(result))
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
        refuse("DoExchange is not served; use GetFlightInfo and DoGet")
    }
}

/// The credentials in the first message of a handshake, for Flight's first authentication scheme.
async fn read_first_message(mut messages: Streaming<HandshakeRequest>) -> Result<Option<Credentials>, Failure> {
    let first = tokio::time::timeout(LOGIN_TIMEOUT, messages.message()).await;
    let late = |_| {
        Failure::new(
            FailureKind::Unauthenticated,
            "the handshake has no credentials; send name and password in the authorization header",
        )
    };
    let first = first.map_err(late)?;
    let first = first.map_err(|status| invalid(status.message()))?;
    Ok(first.as_ref().and_then(credentials::from_payload))
}

fn request_span(rpc: &'static str) -> Span {
    info_span!("request", rpc, session = field::Empty, query_id = field::Empty)
}

fn refuse<T>(why: &str) -> Answer<T> {
    Err(status::from_failure(&unsupported(why), None))
}

/// The response with an answer, and with the session's cookie where the request did not have it.
fn respond<T>(answer: T, found: CallerSession) -> Response<T> {
    let mut response = Response::new(answer);
    found.add_cookie(response.metadata_mut());
    response
}

fn once<T: Send + 'static>(item: T) -> Stream<T> {
    stream::once(async { Ok(item) }.boxed()).boxed()
}
