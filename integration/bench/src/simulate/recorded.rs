//! Recorded queries, read from a JSON file.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use squadron_scheduler::simulate::{StageWork, Work};

use crate::Result;

#[derive(Deserialize)]
struct RecordedStage {
    inputs: Vec<u32>,
    tasks_ms: Vec<f64>,
}

pub(super) fn read(path: &Path) -> Result<Vec<Work>> {
    let name_file = |error: String| format!("--recorded {}: {error}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| name_file(error.to_string()))?;
    parse(&text).map_err(|error| name_file(error).into())
}

pub(super) fn parse(text: &str) -> std::result::Result<Vec<Work>, String> {
    let queries: Vec<Vec<RecordedStage>> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut all = Vec::new();
    for stages in queries {
        for (number, stage) in (0..).zip(&stages) {
            let is_valid = !stage.tasks_ms.is_empty()
                && stage.tasks_ms.iter().all(|ms| (0.0..=86_400_000.0).contains(ms))
                && stage.inputs.iter().all(|&input| input < number);
            if !is_valid {
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
    Ok(all)
}
