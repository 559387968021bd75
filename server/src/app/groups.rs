//! Keeps the resource groups as the file of `--groups` says, without a restart: it is read again when it changes and on
//! SIGHUP. A file with a mistake changes nothing.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use squadron_proto::{Failure, FailureKind};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::group_file::read_groups;
use crate::driver::SchedulerHandle;

/// How often to look whether the file has changed.
const POLL: Duration = Duration::from_secs(1);

/// Reads the groups for the first time.
///
/// # Errors
/// What is wrong with the file.
pub(super) async fn load(path: &Path, scheduler: &SchedulerHandle) -> Result<(), Failure> {
    let groups = read_groups(path).map_err(|sentence| Failure::new(FailureKind::Invalid, sentence))?;
    scheduler.regroup(groups).await;
    Ok(())
}

/// Reads them again whenever there is reason to, until `stop`.
pub(super) async fn watch(path: PathBuf, scheduler: SchedulerHandle, stop: CancellationToken) {
    let mut hangups = Hangups::new();
    let mut seen = version(&path).await;
    loop {
        let is_asked_for = tokio::select! {
            () = stop.cancelled() => return,
            () = hangups.next() => true,
            () = tokio::time::sleep(POLL) => false,
        };
        let found = version(&path).await;
        if found == seen && !is_asked_for {
            continue;
        }
        seen = found;
        match load(&path, &scheduler).await {
            Ok(()) => info!(file = %path.display(), "resource groups read again"),
            Err(failure) => warn!("resource groups stay as they were: {failure}"),
        }
    }
}

/// Differs when the file was written to; none where it cannot be read.
async fn version(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = tokio::fs::metadata(path).await.ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

#[cfg(unix)]
struct Hangups(Option<tokio::signal::unix::Signal>);

#[cfg(unix)]
impl Hangups {
    fn new() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        Self(signal(SignalKind::hangup()).ok())
    }

    async fn next(&mut self) {
        let heard = match &mut self.0 {
            Some(signal) => signal.recv().await,
            None => None,
        };
        if heard.is_none() {
            std::future::pending().await
        }
    }
}

#[cfg(not(unix))]
struct Hangups;

#[cfg(not(unix))]
impl Hangups {
    fn new() -> Self {
        Self
    }

    async fn next(&mut self) {
        std::future::pending().await
    }
}
