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
//! The cuts are at hash repartitions, at nodes that merge or coalesce several partitions, and at the side of a join
//! that every task needs whole, and at what several places share. Round-robin repartitions are dropped: the partitions
//! of a fragment already run in different tasks. Nodes that are not known to be safe keep everything below them in one
//! fragment (see [`partition_safety`]).

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
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
    ChildrenPropertiesMode, ExecutionPlan, ExecutionPlanProperties, Partitioning, ReplaceChildrenOptions, displayable,
};
use squadron_proto::StageId;
use squadron_shuffle::ShuffleReadExec;
use squadron_shuffle::fragment::partition_safety::{ChildShare, PartitionSafety, child_shares, partition_safety};

use super::estimate::Estimator;
use crate::plan_marks::MarkedExec;

/// Beyond this many fragments the rest of a plan is not cut.
const MAX_FRAGMENTS: usize = 1000;

/// A piece of a plan that runs without moving rows between workers.
#[derive(Clone, Debug)]
pub(crate) struct Fragment {
    /// Its leaves are scans, or `ShuffleReadExec` nodes whose stage is the index of the fragment they read.
    pub(crate) plan: Arc<dyn ExecutionPlan>,
    /// Whether several tasks may run it, each with some of its partitions.
    pub(crate) partition_safety: PartitionSafety,
    /// How its rows are laid out for the reader.
    pub(crate) output: Output,
    /// Estimated bytes of its output.
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
        shared: SharedParts::default(),
        subqueries: None,
        estimator: Estimator::new(),
    };
    let root = cutter.cut(plan)?;
    cutter.close(root, Output::Identity, plan)?;
    Ok(cutter.fragments)
}

/// `plan` in as few fragments as it can have, each of which runs as one task: what several places share, and the rest.
pub(crate) fn cut_shared(plan: &Arc<dyn ExecutionPlan>) -> Result<Vec<Fragment>> {
    let mut fragments = Vec::new();
    let estimator = Estimator::new();
    let fragment = |plan: &Arc<dyn ExecutionPlan>| Fragment {
        plan: Arc::clone(plan),
        partition_safety: PartitionSafety::OneTask,
        output: Output::Identity,
        output_bytes: estimator.bytes(plan),
    };
    let mut parts = SharedParts::default();
    // Upwards: a part may hold other parts.
    let rest = Arc::clone(plan).transform_up(|node| {
        let Some((number, part)) = MarkedExec::shared(node.as_ref()) else {
            return Ok(Transformed::no(node));
        };
        if let Some(read) = parts.read(number, part) {
            return Ok(Transformed::yes(read));
        }
        let stage = StageId(u32::try_from(fragments.len()).unwrap_or(u32::MAX));
        fragments.push(fragment(part));
        Ok(Transformed::yes(parts.add(number, part, read_whole(stage, part))))
    });
    fragments.push(fragment(&rest.data()?));
    Ok(fragments)
}

/// The shared parts that were cut, by their numbers.
#[derive(Default)]
struct SharedParts(HashMap<usize, SharedPart>);

struct SharedPart {
    plan: Arc<dyn ExecutionPlan>,
    read: Arc<dyn ExecutionPlan>,
}

impl SharedParts {
    /// What reads the stage of the part with this number, if that was cut before and computes the same as `plan`.
    fn read(&self, number: usize, plan: &Arc<dyn ExecutionPlan>) -> Option<Arc<dyn ExecutionPlan>> {
        let text = |plan: &Arc<dyn ExecutionPlan>| displayable(plan.as_ref()).indent(true).to_string();
        let part = self.0.get(&number)?;
        (text(&part.plan) == text(plan)).then(|| Arc::clone(&part.read))
    }

    /// Remembers what reads the stage of `plan`, and gives it back.
    fn add(
        &mut self,
        number: usize,
        plan: &Arc<dyn ExecutionPlan>,
        read: Arc<dyn ExecutionPlan>,
    ) -> Arc<dyn ExecutionPlan> {
        let part = SharedPart {
            plan: Arc::clone(plan),
            read: Arc::clone(&read),
        };
        self.0.insert(number, part);
        read
    }
}

/// Reads all partitions of a fragment that ends with `plan`, one stream for each.
fn read_whole(stage: StageId, plan: &Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    Arc::new(ShuffleReadExec::new(
        stage,
        plan.schema(),
        Partitioning::UnknownPartitioning(plan.output_partitioning().partition_count()),
        plan.output_ordering().cloned(),
    ))
}

/// A fragment whose root is not reached yet.
struct OpenFragment {
    plan: Arc<dyn ExecutionPlan>,
    partition_safety: PartitionSafety,
}

/// The scalar subqueries that expressions of the current plan level may refer to.
#[derive(Clone)]
struct Subqueries {
    links: Vec<ScalarSubqueryLink>,
    results: ScalarSubqueryResults,
}

struct Cutter {
    fragments: Vec<Fragment>,
    shared: SharedParts,
    subqueries: Option<Subqueries>,
    estimator: Estimator,
}

impl Cutter {
    fn cut(&mut self, node: &Arc<dyn ExecutionPlan>) -> Result<OpenFragment> {
        if let Some(repartition) = node.downcast_ref::<RepartitionExec>() {
            return self.cut_repartition(node, repartition);
        }
        if self.fragments.len() > MAX_FRAGMENTS {
            return keep_whole(node);
        }
        if let Some((number, part)) = MarkedExec::shared(node.as_ref()) {
            return self.cut_shared(number, part);
        }
        if partition_safety(node.as_ref()) == PartitionSafety::Opaque {
            return keep_whole(node);
        }
        if node.is::<CoalescePartitionsExec>() || node.is::<SortPreservingMergeExec>() {
            return self.cut_gather(node);
        }
        if let Some(subquery) = node.downcast_ref::<ScalarSubqueryExec>() {
            return self.cut_subquery(subquery);
        }
        self.cut_children(node)
    }

    fn cut_repartition(
        &mut self,
        node: &Arc<dyn ExecutionPlan>,
        repartition: &RepartitionExec,
    ) -> Result<OpenFragment> {
        let input = repartition.input();
        match repartition.partitioning() {
            Partitioning::RoundRobinBatch(_) => self.cut(input),
            Partitioning::Hash(exprs, _) => {
                let child = self.cut(input)?;
                let one_stream = child.plan.output_partitioning().partition_count() == 1;
                let stage = self.close(child, Output::Hash(exprs.clone()), node)?;
                let ordering = node.output_ordering().cloned();
                // A single producer partition keeps its order through the shuffle, several do not.
                let kept_ordering = ordering.clone().filter(|_| one_stream);
                let read: Arc<dyn ExecutionPlan> = Arc::new(ShuffleReadExec::new(
                    stage,
                    node.schema(),
                    repartition.partitioning().clone(),
                    kept_ordering,
                ));
                let plan = match ordering {
                    Some(ordering) if !one_stream => {
                        Arc::new(SortExec::new(ordering, read).with_preserve_partitioning(true))
                    }
                    Some(_) | None => read,
                };
                Ok(OpenFragment {
                    plan,
                    partition_safety: PartitionSafety::Independent,
                })
            }
            Partitioning::Range(_) | Partitioning::UnknownPartitioning(_) => keep_whole(node),
        }
    }

    /// Makes a shared part a stage when it is met first; every place gets its own reader of that stage.
    fn cut_shared(&mut self, number: usize, part: &Arc<dyn ExecutionPlan>) -> Result<OpenFragment> {
        let plan = match self.shared.read(number, part) {
            Some(read) => read,
            None => {
                let open = self.cut(part)?;
                let read = self.close_and_read(open, part)?;
                self.shared.add(number, part, read)
            }
        };
        Ok(OpenFragment {
            plan,
            partition_safety: PartitionSafety::Independent,
        })
    }

    /// Cuts below a node that gathers all partitions, and so runs in one task, while its input may run in many.
    fn cut_gather(&mut self, node: &Arc<dyn ExecutionPlan>) -> Result<OpenFragment> {
        let child = Arc::clone(node.children()[0]);
        let open = self.cut(&child)?;
        if open.partition_safety == PartitionSafety::Opaque {
            return Ok(OpenFragment {
                plan: rebuild(node, vec![open.plan])?,
                partition_safety: PartitionSafety::Opaque,
            });
        }
        let read = self.close_and_read(open, &child)?;
        Ok(OpenFragment {
            plan: rebuild(node, vec![read])?,
            partition_safety: PartitionSafety::OneTask,
        })
    }

    fn cut_children(&mut self, node: &Arc<dyn ExecutionPlan>) -> Result<OpenFragment> {
        let own = partition_safety(node.as_ref());
        let mut verdict = own;
        let mut children = Vec::new();
        let shares = child_shares(node.as_ref());
        for (child, share) in node.children().into_iter().zip(shares) {
            let open = self.cut(child)?;
            let whole_for_each = own == PartitionSafety::Independent && share == ChildShare::Whole;
            let lone_branch = node.is::<UnionExec>() && open.partition_safety != PartitionSafety::Independent;
            if whole_for_each && is_broadcast(open.plan.as_ref()) {
                children.push(open.plan);
            } else if whole_for_each || lone_branch {
                children.push(self.close_and_read(open, child)?);
            } else {
                verdict = verdict.max(open.partition_safety);
                children.push(open.plan);
            }
        }
        Ok(OpenFragment {
            plan: rebuild(node, children)?,
            partition_safety: verdict,
        })
    }

    /// Makes each subquery a stage; every fragment of the input that refers to one gets its own reader of that stage.
    fn cut_subquery(&mut self, node: &ScalarSubqueryExec) -> Result<OpenFragment> {
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
        let plan = self.attach_subqueries(open.plan)?;
        self.subqueries = outer;
        Ok(OpenFragment {
            plan,
            partition_safety: open.partition_safety,
        })
    }

    fn attach_subqueries(&self, plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        match &self.subqueries {
            Some(subqueries) if refers_to_subquery(&plan)? => Ok(Arc::new(ScalarSubqueryExec::new(
                plan,
                subqueries.links.clone(),
                subqueries.results.clone(),
            ))),
            Some(_) | None => Ok(plan),
        }
    }

    /// Completes a fragment. `original` is the uncut plan, which still has its statistics.
    fn close(&mut self, open: OpenFragment, output: Output, original: &Arc<dyn ExecutionPlan>) -> Result<StageId> {
        let plan = self.attach_subqueries(open.plan)?;
        let id = StageId(u32::try_from(self.fragments.len()).unwrap_or(u32::MAX));
        self.fragments.push(Fragment {
            plan,
            partition_safety: open.partition_safety,
            output,
            output_bytes: self.estimator.bytes(original),
        });
        Ok(id)
    }

    fn close_and_read(
        &mut self,
        open: OpenFragment,
        original: &Arc<dyn ExecutionPlan>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = Arc::clone(&open.plan);
        let stage = self.close(open, Output::Identity, original)?;
        Ok(read_whole(stage, &plan))
    }
}

/// All of `node` in one task, which computes the shared parts in it itself.
fn keep_whole(node: &Arc<dyn ExecutionPlan>) -> Result<OpenFragment> {
    let without_marks = Arc::clone(node).transform_up(|node| {
        Ok(match MarkedExec::shared(node.as_ref()) {
            Some((_, part)) => Transformed::yes(Arc::clone(part)),
            None => Transformed::no(node),
        })
    });
    Ok(OpenFragment {
        plan: without_marks.data()?,
        partition_safety: PartitionSafety::Opaque,
    })
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

/// Whether `plan` only reads another stage and at most coalesces it. Every task may repeat that; anything more is
/// computed once, in a stage.
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
