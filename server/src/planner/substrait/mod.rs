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
//! | `declarations` | the plan's names for its anchors, and what DataFusion calls these functions |
//! | `check` | one walk over everything that came in: limits, and by name what is not supported |
//! | `reader` | DataFusion's consumer, with our own tables, fields and parameters |
//! | `read`, `functions` | relations and functions that DataFusion's consumer reads otherwise than they are meant |
//!
//! A plan comes from outside: nothing in it is believed, and a panic of a library over it is the plan's error.

mod check;
mod declarations;
mod functions;
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
use squadron_proto::{Failure, FailureKind};
use squadron_shuffle::failure;

use self::declarations::Declarations;
use self::reader::Reader;
use crate::error::panic_message;

/// Bytes of a plan. Decoded it takes some ten times as many.
const MAX_PLAN_BYTES: usize = 16 * 1024 * 1024;

/// Relations of a plan.
const MAX_RELATIONS: usize = 1_000;

/// Expressions of a plan, the cells of its virtual tables included.
const MAX_EXPRESSIONS: usize = 500_000;

/// Protobuf messages inside one another, as every protobuf library has it; prost enforces it while it decodes. A relation is two
/// of them, a function three.
const MAX_DEPTH: usize = 100;

/// The newest release of Substrait whose plans are understood.
pub fn newest_version() -> String {
    use datafusion_substrait::substrait::version;
    format!(
        "{}.{}.{}",
        version::SUBSTRAIT_MAJOR_VERSION,
        version::SUBSTRAIT_MINOR_VERSION,
        version::SUBSTRAIT_PATCH_VERSION
    )
}

/// The oldest release of Substrait whose plans are understood: before it the arguments of functions were written otherwise.
pub const OLDEST_VERSION: &str = "0.20.0";

/// Reads a plan over the tables and functions of `state`. The names of its root are the names of the columns.
///
/// # Errors
/// `Invalid` for what is no plan and for names and references that lead nowhere, `Unsupported` for what the server does not do;
/// both name it.
pub async fn logical_plan(state: &SessionState, bytes: &[u8]) -> Result<LogicalPlan> {
    let mut plan = decode(bytes)?;
    let mut declarations = Declarations::of(&plan)?;
    check::check(&mut plan, &mut declarations)?;
    let reader = Reader::new(state, &declarations, &plan.parameter_bindings)?;
    blamed_on_plan(from_substrait_plan_with_consumer(&reader, &plan)).await
}

/// Libraries that work on a plan from outside take it for granted that it fits together: where they panic or speak of a
/// fault of their own, the plan is at fault.
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
    // No protobuf message begins with a brace: it would be the start of a group, which no plan has.
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
            "the Substrait plan nests deeper than {MAX_DEPTH} protobuf messages, some 45 relations or 30 functions inside one \
             another; give `and`, `or` and the like all their arguments at once"
        ));
    }
    invalid(format!(
        "the bytes are not a Substrait plan in the binary form of protobuf: {error}"
    ))
}

/// An error for a plan that is wrong.
fn invalid(message: impl Into<String>) -> DataFusionError {
    failure::into_datafusion(Failure::new(FailureKind::Invalid, message.into()))
}

/// An error for what a plan may say, but the server does not do.
fn unsupported(message: impl Into<String>) -> DataFusionError {
    failure::into_datafusion(Failure::new(FailureKind::Unsupported, message.into()))
}
