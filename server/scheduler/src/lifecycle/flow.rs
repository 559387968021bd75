//! Which stages of a query run: brings the states of its stages in line with what its tasks have written.
//!
//! ```text
//! needed(stage)  = it is the root, or a consumer of it is needed and not complete
//! Finished         needed, complete
//! Running          needed, not complete, all inputs complete
//! Waiting          needed, not complete, an input not complete
//! Released         not needed
//! ```
//!
//! Workers keep released output while they have room, and say when they drop some of it. So a lost output costs its own
//! task, and those of the stages before of which the output is gone too.
//!
//! That is all there is to the order of stages, whether a query runs for the first time or computes again what it lost.

use std::time::Duration;

use squadron_proto::QueryId;

use crate::event::Effect;
use crate::lifecycle::query::{Phase, Query};
use crate::lifecycle::stage::StageState;
use crate::scheduler::Scheduler;

/// What a stage does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It has tasks to place.
    Run,
    /// Its tasks cannot be placed any more.
    Wait,
    /// Its output is complete.
    Finish,
    /// Its output is not needed any more.
    Release,
}

impl Scheduler {
    /// Tasks of a query have finished, or lost their output: its stages start, wait, finish and are released accordingly.
    pub(crate) fn advance(&mut self, now: Duration, id: QueryId, effects: &mut Vec<Effect>) {
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        for (stage, step) in query.steps(now) {
            match step {
                Step::Run => self.start_stage(now, id, stage),
                Step::Wait => self.withdraw_stage(id, stage),
                Step::Finish => self.finish_stage(now, id, stage, effects),
                Step::Release => self.release_stage(now, id, stage, effects),
            }
        }
        self.end_if_complete(now, id, effects);
    }

    fn finish_stage(&mut self, now: Duration, id: QueryId, stage: usize, effects: &mut Vec<Effect>) {
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        query.stages[stage].record_finish(now);
        if stage == query.root {
            query.delivering_since = Some(now);
            if !query.stages[stage].spec.streamed {
                self.announce_result(id, effects);
            }
        }
    }

    fn release_stage(&mut self, now: Duration, id: QueryId, stage: usize, effects: &mut Vec<Effect>) {
        self.stop_stage(now, id, stage, effects);
        self.withdraw_stage(id, stage);
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        // Without other processes nothing is lost that could need it again.
        let is_kept = self.workers.has_remote();
        let stage = &mut query.stages[stage];
        let holders = stage.output_holders().into_iter();
        for worker in holders.filter(|&worker| self.workers.contains(worker)) {
            effects.push(match is_kept {
                true => Effect::Spare {
                    worker,
                    query: id,
                    stage: stage.spec.id,
                },
                false => Effect::release_stage(worker, id, stage.spec.id),
            });
        }
        if !is_kept {
            stage.drop_all_output();
        }
    }

    /// The result of a query can be read, for the first time or again.
    pub(crate) fn announce_result(&mut self, id: QueryId, effects: &mut Vec<Effect>) {
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        if !matches!(query.phase, Phase::Running) {
            return;
        }
        query.phase = Phase::Streaming { read: false };
        query.was_announced = true;
        self.open_results += 1;
        let workers = &self.workers;
        let parts = query.result_parts(|worker| workers.address(worker));
        effects.push(Effect::ResultReady { query: id, parts });
    }
}

impl Query {
    /// Which stages are needed, by their positions.
    pub(crate) fn needed_stages(&self) -> Vec<bool> {
        let mut needed = vec![false; self.stages.len()];
        needed[self.root] = true;
        // Consumers come after their inputs.
        for (position, stage) in self.stages.iter().enumerate().rev() {
            if needed[position] && !stage.is_complete() {
                for &input in &stage.inputs {
                    needed[input] = true;
                }
            }
        }
        needed
    }

    /// Whether the output of all stages that a stage reads is complete.
    pub(crate) fn has_complete_inputs(&self, stage: usize) -> bool {
        let mut inputs = self.stages[stage].inputs.iter();
        inputs.all(|&input| self.stages[input].is_complete())
    }

    /// Takes the states that follow from what the tasks have written. Returns what the stages do then, producers first.
    fn steps(&mut self, now: Duration) -> Vec<(usize, Step)> {
        let needed = self.needed_stages();
        let mut steps = Vec::new();
        for (position, is_needed) in needed.into_iter().enumerate() {
            let next = self.next_state(position, is_needed);
            let stage = &mut self.stages[position];
            let was = std::mem::replace(&mut stage.state, next);
            if matches!(next, StageState::Running | StageState::Waiting) {
                stage.reopen(now);
            }
            let step = match next {
                StageState::Running if was != next || stage.has_waiting_tasks() => Step::Run,
                StageState::Waiting if was == StageState::Running => Step::Wait,
                StageState::Finished if was != next => Step::Finish,
                StageState::Released if was != next => Step::Release,
                StageState::Running | StageState::Waiting | StageState::Finished | StageState::Released => continue,
            };
            steps.push((position, step));
        }
        steps
    }

    fn next_state(&self, position: usize, is_needed: bool) -> StageState {
        let stage = &self.stages[position];
        match (is_needed, stage.is_complete()) {
            (true, true) => StageState::Finished,
            (false, true) if stage.has_one_time_plan() => StageState::Finished,
            (false, _) => StageState::Released,
            (true, false) if self.has_complete_inputs(position) => StageState::Running,
            (true, false) => StageState::Waiting,
        }
    }
}
