//! From a Substrait plan to a logical plan, which then goes the way of SQL.
//!
//! ```text
//! bytes --decode--> proto::Plan --check--> proto::Plan --reader--> LogicalPlan
//!         bytes,                  counts,                names of tables
//!         depth                   names                  and columns
//! ```
//!
//! | part | what it is for |
//! |---|---|
//! | `limits`, `errors` | how large a plan may be, and the two errors it can get |
//! | `declarations` | the plan's names for its anchors, and what DataFusion calls these functions |
//! | `check` | one walk over the whole plan: counts against the limits, and refuses by name what is not supported |
//! | `reader` | DataFusion's consumer, with our own tables, fields and parameters |
//! | `read`, `functions` | relations and functions that DataFusion's consumer reads differently from the standard |
//!
//! A plan is untrusted input: its sizes and references are checked, and a panic of a library that reads it is an
//! `Invalid` error of the plan.

mod check;
mod declarations;
mod errors;
mod functions;
mod limits;
mod read;
mod reader;
#[cfg(test)]
mod tests;

use std::panic::AssertUnwindSafe;

use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion_substrait::logical_plan::consumer::from_substrait_plan_with_consumer;
use datafusion_substrait::substrait::proto::Plan;
use futures::FutureExt;
use prost::Message;
use squadron_proto::FailureKind;
use squadron_proto::failure::panic_message;
use squadron_shuffle::failure;

use self::declarations::Declarations;
use self::errors::invalid;
use self::limits::{MAX_DEPTH, MAX_PLAN_BYTES};
use self::reader::Reader;

/// The newest release of Substrait whose plans are read.
pub fn newest_version() -> String {
    use datafusion_substrait::substrait::version;
    format!(
        "{}.{}.{}",
        version::SUBSTRAIT_MAJOR_VERSION,
        version::SUBSTRAIT_MINOR_VERSION,
        version::SUBSTRAIT_PATCH_VERSION
    )
}

/// The oldest release of Substrait whose plans are read: older ones write the arguments of functions in another form.
pub const OLDEST_VERSION: &str = "0.20.0";

/// Reads a plan over the tables and functions of `state`. The names of its root are the names of the columns.
///
/// # Errors
/// `Invalid` for bytes that are no plan and for names and references that lead nowhere, `Unsupported` for a feature
/// that the server does not support; both name the fault.
pub async fn logical_plan(state: &SessionState, bytes: &[u8]) -> Result<LogicalPlan> {
    let mut plan = decode(bytes)?;
    let mut declarations = Declarations::from_plan(&plan)?;
    check::check(&mut plan, &mut declarations)?;
    let reader = Reader::new(state, &declarations, &plan.parameter_bindings)?;
    blamed_on_plan(from_substrait_plan_with_consumer(&reader, &plan)).await
}

/// Runs `work` on a plan of a client. Libraries take it for granted that such a plan is consistent: where they panic or
/// report an internal error, the plan is at fault.
///
/// # Errors
/// Those of `work`, and `Invalid` where it panics.
pub async fn blamed_on_plan<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let unfit = |why: &str| invalid(format!("the Substrait plan does not fit together: {why}"));
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(outcome) => outcome.map_err(|error| {
            let failure = failure::of(&error);
            match failure.kind {
                FailureKind::Internal => unfit(&failure.message),
                _ => error,
            }
        }),
        Err(panic) => Err(unfit(
            panic_message(&*panic).unwrap_or("it has a reference that leads nowhere"),
        )),
    }
}

fn decode(bytes: &[u8]) -> Result<Plan> {
    if bytes.is_empty() {
        return Err(invalid("the Substrait plan is empty"));
    }
    if bytes.len() > MAX_PLAN_BYTES {
        return Err(invalid(format!(
            "the Substrait plan is larger than {} MiB; put large lists of values into a table",
            MAX_PLAN_BYTES / (1024 * 1024)
        )));
    }
    // No plan begins with a brace: in protobuf it would be the start of a group, which plans do not have.
    if bytes.trim_ascii_start().first() == Some(&b'{') {
        return Err(invalid(
            "the Substrait plan is JSON; send it in the binary form of protobuf",
        ));
    }
    Plan::decode(bytes).map_err(|error| undecodable(&error.to_string()))
}

fn undecodable(error: &str) -> DataFusionError {
    if error.contains("recursion limit") {
        return invalid(format!(
            "the Substrait plan nests deeper than {MAX_DEPTH} protobuf messages, some 45 relations or 30 functions \
             inside one another; give `and`, `or` and the like all their arguments at once"
        ));
    }
    invalid(format!(
        "the bytes are not a Substrait plan in the binary form of protobuf: {error}"
    ))
}
