//! The plan node that reads another stage's output.
//!
//! Its partition `p` reads partition `p` of every attempt that has rows of it: attempts of this process straight from
//! the store, batch by batch, and other attempts through one Flight stream per address, which all partitions of the
//! node share.

mod demux;
mod stream;

pub use stream::FETCHED_BYTES;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_datafusion_err, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, LexOrdering, Partitioning, PhysicalExpr};
use datafusion::physical_plan::coop::cooperative;
use datafusion::physical_plan::execution_plan::{
    Boundedness, ChildrenPropertiesMode, EmissionType, ReplaceChildrenOptions, SchedulingType, apply_expression_roots,
};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use squadron_proto::control::{Producer, StageInput};
use squadron_proto::ticket::{Fetch, FetchOutput};
use squadron_proto::{AttemptKey, StageId};

use crate::context::AttemptContext;
use crate::failure::into_datafusion;
use demux::{Demux, RemotePartition, Source};
use stream::PartitionStream;

/// Reads some partitions of another stage's output.
#[derive(Debug)]
pub struct ShuffleReadExec {
    stage: StageId,
    partitions: Vec<u32>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
    remote: Mutex<Remote>,
}

/// The Flight streams that the partitions of this instance share.
#[derive(Debug, Default)]
struct Remote {
    /// Partitions that were executed. A partition that is executed again gets streams of its own.
    executed: BTreeSet<u32>,
    /// Dropped with the stream of the last partition.
    shared: Weak<Demux>,
}

impl ShuffleReadExec {
    /// Reads all partitions of `stage`, whose rows have `schema` and are partitioned by `partitioning`. `ordering` is
    /// that of the rows of each partition; only an output with one producer per partition has one.
    pub fn new(stage: StageId, schema: SchemaRef, partitioning: Partitioning, ordering: Option<LexOrdering>) -> Self {
        let partitions = (0..).take(partitioning.partition_count()).collect();
        Self::for_partitions(stage, partitions, schema, partitioning, ordering)
    }

    /// As [`ShuffleReadExec::new`], for some partitions of the stage, which `partitioning` counts.
    pub(crate) fn for_partitions(
        stage: StageId,
        partitions: Vec<u32>,
        schema: SchemaRef,
        partitioning: Partitioning,
        ordering: Option<LexOrdering>,
    ) -> Self {
        let equivalence = EquivalenceProperties::new_with_orderings(schema, ordering);
        Self::with_properties(stage, partitions, equivalence, partitioning)
    }

    fn with_properties(
        stage: StageId,
        partitions: Vec<u32>,
        equivalence: EquivalenceProperties,
        partitioning: Partitioning,
    ) -> Self {
        let properties = PlanProperties::new(
            equivalence,
            partitioning,
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        .with_scheduling_type(SchedulingType::Cooperative);
        Self {
            stage,
            partitions,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
            remote: Mutex::default(),
        }
    }

    /// The stage that this node reads.
    pub fn stage(&self) -> StageId {
        self.stage
    }

    /// Local partition to partition of the stage.
    pub fn partitions(&self) -> &[u32] {
        &self.partitions
    }

    /// The same node for these partitions of the stage only, in this order.
    ///
    /// # Errors
    /// When this node does not read one of them.
    pub fn with_partitions(&self, partitions: Vec<u32>) -> Result<Self> {
        if let Some(unknown) = partitions.iter().find(|p| !self.partitions.contains(p)) {
            return internal_err!("{} does not read partition {unknown}", self.name());
        }
        let partitioning = match self.output_partitioning() {
            Partitioning::Hash(exprs, _) => Partitioning::Hash(exprs.clone(), partitions.len()),
            _ => Partitioning::UnknownPartitioning(partitions.len()),
        };
        let equivalence = self.properties.equivalence_properties().clone();
        Ok(Self::with_properties(self.stage, partitions, equivalence, partitioning))
    }

    fn output_partitioning(&self) -> &Partitioning {
        self.properties.output_partitioning()
    }

    /// The producers that have rows of `partition`: those of this process, then the others.
    fn producers<'a>(
        &self,
        attempt: &AttemptContext,
        input: &'a StageInput,
        partition: u32,
    ) -> Result<(Vec<AttemptKey>, Vec<&'a Producer>)> {
        let holds = |producer: &&Producer| producer.partitions.contains(&partition);
        let (mut local, mut remote) = (Vec::new(), Vec::new());
        for producer in input.producers.iter().filter(holds) {
            let key = self.output_of(attempt, producer);
            if attempt.store.contains(key) {
                local.push(key);
            } else {
                remote.push(producer);
            }
        }
        if self.properties.output_ordering().is_some() && local.len() + remote.len() > 1 {
            return internal_err!(
                "partition {partition} of stage {} is said to be ordered but has several producers",
                self.stage
            );
        }
        Ok((local, remote))
    }

    fn output_of(&self, attempt: &AttemptContext, producer: &Producer) -> AttemptKey {
        AttemptKey {
            query: attempt.key.query,
            stage: self.stage,
            task: producer.task,
            attempt: producer.attempt,
        }
    }

    /// The rows of `partition` from other processes.
    fn remote_partition(
        &self,
        attempt: &AttemptContext,
        input: &StageInput,
        partition: u32,
    ) -> Result<RemotePartition> {
        let mut remote = self.remote.lock().unwrap_or_else(PoisonError::into_inner);
        let first_time = remote.executed.insert(partition);
        if let Some(shared) = remote.shared.upgrade().filter(|_| first_time) {
            return Ok(RemotePartition::new(shared, partition));
        }
        let wanted = if first_time {
            let mut wanted: BTreeSet<_> = self.partitions.iter().copied().collect();
            wanted.retain(|other| *other == partition || !remote.executed.contains(other));
            wanted
        } else {
            BTreeSet::from([partition])
        };
        let sources = self.sources(attempt, input, &wanted)?;
        let schema = self.schema();
        let demux = Arc::new(Demux::new(&attempt.fetcher, &attempt.store, schema, sources));
        if first_time {
            remote.shared = Arc::downgrade(&demux);
        }
        Ok(RemotePartition::new(demux, partition))
    }

    /// One stream per address, for all partitions in `wanted`.
    fn sources(&self, attempt: &AttemptContext, input: &StageInput, wanted: &BTreeSet<u32>) -> Result<Vec<Source>> {
        let mut outputs = BTreeMap::<(String, _, _), Vec<u32>>::new();
        for partition in wanted {
            for producer in self.producers(attempt, input, *partition)?.1 {
                let output = (producer.address.clone(), producer.task, producer.attempt);
                outputs.entry(output).or_default().push(*partition);
            }
        }
        let mut sources = BTreeMap::<String, Fetch>::new();
        for ((address, task, number), partitions) in outputs {
            let fetch = sources.entry(address).or_insert_with(|| Fetch {
                query: attempt.key.query,
                stage: self.stage,
                outputs: Vec::new(),
            });
            fetch.outputs.push(FetchOutput {
                task,
                attempt: number,
                partitions,
            });
        }
        let sources = sources.into_iter();
        Ok(sources.map(|(address, fetch)| Source { address, fetch }).collect())
    }
}

impl DisplayAs for ShuffleReadExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let partitions = self.partitions.len();
        match format {
            DisplayFormatType::Default | DisplayFormatType::Verbose => {
                write!(f, "ShuffleRead: stage={}, partitions={partitions}", self.stage)?;
                if let Some(ordering) = self.properties.output_ordering() {
                    write!(f, ", ordering=[{ordering}]")?;
                }
                Ok(())
            }
            DisplayFormatType::TreeRender => {
                write!(f, "stage={}\npartitions={partitions}", self.stage)
            }
        }
    }
}

impl ExecutionPlan for ShuffleReadExec {
    fn name(&self) -> &'static str {
        "ShuffleReadExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        match self.output_partitioning() {
            Partitioning::Hash(exprs, _) => apply_expression_roots(exprs, f),
            _ => Ok(TreeNodeRecursion::Continue),
        }
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if children.is_empty() {
            Ok(self)
        } else {
            internal_err!("{} is a leaf", self.name())
        }
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep);
        self.replace_children(children, options)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let attempt = AttemptContext::of(&context)?;
        let input = attempt
            .inputs
            .get(&self.stage)
            .ok_or_else(|| internal_datafusion_err!("attempt {} has no input {}", attempt.key, self.stage))?;
        let number = *self
            .partitions
            .get(partition)
            .ok_or_else(|| internal_datafusion_err!("{} has no partition {partition}", self.name()))?;
        let (local, remote) = self.producers(&attempt, input, number)?;
        let readers = local
            .into_iter()
            .map(|key| attempt.store.read(key, number).map_err(into_datafusion))
            .collect::<Result<_>>()?;
        let remote = if remote.is_empty() {
            None
        } else {
            Some(self.remote_partition(&attempt, input, number)?)
        };
        let stream = PartitionStream::new(self.schema(), readers, remote, &self.metrics, partition);
        Ok(Box::pin(cooperative(stream)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}
