//! What arrives, and when.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::super::Result;
use super::super::chance::Chance;

/// Queries with more work than this are long.
pub(super) const LONG: Duration = Duration::from_secs(1);

/// A query to come.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Work {
    pub(super) stages: Vec<StageWork>,
    pub(super) priority: i32,
}

/// One stage of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct StageWork {
    /// The stages it reads.
    pub(super) inputs: Vec<u32>,
    /// How long each of its tasks takes on a worker that is not slow.
    pub(super) tasks: Vec<Duration>,
}

impl Work {
    /// The time of all its tasks together.
    pub(super) fn total(&self) -> Duration {
        self.stages.iter().flat_map(|stage| &stage.tasks).sum()
    }

    pub(super) fn is_long(&self) -> bool {
        self.total() > LONG
    }

    /// How long it takes with all slots to itself: its longest way, on which a stage takes its longest task or its share of
    /// the slots, whichever is more.
    pub(super) fn alone(&self, slots: u64) -> Duration {
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

/// What kinds of queries there are.
#[derive(Debug)]
pub(super) struct Mix {
    /// The part of short ones.
    pub(super) short: f64,
    /// The mean task of a long one.
    pub(super) task: Duration,
    /// Queries as they were, one of which is drawn each time.
    pub(super) recorded: Option<Recorded>,
}

impl Mix {
    pub(super) fn queries(&self, seed: u64, count: u32, prioritised: u32) -> Vec<Work> {
        let mut chance = Chance::new(seed, 1);
        let query = |number: u32| {
            let mut work = match &self.recorded {
                Some(recorded) => recorded.draw(&mut chance),
                None if chance.happens(self.short) => short(&mut chance),
                None => self.long(&mut chance),
            };
            if number >= count.saturating_sub(prioritised) {
                work.priority = 100;
            }
            work
        };
        (0..count).map(query).collect()
    }

    /// 3 to 100 s of work in a scan, a shuffle and a result.
    fn long(&self, chance: &mut Chance) -> Work {
        let total = chance.heavy_tailed(4.0, 100.0, 1.5);
        let task = self.task.as_secs_f64();
        let mut tasks = |part: f64| {
            let count = ((total * part / task).round() as usize).max(1);
            let even = total * part / count as f64;
            (0..count)
                .map(|_| Duration::from_secs_f64(even * chance.between(0.5, 1.5)))
                .collect()
        };
        let (scan, shuffle, result) = (tasks(0.7), tasks(0.29), tasks(0.01));
        work([scan, shuffle, result])
    }
}

/// 30 ms to 1 s of work in a scan of one or two tasks and a result.
fn short(chance: &mut Chance) -> Work {
    let total = chance.heavy_tailed(0.04, 0.95, 1.3);
    let count = 1 + chance.below(2);
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

/// Queries as they were measured.
#[derive(Debug)]
pub(super) struct Recorded(Vec<Work>);

#[derive(Deserialize)]
struct RecordedStage {
    inputs: Vec<u32>,
    tasks_ms: Vec<f64>,
}

impl Recorded {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let named = |error: String| format!("--recorded {}: {error}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| named(error.to_string()))?;
        Self::parse(&text).map_err(|error| named(error).into())
    }

    pub(super) fn parse(text: &str) -> std::result::Result<Self, String> {
        let queries: Vec<Vec<RecordedStage>> = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let mut all = Vec::new();
        for stages in queries {
            for (number, stage) in (0..).zip(&stages) {
                let is_good = !stage.tasks_ms.is_empty()
                    && stage.tasks_ms.iter().all(|ms| (0.0..=86_400_000.0).contains(ms))
                    && stage.inputs.iter().all(|&input| input < number);
                if !is_good {
                    return Err(format!(
                        "stage {number} of query {} needs tasks of 0 ms to a day and inputs that come before it",
                        all.len()
                    ));
                }
            }
            let stages = stages.into_iter().map(|stage| StageWork {
                inputs: stage.inputs,
                tasks: stage
                    .tasks_ms
                    .iter()
                    .map(|ms| Duration::from_secs_f64(ms / 1e3))
                    .collect(),
            });
            let stages: Vec<_> = stages.collect();
            if stages.is_empty() {
                return Err(format!("query {} has no stage", all.len()));
            }
            all.push(Work { stages, priority: 0 });
        }
        if all.is_empty() {
            return Err("there is no query in it".to_owned());
        }
        Ok(Self(all))
    }

    fn draw(&self, chance: &mut Chance) -> Work {
        let at = chance.below(self.0.len() as u64);
        self.0[usize::try_from(at).unwrap_or_default()].clone()
    }
}

/// When each query arrives: a Poisson process at this load, or all at once.
pub(super) fn arrivals(seed: u64, queries: &[Work], slots: u64, load: Option<f64>) -> Vec<Duration> {
    let Some(load) = load else {
        return vec![Duration::ZERO; queries.len()];
    };
    let total: Duration = queries.iter().map(Work::total).sum();
    let span = total.div_f64(slots as f64 * load.max(0.001));
    let between = span.div_f64(queries.len().max(1) as f64);
    let mut chance = Chance::new(seed, 2);
    let mut at = Duration::ZERO;
    queries
        .iter()
        .map(|_| {
            at += chance.wait(between);
            at
        })
        .collect()
}
