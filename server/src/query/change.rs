//! Changes: DDL, SET and RESET, KILL.

use datafusion::logical_expr::{LogicalPlan, Statement};
use squadron_proto::Failure;

use super::plan_context::PlanContext;
use super::{Queries, Session};
use crate::settings;
use crate::sql::kill;
use crate::sql::planning_errors::planned;

impl Queries {
    /// Sets an option of a session; without a value to what the server began with.
    ///
    /// # Errors
    /// What is wrong with the name or the value.
    pub fn set_option(
        &self,
        session: &Session,
        name: &str,
        value: Option<&str>,
    ) -> Result<(), settings::session::OptionError> {
        self.parts.catalog.set_option(&session.own_context(), name, value)
    }

    /// DDL on the shared catalog, SET and RESET on the session's own settings, KILL.
    pub(super) async fn change(&self, context: &PlanContext, plan: LogicalPlan) -> Result<(), Failure> {
        let session = &context.session;
        if let Some(target) = kill::target_of(&plan) {
            return self.kill(session, context.id, target);
        }
        match &plan {
            LogicalPlan::Statement(Statement::SetVariable(set)) => {
                return Ok(self.set_option(session, &set.variable, Some(&set.value))?);
            }
            LogicalPlan::Statement(Statement::ResetVariable(reset)) => {
                return Ok(self.set_option(session, &reset.variable, None)?);
            }
            _ => {}
        }
        let catalog = self.parts.catalog.clone();
        let context = session.own_context();
        self.on_planner(session, async move {
            match plan {
                LogicalPlan::Ddl(statement) => planned(catalog.execute_ddl(&context, statement).await),
                setting => planned(context.execute_logical_plan(setting).await.map(drop)),
            }
        })
        .await
    }
}
