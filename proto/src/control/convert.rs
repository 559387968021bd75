//! Conversions between the domain types of [`super`] and their wire form. Outbound ones fail for in-process plans only;
//! inbound ones fail for every message that lacks a field.

use super::{
    AttemptStatus, Challenge, Heartbeat, Lane, Launch, ObjectStoreSpec, OperatorMetrics, OutputMode, PartitionOutput,
    PlanRef, Producer, Registered, Registration, Release, Report, ScanSplits, ServerMessage, Stage, StageInput,
    TaskMetrics, TaskOutput, WorkerMessage,
};
use crate::{AttemptKey, AttemptNumber, Malformed, QueryId, StageId, TaskId, WorkerId, wire::control as wire};

type Outcome<T> = Result<T, Malformed>;

fn require_key(key: Option<wire::AttemptKey>) -> Outcome<AttemptKey> {
    key.ok_or(Malformed::new("message without an attempt key"))?.try_into()
}

fn settings_to_wire(settings: Vec<(String, String)>) -> Vec<wire::Setting> {
    settings
        .into_iter()
        .map(|(key, value)| wire::Setting { key, value })
        .collect()
}

fn settings_from_wire(settings: Vec<wire::Setting>) -> Vec<(String, String)> {
    settings
        .into_iter()
        .map(|setting| (setting.key, setting.value))
        .collect()
}

impl TryFrom<ServerMessage> for wire::ServerMessage {
    type Error = Malformed;

    /// Fails on a [`PlanRef::InProcess`], which cannot leave its process.
    fn try_from(message: ServerMessage) -> Outcome<Self> {
        use wire::server_message::Message;
        let message = match message {
            ServerMessage::Challenge(challenge) => Message::Challenge(wire::Challenge {
                nonce: challenge.nonce,
                protocol_version: challenge.protocol_version,
                server_version: challenge.server_version,
            }),
            ServerMessage::Registered(registered) => Message::Registered(wire::Registered {
                ticket_key: registered.ticket_key,
                heartbeat_interval_ms: registered.heartbeat_interval_ms,
                keep_ms: registered.keep_ms,
            }),
            ServerMessage::Stage(stage) => Message::Stage(stage.try_into()?),
            ServerMessage::Launch(launch) => Message::Launch(launch.into()),
            ServerMessage::Commit(attempt) => Message::Commit(wire::Commit {
                attempt: Some(attempt.into()),
            }),
            ServerMessage::Cancel(attempt) => Message::Cancel(wire::Cancel {
                attempt: Some(attempt.into()),
            }),
            ServerMessage::Release(release) => Message::Release(wire::Release {
                query: release.query.to_bytes(),
                stages: release.stages.into_iter().map(|stage| stage.0).collect(),
            }),
            ServerMessage::Spare(query, stage) => Message::Spare(wire::Spare {
                query: query.to_bytes(),
                stage: stage.0,
            }),
            ServerMessage::QueryFailed(query, failure) => Message::QueryFailed(wire::QueryFailed {
                query: query.to_bytes(),
                failure: Some(failure.into()),
            }),
            ServerMessage::Acknowledge(sequence) => Message::Acknowledge(wire::Acknowledge { sequence }),
            ServerMessage::Drain => Message::Drain(wire::Drain {}),
        };
        Ok(Self { message: Some(message) })
    }
}

impl TryFrom<wire::ServerMessage> for ServerMessage {
    type Error = Malformed;

    fn try_from(message: wire::ServerMessage) -> Outcome<Self> {
        use wire::server_message::Message;
        let message = message.message.ok_or(Malformed::new("empty server message"))?;
        Ok(match message {
            Message::Challenge(challenge) => Self::Challenge(Challenge {
                nonce: challenge.nonce,
                protocol_version: challenge.protocol_version,
                server_version: challenge.server_version,
            }),
            Message::Registered(registered) => Self::Registered(Registered {
                ticket_key: registered.ticket_key,
                heartbeat_interval_ms: registered.heartbeat_interval_ms,
                keep_ms: registered.keep_ms,
            }),
            Message::Stage(stage) => Self::Stage(stage.try_into()?),
            Message::Launch(launch) => Self::Launch(launch.try_into()?),
            Message::Commit(commit) => Self::Commit(require_key(commit.attempt)?),
            Message::Cancel(cancel) => Self::Cancel(require_key(cancel.attempt)?),
            Message::Release(release) => Self::Release(Release {
                query: QueryId::from_bytes(&release.query)?,
                stages: release.stages.into_iter().map(StageId).collect(),
            }),
            Message::Spare(spare) => Self::Spare(QueryId::from_bytes(&spare.query)?, StageId(spare.stage)),
            Message::QueryFailed(failed) => Self::QueryFailed(
                QueryId::from_bytes(&failed.query)?,
                failed
                    .failure
                    .ok_or(Malformed::new("failed query without a failure"))?
                    .into(),
            ),
            Message::Acknowledge(acknowledge) => Self::Acknowledge(acknowledge.sequence),
            Message::Drain(wire::Drain {}) => Self::Drain,
        })
    }
}

impl TryFrom<Stage> for wire::Stage {
    type Error = Malformed;

    fn try_from(stage: Stage) -> Outcome<Self> {
        let PlanRef::Encoded(plan) = stage.plan else {
            return Err(Malformed::new("plan reference that leaves its process"));
        };
        Ok(Self {
            query: stage.query.to_bytes(),
            stage: stage.stage.0,
            plan,
            settings: settings_to_wire(stage.settings),
            stores: stage
                .stores
                .into_iter()
                .map(|store| wire::ObjectStore {
                    url: store.url,
                    options: settings_to_wire(store.options),
                })
                .collect(),
            reserved_bytes: stage.reserved_bytes,
        })
    }
}

impl TryFrom<wire::Stage> for Stage {
    type Error = Malformed;

    fn try_from(stage: wire::Stage) -> Outcome<Self> {
        Ok(Self {
            query: QueryId::from_bytes(&stage.query)?,
            stage: StageId(stage.stage),
            plan: PlanRef::Encoded(stage.plan),
            settings: settings_from_wire(stage.settings),
            stores: stage
                .stores
                .into_iter()
                .map(|store| ObjectStoreSpec {
                    url: store.url,
                    options: settings_from_wire(store.options),
                })
                .collect(),
            reserved_bytes: stage.reserved_bytes,
        })
    }
}

impl From<Launch> for wire::Launch {
    fn from(launch: Launch) -> Self {
        Self {
            attempt: Some(launch.attempt.into()),
            slots: launch.slots,
            lane: launch.lane.number(),
            partitions: launch.partitions,
            scans: launch
                .scans
                .into_iter()
                .map(|scan| wire::ScanSplits {
                    scan: scan.scan,
                    file_groups: scan.file_groups,
                })
                .collect(),
            inputs: launch.inputs.iter().cloned().map(Into::into).collect(),
            output: match launch.output {
                OutputMode::Retained => wire::OutputMode::Retained,
                OutputMode::Streamed => wire::OutputMode::Streamed,
            }
            .into(),
        }
    }
}

impl TryFrom<wire::Launch> for Launch {
    type Error = Malformed;

    fn try_from(launch: wire::Launch) -> Outcome<Self> {
        let output = match wire::OutputMode::try_from(launch.output) {
            Ok(wire::OutputMode::Retained) => OutputMode::Retained,
            Ok(wire::OutputMode::Streamed) => OutputMode::Streamed,
            Ok(wire::OutputMode::Unspecified) | Err(_) => {
                return Err(Malformed::new("output mode"));
            }
        };
        Ok(Self {
            attempt: require_key(launch.attempt)?,
            slots: launch.slots,
            lane: Lane::from_number(launch.lane),
            partitions: launch.partitions,
            scans: launch
                .scans
                .into_iter()
                .map(|scan| ScanSplits {
                    scan: scan.scan,
                    file_groups: scan.file_groups,
                })
                .collect(),
            inputs: launch.inputs.into_iter().map(Into::into).collect(),
            output,
        })
    }
}

impl From<StageInput> for wire::StageInput {
    fn from(input: StageInput) -> Self {
        Self {
            stage: input.stage.0,
            producers: input
                .producers
                .into_iter()
                .map(|producer| wire::Producer {
                    task: producer.task.0,
                    attempt: producer.attempt.0,
                    address: producer.address,
                    partitions: producer.partitions,
                })
                .collect(),
        }
    }
}

impl From<wire::StageInput> for StageInput {
    fn from(input: wire::StageInput) -> Self {
        Self {
            stage: StageId(input.stage),
            producers: input
                .producers
                .into_iter()
                .map(|producer| Producer {
                    task: TaskId(producer.task),
                    attempt: AttemptNumber(producer.attempt),
                    address: producer.address,
                    partitions: producer.partitions,
                })
                .collect(),
        }
    }
}

impl From<WorkerMessage> for wire::WorkerMessage {
    fn from(message: WorkerMessage) -> Self {
        use wire::worker_message::Message;
        let message = match message {
            WorkerMessage::Register(registration) => Message::Register(wire::Register {
                protocol_version: registration.protocol_version,
                worker: registration.worker.to_bytes(),
                epoch: registration.epoch,
                flight_address: registration.flight_address,
                slots: registration.slots,
                memory_bytes: registration.memory_bytes,
                version: registration.version,
                proof: registration.proof,
            }),
            WorkerMessage::Heartbeat(heartbeat) => Message::Heartbeat(wire::Heartbeat {
                running_attempts: heartbeat.running_attempts,
                memory_used_bytes: heartbeat.memory_used_bytes,
                shuffle_bytes: heartbeat.shuffle_bytes,
                disk_bytes: heartbeat.disk_bytes,
                resident_bytes: heartbeat.resident_bytes,
            }),
            WorkerMessage::Report(report) => Message::Report(report.into()),
            WorkerMessage::Leaving => Message::Leaving(wire::Leaving {}),
            WorkerMessage::InventoryEnd => Message::InventoryEnd(wire::InventoryEnd {}),
        };
        Self { message: Some(message) }
    }
}

impl TryFrom<wire::WorkerMessage> for WorkerMessage {
    type Error = Malformed;

    fn try_from(message: wire::WorkerMessage) -> Outcome<Self> {
        use wire::worker_message::Message;
        let message = message.message.ok_or(Malformed::new("empty worker message"))?;
        Ok(match message {
            Message::Register(register) => Self::Register(Registration {
                protocol_version: register.protocol_version,
                worker: WorkerId::from_bytes(&register.worker)?,
                epoch: register.epoch,
                flight_address: register.flight_address,
                slots: register.slots,
                memory_bytes: register.memory_bytes,
                version: register.version,
                proof: register.proof,
            }),
            Message::Heartbeat(heartbeat) => Self::Heartbeat(Heartbeat {
                running_attempts: heartbeat.running_attempts,
                memory_used_bytes: heartbeat.memory_used_bytes,
                shuffle_bytes: heartbeat.shuffle_bytes,
                disk_bytes: heartbeat.disk_bytes,
                resident_bytes: heartbeat.resident_bytes,
            }),
            Message::Report(report) => Self::Report(report.try_into()?),
            Message::Leaving(wire::Leaving {}) => Self::Leaving,
            Message::InventoryEnd(wire::InventoryEnd {}) => Self::InventoryEnd,
        })
    }
}

impl From<Report> for wire::Report {
    fn from(report: Report) -> Self {
        use wire::report::Status;
        let status = match report.status {
            AttemptStatus::Reserved => Status::Reserved(wire::Reserved {}),
            AttemptStatus::Refused { reason } => Status::Refused(wire::Refused { reason }),
            AttemptStatus::Running => Status::Running(wire::Running {}),
            AttemptStatus::Parked => Status::Parked(wire::Parked {}),
            AttemptStatus::Resumed => Status::Resumed(wire::Resumed {}),
            AttemptStatus::Finished(output) => Status::Finished(output.into()),
            AttemptStatus::Failed(failure) => Status::Failed(failure.into()),
            AttemptStatus::Cancelled => Status::Cancelled(wire::Cancelled {}),
            AttemptStatus::Dropped => Status::Dropped(wire::Dropped {}),
        };
        Self {
            sequence: report.sequence,
            attempt: Some(report.attempt.into()),
            status: Some(status),
        }
    }
}

impl TryFrom<wire::Report> for Report {
    type Error = Malformed;

    fn try_from(report: wire::Report) -> Outcome<Self> {
        use wire::report::Status;
        let status = match report.status.ok_or(Malformed::new("report without status"))? {
            Status::Reserved(wire::Reserved {}) => AttemptStatus::Reserved,
            Status::Refused(refused) => AttemptStatus::Refused { reason: refused.reason },
            Status::Running(wire::Running {}) => AttemptStatus::Running,
            Status::Parked(wire::Parked {}) => AttemptStatus::Parked,
            Status::Resumed(wire::Resumed {}) => AttemptStatus::Resumed,
            Status::Finished(finished) => AttemptStatus::Finished(finished.into()),
            Status::Failed(failure) => AttemptStatus::Failed(failure.into()),
            Status::Cancelled(wire::Cancelled {}) => AttemptStatus::Cancelled,
            Status::Dropped(wire::Dropped {}) => AttemptStatus::Dropped,
        };
        Ok(Self {
            sequence: report.sequence,
            attempt: require_key(report.attempt)?,
            status,
        })
    }
}

impl From<TaskOutput> for wire::Finished {
    fn from(output: TaskOutput) -> Self {
        Self {
            partitions: output
                .partitions
                .into_iter()
                .map(|partition| wire::PartitionOutput {
                    partition: partition.partition,
                    rows: partition.rows,
                    bytes: partition.bytes,
                })
                .collect(),
            metrics: Some(wire::TaskMetrics {
                elapsed_us: output.metrics.elapsed_us,
                rows: output.metrics.rows,
                bytes: output.metrics.bytes,
                spilled_bytes: output.metrics.spilled_bytes,
                scanned_bytes: output.metrics.scanned_bytes,
                fetched_bytes: output.metrics.fetched_bytes,
                cpu_ns: output.metrics.cpu_ns,
                peak_memory_bytes: output.metrics.peak_memory_bytes,
                operators: output.metrics.operators.into_iter().map(Into::into).collect(),
            }),
        }
    }
}

impl From<OperatorMetrics> for wire::OperatorMetrics {
    fn from(metrics: OperatorMetrics) -> Self {
        Self {
            depth: metrics.depth,
            operator: metrics.operator,
            rows: metrics.rows,
            busy_ns: metrics.busy_ns,
            read_bytes: metrics.read_bytes,
            spilled_bytes: metrics.spilled_bytes,
            partitions: metrics.partitions,
            largest_partition_rows: metrics.largest_partition_rows,
            details: metrics.details,
        }
    }
}

impl From<wire::OperatorMetrics> for OperatorMetrics {
    fn from(metrics: wire::OperatorMetrics) -> Self {
        Self {
            depth: metrics.depth,
            operator: metrics.operator,
            rows: metrics.rows,
            busy_ns: metrics.busy_ns,
            read_bytes: metrics.read_bytes,
            spilled_bytes: metrics.spilled_bytes,
            partitions: metrics.partitions,
            largest_partition_rows: metrics.largest_partition_rows,
            details: metrics.details,
        }
    }
}

impl From<wire::Finished> for TaskOutput {
    fn from(finished: wire::Finished) -> Self {
        let metrics = finished.metrics.unwrap_or_default();
        Self {
            partitions: finished
                .partitions
                .into_iter()
                .map(|partition| PartitionOutput {
                    partition: partition.partition,
                    rows: partition.rows,
                    bytes: partition.bytes,
                })
                .collect(),
            metrics: TaskMetrics {
                elapsed_us: metrics.elapsed_us,
                rows: metrics.rows,
                bytes: metrics.bytes,
                spilled_bytes: metrics.spilled_bytes,
                scanned_bytes: metrics.scanned_bytes,
                fetched_bytes: metrics.fetched_bytes,
                cpu_ns: metrics.cpu_ns,
                peak_memory_bytes: metrics.peak_memory_bytes,
                operators: metrics.operators.into_iter().map(Into::into).collect(),
            },
        }
    }
}
