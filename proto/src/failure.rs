//! Why something ended without success: the one taxonomy that the scheduler, the wire and the client share.
//!
//! A kind decides two things, each in one place: whether another attempt may succeed ([`FailureKind::is_retryable`]),
//! and the gRPC code that clients see ([`FailureKind::grpc_code`]).

use std::any::Any;
use std::fmt;

use tonic::Code;

use crate::AttemptKey;
use crate::wire::control as wire;

/// What kind of failure, which decides both whether the scheduler retries and which gRPC status the client sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The statement or its data is wrong: syntax, types, a cast, division by zero.
    Invalid,
    /// A table, handle or result that does not exist (any more).
    NotFound,
    /// A feature that Squadron does not have.
    Unsupported,
    /// No valid credentials.
    Unauthenticated,
    /// Valid credentials that do not allow this request.
    Denied,
    /// Memory or a queue is full, or something is larger than allowed.
    Exhausted,
    /// It was stopped: by its client, by an administrator, or because no reader was left.
    Cancelled,
    /// It took longer than its time limit.
    Deadline,
    /// A worker died or was cut off.
    WorkerLost,
    /// A producer's output is gone or cannot be reached.
    ShuffleLost,
    /// The process is shutting down.
    Draining,
    /// An object store or file system did not answer as it should; the same request may succeed later.
    Storage,
    /// A bug in Squadron.
    Internal,
    /// A queue or a share of the server is full; the same statement may succeed later.
    Busy,
    /// The local disk of one process is full, or its limit is reached; another process may have room.
    DiskFull,
}

/// A failure as it travels between processes and ends at the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Decides status and retry.
    pub kind: FailureKind,
    /// A sentence that names what was wrong and what to do.
    pub message: String,
    /// The outputs that could not be read, where that is the cause: of `ShuffleLost` they are gone, of `WorkerLost` their
    /// worker cannot be reached.
    pub lost: Vec<AttemptKey>,
}

impl Failure {
    /// A failure of `kind` whose message is `message`.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            lost: Vec::new(),
        }
    }

    /// The same failure, which names the outputs that could not be read.
    #[must_use]
    pub fn of_outputs(self, lost: Vec<AttemptKey>) -> Self {
        Self { lost, ..self }
    }

    /// A failure that is a bug in Squadron.
    pub fn internal(message: impl fmt::Display) -> Self {
        Self::new(FailureKind::Internal, message.to_string())
    }
}

impl FailureKind {
    /// The kind that has this [`FailureKind::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// In lower case, for tables and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::Unsupported => "unsupported",
            Self::Unauthenticated => "unauthenticated",
            Self::Denied => "denied",
            Self::Exhausted => "exhausted",
            Self::Cancelled => "cancelled",
            Self::Deadline => "deadline",
            Self::WorkerLost => "worker_lost",
            Self::ShuffleLost => "shuffle_lost",
            Self::Draining => "draining",
            Self::Storage => "storage",
            Self::Internal => "internal",
            Self::Busy => "busy",
            Self::DiskFull => "disk_full",
        }
    }

    const ALL: [Self; 15] = [
        Self::Invalid,
        Self::NotFound,
        Self::Unsupported,
        Self::Unauthenticated,
        Self::Denied,
        Self::Exhausted,
        Self::Cancelled,
        Self::Deadline,
        Self::WorkerLost,
        Self::ShuffleLost,
        Self::Draining,
        Self::Storage,
        Self::Internal,
        Self::Busy,
        Self::DiskFull,
    ];

    fn number(self) -> u32 {
        self as u32 + 1
    }

    /// An unknown number is a bug of its sender, hence internal.
    fn from_number(number: u32) -> Self {
        Self::ALL
            .into_iter()
            .find(|kind| kind.number() == number)
            .unwrap_or(Self::Internal)
    }

    /// Whether another attempt may succeed where this one failed.
    pub fn is_retryable(self) -> bool {
        match self {
            Self::WorkerLost | Self::ShuffleLost | Self::Draining | Self::Storage | Self::Busy | Self::DiskFull => true,
            Self::Invalid
            | Self::NotFound
            | Self::Unsupported
            | Self::Unauthenticated
            | Self::Denied
            | Self::Exhausted
            | Self::Cancelled
            | Self::Deadline
            | Self::Internal => false,
        }
    }

    /// The gRPC code that clients and other processes see.
    ///
    /// `FailedPrecondition`, `OutOfRange` and `Aborted` are avoided: ADBC flattens them to an unknown error.
    pub fn grpc_code(self) -> Code {
        match self {
            Self::Invalid => Code::InvalidArgument,
            Self::NotFound => Code::NotFound,
            Self::Unsupported => Code::Unimplemented,
            Self::Unauthenticated => Code::Unauthenticated,
            Self::Denied => Code::PermissionDenied,
            Self::Exhausted | Self::DiskFull => Code::ResourceExhausted,
            Self::Cancelled => Code::Cancelled,
            Self::Deadline => Code::DeadlineExceeded,
            Self::WorkerLost | Self::ShuffleLost | Self::Draining | Self::Busy | Self::Storage => Code::Unavailable,
            Self::Internal => Code::Internal,
        }
    }
}

/// What a panic said, if it was text.
pub fn panic_message(panic: &(dyn Any + Send)) -> Option<&str> {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    panic.downcast_ref::<&str>().copied().or(text)
}

impl From<Failure> for wire::Failure {
    fn from(failure: Failure) -> Self {
        Self {
            kind: failure.kind.number(),
            message: failure.message,
            lost: failure.lost.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<wire::Failure> for Failure {
    fn from(failure: wire::Failure) -> Self {
        // A name that cannot be read names nothing: the failure itself still counts.
        let lost = failure.lost.into_iter().filter_map(|key| key.try_into().ok());
        Self::new(FailureKind::from_number(failure.kind), failure.message).of_outputs(lost.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AttemptNumber, QueryId, StageId, TaskId};

    #[test]
    fn kinds_round_trip_through_wire() {
        for kind in FailureKind::ALL {
            let lost = AttemptKey {
                query: QueryId::from_u128(1),
                stage: StageId(2),
                task: TaskId(3),
                attempt: AttemptNumber(4),
            };
            let failure = Failure::new(kind, "because").of_outputs(vec![lost]);
            let wire = wire::Failure::from(failure.clone());
            assert_eq!(Failure::from(wire), failure);
        }
    }

    #[test]
    fn unknown_kind_becomes_internal() {
        let wire = wire::Failure {
            kind: 99,
            message: "new".into(),
            lost: Vec::new(),
        };
        assert_eq!(Failure::from(wire).kind, FailureKind::Internal);
    }

    #[test]
    fn full_disk_may_be_tried_elsewhere_and_is_no_transient_error_for_clients() {
        assert!(FailureKind::DiskFull.is_retryable());
        assert_eq!(FailureKind::DiskFull.grpc_code(), Code::ResourceExhausted);
    }

    #[test]
    fn transient_kinds_map_to_unavailable() {
        for kind in [FailureKind::WorkerLost, FailureKind::Draining, FailureKind::Busy] {
            assert_eq!(kind.grpc_code(), Code::Unavailable);
        }
    }
}
