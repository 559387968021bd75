//! Substrait plans in place of SQL: in GetFlightInfo, GetSchema, DoPut and as prepared statements.

use arrow_flight::sql::SubstraitPlan;
use bytes::Bytes;
use squadron_proto::Failure;

use super::statement::no_transaction;
use super::status::{invalid, unsupported};
use crate::planner::substrait::{OLDEST_VERSION, newest_version};
use crate::query::{Queries, Session};
use crate::sql::PlannedStatement;

/// Plans the plan that a client sent; nothing runs yet.
pub(super) async fn plan(
    queries: &Queries,
    session: &Session,
    plan: Option<SubstraitPlan>,
    transaction: Option<&Bytes>,
) -> Result<PlannedStatement, Failure> {
    no_transaction(transaction)?;
    let plan = plan.ok_or_else(|| invalid("the message has no Substrait plan"))?;
    check_version(&plan.version)?;
    queries.plan_substrait(session, plan.plan).await
}

/// Most drivers tell no version; one that is told has to be one that is understood.
fn check_version(version: &str) -> Result<(), Failure> {
    let newest = newest_version();
    let known = match (numbers(version), numbers(OLDEST_VERSION), numbers(&newest)) {
        _ if version.trim().is_empty() => true,
        (Some(version), Some(oldest), Some(newest)) => oldest <= version && version <= newest,
        _ => false,
    };
    if known {
        return Ok(());
    }
    let version: String = version.chars().take(100).collect();
    Err(unsupported(&format!(
        "version '{version}' of Substrait is not supported; from {OLDEST_VERSION} to {newest} are, and a plan may be sent \
         without its version"
    )))
}

/// Major, minor and patch of a version such as `v0.53.0`.
fn numbers(version: &str) -> Option<[u32; 3]> {
    let version = version.trim();
    let mut parts = version.strip_prefix('v').unwrap_or(version).splitn(3, '.');
    let mut next = || parts.next()?.parse().ok();
    Some([next()?, next()?, next()?])
}

#[cfg(test)]
mod tests {
    use squadron_proto::FailureKind;

    use super::*;

    #[test]
    fn a_version_is_known_absent_or_refused_by_name() {
        for known in ["", " ", "0.20.0", "v0.53.0", &newest_version()] {
            assert_eq!(check_version(known), Ok(()), "{known}");
        }
        for unknown in ["0.19.9", "1.0.0", "0.53", "soon", "0.53.0-rc1"] {
            let failure = check_version(unknown).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Unsupported);
            assert!(failure.message.contains(unknown), "{}", failure.message);
        }
    }
}
