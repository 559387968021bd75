//! Writes: where a statement's files go, and how they become visible.
//!
//! ```text
//! resolve ---> begin ---> workers write ---> publish ---> clean up
//!  INSERT       <target>/_squadron/<query>     |            the staging folder, always
//!  or COPY      is made                        '-- renamed or copied to their places, all or none
//! ```
//!
//! Until [`Write::publish`] nothing is where a reader looks. A [`Write`] that is dropped before, because the query failed
//! or its client went away, removes what attempts left behind.

mod destination;
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

pub use destination::{Destination, resolve};
use folder_locks::Places;
pub use folder_locks::Reading;
use staging::Staging;

/// The folder of files that are not published, in the folder that they are for. Readers skip it, as they skip every name
/// that begins with `_`.
pub const STAGING_FOLDER: &str = "_squadron";

/// All writes of a server; clones share them.
#[derive(Clone, Debug)]
pub struct Writes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    places: Places,
    active: AtomicUsize,
    runtime: Handle,
    /// Publications and removals, which nobody may interrupt but the end of the server.
    tasks: Mutex<JoinSet<()>>,
}

impl Writes {
    /// Publications and removals run on `runtime`.
    pub fn new(runtime: Handle) -> Self {
        Self(Arc::new(Inner {
            places: Places::default(),
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
        let staging = Staging::make(&destination).await?;
        self.0.active.fetch_add(1, Ordering::Relaxed);
        Ok(Write {
            destination,
            staging,
            writes: self.clone(),
            succeeded: false,
        })
    }

    /// Waits until no statement is just being published to where `plan` reads, and holds further ones up for as long as the
    /// answer lives: what is planned meanwhile sees all files of a statement or none.
    ///
    /// # Errors
    /// When the plan cannot be walked.
    pub async fn reading(&self, plan: &LogicalPlan) -> Result<Reading, Failure> {
        let places = folder_locks::read_by(plan).map_err(|error| squadron_shuffle::failure::of(&error))?;
        Ok(self.0.places.read(places).await)
    }

    /// Writes that are not published, removed or failed yet.
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
    /// Where the plan writes, and what it must look like for that.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// Puts `files` in their places. Returns their rows. Once begun it goes on to its end, also when nobody waits for it.
    ///
    /// # Errors
    /// Why it did not come about; none of the files is visible then.
    pub async fn publish(mut self, files: Vec<StagedFile>) -> Result<u64, Failure> {
        let (tell, told) = oneshot::channel();
        let writes = self.writes.clone();
        writes.spawn(async move {
            let places = &self.writes.0.places;
            let outcome = publish::publish(&self.destination, places, files).await;
            self.succeeded = outcome.is_ok();
            self.staging.remove(self.succeeded).await;
            drop(self);
            // A client that went away is not told.
            let _ = tell.send(outcome);
        });
        told.await.unwrap_or_else(|_| {
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
                staging.remove_for_good().await;
            }
            staging.sweep().await;
        });
        self.writes.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}
