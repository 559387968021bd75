//! Substrait plans instead of SQL: in GetFlightInfo, GetSchema, DoPut and prepared statements.

use arrow_flight::sql::SubstraitPlan;
use bytes::Bytes;
use squadron_proto::Failure;

use super::statement::refuse_transaction;
use super::status::{invalid, unsupported};
use crate::planner::substrait::{OLDEST_VERSION, newest_version};
use crate::sql::Source;

/// The plan that a client sent.
pub(super) fn source(plan: Option<SubstraitPlan>, transaction: Option<&Bytes>) -> Result<Source, Failure> {
    refuse_transaction(transaction)?;
    let plan = plan.ok_or_else(|| invalid("the message has no Substrait plan"))?;
    check_version(&plan.version)?;
    Ok(Source::Substrait(plan.plan))
}

/// Refuses a version of Substrait that is not supported. Most drivers send none.
fn check_version(version: &str) -> Result<(), Failure> {
    let newest = newest_version();
    let is_supported = match (
        parse_version(version),
        parse_version(OLDEST_VERSION),
        parse_version(&newest),
    ) {
        _ if version.trim().is_empty() => true,
        (Some(version), Some(oldest), Some(newest)) => oldest <= version && version <= newest,
        _ => false,
    };
    if is_supported {
        return Ok(());
    }
    let version: String = version.chars().take(100).collect();
    Err(unsupported(&format!(
        "version '{version}' of Substrait is not supported; from {OLDEST_VERSION} to {newest} are, and a plan may be \
         sent without its version"
    )))
}

/// Major, minor and patch of a version such as `v0.53.0`.
fn parse_version(version: &str) -> Option<[u32; 3]> {
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
    fn unknown_version_is_refused_by_name() {
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
