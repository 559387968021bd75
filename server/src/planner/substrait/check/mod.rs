//! One walk over a plan before it is read: it counts relations and expressions, checks that references lead somewhere,
//! and refuses by name what is not supported.
//!
//! DataFusion's consumer ignores some of what a plan says (phases, extensions, distinct windows, the field that held
//! arguments in old releases). Where ignoring it would change the result, it is refused or rewritten here.
//!
//! | file | its part of the walk |
//! |---|---|
//! | `limits` | the state of the walk: its counters, and the declarations of the plan |
//! | `relations` | relations, their inputs, and what all relations have in common |
//! | `functions` | aggregate and window functions, arguments |
//! | `expressions` | expressions, subqueries, nested values |
//! | `literals`, `types` | literals and types, with their variations |
//! | `refusals` | the errors of what is not supported |
//!
//! The walk recurses through methods of [`Walk`], so that these files need no circle of imports.

mod expressions;
mod functions;
mod limits;
mod literals;
mod refusals;
mod relations;
mod types;

use datafusion::error::Result;
use datafusion_substrait::substrait::proto::{Plan, plan_rel};

use self::limits::Walk;
use self::refusals::refuse_enhancement;
use super::declarations::Declarations;
use super::errors::{invalid, unsupported};

/// Checks `plan`, and moves what older producers write elsewhere to where DataFusion's consumer looks for it.
pub(super) fn check(plan: &mut Plan, declarations: &mut Declarations) -> Result<()> {
    refuse_enhancement(plan.advanced_extensions.as_ref(), "plan")?;
    let [tree] = plan.relations.as_mut_slice() else {
        return Err(match plan.relations.len() {
            0 => invalid("the Substrait plan has no relation"),
            trees => unsupported(format!(
                "the Substrait plan has {trees} relation trees; send a plan with one"
            )),
        });
    };
    let mut walk = Walk::new(declarations);
    match tree.rel_type.as_mut() {
        Some(plan_rel::RelType::Rel(rel)) => walk.check_relation(rel),
        Some(plan_rel::RelType::Root(root)) => walk.check_input(root.input.as_mut(), "root"),
        None => Err(invalid("the Substrait plan has no relation")),
    }
}
