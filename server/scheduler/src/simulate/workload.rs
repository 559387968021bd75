//! The queries of a simulation, and when they arrive.

use std::time::Duration;

use squadron_proto::control::PlanRef;
use squadron_proto::{QueryId, StageId};

use super::rng::Rng;
use crate::graph::{OutputPartitions, Placement, QueryOptions, StageGraph, StageSpec, TaskSpec};

/// Queries with more work than this are long.
const LONG: Duration = Duration::from_secs(1);

/// The work of one query.
#[derive(Clone, Debug, PartialEq)]
pub struct Work {
    /// Producers before consumers; the last one writes the result.
    pub stages: Vec<StageWork>,
    /// `squadron.priority`.
    pub priority: i32,
}

/// The work of one stage.
#[derive(Clone, Debug, PartialEq)]
pub struct StageWork {
    /// The stages it reads.
    pub inputs: Vec<u32>,
    /// How long each of its tasks takes on a worker that is not slow.
    pub tasks: Vec<Duration>,
}

impl Work {
    /// How many tasks write the result.
    pub(super) fn root_tasks(&self) -> usize {
        self.stages.last().map_or(0, |root| root.tasks.len())
    }

    /// The query as a planner would submit it. `bytes_per_second`: how much the planner estimates a task to read per
    /// second of its time. `speculation`: its session lets slow tasks have second attempts.
    pub(super) fn graph(&self, id: u128, bytes_per_second: f64, speculation: bool) -> StageGraph {
        let root = self.stages.len() - 1;
        let stage = |(number, stage): (usize, &StageWork)| {
            let task = |(partition, takes): (u32, &Duration)| TaskSpec {
                partitions: vec![partition],
                slots: 1,
                bytes: (takes.as_secs_f64() * bytes_per_second) as u64,
                ..TaskSpec::default()
            };
            let tasks: Vec<_> = (0..).zip(&stage.tasks).map(task).collect();
            StageSpec {
                id: stage_id(number),
                inputs: stage.inputs.iter().copied().map(StageId).collect(),
                output_partitions: OutputPartitions::Identity(u32::try_from(tasks.len()).unwrap_or(u32::MAX)),
                tasks,
                plan: PlanRef::Encoded(Default::default()),
                settings: Vec::new(),
                stores: Vec::new(),
                placement: Placement::Any,
                streamed: number == root,
                is_determinate: true,
            }
        };
        StageGraph {
            query: QueryId::from_u128(id),
            stages: self.stages.iter().enumerate().map(stage).collect(),
            root: stage_id(root),
            options: QueryOptions {
                priority: self.priority,
                speculation,
                ..QueryOptions::default()
            },
        }
    }

    /// The sum of the times of all tasks.
    pub fn total(&self) -> Duration {
        self.stages.iter().flat_map(|stage| &stage.tasks).sum()
    }

    /// Whether it counts as a long query.
    pub fn is_long(&self) -> bool {
        self.total() > LONG
    }

    /// How long the query takes with all slots to itself: its critical path, on which each stage takes as long as its
    /// longest task, or as all its tasks spread evenly over the slots, whichever is more.
    pub fn isolated_time(&self, slots: u64) -> Duration {
        let mut ends: Vec<Duration> = Vec::with_capacity(self.stages.len());
        for stage in &self.stages {
            let inputs = stage.inputs.iter().map(|&input| ends[input as usize]);
            let start = inputs.max().unwrap_or_default();
            let longest = stage.tasks.iter().max().copied().unwrap_or_default();
            let total: Duration = stage.tasks.iter().sum();
            ends.push(start + longest.max(total.div_f64(slots as f64)));
        }
        ends.last().copied().unwrap_or_default()
    }
}

/// Draws one of the recorded queries, of which there must be at least one.
fn draw(recorded: &[Work], rng: &mut Rng) -> Work {
    let at = rng.below(recorded.len() as u64);
    recorded[usize::try_from(at).unwrap_or_default()].clone()
}

/// A mix of queries.
#[derive(Debug)]
pub struct Mix {
    /// The fraction of short queries.
    pub short: f64,
    /// The mean time of a long query's tasks.
    pub task: Duration,
    /// Recorded queries, one of which is drawn each time, instead of made-up ones.
    pub recorded: Option<Vec<Work>>,
}

impl Mix {
    /// `count` queries, the last `prioritised` of them with priority 100.
    pub fn queries(&self, seed: u64, count: u32, prioritised: u32) -> Vec<Work> {
        let mut rng = Rng::new(seed, 1);
        let query = |number: u32| {
            let mut work = match &self.recorded {
                Some(recorded) => draw(recorded, &mut rng),
                None if rng.happens(self.short) => short(&mut rng),
                None => self.long(&mut rng),
            };
            if number >= count.saturating_sub(prioritised) {
                work.priority = 100;
            }
            work
        };
        (0..count).map(query).collect()
    }

    /// 3 to 100 s of work in a scan, a shuffle and a result.
    fn long(&self, rng: &mut Rng) -> Work {
        let total = rng.heavy_tailed(4.0, 100.0, 1.5);
        let task = self.task.as_secs_f64();
        let mut tasks = |part: f64| {
            let count = ((total * part / task).round() as usize).max(1);
            let even = total * part / count as f64;
            (0..count)
                .map(|_| Duration::from_secs_f64(even * rng.between(0.5, 1.5)))
                .collect()
        };
        let (scan, shuffle, result) = (tasks(0.7), tasks(0.29), tasks(0.01));
        work([scan, shuffle, result])
    }
}

/// 30 ms to 1 s of work in a scan of one or two tasks and a result.
fn short(rng: &mut Rng) -> Work {
    let total = rng.heavy_tailed(0.04, 0.95, 1.3);
    let count = 1 + rng.below(2);
    let scan = (0..count)
        .map(|_| Duration::from_secs_f64(total * 0.9 / count as f64))
        .collect();
    work([scan, vec![Duration::from_secs_f64(total * 0.1)]])
}

/// Stages in a row, each of which reads the one before.
fn work<const N: usize>(stages: [Vec<Duration>; N]) -> Work {
    let stage = |(number, tasks): (u32, Vec<Duration>)| StageWork {
        inputs: number.checked_sub(1).into_iter().collect(),
        tasks,
    };
    Work {
        stages: (0..).zip(stages).map(stage).collect(),
        priority: 0,
    }
}

/// When each query arrives: in a Poisson process at this load, or all at once without a load.
pub fn arrivals(seed: u64, queries: &[Work], slots: u64, load: Option<f64>) -> Vec<Duration> {
    let Some(load) = load else {
        return vec![Duration::ZERO; queries.len()];
    };
    let total: Duration = queries.iter().map(Work::total).sum();
    let span = total.div_f64(slots as f64 * load.max(0.001));
    let between = span.div_f64(queries.len().max(1) as f64);
    let mut rng = Rng::new(seed, 2);
    let mut at = Duration::ZERO;
    queries
        .iter()
        .map(|_| {
            at += rng.wait(between);
            at
        })
        .collect()
}

fn stage_id(number: usize) -> StageId {
    StageId(u32::try_from(number).unwrap_or(u32::MAX))
}
