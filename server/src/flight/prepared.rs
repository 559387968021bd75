//! Prepared statements and the parameters bound to them.
//!
//! A handle is the statement's name, or `statement.binding` as the answer to a bind. Drivers that use the answered
//! handle can bind and run one statement from several threads; for those that ignore it, the statement's own handle
//! means the last parameters bound.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use bytes::Bytes;
use moka::future::Cache;
use moka::policy::EvictionPolicy;
use squadron_proto::{Failure, FailureKind};

use super::FlightOptions;
use super::messages::CreatePreparedStatementResult;
use super::session::random_name;
use super::statement::encapsulated;
use crate::queries::{PlannedStatement, Session, StatementKind};

/// All prepared statements of the server.
pub(super) struct Statements {
    statements: Cache<String, Arc<Statement>>,
    bindings: Cache<String, Arc<RecordBatch>>,
}

struct Statement {
    session: String,
    planned: PlannedStatement,
    /// The binding that the statement's own handle means.
    last_binding: Mutex<Option<String>>,
}

/// A statement with the parameters its handle stands for.
pub(super) struct Prepared {
    pub(super) planned: PlannedStatement,
    pub(super) parameters: Option<RecordBatch>,
}

impl Statements {
    pub(super) fn new(options: &FlightOptions) -> Self {
        let statements = Cache::builder()
            .max_capacity(options.max_prepared_statements)
            .time_to_idle(options.session_idle_timeout)
            .eviction_policy(EvictionPolicy::lru())
            .support_invalidation_closures()
            .build();
        let bindings = Cache::builder()
            .max_capacity(options.max_bound_bytes)
            .weigher(|_, batch: &Arc<RecordBatch>| {
                u32::try_from(batch.get_array_memory_size()).unwrap_or(u32::MAX)
            })
            .time_to_idle(options.session_idle_timeout)
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self {
            statements,
            bindings,
        }
    }

    /// Keeps a planned statement and answers what a client learns about it.
    pub(super) async fn create(
        &self,
        session: &Session,
        planned: PlannedStatement,
    ) -> Result<CreatePreparedStatementResult, Failure> {
        let is_update = match planned.kind {
            StatementKind::Query => false,
            StatementKind::Update => true,
        };
        // JDBC drivers without is_update take an empty dataset schema for an update, so DML must not show its count.
        let dataset_schema = if is_update {
            Bytes::new()
        } else {
            encapsulated(&planned.schema)?
        };
        let parameter_schema = encapsulated(&planned.parameters)?;
        let handle = random_name();
        let statement = Statement {
            session: session.id.clone(),
            planned,
            last_binding: Mutex::new(None),
        };
        self.statements
            .insert(handle.clone(), Arc::new(statement))
            .await;
        Ok(CreatePreparedStatementResult {
            prepared_statement_handle: handle.into(),
            dataset_schema,
            parameter_schema,
            is_update: Some(is_update),
        })
    }

    /// The statement of a handle.
    pub(super) async fn get(&self, handle: &[u8]) -> Result<Prepared, Failure> {
        let (name, binding) = parts(handle)?;
        let statement = self.statement(name).await?;
        let binding = binding.map(Into::into).or_else(|| statement.last_binding());
        let parameters = match binding {
            None => None,
            Some(binding) => Some(self.binding(&binding).await?),
        };
        Ok(Prepared {
            planned: statement.planned.clone(),
            parameters,
        })
    }

    /// What the rows of a handle's statement look like, without its parameters.
    pub(super) async fn planned(&self, handle: &[u8]) -> Result<PlannedStatement, Failure> {
        let (name, _) = parts(handle)?;
        Ok(self.statement(name).await?.planned.clone())
    }

    /// Binds parameters and answers the handle of the statement with them; without columns it unbinds.
    pub(super) async fn bind(
        &self,
        handle: &[u8],
        parameters: Option<RecordBatch>,
    ) -> Result<Bytes, Failure> {
        let (name, _) = parts(handle)?;
        let statement = self.statement(name).await?;
        let Some(parameters) = parameters else {
            statement.set_last_binding(None);
            return Ok(Bytes::copy_from_slice(name.as_bytes()));
        };
        check_count(&statement.planned.parameters, &parameters)?;
        let binding = random_name();
        self.bindings
            .insert(binding.clone(), Arc::new(parameters))
            .await;
        statement.set_last_binding(Some(binding.clone()));
        Ok(format!("{name}.{binding}").into())
    }

    /// Forgets a statement; a handle that is already forgotten is closed.
    pub(super) async fn close(&self, handle: &[u8]) -> Result<(), Failure> {
        let (name, binding) = parts(handle)?;
        let last = match self.statements.remove(name).await {
            Some(statement) => statement.last_binding(),
            None => None,
        };
        for binding in [binding, last.as_deref()].into_iter().flatten() {
            self.bindings.invalidate(binding).await;
        }
        Ok(())
    }

    /// Forgets all statements of a session.
    pub(super) fn close_session(&self, session: &Session) -> Result<(), Failure> {
        let id = session.id.clone();
        self.statements
            .invalidate_entries_if(move |_, statement| statement.session == id)
            .map_err(Failure::internal)?;
        Ok(())
    }

    async fn statement(&self, name: &str) -> Result<Arc<Statement>, Failure> {
        self.statements.get(name).await.ok_or_else(|| {
            Failure::new(
                FailureKind::NotFound,
                "the prepared statement is closed or has expired; prepare it again",
            )
        })
    }

    async fn binding(&self, name: &str) -> Result<RecordBatch, Failure> {
        let batch = self.bindings.get(name).await.ok_or_else(|| {
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
        self.last_binding
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_last_binding(&self, binding: Option<String>) {
        *self
            .last_binding
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = binding;
    }
}

/// Refuses another number of parameters than the statement has.
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
fn parts(handle: &[u8]) -> Result<(&str, Option<&str>), Failure> {
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
