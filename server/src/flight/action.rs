//! DoAction and ListActions: exactly the actions listed here are served.
//!
//! The bodies of Flight SQL's own actions are wrapped in `Any`; those of Flight (cancel, sessions) are not.

use arrow_flight::sql::{
    ActionCancelQueryRequest, ActionCancelQueryResult, ActionClosePreparedStatementRequest,
    ActionCreatePreparedStatementRequest, ActionCreatePreparedSubstraitPlanRequest, Any, ProstMessageExt,
};
use arrow_flight::{
    Action, ActionType, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightInfo,
    RenewFlightEndpointRequest,
};
use bytes::Bytes;
use prost::Message;
use squadron_proto::Failure;

use super::messages::{
    CloseSessionRequest, CloseSessionResult, CloseSessionStatus, GetSessionOptionsRequest, SetSessionOptionsRequest,
};
use super::prepared::Statements;
use super::session::Sessions;
use super::statement;
use super::status::{invalid, unsupported};
use super::{command, endpoints, options, substrait};
use crate::query::{Queries, Session};
use crate::sql::statement::NO_TRANSACTIONS;

const CREATE_PREPARED_STATEMENT: &str = "CreatePreparedStatement";
const CREATE_PREPARED_SUBSTRAIT_PLAN: &str = "CreatePreparedSubstraitPlan";
const CLOSE_PREPARED_STATEMENT: &str = "ClosePreparedStatement";
const CANCEL_QUERY: &str = "CancelQuery";
const CANCEL_FLIGHT_INFO: &str = "CancelFlightInfo";
const RENEW_FLIGHT_ENDPOINT: &str = "RenewFlightEndpoint";
const SET_SESSION_OPTIONS: &str = "SetSessionOptions";
const GET_SESSION_OPTIONS: &str = "GetSessionOptions";
const CLOSE_SESSION: &str = "CloseSession";

/// Every action with its description.
const ACTIONS: [(&str, &str); 9] = [
    (
        CREATE_PREPARED_STATEMENT,
        "Prepares a SQL statement and answers its handle and schemas.",
    ),
    (
        CREATE_PREPARED_SUBSTRAIT_PLAN,
        "Prepares a Substrait plan and answers its handle and schemas.",
    ),
    (CLOSE_PREPARED_STATEMENT, "Forgets a prepared statement."),
    (
        CANCEL_QUERY,
        "Stops a query, given its FlightInfo; CancelFlightInfo is the newer form.",
    ),
    (CANCEL_FLIGHT_INFO, "Stops a query, given its FlightInfo."),
    (
        RENEW_FLIGHT_ENDPOINT,
        "Keeps a result of several endpoints for longer, given one of these.",
    ),
    (
        SET_SESSION_OPTIONS,
        "Sets options of the session: catalog, schema, and settings by name.",
    ),
    (GET_SESSION_OPTIONS, "Answers the options of the session."),
    (
        CLOSE_SESSION,
        "Ends the session with its prepared statements and what it still runs.",
    ),
];

/// The parts of the service that actions use.
pub(super) struct Parts<'a> {
    pub(super) queries: &'a Queries,
    pub(super) sessions: &'a Sessions,
    pub(super) statements: &'a Statements,
}

/// What ListActions answers.
pub(super) fn list() -> impl Iterator<Item = ActionType> {
    ACTIONS.into_iter().map(|(name, description)| ActionType {
        r#type: name.into(),
        description: description.into(),
    })
}

/// Runs one action; `None` for an action without a result.
pub(super) async fn run(parts: Parts<'_>, session: &Session, action: Action) -> Result<Option<Bytes>, Failure> {
    let body = action.body;
    match action.r#type.as_str() {
        CREATE_PREPARED_STATEMENT => create(&parts, session, unpack(&body)?).await.map(Some),
        CREATE_PREPARED_SUBSTRAIT_PLAN => {
            let request: ActionCreatePreparedSubstraitPlanRequest = unpack(&body)?;
            create_from_plan(&parts, session, request).await.map(Some)
        }
        CLOSE_PREPARED_STATEMENT => {
            let request: ActionClosePreparedStatementRequest = unpack(&body)?;
            let handle = &request.prepared_statement_handle;
            parts.statements.close(&session.principal, handle).await?;
            Ok(None)
        }
        CANCEL_QUERY => {
            let request: ActionCancelQueryRequest = unpack(&body)?;
            cancel(parts.queries, session, &decode(&request.info)?)?;
            let result = ActionCancelQueryResult {
                result: CancelStatus::Cancelled.into(),
            };
            Ok(Some(command::pack(&result)))
        }
        CANCEL_FLIGHT_INFO => {
            let request: CancelFlightInfoRequest = decode(&body)?;
            let info = request
                .info
                .ok_or_else(|| invalid("CancelFlightInfo without a FlightInfo"))?;
            cancel(parts.queries, session, &info)?;
            let result = CancelFlightInfoResult {
                status: CancelStatus::Cancelled.into(),
            };
            Ok(Some(result.encode_to_vec().into()))
        }
        RENEW_FLIGHT_ENDPOINT => {
            let request: RenewFlightEndpointRequest = decode(&body)?;
            let renewed = endpoints::renew(parts.queries, &session.principal, request)?;
            Ok(Some(renewed.encode_to_vec().into()))
        }
        SET_SESSION_OPTIONS => {
            let request: SetSessionOptionsRequest = decode(&body)?;
            let result = options::set(parts.queries, session, request);
            Ok(Some(result.encode_to_vec().into()))
        }
        GET_SESSION_OPTIONS => {
            let _: GetSessionOptionsRequest = decode(&body)?;
            Ok(Some(options::get(session).encode_to_vec().into()))
        }
        CLOSE_SESSION => {
            let _: CloseSessionRequest = decode(&body)?;
            close_session(&parts, session).await.map(Some)
        }
        name => Err(unknown_action(name)),
    }
}

async fn create(
    parts: &Parts<'_>,
    session: &Session,
    request: ActionCreatePreparedStatementRequest,
) -> Result<Bytes, Failure> {
    let transaction = request.transaction_id.as_ref();
    let source = statement::source(request.query, transaction)?;
    let planned = parts.queries.prepare(session, source).await?;
    let result = parts.statements.create(session, planned).await?;
    Ok(result.into_any().encode_to_vec().into())
}

async fn create_from_plan(
    parts: &Parts<'_>,
    session: &Session,
    request: ActionCreatePreparedSubstraitPlanRequest,
) -> Result<Bytes, Failure> {
    let transaction = request.transaction_id.as_ref();
    let source = substrait::source(request.plan, transaction)?;
    let planned = parts.queries.prepare(session, source).await?;
    let result = parts.statements.create(session, planned).await?;
    Ok(result.into_any().encode_to_vec().into())
}

async fn close_session(parts: &Parts<'_>, session: &Session) -> Result<Bytes, Failure> {
    parts.statements.close_session(session)?;
    parts.sessions.close(session).await;
    parts.queries.end_session(session);
    let result = CloseSessionResult {
        status: CloseSessionStatus::Closed.into(),
    };
    Ok(result.encode_to_vec().into())
}

/// Cancels the query of a FlightInfo, which the signed ticket or handle of a poll names.
fn cancel(queries: &Queries, session: &Session, info: &FlightInfo) -> Result<(), Failure> {
    let id = endpoints::query_of(queries, info)?;
    queries.cancel(&session.principal, id)
}

/// Reads a message that is wrapped in `Any`.
fn unpack<M: ProstMessageExt>(body: &[u8]) -> Result<M, Failure> {
    let any: Any = decode(body)?;
    any.unpack()
        .map_err(|error| invalid(format!("the body of the action cannot be read: {error}")))?
        .ok_or_else(|| {
            let expected = M::type_url().rsplit('.').next().unwrap_or_default();
            invalid(format!("the body of the action is not a {expected}"))
        })
}

fn decode<M: Message + Default>(body: &[u8]) -> Result<M, Failure> {
    M::decode(body).map_err(|error| invalid(format!("the body of the action cannot be read: {error}")))
}

fn unknown_action(name: &str) -> Failure {
    let why = match name {
        "BeginTransaction" | "EndTransaction" | "BeginSavepoint" | "EndSavepoint" => NO_TRANSACTIONS,
        _ => "ListActions answers those that are served",
    };
    let name: String = name.chars().take(100).collect();
    unsupported(&format!("the action {name:?} is not served: {why}"))
}

#[cfg(test)]
mod tests {
    use squadron_proto::FailureKind;

    use super::*;

    #[test]
    fn foreign_action_bodies_are_invalid() {
        let garbage = unpack::<ActionCancelQueryRequest>(&[0xff; 9]).unwrap_err();
        assert_eq!(garbage.kind, FailureKind::Invalid);
        let other = command::pack(&ActionCancelQueryResult { result: 1 });
        let failure = unpack::<ActionCancelQueryRequest>(&other).unwrap_err();
        assert!(failure.message.contains("ActionCancelQueryRequest"));
    }

    #[test]
    fn unknown_action_is_named_shortened() {
        let failure = unknown_action(&"x".repeat(1000));
        assert_eq!(failure.kind, FailureKind::Unsupported);
        assert!(failure.message.len() < 300);
        assert!(unknown_action("BeginTransaction").message.contains("autocommit"));
    }
}
