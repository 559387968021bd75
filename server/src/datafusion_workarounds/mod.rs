//! Rules that mend DataFusion 55.2's plans, until a release makes them unnecessary.
//!
//! | rule | on | what it mends |
//! |---|---|---|
//! | `named_casts` | SQL as it was read | casts that are parts of names |
//! | `subqueries`, `unnest` | the same | subqueries in any place, of any shape, with three-valued logic |
//! | `set_operations` | the same | `INTERSECT ALL`, `EXCEPT ALL` |
//! | `conditions` | the same | conditions that the simplifier changes |
//! | `dates` | the same | times of `DATE - INTERVAL '1 hour'`, comparisons with years such as 9999 |
//! | `doubles` | the same | doubles beside decimals |
//! | `order_by` | the same | names within expressions of ORDER BY |
//! | `keys` | the same | declared keys, which nothing checks |
//! | `balance` | the same | long chains of AND and OR |
//! | `arithmetic` | plans with types | overflow |
//! | `windows` | the same | frames of narrow keys |
//! | `floats` | the same | -0.0 and NaN as keys, and within arrays and structs |
//! | `intervals` | the same | groups of intervals |
//! | `hidden_values` | the same | values under NULL |
//! | `zones` | the same | casts between local times and instants |
//! | `ranges` | the same | times and decimals out of range |
//! | `values` | the same | casts to integers and other values that differ |
//! | `grouping_sets` | the same | keys of grouping sets that seem constant |
//! | `opaque` | the same | casts that are taken off, differences of dates |
//! | `never` | plans that are optimized | conditions without columns above aggregates |
//! | `guards` | plans that were optimized | conditions that fail on rows which another one excludes |
//! | `patterns` | the same | `LIKE` with several texts, compiled for each batch |
//! | `filter_pushdown`, `filter_first` | physical plans | filters that move to other columns, and below what may fail |
//! | `plan_marks` | the same | sides of joins, which are chosen without the optimizer's estimates |
//! | `lost_orders` | the same | orders that a union loses |
//! | `statistics` | the same | aggregates that statistics answer for another one |
//! | `nan_pruning` | the same | row groups with NaN |
//! | `SeparateLimitFromSort`, `OneProbePartition` | the same | below |
//!
//! A nested loop join that runs out of memory reads its build side again for each probe partition, and then each of
//! them emits unmatched build rows by itself (apache/datafusion#22641, #24675). With one probe partition the result is
//! right.
//!
//! `EnsureRequirements` of 55.2 moves a sort below a node that keeps its order, and moves the sort's fetch with it,
//! even where that node changes the number of rows (apache/datafusion#24927):
//! `SELECT DISTINCT x ... ORDER BY x LIMIT 3` then keeps 3 rows before it looks for duplicates. A fetch in a limit node
//! of its own is not moved, and a later rule puts it back into the sort where that is safe.

pub(crate) mod arithmetic;
pub(crate) mod balance;
mod conditions;
mod dates;
mod doubles;
mod filter_first;
mod filter_pushdown;
mod floats;
mod grouping_sets;
pub(crate) mod guards;
mod hidden_values;
mod intervals;
mod keys;
mod lost_orders;
mod named_casts;
mod nan_pruning;
pub(crate) mod never;
mod opaque;
mod order_by;
pub(crate) mod patterns;
mod ranges;
mod set_operations;
mod statistics;
mod subqueries;
mod unnest;
mod values;
mod windows;
mod zones;

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::optimizer::{Analyzer, AnalyzerRule};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::execution_plan::CardinalityEffect;
use datafusion::physical_plan::joins::NestedLoopJoinExec;
use datafusion::physical_plan::limit::GlobalLimitExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, ExecutionPlan, ExecutionPlanProperties, ReplaceChildrenOptions,
};
use squadron_shuffle::fragment::partition_safety::build_side_is_read_only;

use crate::plan_marks::ForgetEstimates;

/// A rule of the physical optimizer, as sessions take it.
pub type Rule = Arc<dyn PhysicalOptimizerRule + Send + Sync>;

/// DataFusion's analyzer, with the workarounds before the first rule.
pub(crate) fn analyzer_rules() -> Vec<Arc<dyn AnalyzerRule + Send + Sync>> {
    // These read what the SQL says, before the types of its parts are known.
    let mut rules: Vec<Arc<dyn AnalyzerRule + Send + Sync>> = vec![
        Arc::new(named_casts::KeepNamesOfCasts),
        Arc::new(subqueries::RewriteSubqueries::default()),
        Arc::new(set_operations::CountEqualRows),
        Arc::new(conditions::KeepConditions),
        Arc::new(dates::TimesOfDates),
        Arc::new(doubles::DoublesBesideDecimals),
        Arc::new(keys::DistrustKeys),
        Arc::new(order_by::OrderByColumns),
        Arc::new(windows::TimesAsTimestamps),
        Arc::new(balance::BalanceChains),
    ];
    rules.extend(Analyzer::new().rules);
    // These read the types that DataFusion's rules found.
    rules.push(Arc::new(windows::WidenFrames));
    rules.push(Arc::new(floats::CanonicalFloats::default()));
    rules.push(Arc::new(hidden_values::RemoveHiddenValues));
    rules.push(Arc::new(intervals::GroupIntervals));
    rules.push(Arc::new(zones::CastInZone));
    rules.push(Arc::new(ranges::CheckRanges));
    rules.push(Arc::new(values::ComputeValues));
    rules.push(Arc::new(grouping_sets::TieGroupingSets));
    rules.push(Arc::new(opaque::HideFromRules));
    rules
}

/// DataFusion's rules with the workarounds inserted.
pub fn physical_rules() -> Vec<Rule> {
    let mut rules = PhysicalOptimizer::new().rules;
    for rule in &mut rules {
        let inner = Arc::clone(rule);
        if rule.name().starts_with("FilterPushdown") {
            *rule = Arc::new(filter_pushdown::PushDownByUniqueNames { inner });
        } else if rule.name() == "aggregate_statistics" {
            *rule = Arc::new(statistics::AnswerFromStatistics { inner });
        } else if rule.name() == "ProjectionPushdown" {
            *rule = Arc::new(filter_first::ComputeAboveFilters { inner });
        }
    }
    let place = rules
        .iter()
        .position(|rule| rule.name() == "EnsureRequirements")
        .unwrap_or(0);
    rules.insert(place, Arc::new(SeparateLimitFromSort));
    let sides_chosen = rules.iter().position(|rule| rule.name() == "join_selection");
    rules.insert(sides_chosen.map_or(0, |rule| rule + 1), Arc::new(ForgetEstimates));
    let last = rules.len().saturating_sub(1);
    rules.insert(last, Arc::new(OneProbePartition));
    rules.insert(last, Arc::new(nan_pruning::PruneWithoutNan));
    rules.insert(last, Arc::new(lost_orders::SortAgain));
    rules
}

/// Gives a nested loop join that emits build rows a single probe partition.
#[derive(Debug)]
struct OneProbePartition;

impl PhysicalOptimizerRule for OneProbePartition {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            let is_affected = node.downcast_ref::<NestedLoopJoinExec>().is_some_and(|join| {
                !build_side_is_read_only(*join.join_type()) && join.right().output_partitioning().partition_count() > 1
            });
            if !is_affected {
                return Ok(Transformed::no(node));
            }
            let children = node.children();
            let (left, right) = (Arc::clone(children[0]), Arc::clone(children[1]));
            let right = Arc::new(CoalescePartitionsExec::new(right));
            let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
            Ok(Transformed::yes(
                Arc::clone(&node).replace_children(vec![left, right], options)?,
            ))
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "OneProbePartition"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Moves the fetch of a sort into a limit node of its own where `EnsureRequirements` could move it too deep.
#[derive(Debug)]
struct SeparateLimitFromSort;

impl PhysicalOptimizerRule for SeparateLimitFromSort {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            let separate = node
                .downcast_ref::<SortExec>()
                .filter(|sort| !sort.preserve_partitioning())
                .filter(|sort| fetch_could_sink(sort.input()))
                .and_then(|sort| Some((sort.fetch()?, sort.with_fetch(None))));
            Ok(match separate {
                Some((fetch, sort)) => Transformed::yes(Arc::new(GlobalLimitExec::new(Arc::new(sort), 0, Some(fetch)))),
                None => Transformed::no(node),
            })
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "SeparateLimitFromSort"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Whether a node that changes the number of rows stands above ordered rows.
fn fetch_could_sink(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let changes_number = !matches!(plan.cardinality_effect(), CardinalityEffect::Equal);
    plan.children()
        .into_iter()
        .any(|child| (changes_number && has_order_below(child)) || fetch_could_sink(child))
}

fn has_order_below(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.output_ordering().is_some() || plan.children().into_iter().any(has_order_below)
}
