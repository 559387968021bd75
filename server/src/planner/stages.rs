//! Turns sized fragments into numbered stages, and stages into the graph that the scheduler and the workers run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SessionState, TaskContext};
use datafusion::logical_expr::TableScan;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use squadron_proto::control::{ObjectStoreSpec, PlanRef, ScanSplits};
use squadron_proto::{Failure, FailureKind, MAX_CONTROL_MESSAGE_BYTES, QueryId, StageId};
use squadron_scheduler::{OutputPartitions, Placement, QueryOptions, StageGraph, StageSpec, TaskSpec};
use squadron_shuffle::failure;
use squadron_shuffle::fragment::determinism::{Determinism, FIXED_FILES, determinism};
use squadron_shuffle::fragment::{self, InProcessPlan, lossy};
use squadron_shuffle::{ShuffleReadExec, ShuffleWriteExec, WriteFilesExec, WritePartitioning};

use super::cut::Output;
use super::estimate::scans;
use super::files::{FileVersion, files, sorted};
use super::optimizer::Expected;
use super::size::{SizedFragment, map_reads, reads};

/// The largest stage plan that is sent, in bytes: a control message, less the other fields of the message.
const MAX_PLAN_BYTES: usize = MAX_CONTROL_MESSAGE_BYTES - 1024 * 1024;

/// A query as a tree of stages, for one execution: its operators hold state.
#[derive(Clone, Debug)]
pub struct StagedPlan {
    /// Producers before their readers; the last one is the root.
    pub stages: Vec<PlannedStage>,
    /// What the optimizer changed, a line each.
    pub changes: Vec<String>,
    /// What it expected of joins and groups.
    pub(super) expected: Vec<Expected>,
    /// The scans of the logical plan that it came to.
    pub(crate) scans: Vec<TableScan>,
}

/// One stage.
#[derive(Clone, Debug)]
pub struct PlannedStage {
    /// Its number, which is its index in the list.
    pub id: StageId,
    /// What it runs, without the shuffle write on top.
    pub plan: Arc<dyn ExecutionPlan>,
    /// The stages it reads.
    pub inputs: Vec<StageId>,
    /// The partitions of each task; a task with an empty list runs all partitions.
    pub tasks: Vec<Vec<u32>>,
    /// How its rows are laid out for the reader.
    pub(crate) output: Output,
    /// In how many partitions.
    pub output_partitions: usize,
    /// Estimated bytes that go in.
    pub bytes: u64,
}

/// What a stage graph needs to know beside the plan.
#[derive(Debug)]
pub struct GraphContext {
    /// The query's id.
    pub query: QueryId,
    /// The schema that the server announced to the client.
    pub schema: SchemaRef,
    /// Settings that differ from DataFusion's defaults.
    pub settings: Vec<(String, String)>,
    /// The object stores that the plan may read.
    pub stores: Vec<ObjectStoreSpec>,
    /// Knows the functions and object stores, for test-decoding.
    pub state: Arc<SessionState>,
    /// Made from `state` when the first plan is decoded, since it copies all functions.
    pub task_context: OnceLock<Arc<TaskContext>>,
    /// Whether the result is retained where it is written, instead of streamed to one reader.
    pub keep_result: bool,
    /// Whether only workers of this process run the plan, so that it need not be encoded.
    pub in_process: bool,
}

impl GraphContext {
    fn task_context(&self) -> &Arc<TaskContext> {
        self.task_context.get_or_init(|| self.state.task_ctx())
    }
}

/// Numbers the fragments that were not merged, in order.
pub(super) fn assemble(sized: Vec<Option<SizedFragment>>) -> Result<StagedPlan> {
    let mut numbers = BTreeMap::new();
    let mut stages: Vec<PlannedStage> = Vec::new();
    for (index, stage) in sized.into_iter().enumerate() {
        let Some(stage) = stage else { continue };
        let id = StageId(u32::try_from(stages.len()).unwrap_or(u32::MAX));
        numbers.insert(index, id);
        let plan = renumber(&stage.plan, &numbers)?;
        let mut inputs: Vec<StageId> = reads(plan.as_ref()).into_iter().map(ShuffleReadExec::stage).collect();
        inputs.sort_unstable();
        inputs.dedup();
        stages.push(PlannedStage {
            id,
            plan,
            inputs,
            tasks: stage.tasks,
            output: stage.output,
            output_partitions: stage.output_partitions,
            bytes: stage.bytes,
        });
    }
    Ok(StagedPlan {
        stages,
        changes: Vec::new(),
        expected: Vec::new(),
        scans: Vec::new(),
    })
}

fn renumber(plan: &Arc<dyn ExecutionPlan>, numbers: &BTreeMap<usize, StageId>) -> Result<Arc<dyn ExecutionPlan>> {
    map_reads(plan, &mut |read| {
        let stage = numbers
            .get(&(read.stage().0 as usize))
            .ok_or_else(|| DataFusionError::Internal(format!("nothing produces stage {}", read.stage())))?;
        Ok(Arc::new(ShuffleReadExec::new(
            *stage,
            read.schema(),
            read.properties().output_partitioning().clone(),
            read.properties().output_ordering().cloned(),
        )))
    })
}

impl StagedPlan {
    /// The object stores that the plan reads and writes, by their URLs.
    pub fn store_urls(&self) -> BTreeSet<String> {
        let plans = || self.stages.iter().map(|stage| stage.plan.as_ref());
        let read = plans()
            .flat_map(scans)
            .map(|scan| scan.object_store_url.as_str().to_owned());
        let written = plans().flat_map(written_stores);
        read.chain(written).collect()
    }

    /// The files that the stages read, each once, in order.
    pub(crate) fn files(&self) -> Vec<FileVersion> {
        let plans = self.stages.iter().map(|stage| stage.plan.as_ref());
        sorted(plans.flat_map(files).collect())
    }

    /// The graph that the scheduler runs.
    ///
    /// # Errors
    /// When a plan cannot be rebuilt without its files.
    pub fn graph(&self, context: &GraphContext) -> Result<StageGraph> {
        let root = StageId(u32::try_from(self.stages.len() - 1).unwrap_or(u32::MAX));
        let stages = self
            .stages
            .iter()
            .map(|stage| stage.spec(stage.id == root, context))
            .collect::<Result<_>>()?;
        Ok(StageGraph {
            query: context.query,
            stages,
            root,
            options: QueryOptions::default(),
        })
    }
}

/// The stores that `plan` writes files to.
fn written_stores(plan: &dyn ExecutionPlan) -> Vec<String> {
    let write = plan.downcast_ref::<WriteFilesExec>();
    let mut found: Vec<_> = write
        .map(|write| write.target().store.as_str().to_owned())
        .into_iter()
        .collect();
    for child in plan.children() {
        found.extend(written_stores(child.as_ref()));
    }
    found
}

/// A stage plan and its tasks.
struct Dispatch {
    plan: PlanRef,
    placement: Placement,
    tasks: Vec<TaskSpec>,
}

impl PlannedStage {
    fn spec(&self, is_root: bool, context: &GraphContext) -> Result<StageSpec> {
        let schema = if is_root {
            Arc::clone(&context.schema)
        } else {
            self.plan.schema()
        };
        let write: Arc<dyn ExecutionPlan> = Arc::new(ShuffleWriteExec::new(
            Arc::clone(&self.plan),
            self.write_partitioning(),
            schema,
        ));
        let dispatch = self.dispatch(&write, context)?;
        let determinism = determinism(write.as_ref());
        let mut settings = context.settings.clone();
        if determinism == Determinism::WithFixedFiles {
            let (key, value) = FIXED_FILES;
            settings.push((key.to_owned(), value.to_owned()));
        }
        let partitions = u32::try_from(self.output_partitions).unwrap_or(u32::MAX);
        Ok(StageSpec {
            id: self.id,
            inputs: self.inputs.clone(),
            tasks: dispatch.tasks,
            plan: dispatch.plan,
            settings,
            stores: context.stores.clone(),
            placement: dispatch.placement,
            streamed: is_root && !context.keep_result,
            output_partitions: match self.output {
                Output::Hash(_) => OutputPartitions::Hash(partitions),
                Output::Identity => OutputPartitions::Identity(partitions),
            },
            is_determinate: determinism != Determinism::Indeterminate,
        })
    }

    fn write_partitioning(&self) -> WritePartitioning {
        match &self.output {
            Output::Identity => WritePartitioning::Identity,
            Output::Hash(exprs) => WritePartitioning::Hash {
                exprs: exprs.clone(),
                partitions: self.output_partitions,
            },
        }
    }

    /// Encodes the plan for any worker. A plan that would lose meaning in its encoding stays in this process as one
    /// task, whatever its size.
    fn dispatch(&self, write: &Arc<dyn ExecutionPlan>, context: &GraphContext) -> Result<Dispatch> {
        let sendable = lossy::reason(write.as_ref()).is_none();
        if sendable && context.in_process && self.tasks.len() == 1 {
            return Ok(self.in_process(write, Placement::Any));
        }
        if sendable {
            let stripped = fragment::strip_scans(write, &self.tasks)?;
            if let Some(bytes) = encode_within(stripped.plan, context.task_context(), MAX_PLAN_BYTES)? {
                return Ok(Dispatch {
                    plan: PlanRef::Encoded(bytes),
                    placement: Placement::Any,
                    tasks: self.task_specs(stripped.splits),
                });
            }
        }
        Ok(self.in_process(write, Placement::Local))
    }

    fn in_process(&self, write: &Arc<dyn ExecutionPlan>, placement: Placement) -> Dispatch {
        Dispatch {
            plan: PlanRef::InProcess(Arc::new(InProcessPlan(Arc::clone(write)))),
            placement,
            tasks: vec![TaskSpec {
                partitions: Vec::new(),
                scans: Vec::new(),
                slots: self.slots(0),
                bytes: self.bytes,
            }],
        }
    }

    fn task_specs(&self, scans: Vec<Vec<ScanSplits>>) -> Vec<TaskSpec> {
        let share = self.bytes / (self.tasks.len().max(1) as u64);
        self.tasks
            .iter()
            .zip(scans)
            .map(|(partitions, scans)| TaskSpec {
                partitions: partitions.clone(),
                scans,
                slots: self.slots(partitions.len()),
                bytes: share,
            })
            .collect()
    }

    /// One slot for each partition that runs; 0 stands for all partitions of the plan.
    fn slots(&self, partitions: usize) -> u32 {
        let partitions = if partitions == 0 {
            self.plan.output_partitioning().partition_count()
        } else {
            partitions
        };
        u32::try_from(partitions.max(1)).unwrap_or(u32::MAX)
    }
}

/// Encodes a plan; `None` where it has no encoding that can be decoded again.
///
/// # Errors
/// `Exhausted` when the encoding is larger than `limit` bytes.
fn encode_within(plan: Arc<dyn ExecutionPlan>, context: &TaskContext, limit: usize) -> Result<Option<bytes::Bytes>> {
    let Ok(bytes) = fragment::encode(plan) else {
        return Ok(None);
    };
    if bytes.len() > limit {
        let megabytes = |bytes: usize| bytes.div_ceil(1024 * 1024);
        return Err(failure::into_datafusion(Failure::new(
            FailureKind::Exhausted,
            format!(
                "the plan of the statement takes {} MiB, above the limit of {} MiB; bring long lists and literals as a \
                 table and join it",
                megabytes(bytes.len()),
                megabytes(limit)
            ),
        )));
    }
    match fragment::decode(&bytes, context) {
        Ok(_) => Ok(Some(bytes)),
        Err(error) => {
            tracing::debug!(%error, "a stage plan cannot be decoded again and stays on the server");
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::Schema;
    use datafusion::physical_plan::empty::EmptyExec;

    use super::*;

    #[test]
    fn plan_above_limit_is_refused() {
        let plan = || Arc::new(EmptyExec::new(Arc::new(Schema::empty()))) as Arc<dyn ExecutionPlan>;
        let context = TaskContext::default();
        let bytes = encode_within(plan(), &context, MAX_PLAN_BYTES).unwrap().unwrap();
        assert!(encode_within(plan(), &context, bytes.len()).unwrap().is_some());
        let refused = failure::of(&encode_within(plan(), &context, bytes.len() - 1).unwrap_err());
        assert_eq!(refused.kind, FailureKind::Exhausted);
        assert!(refused.message.contains("above the limit"), "{refused}");
    }
}
