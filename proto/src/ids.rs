//! Names of queries, stages, tasks, attempts and workers.
//!
//! ```text
//! query ── stage ── task ── attempt        AttemptKey = all four, on every report, ticket and file
//! ```

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use uuid::Uuid;

use crate::{Malformed, wire::control as wire};

/// One execution of one statement: a UUIDv7, so ids sort by their time of creation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueryId(Uuid);

/// One run of one worker process, or one embedded worker.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(Uuid);

macro_rules! uuid_id {
    ($name:ident, $what:literal) => {
        impl $name {
            /// A fresh id.
            #[allow(clippy::new_without_default, reason = "each call gives another value")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// An id with a given number, for tests and simulations that must be reproducible.
            pub const fn from_u128(number: u128) -> Self {
                Self(Uuid::from_u128(number))
            }

            /// The 16 bytes of the wire form.
            pub fn to_bytes(self) -> bytes::Bytes {
                bytes::Bytes::copy_from_slice(self.0.as_bytes())
            }

            /// Reads the wire form.
            ///
            /// # Errors
            /// When there are not exactly 16 bytes.
            pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
                Uuid::from_slice(bytes)
                    .map(Self)
                    .map_err(|_| Malformed::new($what))
            }
        }

        /// 36 lower-case characters.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = Malformed;

            fn from_str(text: &str) -> Result<Self, Malformed> {
                Uuid::try_parse(text).map(Self).map_err(|_| Malformed::new($what))
            }
        }
    };
}

uuid_id!(QueryId, "query id");
uuid_id!(WorkerId, "worker id");

impl QueryId {
    /// When the id was created, to the millisecond; none for an id that holds no time.
    pub fn created_at(self) -> Option<SystemTime> {
        let (seconds, nanoseconds) = self.0.get_timestamp()?.to_unix();
        SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds))
    }
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u32);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_id!(
    /// A stage within its query; stages are numbered so that a producer comes before its consumers.
    StageId
);
number_id!(
    /// A task within its stage.
    TaskId
);
number_id!(
    /// Which try at a task, from 0.
    AttemptNumber
);

/// The full name of one try at one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttemptKey {
    /// Of which query.
    pub query: QueryId,
    /// Of which stage.
    pub stage: StageId,
    /// Which task of the stage.
    pub task: TaskId,
    /// Which try at the task.
    pub attempt: AttemptNumber,
}

/// `query/stage.task.attempt`
impl fmt::Display for AttemptKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}.{}.{}", self.query, self.stage, self.task, self.attempt)
    }
}

impl From<AttemptKey> for wire::AttemptKey {
    fn from(key: AttemptKey) -> Self {
        Self {
            query: key.query.to_bytes(),
            stage: key.stage.0,
            task: key.task.0,
            attempt: key.attempt.0,
        }
    }
}

impl TryFrom<wire::AttemptKey> for AttemptKey {
    type Error = Malformed;

    fn try_from(key: wire::AttemptKey) -> Result<Self, Malformed> {
        Ok(Self {
            query: QueryId::from_bytes(&key.query)?,
            stage: StageId(key.stage),
            task: TaskId(key.task),
            attempt: AttemptNumber(key.attempt),
        })
    }
}
