//! Prepared statements and the parameters bound to them.
//!
//! A handle is the statement's name, or `statement.binding`, which answers a bind. Drivers that use the answered handle
//! can bind and run one statement from several threads; for drivers that ignore it, the statement's own handle means
//! the parameters that were bound last.
//!
//! A statement belongs to its principal and can be used in every session of the principal; for other principals its
//! handle is unknown.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use bytes::Bytes;
use moka::future::Cache;
use moka::policy::EvictionPolicy;
use squadron_proto::{Failure, FailureKind};

use super::info::encapsulate;
use super::limits::FlightOptions;
use super::messages::CreatePreparedStatementResult;
use super::session::random_name;
use crate::plan_limits;
use crate::query::{Principal, Session};
use crate::sql::{PlannedStatement, StatementKind};

/// All prepared statements of the server.
pub(super) struct Statements {
    statements: Cache<String, Arc<Statement>>,
    /// By the whole handle, so that a statement finds only its own bindings.
    bindings: Cache<String, Arc<RecordBatch>>,
}

struct Statement {
    session: String,
    owner: Principal,
    planned: PlannedStatement,
    /// About what its plan and text take.
    bytes: u64,
    /// The binding that the statement's own handle means.
    last_binding: Mutex<Option<String>>,
}

/// A statement with the parameters of its handle.
pub(super) struct Prepared {
    pub(super) planned: PlannedStatement,
    pub(super) parameters: Option<RecordBatch>,
}

impl Statements {
    pub(super) fn new(options: &FlightOptions) -> Self {
        // Both limits in one: as many statements as there may be take all bytes, however small they are.
        let least = options.max_prepared_bytes / options.max_prepared_statements.max(1);
        let statements = Cache::builder()
            .max_capacity(options.max_prepared_bytes)
            .weigher(move |_, statement: &Arc<Statement>| u32::try_from(statement.bytes.max(least)).unwrap_or(u32::MAX))
            .time_to_idle(options.session_idle_timeout)
            .eviction_policy(EvictionPolicy::lru())
            .support_invalidation_closures()
            .build();
        let bindings = Cache::builder()
            .max_capacity(options.max_bound_bytes)
            .weigher(|_, batch: &Arc<RecordBatch>| u32::try_from(batch.get_array_memory_size()).unwrap_or(u32::MAX))
            .time_to_idle(options.session_idle_timeout)
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self { statements, bindings }
    }

    /// Stores a planned statement and answers its handle and schemas.
    pub(super) async fn create(
        &self,
        session: &Session,
        planned: PlannedStatement,
    ) -> Result<CreatePreparedStatementResult, Failure> {
        let is_update = match planned.kind {
            StatementKind::Query => false,
            StatementKind::Update => true,
        };
        // JDBC drivers without is_update treat a statement with an empty dataset schema as an update, so that of DML
        // must not have its count.
        let dataset_schema = if is_update {
            Bytes::new()
        } else {
            encapsulate(&planned.schema)?
        };
        let parameter_schema = encapsulate(&planned.parameters)?;
        let handle = random_name();
        let statement = Statement {
            session: session.id.clone(),
            owner: session.principal.clone(),
            bytes: plan_limits::kept_bytes(&planned.plan) + planned.text.as_ref().map_or(0, |text| text.len() as u64),
            planned,
            last_binding: Mutex::new(None),
        };
        self.statements.insert(handle.clone(), Arc::new(statement)).await;
        Ok(CreatePreparedStatementResult {
            prepared_statement_handle: handle.into(),
            dataset_schema,
            parameter_schema,
            is_update: Some(is_update),
        })
    }

    /// The statement of a handle.
    pub(super) async fn get(&self, principal: &Principal, handle: &[u8]) -> Result<Prepared, Failure> {
        let (name, binding) = parse_handle(handle)?;
        let statement = self.statement(principal, name).await?;
        let binding = binding.map(Into::into).or_else(|| statement.last_binding());
        let parameters = match binding {
            None => None,
            Some(binding) => Some(self.binding(name, &binding).await?),
        };
        Ok(Prepared {
            planned: statement.planned.clone(),
            parameters,
        })
    }

    /// The planned statement of a handle, without its parameters.
    pub(super) async fn planned_statement(
        &self,
        principal: &Principal,
        handle: &[u8],
    ) -> Result<PlannedStatement, Failure> {
        let (name, _) = parse_handle(handle)?;
        Ok(self.statement(principal, name).await?.planned.clone())
    }

    /// Binds parameters and answers the handle of the statement with them; without parameters it unbinds.
    pub(super) async fn bind(
        &self,
        principal: &Principal,
        handle: &[u8],
        parameters: Option<RecordBatch>,
    ) -> Result<Bytes, Failure> {
        let (name, _) = parse_handle(handle)?;
        let statement = self.statement(principal, name).await?;
        let Some(parameters) = parameters else {
            statement.set_last_binding(None);
            return Ok(Bytes::copy_from_slice(name.as_bytes()));
        };
        check_count(&statement.planned.parameters, &parameters)?;
        let binding = random_name();
        let handle = format!("{name}.{binding}");
        self.bindings.insert(handle.clone(), Arc::new(parameters)).await;
        statement.set_last_binding(Some(binding));
        Ok(handle.into())
    }

    /// Drops a statement; closing an unknown handle succeeds.
    pub(super) async fn close(&self, principal: &Principal, handle: &[u8]) -> Result<(), Failure> {
        let (name, binding) = parse_handle(handle)?;
        let Ok(statement) = self.statement(principal, name).await else {
            return Ok(());
        };
        self.statements.invalidate(name).await;
        let last = statement.last_binding();
        for binding in [binding, last.as_deref()].into_iter().flatten() {
            self.bindings.invalidate(&format!("{name}.{binding}")).await;
        }
        Ok(())
    }

    /// Drops all statements of a session.
    pub(super) fn close_session(&self, session: &Session) -> Result<(), Failure> {
        let id = session.id.clone();
        self.statements
            .invalidate_entries_if(move |_, statement| statement.session == id)
            .map_err(Failure::internal)?;
        Ok(())
    }

    async fn statement(&self, principal: &Principal, name: &str) -> Result<Arc<Statement>, Failure> {
        let statement = self.statements.get(name).await;
        statement
            .filter(|statement| statement.owner == *principal)
            .ok_or_else(|| {
                Failure::new(
                    FailureKind::NotFound,
                    "the prepared statement is closed or has expired; prepare it again",
                )
            })
    }

    async fn binding(&self, name: &str, binding: &str) -> Result<RecordBatch, Failure> {
        let handle = format!("{name}.{binding}");
        let batch = self.bindings.get(&handle).await.ok_or_else(|| {
            Failure::new(
                FailureKind::NotFound,
                "the bound parameters have expired; bind them again",
            )
        })?;
        Ok(RecordBatch::clone(&batch))
    }
}

impl Statement {
    fn last_binding(&self) -> Option<String> {
        self.last_binding.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_last_binding(&self, binding: Option<String>) {
        *self.last_binding.lock().unwrap_or_else(PoisonError::into_inner) = binding;
    }
}

/// Refuses a wrong number of parameters.
pub(super) fn check_count(expected: &Schema, parameters: &RecordBatch) -> Result<(), Failure> {
    let (expected, bound) = (expected.fields().len(), parameters.num_columns());
    if expected != bound {
        return Err(Failure::new(
            FailureKind::Invalid,
            format!("the statement has {expected} parameters but {bound} were bound"),
        ));
    }
    Ok(())
}

/// Statement and binding of a handle.
fn parse_handle(handle: &[u8]) -> Result<(&str, Option<&str>), Failure> {
    let handle = str::from_utf8(handle).map_err(|_| {
        Failure::new(
            FailureKind::NotFound,
            "the prepared statement handle is not one of this server; prepare the statement again",
        )
    })?;
    Ok(match handle.split_once('.') {
        Some((name, binding)) => (name, Some(binding)),
        None => (handle, None),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flight::tests::planned;

    /// Whether `principal` can run, describe and bind the statement of `handle`.
    async fn access(statements: &Statements, principal: &Principal, handle: &[u8]) -> [bool; 3] {
        [
            statements.get(principal, handle).await.is_ok(),
            statements.planned_statement(principal, handle).await.is_ok(),
            statements.bind(principal, handle, None).await.is_ok(),
        ]
    }

    #[tokio::test]
    async fn statement_serves_its_owner_alone() {
        let (mut session, planned) = planned("SELECT 1").await;
        let (ann, bob) = (Principal::user("ann"), Principal::user("bob"));
        session.principal = ann.clone();
        let statements = Statements::new(&FlightOptions::default());
        let handle = statements
            .create(&session, planned)
            .await
            .unwrap()
            .prepared_statement_handle;
        assert_eq!(access(&statements, &ann, &handle).await, [true; 3]);
        assert_eq!(access(&statements, &bob, &handle).await, [false; 3]);
        let foreign = statements.get(&bob, &handle).await.err();
        let unknown = statements.get(&bob, b"0123").await.err();
        assert_eq!(foreign, unknown);
        // Closing an unknown statement succeeds, and does nothing.
        statements.close(&bob, &handle).await.unwrap();
        assert_eq!(access(&statements, &ann, &handle).await, [true; 3]);
        statements.close(&ann, &handle).await.unwrap();
        assert_eq!(access(&statements, &ann, &handle).await, [false; 3]);
    }
}
