//! What a session asks for its queries beside their rows: a time limit, a share, a reservation.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::LogicalPlan;
use squadron_proto::{Failure, FailureKind};
use squadron_scheduler::{QueryOptions, TimeLimit};
use tokio::time::Instant;

use super::sessions::Session;
use crate::catalog::SYSTEM_SCHEMA;
use crate::settings::{Endpoints, SquadronOptions};

/// When a query ends at the latest, planning included.
#[derive(Clone, Debug)]
pub(super) struct Limit {
    at: Instant,
    failure: Failure,
}

impl Limit {
    /// The nearer of the session's limit and the server's, from now on; none where neither is set.
    pub(super) fn of(session: &Session, server: Option<Duration>) -> Option<Self> {
        let own = options(session).query_timeout;
        const OWN: &str = "raise squadron.query_timeout, or set it to 0s for none";
        const OF_SERVER: &str = "the server's --query-timeout sets it; ask for less, or have it raised";
        let (limit, mend) = match (own, server) {
            (None, None) => return None,
            (Some(own), Some(server)) if server < own => (server, OF_SERVER),
            (Some(own), _) => (own, OWN),
            (None, Some(server)) => (server, OF_SERVER),
        };
        let message = format!("the query took longer than its limit of {limit:?}; {mend}");
        Some(Self {
            at: Instant::now() + limit,
            failure: Failure::new(FailureKind::Deadline, message),
        })
    }

    /// Waits until the time is over. Returns what the query ends with then.
    pub(super) async fn expired(self) -> Failure {
        tokio::time::sleep_until(self.at).await;
        self.failure
    }

    /// For the scheduler, from now on.
    pub(super) fn left(&self) -> TimeLimit {
        TimeLimit {
            left: self.at.saturating_duration_since(Instant::now()),
            failure: self.failure.clone(),
        }
    }
}

/// Does the work, or says that its time is over. What was begun is dropped then.
pub(super) async fn within<T>(
    limit: Option<&Limit>,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    match limit {
        None => work.await,
        Some(limit) => tokio::time::timeout_at(limit.at, work)
            .await
            .unwrap_or_else(|_| Err(limit.failure.clone())),
    }
}

/// What the scheduler is told of a query of this session, without its time limit.
pub(super) fn options_of(session: &Session, plan: &LogicalPlan) -> QueryOptions {
    let options = options(session);
    QueryOptions {
        user: session.principal.name().map(Into::into),
        session: session.id.as_str().into(),
        tag: options.tag.as_deref().map(Into::into),
        priority: options.priority,
        time_limit: None,
        memory_bytes: options.reserved_memory,
        is_exempt: reads_system_alone(plan),
        speculation: options.speculation,
        fingerprint: Some(fingerprint(plan)),
    }
}

/// Whether the plan reads system tables alone: they must answer also when the server is full.
fn reads_system_alone(plan: &LogicalPlan) -> bool {
    let (mut own, mut others) = (0, 0);
    let walked = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            match scan.table_name.schema() == Some(SYSTEM_SCHEMA) {
                true => own += 1,
                false => others += 1,
            }
        }
        Ok(TreeNodeRecursion::Continue)
    });
    walked.is_ok() && own > 0 && others == 0
}

/// The same for the same statement over the same tables, in this process.
fn fingerprint(plan: &LogicalPlan) -> u64 {
    let mut hasher = DefaultHasher::new();
    plan.hash(&mut hasher);
    hasher.finish()
}

/// How many endpoints the session wants for its results.
pub(super) fn wanted_endpoints(session: &Session) -> Endpoints {
    SquadronOptions::of(session.config().options()).endpoints
}

/// What the session has set.
pub(super) fn options(session: &Session) -> SquadronOptions {
    session.with_context(|context| SquadronOptions::of(context.state_ref().read().config_options()))
}

#[cfg(test)]
mod tests {
    use datafusion::execution::SessionStateBuilder;
    use datafusion::logical_expr::LogicalPlanBuilder;
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::*;

    fn session(settings: &[(&str, &str)]) -> Session {
        let mut config = SessionConfig::new();
        let options = config.options_mut();
        options.extensions.insert(SquadronOptions::default());
        for (key, value) in settings {
            options.set(key, value).unwrap();
        }
        let state = SessionStateBuilder::new().with_config(config).build();
        let ada = super::super::Principal::user("ada");
        let context = SessionContext::new_with_state(state);
        super::super::OpenSessions::default().open("s".to_owned(), ada, context)
    }

    fn limit_of(own: &str, server: Option<u64>) -> Option<String> {
        let session = session(&[("squadron.query_timeout", own)]);
        let limit = Limit::of(&session, server.map(Duration::from_secs))?;
        Some(limit.failure.message)
    }

    #[tokio::test]
    async fn nearer_time_limit_counts_and_names_itself() {
        assert_eq!(limit_of("0s", None), None);
        let own = limit_of("2s", Some(9)).unwrap();
        assert!(
            own.contains("limit of 2s") && own.contains("squadron.query_timeout"),
            "{own}"
        );
        for session in ["0s", "9s"] {
            let server = limit_of(session, Some(2)).unwrap();
            assert!(
                server.contains("limit of 2s") && server.contains("--query-timeout"),
                "{server}"
            );
        }
    }

    #[tokio::test]
    async fn overlong_work_fails_with_a_deadline() {
        let session = session(&[("squadron.query_timeout", "1ms")]);
        let limit = Limit::of(&session, None);
        let never = std::future::pending::<Result<(), Failure>>();
        let failure = within(limit.as_ref(), never).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Deadline);
        assert_eq!(within(None, async { Ok(3) }).await, Ok(3));
    }

    #[tokio::test]
    async fn session_settings_become_query_options() {
        let session = session(&[
            ("squadron.priority", "7"),
            ("squadron.tag", "nightly"),
            ("squadron.reserved_memory", "2GB"),
            ("squadron.speculation", "off"),
        ]);
        let plan = LogicalPlanBuilder::empty(true).build().unwrap();
        let options = options_of(&session, &plan);
        assert_eq!(options.user.as_deref(), Some("ada"));
        assert_eq!(options.tag.as_deref(), Some("nightly"));
        assert_eq!((options.priority, options.memory_bytes), (7, 2_000_000_000));
        assert!(!options.speculation && SquadronOptions::default().speculation);
    }

    #[tokio::test]
    async fn equal_statements_have_equal_fingerprints() {
        let context = SessionContext::new();
        let mut fingerprints = Vec::new();
        for sql in ["SELECT 1", "SELECT 1", "SELECT 2"] {
            let plan = context.state().create_logical_plan(sql).await.unwrap();
            fingerprints.push(fingerprint(&plan));
        }
        assert_eq!(fingerprints[0], fingerprints[1]);
        assert_ne!(fingerprints[0], fingerprints[2]);
    }
}
