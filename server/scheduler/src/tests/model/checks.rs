//! What must hold of each launch, of each result, and in the end.

use std::collections::{BTreeMap, BTreeSet};

use squadron_proto::control::{Lane, Launch};
use squadron_proto::{AttemptKey, QueryId, WorkerId, WorkerKind};

use super::{AttemptState, Behaviour, Model};
use crate::*;

impl Model {
    pub(super) fn check_launch(&mut self, worker: WorkerId, launch: Launch) {
        let attempt = launch.attempt;
        let entry = &self.workers[&worker];
        let is_away = entry.away;
        let spec = self.spec(attempt.query, attempt.stage);
        assert!(!self.ended.contains_key(&attempt.query), "launched after the end");
        assert!(!entry.draining, "launched on a worker that leaves");
        assert_eq!(entry.kind == WorkerKind::Local, spec.placement == Placement::Local);
        assert!(
            is_away || entry.stages.contains(&(attempt.query, attempt.stage)),
            "launched before its stage was sent"
        );
        let task = (attempt.query, attempt.stage, attempt.task);
        let held = self
            .held
            .keys()
            .filter(|(_, key)| (key.query, key.stage, key.task) == task);
        let others: Vec<_> = held.collect();
        let is_root = self.graphs[&attempt.query].root == attempt.stage;
        match others.as_slice() {
            [] => {}
            [(other, _)] => assert!(*other != worker && !is_root && spec.placement == Placement::Any),
            more => panic!("{attempt} is launched beside {more:?}"),
        }
        // A query that may be starved gets slots of which only attempts of its own lane count as taken.
        let waited = self.now - self.submitted[&attempt.query];
        let may_be_starved = waited >= Limits::default().starvation_timeout;
        let counts = |lane: Lane| match may_be_starved {
            true => lane == launch.lane,
            false => lane <= launch.lane,
        };
        let used: u32 = self
            .held
            .iter()
            .filter(|((w, _), (_, lane))| *w == worker && counts(*lane))
            .map(|(_, (slots, _))| slots)
            .sum();
        let starts_with_others = spec.streamed && spec.tasks.len() > 1;
        assert!(used < entry.slots || starts_with_others, "a slot was given twice");
        assert_eq!(launch.slots, self.slots_of(worker, attempt));
        assert_eq!(launch.inputs.len(), spec.inputs.len());
        let mut read = Vec::new();
        for input in launch.inputs.iter() {
            let producers = &self.spec(attempt.query, input.stage).tasks;
            if self.has_rows {
                assert_eq!(input.producers.len(), producers.len(), "an input is not complete");
            }
            for producer in &input.producers {
                let key = AttemptKey {
                    query: attempt.query,
                    stage: input.stage,
                    task: producer.task,
                    attempt: producer.attempt,
                };
                assert!(!self.stale.contains(&key), "{attempt} reads {key}, which was lost");
                let mut workers = self.workers.iter();
                let holder = workers.find(|(_, entry)| entry.outputs.contains(&key));
                match holder {
                    Some(holder) => assert_eq!(producer.address, format!("http://{}", holder.0)),
                    None => assert!(self.dropped.contains(&key), "the output is somewhere"),
                }
                read.push(key);
            }
        }
        let is_new = self.launched.insert(attempt, read).is_none();
        assert!(is_new, "launched twice under one name");
        self.held.insert((worker, attempt), (launch.slots, launch.lane));
        self.lanes.insert(attempt, launch.lane);
        let entry = self.workers.get_mut(&worker).unwrap();
        if !is_away {
            entry.attempts.insert(attempt, (launch, AttemptState::Launched));
        }
    }

    /// All rows of a result, and all that they were made of, come from one attempt at each task, as far as attempts differ.
    pub(super) fn check_result(&self, query: QueryId) {
        let mut used: BTreeMap<_, BTreeSet<AttemptKey>> = BTreeMap::new();
        let mut open = self.results.get(&query).cloned().unwrap_or_default();
        while let Some(attempt) = open.pop() {
            let of_task = used.entry((attempt.stage, attempt.task)).or_default();
            if of_task.insert(attempt) {
                open.extend(&self.launched[&attempt]);
            }
        }
        for ((stage, task), attempts) in used {
            let is_one = attempts.len() == 1 || self.spec(query, stage).is_determinate;
            assert!(
                is_one,
                "{attempts:?} at task {task} of stage {stage} are in one result of {query}"
            );
        }
    }

    /// Lets all attempts proceed and clients read until every query has ended and nothing is left to do.
    pub(crate) fn run_to_completion(&mut self) {
        for worker in self.away() {
            self.suspect(worker);
        }
        for _ in 0..10_000 {
            let mut moved = false;
            let ended = self.ended.len();
            for (worker, attempt) in self.attempts() {
                if self.workers[&worker].attempts.contains_key(&attempt) {
                    moved |= self.progress(worker, attempt, Behaviour::Proceed);
                }
            }
            for worker in self.outboxes() {
                moved = true;
                self.deliver(worker);
            }
            let unread: Vec<_> = self
                .ready
                .iter()
                .filter(|query| !self.ended.contains_key(query))
                .copied()
                .collect();
            for query in unread {
                self.send(Event::ResultDone { query });
            }
            moved |= self.ended.len() > ended;
            if self.ended.len() == self.graphs.len() && !moved && self.away().is_empty() {
                assert!(
                    self.ended.keys().eq(&self.released_queries),
                    "each ended query is released, but these still stop: {:?}",
                    self.scheduler.stopping()
                );
                return;
            }
            if !moved {
                assert!(
                    self.scheduler.next_deadline().is_some(),
                    "nothing can happen any more, but not all queries ended: {:?}",
                    self.scheduler.queries()
                );
                self.tick();
            }
        }
        panic!("the queries do not end");
    }

    /// As [`Model::run_to_completion`]; the query must have its rows then.
    pub(crate) fn run_to_success(&mut self, query: QueryId) {
        self.run_to_completion();
        assert!(self.ended[&query].is_ok(), "{:?}", self.ended[&query]);
    }

    /// The same events give the same effects.
    pub(crate) fn check_replay(&self, limits: Limits) {
        let mut scheduler = Scheduler::new(limits);
        for ((now, event), recorded) in self.history.iter().zip(&self.recorded_effects) {
            assert_eq!(&format!("{:?}", scheduler.apply(*now, event.clone())), recorded);
        }
    }
}
