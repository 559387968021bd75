//! A stage as the server announced it, shared by all its attempts on this worker.

use std::any::Any;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionConfig;
use squadron_proto::Failure;
use squadron_proto::control::{ObjectStoreSpec, PlanRef, Stage};
use squadron_shuffle::failure;
use squadron_shuffle::fragment::{self, InProcessPlan};
use squadron_shuffle::net::object_stores;
use tracing::debug;

use crate::engine::Engine;

/// The plan of a stage, with its settings and object stores. It keeps the encoded bytes, not an instance: plan nodes
/// have state, so every attempt decodes its own.
pub(crate) struct StagePlan {
    plan: Plan,
    settings: Vec<(String, String)>,
    stores: Vec<ObjectStoreSpec>,
    reserved_bytes: usize,
    /// The context in which plans are decoded, or taken as they are; made by the first attempt for all.
    context: OnceLock<Result<Arc<TaskContext>, Failure>>,
}

enum Plan {
    Encoded(Bytes),
    /// Serves one attempt, which takes it out.
    InProcess(Mutex<Option<Arc<dyn Any + Send + Sync>>>),
}

impl StagePlan {
    pub(crate) fn new(stage: Stage) -> Self {
        Self {
            plan: match stage.plan {
                PlanRef::Encoded(bytes) => Plan::Encoded(bytes),
                PlanRef::InProcess(plan) => Plan::InProcess(Mutex::new(Some(plan))),
            },
            settings: stage.settings,
            stores: stage.stores,
            reserved_bytes: usize::try_from(stage.reserved_bytes).unwrap_or(usize::MAX),
            context: OnceLock::new(),
        }
    }

    /// The context with the settings of the stage, and every function if plans are decoded in it. The first call also
    /// registers the stage's object stores, without which no scan can be decoded.
    pub(crate) fn context(&self, engine: &Engine) -> Result<Arc<TaskContext>, Failure> {
        let context = self.context.get_or_init(|| {
            for store in &self.stores {
                object_stores::register(&engine.runtime, store)?;
            }
            let config = session_config(&self.settings);
            Ok(match self.plan {
                Plan::Encoded(_) => engine.task_context(config),
                Plan::InProcess(_) => engine.plain_context(config),
            })
        });
        context.clone()
    }

    /// How much memory the process keeps for the query, in bytes.
    pub(crate) fn reserved_bytes(&self) -> usize {
        self.reserved_bytes
    }

    /// An instance of the whole plan, for one attempt.
    pub(crate) fn instance(&self, context: &TaskContext) -> Result<Arc<dyn ExecutionPlan>, Failure> {
        match &self.plan {
            Plan::Encoded(bytes) => fragment::decode(bytes, context).map_err(|error| failure::of(&error)),
            Plan::InProcess(plan) => {
                let taken = plan.lock().unwrap_or_else(PoisonError::into_inner).take();
                let taken =
                    taken.ok_or_else(|| Failure::internal("a plan that cannot be encoded was launched twice"))?;
                let plan = taken
                    .downcast::<InProcessPlan>()
                    .map_err(|_| Failure::internal("a plan reference holds something else than a plan"))?;
                Ok(Arc::clone(&plan.0))
            }
        }
    }
}

/// The defaults with `settings` on top. A setting that this process does not know changes nothing here: it may belong
/// to the server alone, or to another release.
pub(crate) fn session_config(settings: &[(String, String)]) -> SessionConfig {
    let mut config = SessionConfig::new();
    let options = config.options_mut();
    // With more than one batch in a file, a RepartitionExec of DataFusion 55.2 can wait for ever: its reader waits for
    // the end of a file that one input writes, while the batch it wants is in the file of another, and the first input
    // waits for the reader.
    let one_batch_a_file = (
        "datafusion.execution.max_spill_file_size_bytes".to_owned(),
        "1".to_owned(),
    );
    for (key, value) in settings.iter().chain([&one_batch_a_file]) {
        if let Err(error) = options.set(key, value) {
            debug!(key, %error, "setting ignored");
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn settings_apply_except_unknown_ones() {
        let config = session_config(&[
            setting("no.such.setting", "1"),
            setting("datafusion.no_such_setting", "1"),
            setting("datafusion.execution.enable_file_stream_work_stealing", "false"),
            setting("datafusion.execution.batch_size", "77"),
        ]);
        let execution = &config.options().execution;
        assert!(!execution.enable_file_stream_work_stealing);
        assert_eq!(execution.batch_size.get(), 77);
    }
}
