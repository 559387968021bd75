//! A hash of all effects, to compare two runs.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use squadron_proto::AttemptKey;

use crate::event::Effect;

/// A hash of all effects so far, which differs as soon as one effect or its time does.
#[derive(Debug, Default)]
pub struct Digest(DefaultHasher);

impl Digest {
    /// Adds an effect and its time.
    pub fn add(&mut self, now: Duration, effect: &Effect) {
        now.hash(&mut self.0);
        std::mem::discriminant(effect).hash(&mut self.0);
        match effect {
            Effect::SendStage { worker, stage } => {
                (worker, stage.query, stage.stage).hash(&mut self.0);
            }
            Effect::Launch { worker, launch } => {
                worker.hash(&mut self.0);
                self.attempt(&launch.attempt);
                (launch.slots, &launch.partitions, launch.inputs.len()).hash(&mut self.0);
            }
            Effect::Commit { worker, attempt } | Effect::CancelAttempt { worker, attempt } => {
                worker.hash(&mut self.0);
                self.attempt(attempt);
            }
            Effect::Unexpected { worker, attempt, what } => {
                (worker, what).hash(&mut self.0);
                self.attempt(attempt);
            }
            Effect::Spare { worker, query, stage } => (worker, query, stage).hash(&mut self.0),
            Effect::Release { worker, release } => {
                (worker, release.query, &release.stages).hash(&mut self.0);
            }
            Effect::SecondAttempt { slow, on, worker, .. } => {
                (on, worker).hash(&mut self.0);
                self.attempt(slow);
            }
            Effect::WorkerAvoided { worker, reason } => (worker, reason).hash(&mut self.0),
            Effect::WorkerGivenUp { worker, reason } => (worker, reason).hash(&mut self.0),
            Effect::Released { query } => query.hash(&mut self.0),
            Effect::Recovering {
                query,
                failure,
                attempts,
                parts,
            } => (query, &failure.message, attempts, &parts.lost, &parts.void).hash(&mut self.0),
            Effect::ResultReady { query, parts } => (query, parts.len()).hash(&mut self.0),
            Effect::Ended { query, outcome, .. } => {
                let message = outcome.as_ref().err().map(|failure| &failure.message);
                (query, message).hash(&mut self.0);
            }
        }
    }

    fn attempt(&mut self, attempt: &AttemptKey) {
        (attempt.query, attempt.stage, attempt.task, attempt.attempt).hash(&mut self.0);
    }

    /// The hash so far, in hexadecimal digits.
    pub fn to_hex(&self) -> String {
        format!("{:016x}", self.0.finish())
    }
}
