//! Second attempts at slow tasks: backup tasks, as in MapReduce (Dean and Ghemawat, OSDI 2004, 3.6), with a cap and idle
//! slots alone, as in LATE (Zaharia et al., OSDI 2008).
//!
//! From the moment that half of a stage's tasks are finished, those that are not are looked at twice in every
//! `Limits::straggler_age`. A task is slow when its attempt takes longer than
//!
//! ```text
//! max(Limits::straggler_age, Limits::straggler_factor * median of the finished * its bytes / median of their bytes)
//! ```
//!
//! where the last factor counts only above 1: a task with more to read than others takes longer wherever it runs; and in
//! any case when its worker is silent. A slow task gets a second attempt on another worker, if a slot is free there that
//! no task waits for. The first attempt to finish wins and the other is cancelled; nobody has read of it, since consumers
//! start when their inputs are complete. What ends one of two attempts, whatever it is, does not end the query: the other
//! goes on.
//!
//! The last stage is left out: of its rows the client may have read some.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use squadron_proto::control::Lane;
use squadron_proto::{AttemptKey, QueryId, StageId, WorkerId};

use crate::deadline::Deadline;
use crate::event::Effect;
use crate::graph::Placement;
use crate::lifecycle::query::{Query, TASK_BYTES};
use crate::lifecycle::stage::{Stage, StageState, task_id};
use crate::limits::Limits;
use crate::scheduler::Scheduler;
use crate::workers::placement::{Demand, Place};

/// One of so many tasks of a stage may have two attempts at a time.
const TASKS_PER_SECOND_ATTEMPT: usize = 4;

/// A task whose attempt is slow.
#[derive(Clone, Copy, Debug)]
struct Straggler {
    task: usize,
    attempt: AttemptKey,
    worker: WorkerId,
    demand: Demand,
    runs_for: Duration,
}

impl Scheduler {
    /// A task of a stage has finished, or the stage runs again: if half of its tasks are finished, the others are looked at.
    pub(crate) fn watch_for_stragglers(&mut self, now: Duration, id: QueryId, stage: usize) {
        if let Some(query) = self.queries.get_mut(&id)
            && !query.stages[stage].is_watched
            && query.may_speculate(stage)
        {
            let stage = &mut query.stages[stage];
            stage.is_watched = true;
            let stage = stage.spec.id;
            self.set_deadline(next_check(now, &self.limits), Deadline::Stragglers(id, stage));
        }
    }

    /// Gives second attempts to the slow tasks of a stage, as far as slots are free.
    pub(crate) fn check_stragglers(&mut self, now: Duration, id: QueryId, stage: StageId, effects: &mut Vec<Effect>) {
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        let Some(stage) = query.position(stage) else {
            return;
        };
        query.stages[stage].is_watched = false;
        if !query.may_speculate(stage) {
            return;
        }
        let is_silent = |worker| self.workers.suspicion(worker).is_some();
        let stragglers = query.stragglers(now, stage, &self.limits, is_silent);
        let mut left = query.stages[stage].second_attempts_left();
        for straggler in stragglers {
            if left > 0 && self.add_attempt(now, stage, straggler, effects) {
                left -= 1;
            }
        }
        self.watch_for_stragglers(now, id, stage);
    }

    /// Launches a second attempt at a slow task. Returns whether there was a place for it.
    fn add_attempt(&mut self, now: Duration, stage: usize, straggler: Straggler, effects: &mut Vec<Effect>) -> bool {
        let id = straggler.attempt.query;
        let order = self.limits.order();
        let Some(Place { worker, slots }) = self.find_second_place(stage, straggler) else {
            return false;
        };
        let Some(query) = self.queries.get_mut(&id) else {
            return false;
        };
        let weight = query.weight(order);
        let demand = Demand {
            slots,
            ..straggler.demand
        };
        let launch = query.stages[stage].launch_second(id, straggler.task, worker, demand);
        effects.push(Effect::SecondAttempt {
            slow: straggler.attempt,
            on: straggler.worker,
            runs_for: straggler.runs_for,
            worker,
        });
        let placement = query.stages[stage].spec.placement;
        self.send_launch(now, stage, (worker, launch), weight, effects);
        self.update_queue_entry(id, placement);
        true
    }

    /// Takes idle slots of another worker, if no task waits for any and the query's groups may have more.
    fn find_second_place(&mut self, stage: usize, straggler: Straggler) -> Option<Place> {
        let query = self.queries.get(&straggler.attempt.query)?;
        let stage = &query.stages[stage];
        let placement = stage.spec.placement;
        let queues = self.queues.of(placement);
        let may_have_more = queues.lane(straggler.demand.lane).has_slots(query.group);
        if queues.waiting().next().is_some() || !may_have_more {
            return None;
        }
        let tried = stage.tasks[straggler.task].avoided().iter().copied();
        let unwanted = self.unwanted_by(query, stage, tried.chain([straggler.worker]));
        let slots = self.workers.slots_mut(placement);
        slots.place_idle(straggler.demand, unwanted.wish(stage))
    }
}

impl Query {
    /// Whether slow tasks of a stage may get a second attempt now.
    fn may_speculate(&self, stage: usize) -> bool {
        let is_last = stage == self.root;
        let stage = &self.stages[stage];
        let unfinished = stage.unfinished_tasks();
        let finished = stage.tasks.len() - unfinished;
        self.options.speculation
            && !is_last
            && stage.state == StageState::Running
            && stage.spec.placement == Placement::Any
            && !stage.has_one_time_plan()
            && unfinished > 0
            && finished >= unfinished
    }

    /// The slow tasks of a stage that have one attempt, the slowest first.
    fn stragglers(
        &self,
        now: Duration,
        position: usize,
        limits: &Limits,
        is_silent: impl Fn(WorkerId) -> bool,
    ) -> Vec<Straggler> {
        let stage = &self.stages[position];
        let lane = self.ready(stage.spec.placement).lane;
        let usual = median(stage.finished_tasks().map(|(_, took)| took)) * limits.straggler_factor;
        let least = |worker| if is_silent(worker) { Duration::ZERO } else { usual };
        let running = stage.running_tasks(self.id, now, lane);
        let running = running.filter(|of| of.runs_for >= limits.straggler_age.max(least(of.worker)));
        let mut slow: Vec<_> = running.collect();
        if slow.is_empty() {
            return slow;
        }
        let bytes = self.task_bytes(position);
        let usual_bytes = median(stage.finished_tasks().map(|(task, _)| bytes[task]));
        slow.retain(|of| {
            let times_as_much = bytes[of.task] as f64 / usual_bytes.max(1) as f64;
            of.runs_for >= least(of.worker).mul_f64(times_as_much.max(1.0))
        });
        slow.sort_by_key(|of| (Reverse(of.runs_for), of.task));
        slow
    }

    /// About how many bytes each task of a stage reads: of files, and of the outputs of other stages.
    fn task_bytes(&self, position: usize) -> Vec<u64> {
        let stage = &self.stages[position];
        let inputs: Vec<_> = stage
            .inputs
            .iter()
            .map(|&input| self.stages[input].bytes_by_partition())
            .collect();
        let of_input = |partitions: &[u32], input: &BTreeMap<u32, u64>| match partitions {
            [] => input.values().sum::<u64>(),
            some => some.iter().filter_map(|partition| input.get(partition)).sum(),
        };
        let tasks = stage.spec.tasks.iter();
        tasks
            .map(|task| {
                let read = inputs.iter().map(|input| of_input(&task.partitions, input));
                read.fold(task.bytes.saturating_add(TASK_BYTES), u64::saturating_add)
            })
            .collect()
    }
}

impl Stage {
    /// How many more of its tasks may have two attempts.
    fn second_attempts_left(&self) -> usize {
        let doubled = self.tasks.iter().filter(|task| task.is_doubled()).count();
        let most = self.tasks.len().div_ceil(TASKS_PER_SECOND_ATTEMPT);
        most.saturating_sub(doubled)
    }

    /// Its finished tasks, and how long the attempts took that finished.
    fn finished_tasks(&self) -> impl Iterator<Item = (usize, Duration)> + '_ {
        self.tasks.iter().enumerate().filter_map(|(number, task)| {
            let times = task.attempt().filter(|attempt| attempt.output().is_some())?.times();
            Some((number, times.ended?.saturating_sub(times.launched?)))
        })
    }

    /// Its tasks that may get a second attempt, whether they are slow or not.
    fn running_tasks(&self, query: QueryId, now: Duration, lane: Lane) -> impl Iterator<Item = Straggler> + '_ {
        let tasks = self.tasks.iter().enumerate();
        let running = tasks.filter(|(_, task)| task.may_be_doubled());
        running.filter_map(move |(number, task)| {
            let attempt = task.attempt()?;
            Some(Straggler {
                task: number,
                attempt: AttemptKey {
                    query,
                    stage: self.spec.id,
                    task: task_id(number),
                    attempt: attempt.number(),
                },
                worker: attempt.worker(),
                demand: self.demand(number, lane),
                runs_for: now.saturating_sub(attempt.times().launched?),
            })
        })
    }

    /// The bytes of each partition of its output.
    fn bytes_by_partition(&self) -> BTreeMap<u32, u64> {
        let mut bytes = BTreeMap::new();
        for finished in self.tasks.iter().filter_map(|task| task.finished()) {
            for partition in &finished.output.partitions {
                *bytes.entry(partition.partition).or_default() += partition.bytes;
            }
        }
        bytes
    }
}

/// When the tasks of a stage are looked at next: at a multiple of the interval, so that all stages are at one time.
fn next_check(now: Duration, limits: &Limits) -> Duration {
    let interval = (limits.straggler_age / 2).max(Duration::from_millis(1));
    let since_last = now.as_nanos() % interval.as_nanos();
    now + interval - Duration::from_nanos(u64::try_from(since_last).unwrap_or(0))
}

fn median<T: Ord + Default>(values: impl Iterator<Item = T>) -> T {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable();
    let middle = values.len() / 2;
    values.into_iter().nth(middle).unwrap_or_default()
}
