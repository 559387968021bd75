//! When plans that stream their rows to a client may start.
//!
//! Such a plan holds what it has decoded while its client does not read: the rows of a file are read by many thousands
//! at a time. As long as results wait for their clients and memory is scarce, plans start one after the other, each when the one
//! before has filled its output; and none starts while the process holds more than it may. Plans that read all their input
//! before their first row, as aggregates do, are not held back: their input is gone when they wait.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard, watch};

/// A plan that has not filled its output by then has a client that reads.
pub(crate) const START_TIME: Duration = Duration::from_millis(250);

/// How much of its memory the process holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Room {
    /// Less than a half.
    #[default]
    Plenty,
    /// More than a half.
    Scarce,
    /// More than it may.
    Exceeded,
}

/// Held while a plan starts.
#[derive(Debug)]
pub(crate) struct Start {
    _next_waits: OwnedMutexGuard<()>,
}

#[derive(Debug, Default)]
pub(super) struct Starts {
    room: watch::Sender<Room>,
    starting: Arc<Mutex<()>>,
}

impl Starts {
    /// Tells those that wait, also when nothing has changed: results may have been read meanwhile.
    pub(super) fn set_room(&self, room: Room) {
        self.room.send_replace(room);
    }

    /// Whether one may start at once, beside others.
    pub(super) fn is_free(&self, has_unread: impl Fn() -> bool) -> bool {
        *self.room.borrow() == Room::Plenty || !has_unread()
    }

    /// Waits until one may start while results wait for their clients and memory is scarce.
    pub(super) async fn wait(&self, has_unread: impl Fn() -> bool) -> Start {
        let start = Start {
            _next_waits: Arc::clone(&self.starting).lock_owned().await,
        };
        let may_start = |room: &Room| *room != Room::Exceeded || !has_unread();
        // The sender lives in `self`.
        let _ = self.room.subscribe().wait_for(may_start).await;
        start
    }
}
