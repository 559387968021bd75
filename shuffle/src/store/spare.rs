//! Output that nobody needs, kept as long as there is room: when other output is lost, what it was made of may still be
//! here. The oldest goes first, and none that is being read.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use squadron_proto::AttemptKey;

/// An output is held by the store and by the spares; every reader and writer holds it too.
const UNUSED_HOLDERS: usize = 2;

/// Output that nobody needs.
pub(crate) trait SpareOutput: Debug + Send + Sync {
    fn key(&self) -> AttemptKey;

    /// Frees its rows.
    fn give_way(&self);
}

#[derive(Debug, Default)]
pub(crate) struct Spares {
    outputs: Mutex<VecDeque<Arc<dyn SpareOutput>>>,
    /// The keys of outputs that gave way; [`Spares::take_dropped`] hands them to the control loop, which reports them.
    dropped: Mutex<Vec<AttemptKey>>,
    has_dropped: AtomicBool,
}

impl Spares {
    pub(super) fn add(&self, output: Arc<dyn SpareOutput>) {
        let mut outputs = lock(&self.outputs);
        if !outputs.iter().any(|known| known.key() == output.key()) {
            outputs.push_back(output);
        }
    }

    /// Frees the rows of one output. Returns whether there was one.
    pub(crate) fn give_way(&self) -> bool {
        let oldest = {
            let mut outputs = lock(&self.outputs);
            let unused = outputs.iter().position(is_unused);
            unused.and_then(|position| outputs.remove(position))
        };
        let Some(output) = oldest else {
            return false;
        };
        output.give_way();
        lock(&self.dropped).push(output.key());
        self.has_dropped.store(true, Ordering::Release);
        true
    }

    /// The outputs that are not being read.
    pub(super) fn unused(&self) -> Vec<AttemptKey> {
        let outputs = lock(&self.outputs);
        let unused = outputs.iter().filter(|output| is_unused(output));
        unused.map(|output| output.key()).collect()
    }

    /// The store does not have this output any more.
    pub(super) fn forget(&self, gone: AttemptKey) {
        lock(&self.outputs).retain(|output| output.key() != gone);
    }

    /// What gave way since the last call.
    pub(super) fn take_dropped(&self) -> Vec<AttemptKey> {
        match self.has_dropped.swap(false, Ordering::Acquire) {
            true => std::mem::take(&mut *lock(&self.dropped)),
            false => Vec::new(),
        }
    }
}

fn is_unused(output: &Arc<dyn SpareOutput>) -> bool {
    Arc::strong_count(output) <= UNUSED_HOLDERS
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
