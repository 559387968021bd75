//! Local times and instants are cast as PostgreSQL casts them, in the zone of the session.
//!
//! DataFusion 55.2 takes the local time of an instant in UTC (apache/datafusion#25165, #25175), compares local times with
//! instants in UTC (#25095), and refuses local times that a zone skips or has twice.

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr::{Cast, ScalarFunction};
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, cast, lit};
use datafusion::optimizer::AnalyzerRule;
use squadron_shuffle::functions::{at_time_zone, in_zone};

use crate::plan_limits::expressions::rewrite_plan;

/// Rewrites the casts between times with and without a zone.
#[derive(Debug)]
pub(crate) struct CastInZone;

impl AnalyzerRule for CastInZone {
    fn analyze(&self, plan: LogicalPlan, config: &ConfigOptions) -> Result<LogicalPlan> {
        let session = config.execution.time_zone.as_deref().unwrap_or("UTC");
        rewrite_plan(plan, |expression, schema| {
            expression.transform_up(|part| Ok(in_session(part, schema, session)))
        })
    }

    fn name(&self) -> &'static str {
        "cast_in_zone"
    }
}

fn in_session(part: Expr, schema: &DFSchema, session: &str) -> Transformed<Expr> {
    let Expr::Cast(Cast { expr, field }) = part else {
        return Transformed::no(part);
    };
    let Ok(from) = expr.get_type(schema) else {
        return Transformed::no(Expr::Cast(Cast { expr, field }));
    };
    let within = match (&from, field.data_type()) {
        (from, DataType::Timestamp(unit, Some(zone))) if has_changes(zone) && is_local(from) => {
            let local = match from {
                DataType::Date32 | DataType::Date64 => cast(*expr, DataType::Timestamp(*unit, None)),
                _ => *expr,
            };
            let unit = match (unit, from) {
                (_, DataType::Timestamp(unit, _)) | (unit, _) => unit_name(*unit),
            };
            ScalarFunction::new_udf(in_zone(), vec![local, lit(zone.as_ref()), lit(unit)])
        }
        (DataType::Timestamp(_, Some(_)), to) if !is_utc(session) && is_without_zone(to) => {
            ScalarFunction::new_udf(at_time_zone(), vec![*expr, lit(session)])
        }
        _ => return Transformed::no(Expr::Cast(Cast { expr, field })),
    };
    let expr = Box::new(Expr::ScalarFunction(within));
    Transformed::yes(Expr::Cast(Cast { expr, field }))
}

fn unit_name(unit: TimeUnit) -> &'static str {
    match unit {
        TimeUnit::Second => "s",
        TimeUnit::Millisecond => "ms",
        TimeUnit::Microsecond => "us",
        TimeUnit::Nanosecond => "ns",
    }
}

fn is_utc(zone: &str) -> bool {
    matches!(zone, "UTC" | "Z" | "+00:00" | "-00:00" | "Etc/UTC")
}

/// Whether the clocks of the zone may have been changed: it is no offset.
pub(super) fn has_changes(zone: &str) -> bool {
    !is_utc(zone) && !zone.starts_with(['+', '-'])
}

fn is_local(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Timestamp(_, None)
            | DataType::Date32
            | DataType::Date64
            | DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Utf8View
    )
}

fn is_without_zone(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Timestamp(_, None) | DataType::Date32 | DataType::Date64 | DataType::Time32(_) | DataType::Time64(_)
    )
}
