//! `system.workers` and `system.groups`.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::error::Result;
use squadron_proto::WorkerKind;
use squadron_scheduler::GroupLoad;

use super::rows::Columns;
use crate::driver::Snapshot;
use crate::driver::workers::WorkerInfo;

pub(super) fn workers(workers: &[WorkerInfo]) -> Result<RecordBatch> {
    Columns::new(workers)
        .text("worker_id", |worker| worker.id.to_string())
        .text("kind", |worker| match worker.kind {
            WorkerKind::Embedded => "embedded",
            WorkerKind::Remote => "remote",
            WorkerKind::Local => "local",
        })
        .text("address", |worker| worker.address.as_str())
        .text("state", |worker| match worker {
            _ if worker.suspected => "suspect",
            _ if worker.draining => "draining",
            _ if worker.avoided => "avoided",
            _ => "active",
        })
        .count("slots", |worker| u64::from(worker.slots))
        .count("used_slots", |worker| u64::from(worker.used_slots))
        .count("running_attempts", |worker| u64::from(worker.running))
        .count("stopping_attempts", |worker| worker.stopping as u64)
        .count("failures", |worker| worker.failures)
        .count("memory_bytes", |worker| worker.memory_bytes)
        .count("memory_used_bytes", |worker| worker.last_heartbeat.memory_used_bytes)
        .count("shuffle_bytes", |worker| worker.last_heartbeat.shuffle_bytes)
        .count("resident_bytes", |worker| worker.last_heartbeat.resident_bytes)
        .count("disk_bytes", |worker| worker.last_heartbeat.disk_bytes)
        .text("version", |worker| worker.version.as_str())
        .batch()
}

/// A group with the slots that its queries hold.
pub(super) struct GroupRow {
    name: Arc<str>,
    load: GroupLoad,
    held_slots: u64,
}

pub(super) fn group_rows(snapshot: &Snapshot) -> Vec<GroupRow> {
    let row = |(position, (name, load)): (usize, &(Arc<str>, GroupLoad))| {
        let below = format!("{name}.");
        // The first group is the server, which holds all queries.
        let is_in = |group: &str| position == 0 || group == &**name || group.starts_with(&below);
        let own = snapshot.queries.iter().filter(|query| is_in(&query.group));
        GroupRow {
            name: Arc::clone(name),
            load: *load,
            held_slots: own.map(|query| query.held_slots).sum(),
        }
    };
    snapshot.groups.iter().enumerate().map(row).collect()
}

pub(super) fn groups(groups: &[GroupRow]) -> Result<RecordBatch> {
    Columns::new(groups)
        .text("name", |group| &*group.name)
        .count("running", |group| group.load.running as u64)
        .count("queued", |group| group.load.queued as u64)
        .count("held_slots", |group| group.held_slots)
        .count("reserved_memory_bytes", |group| group.load.memory_bytes)
        .batch()
}
