//! Writes: where the files of INSERT and COPY go, and how they become visible.
//!
//! ```text
//! resolve ---> begin ---> workers write ---> publish ---> clean up
//!  INSERT       <target>/_squadron/<query>     |            the staging folder, always
//!  or COPY      is made                        '-- renamed or copied into place, all files or none
//! ```
//!
//! Until [`Write::publish`] readers see none of the files. A [`Write`] that is dropped before, because the query failed
//! or its client disconnected, removes the files of its attempts.

mod destination;
mod durable;
mod folder_locks;
mod publish;
mod staging;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::logical_expr::LogicalPlan;
use squadron_proto::{Failure, FailureKind};
use squadron_shuffle::StagedFile;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

pub use destination::{Destination, STAGING_FOLDER, resolve};
use folder_locks::FolderLocks;
pub use folder_locks::ReadGuard;
use staging::Staging;

/// All writes of a server; clones share them.
#[derive(Clone, Debug)]
pub struct Writes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    locks: FolderLocks,
    active: AtomicUsize,
    runtime: Handle,
    /// Publications and removals; only the end of the server interrupts them.
    tasks: Mutex<JoinSet<()>>,
}

impl Writes {
    /// Publications and removals run on `runtime`.
    pub fn new(runtime: Handle) -> Self {
        Self(Arc::new(Inner {
            locks: FolderLocks::default(),
            active: AtomicUsize::new(0),
            runtime,
            tasks: Mutex::default(),
        }))
    }

    /// Makes the staging folder.
    ///
    /// # Errors
    /// When the target cannot be written to.
    pub async fn begin(&self, destination: Destination) -> Result<Write, Failure> {
        let staging = Staging::create(&destination).await?;
        self.0.active.fetch_add(1, Ordering::Relaxed);
        Ok(Write {
            destination,
            staging,
            writes: self.clone(),
            succeeded: false,
        })
    }

    /// Waits until no statement is being published into the folders that `plan` reads, and holds up further
    /// publications while the guard lives: a plan that is made meanwhile sees all files of a statement or none.
    ///
    /// # Errors
    /// When the plan cannot be walked.
    pub async fn lock_for_planning(&self, plan: &LogicalPlan) -> Result<ReadGuard, Failure> {
        let paths = folder_locks::find_scanned_paths(plan).map_err(|error| squadron_shuffle::failure::of(&error))?;
        Ok(self.0.locks.lock_for_planning(paths).await)
    }

    /// The number of writes that are not published, removed or failed yet.
    pub fn active(&self) -> usize {
        self.0.active.load(Ordering::Relaxed)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(task, &self.0.runtime);
    }
}

/// One statement's files, until they are published or removed.
#[derive(Debug)]
pub struct Write {
    destination: Destination,
    staging: Staging,
    writes: Writes,
    succeeded: bool,
}

impl Write {
    /// Where the plan writes, and the form that the plan needs for it.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// Makes `files` visible and returns their rows. Once begun, a publication goes on to its end even if the caller is
    /// cancelled.
    ///
    /// # Errors
    /// When the publication failed; none of the files is visible then.
    pub async fn publish(mut self, files: Vec<StagedFile>) -> Result<u64, Failure> {
        let (sender, receiver) = oneshot::channel();
        let writes = self.writes.clone();
        writes.spawn(async move {
            let locks = &self.writes.0.locks;
            let outcome = publish::publish(&self.destination, locks, files).await;
            self.succeeded = outcome.is_ok();
            self.staging.remove(self.succeeded).await;
            drop(self);
            // The caller may have been cancelled.
            let _ = sender.send(outcome);
        });
        receiver.await.unwrap_or_else(|_| {
            Err(Failure::new(
                FailureKind::Draining,
                "the server ended while files were published; see which are there",
            ))
        })
    }
}

impl Drop for Write {
    fn drop(&mut self) {
        let (staging, succeeded) = (self.staging.clone(), self.succeeded);
        self.writes.spawn(async move {
            if !succeeded {
                staging.remove_repeatedly().await;
            }
            staging.sweep().await;
        });
        self.writes.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}
