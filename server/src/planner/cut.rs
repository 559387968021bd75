//! Cuts a physical plan into fragments at its exchanges.
//!
//! ```text
//! Sort merge                                fragment 2   Sort merge
//!   Aggregate final                                        ShuffleRead 1      (identity: one stream a partition)
//!     Repartition hash(a)        --cut-->   fragment 1   Aggregate final
//!       Aggregate partial                                  ShuffleRead 0      (hash)
//!         Scan                              fragment 0   Aggregate partial
//!                                                          Scan
//! ```
//!
//! What is cut: hash repartitions, what merges or coalesces several partitions, and the side of a join that every task
//! needs whole. Round-robin repartitions are dropped: the partitions of a fragment already run in different places.
//! Nodes that are not known to be safe keep everything below them in one fragment (see [`apart`]).

use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::logical_expr::physical_planning_context::ScalarSubqueryResults;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::scalar_subquery::ScalarSubqueryExpr;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::scalar_subquery::{ScalarSubqueryExec, ScalarSubqueryLink};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, ExecutionPlan, ExecutionPlanProperties, Partitioning, ReplaceChildrenOptions,
};
use squadron_proto::StageId;
use squadron_shuffle::ShuffleReadExec;
use squadron_shuffle::fragment::apart::{Apart, ChildShare, apart, child_shares};

use super::estimate::Estimator;

/// Plans above this many fragments are not worth their cuts.
const MAX_FRAGMENTS: usize = 1000;

/// A piece of a plan that runs without moving rows between workers.
#[derive(Clone, Debug)]
pub(crate) struct Fragment {
    /// Its leaves are scans, or `ShuffleReadExec` nodes whose stage is the index of the fragment they read.
    pub(crate) plan: Arc<dyn ExecutionPlan>,
    /// Whether several tasks may share it.
    pub(crate) apart: Apart,
    /// How its rows leave it.
    pub(crate) output: Output,
    /// A guess at the bytes that leave it.
    pub(crate) output_bytes: u64,
}

/// How a fragment's rows are laid out for its reader.
#[derive(Clone, Debug)]
pub(crate) enum Output {
    /// Partition for partition, in order.
    Identity,
    /// By the hash of these expressions.
    Hash(Vec<Arc<dyn PhysicalExpr>>),
}

/// Cuts `plan`; children come before their readers and the root comes last.
pub(crate) fn cut(plan: &Arc<dyn ExecutionPlan>) -> Result<Vec<Fragment>> {
    let mut cutter = Cutter {
        fragments: Vec::new(),
        subqueries: None,
        estimator: Estimator::new(),
    };
    let root = cutter.cut(plan)?;
    cutter.close(root, Output::Identity, plan)?;
    Ok(cutter.fragments)
}

/// The whole of `plan` as one fragment.
pub(crate) fn whole(plan: &Arc<dyn ExecutionPlan>) -> Vec<Fragment> {
    vec![Fragment {
        plan: Arc::clone(plan),
        apart: Apart::OneTask,
        output: Output::Identity,
        output_bytes: Estimator::new().bytes(plan),
    }]
}

/// A fragment that still grows towards its root.
struct Open {
    plan: Arc<dyn ExecutionPlan>,
    apart: Apart,
}

/// The scalar subqueries that expressions of the current plan level may refer to.
#[derive(Clone)]
struct Subqueries {
    links: Vec<ScalarSubqueryLink>,
    results: ScalarSubqueryResults,
}

struct Cutter {
    fragments: Vec<Fragment>,
    subqueries: Option<Subqueries>,
    estimator: Estimator,
}

impl Cutter {
    fn cut(&mut self, node: &Arc<dyn ExecutionPlan>) -> Result<Open> {
        if let Some(repartition) = node.downcast_ref::<RepartitionExec>() {
            return self.cut_repartition(node, repartition);
        }
        if apart(node.as_ref()) == Apart::Opaque || self.fragments.len() > MAX_FRAGMENTS {
            return Ok(Open {
                plan: Arc::clone(node),
                apart: Apart::Opaque,
            });
        }
        if node.is::<CoalescePartitionsExec>() || node.is::<SortPreservingMergeExec>() {
            return self.cut_gather(node);
        }
        if let Some(subquery) = node.downcast_ref::<ScalarSubqueryExec>() {
            return self.cut_subquery(subquery);
        }
        self.cut_children(node)
    }

    fn cut_repartition(&mut self, node: &Arc<dyn ExecutionPlan>, repartition: &RepartitionExec) -> Result<Open> {
        let input = repartition.input();
        match repartition.partitioning() {
            Partitioning::RoundRobinBatch(_) => self.cut(input),
            Partitioning::Hash(exprs, _) => {
                let child = self.cut(input)?;
                let one_stream = child.plan.output_partitioning().partition_count() == 1;
                let stage = self.close(child, Output::Hash(exprs.clone()), node)?;
                let ordering = node.output_ordering().cloned();
                // A single producer partition keeps its order through the shuffle, several do not.
                let kept = ordering.clone().filter(|_| one_stream);
                let read: Arc<dyn ExecutionPlan> = Arc::new(ShuffleReadExec::new(
                    stage,
                    node.schema(),
                    repartition.partitioning().clone(),
                    kept,
                ));
                let plan = match ordering {
                    Some(ordering) if !one_stream => {
                        Arc::new(SortExec::new(ordering, read).with_preserve_partitioning(true))
                    }
                    Some(_) | None => read,
                };
                Ok(Open {
                    plan,
                    apart: Apart::Free,
                })
            }
            Partitioning::Range(_) | Partitioning::UnknownPartitioning(_) => Ok(Open {
                plan: Arc::clone(node),
                apart: Apart::Opaque,
            }),
        }
    }

    /// A node that brings several partitions together, and so runs in one task, above what may run in many.
    fn cut_gather(&mut self, node: &Arc<dyn ExecutionPlan>) -> Result<Open> {
        let child = Arc::clone(node.children()[0]);
        let open = self.cut(&child)?;
        if open.apart == Apart::Opaque {
            return Ok(Open {
                plan: rebuild(node, vec![open.plan])?,
                apart: Apart::Opaque,
            });
        }
        let read = self.close_and_read(open, &child)?;
        Ok(Open {
            plan: rebuild(node, vec![read])?,
            apart: Apart::OneTask,
        })
    }

    fn cut_children(&mut self, node: &Arc<dyn ExecutionPlan>) -> Result<Open> {
        let own = apart(node.as_ref());
        let mut verdict = own;
        let mut children = Vec::new();
        let shares = child_shares(node.as_ref());
        for (child, share) in node.children().into_iter().zip(shares) {
            let open = self.cut(child)?;
            let whole_for_each = own == Apart::Free && share == ChildShare::Whole;
            let lone_branch = node.is::<UnionExec>() && open.apart != Apart::Free;
            if whole_for_each && is_broadcast(open.plan.as_ref()) {
                children.push(open.plan);
            } else if whole_for_each || lone_branch {
                children.push(self.close_and_read(open, child)?);
            } else {
                verdict = verdict.max(open.apart);
                children.push(open.plan);
            }
        }
        Ok(Open {
            plan: rebuild(node, children)?,
            apart: verdict,
        })
    }

    /// Each subquery becomes a stage; every fragment of the input that refers to one gets its own reader of it.
    fn cut_subquery(&mut self, node: &ScalarSubqueryExec) -> Result<Open> {
        let outer = self.subqueries.take();
        let mut links = Vec::new();
        for link in node.subqueries() {
            let open = self.cut(&link.plan)?;
            links.push(ScalarSubqueryLink {
                plan: self.close_and_read(open, &link.plan)?,
                index: link.index,
            });
        }
        self.subqueries = Some(Subqueries {
            links,
            results: node.results().clone(),
        });
        let open = self.cut(node.input())?;
        let plan = self.with_subqueries(open.plan)?;
        self.subqueries = outer;
        Ok(Open {
            plan,
            apart: open.apart,
        })
    }

    fn with_subqueries(&self, plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        match &self.subqueries {
            Some(subqueries) if refers_to_subquery(&plan)? => Ok(Arc::new(ScalarSubqueryExec::new(
                plan,
                subqueries.links.clone(),
                subqueries.results.clone(),
            ))),
            Some(_) | None => Ok(plan),
        }
    }

    /// Ends a fragment. `original` is the uncut plan, which still has its statistics.
    fn close(&mut self, open: Open, output: Output, original: &Arc<dyn ExecutionPlan>) -> Result<StageId> {
        let plan = self.with_subqueries(open.plan)?;
        let id = StageId(u32::try_from(self.fragments.len()).unwrap_or(u32::MAX));
        self.fragments.push(Fragment {
            plan,
            apart: open.apart,
            output,
            output_bytes: self.estimator.bytes(original),
        });
        Ok(id)
    }

    fn close_and_read(&mut self, open: Open, original: &Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = open.plan.schema();
        let ordering = open.plan.output_ordering().cloned();
        let partitions = open.plan.output_partitioning().partition_count();
        let stage = self.close(open, Output::Identity, original)?;
        Ok(Arc::new(ShuffleReadExec::new(
            stage,
            schema,
            Partitioning::UnknownPartitioning(partitions),
            ordering,
        )))
    }
}

pub(crate) fn rebuild(
    node: &Arc<dyn ExecutionPlan>,
    children: Vec<Arc<dyn ExecutionPlan>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    if children.is_empty() {
        return Ok(Arc::clone(node));
    }
    Arc::clone(node).replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
}

/// Rows of another stage, at most brought together: every task may do that for itself. Anything more is computed once.
fn is_broadcast(plan: &dyn ExecutionPlan) -> bool {
    if plan.is::<CoalescePartitionsExec>() && plan.fetch().is_none() {
        return plan.children().into_iter().all(|child| child.is::<ShuffleReadExec>());
    }
    plan.is::<ShuffleReadExec>()
}

fn refers_to_subquery(plan: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    let mut found = false;
    plan.apply(|node| {
        if node.is::<ScalarSubqueryExec>() {
            return Ok(TreeNodeRecursion::Jump);
        }
        node.apply_expressions(&mut |expr| {
            expr.apply(|inner| {
                found |= inner.is::<ScalarSubqueryExpr>();
                Ok(TreeNodeRecursion::Continue)
            })
        })?;
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}
