//! Watches the memory of the process, which is more than the memory pool knows of.
//!
//! ```text
//! anonymous <= pool + overhead       operators get what the pool has, less what is unknown to it
//!           >  pool + overhead       rows that wait for their readers go to disk; plans that stream their rows wait, if
//!                                    there are results that nobody reads
//!           >  ... for 1.5 s         of the results that nobody reads, the newest is given up
//!           >  ... by much for 2 s   the newest query ends with an error that says so
//! ```
//!
//! Decoders, encoders, results of functions and packets are not charged one by one. What they hold together is the
//! anonymous memory without what the pool has given out and without the process itself.

use std::fs;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use squadron_proto::{Failure, FailureKind};
use tracing::warn;

use crate::allocator::FreedMemory;
use crate::memory::{Room, Shares};

/// How often the anonymous memory is read.
const INTERVAL: Duration = Duration::from_millis(20);

/// What a process needs beside the pool and the pages of its binary (about 100 MiB): tables of the allocator, decoders and
/// encoders of a few batches.
const OVERHEAD_BYTES: usize = 20 * 1024 * 1024;

/// A result that nobody reads holds what its plan has decoded. It is given up when the process has been beyond pool and
/// overhead for so long; what the one before held is back with the system by then.
const UNREAD_PATIENCE: Duration = Duration::from_millis(1500);

/// A query ends when the process has for so long been beyond pool and overhead by one part in so many of the pool, and by
/// so many bytes at least: small pools are exceeded easily, and do no harm.
const PATIENCE: Duration = Duration::from_secs(2);
const EXCESS_SHARE: usize = 4;
const EXCESS_BYTES: usize = 256 * 1024 * 1024;

/// Watches from a thread of its own, which ends with `shares`. Where the system does not tell the anonymous memory,
/// nobody watches.
///
/// # Errors
/// When the thread cannot be started.
pub(crate) fn watch(shares: &Arc<Shares>) -> Result<(), Failure> {
    let mut guard = Guard {
        shares: Arc::downgrade(shares),
        exceeded: None,
        far_exceeded: None,
        freed: FreedMemory::default(),
    };
    let thread = std::thread::Builder::new().name("squadron-guard".to_owned());
    let started = thread.spawn(move || {
        while guard.look() {
            std::thread::sleep(INTERVAL);
        }
    });
    started
        .map(drop)
        .map_err(|error| Failure::new(FailureKind::Exhausted, format!("a thread cannot be started: {error}")))
}

/// The resident memory of this process, in bytes.
pub(crate) fn resident_bytes() -> Option<usize> {
    status_bytes("VmRSS:")
}

/// The same without pages of files, which the system takes back when it needs them.
fn anonymous_bytes() -> Option<usize> {
    status_bytes("RssAnon:")
}

fn status_bytes(name: &str) -> Option<usize> {
    // In KiB, unlike /proc/self/statm, which counts pages of a size that it does not tell.
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

struct Guard {
    shares: Weak<Shares>,
    /// Since when the process has been beyond its memory.
    exceeded: Option<Instant>,
    /// Since when it has been far beyond.
    far_exceeded: Option<Instant>,
    freed: FreedMemory,
}

impl Guard {
    /// Looks once. Returns whether to look again.
    fn look(&mut self) -> bool {
        let (Some(shares), Some(held)) = (self.shares.upgrade(), anonymous_bytes()) else {
            return false;
        };
        let pool = shares.limit_bytes();
        let limit = pool.saturating_add(OVERHEAD_BYTES);
        // What the pool has given out may not be touched yet, so this is the least that the rest holds.
        let unknown = held
            .saturating_sub(shares.reserved_bytes())
            .saturating_sub(OVERHEAD_BYTES);
        shares.set_unknown(unknown);
        let excess = held.saturating_sub(limit);
        let room = match held {
            held if held > limit => Room::Exceeded,
            held if held > limit / 2 => Room::Scarce,
            _ => Room::Plenty,
        };
        shares.set_room(room);
        self.freed.adapt(room);
        if excess > 0 {
            shares.make_room(excess);
        }
        if has_lasted(&mut self.exceeded, excess > 0, UNREAD_PATIENCE) {
            let message = format!(
                "this result was given up, since nobody was reading it and the process holds {} MiB, more than its --memory \
                 of {} MiB and what it needs beside it: read results soon, or raise --memory",
                held >> 20,
                pool >> 20,
            );
            if shares.end_newest_unread(&Failure::new(FailureKind::Exhausted, message)) {
                warn!(
                    held_mib = held >> 20,
                    "memory is short: a result that nobody reads was given up"
                );
            }
        }
        let is_far = excess > EXCESS_BYTES.max(pool / EXCESS_SHARE);
        if has_lasted(&mut self.far_exceeded, is_far, PATIENCE) {
            let message = format!(
                "this process holds {} MiB, more than its --memory of {} MiB and what it needs beside it; the newest \
                 query was ended: run fewer queries at once, or larger machines with a smaller --memory",
                held >> 20,
                pool >> 20,
            );
            warn!("{message}");
            shares.end_newest(&Failure::new(FailureKind::Exhausted, message));
        }
        true
    }
}

/// Whether a condition has held for `patience` by now; if so, it begins anew.
fn has_lasted(since: &mut Option<Instant>, holds: bool, patience: Duration) -> bool {
    if !holds {
        *since = None;
        return false;
    }
    let has_lasted = since.get_or_insert_with(Instant::now).elapsed() >= patience;
    if has_lasted {
        *since = None;
    }
    has_lasted
}
