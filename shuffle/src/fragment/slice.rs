//! Cuts an attempt's share out of a stage plan.
//!
//! A share is a list of partitions of the plan. It is passed down to the leaves, where a scan keeps the file groups,
//! and a shuffle read the partitions, that the share needs:
//!
//! ```text
//!   share [2, 3] of  Union            4 partitions: scan A has 0 and 1, scan B has 2 and 3
//!                      scan A   ->  []        (an EmptyExec: no partitions, same schema)
//!                      scan B   ->  [0, 1]
//! ```
//!
//! Rebuilding recomputes every node's properties, so the result is a complete plan that runs all its partitions.

use std::sync::Arc;

use bytes::Bytes;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig, FileScanConfigBuilder};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, ExecutionPlan, ExecutionPlanProperties, ReplaceChildrenOptions,
};
use datafusion_proto::protobuf;
use prost::Message;
use squadron_proto::control::ScanSplits;

use super::partition_safety::{ChildShare, child_shares};
use crate::ShuffleReadExec;
use crate::plan_nodes::file_scan;

/// The part of a node that a task needs.
#[derive(Clone, Debug)]
enum Share {
    Whole,
    Partitions(Vec<u32>),
}

/// The plan of an attempt that runs `partitions` (empty: all) of the stage plan `plan`, with the files of `scans` put
/// back into the stripped scans.
///
/// # Errors
/// When the file groups do not fit the partitions, or a node does not take its new children.
pub fn slice(plan: Arc<dyn ExecutionPlan>, partitions: &[u32], scans: &[ScanSplits]) -> Result<Arc<dyn ExecutionPlan>> {
    if partitions.is_empty() && scans.is_empty() {
        return Ok(plan);
    }
    let share = if partitions.is_empty() {
        Share::Whole
    } else {
        Share::Partitions(partitions.to_vec())
    };
    Slicer {
        next_scan: 0,
        leaf: |scan: u32, config: &FileScanConfig, share: &Share| {
            let given = scans.iter().find(|splits| splits.scan == scan);
            match given {
                Some(splits) => with_groups(config, decode_groups(&splits.file_groups)?),
                None => with_groups(config, pick_groups(config, share)?),
            }
        },
    }
    .slice(plan, &share)
}

/// A stage plan and its files, separated.
#[derive(Clone, Debug)]
pub struct Stripped {
    /// The plan without files; its partition counts are unchanged.
    pub plan: Arc<dyn ExecutionPlan>,
    /// For each task the file groups that its attempts need.
    pub splits: Vec<Vec<ScanSplits>>,
}

/// Takes the files out of all scans of `plan` and distributes them to `tasks`: the partitions of each, empty for all.
///
/// # Errors
/// When a file cannot be encoded.
pub fn strip_scans(plan: &Arc<dyn ExecutionPlan>, tasks: &[Vec<u32>]) -> Result<Stripped> {
    let mut splits = Vec::with_capacity(tasks.len());
    for partitions in tasks {
        splits.push(collect_splits(plan, partitions)?);
    }
    let plan = Slicer {
        next_scan: 0,
        leaf: |_, config: &FileScanConfig, _: &Share| {
            with_groups(config, vec![FileGroup::default(); config.file_groups.len()])
        },
    }
    .slice(Arc::clone(plan), &Share::Whole)?;
    Ok(Stripped { plan, splits })
}

fn collect_splits(plan: &Arc<dyn ExecutionPlan>, partitions: &[u32]) -> Result<Vec<ScanSplits>> {
    let share = if partitions.is_empty() {
        Share::Whole
    } else {
        Share::Partitions(partitions.to_vec())
    };
    let mut splits = Vec::new();
    Slicer {
        next_scan: 0,
        leaf: |scan: u32, config: &FileScanConfig, share: &Share| {
            let groups = pick_groups(config, share)?;
            splits.push(ScanSplits {
                scan,
                file_groups: encode_groups(&groups)?,
            });
            with_groups(config, groups)
        },
    }
    .slice(Arc::clone(plan), &share)?;
    Ok(splits)
}

/// Walks a plan in pre-order and lets `leaf` rebuild each file scan.
struct Slicer<F> {
    next_scan: u32,
    leaf: F,
}

impl<F> Slicer<F>
where
    F: FnMut(u32, &FileScanConfig, &Share) -> Result<Arc<dyn ExecutionPlan>>,
{
    fn slice(&mut self, node: Arc<dyn ExecutionPlan>, share: &Share) -> Result<Arc<dyn ExecutionPlan>> {
        if let Some(config) = file_scan(node.as_ref()) {
            let scan = self.next_scan;
            self.next_scan += 1;
            return (self.leaf)(scan, config, share);
        }
        if node.children().is_empty() {
            return slice_leaf(node, share);
        }
        let shares = shares_of_children(node.as_ref(), share);
        let mut children = Vec::with_capacity(shares.len());
        for (child, share) in node.children().into_iter().zip(&shares) {
            children.push(self.slice_child(Arc::clone(child), share)?);
        }
        node.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    /// Replaces a branch of a union that the share does not need by an empty node; its scans keep their numbers.
    fn slice_child(&mut self, child: Arc<dyn ExecutionPlan>, share: &Share) -> Result<Arc<dyn ExecutionPlan>> {
        match share {
            Share::Partitions(partitions) if partitions.is_empty() => {
                self.next_scan += count_scans(child.as_ref());
                Ok(Arc::new(EmptyExec::new(child.schema()).with_partitions(0)))
            }
            Share::Partitions(_) | Share::Whole => self.slice(child, share),
        }
    }
}

fn slice_leaf(node: Arc<dyn ExecutionPlan>, share: &Share) -> Result<Arc<dyn ExecutionPlan>> {
    let Share::Partitions(partitions) = share else {
        return Ok(node);
    };
    if let Some(read) = node.downcast_ref::<ShuffleReadExec>() {
        return Ok(Arc::new(read.with_partitions(partitions.clone())?));
    }
    if node.is::<EmptyExec>() {
        return Ok(Arc::new(
            EmptyExec::new(node.schema()).with_partitions(partitions.len()),
        ));
    }
    if partitions.len() == node.output_partitioning().partition_count() {
        return Ok(node);
    }
    Err(DataFusionError::Internal(format!(
        "{} cannot run {partitions:?} of its {} partitions",
        node.name(),
        node.output_partitioning().partition_count()
    )))
}

fn shares_of_children(node: &dyn ExecutionPlan, share: &Share) -> Vec<Share> {
    let Share::Partitions(partitions) = share else {
        return vec![Share::Whole; node.children().len()];
    };
    if node.is::<UnionExec>() {
        return union_shares(node, partitions);
    }
    child_shares(node)
        .into_iter()
        .map(|child| match child {
            ChildShare::Whole => Share::Whole,
            ChildShare::Share => share.clone(),
        })
        .collect()
}

/// The partitions of a union are those of its children, one child after the other.
fn union_shares(node: &dyn ExecutionPlan, partitions: &[u32]) -> Vec<Share> {
    let mut first = 0;
    node.children()
        .into_iter()
        .map(|child| {
            let count = u32::try_from(child.output_partitioning().partition_count()).unwrap_or(u32::MAX);
            let own = partitions
                .iter()
                .filter(|partition| (first..first + count).contains(*partition))
                .map(|partition| partition - first)
                .collect();
            first += count;
            Share::Partitions(own)
        })
        .collect()
}

fn count_scans(node: &dyn ExecutionPlan) -> u32 {
    let own = u32::from(file_scan(node).is_some());
    let below: u32 = node
        .children()
        .into_iter()
        .map(|child| count_scans(child.as_ref()))
        .sum();
    own + below
}

fn pick_groups(config: &FileScanConfig, share: &Share) -> Result<Vec<FileGroup>> {
    match share {
        Share::Whole => Ok(config.file_groups.clone()),
        Share::Partitions(partitions) => partitions
            .iter()
            .map(|partition| {
                config.file_groups.get(*partition as usize).cloned().ok_or_else(|| {
                    DataFusionError::Internal(format!(
                        "a scan has {} file groups and no group {partition}",
                        config.file_groups.len()
                    ))
                })
            })
            .collect(),
    }
}

fn with_groups(config: &FileScanConfig, groups: Vec<FileGroup>) -> Result<Arc<dyn ExecutionPlan>> {
    let config = FileScanConfigBuilder::from(config.clone())
        .with_file_groups(groups)
        .build();
    Ok(DataSourceExec::from_data_source(config))
}

fn encode_groups(groups: &[FileGroup]) -> Result<Vec<Bytes>> {
    groups
        .iter()
        .map(|group| Ok(protobuf::FileGroup::try_from(group)?.encode_to_vec().into()))
        .collect()
}

fn decode_groups(groups: &[Bytes]) -> Result<Vec<FileGroup>> {
    groups
        .iter()
        .map(|bytes| {
            let group = protobuf::FileGroup::decode(bytes.as_ref())
                .map_err(|error| DataFusionError::External(Box::new(error)))?;
            FileGroup::try_from(&group)
        })
        .collect()
}
