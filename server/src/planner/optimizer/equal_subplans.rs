//! Equal parts of a query are computed once.
//!
//! ```text
//! Join                              Join
//!   Aggregate(x)                      Shared 0
//!   Filter                 becomes      Aggregate(x)
//!     Aggregate(x)                    Filter
//!                                       Shared 0
//!                                         Aggregate(x)
//! ```
//!
//! A view or a `WITH` query that is read twice is planned twice. Where both parts stay equal after optimising, one stage
//! computes them, and both places read its rows (Finkelstein, "Common Expression Analysis in Database Applications",
//! 1982). Sums of floats then agree in both places too.
//!
//! Shared are groups, distinct rows and windows: they have to read all of their input before their first row, and rarely
//! have more rows than it. Not shared is what volatile functions make differ each time, and what depends on a subquery in an
//! expression, whose result belongs to one place.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hash, Hasher};
use std::mem;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::LogicalPlan;
use foldhash::fast::{FixedState, RandomState};

use crate::plan_limits::expressions::contains_subquery;
use crate::plan_marks::{Mark, mark};

/// A part of a plan that occurs several times.
struct Part {
    occurrences: usize,
    /// Given when the first occurrence is marked.
    number: Option<usize>,
}

/// Parts by what they are. A plan is hashed with all that is below it.
type Parts = HashMap<LogicalPlan, Part, RandomState>;

/// Marks the largest equal parts of `plan`, and tells which.
pub(super) fn share_equal_subplans(plan: LogicalPlan, changes: &mut Vec<String>) -> Result<LogicalPlan> {
    let outlines = repeated_outlines(&plan)?;
    if outlines.is_empty() {
        return Ok(plan);
    }
    let mut parts = repeated_parts(&plan, &outlines)?;
    if parts.is_empty() {
        return Ok(plan);
    }
    let mut numbers = 0;
    let marked = plan.transform_down_with_subqueries(|node| {
        if is_repeated(&node) {
            return Ok(Transformed::new(node, false, TreeNodeRecursion::Jump));
        }
        let part = match is_worth_a_stage(&node) && outlines.contains(&outline(&node)?) {
            true => parts.get_mut(&node),
            false => None,
        };
        let Some(part) = part else {
            return Ok(Transformed::no(node));
        };
        let number = *part.number.get_or_insert_with(|| {
            let occurrences = part.occurrences;
            changes.push(format!(
                "equal_subplans: {} once, not {occurrences} times",
                node.display()
            ));
            numbers += 1;
            numbers - 1
        });
        let marked = mark(Mark::Shared(number), node);
        // What is in it is computed once already.
        Ok(Transformed::new(marked, true, TreeNodeRecursion::Jump))
    });
    marked.data()
}

/// The outlines of parts that are worth a stage, as far as two parts have the same: most plans have none, and to compare
/// outlines costs little beside comparing plans.
fn repeated_outlines(plan: &LogicalPlan) -> Result<HashSet<u64>> {
    let (mut once, mut repeated) = (HashSet::new(), HashSet::new());
    each_part(plan, |node| {
        let outline = outline(node)?;
        if !once.insert(outline) {
            repeated.insert(outline);
        }
        Ok(())
    })?;
    Ok(repeated)
}

/// The same for equal plans: what kinds of nodes it has, and which tables it scans.
fn outline(plan: &LogicalPlan) -> Result<u64> {
    let mut hasher = FixedState::default().build_hasher();
    plan.apply(|node| {
        mem::discriminant(node).hash(&mut hasher);
        if let LogicalPlan::TableScan(scan) = node {
            scan.table_name.hash(&mut hasher);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(hasher.finish())
}

/// The parts with these outlines that occur more than once and may be shared.
fn repeated_parts(plan: &LogicalPlan, outlines: &HashSet<u64>) -> Result<Parts> {
    let mut parts = Parts::default();
    each_part(plan, |node| {
        if outlines.contains(&outline(node)?) && stands_alone(node)? {
            let part = parts.entry(node.clone()).or_insert(Part {
                occurrences: 0,
                number: None,
            });
            part.occurrences += 1;
        }
        Ok(())
    })?;
    parts.retain(|_, part| part.occurrences > 1);
    Ok(parts)
}

/// Looks at all parts that are worth a stage.
fn each_part(plan: &LogicalPlan, mut look: impl FnMut(&LogicalPlan) -> Result<()>) -> Result<()> {
    plan.apply_with_subqueries(|node| {
        if is_repeated(node) {
            return Ok(TreeNodeRecursion::Jump);
        }
        if is_worth_a_stage(node) {
            look(node)?;
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(())
}

/// Whether what is in `plan` runs again and again, all of it in one task.
fn is_repeated(plan: &LogicalPlan) -> bool {
    matches!(plan, LogicalPlan::RecursiveQuery(_))
}

/// Whether the rows of `plan` are made of all rows of its input.
fn is_worth_a_stage(plan: &LogicalPlan) -> bool {
    matches!(
        computed(plan),
        LogicalPlan::Aggregate(_) | LogicalPlan::Distinct(_) | LogicalPlan::Window(_)
    )
}

/// What `plan` was before it was renamed, filtered or sorted.
fn computed(plan: &LogicalPlan) -> &LogicalPlan {
    match plan {
        LogicalPlan::Projection(projection) => computed(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => computed(&alias.input),
        LogicalPlan::Filter(filter) => computed(&filter.input),
        LogicalPlan::Sort(sort) => computed(&sort.input),
        other => other,
    }
}

/// Whether `plan` gives the same rows wherever it stands.
fn stands_alone(plan: &LogicalPlan) -> Result<bool> {
    let mut depends = false;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            depends |= expr.is_volatile() || expr.contains_outer() || contains_subquery(expr)?;
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    Ok(!depends)
}
