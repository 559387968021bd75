//! Decides how many partitions an exchange and how many tasks a stage gets, and merges two fragments that would run as
//! one task.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::error::{DataFusionError, Result};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, Partitioning};
use squadron_shuffle::ShuffleReadExec;
use squadron_shuffle::fragment::partition_safety::PartitionSafety;

use super::cut::{Fragment, Output, rebuild};
use super::estimate::read_bytes;

/// The bytes that justify a task and a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeOptions {
    /// Bytes to read that justify one more task.
    pub min_task_bytes: u64,
    /// Bytes that one partition of an exchange should carry.
    pub partition_bytes: u64,
    /// The most partitions of an exchange.
    pub max_partitions: usize,
}

/// The workers a query is planned for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterShape {
    /// How many workers take tasks.
    pub workers: usize,
    /// Their slots, all together.
    pub slots: usize,
}

impl ClusterShape {
    fn slots_per_worker(self) -> usize {
        (self.slots / self.workers.max(1)).max(1)
    }
}

/// A fragment with its partitions and tasks.
#[derive(Clone, Debug)]
pub(crate) struct SizedFragment {
    pub(crate) plan: Arc<dyn ExecutionPlan>,
    pub(crate) output: Output,
    /// Partitions of the output: those of the plan, or those that its reader needs.
    pub(crate) output_partitions: usize,
    /// The partitions of each task; a task with an empty list runs all partitions.
    pub(crate) tasks: Vec<Vec<u32>>,
    /// Estimated bytes that go in.
    pub(crate) bytes: u64,
}

/// The number of partitions of an exchange that carries `bytes`: enough to keep every slot busy and each partition
/// small, but one where the bytes do not justify a second task.
pub(crate) fn exchange_partitions(bytes: u64, shape: ClusterShape, options: &SizeOptions) -> usize {
    if bytes < options.min_task_bytes {
        return 1;
    }
    let wanted = bytes.div_ceil(options.partition_bytes.max(1));
    let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
    let rounds = wanted.div_ceil(shape.slots.max(1));
    let most_rounds = (options.max_partitions / shape.slots.max(1)).max(1);
    shape.slots.max(1) * rounds.clamp(1, most_rounds)
}

/// Bytes of files for each slot that justify one more partition, and the most partitions for each slot, of a plan that runs
/// whole in one process. More partitions than slots keep all slots busy to the end, and each of a larger query's hash tables
/// smaller.
const BYTES_PER_ROUND: u64 = 32 * 1024 * 1024;
const MOST_ROUNDS: u64 = 4;

/// The number of partitions of a plan for one worker that reads so many bytes.
pub(crate) fn whole_partitions(bytes: u64, shape: ClusterShape) -> usize {
    let slots = shape.slots.max(1);
    let per_slot = bytes / u64::try_from(slots).unwrap_or(u64::MAX);
    let rounds = per_slot.div_ceil(BYTES_PER_ROUND).clamp(1, MOST_ROUNDS);
    slots * usize::try_from(rounds).unwrap_or(1)
}

/// Gives every fragment its partitions and tasks. The result has the same order, with `None` for a fragment that was
/// merged into its reader.
pub(crate) fn size(
    fragments: Vec<Fragment>,
    shape: ClusterShape,
    options: &SizeOptions,
) -> Result<Vec<Option<SizedFragment>>> {
    let readers = count_readers(&fragments);
    let output_bytes: Vec<u64> = fragments.iter().map(|f| f.output_bytes).collect();
    let mut sizer = Sizer {
        shape,
        options,
        readers,
        output_bytes,
        done: Vec::with_capacity(fragments.len()),
    };
    for fragment in fragments {
        let sized = sizer.size(fragment)?;
        sizer.done.push(Some(sized));
    }
    Ok(sizer.done)
}

/// Whether everything runs as a single task of a single stage.
pub(crate) fn is_one_task(sized: &[Option<SizedFragment>]) -> bool {
    let mut stages = sized.iter().flatten();
    matches!((stages.next(), stages.next()), (Some(stage), None) if stage.tasks.len() == 1)
}

struct Sizer<'a> {
    shape: ClusterShape,
    options: &'a SizeOptions,
    readers: HashMap<usize, usize>,
    output_bytes: Vec<u64>,
    done: Vec<Option<SizedFragment>>,
}

impl Sizer<'_> {
    fn size(&mut self, fragment: Fragment) -> Result<SizedFragment> {
        let bytes = self.input_bytes(fragment.plan.as_ref());
        let partitions = if reads_hash(fragment.plan.as_ref()) {
            exchange_partitions(bytes, self.shape, self.options)
        } else {
            fragment.plan.output_partitioning().partition_count()
        };
        let justified_tasks = usize::try_from(bytes / self.options.min_task_bytes.max(1)).unwrap_or(usize::MAX);
        let is_single_task =
            fragment.partition_safety != PartitionSafety::Independent || partitions == 1 || justified_tasks < 2;
        let exchange = match (fragment.partition_safety, is_single_task) {
            // The input of an opaque node was not cut, and may hold exchanges that must have as many partitions.
            (PartitionSafety::Opaque, _) => None,
            (_, true) => Some(self.shape.slots_per_worker()),
            (_, false) => Some(partitions),
        };
        let plan = self.resolve_reads(&fragment.plan, is_single_task, exchange)?;
        let partitions = plan.output_partitioning().partition_count();
        let tasks = if is_single_task || partitions < 2 {
            vec![Vec::new()]
        } else {
            assign_partitions(partitions, self.shape.workers.min(justified_tasks))
        };
        Ok(SizedFragment {
            plan,
            output: fragment.output,
            output_partitions: partitions,
            tasks,
            bytes,
        })
    }

    /// Replaces each read: by the fragment itself where both sides run as one task, else by a read with the final
    /// number of partitions.
    fn resolve_reads(
        &mut self,
        plan: &Arc<dyn ExecutionPlan>,
        is_single_task: bool,
        exchange: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        map_reads(plan, &mut |read| {
            let planned = read.properties().output_partitioning().partition_count();
            let exchange = exchange.unwrap_or(planned);
            let index = read.stage().0 as usize;
            let only_reader = self.readers.get(&index) == Some(&1);
            let input = self.done[index]
                .as_mut()
                .ok_or_else(|| DataFusionError::Internal(format!("fragment {index} was merged into another reader")))?;
            if is_single_task && only_reader && input.tasks.len() == 1 {
                let merged = merge(input, exchange)?;
                self.done[index] = None;
                return Ok(merged);
            }
            let partitioning = match &input.output {
                Output::Identity => {
                    Partitioning::UnknownPartitioning(input.plan.output_partitioning().partition_count())
                }
                Output::Hash(_) => {
                    input.output_partitions = exchange;
                    repartition_to(read.properties().output_partitioning(), exchange)
                }
            };
            Ok(Arc::new(ShuffleReadExec::new(
                read.stage(),
                read.schema(),
                partitioning,
                read.properties().output_ordering().cloned(),
            )))
        })
    }

    fn input_bytes(&self, plan: &dyn ExecutionPlan) -> u64 {
        let read: u64 = reads(plan)
            .iter()
            .map(|read| self.output_bytes[read.stage().0 as usize])
            .fold(0, u64::saturating_add);
        read.saturating_add(read_bytes(plan))
    }
}

fn reads_hash(plan: &dyn ExecutionPlan) -> bool {
    reads(plan)
        .iter()
        .any(|read| matches!(read.properties().output_partitioning(), Partitioning::Hash(..)))
}

/// The fragment with its exchange as DataFusion runs it inside one process.
fn merge(input: &SizedFragment, exchange: usize) -> Result<Arc<dyn ExecutionPlan>> {
    let plan = Arc::clone(&input.plan);
    match &input.output {
        Output::Identity => Ok(plan),
        Output::Hash(exprs) => Ok(Arc::new(RepartitionExec::try_new(
            plan,
            Partitioning::Hash(exprs.clone(), exchange),
        )?)),
    }
}

fn repartition_to(partitioning: &Partitioning, count: usize) -> Partitioning {
    match partitioning {
        Partitioning::Hash(exprs, _) => Partitioning::Hash(exprs.clone(), count),
        Partitioning::RoundRobinBatch(_) | Partitioning::Range(_) | Partitioning::UnknownPartitioning(_) => {
            Partitioning::UnknownPartitioning(count)
        }
    }
}

/// Divides partitions among tasks, neighbours together: those of a hash are of equal size, and DataFusion balances file
/// groups.
fn assign_partitions(partitions: usize, tasks: usize) -> Vec<Vec<u32>> {
    let tasks = tasks.clamp(1, partitions);
    let all: Vec<u32> = (0..u32::try_from(partitions).unwrap_or(u32::MAX)).collect();
    (0..tasks)
        .map(|task| {
            let from = task * partitions / tasks;
            let to = (task + 1) * partitions / tasks;
            all[from..to].to_vec()
        })
        .collect()
}

fn count_readers(fragments: &[Fragment]) -> HashMap<usize, usize> {
    let mut readers = HashMap::new();
    for fragment in fragments {
        for read in reads(fragment.plan.as_ref()) {
            *readers.entry(read.stage().0 as usize).or_default() += 1;
        }
    }
    readers
}

/// All reads at and below `plan`.
pub(crate) fn reads(plan: &dyn ExecutionPlan) -> Vec<&ShuffleReadExec> {
    let mut found: Vec<_> = plan.downcast_ref::<ShuffleReadExec>().into_iter().collect();
    for child in plan.children() {
        found.extend(reads(child.as_ref()));
    }
    found
}

/// Rebuilds `plan` with every read replaced by the result of `replace`.
pub(crate) fn map_reads(
    plan: &Arc<dyn ExecutionPlan>,
    replace: &mut dyn FnMut(&ShuffleReadExec) -> Result<Arc<dyn ExecutionPlan>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    if let Some(read) = plan.downcast_ref::<ShuffleReadExec>() {
        return replace(read);
    }
    if reads(plan.as_ref()).is_empty() {
        return Ok(Arc::clone(plan));
    }
    let children = plan
        .children()
        .into_iter()
        .map(|child| map_reads(child, replace))
        .collect::<Result<Vec<_>>>()?;
    rebuild(plan, children)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: ClusterShape = ClusterShape { workers: 2, slots: 4 };

    fn options() -> SizeOptions {
        SizeOptions {
            min_task_bytes: 1000,
            partition_bytes: 10_000,
            max_partitions: 16,
        }
    }

    #[test]
    fn little_data_stays_in_one_partition() {
        assert_eq!(exchange_partitions(999, SHAPE, &options()), 1);
    }

    #[test]
    fn partitions_fill_slots_up_to_limit() {
        assert_eq!(exchange_partitions(1000, SHAPE, &options()), 4);
        assert_eq!(exchange_partitions(50_000, SHAPE, &options()), 8);
        assert_eq!(exchange_partitions(u64::MAX, SHAPE, &options()), 16);
    }

    #[test]
    fn plans_of_one_worker_have_partitions_by_their_bytes() {
        let shape = ClusterShape { workers: 1, slots: 2 };
        for (bytes, partitions) in [(0, 2), (64 << 20, 2), (65 << 20, 4), (190 << 20, 6), (u64::MAX, 8)] {
            assert_eq!(whole_partitions(bytes, shape), partitions, "{bytes}");
        }
    }

    #[test]
    fn every_partition_is_assigned_once() {
        for partitions in 1..20 {
            for tasks in 1..20 {
                let assigned = assign_partitions(partitions, tasks);
                let all: Vec<u32> = assigned.concat();
                let expected: Vec<u32> = (0..u32::try_from(partitions).unwrap()).collect();
                assert_eq!(all, expected);
                assert!(assigned.iter().all(|task| !task.is_empty()));
            }
        }
    }
}
