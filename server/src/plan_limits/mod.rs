//! What planning one statement may cost: time, memory, and the stack that its expressions need.
//!
//! ```text
//! Planning::run ── enter ──> the budget is the thread's current one while the statement is planned
//!                               ^
//! parse, planner, Checkpoint ───'  check: is its client still there, is there time, does the plan still fit?
//! ```
//!
//! DataFusion's passes do not wait for anything, so planning cannot be cancelled from outside. [`check`] runs between
//! any two of them ([`rules`]), and [`check_plan`] weighs a plan before the first pass walks over it: a statement of a
//! few hundred bytes can stand for a plan of a billion nodes. The weight is an estimate of what all passes together
//! take, from the number of nodes, columns and expressions that they walk over ([`size`]).

pub(crate) mod concat;
pub(crate) mod expressions;
pub(crate) mod flat_chains;
pub(crate) mod rules;
mod size;
pub(crate) mod typed_chains;

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use datafusion::error::Result;
use datafusion::logical_expr::LogicalPlan;
use squadron_proto::{Failure, FailureKind};
use squadron_shuffle::failure;

pub(crate) use self::size::MAX_EXPRESSION_DEPTH;
use self::size::{MAX_CHECK_STEPS, MAX_PLAN_DEPTH, MAX_TYPE_DEPTH, Size};

/// What the plan of one statement may take, and all plans that are being made together.
#[derive(Clone, Copy, Debug)]
pub struct PlanLimits {
    /// Bytes of one plan, by the planner's estimate.
    pub plan_bytes: u64,
    /// Bytes of all plans that are made at a time.
    pub total_bytes: u64,
    /// How long one statement may be planned.
    pub timeout: Duration,
}

/// About how many bytes `plan` takes while it is kept, as that of a prepared statement.
pub(crate) fn kept_bytes(plan: &LogicalPlan) -> u64 {
    Size::of(plan).kept_bytes()
}

/// The budgets of all statements that are planned at a time.
#[derive(Debug)]
pub(crate) struct PlanBudgets {
    limits: PlanLimits,
    charged: AtomicU64,
}

impl PlanBudgets {
    pub(crate) fn new(limits: PlanLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            charged: AtomicU64::new(0),
        })
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.limits.timeout
    }

    /// A budget for one statement.
    pub(crate) fn budget(self: &Arc<Self>) -> Arc<PlanBudget> {
        Arc::new(PlanBudget {
            budgets: Arc::clone(self),
            deadline: OnceLock::new(),
            abandoned: AtomicBool::new(false),
            charged: AtomicU64::new(0),
        })
    }
}

/// What one statement may take while it is planned.
#[derive(Debug)]
pub(crate) struct PlanBudget {
    budgets: Arc<PlanBudgets>,
    deadline: OnceLock<Instant>,
    abandoned: AtomicBool,
    /// Bytes of [`PlanBudgets::charged`] that are this statement's.
    charged: AtomicU64,
}

impl PlanBudget {
    /// Lets the time run, unless it runs already.
    pub(crate) fn begin(&self) {
        self.deadline
            .get_or_init(|| Instant::now() + self.budgets.limits.timeout);
    }

    /// Nobody waits for the plan any more.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }

    fn check(&self) -> Result<(), Failure> {
        if self.abandoned.load(Ordering::Relaxed) {
            return Err(Failure::new(FailureKind::Cancelled, "nobody waits for this plan"));
        }
        match self.deadline.get() {
            Some(deadline) if *deadline <= Instant::now() => Err(too_slow(self.budgets.limits.timeout)),
            _ => Ok(()),
        }
    }

    /// Charges as many bytes as the plan takes more than what is charged already.
    fn charge(&self, size: &Size) -> Result<(), Failure> {
        let PlanLimits {
            plan_bytes,
            total_bytes,
            ..
        } = self.budgets.limits;
        let bytes = size.bytes();
        if bytes > plan_bytes {
            return Err(Failure::new(
                FailureKind::Exhausted,
                format!(
                    "planning this statement would take about {bytes} bytes for {size}, more than --plan-memory ({plan_bytes} \
                     bytes); views and common table expressions count as often as they are used"
                ),
            ));
        }
        let more = bytes.saturating_sub(self.charged.load(Ordering::Relaxed));
        let others = self.budgets.charged.fetch_add(more, Ordering::Relaxed);
        self.charged.fetch_add(more, Ordering::Relaxed);
        // One alone may be planned, however large.
        if others > 0 && others.saturating_add(more) > total_bytes {
            return Err(Failure::new(
                FailureKind::Busy,
                format!(
                    "the statements that are being planned take all of --scheduler-memory ({total_bytes} bytes); run the \
                     statement again when some are done"
                ),
            ));
        }
        Ok(())
    }
}

impl Drop for PlanBudget {
    fn drop(&mut self) {
        let charged = *self.charged.get_mut();
        self.budgets.charged.fetch_sub(charged, Ordering::Relaxed);
    }
}

/// The failure of a statement whose planning took too long.
pub(crate) fn too_slow(timeout: Duration) -> Failure {
    Failure::new(
        FailureKind::Deadline,
        format!(
            "planning this statement took longer than --plan-timeout ({timeout:?}); make it smaller or raise the limit"
        ),
    )
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<PlanBudget>>> = const { RefCell::new(None) };
}

/// Until the guard is dropped, this thread plans within `budget`.
pub(crate) fn enter(budget: &Arc<PlanBudget>) -> Entered {
    Entered {
        before: CURRENT.replace(Some(Arc::clone(budget))),
    }
}

pub(crate) struct Entered {
    before: Option<Arc<PlanBudget>>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.before.take());
    }
}

/// What the statement that this thread plans may take; none on threads that plan nothing.
fn current() -> Option<Arc<PlanBudget>> {
    CURRENT.with_borrow(Clone::clone)
}

/// How much memory the plan of the current statement may take, in bytes.
pub(crate) fn plan_bytes() -> u64 {
    current().map_or(u64::MAX, |budget| budget.budgets.limits.plan_bytes)
}

/// Whether the current statement should be planned further.
///
/// # Errors
/// `Deadline` when it has been planned for too long, `Cancelled` when nobody waits for it.
pub(crate) fn check() -> Result<()> {
    let checked = current().map_or(Ok(()), |budget| budget.check());
    checked.map_err(failure::into_datafusion)
}

/// The same, and whether the plan is small enough for the passes that will walk over it.
///
/// # Errors
/// Those of [`check`]; `Exhausted` when the plan would take too much memory, `Busy` when others take it, `Invalid` when
/// it nests too deeply.
pub(crate) fn check_plan(plan: &LogicalPlan) -> Result<()> {
    check()?;
    let size = Size::of(plan);
    let checked = too_deep(&size).and_then(|()| current().map_or(Ok(()), |budget| budget.charge(&size)));
    checked.map_err(failure::into_datafusion)
}

fn too_deep(size: &Size) -> Result<(), Failure> {
    if size.check_steps > MAX_CHECK_STEPS {
        return Err(Failure::new(
            FailureKind::Invalid,
            format!(
                "subqueries are nested so deeply in conditions and expressions that checking them would take {} steps; at most \
                 {MAX_CHECK_STEPS} are taken; write some of them as joins",
                size.check_steps
            ),
        ));
    }
    let (what, depth, limit) = if size.expression_depth > MAX_EXPRESSION_DEPTH {
        (
            "operators and functions of an expression",
            size.expression_depth,
            MAX_EXPRESSION_DEPTH,
        )
    } else if size.plan_depth > MAX_PLAN_DEPTH {
        (
            "steps of a plan (joins, set operations, subqueries, views)",
            size.plan_depth,
            MAX_PLAN_DEPTH,
        )
    } else if size.type_depth > MAX_TYPE_DEPTH {
        ("types", size.type_depth, MAX_TYPE_DEPTH)
    } else {
        return Ok(());
    };
    Err(too_deep_failure(what, depth, limit))
}

/// The failure of a statement whose `what` nest too deeply for the stacks of threads.
pub(crate) fn too_deep_failure(what: &str, depth: usize, limit: usize) -> Failure {
    Failure::new(
        FailureKind::Invalid,
        format!("{depth} {what} are nested or chained in each other; at most {limit} can be"),
    )
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::{LogicalPlanBuilder, lit};

    use super::*;

    fn budgets(plan_bytes: u64, total_bytes: u64) -> Arc<PlanBudgets> {
        PlanBudgets::new(PlanLimits {
            plan_bytes,
            total_bytes,
            timeout: Duration::from_secs(3600),
        })
    }

    fn plan() -> LogicalPlan {
        let rows = LogicalPlanBuilder::values(vec![vec![lit(1)]]).unwrap();
        rows.build().unwrap()
    }

    fn kind(result: Result<()>) -> FailureKind {
        failure::of(&result.unwrap_err()).kind
    }

    #[test]
    fn thread_without_budget_checks_depth_alone() {
        check().unwrap();
        check_plan(&plan()).unwrap();
    }

    #[test]
    fn abandoned_and_slow_planning_ends() {
        let budget = budgets(u64::MAX, u64::MAX).budget();
        let _entered = enter(&budget);
        check().unwrap();
        budget.abandon();
        assert_eq!(kind(check()), FailureKind::Cancelled);

        let slow = PlanBudgets::new(PlanLimits {
            plan_bytes: u64::MAX,
            total_bytes: u64::MAX,
            timeout: Duration::ZERO,
        });
        let budget = slow.budget();
        let _entered = enter(&budget);
        check().unwrap();
        budget.begin();
        assert_eq!(kind(check()), FailureKind::Deadline);
    }

    #[test]
    fn plans_are_charged_until_their_budget_ends() {
        let bytes = Size::of(&plan()).bytes();
        let one = budgets(bytes - 1, u64::MAX);
        {
            let budget = one.budget();
            let _entered = enter(&budget);
            assert_eq!(kind(check_plan(&plan())), FailureKind::Exhausted);
        }
        let both = budgets(bytes, bytes + 1);
        let first = both.budget();
        {
            let _entered = enter(&first);
            check_plan(&plan()).unwrap();
            // A plan that is weighed again is charged once.
            check_plan(&plan()).unwrap();
        }
        let second = both.budget();
        {
            let _entered = enter(&second);
            assert_eq!(kind(check_plan(&plan())), FailureKind::Busy);
        }
        drop((first, second));
        assert_eq!(both.charged.load(Ordering::Relaxed), 0);
    }
}
